"""Batch predict: every row of a data set answered once by one model or cascade, shard after shard."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.batch_predict.answerer import is_cascade, one_model, unit_of, weights_of
from hf_soups.batch_predict.inputs import Inputs, Unreadable, find_inputs
from hf_soups.batch_predict.outputs import MadeFrom, Parts, claim, table_of
from hf_soups.errors import DataError, HfSoupsError, InputError, is_short_of_memory
from hf_soups.pool.data_rows import Wanted
from hf_soups.pool.shards import processes

if TYPE_CHECKING:
    from hf_soups.batch_predict.answerer import Answerer, Answers
    from hf_soups.progress import Meter

Values = list[Any]


@dataclass(frozen=True, slots=True)
class RowsResult:
    """What a call of batch predict did."""

    out: Path
    rows: int
    answered: int  # by this call (and this process)
    seconds: float  # of answering them
    errors: int  # rows that hold an error instead of an answer
    exits: tuple[int, ...] = ()  # rows by exit stage
    average_cost: float | None = None  # of the rows that were answered
    unit: str = ""
    stale: tuple[str, ...] = ()  # what was there and had to be answered again, and why, in words


def predict_rows(
    model: str | Path,
    *,
    data: str,
    out: str | Path,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    kind: str | None = None,
    text: Sequence[str] = (),
    image: str | None = None,
    id_column: str | None = None,
    label_names: Sequence[str] = (),
    limit: int | None = None,
    max_length: int = 128,
    budget: float | None = None,
    top_k: int = 5,
    batch_size: int = 64,
    shard_rows: int = 4096,
    dtype: str = "float32",
    device: str | None = None,
    templates: Sequence[str] | None = None,
    progress: bool = True,
) -> RowsResult:
    """Answer all rows into parquet files: one output row for each input row, in their order.

    A row that cannot be read has an error instead of an answer. The same call goes on where it was stopped; a kill
    loses one shard at most. Parts whose rows or whose model changed meanwhile are answered again. Under torchrun every
    process calls it and takes its share of the shards.

    Args:
        model: a classifier's or a cascade's folder or Hub repo.
        data: a folder of images (also in folders below it), or a Hub id, Hub-layout folder, parquet or csv files.
        out: the folder of the answers: _answers.json and part-<number>.parquet.
        split: of a data set; default "train". A folder of images has none.
        config: of the data set.
        revision: of the data set.
        kind: text, text-pair or image; default: the cascade's, or as the columns are.
        text: one or two text columns; default: the only ones.
        image: column; default: the only one.
        id_column: column that calls the rows; default: their numbers. Images of a folder are called by their paths.
        label_names: the classes that a zero-shot model is asked about.
        limit: the first so many rows.
        max_length: tokens of a text, for a single classifier.
        budget: of a cascade: average cost in shares of its most expensive member's.
        top_k: labels with scores of each row.
        batch_size: rows at once.
        shard_rows: rows of each file.
        dtype: of a single classifier's weights; a cascade knows its members'.
        device: default: the GPU where there is one.
        templates: of a zero-shot model, each with {} where the class goes.
        progress: show progress.
    Raises:
        InputError: if the call makes no sense, or `out` holds answers of another model, other data or settings.
        DataError: if there are no rows.
        CheckpointError: if the model cannot be loaded.
    """
    from hf_soups.batch_predict.answerer import load_answerer
    from hf_soups.pool.job import alone
    from hf_soups.pool.member_model import How
    from hf_soups.progress import Meter

    if top_k < 1 or shard_rows < 1:
        raise InputError(f"top_k is {top_k}, shard_rows {shard_rows}; expected 1 or more of both.")
    group = processes()
    how = How(batch_size, dtype, device or group.device)
    how = how if templates is None else replace(how, templates=tuple(templates))
    checkpoint = one_model(model)
    own = str(checkpoint.config.get("kind")) if is_cascade(checkpoint) else kind
    wanted = Wanted(data, split, config, revision, own, tuple(text), image, limit=limit)
    inputs = find_inputs(wanted, kind=own, id_column=id_column)
    parts = Parts(Path(out), len(inputs), shard_rows)
    made_from = MadeFrom(inputs, weights_of(checkpoint))
    single = {} if is_cascade(checkpoint) else {"max_length": max_length, "dtype": dtype, "classes": list(label_names)}
    settings = {
        "data": _beside(data, parts.folder), "rows": len(inputs), "rows_of_each_file": shard_rows,
        "model": _beside(str(checkpoint), parts.folder), "weights": made_from.weights, "top_k": top_k,
        "budget": budget, "unit": unit_of(checkpoint), "kind": inputs.kind, "config": config, "split": split,
        "columns": list(inputs.columns), "id_column": id_column, "limit": limit, **single,
        **({} if templates is None else {"templates": list(templates)}),
    }  # fmt: skip
    answered, seconds, stale = 0, 0.0, []
    with alone(parts.folder, group):
        if group.is_main:
            stale = claim(parts, settings, made_from)
        group.wait()
        mine = [number for number in parts.missing() if group.mine(number)]
        if mine:
            answerer = load_answerer(
                checkpoint, how, kind=inputs.kind, classes=label_names, max_length=max_length, budget=budget
            )
            with Meter("predict", len(inputs), visible=progress and group.is_main) as meter:
                answered, seconds = _answer(mine, parts, made_from, answerer, top_k, batch_size, meter)
        group.wait()
        return _result(parts, answered, seconds, unit_of(checkpoint), tuple(stale))


def _beside(place: str, folder: Path) -> str:
    """A place as the answers' folder names it, so that both can be moved together; a Hub id as it is."""
    local = Path(place).expanduser()
    return os.path.relpath(local.resolve(), folder.resolve()) if local.exists() else place


