"""Batch predict: every row of a data set answered once by one model or cascade, shard after shard."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from hf_soups.batch_predict.outputs import AnswerFiles, MadeFrom, claim, table_of, weights_of
from hf_soups.checkpoint import Checkpoint, names_of
from hf_soups.errors import DataError, EndpointFailed, HfSoupsError, InputError, is_short_of_memory
from hf_soups.files.writing import refuse_url
from hf_soups.pool.entries import is_cascade, one_model
from hf_soups.pool.rows import Rows, RowsOptions, RowsWanted, Unreadable, find_rows
from hf_soups.pool.shards import alone, answer_missing, processes

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_soups.batch_predict.parts import PartsExecutor
    from hf_soups.models.answers import Answers
    from hf_soups.models.classifier import Answerer, Classifier, PredictSettings
    from hf_soups.pool.shards import Progress

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
    abstained: int | None = None  # rows for a human; None: none is meant for one
    fell_back: int | None = None  # rows that an endpoint did not answer; None: all must be answered


def predict_rows(
    model: str | Path,
    *,
    out: str | Path,
    budget: float | None = None,
    top_k: int = 5,
    batch_size: int = 64,
    shard_rows: int = 4096,
    dtype: str | Mapping[str, str] | None = None,
    device: str | Mapping[str, str] | None = None,
    templates: Sequence[str] | None = None,
    progress: bool = True,
    executor: PartsExecutor | None = None,
    **rows: Unpack[RowsOptions],
) -> RowsResult:
    """Answer all rows into parquet files: one output row for each input row, in their order.

    A row that cannot be read has an error instead of an answer. The same call goes on where it was stopped; a kill
    loses one shard at most. Parts whose rows or whose model changed meanwhile are answered again. Under torchrun every
    process calls it and takes its share of the shards.

    Args:
        model: a classifier's or a cascade's folder or Hub repo.
        out: the folder of the answers: _answers.json and `part-<number>.parquet`.
        budget: of a cascade: average cost in shares of its most expensive member's.
        top_k: labels with scores of each row.
        batch_size: rows at once.
        shard_rows: rows of each file.
        dtype: of the weights, of a cascade also by its members' names. Default: float32; each member's own.
        device: default: the GPU where there is one, of a cascade each member's own. Also by its members' names; the
            others are there.
        templates: of a zero-shot model, each with {} where the class goes.
        progress: show progress.
        executor: where parts are answered, see `hf_soups.remote.answers`; default: in this process.
        rows: which rows, the fields of `RowsWanted`: `data` may be a folder of images too, which are called by their
            paths, `limit` takes the first rows, and `label_names` are the classes of a zero-shot model. A cascade knows
            `kind` and `max_length` itself.
    Raises:
        InputError: if the call makes no sense, or `out` holds answers of another model, other data or settings.
        DataError: if there are no rows.
        CheckpointError: if the model cannot be loaded.
    """
    from hf_soups.models.classifier import PredictSettings
    from hf_soups.progress import Meter

    if top_k < 1 or shard_rows < 1:
        raise InputError(f"top_k is {top_k}, shard_rows {shard_rows}; expected 1 or more of both.")
    refuse_url(out)
    group = processes()
    checkpoint = one_model(model)
    cascade = is_cascade(checkpoint)
    (for_all, dtypes), (where, devices) = split_by_member(checkpoint, dtype, device)
    if executor is not None and (device is not None or group.count > 1):
        raise InputError("device, and several processes of torchrun, are of one machine: a cluster gives them out.")
    settings = PredictSettings(batch_size, for_all or "float32", where or group.device)
    settings = settings if templates is None else replace(settings, templates=tuple(names_of(templates)))
    wanted = RowsWanted(**rows)
    if wanted.data is None or wanted.recipe is not None:
        raise InputError("answers are one model's or cascade's, on --data: give one of each.")
    if cascade:
        wanted = replace(wanted, kind=str(checkpoint.config.get("kind")))
    inputs = find_rows(wanted)
    files, made_from = AnswerFiles(Path(out), len(inputs), shard_rows), MadeFrom(inputs, weights_of(checkpoint))
    unit = str(checkpoint.config.get("plan", {}).get("unit", "")) if cascade else ""
    classes = list(wanted.label_names or ())
    manifest = {
        "data": _beside(str(wanted.data), files.folder), "rows": len(inputs), "rows_of_each_file": shard_rows,
        "model": _beside(str(checkpoint), files.folder), "weights": made_from.weights, "top_k": top_k,
        "budget": budget, "unit": unit, "kind": inputs.kind, "config": wanted.config, "split": wanted.split,
        "columns": list(inputs.columns), "id_column": wanted.id_column, "limit": wanted.limit,
        **({} if cascade else {"max_length": wanted.max_length, "dtype": settings.dtype, "classes": classes}),
        **({} if templates is None else {"templates": list(templates)}),
        **({"dtypes": dtypes} if cascade else {}),
    }  # fmt: skip
    answered, seconds, stale = 0, 0.0, []
    with alone(files.folder, group):
        if group.is_main:
            stale = claim(files, manifest, made_from)
        group.wait()
        if any(group.mine(number) for number in files.missing()):
            how: dict[str, Any] = {"settings": settings, "kind": inputs.kind, "budget": budget, "dtypes": dtypes}
            with Meter("predict", len(inputs), visible=progress and group.is_main) as meter:
                if executor is not None:
                    from hf_soups.batch_predict.parts import job_of

                    parts = job_of(checkpoint, wanted, files, weights=made_from.weights, top_k=top_k, **how)
                    started = time.perf_counter()
                    answered, seconds = executor.answer(parts, meter), time.perf_counter() - started
                else:
                    answerer = load_answerer(checkpoint, wanted=wanted, devices=devices, **how)
                    job = BatchJob(made_from, answerer, top_k, batch_size)
                    answered, seconds = answer_missing(files, group, job.answer, meter)
        group.wait()
        return _result(files, answered, seconds, unit, tuple(stale))


def split_by_member(
    checkpoint: Checkpoint, *given: str | Mapping[str, str] | None
) -> tuple[tuple[str | None, dict[str, str]], ...]:
    """Of each value, such as a dtype: what is given for all, and for members by name, of a cascade for each of them.

    Raises:
        InputError: if members are named of a single classifier.
    """
    if not is_cascade(checkpoint) and any(isinstance(one, Mapping) and one for one in given):
        raise InputError(f"{checkpoint}: one model, so there are no members to name. Give one dtype and one device.")
    members = _member_names(checkpoint) if is_cascade(checkpoint) else ()
    return tuple(
        (None, dict(one)) if isinstance(one, Mapping) else (one, {} if one is None else dict.fromkeys(members, one))
        for one in given
    )


def _member_names(checkpoint: Checkpoint) -> list[str]:
    members = checkpoint.config.get("members")  # what is wrong with it is said when the cascade is loaded
    return [str(one.get("name")) for one in members if isinstance(one, Mapping)] if isinstance(members, list) else []


def load_answerer(
    checkpoint: Checkpoint,
    settings: PredictSettings,
    wanted: RowsWanted,
    *,
    kind: str,
    budget: float | None = None,
    dtypes: Mapping[str, str] | None = None,
    devices: Mapping[str, str] | None = None,
) -> Answerer:
    """What answers rows of a kind.

    Args:
        checkpoint: a classifier's or a cascade's.
        settings: device, precision, templates; a cascade's members answer in the precision of their predictions.
        wanted: `label_names` are the classes of a zero-shot model, `max_length` the tokens of a single classifier.
        kind: of the rows; a cascade must be of it.
        budget: of a cascade, see `CascadeModel.budget`.
        dtypes: of a cascade's members by name, instead of their own.
        devices: of a cascade's members by name, instead of their own or that of the settings.
    Raises:
        CheckpointError, MemberError: if it cannot be loaded.
        InputError: if it does not take such rows.
    """
    if is_cascade(checkpoint):
        return _load_cascade(checkpoint, settings, kind, budget, dtypes or {}, devices or {})
    if budget is not None:
        raise InputError(f"{checkpoint}: a budget is for cascades; this is a single classifier.")
    return load_classifier(checkpoint, settings, kind, wanted.label_names or ()).cut_at(wanted.max_length)


def load_classifier(
    checkpoint: Checkpoint, settings: PredictSettings, kind: str, classes: Sequence[str] = ()
) -> Classifier:
    """A single classifier of rows of a kind; `classes` are those of a zero-shot model.

    Raises:
        CheckpointError: if it cannot be loaded.
        InputError: if it does not take such rows, or the classes are missing.
    """
    from hf_soups.models.classifier import Classifier, answering_family

    family = answering_family(checkpoint, kind, classes, settings.templates)
    if family.name == "zero-shot" and not classes:
        raise InputError(f"{checkpoint}: a zero-shot model needs the names of the classes (--label-names).")
    device, dtype = settings.torch_device, settings.torch_dtype
    return Classifier.load(checkpoint, family, kind, dtype=dtype, device=device)


def check_kind(checkpoint: Checkpoint, own: str, kind: str) -> None:
    """Refuse rows of another kind than a cascade's own."""
    if own != kind:
        raise InputError(f"{checkpoint}: a cascade of kind {own!r}, but the rows are of kind {kind!r}.")


