"""Cook: from what the user names to soup folders.

`pool` finds the checkpoints, `kitchen` makes one soup, and `run` puts it together.
"""

from hf_soups.cook.run import METHODS, Cooked, CookResult, cook, print_result

__all__ = ["METHODS", "CookResult", "Cooked", "cook", "print_result"]
