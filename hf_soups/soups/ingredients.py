"""Ingredients: from what the user names (a sweep, run folders, checkpoints, Hub repos) to checkpoints to cook from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError, RecipeError
from hf_soups.files.downloads import is_repo_id
from hf_soups.files.reading import is_there
from hf_soups.finetune.run_record import RUN_FILE
from hf_soups.recipe import Recipe, load_recipe, recipe_from
from hf_soups.recipe.origin import place_shown, recipe_kept
from hf_soups.soups.methods.trajectory import holds_a_model, is_run_of_trainer, run_checkpoints, whole
from hf_soups.sweep.folder import Run, SweepFolder, shared_recipe

SHOWN = 12  # names at most in one warning
NOT_KEPT_OUT = "no run.json says that the select rows were kept out of their training"


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
    final_models: bool = False,
) -> Ingredients:
    """The usable checkpoints among `sources`; failed and unfinished runs are left out and listed.

    Args:
        sources: one sweep folder, or checkpoints: folders, run folders, Hub repos ("org/name" or "org/name@revision"),
            LoRA adapters (multiplied out first), and output folders of transformers' Trainer (all their
            `checkpoint-<step>` folders, in the order of the steps, and the final model where it is another one).
        recipe: task and data; default: the sweep's, or the one that all run folders share.
        overrides: values of the recipe to change.
        start: what the checkpoints were fine-tuned from; default: the sweep's start.
        least: number of usable checkpoints that are needed.
        final_models: of a Trainer's output folder that holds a model itself take that alone.
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
        pool = _from_checkpoints(sources, _loaded(recipe, overrides), least, final_models)
    return pool if start is None else replace(pool, start=_checkpoint(start))


def _from_sweep(folder: SweepFolder, recipe: Recipe | None, least: int) -> Ingredients:
    runs = folder.runs()
    usable = [run for run in runs if run.finished]
    left_out = tuple(UnusableSource(run.name, _why(run)) for run in runs if not run.finished)
    _at_least(least, len(usable), left_out, f"{folder}: ")
    start = Checkpoint(folder.start) if folder.start.is_dir() else None
    return Ingredients(tuple(Checkpoint(str(run.folder)) for run in usable), left_out, recipe, folder, start)


def _from_checkpoints(
    sources: Sequence[str | Path], recipe: Recipe | None, least: int, final_models: bool
) -> Ingredients:
    checkpoints: list[Checkpoint] = []
    left_out: list[UnusableSource] = []
    runs: list[Run | None] = []
    for source in sources:
        if is_run_of_trainer(source) and not (final_models and holds_a_model(source)):
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
    where = f"{', '.join(map(str, sources))}: "
    if len(checkpoints) < least:
        where += _not_there(checkpoints)
    _at_least(least, len(checkpoints), left_out, where)
    if recipe is None and all(run is not None for run in runs):
        recipe = shared_recipe([run for run in runs if run is not None])
    return Ingredients(tuple(checkpoints), tuple(left_out), recipe)


def _checkpoint(source: str | Path) -> Checkpoint:
    """The checkpoint that a source names; an adapter is multiplied into its base first."""
    named = Checkpoint.named(source)
    try:
        _ = named.folder
    except CheckpointError:
        return named  # not there: pre-flight says so, with all the others
    return whole(named)


def _not_there(checkpoints: Sequence[Checkpoint]) -> str:
    """The better reason for too few checkpoints: a name that is no folder here. A path is refused at once."""
    absent = []
    for checkpoint in checkpoints:
        if is_repo_id(checkpoint.source) and not is_there(Path(checkpoint.source).expanduser()):
            absent.append(checkpoint.source)
        else:
            _ = checkpoint.config
    return f"no such folder here, so {', '.join(absent)} can only be on the Hub; " if absent else ""


def without_proof(
    checkpoints: Sequence[Checkpoint], recipe: Recipe, answered: Collection[Checkpoint]
) -> tuple[str, ...]:
    """Names of the checkpoints that may have been trained on the select rows: nothing says that they were not.

    Rows that `task.select` names are none of train's. Else select is cut from train, and it takes a record of the run:
    with answers on exactly these rows, or of a recipe that cuts the same ones.

    Args:
        checkpoints: to choose from.
        recipe: whose select rows are chosen on.
        answered: those that keep answers on exactly these rows.
    """
    if recipe.task.select is not None:
        return ()
    return tuple(c.name for c in checkpoints if not _kept_apart(c, recipe, c in answered))


def doubt_in_words(names: Sequence[str]) -> str:
    """What it means that models of these names may have been trained on the select rows, and the way out."""
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return (
        f"{shown}: {NOT_KEPT_OUT}. These are rows of the train split, so scores on them may be too good, and what they "
        "choose a bad choice. To choose on others: --set task.select=SPLIT, or --set task.select=0.5, which takes half "
        "of report."
    )


def _kept_apart(checkpoint: Checkpoint, recipe: Recipe, answered: bool) -> bool:
    record = checkpoint.run
    if record is None or answered:
        return record is not None and not record.get("select_optimistic")
    try:
        own = recipe_from(record["recipe"]) if "recipe" in record else recipe_kept(checkpoint.folder)
    except RecipeError:
        return False
    if own is None or record.get("select_optimistic"):
        return False
    if "recipe" in record:
        return _cut(own) == _cut(recipe)
    return _cut(own)[1:] == _cut(recipe)[1:] and place_shown(own.task.path) == place_shown(recipe.task.path)


def _cut(recipe: Recipe) -> list[Any]:
    """What decides which rows select is."""
    task, data = recipe.task, recipe.data
    place = [task.path, task.config, task.revision, task.label, task.train, task.report, task.select]
    return [*place, data.seed, data.select_fraction, data.select_minimum, data.report_fraction]


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
