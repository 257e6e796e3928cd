"""From a plan of a frontier to a cascade's folder, with the frontier of its own members to move along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hf_soups.cascades.plan import Plan
from hf_soups.from_pool.evidence import check_members, evidence_files
from hf_soups.from_pool.opening import open_plan
from hf_soups.pool import Pool
from hf_soups.predictions import Predictions

STORED = 32  # plans that `budget` can choose from


def build_from(
    reference: str,
    out: str | Path,
    *,
    pool: str | Path | None = None,
    references: bool = False,
    assume_label_order: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the cascade that a plan such as `preds/frontier.json#3` stands for.

    Its members are searched once more by themselves, so that the cascade can move along their own frontier. The folder
    keeps what its card needs: evidence.json with data, search, members and the scores on report rows, and two pictures.

    Args:
        reference: FILE#NUMBER.
        out: the folder to make.
        pool: whose members they are; default: the one that the frontier was searched on.
        references: keep Hub ids with the commit of each member instead of copies.
        assume_label_order: take members without label names to have the data's order.
        overwrite: replace a cascade that is there.
    Raises:
        InputError: if there is no such plan or pool, `out` exists, or a member's weights are not those that answered.
    """
    from hf_soups.cascades.running.folder import build_cascade  # torch, which the rest of this package does without

    opened = open_plan(reference, pool)
    plan, found, parts = opened.plan, opened.pool, opened.parts
    check_members(plan, found)
    return build_cascade(
        plan,
        found.members,
        out,
        kind=found.kind,
        label_names=found.label_names,
        frontier=_of_its_members(plan, found, parts.select),
        max_length=found.data.max_length,
        references=references,
        assume_label_order=assume_label_order,
        overwrite=overwrite,
        beside=evidence_files(opened.index, opened.frontier, parts),
    )


def _of_its_members(plan: Plan, pool: Pool, select: Mapping[str, Predictions]) -> tuple[Plan, ...]:
    """At most `STORED` plans over subsets of a plan's members in any order, the cheapest first."""
    if len(plan.members) == 1:
        return (plan,)
    from hf_soups.cascades.searching.exhaustive import search_cascades

    temperatures = dict(zip(plan.members, plan.temperatures, strict=True)) if plan.temperatures else None
    own = search_cascades(
        {name: select[name] for name in plan.members},
        {name: cost for name, cost in pool.costs(plan.unit).items() if name in plan.members},
        max_members=len(plan.members),
        combine=plan.rule.combine,
        confidence=plan.rule.confidence,
        metric=plan.metric,
        temperatures=temperatures,
    )
    return tuple(own.plans[i] for i in own.printed(STORED))
