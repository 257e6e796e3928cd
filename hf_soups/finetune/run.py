"""One fine-tune from its recipe to its folder: prepare, train, predict, write, or say why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import Splits, load_splits
from hf_soups.data.checks import warn_of_rows
from hf_soups.errors import CheckpointError, HfSoupsError, InputError, RecipeError, RunFailed, is_short_of_memory
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.files.writing import check_place, written_whole
from hf_soups.finetune.batches import Schedule
from hf_soups.finetune.loop import EpochSelection, TrainRows, train_model
from hf_soups.finetune.processes import accelerator_for, device_name, idle_cores, lost_processes, versions, workspace
from hf_soups.finetune.run_record import PREDICTIONS, RUN_FILE, RunRecord, read_run, write_run
from hf_soups.finetune.start import Start, load_start, make_start, start_key, with_random_weights
from hf_soups.finetune.tracking import History, tracked
from hf_soups.limits import limit_reached
from hf_soups.metrics import Metric, also_scored, metric_for_rows
from hf_soups.metrics.metric import value_of
from hf_soups.models.cost_counting import count_macs, count_parameters, median_row
from hf_soups.models.family import Encoded
from hf_soups.models.inference import NonFiniteLogits, predict_split
from hf_soups.models.loading import quiet
from hf_soups.predictions import Predictions
from hf_soups.progress import Meter
from hf_soups.recipe import Recipe
from hf_soups.recipe.task import SHIFT


def failure_of(error: Exception) -> RunFailed | None:
    """The failed run that an exception stands for; None for wrong input and for a place that cannot be written."""
    if isinstance(error, RunFailed):
        return error
    if isinstance(error, NonFiniteLogits):
        return RunFailed("nan-loss", f"the weights were unusable after training: {error}")
    if isinstance(error, HfSoupsError):
        return None
    if lost_a_process(error):
        return RunFailed("error", "another process of this run ended: look at what it said, or for a lack of memory.")
    if limit := limit_reached(error):
        return RunFailed("error", limit)
    first = next(iter(str(error).strip().splitlines()), "")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if is_short_of_memory(error):
        return RunFailed(
            "out-of-memory",
            f"out of memory ({what}). Lower batch_size and raise gradient_accumulation by the same factor, lower "
            "eval_batch_size or data.max_length, or use precision: bf16.",
        )
    return RunFailed("error", what)


def lost_a_process(error: BaseException) -> bool:
    """Whether this process failed only because another one of its run is gone."""
    gone = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in gone)
    )


def check_classes(select: Predictions) -> None:
    """A model that answers one class whatever the row is of no use in a soup.

    Raises:
        RunFailed: with status "one-class".
    """
    if select.problem_type != CLASSIFICATION:
        _check_varies(select)
        return
    labels, answered = select.needs_labels(), np.unique(select.answers)
    if len(answered) > 1 or len(np.unique(labels)) < 2:
        return
    name = select.label_names[answered[0]] if select.label_names else str(answered[0])
    share = float((labels == answered[0]).mean())
    raise RunFailed(
        "one-class",
        f"the model answers {name!r} for all {len(select)} select rows, of which {share:.1%} are {name!r}. "
        "Lower learning_rate, or warm up or train for longer.",
    )


def _check_varies(select: Predictions) -> None:
    if len(select) > 1 and not np.ptp(select.log_probs, axis=0).any():
        raise RunFailed(
            "one-class",
            f"the model answers the same for all {len(select)} select rows. Lower learning_rate, or warm up or train "
            "for longer.",
        )


IMAGE_OPTIONS = ("horizontal_flip", "random_crop", "randaugment_operations", "mixup")


@dataclass(frozen=True, slots=True)
class FineTuneRequest:
    """What `hf_soups.finetune.finetune` is called with."""

    recipe: Recipe
    out: Path
    start: Path | None
    cache: Path | None
    progress: bool
    overwrite: bool
    tracker: Any


@dataclass(slots=True)
class _Run:
    """One fine-tune on its way. `record` is complete up to here, so that a run that ends early says what is known."""

    request: FineTuneRequest
    accelerator: Accelerator
    record: RunRecord

    @property
    def recipe(self) -> Recipe:
        return self.request.recipe

    @property
    def title(self) -> str:
        return self.recipe.name or "fine-tune"

    def note(self, **known: Any) -> None:
        self.record = replace(self.record, **known)


def run_request(request: FineTuneRequest) -> None:
    """See `hf_soups.finetune.finetune`."""
    recipe = request.recipe
    _check_recipe(recipe)
    check_place(request.out, overwrite=request.overwrite, marker=RUN_FILE)
    accelerator = accelerator_for(recipe, request.tracker)
    known = RunRecord(
        status="finished",
        recipe=recipe.model_dump(mode="json"),
        seed=recipe.train.seed,
        versions=versions(),
        start="" if request.start is None else str(request.start),
        device=device_name(accelerator),
        processes=accelerator.num_processes,
        started=broadcast_object_list([_now()])[0],
    )
    run = _Run(request, accelerator, known)
    try:
        with workspace(accelerator, request.cache) as cache:
            _carry_out(run, cache)
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        _write_failure(run, failure, error)
        raise failure from error


def _carry_out(run: _Run, cache: Path) -> None:
    job = _job(run, cache)
    accelerator, title = run.accelerator, run.title
    total = Schedule.of(run.recipe.train, len(job.splits.train)).steps
    with (
        Meter(title, total, visible=run.request.progress and accelerator.is_main_process) as meter,
        tracked(
            accelerator, run.recipe, run.request.out, own=run.request.tracker is not None,
            show=lambda line: meter.line(f"{title}: {line}"),
        ) as tracking,
    ):  # fmt: skip
        meter.line(f"{title}: {_in_words(job.splits)}; {total} steps on {run.record.device}")
        meter.line(f"{title}: processes: {accelerator.num_processes}")
        for warning in (lost_processes(accelerator.num_processes), idle_cores(accelerator.device.type)):
            if warning:
                meter.line(warning)
        answers = _trained_answers(run, job, History(total, meter, tracking.log))
        scores = {role: _scores(job.metric, answer) for role, answer in answers.items()}
        tracking.scores(scores, run.record.steps)
        if accelerator.is_main_process:
            _write_run_folder(run, job, answers, replace(run.record, scores=scores, finished=_now()))
        name = job.metric.name
        reached = ", ".join(f"{score[name]:.4f} on {role.removeprefix(SHIFT)}" for role, score in scores.items())
        meter.line(f"{title}: {name} {reached}")
        meter.line(f"{title}: written to {run.request.out}")
    accelerator.wait_for_everyone()


_shared: dict[str, Splits] = {}  # rows that were read before this process was forked


def share_rows(recipe: Recipe) -> None:
    """Read a recipe's rows here and now, for all runs on the same rows that are forked from this process."""
    _shared[_rows_key(recipe)] = load_splits(recipe.task, recipe.data)


