"""Cascades: the rule, plans and their simulation, the search, and the model that runs them."""

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Rule
from hf_soups.cascades.simulate import CascadePredictions

__all__ = ["NEVER", "CascadePredictions", "Frontier", "Plan", "Rule"]
