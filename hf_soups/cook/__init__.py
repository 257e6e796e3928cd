"""Cook: from what the user names to soup folders.

`pool` finds the checkpoints, `menu` has the methods, `kitchen` makes one soup, and `run` puts it together.
"""

from hf_soups.cook.menu import Options, menu
from hf_soups.cook.run import METHODS, Cooked, CookResult, cook, print_result

__all__ = ["METHODS", "CookResult", "Cooked", "Options", "cook", "menu", "print_result"]