def _rows_of(recipe: Recipe) -> Splits:
    return _shared.get(_rows_key(recipe)) or load_splits(recipe.task, recipe.data)


def _rows_key(recipe: Recipe) -> str:
    return recipe.model_dump_json(include={"task", "data"})


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """What the model is trained from and answers."""

    splits: Splits
    start: Start
    encoded: Mapping[str, Encoded]  # train, and all that is answered
    metric: Metric


def _job(run: _Run, cache: Path) -> _Job:
    recipe = run.recipe
    splits = _rows_of(recipe)
    if run.request.start is None and run.accelerator.is_main_process:  # a sweep says it once, for all its runs
        warn_of_rows(splits, recipe.task)
    metric = metric_for_rows(recipe.task, splits.select.labels, splits.label_names)
    start = load_start(run.request.start or _own_start(run, splits, cache), recipe, splits)
    if recipe.train.random_weights:
        start = with_random_weights(start, recipe.train.seed)
    encoded: dict[str, Encoded] = {
        name: start.family.encode(split, start.processor, recipe.task, recipe.data, cache)
        for name, split in {"train": splits.train, **splits.answered}.items()
    }
    run.note(
        head_fingerprint=start.head_fingerprint,
        label_names=splits.label_names,
        family=start.family.name,
        metric=metric.name,
        parameters=count_parameters(start.model),
        macs=_macs(start, encoded["train"]) if run.accelerator.is_main_process else None,
        train_rows=len(splits.train),
    )
    return _Job(splits, start, encoded, metric)


