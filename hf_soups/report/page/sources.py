"""Reading what a report shows: a sweep with its soups, pools of predictions, cascades and searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.costs import UNITS
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.reading import is_there, read_json
from hf_soups.finetune.run_record import RUN_FILE
from hf_soups.leaderboard import Leaderboard, leaderboard_of
from hf_soups.leaderboard.read_sweep import read_scored_models
from hf_soups.leaderboard.rows import ScoredModels
from hf_soups.metrics import METRICS
from hf_soups.pool import Pool, read_pool
from hf_soups.pool.report_rows import OtherPool
from hf_soups.pool.store import POOL_FILE
from hf_soups.pool_jobs.plans import check_frontier
from hf_soups.pool_jobs.search import FRONTIER_FILE
from hf_soups.predictions import Predictions, same_rows
from hf_soups.soups.soup_record import SOUP_FILE, SoupRecord, read_soup
from hf_soups.sweep.folder import PLAN_FILE, Run, SoupPointer, SweepFolder

Kind = Literal["sweep", "pool", "cascade"]
WANTED = (
    "Name a sweep (hf-soups sweep), a pool of predictions (hf-soups predict), a cascade (hf-soups cascade build), or a "
    "folder that holds them."
)
DEPTH = 2  # levels below a folder that holds them: preds/select


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders by what they are, each as the user named it."""

    sweep: Path | None = None
    pools: tuple[Path, ...] = ()
    cascades: tuple[Path, ...] = ()


def find_sources(folders: Sequence[str | Path]) -> Sources:
    """The sweep, pools and cascades among `folders`, or inside them.

    Raises:
        InputError: if there is no folder, one is none of these, or there are two sweeps.
    """
    if not folders:
        raise InputError(f"no folder is named, so there is nothing to report. {WANTED}")
    found: dict[Path, tuple[Kind, Path]] = {}  # by resolved path: a folder named twice is one
    for folder in map(Path, folders):
        for kind, path in _inside(folder):
            found.setdefault(path.resolve(), (kind, path))
    sweeps, pools, cascades = (
        tuple(path for kind, path in found.values() if kind == wanted) for wanted in ("sweep", "pool", "cascade")
    )
    if len(sweeps) > 1:
        raise InputError(
            f"{' and '.join(map(str, sweeps))} are sweeps; a report is about one, since scores of two are of other "
            "rows or starts. Make a report of each."
        )
    return Sources(next(iter(sweeps), None), pools, cascades)


