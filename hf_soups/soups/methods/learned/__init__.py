"""The learned soup: coefficients found by gradient descent, with the memory of two models for any number of them.

`mixture` streams weights and inner products, `descent` turns them into steps of the coefficients, `state` keeps
them over a kill, `method` is the loop.
"""

from hf_soups.soups.methods.learned.method import learned
from hf_soups.soups.methods.learned.steps import LearnedStep

__all__ = ["LearnedStep", "learned"]
