"""Predicting a pool: every model answers every row once, and can be stopped at any moment and gone on with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hf_soups.checkpoint import Checkpoint, names_of, sources_of
from hf_soups.errors import DataWarning, HfSoupsError, InputError
from hf_soups.files.label_names import same_labels
from hf_soups.files.problem_types import CLASSIFICATION, REGRESSION
from hf_soups.files.writing import refuse_url, write_text
from hf_soups.pool.entries import pool_entries
from hf_soups.pool.rows import LabelledRows, RowsOptions, RowsWanted, load_rows
from hf_soups.pool.shards import alone, processes
from hf_soups.pool.store import POOL_FILE, Pool, read_pool
from hf_soups.predictions import Predictions, same_rows
from hf_soups.predictions.topk import TopKPredictions, certain_rows
from hf_soups.recipe import Recipe, load_recipe
from hf_soups.recipe.origin import RECIPE_FILE, recipe_text
from hf_soups.recipe.task import METRIC_OF
from hf_soups.soups.ingredients import doubt_in_words, without_proof

if TYPE_CHECKING:
    from rich.table import Table

TEMPLATES = ("a photo of a {}.",)  # of zero-shot models; that of families.class_texts, which imports torch


@dataclass(frozen=True, slots=True)
class PoolResult:
    """What a call added to a pool."""

    pool: Pool
    answered: tuple[str, ...]  # members that are new, or were answered again
    kept: tuple[str, ...]  # members that were there
    failed: Mapping[str, str]  # name -> reason
    seconds: Mapping[str, float] = field(default_factory=dict)  # of answering, by new member; without loading
    uncertain: float | None = None  # top-k: share of rows at which what was left out could change the members' mean

    def __repr__(self) -> str:
        counts = f"{len(self.answered)} answered, {len(self.kept)} kept, {len(self.failed)} failed"
        return f"PoolResult({counts}; {self.pool.in_short()})"

    @property
    def exit_status(self) -> int:
        """0 if every model answered, else 1."""
        return 1 if self.failed else 0


def predict_pool(
    models: Sequence[str | Path] | str | Path,
    *,
    out: str | Path,
    names: Sequence[str] | None = None,
    image_sizes: Sequence[int] = (),
    templates: Sequence[str] = TEMPLATES,
    top_k: int | None = None,
    batch_size: int = 64,
    shard_rows: int | None = None,
    dtype: str = "float32",
    device: str | None = None,
    assume_label_order: bool = False,
    measure_seconds: bool = False,
    cache: str | Path | None = None,
    spend_limit: float | None = None,
    progress: bool = True,
    **rows: Unpack[RowsOptions],
) -> PoolResult:
    """Answer the rows of a split with every model, and write a pool: pool.json and one file of predictions for each.

    The same call goes on where it was stopped: members that are finished are kept, a member half done goes on by
    shards of rows. Further models join a pool that is there. Under torchrun or `accelerate launch` every process calls
    it and takes its share of the shards.

    Args:
        models: see `pool_entries`: folders, Hub repos, sweeps; NAME=MODEL, MODEL@160 for another input size. None:
            the recipe's members.
        out: the pool's folder.
        names: one for each of `models`.
        image_sizes: pixels; ask every model at each of them.
        templates: of zero-shot models, each with {} where the class goes.
        top_k: keep so many classes of each row; default: all.
        batch_size: rows at once.
        shard_rows: rows that are answered before they are kept; default: 1,024 at most.
        dtype: of the weights while answering; what is kept is float32.
        device: default: the GPU where there is one.
        assume_label_order: take models without label names to be in the data's order.
        measure_seconds: measure seconds per example too (a minute a model at most).
        cache: folder for encoded rows: members with equal processors then share them.
        spend_limit: what the answers of endpoints may cost in this call, in their unit. Before it is passed, the call
            ends; what was answered is kept.
        progress: show progress.
        rows: which rows, the fields of `RowsWanted`. Of a recipe "select", "report" or `"shift-<name>"` is answered.
    Raises:
        InputError: if the call makes no sense, or the pool in `out` is of other rows.
        DataError: if the rows cannot be used.
        HfSoupsError: if the answers do not fit on the disk.
    """
    refuse_url(out)
    wanted = RowsWanted(**rows)
    recipe = None if wanted.recipe is None else load_recipe(wanted.recipe, wanted.overrides)
    asked: Sequence[str | Path] = sources_of(models)
    if not asked and recipe is not None:
        asked = recipe.members
        if not asked:
            raise InputError(f"{wanted.recipe}: no model is named, and the recipe has no `members`. Give one of them.")
    entries = pool_entries(asked, names=None if names is None else names_of(names), image_sizes=image_sizes)
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k is {top_k}; expected the number of classes to keep of each row, 1 or more.")
    labelled = load_rows(wanted)
    on_select = labelled.about.split == "select"
    if recipe is not None and on_select and (doubtful := maybe_trained_on([e.checkpoint for e in entries], recipe)):
        warnings.warn(doubt_in_words(doubtful), DataWarning, stacklevel=2)
    from hf_soups.models.classifier import PredictSettings
    from hf_soups.pool.endpoints import spending_of
    from hf_soups.pool.job import Job

    group = processes()
    spending = spending_of(entries, spend_limit, group.count)
    settings = PredictSettings(
        batch_size, dtype, device or group.device, tuple(names_of(templates)), assume_label_order,
        cache=None if cache is None else Path(cache),
    )  # fmt: skip
    with alone(Path(out), group):
        pool = _pool_at(Path(out), labelled, top_k)
        group.wait()  # nobody writes before all have read
        done = Job(labelled, settings, group, measure_seconds, shard_rows, spending).run(pool, entries, progress)
        if recipe is not None and group.is_main and done.pool.members:
            write_text(Path(out) / RECIPE_FILE, recipe_text(recipe))
    return replace(done, uncertain=_uncertain(done.pool))


def print_result(result: PoolResult) -> None:
    """Print what is in the pool, what failed, and what to do next."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    kept = f"; {len(result.kept)} lay there before and are kept" if result.kept else ""
    console.print(f"{len(result.answered)} of the models answered{kept}.", style="bold")
    if result.pool.members:
        console.print(pool_table(result.pool))
    for name in (*result.kept, *result.answered):
        for note in result.pool.members[name].notes:
            console.print(f"{name}: {note}", style="yellow")
    for name, reason in result.failed.items():
        console.print(f"not answered: {name}: {reason}", style="yellow")
    if result.uncertain is not None:
        console.print(
            f"top {result.pool.top_k} of {len(result.pool.label_names)} classes kept: the answer of the members' mean "
            f"is certain for all but {result.uncertain:.2%} of the rows."
        )
    if len(result.pool) > 1:
        console.print(f"Next: hf-soups {_next_for(result.pool)}")


