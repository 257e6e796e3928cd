"""Rows of the leaderboard: every run and soup of a sweep with its answers, and ensembles and cascades of them.

Everything is read from files; no model is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.provenance import Seen, changed
from hf_soups.cascades.rule import rule_for
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.costs import Cost
from hf_soups.ensembles import geometric_mean, mean, select_ensemble
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import REGRESSION
from hf_soups.files.reading import visible
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.metrics import METRICS, Metric, Score, metric_for
from hf_soups.predictions import Predictions, same_rows
from hf_soups.recipe.task import SHIFT
from hf_soups.soups.soup_record import MAYBE_TRAINED_ON, SoupRecord, read_soup
from hf_soups.sweep.folder import Run, SoupPointer, SweepFolder

UNUSABLE = ("unusable predictions", "gone", "unreadable")  # of something that is there, but spoilt
KINDS = ("best on select", "soup", "ensemble", "cascade", "run")
MEANS = {"mean-logit ensemble": geometric_mean, "mean-prob ensemble": mean}
MEAN_OF_NUMBERS = {"mean ensemble": mean}
RANKED = 100_000  # numbers whose ranking takes hundredths of a second
SELECTED = "selected ensemble"
FOLDER = "cascades"  # of a sweep; every frontier in it is shown
FRONTIER = "frontier.json"
POOL = 12  # the best on select that are searched: all triples of them take seconds
MEMBERS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the leaderboard; scores as the metric gives them, not x 100."""

    kind: str  # one of KINDS
    name: str
    status: str  # "finished", or why there are no scores
    reason: str = ""
    ingredients: int | None = None
    pool: int | None = None  # how many there were to choose from
    select: float | None = None
    select_low: float | None = None  # 95% interval by row
    select_high: float | None = None
    report: float | None = None
    report_low: float | None = None
    report_high: float | None = None
    report_gain: float | None = None  # over the best on select
    gain: str = ""  # the same in words
    report_nll: float | None = None
    report_ece: float | None = None
    parameters: int | None = None
    macs: int | None = None  # multiply-adds per example; of a cascade their average over report rows
    train_seconds: float | None = None  # of all ingredients together
    device: str = ""  # that the training seconds were measured on
    made_of: str = ""  # members and their weights or thresholds, where they were chosen
    shifts: Mapping[str, Score] = field(default_factory=dict)  # by shift; those that were answered


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """Something that answered select and report, and the row that says what it is."""

    row: Row
    answers: Mapping[str, Predictions]  # select, report, shift-<name>
    trained: tuple[str, ...] = ()  # the runs whose training it took

    @property
    def select(self) -> Predictions:
        """Its answers on the rows that soups are chosen on."""
        return self.answers["select"]

    @property
    def report(self) -> Predictions:
        """Its answers on the rows that are looked at once."""
        return self.answers["report"]


