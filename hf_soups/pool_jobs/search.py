"""Searching a pool: temperatures, search, cross-fitted bounds, the plan for a goal, and what it does on report rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.cascades.frontier import Choice, Frontier, relative_cost, wanted_score
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Combine, Confidence
from hf_soups.checkpoint import names_of
from hf_soups.display import Displayed
from hf_soups.errors import InputError
from hf_soups.metrics import Score, metric_named, score
from hf_soups.metrics.significance import mcnemar
from hf_soups.pool import read_pool
from hf_soups.pool.report_rows import (
    OtherPool,
    ReportRows,
    SelectAndReport,
    holds_report_rows,
    refuse_report_rows,
    report_rows,
    select_and_report,
)
from hf_soups.pool_jobs.plans import seen_in
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import METRIC_OF

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

Method = Literal["exhaustive", "beam", "streeter"]
FRONTIER_FILE = "frontier.json"


@dataclass(frozen=True, slots=True)
class Reported:
    """What a plan does on rows that it was not chosen on."""

    name: str
    plan: Plan
    score: Score
    average_cost: float
    exit_shares: tuple[float, ...]
    p_value: float | None = None  # McNemar's, against the best single model


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult(Displayed):
    """What a search of a pool found, and where it is written."""

    frontier: Frontier
    choice: Choice
    reported: tuple[Reported, ...]
    path: Path
    seconds: float
    without_model: tuple[str, ...] = ()  # members of the plan that was chosen whose models are not known here

    @property
    def reference(self) -> str:
        """The chosen plan as `build_from` takes it, such as `preds/frontier.json#3`.

        Raises:
            InputError: if no plan reaches the goal.
        """
        if self.choice.plan is None:
            raise InputError(f"No plan was chosen, so there is none to build: {self.choice.why}.")
        return f"{self.path}#{self.frontier.plans.index(self.choice.plan)}"

    def in_short(self) -> str:
        """How many plans there are, the one that was chosen, and where they are."""
        chosen = "none chosen" if self.choice.plan is None else f"chosen: {self.choice.plan.in_short()}"
        return f"{len(self.frontier)} plans in {self.path}; {chosen}"

    def to_pandas(self) -> pd.DataFrame:
        """What plans do on report rows, which nothing was chosen on; without those, the frontier."""
        import pandas as pd

        if not self.reported:
            return self.frontier.to_pandas()
        rows = [(r.name, r.plan.in_order, *astuple(r.score), r.average_cost, r.p_value) for r in self.reported]
        return pd.DataFrame(rows, columns=["plan", "members", "report", "low", "high", "average_cost", "p"])

    def _picture(self) -> bytes | None:
        return self.frontier.plot(self.choice.plan)._repr_png_()


def search_pool(
    folder: str | Path,
    *,
    members: Sequence[str] = (),
    cost: str | None = None,
    method: Method = "exhaustive",
    max_members: int = 4,
    combine: Combine = "mean",
    confidence: Confidence = "max",
    metric: str | None = None,
    grid: int | None = None,
    width: int | None = None,
    reference: str | None = None,
    shares: Sequence[float] = (),
    min_score: str | None = None,
    max_average_cost: str | None = None,
    max_worst_cost: str | None = None,
    temperatures: bool = False,
    folds: int = 5,
    report: str | ReportRows = None,
    seed: int = 0,
    out: str | Path | None = None,
    threads: int | None = None,
    progress: Callable[..., object] | None = None,
    allow_selection_on_report: bool = False,
) -> SearchResult:
    """Search a pool for cascades and write the frontier.

    Args:
        folder: of the pool.
        members: of the pool, to search alone; default: all.
        cost: the unit: macs, parameters, seconds, seconds_batch_1, bytes, or one that was given to the members;
            default: macs, or the first that all members have.
        method: "exhaustive" over all ordered tuples; "beam" for pools of hundreds; "streeter" for a thousand (members
            then answer alone).
        max_members: of a cascade.
        combine: how members' answers become one.
        confidence: what thresholds are on.
        metric: a name in METRICS; default: accuracy, or of many labels a row f1_micro.
        grid: thresholds of a stage that are tried before polishing; default: the search's. Not for "streeter".
        width: of the beam: chains that are grown at each level.
        reference: for "streeter": the model whose accuracy is kept; default: the best.
        shares: for "streeter": of the reference's accuracy, a cascade for each; default: its own path of shares.
        min_score: least score of the plan: "best" (the best single model's, the default) or a number.
        max_average_cost: of the plan: a number such as 390M, or 0.5x of the best single model's.
        max_worst_cost: the same for a row that meets every member; cascades beyond it are not searched.
        temperatures: fit one for each member first, on the rows to choose on.
        folds: of cross-fitting the lower bounds; 0: none.
        report: rows to report on; as text see `report_rows`.
        seed: of the draw of report rows, of folds and of the bootstrap.
        out: the file; default: frontier.json in the pool's folder.
        threads: default: the machine's.
        progress: called with the share of the search that is done, and where it is known what is being done.
        allow_selection_on_report: search a pool of report rows; where none are kept to report on, the frontier is
            then marked optimistic.
    Raises:
        SelectionOnReport: if it is a pool of report rows, and that is not allowed.
        InputError: if the call makes no sense for this pool.
        PredictionsError: if the predictions cannot be joined or scored.
    """
    from hf_soups.cascades.crossfit import cross_fitted
    from hf_soups.predictions.calibration import fit_temperatures

    started = time.perf_counter()
    pool = read_pool(folder)
    refuse_report_rows(pool, "hf-soups cascade search", allowed=allow_selection_on_report)
    metric = metric or ("accuracy" if method == "streeter" else METRIC_OF[pool.data.problem_type])
    report = report_rows(report)
    parts = select_and_report(pool, report, seed)
    select = _some(parts.select, names_of(members))
    costs = pool.costs(pool.unit(cost, tuple(select)), tuple(select))
    fitted = fit_temperatures(select) if temperatures else None
    worst = None if max_worst_cost is None else _absolute(max_worst_cost, select, costs, metric)
    how: dict[str, Any] = {
        "max_members": max_members, "confidence": confidence, "temperatures": fitted, "threads": threads,
        "progress": progress, **_combined(method, metric, combine, worst),
        **_own_options(method, {"grid": grid, "width": width, "reference": reference, "shares": tuple(shares) or None}),
    }  # fmt: skip
    frontier = _searched(method, select, costs, how)
    frontier = replace(
        frontier,
        pool=str(folder),
        report=report,
        seed=seed,
        chosen_on=seen_in(pool, select),
        reported_on=seen_in(read_pool(report.folder), select) if isinstance(report, OtherPool) else None,
        optimistic=holds_report_rows(pool.data.split) and report is None,
    )
    if folds:
        frontier = cross_fitted(frontier, select, folds=folds, seed=seed)
    choice = _chosen(frontier, min_score, max_average_cost, max_worst_cost)
    path = Path(out) if out is not None else pool.folder / FRONTIER_FILE
    frontier.save(path)
    members_chosen = choice.plan.members if choice.plan is not None else ()
    return SearchResult(
        frontier, choice, reported(frontier, choice, parts), path, time.perf_counter() - started,
        tuple(name for name in members_chosen if not pool.members[name].has_model),
    )  # fmt: skip


def reported(frontier: Frontier, choice: Choice, parts: SelectAndReport) -> tuple[Reported, ...]:
    """The plan that was chosen, the best single model and the best ensemble on the report rows, if there are any."""
    if parts.report is None:
        return ()
    named = [("best single", frontier.best_single), ("best ensemble", frontier.best_ensemble)]
    named += [("chosen", choice.plan or choice.nearest)]
    base = frontier.best_single.apply(parts.report)
    return tuple(reported_on(parts.report, name, plan, base) for name, plan in named if plan is not None)


def reported_on(report: Mapping[str, Predictions], name: str, plan: Plan, base: Predictions) -> Reported:
    """What a plan does on report rows, beside the answers `base`."""
    answers = plan.apply(report)
    assert answers.exits is not None
    assert answers.costs is not None
    shares = tuple(float((answers.exits == stage).mean()) for stage in range(len(plan.members)))
    p_value = mcnemar(answers, base).p_value if plan.metric == "accuracy" and name != "best single" else None
    return Reported(name, plan, score(answers, plan.metric), float(answers.costs.mean()), shares, p_value)


def _combined(method: Method, metric: str, combine: str, worst: float | None) -> dict[str, Any]:
    """How members answer together and are scored; those of Streeter's greedy answer alone, by accuracy."""
    if method != "streeter":
        return {"combine": combine, "metric": metric, "max_worst_cost": worst}
    if metric != "accuracy":
        raise InputError(f"Streeter's greedy keeps a share of accuracy, so it cannot search by {metric}.")
    return {}


OWN = {"exhaustive": ("grid",), "beam": ("grid", "width"), "streeter": ("reference", "shares")}


def _own_options(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, if they are the method's."""
    options = {name: value for name, value in given.items() if value is not None}
    foreign = [name for name in options if name not in OWN.get(method, options)]
    if foreign:
        own = " and ".join(OWN[method])
        raise InputError(f"{', '.join(foreign)}: no option of the method {method!r}, whose own are {own}.")
    return options


def _searched(
    method: Method, select: Mapping[str, Predictions], costs: Mapping[str, Any], how: dict[str, Any]
) -> Frontier:
    if method == "exhaustive":
        from hf_soups.cascades.search.exhaustive import search_cascades

        return search_cascades(select, costs, **how)
    if method == "beam":
        from hf_soups.cascades.search.beam import beam

        return beam(select, costs, **how)
    if method != "streeter":
        raise InputError(f"method is {method!r}; expected exhaustive, beam or streeter.")
    from hf_soups.cascades.search.streeter import streeter

    return streeter(select, costs, **how)


def _chosen(
    frontier: Frontier, min_score: str | None, max_average_cost: str | None, max_worst_cost: str | None
) -> Choice:
    return frontier.choose(
        min_score=None if min_score is None else wanted_score(min_score, frontier),
        max_average_cost=None if max_average_cost is None else relative_cost(max_average_cost, frontier),
        max_worst_cost=None if max_worst_cost is None else relative_cost(max_worst_cost, frontier),
    )


def _some(predictions: Mapping[str, Predictions], names: Sequence[str]) -> Mapping[str, Predictions]:
    unknown = [name for name in names if name not in predictions]
    if unknown:
        raise InputError(f"no member {', '.join(unknown)} in the pool; there are: {', '.join(predictions)}.")
    return {name: predictions[name] for name in names or predictions}


def _absolute(text: str, select: Mapping[str, Predictions], costs: Mapping[str, Any], metric: str) -> float:
    """A bound on the worst case before there is a frontier: multiples are of the best single model's cost."""
    known = metric_named(metric)
    values = {name: known.sign * known.compute(p) for name, p in select.items()}
    best = min(select, key=lambda name: (-values[name], costs[name].value))
    alone = Plan((best,), (), (costs[best].value,), score=values[best], average_cost=costs[best].value, metric=metric)
    return relative_cost(text, Frontier((), (alone,)))
