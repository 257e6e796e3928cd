"""Cascades of a sweep's runs and soups as contenders: searched when asked, kept as a frontier, read from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.provenance import Seen, changed
from hf_soups.contenders.contender import Contender, Contenders, Row, rank_of, shared_roles, together
from hf_soups.costs import Cost
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS
from hf_soups.predictions import same_rows

FOLDER = "cascades"  # of a sweep; every frontier in it is shown
FRONTIER = "frontier.json"
POOL = 12  # the best on select that are searched: all triples of them take seconds
MEMBERS = 3


def search_among(found: Contenders, folder: str | Path, *, max_members: int = MEMBERS, pool: int = POOL) -> Path:
    """Search cascades among a sweep's runs and soups on select, and keep the frontier in the sweep's folder.

    Members may cost the same: of two fine-tunes one answers first, and both are averaged where it is not sure.

    Args:
        found: the sweep's runs and soups.
        folder: of the sweep; cascades/frontier.json is written there.
        max_members: of a cascade.
        pool: how many to search among, the best on select.
    Raises:
        InputError: if fewer than two have recorded multiply-adds, or the metric is not one of those known by name.
    """
    from hf_soups.cascades.searching.exhaustive import search_cascades

    if found.metric.name not in METRICS or found.metric.row_statistics is None:
        raise InputError(
            f"cascades cannot be searched by {found.metric.name}, which is no sum over rows; the metrics that can are "
            f"{', '.join(METRICS)}."
        )
    # what was chosen on the report rows would make the cascade's report score too good as well
    able = [c for c in (*found.runs, *found.soups) if c.row.macs is not None and c.row.status == "finished"]
    if len(able) < 2:
        raise InputError(
            f"{folder}: cascades are searched among runs and soups that answered and whose multiply-adds are recorded; "
            f"there are {len(able)}, and it takes two."
        )
    best = sorted(able, key=lambda c: rank_of(found.metric, found.metric.compute(c.select)))[:pool]
    frontier = search_cascades(
        {c.row.name: c.select for c in best},
        {c.row.name: Cost(float(c.row.macs or 0), "macs") for c in best},
        max_members=max_members,
        metric=found.metric.name,
    )
    path = Path(folder) / FOLDER / FRONTIER
    seen = Seen.of({c.row.name: c.select for c in best})
    replace(frontier, data=found.runs[0].select.data, chosen_on=seen).save(path)
    return path


def with_cascades(found: Contenders, folder: str | Path) -> Contenders:
    """The contenders and the cascades of every frontier in the sweep's folder.

    Of each frontier two plans are shown: the cheapest on average that scores as the best single model, and the one that
    scores best on select. A frontier that cannot be read, or whose members or rows are gone, joins the unscored.
    """
    cascades, unscored = [], []
    for path in sorted((Path(folder) / FOLDER).glob("*.json")):
        row = Row("cascade", f"cascade of {path.name}", "gone")
        try:
            if found.runs:
                cascades += _cascades_of(found, Frontier.load(path), "" if path.name == FRONTIER else f"{path.stem}: ")
        except (InputError, PredictionsError) as error:
            unscored.append(replace(row, reason=f"{error} Search again."))
    return replace(found, cascades=tuple(cascades), unscored=(*found.unscored, *unscored))


def _cascades_of(found: Contenders, frontier: Frontier, prefix: str) -> list[Contender]:
    if frontier.data and not same_rows(frontier.data, found.runs[0].select.data):
        raise InputError("it was searched on other rows than the sweep's select.")
    rows = {c.row.name: c.row for c in found.runs}
    known = {c.row.name: c for c in (*found.runs, *found.soups)}
    shown = tuple(_shown(frontier))
    names = list(dict.fromkeys(name for _, plan in shown for name in plan.members))
    now = Seen.of({name: known[name].select for name in names if name in known})
    if frontier.chosen_on is not None and (differ := changed(frontier.chosen_on, now, names)):
        raise InputError(f"{'; '.join(differ)}.")
    return [
        _contender(plan, known, rows, Row("cascade", f"{prefix}{name}", "finished", pool=len(frontier.singles)))
        for name, plan in shown
    ]


def _shown(frontier: Frontier) -> Iterator[tuple[str, Plan]]:
    """The plans with several members among the cheapest at the best single's score and the best."""
    cheapest, best = frontier.cheapest(), frontier.best()
    if cheapest is not None and len(cheapest.members) > 1:
        yield "cheapest cascade", cheapest
    if best is not None and len(best.members) > 1 and best != cheapest:
        yield "best cascade", best


def _contender(plan: Plan, known: Mapping[str, Contender], runs: Mapping[str, Row], row: Row) -> Contender:
    missing = [name for name in plan.members if name not in known]
    if missing:
        raise InputError(f"{', '.join(missing)} did not answer here.")
    members = [known[name] for name in plan.members]
    answers = {
        role: plan.apply({name: known[name].answers[role] for name in plan.members}) for role in shared_roles(members)
    }
    costs = answers["report"].costs
    assert costs is not None
    filled, trained = together(members, runs, row)
    return Contender(replace(filled, macs=round(float(costs.mean())), made_of=_in_words(plan)), answers, trained)


def _in_words(plan: Plan) -> str:
    """Members in order, each with the confidence that rows leave at."""
    stages = [
        f"{name} (leaves at {t:.3g})" if t <= 1 else name
        for name, t in zip(plan.members, plan.thresholds, strict=False)
    ]
    return " -> ".join([*stages, plan.members[-1]])
