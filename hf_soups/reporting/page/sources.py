"""What a report shows, read once: a sweep with its soups, pools of predictions with their searches, and cascades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hf_soups.batch_predict.outputs import MANIFEST, read_answers, weights_of
from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.stored import StoredCascade, read_stored
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.checkpoint import Checkpoint
from hf_soups.costs import UNITS
from hf_soups.errors import HfSoupsError, InputError, PredictionsError
from hf_soups.files.downloads import refuse_links_out
from hf_soups.files.reading import is_there, read_json, visible
from hf_soups.finetune.run_record import RUN_FILE
from hf_soups.leaderboard import Leaderboard, leaderboard_of
from hf_soups.leaderboard.rows import Row, ScoredModel, ScoredModels, read_scored_models
from hf_soups.leaderboard.without_sweep import holds_answers
from hf_soups.metrics import METRICS
from hf_soups.pool import Pool, read_pool
from hf_soups.pool.report_rows import OtherPool
from hf_soups.pool.store import POOL_FILE
from hf_soups.pool_jobs.plans import check_frontier
from hf_soups.pool_jobs.search import FRONTIER_FILE
from hf_soups.predictions import Predictions, same_rows
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.recipe.task import METRIC_OF
from hf_soups.reporting.drift import Watched, watch
from hf_soups.soups.soup_record import SOUP_FILE
from hf_soups.sweep.folder import PLAN_FILE
from hf_soups.wording import cost_in_words

Kind = Literal["sweep", "pool", "cascade", "answers"]
WANTED = (
    "Name a sweep (hf-soups sweep), a pool of predictions (hf-soups predict), a cascade (hf-soups cascade build), "
    "perhaps with its answers to new rows, or a folder that holds them."
)
DEPTH = 2  # levels below a folder that holds them: preds/select


@dataclass(frozen=True)
class ShownSweep:
    """A sweep with all that was made of it."""

    folder: Path
    found: ScoredModels
    board: Leaderboard


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

    @property
    def chosen_plan(self) -> tuple[int, Plan] | None:
        """The cascade that represents the frontier: the cheapest at the best single model's score, else the best."""
        frontier = self.frontier
        several = [(i, p) for i, p in enumerate(frontier.plans) if len(p.members) > 1 and not p.is_ensemble]
        matching = [(i, p) for i, p in several if p.score >= frontier.best_single.score]
        if matching:
            return min(matching, key=lambda found: (found[1].average_cost, -found[1].score))
        return max(several, key=lambda found: (found[1].score, -found[1].average_cost), default=None)


@dataclass(frozen=True)
class ShownCascade:
    """A cascade, and its answers where those of its members are at hand."""

    name: str  # its folder, or a plan such as preds/frontier.json#3
    plan: Plan
    answered: AnsweredPool | None = None  # the models that its members are among
    answers: CascadePredictions | None = None
    note: str = ""  # why there are no answers

    @property
    def role(self) -> str:
        """Of the rows that it answered."""
        return self.answered.role if self.answered is not None else "select"

    @property
    def rows(self) -> int:
        """That it answered; without answers those of the search."""
        return len(self.answers) if self.answers is not None else self.plan.rows

    @property
    def chain(self) -> str:
        """Its members in order."""
        return " → ".join(self.plan.members)

    @property
    def row_name(self) -> str:
        """Its name on the leaderboard."""
        return f"{Path(self.name).name} ({self.chain})"


@dataclass(frozen=True)
class ReportContent:
    """Everything that the sections are made of."""

    sweep: ShownSweep | None
    answered: tuple[AnsweredPool, ...]
    cascades: tuple[ShownCascade, ...]
    pools: tuple[Pool, ...]  # also those that are only the report rows of another
    watched: tuple[Watched, ...] = ()  # answers of the cascades to new rows

    @property
    def board(self) -> Leaderboard | None:
        """The sweep's leaderboard."""
        return None if self.sweep is None else self.sweep.board


