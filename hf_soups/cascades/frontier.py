"""Frontier: the plans that no other beats in score, average and worst cost, as a value and as a JSON file."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import PlainValidator

from hf_soups.cascades.plan import Plan, plan_row, plan_values
from hf_soups.cascades.provenance import Seen
from hf_soups.checkpoint import names_of
from hf_soups.display import Displayed
from hf_soups.errors import InputError
from hf_soups.files.reading import as_record, read_json
from hf_soups.files.writing import write_text
from hf_soups.metrics import traits_of
from hf_soups.pool.report_rows import OtherPool, ReportRows, report_rows

if TYPE_CHECKING:
    import pandas as pd

    from hf_soups.plots.canvas import Picture
    from hf_soups.predictions import Predictions

PRINTED = 16  # plans of a printed frontier
ROUNDING = 1e-12  # by this share a cost may be above its bound: a mean of costs differs so with the order of its sum


@dataclass(frozen=True, slots=True)
class Choice:
    """What a goal led to: the plan, or None and the plan that comes nearest; `why` says so in words."""

    plan: Plan | None
    nearest: Plan | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Frontier(Displayed):
    """What a search found, the cheapest on average first; scores are higher-is-better (losses are negated)."""

    plans: tuple[Plan, ...]
    singles: tuple[Plan, ...]  # every model of the pool alone, the best first
    ensembles: tuple[Plan, ...] = ()  # those that were scored, members all run; the best first
    data: str = ""  # fingerprint of the rows that it was searched on
    pool: str = ""  # the folder of predictions; its file names it relative to itself
    report: Annotated[ReportRows, PlainValidator(report_rows)] = (
        None  # rows that nothing was chosen on; a share is drawn by `seed`
    )
    seed: int = 0
    chosen_on: Seen | None = None  # None: by 0.1.0, or of no pool
    reported_on: Seen | None = None  # where the rows to report on are another pool's
    optimistic: bool = False  # it was searched on report rows

    def __post_init__(self) -> None:
        if not self.singles:
            raise InputError("a frontier without a single model: search a pool of at least one.")

    def __len__(self) -> int:
        return len(self.plans)

    @property
    def best_single(self) -> Plan:
        """The single model with the highest score on select; of equal ones the cheaper."""
        return self.singles[0]

    @property
    def best_ensemble(self) -> Plan | None:
        """The ensemble with the highest score: of those that were scored, else of the plans."""
        known = self.ensembles or [p for p in self.plans if p.is_ensemble]
        return max(known, key=lambda p: (p.score, -p.average_cost), default=None)

    def plan(self, index: int) -> Plan:
        """The plan with that index, as a printed frontier numbers them.

        Raises:
            InputError: if there is no such plan.
        """
        if not 0 <= index < len(self.plans):
            raise InputError(f"no plan {index}: the frontier holds plans 0 to {len(self.plans) - 1}.")
        return self.plans[index]

    def cheapest(self, min_score: float | None = None, *, max_worst_cost: float | None = None) -> Plan | None:
        """The plan of least average cost that scores `min_score` (default: the best single model's) or more."""
        least = self.best_single.score if min_score is None else min_score
        return min(self._fitting(_Bounds(least, None, max_worst_cost)), key=_by_cost, default=None)

    def best(self, *, max_average_cost: float | None = None, max_worst_cost: float | None = None) -> Plan | None:
        """The plan of the highest score within the costs; None where nothing fits."""
        return min(self._fitting(_Bounds(None, max_average_cost, max_worst_cost)), key=_by_score, default=None)

    def choose(
        self,
        *,
        min_score: float | None = None,
        max_average_cost: float | None = None,
        max_worst_cost: float | None = None,
    ) -> Choice:
        """The plan for a goal, or the nearest one and why it does not fit.

        With `max_average_cost` alone (or with `max_worst_cost`) it is the best score within the costs; with `min_score`
        the least average cost that reaches it within the others; with neither, the least cost at the best single
        model's score.

        Returns:
            Where nothing fits, `nearest` keeps the costs and comes closest to the score; where no plan keeps the costs,
            it is the one that is over them by the least share.
        """
        bounds = _Bounds(min_score, max_average_cost, max_worst_cost)
        if min_score is None and max_average_cost is None:
            bounds = replace(bounds, score=self.best_single.score)
        fitting = self._fitting(bounds)
        if fitting:
            return Choice(min(fitting, key=_by_score if bounds.score is None else _by_cost))
        affordable = self._fitting(replace(bounds, score=None))
        if affordable:
            return Choice(None, min(affordable, key=lambda p: (-p.score, p.average_cost)), bounds.in_words())
        nearest = min(self.plans, key=lambda p: (bounds.excess(p), -p.score), default=None)
        return Choice(None, nearest, bounds.in_words())

    def _fitting(self, bounds: _Bounds) -> list[Plan]:
        return [p for p in self.plans if bounds.fits(p)]

    def within(self, members: Iterable[str]) -> Frontier:
        """The plans that use some of `members` and nothing else.

        The plans of a search over these members alone may be more: some of them another member's plan beat.

        Raises:
            InputError: if a name is not in the pool, or there is none.
        """
        wanted = set(names_of(members))
        unknown = sorted(wanted - {p.members[0] for p in self.singles})
        if unknown or not wanted:
            raise InputError(
                f"{', '.join(unknown) or 'no member'}: not in the frontier's pool, which is "
                f"{', '.join(p.members[0] for p in self.singles)}."
            )
        groups = (self.plans, self.singles, self.ensembles)
        plans, singles, ensembles = (tuple(p for p in some if wanted.issuperset(p.members)) for some in groups)
        return replace(self, plans=plans, singles=singles, ensembles=ensembles)

    def pareto(self, *, max_worst_cost: float | None = None) -> tuple[Plan, ...]:
        """The plans that none beats in both score and average cost, the cheapest first."""
        return pareto(self._fitting(_Bounds(None, None, max_worst_cost)))

    def printed(self, count: int = PRINTED) -> tuple[int, ...]:
        """Indices of at most `count` plans that stand for the frontier: its ends, what matches the best single, and
        plans spread evenly over score and (logarithm of) average cost between them."""
        kept = {id(p) for p in self.pareto()}
        candidates = [i for i, p in enumerate(self.plans) if id(p) in kept]
        if len(candidates) <= count:
            return tuple(candidates)
        matching = self.cheapest()
        wanted = [candidates[0], candidates[-1]]
        wanted += [i for i in candidates if matching is not None and self.plans[i] is matching]
        return _spread([self.plans[i] for i in candidates], candidates, sorted(set(wanted)), count)

    def plot(
        self, plan: Plan | None = None, *, report: Mapping[str, Predictions] | None = None, soups: Collection[str] = ()
    ) -> Picture:
        """Scores against costs of the models, the best ensembles and the frontier; its numbers are `rows`.

        Args:
            plan: that was chosen, for a mark of its own.
            report: all members' predictions of rows that nothing was chosen on, by name, to score on; without them
                the scores are those of the search, which are too good.
            soups: names of the models that are soups.
        """
        from hf_soups.cascades.cost_points import cost_picture
        from hf_soups.plots.costs import drawn_costs

        return drawn_costs(cost_picture(self, plan=plan, report=report, soups=soups))

    def to_pandas(self) -> pd.DataFrame:
        """The plans, a row each, under the numbers by which commands and `plan` call them."""
        import pandas as pd

        return pd.DataFrame([plan_row(plan) for plan in self.plans]).rename_axis("plan")

    def in_short(self) -> str:
        """How many plans of how many models, and what it was searched on."""
        best = self.best_single
        costs = f", costs in {best.unit}" if best.unit else ""
        counts = f"{len(self)} plans of {len(self.singles)} models, {best.metric} on {best.rows} rows{costs}"
        return f"{counts}; best model: {best.in_short()}"

    def _picture(self) -> bytes | None:
        return self.plot()._repr_png_()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, through a temporary file."""
        save_frontier(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Frontier:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, damaged or of another kind.
        """
        return load_frontier(path)


@dataclass(frozen=True, slots=True)
class _Bounds:
    score: float | None
    average: float | None
    worst: float | None

    def fits(self, plan: Plan) -> bool:
        return self.excess(plan) <= ROUNDING and (self.score is None or plan.score >= self.score)

    def excess(self, plan: Plan) -> float:
        """By how much a plan's costs are over the bounds, as a share of them; 0 or less where it keeps them."""
        over = ((plan.average_cost, self.average), (plan.worst_cost, self.worst))
        return max(((cost - most) / (most or 1.0) for cost, most in over if most is not None), default=0.0)

    def in_words(self) -> str:
        wanted = [] if self.score is None else [f"scores {self.score:.6g} or more"]
        for name, most in (("average", self.average), ("worst", self.worst)):
            if most is not None:
                wanted.append(f"costs {most:.6g} or less {'on average' if name == 'average' else 'at worst'}")
        return f"no plan {' and '.join(wanted)}."


def _by_cost(plan: Plan) -> tuple[float, float, float]:
    return plan.average_cost, -plan.score, plan.worst_cost


def _by_score(plan: Plan) -> tuple[float, float, float]:
    return -plan.score, plan.average_cost, plan.worst_cost


def pareto(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Those plans that none beats in both score and average cost, the cheapest first."""
    kept: list[Plan] = []
    for plan in sorted(plans, key=_by_cost):
        if not kept or plan.score > kept[-1].score:
            kept.append(plan)
    return tuple(kept)


def undominated(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Those plans that none beats in score, average cost and worst cost at once, the cheapest on average first."""
    from hf_soups.cascades.pareto import nondominated

    ordered = sorted(plans, key=lambda p: len(p.members))  # of equal ones the shortest is kept
    columns = [[p.score for p in ordered], [p.average_cost for p in ordered], [p.worst_cost for p in ordered]]
    kept = [ordered[i] for i in nondominated(*(np.array(column, dtype=np.float64) for column in columns))]
    return tuple(sorted(kept, key=_by_cost))


def _spread(plans: Sequence[Plan], indices: Sequence[int], kept: list[int], count: int) -> tuple[int, ...]:
    """`count` of the indices: those in `kept`, and again and again the one farthest from all chosen so far."""
    costs = np.log(np.maximum([p.average_cost for p in plans], 1e-30))
    scores = np.array([p.score for p in plans])
    points = np.stack([_scaled(costs), _scaled(scores)], axis=1)
    chosen = [indices.index(i) for i in kept]
    distance = np.min([np.abs(points - points[c]).sum(axis=1) for c in chosen], axis=0)
    while len(chosen) < count:
        far = int(distance.argmax())
        chosen.append(far)
        distance = np.minimum(distance, np.abs(points - points[far]).sum(axis=1))
    return tuple(sorted(indices[c] for c in set(chosen)))


def _scaled(values: Float64[np.ndarray, " plans"]) -> Float64[np.ndarray, " plans"]:
    span = float(values.max() - values.min())
    return np.asarray((values - values.min()) / (span or 1.0))


FORMAT = "hf_soups.frontier.v1"
MAKE_IT = "`hf-soups cascade search` writes one."
_GROUPS = ("plans", "singles", "ensembles")
_REFERENCE = re.compile(r"(?P<path>.+)#(?P<which>\d+|cheapest|best(@.+)?)")
_AMOUNT = re.compile(r"(?P<number>[0-9.]+(?:[eE][+-]?\d+)?)\s*(?P<unit>[xkMGT]?)")
_TIMES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def save_frontier(frontier: Frontier, path: str | os.PathLike[str]) -> None:
    """Write the frontier as JSON, a plan a line, whole or not at all."""
    here = Path(path).absolute().parent
    report = frontier.report
    places = {
        "pool": frontier.pool and _relative(frontier.pool, here),
        "report": _relative(report.folder, here) if isinstance(report, OtherPool) else str(report or ""),
    }
    seen = {"chosen_on": frontier.chosen_on, "reported_on": frontier.reported_on}
    seen_values = {name: value and asdict(value) for name, value in seen.items()}
    head = {"format": FORMAT, **places, "data": frontier.data, "seed": frontier.seed, **seen_values}
    head |= {"optimistic": True} if frontier.optimistic else {}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    for group in _GROUPS:
        plans = [json.dumps(plan_values(p), ensure_ascii=False, allow_nan=False) for p in getattr(frontier, group)]
        lines.append(f"{json.dumps(group)}: [" + ",".join(f"\n  {plan}" for plan in plans) + "]")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_text(Path(path), text)


def load_frontier(path: str | os.PathLike[str]) -> Frontier:
    """Read what `save_frontier` wrote.

    Raises:
        InputError: if the file is missing, damaged or of another kind.
    """
    try:
        values = read_json(Path(path), what="a frontier", format=FORMAT, again=MAKE_IT)
    except FileNotFoundError:
        raise InputError(f"{path}: no such frontier. {MAKE_IT}") from None
    lacking = [name for name in ("pool", "report", "data", "seed") if name not in values]
    if lacking:  # each is always written: without it, other rows would stand for those that it names
        raise InputError(f"{path}: not valid as a frontier: it lacks {', '.join(lacking)}. {MAKE_IT}")
    frontier = as_record(values, Frontier, path, what="a frontier", again=MAKE_IT)
    here = Path(path).absolute().parent
    first_version, now = "chosen_on" not in values, frontier.pool and _absolute(frontier.pool, here)
    pool, root = _of_the_first_version(frontier.pool, here) if first_version else (now, here)
    report = frontier.report
    if isinstance(report, OtherPool) and root is not None:
        report = OtherPool(_absolute(report.folder, root))
    return replace(frontier, pool=pool, report=report)


def _relative(place: str, here: Path) -> str:
    """A folder as a frontier's file names it, so that both can be moved together."""
    relative = os.path.relpath(Path(place).absolute().resolve(), here.resolve())
    return relative if relative.startswith(".") else f"./{relative}"


def _absolute(written: str, here: Path) -> str:
    return os.path.normpath(here.resolve() / written)


def _of_the_first_version(pool: str, here: Path) -> tuple[str, Path | None]:
    """0.1.0 named folders from the working directory of the search, which follows from where the pool is now.

    Returns:
        The pool and that directory; None where the file is kept apart from its pool: then folders stay as named.
    """
    root, tail = here.resolve(), Path(pool).parts
    while tail and root.name == tail[-1]:
        root, tail = root.parent, tail[:-1]
    return (pool, None) if not pool or tail else (str(here.resolve()), root)


def split_reference(reference: str) -> tuple[Path, str]:
    """The file of a plan's name such as `preds/frontier.json#3`, and which plan of it: see `index_of`.

    Raises:
        InputError: if it has another form.

    >>> split_reference("preds/frontier.json#3")[1], split_reference("preds/frontier.json#best@0.5x")[1]
    ('3', 'best@0.5x')
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise InputError(
            f"{reference!r} does not name a plan; expected FILE#NUMBER such as preds/frontier.json#3, with the number "
            "in the first column of the printed frontier, or #cheapest, #best or #best@0.5x in its place."
        )
    return Path(match["path"]), match["which"]


def opened_reference(reference: str) -> tuple[Path, Frontier, int]:
    """The file, the frontier in it and the plan's index.

    Raises:
        InputError: if the name has another form, the file is not a frontier, or there is no such plan.
    """
    path, which = split_reference(reference)
    frontier = load_frontier(path)
    try:
        return path, frontier, index_of(which, frontier)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def plan_at(reference: str) -> Plan:
    """The plan that a name such as `preds/frontier.json#3` stands for; see `opened_reference`."""
    _, frontier, index = opened_reference(reference)
    return frontier.plan(index)


def index_of(which: str, frontier: Frontier) -> int:
    """The index of a plan: its number; "cheapest" at the best single model's score; "best", or "best@0.5x" in a cost.

    Raises:
        InputError: if no plan is so, or the cost is none.
    """
    if which.isdigit():
        frontier.plan(int(which))
        return int(which)
    word, _, cost = which.partition("@")
    most = relative_cost(cost, frontier) if cost else None
    plan = frontier.cheapest() if word == "cheapest" else frontier.best(max_average_cost=most)
    if plan is None:
        wanted = (
            "reaches the best single model's score" if word == "cheapest" else f"costs {cost or 'anything'} or less"
        )
        raise InputError(f"no plan of the frontier {wanted}. `hf-soups cascade show` prints those that there are.")
    return next(i for i, p in enumerate(frontier.plans) if p is plan)


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def relative_cost(text: str | float, frontier: Frontier) -> float:
    """A cost as the command line takes it, in the frontier's unit: "0.5x" is half of the best single model's.

    Args:
        text: a number, with k, M, G or T for thousands and so on, or with x for multiples of the best single's cost.
        frontier: whose unit and best single model are meant.
    Raises:
        InputError: if it is not a cost.
    """
    match = _AMOUNT.fullmatch(str(text).strip())
    number = _number(match["number"]) if match else math.nan
    if match is None or not math.isfinite(number):
        raise InputError(
            f"{text!r} is not a cost; expected a number such as 390M, or a multiple of the best single model's cost "
            "such as 0.5x."
        )
    if match["unit"] == "x":
        return number * frontier.best_single.average_cost
    return number * _TIMES[match["unit"]]


def wanted_score(text: str | float, frontier: Frontier) -> float:
    """A least score as the command line takes it: "best" (the best single model's) or a number of the metric's own.

    Returns:
        Higher is better, as in plans: a loss is negated.
    Raises:
        InputError: if it is neither.
    """
    if str(text).strip() == "best":
        return frontier.best_single.score
    number, metric = _number(text), frontier.best_single.metric
    if not math.isfinite(number) or (metric == "accuracy" and not 0 <= number <= 1):
        raise InputError(f"{text!r} is not a least {metric}; expected 'best', or a number such as 0.79.")
    return traits_of(metric).sign * number
