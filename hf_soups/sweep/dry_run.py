"""Dry run: what a sweep will do, its disk and, after a one-step probe, its time; nothing is left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import CheckpointError
from hf_soups.files.writing import temporary_folder
from hf_soups.recipe import Recipe
from hf_soups.sweep.executor import visible_gpus
from hf_soups.sweep.plan import PlannedRun, make_plan
from hf_soups.wording import amount

if TYPE_CHECKING:
    from hf_soups.data import Splits
    from hf_soups.data.checks import DataCheck

FLOAT_BYTES = 4  # runs are saved in float32
PROBE_STEPS = 2


@dataclass(frozen=True, slots=True)
class DryRun:
    """A sweep's plan with what it needs; None where it could not be found out."""

    plan: tuple[PlannedRun, ...]
    rows: tuple[int, int, int] | None  # train, select, report
    checkpoint_bytes: int | None
    cache_bytes: int | None
    free_bytes: int
    step_seconds: float | None  # of the largest batch
    seconds: float | None  # of all runs' steps, in the given slots
    data: DataCheck | None = None  # what the rows hold; None: they were not read

    @property
    def disk_bytes(self) -> int | None:
        """Of all runs, the start and the cache."""
        if self.checkpoint_bytes is None:
            return None
        return self.checkpoint_bytes * (len(self.plan) + 1) + (self.cache_bytes or 0)


def dry_run(recipe: Recipe, out: Path, *, slots: int = 1, probe: bool = True) -> DryRun:
    """Plan a sweep without running it.

    Args:
        recipe: with its sweep.
        out: where the sweep would be; only its disk's free space is read.
        slots: runs side by side.
        probe: take one training step to estimate the time; without it the model is not loaded, and data of the Hub
            are not fetched. Rows of this machine are checked all the same.
    Raises:
        DataError: if the rows cannot be used.
    """
    from hf_soups.metrics import metric_for, metric_for_rows

    plan = make_plan(recipe)
    if isinstance(recipe.task.metric, str):  # by its name alone, also where no data are read
        metric_for(recipe.task)
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    from hf_soups.data import load_splits
    from hf_soups.data.checks import checked
    from hf_soups.data.sources import is_local

    if not (probe or is_local(recipe.task)):
        return DryRun(plan, None, _checkpoint_bytes(recipe), None, free, None, None)
    splits = load_splits(recipe.task, recipe.data)
    metric_for_rows(recipe.task, splits.select.labels, splits.label_names)
    found = checked(splits, recipe.task)
    rows = (len(splits.train), len(splits.select), len(splits.report))
    cache = _cache_bytes(recipe, sum(rows))
    if not probe:
        return DryRun(plan, rows, _checkpoint_bytes(recipe), cache, free, None, None, found)
    with temporary_folder("probe") as scratch:
        step, largest, parameters = _probed(recipe, plan, splits, scratch)
    at_once = max(1, min(slots, len(visible_gpus(os.environ))))  # on CPUs, slots share the same cores
    seconds = sum(_steps(run, recipe, rows[0]) * step * _batch(run, recipe) / largest for run in plan) / at_once
    return DryRun(plan, rows, parameters * FLOAT_BYTES, cache, free, step, seconds, found)


def print_dry_run(recipe: Recipe, out: Path, *, slots: int = 1, probe: bool = True) -> None:
    """Print the plan as a table, then disk and time."""
    from rich.console import Console
    from rich.table import Table

    estimate = dry_run(recipe, out, slots=slots, probe=probe)
    varied = sorted({key for run in estimate.plan for key in run.varied})
    table = Table(title=f"{recipe.name}: {len(estimate.plan)} runs, nothing was started", title_justify="left")
    for column in ("run", *varied, "seed"):
        table.add_column(column.replace("_", " "), justify="right")
    for run in estimate.plan:
        table.add_row(run.name, *(_short(run.train[key]) for key in varied), str(run.train["seed"]))
    console = Console(soft_wrap=True, highlight=False)
    Console(width=None if console.is_terminal else 140, highlight=False).print(table)
    for line in _needs(estimate, slots):
        console.print(line, markup=False)