def _own_start(run: _Run, splits: Splits, cache: Path) -> Path:
    """The recipe's start, made by the main process: `save_pretrained` writes nothing in the others."""
    folder = cache / f"start-{start_key(run.recipe, splits)}"
    if run.accelerator.is_main_process:
        make_start(run.recipe, splits, folder, cache=cache)
    run.accelerator.wait_for_everyone()
    if not folder.is_dir():
        raise InputError(
            f"{folder}: made by the main process, but not to be seen from process {run.accelerator.process_index}. "
            "On several machines give --cache or --start on a disk that they share."
        )
    return folder


def _trained_answers(run: _Run, job: _Job, history: History) -> dict[str, Predictions]:
    """Train, then answer select, report and shifts, which are not looked at before the weights are final."""
    train, start, splits = run.recipe.train, job.start, job.splits.answered

    def answers(name: str) -> Predictions:
        return predict_split(
            start.model, start.family, job.encoded[name], splits[name],
            batch_size=train.eval_batch_size, accelerator=run.accelerator, name=run.recipe.name,
        )  # fmt: skip

    def score() -> float:
        return value_of(job.metric, answers("select"))

    selection = EpochSelection(score, job.metric.sign) if train.keep == "best" else None
    examples = TrainRows(job.encoded["train"], job.splits.train.labels, len(job.splits.label_names))
    try:
        trained = train_model(run.accelerator, start.model, start.family, examples, train, history, selection=selection)
    finally:
        run.note(history=history.points, steps=history.steps)
    run.note(train_seconds=round(trained.seconds, 3))
    select = answers("select")
    check_classes(select)
    return {"select": select, **{name: answers(name) for name in splits if name != "select"}}


def _scores(metric: Metric, answers: Predictions) -> dict[str, float]:
    return {m.name: value_of(m, answers) for m in (metric, *also_scored(answers.problem_type))}


def _macs(start: Start, encoded: Encoded) -> int | None:
    try:
        batch = encoded.batch([median_row(encoded)])
        return count_macs(start.model, batch, lambda: start.family.logits(start.model, batch))
    except (RuntimeError, ValueError, NotImplementedError):  # an architecture that cannot be counted
        return None


def _write_run_folder(run: _Run, job: _Job, answers: Mapping[str, Predictions], record: RunRecord) -> None:
    with written_whole(run.request.out, overwrite=run.request.overwrite, marker=RUN_FILE) as partial, quiet():
        job.start.model.save_pretrained(partial)
        job.start.processor.save_pretrained(partial)
        for role, answer in answers.items():
            answer.save(partial / PREDICTIONS / f"{role}.safetensors")
        write_run(partial, replace(record, weights=Checkpoint(str(partial)).digest()))


def _write_failure(run: _Run, failure: RunFailed, error: Exception) -> None:
    """Write run.json alone. A process that fails by itself writes it: the others do not know why."""
    together = isinstance(error, RunFailed | NonFiniteLogits)  # every process raises these, at the same place
    if run.accelerator.is_main_process or not (together or lost_a_process(error)):
        record = replace(run.record, status=failure.status, reason=failure.reason, finished=_now())
        if _written_by_another(run.request.out, record):
            return
        with written_whole(run.request.out, overwrite=run.request.overwrite, marker=RUN_FILE) as partial:
            write_run(partial, record)
    if together:
        # the launcher kills the others as soon as one ends with an error: not before it is written
        run.accelerator.wait_for_everyone()


def _written_by_another(out: Path, record: RunRecord) -> bool:
    """Whether a process that failed before has recorded this run."""
    try:
        return read_run(out).started == record.started
    except CheckpointError:
        return False


def _check_recipe(recipe: Recipe) -> None:
    given = [f"train.{name}" for name in IMAGE_OPTIONS if getattr(recipe.train, name)]
    if given and recipe.task.kind != "image":
        raise RecipeError(f"{', '.join(given)}: for images, but the task's rows are texts. Set to 0 or leave out.")


def _in_words(splits: Splits) -> str:
    shifts = "".join(f", {len(split)} of the shift {name}" for name, split in splits.shifts.items())
    return f"{len(splits.train)} train, {len(splits.select)} select and {len(splits.report)} report rows{shifts}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
