"""A cascade whose members answer apart: a row goes from one member's batches to the next one's until it leaves.

So the large member's batches are full of rows that others deferred, whichever batch they were in before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, abstaining, leaving
from hf_soups.cascades.simulate import run_rows
from hf_soups.serving.answering import RowAnswer, RowReader, answered_alike, row_answers
from hf_soups.serving.batching import Batcher

if TYPE_CHECKING:
    from hf_soups.models.answers import Answers
    from hf_soups.models.readers import Pair

LogProbs = Float32[np.ndarray, " classes"]


@dataclass(frozen=True, eq=False, slots=True)
class Reached:
    """A row that has reached a member, and what those before it answered."""

    row: Pair | bytes
    known: tuple[LogProbs, ...] = ()


class MemberAnswering:
    """Answers batches with one member: a row that leaves there has its answer, another one this member's alone."""

    def __init__(
        self,
        name: str,
        plans: Sequence[Plan],
        answer: Callable[[Sequence[Any], float], Answers],
        kind: str,
        max_pixels: int,
    ) -> None:
        """Args are of the cascade, but `answer`: the member's own answers to values, at a temperature."""
        self._name, self._plans, self._answer = name, plans, answer
        self._read = RowReader(kind, max_pixels)

    def __call__(self, rows: Sequence[Reached], number: int) -> list[RowAnswer | LogProbs | Exception]:
        """The answers to rows, by the plan of this number."""
        values = self._read([one.row for one in rows])
        pairs = [v if isinstance(v, Exception) else (v, one.known) for v, one in zip(values, rows, strict=True)]
        return answered_alike(pairs, lambda good: self._together(good, self._plans[number]))

    def _together(self, pairs: Sequence[tuple[Any, tuple[LogProbs, ...]]], plan: Plan) -> list[RowAnswer | LogProbs]:
        stage = plan.members.index(self._name)
        temperature = plan.temperatures[stage] if plan.temperatures else 1.0
        own = self._answer([value for value, _ in pairs], temperature).log_probs
        known = [np.stack([before[i] for _, before in pairs]) for i in range(stage)]
        done = run_rows(lambda i, at: [*known, own][i][at], len(pairs), (NEVER,) * stage, plan.rule)
        last = stage == len(plan.members) - 1
        abstained = None if plan.abstain is None else abstaining(done.exits, done.confidences, stage, plan.abstain)
        if abstained is not None and not last:  # only who met all members is a human's
            abstained = np.zeros_like(abstained)
        answers = row_answers(np.exp(done.log_probs), done.exits, plan, abstained)
        out = np.ones(len(pairs), dtype=bool) if last else leaving(done.confidences, plan.thresholds[stage])
        return [answers[i] if out[i] else own[i] for i in range(len(pairs))]


class ByMember:
    """Gathers rows for each member, see `hf_soups.serving.batching.Batcher`."""

    def __init__(
        self,
        plans: Sequence[Plan],
        batchers: Mapping[str, Batcher[Reached, int, RowAnswer | LogProbs]],
        left: Callable[[int, int], None],
    ) -> None:
        """`left` is called with a plan's number and a row's exit, in the order in which rows came."""
        self._plans, self._batchers, self._left = plans, batchers, left
        self._came: dict[int, deque[asyncio.Task[RowAnswer | Exception]]] = {}

    def put(self, rows: Sequence[Pair | bytes], number: int) -> list[asyncio.Future[RowAnswer | Exception]]:
        """Let rows wait for their batches. A future that is cancelled costs nothing more."""
        tasks = [asyncio.ensure_future(self._through(row, number)) for row in rows]
        self._came.setdefault(number, deque()).extend(tasks)
        for task in tasks:
            task.add_done_callback(lambda _: self._count(number))
        return list(tasks)

    def __len__(self) -> int:
        """How many rows wait."""
        return sum(map(len, self._batchers.values()))

    def close(self) -> None:
        """End the threads after the batches that they answer now."""
        for batcher in self._batchers.values():
            batcher.close()

    async def _through(self, row: Pair | bytes, number: int) -> RowAnswer | Exception:
        known: tuple[LogProbs, ...] = ()
        for name in self._plans[number].members:
            (future,) = self._batchers[name].put([Reached(row, known)], number)
            found = await future
            if not isinstance(found, np.ndarray):
                return found
            known = (*known, found)
        raise AssertionError("every row leaves at the last member")

    def _count(self, number: int) -> None:
        """A row that leaves early overtakes those that go on; in the order of leaving, shares would seem to differ."""
        came = self._came[number]
        while came and came[0].done():
            task = came.popleft()
            if not task.cancelled() and isinstance(answer := task.result(), RowAnswer):
                self._left(number, answer.exit)
