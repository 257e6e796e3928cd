"""A frontier as a JSON file, and how the command line names its plans and its costs: `frontier.json#3`, `0.5x`."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.plan_values import plan_values
from hf_soups.errors import InputError
from hf_soups.files.reading import as_record, read_json
from hf_soups.files.writing import write_text
from hf_soups.metrics import METRICS

FORMAT = "hf_soups.frontier.v1"
MAKE_IT = "`hf-soups cascade search` writes one."
_GROUPS = ("plans", "singles", "ensembles")
_REFERENCE = re.compile(r"(?P<path>.+)#(?P<which>\d+|cheapest|best(@.+)?)")
_AMOUNT = re.compile(r"(?P<number>[0-9.]+(?:[eE][+-]?\d+)?)\s*(?P<unit>[xkMGT]?)")
_TIMES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def save_frontier(frontier: Frontier, path: str | os.PathLike[str]) -> None:
    """Write the frontier as JSON, a plan a line, whole or not at all."""
    here = Path(path).absolute().parent
    places = {name: _relative(getattr(frontier, name), here) for name in ("pool", "report")}
    seen = {name: getattr(frontier, name) for name in ("chosen_on", "reported_on")}
    seen = {name: value and asdict(value) for name, value in seen.items()}
    head = {"format": FORMAT, **places, "data": frontier.data, "seed": frontier.seed, **seen}
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
        told = read_json(Path(path), what="a frontier", format=FORMAT, again=MAKE_IT)
    except FileNotFoundError:
        raise InputError(f"{path}: no such frontier. {MAKE_IT}") from None
    lacking = [name for name in ("pool", "report", "data", "seed") if name not in told]
    if lacking:  # each is always written: without it, other rows would stand for those that it names
        raise InputError(f"{path}: not valid as a frontier: it lacks {', '.join(lacking)}. {MAKE_IT}")
    found = as_record(told, Frontier, path, what="a frontier", again=MAKE_IT)
    here = Path(path).absolute().parent
    if "chosen_on" not in told:
        return _of_the_first_version(found, here)
    return replace(found, pool=_absolute(found.pool, here), report=_absolute(found.report, here))


def _relative(place: str, here: Path) -> str:
    """A folder as a frontier's file names it, so that both can be moved together; a share of rows as it is."""
    if not place or is_share(place):
        return place
    relative = os.path.relpath(Path(place).absolute().resolve(), here.resolve())
    return relative if relative.startswith(".") else f"./{relative}"


def _absolute(written: str, here: Path) -> str:
    if not written or is_share(written):
        return written
    return os.path.normpath(here.resolve() / written)


def is_share(report: str) -> bool:
    """Whether what to report on is a share of the pool's rows, not another pool's folder.

    >>> is_share("0.5"), is_share("preds/report"), is_share("")
    (True, False, False)
    """
    try:
        return math.isfinite(float(report))
    except ValueError:
        return False


def _of_the_first_version(found: Frontier, here: Path) -> Frontier:
    """0.1.0 named folders from the working directory of the search, which follows from where the pool is now."""
    root, tail = here.resolve(), Path(found.pool).parts
    while tail and root.name == tail[-1]:
        root, tail = root.parent, tail[:-1]
    if not found.pool or tail:  # kept apart from its pool: as it was named then
        return found
    return replace(found, pool=str(here.resolve()), report=_absolute(found.report, root))


def split_reference(reference: str) -> tuple[Path, str]:
    """The file of a plan's name such as `preds/frontier.json#3`, and which plan of it: see `index_of`.

    Raises:
        InputError: if it has another form.

    >>> split_reference("preds/frontier.json#3")[1], split_reference("preds/frontier.json#best@0.5x")[1]
    ('3', 'best@0.5x')
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InputError(
            f"{reference!r} does not name a plan; expected FILE#NUMBER such as preds/frontier.json#3, with the number "
            "in the first column of the printed frontier, or #cheapest, #best or #best@0.5x in its place."
        )
    return Path(found["path"]), found["which"]


def opened_reference(reference: str) -> tuple[Path, Frontier, int]:
    """The file, the frontier in it and the plan's index.

    Raises:
        InputError: if the name has another form, the file is not a frontier, or there is no such plan.
    """
    path, which = split_reference(reference)
    frontier = load_frontier(path)
    return path, frontier, index_of(which, frontier)


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
        told = "reaches the best single model's score" if word == "cheapest" else f"costs {cost or 'anything'} or less"
        raise InputError(f"no plan of the frontier {told}. `hf-soups cascade show` prints those that there are.")
    return next(i for i, p in enumerate(frontier.plans) if p is plan)


def plan_at(reference: str) -> Plan:
    """The plan that a name such as `preds/frontier.json#3` stands for.

    Raises:
        InputError: if the name has another form, the file is not a frontier, or there is no such plan.
    """
    path, which = split_reference(reference)
    frontier = load_frontier(path)
    try:
        return frontier.plans[index_of(which, frontier)]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def relative_cost(text: str | float, frontier: Frontier) -> float:
    """A cost as the command line takes it, in the frontier's unit: "0.5x" is half of the best single model's.

    Args:
        text: a number, with k, M, G or T for thousands and so on, or with x for multiples of the best single's cost.
        frontier: whose unit and best single model are meant.
    Raises:
        InputError: if it is not a cost.
    """
    found = _AMOUNT.fullmatch(str(text).strip())
    try:
        number = float(found["number"]) if found else math.nan
    except ValueError:
        number = math.nan
    if found is None or not math.isfinite(number):
        raise InputError(
            f"{text!r} is not a cost; expected a number such as 390M, or a multiple of the best single model's cost "
            "such as 0.5x."
        )
    if found["unit"] == "x":
        return number * frontier.best_single.average_cost
    return number * _TIMES[found["unit"]]


def wanted_score(text: str | float, frontier: Frontier) -> float:
    """A least score as the command line takes it: "best" (the best single model's) or a number of the metric's own.

    Returns:
        Higher is better, as in plans: a loss is negated.
    Raises:
        InputError: if it is neither.
    """
    if str(text).strip() == "best":
        return frontier.best_single.score
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    metric = frontier.best_single.metric
    if not math.isfinite(number) or (metric == "accuracy" and not 0 <= number <= 1):
        raise InputError(f"{text!r} is not a least {metric}; expected 'best', or a number such as 0.79.")
    known = METRICS.get(metric)
    return number if known is None or known.greater_is_better else -number