def _inside(folder: Path) -> list[tuple[Kind, Path]]:
    """What a folder is, or else what it holds; never empty."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. {WANTED}")
    kind = _kind_of(folder)
    if kind is not None:
        return [(kind, folder)]
    if (folder / SOUP_FILE).is_file():
        raise InputError(
            f"{folder} is a soup; a report finds the soups of a sweep by itself. Name the sweep that it was cooked "
            "from."
        )
    held = list(_below(folder, DEPTH))
    if held:
        return held
    if any(folder.glob(f"*/{RUN_FILE}")):
        return [("sweep", folder)]
    raise InputError(f"{folder} holds no sweep, pool or cascade. {WANTED}")


def _below(folder: Path, depth: int) -> Iterator[tuple[Kind, Path]]:
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        kind = _kind_of(path)
        if kind is not None:
            yield kind, path
        elif depth > 1:
            yield from _below(path, depth - 1)


def _kind_of(folder: Path) -> Kind | None:
    if (folder / PLAN_FILE).is_file():
        return "sweep"
    if (folder / POOL_FILE).is_file():
        return "pool"
    return "cascade" if _model_type(folder / "config.json") == "cascade" else None


def _model_type(config: Path) -> Any:
    try:
        return read_json(config).get("model_type")
    except (OSError, InputError):
        return None


@dataclass(frozen=True)
class ShownSweep:
    """A sweep with all that was made of it."""

    folder: Path
    found: ScoredModels
    board: Leaderboard
    runs: tuple[Run, ...]
    soups: Mapping[str, SoupRecord]  # by the soup's name in the leaderboard


@dataclass(frozen=True)
class AnsweredPool:
    """Models that answered the same rows, with the plans that a search found among them."""

    name: str  # of the frontier's file, or the pool's folder
    frontier: Frontier  # without plans where nothing was searched
    select: Mapping[str, Predictions]
    report: Mapping[str, Predictions] | None  # rows that nothing was chosen on
    pool: Pool | None = None  # None: the models of a sweep
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> Mapping[str, Predictions]:
        """The answers that a report shows: those that nothing was chosen on, where there are any."""
        return self.select if self.report is None else self.report

    @property
    def role(self) -> str:
        """Of the rows that are shown."""
        return "select" if self.report is None else "report"


def read_sweep(folder: Path, *, resamples: int) -> ShownSweep:
    """The sweep's contenders, leaderboard and soups.

    Raises:
        InputError: if there is no run in the folder.
    """
    found, sweep = read_scored_models(folder), SweepFolder(folder)
    records = {f"{pointer.method} soup": record for pointer in sweep.soups() if (record := _record(pointer))}
    return ShownSweep(folder, found, leaderboard_of(found, folder, resamples=resamples), sweep.runs(), records)


def searched_in(sweep: ShownSweep) -> Iterator[AnsweredPool]:
    """The frontiers that are kept in a sweep; those that its leaderboard could not use are left out, as it says."""
    members = {c.row.name: c for c in (*sweep.found.runs, *sweep.found.soups)}
    for path in sorted((sweep.folder / "cascades").glob("*.json")):
        try:
            frontier = Frontier.load(path)
        except InputError:
            continue
        known = all(plan.members[0] in members for plan in frontier.singles)
        if (
            known
            and sweep.found.runs
            and (not frontier.data or same_rows(frontier.data, sweep.found.runs[0].select.data))
        ):
            select, report = ({n: getattr(c, role) for n, c in members.items()} for role in ("select", "report"))
            yield AnsweredPool(str(path), frontier, select, report)


def read_pools(folders: Sequence[Path]) -> tuple[tuple[AnsweredPool, ...], tuple[Pool, ...]]:
    """What was answered in each pool that is not the report of another, and all pools.

    Raises:
        InputError: if a pool cannot be read.
    """
    pools = [read_pool(folder) for folder in folders]
    read = [_answered(pool) for pool in pools]
    reports = {r.report_folder.resolve() for r in read if r.report_folder is not None}
    kept = tuple(r.answered for r in read if r.answered.pool and r.answered.pool.folder.resolve() not in reports)
    others = [read_pool(r.report_folder) for r in read if r.report_folder is not None]
    return kept, (*pools, *others)


@dataclass(frozen=True)
class _Read:
    answered: AnsweredPool
    report_folder: Path | None = None  # where the rows to report on are another pool's


def _answered(pool: Pool) -> _Read:
    """The pool with the frontier that was searched on it.

    Raises:
        InputError: if the pool, or the one to report on, is not any more what the search saw.
    """
    path = pool.folder / FRONTIER_FILE
    if not is_there(path):
        return _Read(_unsearched(pool))
    frontier, folder = Frontier.load(path), None
    notes: tuple[str, ...] = ()
    if isinstance(frontier.report, OtherPool):
        folder = Path(frontier.report.folder)
        if not folder.is_dir():
            notes = (f"The rows that {path} was to report on ({folder}) are not there: its scores are of the rows it "
                     "chose on.",)  # fmt: skip
            frontier, folder = replace(frontier, report=None), None
    parts = check_frontier(path, frontier, pool.folder)
    return _Read(AnsweredPool(str(path), frontier, parts.select, parts.report, pool, notes), folder)


def _unsearched(pool: Pool) -> AnsweredPool:
    """The pool's models alone, by accuracy, at the first cost that all of them have."""
    if not pool.members:
        raise InputError(f"{pool.folder}: a pool without members. Answer its rows with hf-soups predict first.")
    metric = METRICS["accuracy"]
    unit, costs = _costs(pool)
    singles = [
        Plan(
            (name,), (), (costs.get(name, 0.0),), score=metric.compute(answers), average_cost=costs.get(name, 0.0),
            exit_shares=(1.0,), unit=unit, rows=len(answers),
        )
        for name, answers in pool.predictions.items()
    ]  # fmt: skip
    best = sorted(singles, key=lambda plan: (-plan.score, plan.average_cost))
    return AnsweredPool(str(pool.folder), Frontier((), tuple(best)), pool.predictions, None, pool)


def _costs(pool: Pool) -> tuple[str, dict[str, float]]:
    for unit in UNITS:
        try:
            return unit, {name: cost.value for name, cost in pool.costs(unit).items()}
        except InputError:  # not measured for all of them
            continue
    return "", {}


def _record(pointer: SoupPointer) -> SoupRecord | None:
    """What a soup's soup.json says; None where it cannot be read, which the leaderboard's notes tell."""
    try:
        return read_soup(pointer.folder())
    except (OSError, HfSoupsError):
        return None
