"""Soups: averages of checkpoints, and how their ingredients are chosen.

`methods` and `stock` have the soups that need no score, `search` the greedy one, `lines` those along a line from the
start, `trajectory` one run's checkpoints, `learned` coefficients by gradient; `soup` is what all of them give.
"""

from hf_soups.soups.methods.greedy import greedy
from hf_soups.soups.methods.lines import task_vectors, wise_ft
from hf_soups.soups.methods.model_stock import model_stock
from hf_soups.soups.methods.uniform import uniform
from hf_soups.soups.soup import Soup, Step

__all__ = ["Soup", "Step", "greedy", "model_stock", "task_vectors", "uniform", "wise_ft"]