def _needs(estimate: DryRun, slots: int) -> Sequence[str]:
    unread = ["rows: not checked, since data of the Hub are fetched with a probe alone (leave out --no-probe)"]
    lines = unread if estimate.data is None else estimate.data.lines()
    disk = estimate.disk_bytes
    if disk is None:
        lines.append("disk: unknown, the model's weights are not on this machine yet")
    else:
        lines.append(f"disk: about {amount(disk)}B of {amount(estimate.free_bytes)}B free")
        if disk > estimate.free_bytes:
            lines.append("warning: that does not fit. Lower sweep.runs or give an --out on another disk.")
    if estimate.step_seconds is not None and estimate.seconds is not None:
        minutes = estimate.seconds / 60
        lines.append(
            f"time: about {minutes:.1f} minutes of training in {slots} slots ({estimate.step_seconds:.2f} s a step)"
        )
    return lines


def _probed(recipe: Recipe, plan: Sequence[PlannedRun], splits: Splits, scratch: Path) -> tuple[float, int, int]:
    """Seconds of a step with the largest batch, its rows, and the model's parameters."""
    from accelerate import Accelerator

    from hf_soups.finetune.loop import TrainRows, train_model
    from hf_soups.finetune.start import load_start, make_start
    from hf_soups.finetune.tracking import History
    from hf_soups.models.cost_counting import count_parameters
    from hf_soups.progress import Meter

    largest = max(_batch(run, recipe) for run in plan)
    train = recipe.train.model_copy(
        update={
            "batch_size": largest,
            "max_steps": PROBE_STEPS,
            "gradient_accumulation": 1,
            "group_by_length": False,  # the probe would see the longest rows only
        }
    )
    # as many rows as the steps need: the probe encodes no more
    few = splits.train.take(range(min(len(splits.train), largest * PROBE_STEPS)))
    small = type(splits)(train=few, select=splits.select, report=splits.report)
    head = recipe.head.model_copy(update={"init": "shared-random"})
    fast = recipe.model_copy(update={"head": head if recipe.head.init == "linear-probe" else recipe.head})
    start = load_start(make_start(fast, small, scratch / "start"), fast, small)
    encoded = start.family.encode(few, start.processor, recipe.task, recipe.data, scratch)
    examples = TrainRows(encoded, few.labels, len(splits.label_names))
    history = History(PROBE_STEPS, Meter("probe", PROBE_STEPS, visible=False))
    accelerator = Accelerator()
    trained = train_model(accelerator, start.model, start.family, examples, train, history)
    return trained.seconds / trained.steps, largest, count_parameters(start.model)


def _steps(run: PlannedRun, recipe: Recipe, rows: int) -> int:
    from hf_soups.finetune.batches import Schedule

    train = run.recipe(recipe).train
    return Schedule.of(train, rows).steps * train.gradient_accumulation


def _batch(run: PlannedRun, recipe: Recipe) -> int:
    return run.recipe(recipe).train.batch_size


def _checkpoint_bytes(recipe: Recipe) -> int | None:
    from hf_soups.checkpoint import Checkpoint

    if not Path(recipe.model).expanduser().is_dir():  # nothing is downloaded for a dry run without a probe
        return None
    try:
        return Checkpoint(recipe.model, recipe.revision).parameters * FLOAT_BYTES
    except CheckpointError:
        return None


def _cache_bytes(recipe: Recipe, rows: int) -> int:
    """At most: texts of full length, images of the processor's size or 224 pixels."""
    if recipe.task.kind != "image":
        return rows * recipe.data.max_length * 4
    return rows * 3 * (recipe.data.image_size or 224) ** 2


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
