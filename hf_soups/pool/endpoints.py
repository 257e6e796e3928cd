"""Endpoints in a pool: their answers kept row by row until the member is whole, and what an answer costs."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.endpoint import read_endpoint
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.models.classifier import PredictSettings
from hf_soups.models.cost_counting import hardware_name
from hf_soups.models.endpoint import EndpointModel, endpoint_at
from hf_soups.models.endpoint_requests import Spending
from hf_soups.pool.entries import PoolEntry
from hf_soups.pool.label_order import LabelMatch
from hf_soups.pool.member_model import MemberModel
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


class EndpointMember(MemberModel):
    """An endpoint: its labels are joined answer by answer, and what was paid for is kept until the pool has all."""

    @classmethod
    def load(cls, entry: PoolEntry, rows: LabelledRows, settings: PredictSettings) -> Self:
        """The endpoint as a model of these rows.

        Raises:
            CheckpointError: if it cannot answer them.
        """
        names, of_type = rows.split.label_names, rows.split.problem_type
        if entry.image_size is not None:
            raise CheckpointError(f"{entry.checkpoint}: an endpoint is sent images as they are; leave out the size.")
        if of_type != CLASSIFICATION:
            raise CheckpointError(
                f"{entry.checkpoint}: an endpoint answers one class of several, but the rows are of {of_type!r}."
            )
        labels = LabelMatch(tuple(range(len(names))), len(names))
        return cls(entry, rows, settings, endpoint_at(entry.checkpoint.folder, names, rows.task.kind), labels)

    @property
    def _model(self) -> EndpointModel:
        model: EndpointModel = self.classifier.model
        return model

    def begin(self, pool: Path, spending: Spending) -> None:
        """Keep its answers in the pool's folder, whatever becomes of this call."""
        self._model.keep_answers(self._file(pool), len(self.rows.split), spending)

    def end(self, pool: Path) -> None:
        """Remove what was kept."""
        self._file(pool).unlink(missing_ok=True)
        if not list((pool / ANSWERED).glob("*")):
            shutil.rmtree(pool / ANSWERED, ignore_errors=True)

    def _file(self, pool: Path) -> Path:
        endpoint = self._model.endpoint  # labels are joined later: another map of them asks nothing again
        asked = f"{endpoint.url} {endpoint.task}"
        return pool / ANSWERED / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.jsonl"

    def with_counts(self, member: Member) -> Member:
        """The member with what an answer costs, and how long one is waited for from this machine."""
        endpoint, seconds = self._model.endpoint, self._model.kept.seconds
        if endpoint.cost is not None:
            member = member.with_cost(endpoint.cost, endpoint.unit)
        if seconds is None:
            return member
        hardware = hardware_name(torch.device("cpu"))  # that waits: so they add up with those of models on it
        return replace(member, seconds=seconds, seconds_batch_1=seconds, best_batch=1, hardware=hardware)

    def with_seconds(self, member: Member) -> Member:
        """As they were when it answered: asking again would cost."""
        return member
