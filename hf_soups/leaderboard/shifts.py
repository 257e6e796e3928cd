"""Answer: rows of other distributions answered by everything that a sweep has made, with one live model.

The answers are kept beside those of select and report, so the leaderboard shows each shift as a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.checkpoint import Checkpoint, sources_of
from hf_soups.data import Split, load_splits
from hf_soups.errors import InputError, PredictionsError
from hf_soups.finetune.run_record import PREDICTIONS, RUN_FILE
from hf_soups.metrics import Metric, metric_for
from hf_soups.predictions import Predictions, same_rows
from hf_soups.recipe import Recipe, load_recipe
from hf_soups.recipe.task import SHIFT
from hf_soups.sweep.folder import Run, SweepFolder, shared_recipe
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.models.family import Encoded, Family
    from hf_soups.progress import Meter
    from hf_soups.soups.mixing.live import LiveMixer

EXAMPLE = "--set 'task.shifts.books={path: FOLDER, split: test}'"


@dataclass(frozen=True, slots=True)
class WeightsOnDisk:
    """A checkpoint on disk, and where its answers are kept."""

    name: str
    folder: Path
    predictions: Path


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """What a call answered, what had been answered before, and what could not be."""

    scores: Mapping[tuple[str, str], float]  # (answerer, shift) -> the task's metric
    kept: int  # answers that were there, of exactly these rows
    failed: Mapping[str, str]  # answerer or soup -> reason

    @property
    def exit_status(self) -> int:
        """0 if everything is answered, else 1."""
        return 1 if self.failed else 0


def answer(
    sources: Sequence[str | Path] | str | Path,
    *,
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> AnswerResult:
    """Answer the shifts of a task with every finished run and every soup of a sweep, or with the given checkpoints.

    What is there already, of exactly these rows, is kept; so the call can be killed and repeated. A sweep remembers
    its shifts: soups cooked later answer them as well.

    Args:
        sources: one sweep's folder, or folders of checkpoints.
        recipe: whose shifts to answer; for checkpoints that are no runs of one recipe, their task and data too.
        overrides: values of the recipe to change, such as "task.shifts.books".
        cache: folder of encoded rows; default: the sweep's.
        device: where the model runs; default: the GPU when there is one.
        progress: show progress.
    Raises:
        InputError: if there is no shift, or nothing that could answer it.
        DataError: if a shift's rows cannot be used; nothing is answered then.
    """
    from hf_soups.progress import Meter

    named = sources_of(sources)
    sweep = _sweep_among(named)
    known = _sweeps_recipe(sweep, recipe, overrides) if sweep else _recipe_of(named, recipe, overrides)
    if not known.task.shifts:
        raise InputError(f"the recipe lists no shifts under `task.shifts`, so there is nothing to answer: {EXAMPLE}.")
    answerers, failed = _of_sweep(sweep) if sweep else (_of_folders(named), {})
    splits = load_splits(known.task, known.data)
    if sweep is not None:
        sweep.write_shifts(known.task.shifts)
    todo = [(a, shift) for a in answerers for shift in splits.shifts if not _is_there(a, shift, splits.shifts[shift])]
    live = _Live(known, splits.shifts, cache or (sweep.cache if sweep else None), device, alike=sweep is not None)
    scores: dict[tuple[str, str], float] = {}
    total = sum(len(splits.shifts[shift]) for _, shift in todo)
    with Meter("answers", total, visible=progress) as meter:
        for a, shift, value in _answered(todo, live, metric_for(known.task), meter, failed):
            scores[a.name, shift] = value
    return AnswerResult(scores, len(answerers) * len(splits.shifts) - len(todo), failed)


def print_result(result: AnswerResult) -> None:
    """Print what could not be answered, and what to do next."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    kept = f"; {result.kept} were there before and are kept" if result.kept else ""
    console.print(f"{len(result.scores)} answers written{kept}.", style="bold")
    for name, reason in result.failed.items():
        console.print(f"not answered: {name}: {reason}", style="yellow")


# What answers


def _sweep_among(sources: Sequence[str | Path]) -> SweepFolder | None:
    sweeps = [folder for folder in (SweepFolder(Path(s)) for s in sources) if folder.planned]
    if sweeps and len(sources) > 1:
        raise InputError(f"{sweeps[0]} is a sweep; answer one sweep at a time, or checkpoints one by one.")
    return sweeps[0] if sweeps else None


def _sweeps_recipe(sweep: SweepFolder, recipe: str | Path | None, overrides: Mapping[str, Any] | None) -> Recipe:
    given = {} if recipe is None else load_recipe(recipe).task.shifts
    changes = {f"task.shifts.{name}": s.model_dump(mode="json", exclude_defaults=True) for name, s in given.items()}
    return sweep.recipe({**changes, **(overrides or {})})


def _recipe_of(sources: Sequence[str | Path], recipe: str | Path | None, overrides: Mapping[str, Any] | None) -> Recipe:
    if recipe is not None:
        return load_recipe(recipe, overrides)
    for source in sources:
        _ = Checkpoint(source).folder  # a path that is not there is the better reason
    runs = [Run.at(Path(s)) for s in sources]
    shared = shared_recipe(runs) if all(run.record is not None for run in runs) else None
    if shared is None or overrides:
        raise InputError(
            f"{', '.join(map(str, sources))}: task and data are needed to answer checkpoints that are no sweep: give a "
            "recipe (--recipe)."
        )
    return shared


