"""Cook: from what the user names to soup folders.

`run` checks the ingredients and goes through the methods; `one_soup` chooses, mixes, scores and writes one soup.
"""

from hf_soups.cooking.run import Cooked, CookResult, cook, print_result
from hf_soups.soups.options import METHODS, Options
from hf_soups.soups.registry import MethodInputs, methods, soup_method

__all__ = [
    "METHODS",
    "CookResult",
    "Cooked",
    "MethodInputs",
    "Options",
    "cook",
    "methods",
    "print_result",
    "soup_method",
]
