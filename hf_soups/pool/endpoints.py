"""Endpoints in a pool: their answers kept row by row until the member is whole, and what an answer costs."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.endpoint import read_endpoint
from hf_soups.models.classifier import Classifier
from hf_soups.models.cost_counting import hardware_name
from hf_soups.models.endpoint import EndpointModel, endpoint_at
from hf_soups.models.endpoint_requests import Spending
from hf_soups.pool.entries import PoolEntry
from hf_soups.pool.rows import LabelledRows
from hf_soups.pool.store import Member

ANSWERED = ".endpoints"  # folder of what was paid for, in a pool whose member is not whole yet


def spending_of(entries: tuple[PoolEntry, ...], limit: float | None, processes: int = 1) -> Spending:
    """What all endpoints of a call may cost together.

    Raises:
        InputError: if there is a limit, and no endpoint, or one whose answers have no cost or another unit.
    """
    if limit is None:
        return Spending()
    if not 0 <= limit < float("inf"):
        raise InputError(f"--spend-limit is {limit}; expected a number of 0 or more.")
    if processes > 1:
        raise InputError("--spend-limit counts what one process spends: start one process alone.")
    named = {e.name: read_endpoint(e.checkpoint.folder) for e in entries if e.checkpoint.is_endpoint}
    if not named:
        raise InputError("--spend-limit is for endpoints, and none of the models is one. Leave it out.")
    free = [name for name, endpoint in named.items() if endpoint.cost is None]
    if free:
        raise InputError(
            f"--spend-limit: what {free[0]} costs is not known. Write cost_per_1000 into its endpoint.json."
        )
    units = {endpoint.unit for endpoint in named.values()}
    if len(units) > 1:
        raise InputError(
            f"--spend-limit: the endpoints cost {' and '.join(sorted(units))}. Predict with one at a time."
        )
    return Spending(limit, units.pop())


def load_endpoint(entry: PoolEntry, rows: LabelledRows) -> Classifier:
    """The endpoint as a classifier of these rows.

    Raises:
        CheckpointError: if it cannot answer them.
    """
    if entry.image_size is not None:
        raise CheckpointError(f"{entry.checkpoint}: an endpoint is sent images as they are; leave out the size.")
    if rows.split.problem_type != "classification":
        raise CheckpointError(
            f"{entry.checkpoint}: an endpoint answers one class of several, but the rows are of "
            f"{rows.split.problem_type!r}."
        )
    return endpoint_at(entry.checkpoint.folder, rows.split.label_names, rows.task.kind)


def keep_answers(model: EndpointModel, pool: Path, rows: int, spending: Spending) -> None:
    """Keep its answers in the pool's folder, whatever becomes of this call."""
    model.keep_answers(_file(model, pool), rows, spending)


def forget_answers(model: EndpointModel, pool: Path) -> None:
    """Remove what was kept, once the pool has it."""
    _file(model, pool).unlink(missing_ok=True)
    if not list((pool / ANSWERED).glob("*")):
        shutil.rmtree(pool / ANSWERED, ignore_errors=True)


def _file(model: EndpointModel, pool: Path) -> Path:
    asked = f"{model.endpoint.url} {model.endpoint.task}"  # labels are joined later: another map asks nothing again
    return pool / ANSWERED / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.jsonl"


def with_endpoint_costs(member: Member, model: EndpointModel) -> Member:
    """The member with what an answer costs, and how long one is waited for from this machine."""
    endpoint, seconds = model.endpoint, model.kept.seconds
    if endpoint.cost is not None:
        member = member.with_cost(endpoint.cost, endpoint.unit)
    if seconds is None:
        return member
    hardware = hardware_name(torch.device("cpu"))  # that waits: so they add up with those of models on it
    return replace(member, seconds=seconds, seconds_batch_1=seconds, best_batch=1, hardware=hardware)
