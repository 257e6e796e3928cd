"""Cook: from what the user names to soup folders.

`pool` finds the checkpoints, `methods` has the methods, `kitchen` makes one soup, and `run` puts it together.
"""

from hf_soups.cook.run import METHODS, Cooked, CookResult, cook, print_result
from hf_soups.soups.registry import Options, methods

__all__ = ["METHODS", "CookResult", "Cooked", "Options", "cook", "methods", "print_result"]
