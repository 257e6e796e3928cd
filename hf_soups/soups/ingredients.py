"""Ingredients: from what the user names (a sweep, run folders, checkpoints, Hub repos) to checkpoints to cook from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.reading import is_there
from hf_soups.finetune.run_record import RUN_FILE
from hf_soups.recipe import Recipe, load_recipe
from hf_soups.soups.methods.trajectory import is_run_of_trainer, run_checkpoints
from hf_soups.sweep.folder import Run, SweepFolder, shared_recipe


@dataclass(frozen=True, slots=True)
class UnusableSource:
    """Something the user named that cannot be an ingredient."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ingredients:
    """The checkpoints to cook from, and where they come from."""

    checkpoints: tuple[Checkpoint, ...]
    left_out: tuple[UnusableSource, ...] = ()
    recipe: Recipe | None = None  # task and data; None: nothing can be scored
    sweep: SweepFolder | None = None
    start: Checkpoint | None = None  # what all were fine-tuned from, where it is known
    taken: Mapping[str, Any] = field(default_factory=dict)  # what pre-flight decided, as soup.json says it


def gather(
    sources: Sequence[str | Path],
    *,
    recipe: Recipe | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    least: int = 2,
) -> Ingredients:
    """The usable checkpoints among `sources`; failed and unfinished runs are left out and listed.

    Args:
        sources: one sweep folder, or checkpoints: folders, run folders, Hub repos ("org/name" or "org/name@revision"),
            LoRA adapters (multiplied out first), and output folders of transformers' Trainer (all their
            checkpoint-<step> folders, in the order of the steps).
        recipe: task and data; default: the sweep's, or the one that all run folders share.
        overrides: values of the recipe to change.
        start: what the checkpoints were fine-tuned from; default: the sweep's start.
        least: number of usable checkpoints that are needed.
    Raises:
        InputError: if fewer checkpoints are usable, or a sweep is mixed with other sources.
    """
    sweeps = [folder for folder in (SweepFolder(Path(s)) for s in sources) if folder.planned]
    if sweeps and len(sources) > 1:
        raise InputError(
            f"{sweeps[0]} is a sweep; cook one sweep at a time, or name the checkpoints one by one "
            f"({sweeps[0]}/run_00 ...)."
        )
    if sweeps:
        own = sweeps[0].recipe(overrides) if recipe is None else _loaded(recipe, overrides)
        pool = _from_sweep(sweeps[0], own, least)
    else:
        pool = _from_checkpoints(sources, _loaded(recipe, overrides), least)
    return pool if start is None else replace(pool, start=_checkpoint(start))


def _from_sweep(folder: SweepFolder, recipe: Recipe | None, least: int) -> Ingredients:
    runs = folder.runs()
    usable = [run for run in runs if run.finished]
    left_out = tuple(UnusableSource(run.name, _why(run)) for run in runs if not run.finished)
    _at_least(least, len(usable), left_out, f"{folder}: ")
    start = Checkpoint(folder.start) if folder.start.is_dir() else None
    return Ingredients(tuple(Checkpoint(str(run.folder)) for run in usable), left_out, recipe, folder, start)


def _from_checkpoints(sources: Sequence[str | Path], recipe: Recipe | None, least: int) -> Ingredients:
    checkpoints: list[Checkpoint] = []
    left_out: list[UnusableSource] = []
    runs: list[Run | None] = []
    for source in sources:
        if is_run_of_trainer(source):
            found = run_checkpoints(source)
            checkpoints += found.checkpoints
            left_out += [UnusableSource(f"{source}/{name}", reason) for name, reason in found.left_out.items()]
            runs.append(None)
            continue
        run = Run.at(Path(source)) if is_there(Path(source) / RUN_FILE) else None
        if run is not None and not run.finished:
            left_out.append(UnusableSource(str(source), _why(run)))
            continue
        runs.append(run)
        checkpoints.append(_checkpoint(source))
    _at_least(least, len(checkpoints), left_out, f"{', '.join(map(str, sources))}: ")
    if recipe is None and all(run is not None for run in runs):
        recipe = shared_recipe([run for run in runs if run is not None])
    return Ingredients(tuple(checkpoints), tuple(left_out), recipe)


def _checkpoint(source: str | Path) -> Checkpoint:
    """The checkpoint that a source names; an adapter is multiplied into its base first."""
    named = Checkpoint.named(source)
    try:
        if not named.is_adapter:
            return named
    except CheckpointError:
        return named  # not there: pre-flight says so, with all the others
    from hf_soups.models.adapters import multiplied_out  # torch and peft, for adapters alone

    return multiplied_out(named)


def _loaded(recipe: Recipe | str | Path | None, overrides: Mapping[str, Any] | None) -> Recipe | None:
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, overrides)
    if overrides:
        raise InputError(f"{', '.join(overrides)} cannot be set without a recipe's file; give one (--recipe).")
    return recipe


def _at_least(least: int, usable: int, left_out: Sequence[UnusableSource], where: str) -> None:
    if usable >= least:
        return
    because = "; ".join(f"{left.name}: {left.reason}" for left in left_out)
    wanted = "two finished checkpoints" if least == 2 else f"{least} finished checkpoint{'s' * (least > 1)}"
    raise InputError(
        f"{where}a soup needs at least {wanted}, got {usable}."
        + (f" Left out: {because}. Run the sweep again (--retry-failed repeats failed runs)." if left_out else "")
    )


def _why(run: Run) -> str:
    if run.status == "pending":
        return run.reason
    return f"{run.status}" + (f" ({run.reason})" if run.reason else "")
