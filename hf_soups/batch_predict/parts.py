"""Parts: the rows of one file answered member by member, each member by whoever has it loaded.

What travels from member to member is what the members so far answered, and which rows had an error. The rows
themselves do not: whoever has the next member reads those that still need it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Int64

from hf_soups.batch_predict.outputs import AnswerFiles, MadeFrom, table_of
from hf_soups.batch_predict.run import answered_rows, check_kind, load_answerer
from hf_soups.cascades.rule import Rule
from hf_soups.cascades.simulate import run_rows
from hf_soups.errors import DataError
from hf_soups.models.answers import Answers
from hf_soups.pool.entries import is_cascade
from hf_soups.pool.rows import Rows, RowsWanted, Unreadable, find_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_soups.cascades.plan import Plan
    from hf_soups.checkpoint import Checkpoint
    from hf_soups.models.classifier import Answerer, PredictSettings

NOTHING = -1.0  # in the place of an answer to a row with an error


@dataclass(frozen=True, slots=True)
class Route:
    """How rows go from member to member; one member alone has no thresholds."""

    members: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    rule: Rule = field(default_factory=Rule)
    costs: tuple[float, ...] | None = None  # of a row, by the stage that it exits at
    abstain: float | None = None  # of the plan
    work: tuple[float, ...] = ()  # of each member on an average row, as far as it is known


@dataclass(frozen=True, slots=True)
class Halfway:
    """What the members so far answered on the rows of a part that reached them, and the rows with an error."""

    log_probs: tuple[np.ndarray, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)  # by the row's place in the part

    def packed(self) -> bytes:
        """As it travels."""
        file = io.BytesIO()
        errors = np.frombuffer(json.dumps(list(self.errors.items())).encode(), dtype=np.uint8)
        np.savez(file, errors, *self.log_probs)
        return file.getvalue()

    @classmethod
    def unpacked(cls, packed: bytes) -> Halfway:
        """What was packed."""
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            errors, *log_probs = (arrays[f"arr_{i}"] for i in range(len(arrays)))
        return cls(tuple(log_probs), {int(row): str(reason) for row, reason in json.loads(errors.tobytes())})


@dataclass(frozen=True)
class PartsJob:
    """Parts to answer, as it is sent to whoever works on them."""

    route: Route
    open_rows: Callable[[], Rows]
    open_members: tuple[Callable[[str], Answerer], ...]  # in the order of the route; on a device
    files: AnswerFiles
    weights: str  # see `hf_soups.batch_predict.outputs.weights_of`
    top_k: int
    batch_size: int


def job_of(
    checkpoint: Checkpoint,
    wanted: RowsWanted,
    files: AnswerFiles,
    *,
    weights: str,
    settings: PredictSettings,
    kind: str,
    budget: float | None,
    top_k: int,
    dtypes: Mapping[str, str],
) -> PartsJob:
    """The job of a call of batch predict.

    Args:
        checkpoint: a classifier's or a cascade's.
        wanted: the rows.
        files: of the answers.
        weights: see `hf_soups.batch_predict.outputs.weights_of`.
        settings: of a single classifier; the device is the worker's own.
        kind: of the rows.
        budget: of a cascade, see `CascadeModel.budget`.
        top_k: labels with scores of each row.
        dtypes: of a cascade's members by name, instead of their own.
    Raises:
        InputError: if the cascade does not take such rows, or no plan of it is within the budget.
    """
    data = Path(str(wanted.data)).expanduser()
    wanted = replace(wanted, data=str(data.resolve())) if data.exists() else wanted
    files = replace(files, folder=files.folder.resolve())
    if is_cascade(checkpoint):
        route, members = _of_cascade(checkpoint, kind, budget, dtypes)
    else:
        route = Route((checkpoint.name,))
        members = (partial(_open_classifier, checkpoint, settings, wanted, kind, budget),)
    return PartsJob(route, partial(find_rows, wanted), members, files, weights, top_k, settings.batch_size)


def _of_cascade(
    checkpoint: Checkpoint, kind: str, budget: float | None, dtypes: Mapping[str, str]
) -> tuple[Route, tuple[Callable[[str], Answerer], ...]]:
    from hf_soups.cascades.plan import within_budget
    from hf_soups.cascades.running.config import read_cascade
    from hf_soups.cascades.running.members import for_members
    from hf_soups.models.classifier import check_dtype

    config = read_cascade(checkpoint.folder)
    check_kind(checkpoint, str(config.kind), kind)
    for_members(dtypes, config.names, "dtype")
    for dtype in dtypes.values():
        check_dtype(dtype)
    plan = config.built if budget is None else within_budget(config.plans, budget)
    reaching = np.cumsum(plan.exit_shares[::-1])[::-1] if plan.exit_shares else np.ones(len(plan.members))
    work = tuple(float(w) for w in reaching * np.asarray(plan.costs))
    route = Route(plan.members, plan.thresholds, plan.rule, plan.cost_by_exit, plan.abstain, work)
    stages = range(len(plan.members))
    return route, tuple(partial(_open_member, checkpoint, plan, stage, dict(dtypes)) for stage in stages)


def _open_member(checkpoint: Checkpoint, plan: Plan, stage: int, dtypes: Mapping[str, str], device: str) -> Answerer:
    import torch

    from hf_soups.cascades.running.alone import lone_member
    from hf_soups.cascades.running.config import read_cascade

    named = {name: getattr(torch, dtype) for name, dtype in dtypes.items() if name}
    hub = {} if checkpoint.revision is None else {"revision": checkpoint.revision}
    config, where = read_cascade(checkpoint.folder), torch.device(device)
    return lone_member(config, checkpoint.source, plan, stage, dtypes=named, device=where, hub=hub)


def _open_classifier(
    checkpoint: Checkpoint, settings: PredictSettings, wanted: RowsWanted, kind: str, budget: float | None, device: str
) -> Answerer:
    return load_answerer(checkpoint, replace(settings, device=device), wanted, kind=kind, budget=budget)


class PartsExecutor(Protocol):
    """Where parts are answered."""

    def answer(self, job: PartsJob, tick: Callable[[int], object]) -> int:
        """Answer the parts that are missing, each into its file.

        Args:
            job: what to do.
            tick: called with the rows done.
        Returns:
            How many rows were answered.
        Raises:
            HfSoupsError: if a model fails, or machines too often.
        """


def one_stage(job: PartsJob, rows: Rows, member: Answerer, number: int, sofar: Halfway) -> tuple[Halfway, int]:
    """A part with one more member's answers; if no row needs another one, its file is written.

    Args:
        job: what the part belongs to.
        rows: all rows.
        member: the next one of the route.
        number: of the part.
        sofar: what the members before it answered.
    Returns:
        What is known now, and how many rows need another member.
    Raises:
        DataError: if the rows are not those that the job was made for.
        HfSoupsError: if the member fails at all rows of a batch.
    """
    if len(rows) != job.files.rows:
        raise DataError(
            f"{len(rows)} rows are read here, {job.files.rows} where the command was typed. All nodes must see the "
            "same data."
        )
    start, stop = job.files.span(number)
    needing = _exited_or_needing(job.route, sofar, stop - start)
    assert not isinstance(needing, Answers)
    known = _asked(job, rows, member, start, needing, sofar)
    found = _exited_or_needing(job.route, known, stop - start)
    if isinstance(found, Answers):
        job.files.write(number, _table(job, rows, member, number, found, known.errors))
        return known, 0
    return known, len(found)


class _Needing(Exception):
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows


def _exited_or_needing(route: Route, known: Halfway, count: int) -> Answers | Int64[np.ndarray, " rows"]:
    """The answers to all rows, or the rows that need the next member."""
    if len(route.members) == 1 and route.abstain is None:
        exits = np.zeros(count, dtype=np.int64)
        return Answers(known.log_probs[0], exits, None) if known.log_probs else np.arange(count)

    def answer(stage: int, at: np.ndarray) -> np.ndarray:
        if stage == len(known.log_probs):
            raise _Needing(at)
        return known.log_probs[stage]

    try:
        done = run_rows(answer, count, route.thresholds, route.rule, route.abstain)
    except _Needing as needing:
        return needing.rows
    costs = None if route.costs is None else np.asarray(route.costs)[done.exits]
    return Answers(done.log_probs, done.exits, costs, done.abstained)


def _asked(
    job: PartsJob, rows: Rows, member: Answerer, start: int, needing: Int64[np.ndarray, " rows"], sofar: Halfway
) -> Halfway:
    """The member's answers to the rows that need it, batch by batch."""
    classes, errors = len(member.label_names), dict(sofar.errors)
    own = np.full((len(needing), classes), NOTHING, dtype=np.float32)
    able = np.asarray([i for i, row in enumerate(needing.tolist()) if row not in errors], dtype=np.int64)
    pieces = [able[at : at + job.batch_size] for at in range(0, len(able), job.batch_size)]
    for piece, values in _read_ahead(rows, start, pieces, needing):
        values, answers = answered_rows(member, values)
        readable = [i for i, value in zip(piece, values, strict=True) if not isinstance(value, Unreadable)]
        errors |= {
            int(needing[i]): value.reason
            for i, value in zip(piece, values, strict=True)
            if isinstance(value, Unreadable)
        }
        if answers is not None:
            own[readable] = answers.log_probs
    return Halfway((*sofar.log_probs, own), errors)