def read_content(folders: Sequence[str | Path], *, resamples: int = 1000, progress: bool = False) -> ReportContent:
    """Everything in the folders; no model is loaded.

    Args:
        folders: a sweep, pools of predictions, cascades, or folders that hold them.
        resamples: bootstrap resamples of each interval.
        progress: show progress.
    Raises:
        InputError: if a folder is none of these, or one cannot be read.
    """
    sources, sweep = find_sources(folders), None
    answered, pools = _read_pools(sources.pools)
    found = None if sources.sweep is None else read_scored_models(sources.sweep)
    if found is not None and sources.sweep is not None:
        answered = (*_searched_in(sources.sweep, found), *answered)
    cascades = _cascades(sources.cascades, answered)
    if found is not None and sources.sweep is not None:
        found = replace(found, cascades=(*found.cascades, *_on_the_same_rows(cascades, found)))
        board = leaderboard_of(found, sources.sweep, resamples=resamples, progress=progress)
        sweep = ShownSweep(sources.sweep, found, board)
    watched = tuple(_watched(folder, sources.cascades) for folder in sources.answers)
    return ReportContent(sweep, answered, cascades, pools, tuple(one for one in watched if one is not None))


def _watched(answers: Path, cascades: Sequence[Path]) -> Watched | None:
    """The answers of one of these cascades; None: they are another model's."""
    weights = read_answers(answers).weights
    own = next((cascade for cascade in cascades if weights_of(Checkpoint(str(cascade))) == weights), None)
    return None if own is None else watch(own, answers)


# Which folders


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders by what they are, each as the user named it."""

    sweep: Path | None = None
    pools: tuple[Path, ...] = ()
    cascades: tuple[Path, ...] = ()
    answers: tuple[Path, ...] = ()


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
    sweeps, pools, cascades, answers = (
        tuple(path for kind, path in found.values() if kind == wanted)
        for wanted in ("sweep", "pool", "cascade", "answers")
    )
    if len(sweeps) > 1:
        raise InputError(
            f"{' and '.join(map(str, sweeps))} are sweeps; a report is about one, since scores of two are of other "
            "rows or starts. Make a report of each."
        )
    if answers and not (sweeps or pools or cascades):
        raise InputError(
            f"{answers[0]} holds answers, which a report compares with what their cascade was chosen on. Name the "
            "cascade too."
        )
    return Sources(next(iter(sweeps), None), pools, cascades, answers)


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
    if visible(folder, f"*/{RUN_FILE}"):
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
    if (folder / PLAN_FILE).is_file() or ((folder / RECIPE_FILE).is_file() and holds_answers(folder)):
        return "sweep"
    if (folder / POOL_FILE).is_file():
        return "pool"
    if (folder / MANIFEST).is_file():
        return "answers"
    return "cascade" if _model_type(folder / "config.json") == "cascade" else None


def _model_type(config: Path) -> Any:
    try:
        return read_json(config).get("model_type")
    except (OSError, InputError):
        return None


# Searches


def _searched_in(sweep: Path, found: ScoredModels) -> Iterator[AnsweredPool]:
    """The frontiers that are kept in a sweep; those that its leaderboard could not use are left out, as it says."""
    members = {c.row.name: c for c in (*found.runs, *found.soups)}
    for path in visible(sweep / "cascades", "*.json"):
        try:
            frontier = Frontier.load(path)
        except InputError:
            continue
        known = found.runs and all(plan.members[0] in members for plan in frontier.singles)
        if known and (not frontier.data or same_rows(frontier.data, found.runs[0].select.data)):
            select, report = ({n: c.answers[role] for n, c in members.items()} for role in ("select", "report"))
            yield AnsweredPool(str(path), frontier, select, report)


def _read_pools(folders: Sequence[Path]) -> tuple[tuple[AnsweredPool, ...], tuple[Pool, ...]]:
    """What was answered in each pool that is not the report of another, and all pools."""
    read = [_read_pool(folder) for folder in folders]
    elsewhere = [folder for _, _, folder in read if folder is not None]
    reports = {folder.resolve() for folder in elsewhere}
    kept = tuple(answered for pool, answered, _ in read if pool.folder.resolve() not in reports)
    return kept, (*(pool for pool, _, _ in read), *map(read_pool, elsewhere))


def _read_pool(at: Path) -> tuple[Pool, AnsweredPool, Path | None]:
    """The pool with the frontier that was searched on it; and where another pool holds its rows to report on.

    Raises:
        InputError: if the pool, or the one to report on, is not any more what the search saw.
    """
    path = at / FRONTIER_FILE
    if not is_there(path):
        pool = read_pool(at)
        return pool, _unsearched(pool), None
    frontier, folder, notes = Frontier.load(path), None, tuple[str, ...]()
    if isinstance(frontier.report, OtherPool):
        folder = Path(frontier.report.folder)
        if not folder.is_dir():
            notes = (
                f"The report rows of {path} ({folder}) are not there: its scores are of the rows it was chosen on.",
            )
            frontier, folder = replace(frontier, report=None), None
    parts = check_frontier(path, frontier, at)
    return parts.pool, AnsweredPool(str(path), frontier, parts.select, parts.report, parts.pool, notes), folder


def _unsearched(pool: Pool) -> AnsweredPool:
    """The pool's models alone, by what their rows are scored by, at the first cost that all of them have."""
    if not pool.members:
        raise InputError(f"{pool.folder}: a pool without members. Answer its rows with hf-soups predict first.")
    metric = METRICS[METRIC_OF[pool.data.problem_type]]
    unit, costs = _costs(pool)
    singles = []
    for name, answers in pool.predictions.items():
        score, cost = metric.compute(answers), costs.get(name, 0.0)
        how = {"average_cost": cost, "exit_shares": (1.0,), "unit": unit, "rows": len(answers), "metric": metric.name}
        singles.append(Plan((name,), (), (cost,), score=score, **how))  # type: ignore[arg-type]
    best = sorted(singles, key=lambda plan: (-plan.score, plan.average_cost))
    return AnsweredPool(str(pool.folder), Frontier((), tuple(best)), pool.predictions, None, pool)


