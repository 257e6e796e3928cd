"""From a plan of a frontier to a cascade's folder, with evidence of the pool and the search that it came from.

It goes to the Hub with the weights, so it names no place on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_soups.cascades.deferral import learn_deferral
from hf_soups.cascades.drift import AnswersSeen
from hf_soups.cascades.evidence import EVIDENCE_FILE, FORMAT, PICTURES
from hf_soups.cascades.frontier import Choice, Frontier
from hf_soups.cascades.plan import Plan, plan_values
from hf_soups.cascades.selective import abstaining_plan
from hf_soups.errors import InputError
from hf_soups.files.endpoint import Fallback
from hf_soups.files.writing import json_text, temporary_folder
from hf_soups.pool import Pool, read_pool
from hf_soups.pool.report_rows import OtherPool, SelectAndReport
from hf_soups.pool.store import Member, PoolData
from hf_soups.pool_jobs.plans import open_plan
from hf_soups.pool_jobs.search import Reported, reported
from hf_soups.predictions import Predictions
from hf_soups.recipe.origin import place_shown, recipe_kept, recipe_values
from hf_soups.soups.soup import versions

COSTS = ("parameters", "macs", "bytes", "seconds", "seconds_batch_1", "best_batch", "hardware")


def evidence(index: int, frontier: Frontier, parts: SelectAndReport, plan: Plan) -> dict[str, Any]:
    """Data, search, members and report scores of a plan, as evidence.json holds them.

    Args:
        index: of the plan in the frontier.
        frontier: of the search.
        parts: the rows that it was searched on, and those that nothing was chosen on.
        plan: that of the frontier, perhaps with a last threshold or learned deferral.
    """
    pool, kept = parts.pool, recipe_kept(parts.pool.folder)
    recipe = {} if kept is None else {"recipe": {k: v for k, v in recipe_values(kept).items() if k in ("task", "data")}}
    rows = {"select": len(next(iter(parts.select.values())))}
    if parts.report is not None:
        rows["report"] = len(next(iter(parts.report.values())))
    elsewhere = isinstance(frontier.report, OtherPool)
    other = read_pool(str(frontier.report)).data if elsewhere else pool.data
    return {
        "format": FORMAT,
        "data": {role: _data(other if role == "report" else pool.data, count) for role, count in rows.items()},
        "report_share": "" if elsewhere else str(frontier.report or ""),
        **recipe,
        "search": {
            "models": len(frontier.singles),
            "plans": len(frontier.plans),
            "plan": index,
            "seed": frontier.seed,
        },
        "plan": plan_values(plan),
        "members": {name: _member(pool.members[name]) for name in plan.members},
        "report": [_reported(row) for row in reported(frontier, Choice(plan), parts)],
        "answers": asdict(AnswersSeen.of(plan, plan.apply(parts.select))),
        "versions": versions(),
    }


def evidence_files(index: int, frontier: Frontier, parts: SelectAndReport, plan: Plan) -> dict[str, bytes]:
    """The evidence and the pictures of a plan as the cascade's folder holds them, by name; see `evidence`."""
    from hf_soups.cascades.cost_points import cost_picture
    from hf_soups.plots.cascades import draw_exits
    from hf_soups.plots.costs import draw_cost_picture
    from hf_soups.pool_jobs.pictures import exits_of

    text = json_text(evidence(index, frontier, parts, plan))
    answers = plan.apply(parts.select if parts.report is None else parts.report)
    with temporary_folder("evidence") as place:
        costs, exits = (Path(place, name) for name in PICTURES)
        draw_cost_picture(cost_picture(frontier, plan=plan, report=parts.report), costs)
        draw_exits(exits_of(answers, plan.members), exits, unit=plan.unit)
        return {EVIDENCE_FILE: text.encode(), **{path.name: path.read_bytes() for path in (costs, exits)}}


def check_members(plan: Plan, pool: Pool) -> None:
    """The weights that are built in must be those that answered.

    Raises:
        InputError: naming a member whose weights changed, or that has none.
    """
    for name in plan.members:
        member = pool.members[name]
        if not member.has_model:
            raise InputError(
                f"{pool.folder}: {name!r} has no model here, only answers from {member.from_file}, and a cascade's "
                "folder holds the models of all members. Choose a plan of members with models (search with --member), "
                "or use the plan's thresholds in your own program: Frontier.load(FILE).plan(NUMBER)."
            )
        weights = member.sha256 and member.checkpoint.sha256() != member.sha256
        if weights or (member.files and member.checkpoint.files_digest() != member.files):
            part = "weights are" if weights else "config, tokenizer or processor is"
            raise InputError(
                f"{member.source}: its {part} not what answered as {name!r} in {pool.folder}, so the plan's scores are "
                "not its own. Predict and search again."
            )


