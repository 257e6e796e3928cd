"""Models without a sweep: loose checkpoints, which answer a recipe's rows first, and pools of predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint, sources_of
from hf_soups.errors import HfSoupsError, InputError, SelectionOnReport
from hf_soups.files.reading import is_there, visible
from hf_soups.files.writing import writable
from hf_soups.finetune.run_record import RUN_FILE
from hf_soups.leaderboard.rows import Row, ScoredModel, ScoredModels, rank_of, soup_row
from hf_soups.metrics import METRICS, Metric, metric_for
from hf_soups.pool import Pool, read_pool
from hf_soups.pool.entries import pool_entries
from hf_soups.pool.predict import maybe_trained_on, predict_pool
from hf_soups.pool.report_rows import ReportRows, holds_report_rows, select_and_report
from hf_soups.pool.store import POOL_FILE, Member
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe, load_recipe
from hf_soups.recipe.origin import RECIPE_FILE, recipe_kept
from hf_soups.recipe.task import SHIFT
from hf_soups.soups.ingredients import doubt_in_words
from hf_soups.soups.methods.trajectory import is_run_of_trainer, run_checkpoints
from hf_soups.soups.soup_record import MAYBE_TRAINED_ON, SOUP_FILE, SoupRecord, read_soup
from hf_soups.sweep.folder import Run, SweepFolder, shared_recipe, write_recipe

OUT = "leaderboard"  # folder of the answers of loose checkpoints
SHARE = "0.5"  # of a pool's rows to report on, if it is the only one


@dataclass(frozen=True, slots=True)
class Answered:
    """Where checkpoints' answers are."""

    folder: Path
    names: tuple[str, ...]  # of those that answered, in the order in which they were named
    failed: Mapping[str, str]  # name -> why it could not answer


def holds_answers(folder: Path) -> bool:
    """Whether a folder holds a pool of select rows and one of report rows."""
    return all((folder / role / POOL_FILE).is_file() for role in ("select", "report"))


def is_pool(folder: Path) -> bool:
    """Whether a folder is a pool of predictions, or holds one for each role of rows."""
    return (folder / POOL_FILE).is_file() or holds_answers(folder)


def has_answered(folder: Path) -> bool:
    """Whether a leaderboard can be made of a folder as it is: a sweep, run folders, or pools. Nothing is answered."""
    return is_pool(folder) or SweepFolder(folder).planned or bool(visible(folder, f"*/{RUN_FILE}"))