def _of_sweep(sweep: SweepFolder) -> tuple[list[WeightsOnDisk], dict[str, str]]:
    """The finished runs and the soups of a sweep, and what of them cannot be read."""
    runs = sweep.runs()
    found = [WeightsOnDisk(run.name, run.folder, run.folder / PREDICTIONS) for run in runs if run.finished]
    gone = {run.name: run.reason for run in runs if run.status == "unreadable"}
    for pointer in sweep.soups():
        name = f"{pointer.method} soup"
        try:
            folder = pointer.folder()
            found.append(WeightsOnDisk(name, folder, folder / PREDICTIONS))
        except InputError as error:
            gone[name] = str(error)
    if not found:
        raise InputError(f"{sweep}: no run has finished yet, so there is nothing to answer with.")
    return found, gone


def _of_folders(sources: Sequence[str | Path]) -> list[WeightsOnDisk]:
    folders = [Path(s) for s in sources]
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{folder}: no checkpoint's folder (it holds no config.json"
                f"{', but ' + RUN_FILE if (folder / RUN_FILE).is_file() else ''}). Answers are kept inside such a "
                "folder; download a Hub repo first (hf download)."
            )
    return [WeightsOnDisk(str(folder), folder, folder / PREDICTIONS) for folder in folders]


def _is_there(answerer: WeightsOnDisk, shift: str, split: Split) -> bool:
    try:
        kept = Predictions.load(answerer.predictions / f"{SHIFT}{shift}.safetensors")
        return same_rows(kept.data, split.fingerprint)
    except PredictionsError:  # missing or corrupt
        return False


# How it answers


@dataclass(eq=False)
class _Live:
    """One model whose weights are swapped; loaded, and rows encoded, when they are first needed.

    A sweep's runs and soups are alike; other checkpoints may have other tokenizers, so each is loaded by itself.
    """

    recipe: Recipe
    shifts: Mapping[str, Split]
    cache: Path | None
    device: str | None
    alike: bool
    _encoded: dict[str, Encoded] = field(default_factory=dict)
    _opened: tuple[Family, Any, PreTrainedModel, LiveMixer] | None = None
    _holds: Checkpoint | None = None

    def answers(self, answerer: WeightsOnDisk, shift: str, progress: Any) -> Predictions:
        """What the checkpoint in a folder answers on a shift."""
        from hf_soups.models.inference import predict_split
        from hf_soups.soups.scoring import check_labels

        checkpoint, split = Checkpoint(answerer.folder), self.shifts[shift]
        check_labels(checkpoint, split.label_names)
        if self._holds != checkpoint:
            self._take(checkpoint)
        assert self._opened is not None
        family, processor, model, _ = self._opened
        if shift not in self._encoded:
            self._encoded[shift] = family.encode(split, processor, self.recipe.task, self.recipe.data, self.cache)
        size = self.recipe.train.eval_batch_size
        return predict_split(
            model, family, self._encoded[shift], split, batch_size=size, progress=progress, name=answerer.name
        )

    def _take(self, checkpoint: Checkpoint) -> None:
        self._holds = None  # an error half-way leaves weights of two checkpoints
        if self._opened is None or not self.alike:
            self._opened = self._open(checkpoint)
            self._encoded = {}
        else:
            self._opened[-1].load([checkpoint], [1.0])
        self._holds = checkpoint

    def _open(self, first: Checkpoint) -> tuple[Family, Any, PreTrainedModel, LiveMixer]:
        import torch

        from hf_soups.models.registry import family_for
        from hf_soups.soups.mixing.live import LiveMixer

        family = family_for(first.config, self.recipe.task.kind, first)
        model = family.load(first.folder)
        model.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        return family, family.processor(first.folder), model, LiveMixer(model)


def _answered(
    todo: Sequence[tuple[WeightsOnDisk, str]], live: _Live, metric: Metric, meter: Meter, failed: dict[str, str]
) -> Iterator[tuple[WeightsOnDisk, str, float]]:
    """Answer and write, one after another; whoever cannot answer joins `failed` and the others go on."""
    from hf_soups.models.loading import NotAnswered, one_of_several

    before = 0

    def tick(done: int, of: int, *, name: str) -> None:
        meter(before + done, name)

    for answerer, shift in todo:
        rows = len(live.shifts[shift])
        try:
            with one_of_several(answerer.name):
                found = live.answers(answerer, shift, partial(tick, name=f"{answerer.name} on {shift}"))
        except NotAnswered as error:
            failed[answerer.name] = str(error)
        else:
            found.save(answerer.predictions / f"{SHIFT}{shift}.safetensors")
            value = metric.compute(found)
            meter.line(f"{answerer.name} on {shift}: {metric.name} {score_in_words(value, metric.name)}, {rows} rows")
            yield answerer, shift, value
        before += rows