def _data(data: PoolData, rows: int) -> dict[str, Any]:
    return {
        "path": place_shown(data.path),
        "config": data.config,
        "revision": data.revision,
        "split": data.split,
        "rows": rows,
        "columns": list(data.columns),
        "fingerprint": data.fingerprint,  # of the whole split, also where a share of it is meant
    }


def _member(member: Member) -> dict[str, Any]:
    place = {
        "source": place_shown(member.source) if member.has_model else "",
        "revision": member.revision,
        "sha256": member.sha256,
    }
    costs = {key: getattr(member, key) for key in COSTS}
    values: Mapping[str, Any] = {**place, **costs, "notes": list(member.notes)}
    return {key: value for key, value in values.items() if value not in (None, "", [])}


def _reported(row: Reported) -> dict[str, Any]:
    return {
        "name": row.name,
        "members": list(row.plan.members),
        "score": row.score.value,
        "low": row.score.low,
        "high": row.score.high,
        "average_cost": row.average_cost,
        "exit_shares": list(row.exit_shares),
        "p_value": row.p_value,
    }


STORED = 32  # plans that `budget` can choose from


def build_from(
    reference: str,
    out: str | Path,
    *,
    pool: str | Path | None = None,
    references: bool = False,
    assume_label_order: bool = False,
    overwrite: bool = False,
    with_code: bool = False,
    abstain: float | None = None,
    learned_deferral: bool = False,
    devices: str | Mapping[str, str] | None = None,
    fallback: Fallback = "error",
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
        with_code: add code by which people without hf_soups load it (`trust_remote_code=True`).
        abstain: rows that are less sure than this after the last member are for a human, under every plan that is
            stored. Default: every row is answered.
        learned_deferral: let a score learned on the select rows decide when the next member is asked, at the plan's
            average cost; see `learn_deferral`. The other stored plans keep their confidence.
        devices: where members run, by name; see `build_cascade`.
        fallback: of rows that an endpoint does not answer; see `build_cascade`.
    Raises:
        InputError: if there is no such plan or pool, `out` exists, or a member's weights are not those that answered.
    """
    from hf_soups.cascades.running.build_folder import (
        build_cascade,  # torch, which the rest of this package does without
    )

    opened = open_plan(reference, pool)
    searched, parts = opened.pool, opened.parts
    plan = learn_deferral(opened.plan, parts.select).plan if learned_deferral else opened.plan
    plan = abstaining_plan(plan, abstain, parts.select)
    if plan.coverage == 0:
        raise InputError(
            f"--abstain {abstain:g}: no select row is that sure, so every row would be for a human. What thresholds "
            f"do is shown by hf-soups cascade abstain {reference}."
        )
    check_members(plan, searched)
    further = [abstaining_plan(own, abstain, parts.select) for own in _of_its_members(plan, searched, parts.select)]
    return build_cascade(
        plan,
        searched.members,
        out,
        kind=searched.kind,
        label_names=searched.label_names,
        frontier=[own for own in further if own.coverage != 0],
        max_length=searched.data.max_length,
        references=references,
        assume_label_order=assume_label_order,
        overwrite=overwrite,
        with_code=with_code,
        devices=devices,
        fallback=fallback,
        beside=evidence_files(opened.index, opened.frontier, parts, plan),
    )


def _of_its_members(plan: Plan, pool: Pool, select: Mapping[str, Predictions]) -> tuple[Plan, ...]:
    """At most `STORED` plans over subsets of a plan's members in any order, the cheapest first."""
    if len(plan.members) == 1:
        return (plan,)
    from hf_soups.cascades.search.exhaustive import search_cascades

    temperatures = dict(zip(plan.members, plan.temperatures, strict=True)) if plan.temperatures else None
    own = search_cascades(
        {name: select[name] for name in plan.members},
        pool.costs(plan.unit, plan.members),
        max_members=len(plan.members),
        combine=plan.rule.combine,
        confidence="max" if plan.rule.confidence == "learned" else plan.rule.confidence,
        metric=plan.metric,
        temperatures=temperatures,
    )
    stored = [own.plans[i] for i in own.printed(STORED)]
    alone = [p for p in own.singles if p.members[0] == plan.members[-1] and p not in stored]  # what it is held against
    return tuple(sorted((*stored, *alone), key=lambda p: p.average_cost))
