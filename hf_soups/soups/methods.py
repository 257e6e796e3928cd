"""Methods: which checkpoints make a soup. They know nothing of models, data or devices.

Uniform is the mean of all. In greedy, ingredients join one by one, best first, as long as the held-out score does
not fall; all it has is a score function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.soups.soup import Soup, Step, display_names


def uniform(ingredients: Sequence[Checkpoint]) -> Soup:
    """The mean of all ingredients: coefficient 1/k each. Nothing is read or checked before it is saved or scored.

    Source: Wortsman et al. 2022, arXiv:2203.05482, section 2.
    """
    members = tuple(ingredients)
    return Soup(members, (1 / len(members),) * len(members) if members else (), method="uniform")


def greedy(
    ingredients: Sequence[Checkpoint],
    score: Callable[[Soup], float],
    *,
    tie: Literal[">=", ">"] = ">=",
    on_step: Callable[[Step], None] | None = None,
) -> Soup:
    """The greedy soup: never below its best ingredient under `score`.

    Every ingredient is scored alone; then, from the best down, each joins the soup if the mean of the members and
    it scores at least as well as the members alone. A candidate is the last ingredient of the soup that `score`
    gets, so a scorer may keep the sum of the others.

    Args:
        ingredients: at least one; equal scores keep this order.
        score: higher is better; NaN counts as the worst and is recorded.
        tie: ">=" as in the paper (an equal score joins), or ">".
        on_step: called after each decision, for progress.
    Raises:
        InputError: if there is no ingredient or `tie` is unknown.
        HfSoupsError: if no ingredient alone has a score.
    Source: Wortsman et al. 2022, arXiv:2203.05482, recipe 1.
    """
    if tie not in (">=", ">"):
        raise InputError(f"tie is {tie!r}; expected '>=' (an equal score joins, as in the paper) or '>'.")
    names = display_names(ingredients)
    singles = [float(score(replace(uniform([c]), method="greedy"))) for c in ingredients]
    order = sorted(range(len(singles)), key=lambda i: -_comparable(singles[i]))  # stable: ties keep their order
    if not order:
        raise InputError("greedy needs at least one ingredient, got none.")
    best = singles[order[0]]
    if math.isnan(best):
        raise HfSoupsError(f"none of the {len(order)} ingredients has a score: all came out as NaN.")

    members: list[Checkpoint] = []
    steps: list[Step] = []
    for i in order:
        tried = uniform([*members, ingredients[i]])
        value = float(score(tried)) if members else best
        accepted = not members or (value >= best if tie == ">=" else value > best)  # False for NaN
        if accepted:
            members.append(ingredients[i])
            best = value
        steps.append(Step(names[i], value, best, accepted, len(tried.ingredients)))
        if on_step is not None:
            on_step(steps[-1])
    scores = {"score": best, "singles": {names[i]: singles[i] for i in order}}
    return replace(uniform(members), method="greedy", steps=tuple(steps), scores=scores)


def _comparable(score: float) -> float:
    return -math.inf if math.isnan(score) else score