@dataclass(frozen=True, eq=False)
class ScoredModels:
    """All that can be compared, and what cannot be and why. All answers of one split have their rows in one order."""

    metric: Metric
    runs: tuple[ScoredModel, ...]  # the best on select first
    soups: tuple[ScoredModel, ...]
    ensembles: tuple[ScoredModel, ...]
    unscored: tuple[Row, ...]
    notes: tuple[str, ...]  # answers on shifts that cannot be used, and rows that are not there
    cascades: tuple[ScoredModel, ...] = ()
    planned: tuple[Run, ...] = ()  # every run, finished or not
    soup_records: Mapping[str, SoupRecord] = field(default_factory=dict)  # what soup.json holds, by row name

    @property
    def everything(self) -> tuple[ScoredModel, ...]:
        """All that answered, in the order of the leaderboard's kinds."""
        return (*self.soups, *self.ensembles, *self.cascades, *self.runs)

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the shifts that anything answered, in alphabetical order."""
        everything = (*self.runs, *self.soups)
        return tuple(sorted({r.removeprefix(SHIFT) for c in everything for r in c.answers if r.startswith(SHIFT)}))


def rank_of(metric: Metric, value: float | None) -> float:
    """Smaller is better; NaN and None come last. Report scores are never ranked."""
    return math.inf if value is None else -metric.rank(value)


def _open(error: Exception) -> str:
    """What an error says, to go on from."""
    return str(error).removesuffix(".")


def _sum(values: Sequence[Any]) -> Any:
    """The sum, or None when a part of it is not known."""
    return None if any(v is None for v in values) else sum(values)


def _devices(rows: Sequence[Row]) -> str:
    """The devices that they were trained on."""
    return " + ".join(sorted({row.device for row in rows if row.device}))


# Reading a sweep


def read_scored_models(folder: str | Path, *, report: str = "") -> ScoredModels:
    """Everything under a sweep's folder that answered, from its cached predictions; no model is loaded.

    Args:
        folder: a sweep's folder, one that holds run folders, a pool, or what `answer_checkpoints` made.
        report: of a pool, the rows to report on: a share such as 0.5 (the default), or another pool's folder.
    Raises:
        InputError: if there is no run in the folder.
    """
    from hf_soups.leaderboard.without_sweep import is_pool, models_of_pools  # which makes what is defined here

    at = Path(folder)
    if is_pool(at):
        return with_cascades(with_ensembles(models_of_pools(at, report)), at)
    sweep = SweepFolder(at)
    _refuse_a_folder_of_sweeps(sweep)
    runs = sweep.runs()
    if not runs:
        raise InputError(f"{at}: no runs here. Give the folder of a sweep (it holds plan.json and run folders).")
    metric = metric_for(sweep.task(runs))
    reader = _Reader()
    answered = [c for run in runs if (c := reader.run(run)) is not None]
    answered.sort(key=lambda c: rank_of(metric, metric.compute(c.select)))
    members = {c.row.name: c.row for c in answered}
    soups = [c for pointer in sweep.soups() if (c := reader.soup(pointer, members)) is not None]
    found = ScoredModels(
        metric,
        runs=tuple(answered),
        soups=tuple(soups if answered else ()),
        ensembles=(),
        unscored=tuple(reader.unscored),
        notes=tuple(reader.notes),
        planned=runs,
        soup_records=reader.soup_records,
    )
    return with_cascades(with_ensembles(found), at)


def _refuse_a_folder_of_sweeps(folder: SweepFolder) -> None:
    """One folder too high: what else lies beside a sweep is none of its runs."""
    inside = [] if folder.planned else [p for p in visible(folder.path, "*") if SweepFolder(p).planned]
    if inside:
        named = ", ".join(map(str, sorted(inside)))
        raise InputError(f"{folder} is no sweep, but holds {len(inside)}: {named}. Name the sweep's own folder.")


class _Reader:
    """Reads predictions, with the rows of each split in the order of the first that was read."""

    def __init__(self) -> None:
        self.unscored: list[Row] = []
        self.notes: list[str] = []
        self.soup_records: dict[str, SoupRecord] = {}
        self._first: dict[str, Predictions] = {}

    def run(self, run: Run) -> ScoredModel | None:
        """The run with its answers; without usable ones it joins the unscored."""
        row = _run_row(run)
        if not run.finished:
            self.unscored.append(row)
            return None
        try:
            return ScoredModel(row, self._answers(run.folder / PREDICTIONS, row.name), trained=(row.name,))
        except PredictionsError as error:
            self.unscored.append(replace(row, status=UNUSABLE[0], reason=str(error)))
            return None

    def soup(self, pointer: SoupPointer, members: Mapping[str, Row]) -> ScoredModel | None:
        """A soup cooked from these runs; if it cannot be read any more it joins the unscored."""
        row = Row("soup", f"{pointer.method} soup", "finished")
        try:
            folder = pointer.folder()
            record = self.soup_records[row.name] = read_soup(folder)
            answers = self._answers(folder / PREDICTIONS, row.name)
            if record.select_optimistic:
                self.notes.append(f"{row.name}: {MAYBE_TRAINED_ON}.")
            return ScoredModel(soup_row(row, record, members), answers, trained=record.models)
        except (OSError, InputError) as error:
            self.unscored.append(replace(row, status=UNUSABLE[1], reason=f"{_open(error)}. Cook it again."))
            return None

    def _answers(self, folder: Path, name: str) -> dict[str, Predictions]:
        found = {role: self._aligned(role, folder) for role in ("select", "report")}
        for role, predictions in found.items():
            self._first.setdefault(role, predictions)
        return {**found, **dict(self._shifts(folder, name))}

    def _shifts(self, folder: Path, name: str) -> Iterator[tuple[str, Predictions]]:
        for path in visible(folder, f"{SHIFT}*.safetensors"):
            try:
                found = self._aligned(path.stem, folder)
            except PredictionsError as error:
                shift = path.stem.removeprefix(SHIFT)
                self.notes.append(f"{name} on {shift}: {error} `hf-soups answer` makes these answers again.")
                continue
            self._first.setdefault(path.stem, found)
            yield path.stem, found

    def _aligned(self, role: str, folder: Path) -> Predictions:
        path = folder / f"{role}.safetensors"
        found = Predictions.load(path)
        try:
            return found.aligned_to(self._first[role]) if role in self._first else found
        except PredictionsError as error:
            raise PredictionsError(f"{path}: {error}") from error


def _run_row(run: Run) -> Row:
    if run.record is None:
        return Row("run", run.name, run.status, run.reason)
    about = {key: getattr(run.record, key) for key in ("parameters", "macs", "train_seconds", "device")}
    return Row("run", run.name, run.status, run.reason, **about)


def soup_row(row: Row, record: SoupRecord, runs: Mapping[str, Row]) -> Row:
    """The row with what soup.json and the rows of the runs in it say."""
    members = [runs[name] for name in record.models if name in runs]
    return replace(
        row,
        status="optimistic" if record.optimistic else "finished",
        reason="chosen on the report rows, so its report score is too good" if record.optimistic else "",
        ingredients=len(record.models),
        pool=len(record.pool) or None,
        parameters=members[0].parameters if members else None,
        macs=members[0].macs if members else None,
        train_seconds=_sum([m.train_seconds for m in members]) if len(members) == len(record.models) else None,
        device=_devices(members),
    )


# Ensembles and cascades of what was read


Combination = Callable[[Mapping[str, Predictions]], Predictions]  # of members by name


def with_ensembles(found: ScoredModels) -> ScoredModels:
    """With both means of all runs, of two or more, and the ensemble that was selected on select.

    Of a regression the mean of numbers is the only mean. Where the metric is no sum over rows, as metrics by
    `evaluate` and rankings of many rows, selection would compute it thousands of times: it is left out, and a note says
    so.
    """
    if len(found.runs) < 2:
        return found
    ensembles = []
    numbers = found.runs[0].select.problem_type == REGRESSION
    for name, combine in (MEAN_OF_NUMBERS if numbers else MEANS).items():
        row = Row("ensemble", name, "finished", pool=len(found.runs))
        ensembles.append(_joint(found, found.runs, row, partial(_all_of, combine)))
    if not _is_quick(found.metric, found.runs[0].select):
        why = f"{found.metric.name} is not a sum over rows, so that greedy selection would take too long."
        return replace(found, ensembles=tuple(ensembles), notes=(*found.notes, f"No {SELECTED}: {why}"))
    chosen = select_ensemble({c.row.name: c.select for c in found.runs}, found.metric)
    weights = ", ".join(f"{name} {weight:.2g}" for name, weight in chosen.weights.items())
    row = Row("ensemble", SELECTED, "finished", pool=len(found.runs), made_of=f"weights: {weights}")
    members = [c for name in chosen.weights for c in found.runs if c.row.name == name]
    return replace(found, ensembles=(*ensembles, _joint(found, members, row, chosen.apply)))


def _is_quick(metric: Metric, select: Predictions) -> bool:
    """Whether a metric can be computed for every ensemble that selection looks at."""
    small = metric.name in METRICS and len(select) * select.classes <= RANKED
    return small or metric.row_statistics is not None


def _all_of(combine: Callable[[list[Predictions]], Predictions], known: Mapping[str, Predictions]) -> Predictions:
    return combine(list(known.values()))


def _joint(found: ScoredModels, members: Sequence[ScoredModel], row: Row, combine: Combination) -> ScoredModel:
    """Several models as one: their combined answers, their costs, and the runs whose training they took, each once."""
    roles = [role for role in members[0].answers if all(role in m.answers for m in members)]
    answers = {role: combine({m.row.name: m.answers[role] for m in members}) for role in roles}
    runs = {c.row.name: c.row for c in found.runs}
    trained = tuple(dict.fromkeys(name for m in members for name in m.trained))
    known = [runs[name] for name in trained if name in runs]
    complete = all(m.trained for m in members) and len(known) == len(trained)
    filled = replace(
        row,
        ingredients=len(members),
        parameters=_sum([m.row.parameters for m in members]),
        macs=_sum([m.row.macs for m in members]),
        train_seconds=_sum([r.train_seconds for r in known]) if complete else None,
        device=_devices(known),
    )
    return ScoredModel(filled, answers, trained)


def search_among(found: ScoredModels, folder: str | Path, *, max_members: int = MEMBERS, pool: int = POOL) -> Path:
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
    from hf_soups.cascades.search.exhaustive import search_cascades

    if found.runs:
        rule_for(found.runs[0].select, "mean", "max")  # a regression has no cascades, whatever its metric
    if found.metric.name not in METRICS or found.metric.row_statistics is None:
        raise InputError(
            f"cascades cannot be searched by {found.metric.name}, which is no sum over rows; the metrics that can are "
            f"{', '.join(name for name, metric in METRICS.items() if metric.row_statistics is not None)}."
        )
    # what was chosen on the report rows would make the cascade's report score too good as well
    able = [c for c in (*found.runs, *found.soups) if c.row.macs is not None and c.row.status == "finished"]
    if len(able) < 2:
        raise InputError(
            f"{folder}: cascades are searched among runs and soups that answered and whose multiply-adds are recorded; "
            f"there are {len(able)}, and it takes two. A pool with costs of another unit: hf-soups cascade "
            "search."
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


def with_cascades(found: ScoredModels, folder: str | Path) -> ScoredModels:
    """With the cascades of every frontier in the sweep's folder.

    Of each frontier two plans are shown: the cheapest on average that scores as the best single model, and the one that
    scores best on select. A frontier that cannot be read, or whose members or rows are gone, joins the unscored.
    """
    cascades, unscored = [], []
    for path in visible(Path(folder) / FOLDER, "*.json"):
        row = Row("cascade", f"cascade of {path.name}", "gone")
        try:
            if found.runs:
                cascades += _cascades_of(found, Frontier.load(path), "" if path.name == FRONTIER else f"{path.stem}: ")
        except (InputError, PredictionsError) as error:
            unscored.append(replace(row, reason=f"{error} Search again."))
    return replace(found, cascades=tuple(cascades), unscored=(*found.unscored, *unscored))


def _cascades_of(found: ScoredModels, frontier: Frontier, prefix: str) -> list[ScoredModel]:
    if frontier.data and not same_rows(frontier.data, found.runs[0].select.data):
        raise InputError("it was searched on other rows than the sweep's select.")
    known = {c.row.name: c for c in (*found.runs, *found.soups)}
    shown = tuple(_shown(frontier))
    names = list(dict.fromkeys(name for _, plan in shown for name in plan.members))
    now = Seen.of({name: known[name].select for name in names if name in known})
    if frontier.chosen_on is not None and (differ := changed(frontier.chosen_on, now, names)):
        raise InputError(f"{'; '.join(differ)}.")
    cascades = []
    for name, plan in shown:
        if missing := [member for member in plan.members if member not in known]:
            raise InputError(f"{', '.join(missing)} did not answer here.")
        row = Row("cascade", prefix + name, "finished", pool=len(frontier.singles), made_of=_stages_in_words(plan))
        made = _joint(found, [known[member] for member in plan.members], row, plan.apply)
        report = made.report
        assert isinstance(report, CascadePredictions)
        assert report.costs is not None
        cascades.append(replace(made, row=replace(made.row, macs=round(float(report.costs.mean())))))
    return cascades


def _shown(frontier: Frontier) -> Iterator[tuple[str, Plan]]:
    """The plans with several members among the cheapest at the best single's score and the best."""
    cheapest, best = frontier.cheapest(), frontier.best()
    if cheapest is not None and len(cheapest.members) > 1:
        yield "cheapest cascade", cheapest
    if best is not None and len(best.members) > 1 and best != cheapest:
        yield "best cascade", best


def _stages_in_words(plan: Plan) -> str:
    """Members in order, each with the confidence that rows exit at."""
    stages = [
        f"{name} (exits at {t:.3g})" if t <= 1 else name for name, t in zip(plan.members, plan.thresholds, strict=False)
    ]
    return " -> ".join([*stages, plan.members[-1]])
