"""Cascades with what they answered: those in folders, and of each search the plan that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.cascades.frontier import Frontier, is_ensemble
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.report.page.reading import Answered
from hf_soups.weights.links import refuse_links_out

if TYPE_CHECKING:
    from hf_soups.cascades.running.config import CascadeConfig


@dataclass(frozen=True)
class Asked:
    """A cascade, and its answers where those of its members are at hand."""

    name: str  # its folder, or a plan such as preds/frontier.json#3
    plan: Plan
    answered: Answered | None = None  # the models that its members are among
    answers: CascadePredictions | None = None
    note: str = ""  # why there are no answers

    @property
    def role(self) -> str:
        """Of the rows that it answered."""
        return self.answered.role if self.answered is not None else "select"


def asked_cascades(folders: Sequence[Path], answered: Sequence[Answered]) -> tuple[Asked, ...]:
    """The cascades of the folders, then one for each search whose models none of them is made of.

    Raises:
        InputError: if a cascade's config cannot be used.
    """
    built = [_built(folder, answered) for folder in folders]
    used = [b.answered for b in built if b.answered is not None]
    return (*built, *_searched(a for a in answered if not any(a is u for u in used)))


def chosen_plan(frontier: Frontier) -> tuple[int, Plan] | None:
    """The cascade that a frontier stands for: the cheapest at the best single model's score, else the best one."""
    several = [(i, p) for i, p in enumerate(frontier.plans) if len(p.members) > 1 and not is_ensemble(p)]
    matching = [(i, p) for i, p in several if p.score >= frontier.best_single.score]
    if matching:
        return min(matching, key=lambda found: (found[1].average_cost, -found[1].score))
    return max(several, key=lambda found: (found[1].score, -found[1].average_cost), default=None)


def _searched(answered: Iterable[Answered]) -> Iterator[Asked]:
    for some in answered:
        found = chosen_plan(some.frontier)
        if found is not None:
            index, plan = found
            yield Asked(f"{some.name}#{index}", plan, some, plan.apply(some.shown))


def _built(folder: Path, answered: Sequence[Answered]) -> Asked:
    from hf_soups.cascades.running.config import read_cascade

    refuse_links_out(folder)
    config = read_cascade(folder)
    plan = config.built
    for some in answered:
        if _same_models(folder, config, some):
            return Asked(str(folder), plan, some, plan.apply(some.shown))
    note = (
        f"{folder}: no pool here holds what its members answered ({', '.join(plan.members)}), so that only the shares "
        "of the search are known. Name the pool that it was built from as well."
    )
    return Asked(str(folder), plan, note=note)


def _same_models(folder: Path, config: CascadeConfig, some: Answered) -> bool:
    """Whether a pool's members of the same names are the cascade's: at the same cost, copies with the same weights."""
    plan, pool = config.built, some.pool
    if pool is None or any(name not in pool.members for name in plan.members):
        return False
    try:
        costs = tuple(pool.members[name].cost(plan.unit).value for name in plan.members)
        if plan.unit and costs != plan.costs:
            return False
        own = {place.name: place.subfolder for place in config.places if place.repo is None}
        copies = [(pool.members[name].sha256, own[name]) for name in plan.members if own.get(name)]
        return all(not sha256 or sha256 == Checkpoint(folder, subfolder=at).sha256() for sha256, at in copies)
    except HfSoupsError:  # not measured in that unit, or a copy cannot be read
        return False
