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
from hf_soups.errors import CheckpointError, HfSoupsError, InputError, RecipeError, RunFailed, is_short_of_memory
from hf_soups.files.writing import check_place, written_whole
from hf_soups.finetune.batches import Schedule
from hf_soups.finetune.loop import EpochSelection, TrainRows, train_model
from hf_soups.finetune.processes import accelerator_for, device_name, lost_processes, versions, workspace
from hf_soups.finetune.run_record import PREDICTIONS, RUN_FILE, RunRecord, read_run, write_run
from hf_soups.finetune.start import Start, load_start, make_start, start_key, with_random_weights
from hf_soups.finetune.tracking import History, tracked
from hf_soups.limits import limit_reached
from hf_soups.metrics import METRICS, Metric, metric_for
from hf_soups.models.cost_counting import count_macs, count_parameters, median_row
from hf_soups.models.family import Encoded
from hf_soups.models.inference import NonFiniteLogits, predict_distributed
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
    told = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if is_short_of_memory(error):
        return RunFailed(
            "out-of-memory",
            f"out of memory ({told}). Lower batch_size and raise gradient_accumulation by the same factor, lower "
            "eval_batch_size or data.max_length, or use precision: bf16.",
        )
    return RunFailed("error", told)


def lost_a_process(error: BaseException) -> bool:
    """Whether this process failed only because another one of its run is gone."""
    gone = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in gone)
    )


def raised_by_all(error: Exception) -> bool:
    """Whether every process of a run raises this error at the same place."""
    return isinstance(error, RunFailed | NonFiniteLogits)


def check_classes(select: Predictions) -> None:
    """A model that answers one class whatever the row is of no use in a soup.

    Raises:
        RunFailed: with status "one-class".
    """
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


IMAGE_OPTIONS = ("horizontal_flip", "random_crop", "randaugment_operations", "mixup")


@dataclass(frozen=True, slots=True)
class FineTuneRequest:
    """What was asked for."""

    recipe: Recipe
    out: Path
    start: Path | None
    progress: bool
    overwrite: bool


def run_order(order: FineTuneRequest, cache: Path | None, tracker: Any = None) -> None:
    """See `hf_soups.finetune.finetune`."""
    _check_recipe(order.recipe)
    check_place(order.out, overwrite=order.overwrite, marker=RUN_FILE)
    accelerator = accelerator_for(order.recipe, tracker)
    # filled on the way, so that a run that ends early still says what is known
    about: dict[str, Any] = {
        "recipe": order.recipe.model_dump(mode="json"),
        "seed": order.recipe.train.seed,
        "versions": versions(),
        "start": "" if order.start is None else str(order.start),
        "device": device_name(accelerator),
        "processes": accelerator.num_processes,
        "started": broadcast_object_list([_now()])[0],
    }
    try:
        with workspace(accelerator, cache) as folder:
            _run(accelerator, order, folder, about, own_tracker=tracker is not None)
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        _write_failure(accelerator, order, about, failure, error)
        raise failure from error


def _run(
    accelerator: Accelerator, order: FineTuneRequest, cache: Path, about: dict[str, Any], *, own_tracker: bool
) -> None:
    job = _job(accelerator, order, cache, about)
    total = Schedule.of(order.recipe.train, len(job.splits.train)).steps
    title, shown = order.recipe.name or "fine-tune", order.progress and accelerator.is_main_process
    with (
        Meter(title, total, visible=shown) as meter,
        tracked(
            accelerator, order.recipe, order.out, own=own_tracker, told=lambda line: meter.line(f"{title}: {line}")
        ) as tracking,
    ):
        meter.line(f"{title}: {_in_words(job.splits)}; {total} steps on {about['device']}")
        meter.line(f"{title}: processes: {accelerator.num_processes}")
        if warning := lost_processes(accelerator.num_processes):
            meter.line(warning)
        history = History(total, meter, tracking.log)
        try:
            answers = _trained_answers(accelerator, job, history, about)
        finally:
            about.update(history=history.points, steps=history.steps)
        scores = {role: _scores(job.metric, answer) for role, answer in answers.items()}
        tracking.scores(scores, history.steps)
        if accelerator.is_main_process:
            record = RunRecord(status="finished", **about, scores=scores, finished=_now())
            _write_run_folder(order, job, answers, record)
        name = job.metric.name
        told = ", ".join(f"{score[name]:.4f} on {role.removeprefix(SHIFT)}" for role, score in scores.items())
        meter.line(f"{title}: {name} {told}")
        meter.line(f"{title}: written to {order.out}")
    accelerator.wait_for_everyone()


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """Everything one fine-tune works with."""

    recipe: Recipe
    splits: Splits
    start: Start
    encoded: Mapping[str, Encoded]  # train, and all that is answered
    metric: Metric