def _next_for(pool: Pool) -> str:
    """What to do next: nothing is chosen on report rows, and no cascade is sure of a number."""
    from hf_soups.pool.report_rows import holds_report_rows

    here, how = pool.folder, "ensemble" if pool.data.problem_type == REGRESSION else "cascade search"
    if holds_report_rows(pool.data.split):
        return f"{how} SELECT-POOL --report {here} (choose on select rows)"
    return f"{how} {here}"


def pool_table(pool: Pool) -> Table:
    """Each member with its accuracy, or what its rows are scored by, and what an example costs it."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("member", overflow="fold")
    first = [first_score(pool.predictions[name]) for name in pool.members]
    own_units = sorted({unit for member in pool.members.values() for unit in member.costs})
    name = first[0][0] if first else "accuracy"
    for column in (name, "MACs", "parameters", "ms at batch 1", "ms at best batch", *own_units):
        table.add_column(column, justify="right")
    for (name, member), (_, right) in zip(pool.members.items(), first, strict=True):
        counted = [_short(member.macs), _short(member.parameters)]
        measured = ["" if s is None else f"{1000 * s:.2f}" for s in (member.seconds_batch_1, member.seconds)]
        given = [f"{member.costs[unit]:.3g}" if unit in member.costs else "" for unit in own_units]
        table.add_row(name, right, *counted, *measured, *given)
    return table


def first_score(p: Predictions) -> tuple[str, str]:
    """What rows of this problem type are scored by at a glance, and the score; empty without labels."""
    name = METRIC_OF[p.problem_type]
    if p.labels is None or not len(p):
        return name, ""
    if p.problem_type == CLASSIFICATION:
        return name, f"{p.hits.mean():.2%}"
    from hf_soups.metrics import METRICS

    return name, f"{100 * METRICS[name].compute(p):.2f}"


def _short(count: int | None) -> str:
    """A large count in three figures.

    >>> _short(389_913_560), _short(4_652_008)
    ('390 M', '4.65 M')
    """
    if count is None:
        return ""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= 0.9995 * size:
            return f"{count / size:#.3g}".rstrip(".") + letter
    return str(count)


def maybe_trained_on(checkpoints: Sequence[Checkpoint], recipe: Recipe) -> tuple[str, ...]:
    """Names of the fine-tuned ones that may have been trained on the recipe's select rows; see `without_proof`."""
    known = []
    for checkpoint in checkpoints:
        with suppress(HfSoupsError):  # a model that cannot be read is named when it is asked
            if checkpoint.label_names is not None:
                _ = checkpoint.run
                known.append(checkpoint)
    return without_proof(known, recipe, ())


def _pool_at(out: Path, rows: LabelledRows, top_k: int | None) -> Pool:
    """The pool that is there, if it is of these rows, or an empty one."""
    new = Pool(out, rows.task.kind, rows.about, rows.split.label_names, {}, top_k)
    if not (out / POOL_FILE).is_file():
        return new
    there = read_pool(out)
    differ = [
        f"{words} {getattr(a, name)!r} instead of {getattr(b, name)!r}"
        for words, name, a, b in (
            ("rows with the fingerprint", "fingerprint", there.data, new.data),
            ("label names", "label_names", there, new),
            ("tasks of kind", "kind", there, new),
            ("rows of problem type", "problem_type", there.data, new.data),
            ("top-k", "top_k", there, new),
        )
        if getattr(a, name) != getattr(b, name)
        and not (name == "fingerprint" and same_rows(there.data.fingerprint, new.data.fingerprint))
        and not (name == "label_names" and same_labels(there.label_names, new.label_names))
    ]
    if differ:
        raise InputError(
            f"{out}: there is a pool of other predictions: {differ[0][:300]} ({there.data.rows} rows of "
            f"{there.data.path}, split {there.data.split}). Choose another folder (--out), or delete that one."
        )
    return there


def _uncertain(pool: Pool) -> float | None:
    if pool.top_k is None or not pool.members:
        return None
    kept = [p for p in pool.predictions.values() if isinstance(p, TopKPredictions)]
    return float(1 - certain_rows(kept).mean()) if pool.data.rows else 0.0
