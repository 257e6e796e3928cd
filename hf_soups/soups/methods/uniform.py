"""The uniform soup: the mean of all ingredients."""

from __future__ import annotations

from collections.abc import Sequence

from hf_soups.checkpoint import Source, checkpoints_of
from hf_soups.soups.registry import MethodInputs, soup_method
from hf_soups.soups.soup import Soup


def uniform(ingredients: Sequence[Source]) -> Soup:
    """The mean of all ingredients: coefficient 1/k each. Nothing is read or checked before it is saved or scored.

    Source: Wortsman et al. 2022, arXiv:2203.05482, section 2.
    """
    members = checkpoints_of(ingredients)
    return Soup(members, (1 / len(members),) * len(members) if members else (), method="uniform")


@soup_method("uniform")
def _uniform(inputs: MethodInputs) -> Soup:
    return uniform(inputs.pool)