def print_result(result: RowsResult) -> None:
    """Print how many rows were answered, at which stage, and what to look at."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    pace = f" ({result.answered / result.seconds:.0f} rows a second)" if result.answered and result.seconds else ""
    console.print(f"{result.rows} rows in {result.out}, {result.answered} answered now{pace}.", style="bold")
    if len(result.exits) > 1:
        total = max(1, sum(result.exits))
        shares = ", ".join(f"stage {i}: {n / total:.1%}" for i, n in enumerate(result.exits))
        console.print(f"left at {shares}; average cost {result.average_cost:.4g} {result.unit}")
    if result.errors:
        console.print(f"{result.errors} rows could not be answered; the column `error` says why.", style="yellow")


def _answer(
    numbers: Sequence[int],
    parts: Parts,
    made_from: MadeFrom,
    answerer: Answerer,
    top_k: int,
    batch_size: int,
    meter: Meter,
) -> tuple[int, float]:
    """Answer and write these parts; rows and seconds."""
    import pyarrow as pa

    started, rows, inputs = time.perf_counter(), 0, made_from.inputs
    spans = [parts.span(number) for number in numbers]
    batches = [(a, min(a + batch_size, stop)) for start, stop in spans for a in range(start, stop, batch_size)]
    ends = {stop: number for number, (_, stop) in zip(numbers, spans, strict=True)}
    tables: list[pa.Table] = []
    for start, stop, values in _ahead(inputs, batches):
        values, answers = _answered(answerer, values)
        tables.append(table_of(inputs.ids(start, stop), values, answers, answerer.label_names, top_k))
        rows += stop - start
        meter(stop)
        if stop in ends:
            whole = pa.concat_tables(tables, promote_options="permissive")
            parts.write(ends[stop], whole.replace_schema_metadata(made_from.metadata(*parts.span(ends[stop]))))
            tables = []
    return rows, time.perf_counter() - started


def _ahead(inputs: Inputs, batches: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, Values]]:
    """The batches with their values; the next one is read while this one is answered."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(inputs.values, *span) for span in batches[:1]]
        for i, (start, stop) in enumerate(batches):
            values = waiting.pop().result()
            waiting += [reader.submit(inputs.values, *span) for span in batches[i + 1 : i + 2]]
            yield start, stop, values


def _answered(answerer: Answerer, values: Values) -> tuple[Values, Answers | None]:
    """The answers to a batch; a row that the model cannot take is `Unreadable` afterwards.

    Raises:
        HfSoupsError: if it can take none of several, and not for their own fault: then it is the model's.
    """
    at = [i for i, value in enumerate(values) if not isinstance(value, Unreadable)]
    if not at:
        return values, None
    try:
        return values, answerer.answer([values[i] for i in at])
    except Exception as error:  # processors raise nearly anything for an odd image
        if is_short_of_memory(error):
            raise
        return _one_by_one(answerer, values, at, error)


def _one_by_one(
    answerer: Answerer, values: Values, at: Sequence[int], error: Exception
) -> tuple[Values, Answers | None]:
    from hf_soups.batch_predict.answerer import Answers

    values, done, faults = list(values), [], 0
    for i in at:
        try:
            done.append(answerer.answer([values[i]]))
        except DataError as own:  # a large photo is decoded only now
            values[i] = Unreadable.of(own)
        except Exception as own:  # as above, of this row alone
            values[i] = Unreadable(f"it cannot be answered ({type(own).__name__}: {str(own)[:200]})")
            faults, error = faults + 1, own
    if not done and faults > 1:
        if isinstance(error, HfSoupsError):
            raise error
        raise HfSoupsError(f"none of {faults} rows can be answered ({type(error).__name__}: {error}).") from error
    if not done:
        return values, None
    costs = [a.costs for a in done if a.costs is not None]
    joined = Answers(
        np.concatenate([a.log_probs for a in done]),
        np.concatenate([a.exits for a in done]),
        np.concatenate(costs) if costs else None,
    )
    return values, joined


def _result(parts: Parts, answered: int, seconds: float, unit: str, stale: tuple[str, ...]) -> RowsResult:
    """The totals over all files, whoever wrote them."""
    done = parts.read(["exit_stage", "cost", "error"])
    exits = np.asarray(done.column("exit_stage").drop_null().to_numpy(), dtype=np.int64)
    costs = np.asarray(done.column("cost").drop_null().to_numpy(), dtype=np.float64)
    return RowsResult(
        parts.folder, parts.rows, answered, seconds, done.num_rows - done.column("error").null_count,
        tuple(np.bincount(exits).tolist()) if len(exits) else (), float(costs.mean()) if len(costs) else None,
        unit, stale,
    )  # fmt: skip
