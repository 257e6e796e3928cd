"""Batches of rows that come one by one: a row waits a few milliseconds for others, then a thread answers them all.

Rows of one key go together. While a batch is answered the next one gathers, so under load batches are full and nobody
waits for the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Row, Answer]):
    row: Row
    answer: asyncio.Future[Answer | Exception]
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, eq=False, slots=True)
class Worker:
    """Who answers batches: given rows as requests have them, and the number of the plan to follow."""

    answer: Callable[[Sequence[Any], int], Sequence[Any]]
    at_once: int = 1  # batches, each in a thread of its own


class Batcher(Generic[Row, Key, Answer]):
    """Gathers rows, and has them answered batch by batch. All methods are called on one event loop."""

    def __init__(
        self,
        work: Callable[[Sequence[Row], Key], Sequence[Answer | Exception]],
        *,
        max_batch: int,
        wait_seconds: float,
        answered: Callable[[Key, Sequence[Answer | Exception]], None] = lambda key, answers: None,
        at_once: int = 1,
    ) -> None:
        """Nothing runs before the first row.

        Args:
            work: the answers to some rows, or what is wrong with one of them; called in `at_once` threads.
            max_batch: rows at once.
            wait_seconds: that the first row of a batch waits for others.
            answered: called, on the event loop, with each batch.
            at_once: batches that are answered side by side.
        """
        self._work, self._answered = work, answered
        self._max_batch, self._wait = max_batch, wait_seconds
        self._rows: dict[Key, deque[_Waiting[Row, Answer]]] = {}
        self._threads = ThreadPoolExecutor(at_once, "hf_soups-answer")
        self._at_once, self._busy = at_once, set[asyncio.Task[None]]()
        self._running: asyncio.Task[None] | None = None  # while rows wait

    def put(self, rows: Sequence[Row], key: Key) -> list[asyncio.Future[Answer | Exception]]:
        """Let rows wait for their batch. A future that is cancelled before its turn costs nothing."""
        loop = asyncio.get_running_loop()
        waiting: list[_Waiting[Row, Answer]] = [_Waiting(row, loop.create_future()) for row in rows]
        self._rows.setdefault(key, deque()).extend(waiting)
        if self._running is None:
            self._came, self._running = asyncio.Event(), loop.create_task(self._run())
        self._came.set()
        return [one.answer for one in waiting]

    def __len__(self) -> int:
        """How many rows wait."""
        return sum(map(len, self._rows.values()))

    def close(self) -> None:
        """End the threads after the batches that they answer now."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        """Batch after batch, while rows wait; of several keys the one whose first row waits longest."""
        try:
            while self._rows:
                await self._turn()
                key = min(self._rows, key=lambda key: self._rows[key][0].since)
                await self._gathered(key)
                if batch := self._taken(key):
                    self._busy.add(asyncio.create_task(self._answer(batch, key)))
        finally:
            self._running = None

    async def _turn(self) -> None:
        """Wait until a thread is free."""
        self._busy = {task for task in self._busy if not task.done()}
        while len(self._busy) >= self._at_once:
            _, self._busy = await asyncio.wait(self._busy, return_when=asyncio.FIRST_COMPLETED)

    async def _gathered(self, key: Key) -> None:
        """Wait until a batch is full, or its first row has waited long enough."""
        rows = self._rows[key]
        while len(rows) < self._max_batch and (left := rows[0].since + self._wait - time.monotonic()) > 0:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except TimeoutError:
                return

    def _taken(self, key: Key) -> list[_Waiting[Row, Answer]]:
        rows = self._rows[key]
        batch: list[_Waiting[Row, Answer]] = []
        while rows and len(batch) < self._max_batch:
            one = rows.popleft()
            if not one.answer.done():  # else whoever asked has gone
                batch.append(one)
        if not rows:
            del self._rows[key]
        return batch

    async def _answer(self, batch: list[_Waiting[Row, Answer]], key: Key) -> None:
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._threads, self._work, [one.row for one in batch], key)
            self._answered(key, answers)
        except Exception as error:  # a defect: nobody waits for ever
            answers = [error] * len(batch)
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