def _costs(pool: Pool) -> tuple[str, dict[str, float]]:
    if not pool.shared_units():
        return "", {}
    unit = pool.unit()
    return unit, {name: cost.value for name, cost in pool.costs(unit).items()}


# Cascades


def _cascades(folders: Sequence[Path], answered: Sequence[AnsweredPool]) -> tuple[ShownCascade, ...]:
    """The cascades of the folders, then one for each search whose models none of them is made of."""
    shown = [_built(folder, answered) for folder in folders]
    used = [cascade.answered for cascade in shown]
    for some in answered:
        if not any(some is other for other in used) and some.chosen_plan is not None:
            index, plan = some.chosen_plan
            shown.append(ShownCascade(f"{some.name}#{index}", plan, some, plan.apply(some.shown)))
    return tuple(shown)


def _built(folder: Path, answered: Sequence[AnsweredPool]) -> ShownCascade:
    refuse_links_out(folder)
    config = read_stored(folder)
    plan = config.built
    for some in answered:
        if _same_models(folder, config, some):
            return ShownCascade(str(folder), plan, some, plan.apply(some.shown))
    note = (
        f"{folder}: no pool here holds the predictions of its members ({', '.join(plan.members)}), so only the shares "
        "of the search are known. Name the pool that it was built from as well."
    )
    return ShownCascade(str(folder), plan, note=note)


def _on_the_same_rows(cascades: Sequence[ShownCascade], found: ScoredModels) -> Iterator[ScoredModel]:
    """The cascades of pools that answered the rows of the sweep's leaderboard, as lines of it."""
    for cascade in cascades:
        some, answers = cascade.answered, cascade.answers
        if not found.runs or some is None or some.pool is None or some.report is None or answers is None:
            continue
        plan, first = cascade.plan, found.runs[0]
        try:
            own = {
                "select": plan.apply(some.select).aligned_to(first.select),
                "report": answers.aligned_to(first.report),
            }
        except PredictionsError:  # other rows or labels
            continue
        cost = plan.average_cost if answers.costs is None else float(answers.costs.mean())
        row = Row("cascade", cascade.row_name, "finished", ingredients=len(plan.members))
        known = [some.pool.members[name].parameters for name in plan.members]
        if plan.unit == "macs":
            row = replace(row, macs=round(cost))
        else:
            unit = UNITS.get(plan.unit, plan.unit or "a unit that is not known")
            row = replace(row, made_of=f"average cost {cost_in_words(cost)} in {unit}")
        parameters = sum(n for n in known if n is not None) if None not in known else None
        yield ScoredModel(replace(row, parameters=parameters), own)


def _same_models(folder: Path, config: StoredCascade, some: AnsweredPool) -> bool:
    """Whether a pool's members of the same names are the cascade's: at the same cost, copies with the same weights."""
    plan, pool = config.built, some.pool
    if pool is None or any(name not in pool.members for name in plan.members):
        return False
    try:
        costs = tuple(pool.members[name].cost(plan.unit).value for name in plan.members)
        if plan.unit and costs != plan.costs:
            return False
        own = {place.name: place.subfolder for place in config.places if place.is_inside}
        copies = [(pool.members[name].sha256, own[name]) for name in plan.members if own.get(name)]
        return all(not sha256 or sha256 == Checkpoint(folder, subfolder=at).sha256() for sha256, at in copies)
    except HfSoupsError:  # not measured in that unit, or a copy cannot be read
        return False