def _read_ahead(
    rows: Rows, start: int, pieces: Sequence[np.ndarray], needing: np.ndarray
) -> Iterator[tuple[np.ndarray, list[Any]]]:
    """Places with the values of their rows; the next ones are read while these are answered."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(_values, rows, start + needing[piece]) for piece in pieces[:1]]
        for i, piece in enumerate(pieces):
            values = waiting.pop().result()
            waiting += [reader.submit(_values, rows, start + needing[after]) for after in pieces[i + 1 : i + 2]]
            yield piece, values


def _values(rows: Rows, numbers: np.ndarray) -> list[Any]:
    """Of rows anywhere: those behind one another are read at once."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return [value for run in runs for value in rows.values(int(run[0]), int(run[-1]) + 1)]


def _table(
    job: PartsJob, rows: Rows, member: Answerer, number: int, found: Answers, errors: Mapping[int, str]
) -> pa.Table:
    start, stop = job.files.span(number)
    values = [Unreadable(errors[i]) if i in errors else None for i in range(stop - start)]
    readable = np.asarray([i not in errors for i in range(stop - start)], dtype=bool)
    costs = None if found.costs is None else found.costs[readable]
    abstained = None if found.abstained is None else found.abstained[readable]
    answers = Answers(found.log_probs[readable], found.exits[readable], costs, abstained) if readable.any() else None
    about = member.label_names, job.top_k, member.problem_type, job.route.abstain is not None
    table = table_of(rows.ids(start, stop), values, answers, *about)
    return table.replace_schema_metadata(MadeFrom(rows, job.weights).metadata(start, stop))
