"""Soups: averages of checkpoints, and how their ingredients are chosen."""

from hf_soups.soups.greedy import greedy
from hf_soups.soups.soup import Soup, Step
from hf_soups.soups.uniform import uniform

__all__ = ["Soup", "Step", "greedy", "uniform"]