def answer_checkpoints(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path = OUT,
    *,
    recipe: Recipe | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Answered:
    """Answer a recipe's select, report and shifted rows with checkpoints, so that they can be compared.

    The same call goes on where it was stopped, and keeps what is there; further checkpoints join it.

    Args:
        sources: folders, Hub repos, soups, sweeps, or output folders of transformers' Trainer, which stand for all
            their checkpoints; NAME=MODEL gives a name.
        out: the folder: a pool of predictions in each of select/, report/ and `shift-<name>/`.
        recipe: task and data; default: that which all runs and soups among the sources record.
        overrides: values of the recipe to change.
        device: default: the GPU when there is one.
        progress: show progress.
    Raises:
        InputError: if there is no recipe, or nothing could answer.
    """
    folder, named = Path(out), sources_of(sources)
    known = load_recipe(recipe, overrides) if isinstance(recipe, str | Path) else recipe or _recorded(named)
    if isinstance(recipe, Recipe | None) and overrides:
        raise InputError(f"{', '.join(overrides)} cannot be set without a recipe's file; give one (--recipe).")
    models = [model for source in named for model in _models(str(source))]
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(folder / RECIPE_FILE, known, sweep=False)
    failed: dict[str, str] = {}
    for role in ("select", "report", *(f"{SHIFT}{name}" for name in known.task.shifts)):
        done = predict_pool(
            models, out=folder / role, recipe=folder / RECIPE_FILE, split=role, batch_size=known.train.eval_batch_size,
            cache=folder / "cache", device=device, progress=progress,
        )  # fmt: skip
        failed |= done.failed
        if not done.pool.members:
            raise InputError("no model could answer: " + "; ".join(f"{n}: {why}" for n, why in failed.items()))
    names = tuple(entry.name for entry in pool_entries(models) if entry.name not in failed)
    return Answered(folder, names, failed)


def models_of_pools(folder: Path, report: str | ReportRows = "") -> ScoredModels:
    """What the members of a folder's pools answered.

    Args:
        folder: that of `answer_checkpoints`, or a pool.
        report: of a pool, the rows to report on: a share of its own, or another pool's folder. Default: half.
    Raises:
        InputError: if it is a pool of report rows alone, or none of its members answered both.
    """
    shared = holds_answers(folder)
    pool = read_pool(folder / "select" if shared else folder)
    if shared:
        pools = {role.name: read_pool(role) for role in sorted(folder.glob(f"{SHIFT}*")) if is_pool(role)}
        answers = {"select": pool.predictions, "report": read_pool(folder / "report").predictions}
        answers |= {role: of_shift.predictions for role, of_shift in pools.items()}
        notes = _doubts(folder, pool)
    else:
        if holds_report_rows(pool.data.split):
            raise SelectionOnReport(
                f"{folder} holds rows of the split {pool.data.split!r}, which are for one look at the end, so there is "
                f"nothing to choose the best by. Report on them: hf-soups leaderboard SELECT-POOL --report {folder}."
            )
        parts = select_and_report(pool, report or SHARE)
        assert parts.report is not None
        answers = {"select": parts.select, "report": parts.report}
        notes = [] if report else [f"Half of the rows of {folder} are select rows, each class with its share."]
    return _scored(pool, answers, notes, _metric(folder, pool))


def _scored(
    pool: Pool, answers: Mapping[str, Mapping[str, Predictions]], notes: list[str], metric: Metric
) -> ScoredModels:
    runs: list[ScoredModel] = []
    soups: list[ScoredModel] = []
    unscored: list[Row] = []
    records: dict[str, SoupRecord] = {}
    for name, member in pool.members.items():
        row, record = _row(member)
        if name not in answers["report"]:
            unscored.append(replace(row, status="unanswered", reason="it did not answer the report rows"))
            continue
        of_roles = {role: known[name] for role, known in answers.items() if name in known}
        model = ScoredModel(row, dict(_aligned(of_roles, answers)), trained=() if record else (name,))
        (runs if record is None else soups).append(model)
        if record is not None:
            records[name] = record
            notes += [f"{name}: {MAYBE_TRAINED_ON}."] * record.select_optimistic
    if not runs:  # soups alone: one of them is the best on select
        runs = [replace(model, row=replace(model.row, kind="run")) for model in soups]
        soups = []
    if not runs:
        raise InputError(f"{pool.folder}: none of its members answered select and report rows.")
    runs.sort(key=lambda model: rank_of(metric, metric.compute(model.select)))
    return ScoredModels(metric, tuple(runs), tuple(soups), (), tuple(unscored), tuple(notes), soup_records=records)


def _doubts(folder: Path, pool: Pool) -> list[str]:
    """Whether members may have been trained on the select rows, where a recipe there says which these are."""
    if not (folder / RECIPE_FILE).is_file():
        return []
    known = [member.checkpoint for member in pool.members.values() if member.source and Path(member.source).is_dir()]
    doubtful = maybe_trained_on(known, SweepFolder(folder).recipe())
    return [doubt_in_words(doubtful)] if doubtful else []


def _aligned(
    of_roles: Mapping[str, Predictions], answers: Mapping[str, Mapping[str, Predictions]]
) -> Iterator[tuple[str, Predictions]]:
    """With the rows of each role in the order of the first that answered them."""
    for role, found in of_roles.items():
        first = next(iter(answers[role].values()))
        yield role, found if found is first else found.aligned_to(first)


def _metric(folder: Path, pool: Pool) -> Metric:
    """That of the recipe; accuracy for a pool without one."""
    kept = SweepFolder(folder).path / RECIPE_FILE
    if kept.is_file() and kept.parent != pool.folder:
        return metric_for(load_recipe(kept).task)
    recipe = recipe_kept(pool.folder)
    return METRICS["accuracy"] if recipe is None else metric_for(recipe.task)


def _row(member: Member) -> tuple[Row, SoupRecord | None]:
    """What is known of a member where its folder is still there; and what its soup.json says."""
    place = Path(member.source) / (member.subfolder or "")
    row = Row("run", member.name, "finished", parameters=member.parameters, macs=member.macs)
    if not member.source or not place.is_dir():
        return row, None
    try:
        if is_there(place / SOUP_FILE):
            record = read_soup(place)
            said = soup_row(replace(row, kind="soup"), record, {})
            return replace(said, parameters=member.parameters, macs=member.macs), record
        run = Run.at(place).record if is_there(place / RUN_FILE) else None
    except (OSError, InputError):  # its answers are good
        return row, None
    return (row if run is None else replace(row, train_seconds=run.train_seconds, device=run.device)), None


def _models(source: str) -> list[str]:
    """A Trainer's output folder as its checkpoints."""
    if not is_run_of_trainer(source):
        return [source]
    return [str(checkpoint.folder) for checkpoint in run_checkpoints(source).checkpoints]


def _recorded(sources: Sequence[str | Path]) -> Recipe:
    """The recipe of runs and soups that share one.

    Raises:
        InputError: if there is a source without a recipe, or there are several.
    """
    found: list[Recipe] = []
    for source in map(str, sources):
        folder = Path(source.partition("=")[2] or source) if not Path(source).exists() else Path(source)
        try:
            if not folder.is_dir():
                _ = Checkpoint.named(source).folder  # a path that is not there is the better reason
            run = Run.at(folder) if is_there(folder / RUN_FILE) else None
            own = shared_recipe([run]) if run is not None else None
            own = SweepFolder(folder).recipe() if SweepFolder(folder).planned else own
        except HfSoupsError:
            if not folder.is_dir():
                raise
            own = None
        if own is not None:
            found.append(own)
    alike = {recipe.model_dump_json(include={"task", "data"}) for recipe in found}
    if len(found) < len(sources) or len(alike) != 1:
        raise InputError(
            f"{', '.join(map(str, sources))}: these are no runs of one recipe, so it is not known which rows they are "
            "to answer. Give a recipe with task and data (--recipe)."
        )
    return found[0]