def _load_cascade(
    checkpoint: Checkpoint,
    settings: PredictSettings,
    kind: str,
    budget: float | None,
    dtypes: Mapping[str, str],
    devices: Mapping[str, str],
) -> Answerer:
    from hf_soups.cascades.running.model import cascade_class

    check_kind(checkpoint, str(checkpoint.config.get("kind")), kind)
    hub: dict[str, Any] = {} if checkpoint.revision is None else {"revision": checkpoint.revision}
    where: dict[str, Any] = {"": settings.torch_device, **devices}
    model: Any = cascade_class(kind).from_pretrained(
        checkpoint.source,
        dtype=dtypes or None,
        device_map=where,
        **hub,
    )
    model.budget = budget
    answerer: Answerer = model
    return answerer


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
    if result.abstained is not None:
        console.print(f"{result.abstained} rows are for a human; the column `abstained` says which.")
    if result.fell_back:
        console.print(
            f"{result.fell_back} rows got no answer of an endpoint, and keep that of the members before it; the column "
            "`fell_back` says which.",
            style="yellow",
        )
    if result.errors:
        console.print(f"{result.errors} rows could not be answered; the column `error` says why.", style="yellow")


@dataclass(frozen=True)
class BatchJob:
    """What answers the rows of a file."""

    made_from: MadeFrom
    answerer: Answerer
    top_k: int
    batch_size: int

    def answer(self, start: int, stop: int, progress: Progress) -> pa.Table:
        """The output rows of some input rows, with what they were made from."""
        import pyarrow as pa

        rows, tables = self.made_from.rows, []
        for at, end, values in _ahead(rows, start, stop, self.batch_size):
            values, answers = answered_rows(self.answerer, values)
            about = self.answerer.label_names, self.top_k, self.answerer.problem_type, self.answerer.abstains
            falls_back = bool(getattr(self.answerer, "may_fall_back", False))  # of cascades alone
            tables.append(table_of(rows.ids(at, end), values, answers, *about, falls_back=falls_back))
            progress(end - start, stop - start)
        whole = pa.concat_tables(tables, promote_options="permissive")
        return whole.replace_schema_metadata(self.made_from.metadata(start, stop))