def _job(accelerator: Accelerator, order: FineTuneRequest, cache: Path, about: dict[str, Any]) -> _Job:
    recipe = order.recipe
    metric = metric_for(recipe.task)
    splits = load_splits(recipe.task, recipe.data)
    folder = order.start or _own_start(accelerator, recipe, splits, cache)
    start = load_start(folder, recipe, splits)
    if recipe.train.random_weights:
        start = with_random_weights(start, recipe.train.seed)
    encoded: dict[str, Encoded] = {
        name: start.family.encode(split, start.processor, recipe.task, recipe.data, cache)
        for name, split in {"train": splits.train, **splits.answered}.items()
    }
    about.update(
        head_fingerprint=start.head_fingerprint,
        label_names=splits.label_names,
        family=start.family.name,
        metric=metric.name,
        parameters=count_parameters(start.model),
        macs=_macs(start, encoded["train"]) if accelerator.is_main_process else None,
        train_rows=len(splits.train),
    )
    return _Job(recipe, splits, start, encoded, metric)


def _own_start(accelerator: Accelerator, recipe: Recipe, splits: Splits, cache: Path) -> Path:
    """The recipe's start, made by the main process: `save_pretrained` writes nothing in the others."""
    folder = cache / f"start-{start_key(recipe, splits)}"
    if accelerator.is_main_process:
        make_start(recipe, splits, folder, cache=cache)
    accelerator.wait_for_everyone()
    if not folder.is_dir():
        raise InputError(
            f"{folder}: made by the main process, but not to be seen from process {accelerator.process_index}. "
            "On several machines give --cache or --start on a disk that they share."
        )
    return folder


def _trained_answers(
    accelerator: Accelerator, job: _Job, history: History, about: dict[str, Any]
) -> dict[str, Predictions]:
    """Train, then answer select, report and shifts, which are not looked at before the weights are final."""
    train, model, family = job.recipe.train, job.start.model, job.start.family

    splits = job.splits.answered

    def answers(name: str) -> Predictions:
        return predict_distributed(
            accelerator, model, family, job.encoded[name], splits[name],
            batch_size=train.eval_batch_size, name=job.recipe.name,
        )  # fmt: skip

    def score() -> float:
        return value_of(job.metric, answers("select"))

    selection = EpochSelection(score, job.metric.sign) if train.keep == "best" else None
    examples = TrainRows(job.encoded["train"], job.splits.train.labels, len(job.splits.label_names))
    trained = train_model(accelerator, model, family, examples, train, history, selection=selection)
    about.update(train_seconds=round(trained.seconds, 3))
    select = answers("select")
    check_classes(select)
    return {"select": select, **{name: answers(name) for name in splits if name != "select"}}


def value_of(metric: Metric, answers: Predictions) -> float:
    """The metric's value; without scikit-learn, which takes long to import, where row statistics give it."""
    if metric.row_statistics is None or metric.value is None:
        return metric.compute(answers)
    return float(metric.value(metric.row_statistics(answers).sum(axis=0)))


def _scores(metric: Metric, answers: Predictions) -> dict[str, float]:
    return {m.name: value_of(m, answers) for m in (metric, METRICS["nll"], METRICS["ece"])}


def _macs(start: Start, encoded: Encoded) -> int | None:
    try:
        batch = encoded.batch([median_row(encoded)])
        return count_macs(start.model, batch, lambda: start.family.logits(start.model, batch))
    except (RuntimeError, ValueError, NotImplementedError):  # an architecture that cannot be counted
        return None


def _write_run_folder(order: FineTuneRequest, job: _Job, answers: Mapping[str, Predictions], record: RunRecord) -> None:
    with written_whole(order.out, overwrite=order.overwrite, marker=RUN_FILE) as partial, quiet():
        job.start.model.save_pretrained(partial)
        job.start.processor.save_pretrained(partial)
        for role, answer in answers.items():
            answer.save(partial / PREDICTIONS / f"{role}.safetensors")
        write_run(partial, replace(record, weights=Checkpoint(str(partial)).sha256()))


def _write_failure(
    accelerator: Accelerator, order: FineTuneRequest, about: Mapping[str, Any], failure: RunFailed, error: Exception
) -> None:
    """Write run.json alone. A process that fails by itself writes it: the others do not know why."""
    together = raised_by_all(error)
    if accelerator.is_main_process or not (together or lost_a_process(error)):
        record = RunRecord(status=failure.status, reason=failure.reason, **about, finished=_now())
        if _written_by_another(order.out, record):
            return
        with written_whole(order.out, overwrite=order.overwrite, marker=RUN_FILE) as partial:
            write_run(partial, record)
    if together:
        # the launcher kills the others as soon as one ends with an error: not before it is written
        accelerator.wait_for_everyone()


def _written_by_another(out: Path, record: RunRecord) -> bool:
    """Whether a process that failed before has recorded this run."""
    try:
        return read_run(out).started == record.started
    except CheckpointError:
        return False


def _check_recipe(recipe: Recipe) -> None:
    asked = [f"train.{name}" for name in IMAGE_OPTIONS if getattr(recipe.train, name)]
    if asked and recipe.task.kind != "image":
        raise RecipeError(f"{', '.join(asked)}: for images, but the task's rows are texts. Set to 0 or leave out.")


def _in_words(splits: Splits) -> str:
    shifts = "".join(f", {len(split)} of the shift {name}" for name, split in splits.shifts.items())
    return f"{len(splits.train)} train, {len(splits.select)} select and {len(splits.report)} report rows{shifts}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
