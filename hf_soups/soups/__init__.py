"""Soups: averages of checkpoints, and how their ingredients are chosen."""

from hf_soups.soups.methods import uniform
from hf_soups.soups.search import greedy
from hf_soups.soups.soup import Soup, Step

__all__ = ["Soup", "Step", "greedy", "uniform"]