def _ahead(rows: Rows, start: int, stop: int, size: int) -> Iterator[tuple[int, int, Values]]:
    """Batches with their values; the next one is read while this one is answered."""
    spans = [(at, min(at + size, stop)) for at in range(start, stop, size)]
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(rows.values, *span) for span in spans[:1]]
        for i, span in enumerate(spans):
            values = waiting.pop().result()
            waiting += [reader.submit(rows.values, *following) for following in spans[i + 1 : i + 2]]
            yield *span, values


def answered_rows(answerer: Answerer, values: Values) -> tuple[Values, Answers | None]:
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
        silent = isinstance(error, EndpointFailed) or isinstance(error.__cause__, EndpointFailed)
        if is_short_of_memory(error) or silent:  # the next row would fare no better
            raise
        return _one_by_one(answerer, values, at, error)


def _one_by_one(
    answerer: Answerer, values: Values, at: Sequence[int], error: Exception
) -> tuple[Values, Answers | None]:
    from hf_soups.models.answers import Answers

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
    abstained = [a.abstained for a in done if a.abstained is not None]
    fell_back = [a.fell_back for a in done if a.fell_back is not None]
    joined = Answers(
        np.concatenate([a.log_probs for a in done]),
        np.concatenate([a.exits for a in done]),
        np.concatenate(costs) if costs else None,
        np.concatenate(abstained) if abstained else None,
        np.concatenate(fell_back) if fell_back else None,
    )
    return values, joined


def _result(files: AnswerFiles, answered: int, seconds: float, unit: str, stale: tuple[str, ...]) -> RowsResult:
    """The totals over all files, whoever wrote them."""
    marks = [name for name in ("abstained", "fell_back") if files.has(name)]
    done = files.read(["exit_stage", "cost", "error", *marks])
    marked = {name: int(np.sum(done.column(name).drop_null().to_numpy())) for name in marks}
    exits = np.asarray(done.column("exit_stage").drop_null().to_numpy(), dtype=np.int64)
    costs = np.asarray(done.column("cost").drop_null().to_numpy(), dtype=np.float64)
    return RowsResult(
        files.folder, files.rows, answered, seconds, done.num_rows - done.column("error").null_count,
        tuple(np.bincount(exits).tolist()) if len(exits) else (), float(costs.mean()) if len(costs) else None,
        unit, stale, marked.get("abstained"), marked.get("fell_back"),
    )  # fmt: skip
