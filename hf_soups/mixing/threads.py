"""Threads that share out the blocks of one pass over the weights, each with its own buffers and open files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import TypeVar

from hf_soups.mixing.blocks import BlockMixer

T = TypeVar("T")


class _Shared(Iterator[T]):
    """An iterator that several threads draw from, until one of them stops it."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items, self._lock = items, Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)

    def stop(self) -> None:
        with self._lock:
            self._items = iter(())


def in_threads(items: Iterable[T], do: Callable[[BlockMixer, T], object], threads: int) -> None:
    """Call `do(mixer, item)` for every item, in `threads` threads; the first error stops all and is raised."""
    work = _Shared(iter(items))

    def worker() -> None:
        try:
            with BlockMixer() as mixer:
                for item in work:
                    do(mixer, item)
        except BaseException:
            work.stop()
            raise

    if threads == 1:
        worker()
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="mix") as pool:
        try:
            for done in as_completed([pool.submit(worker) for _ in range(threads)]):
                done.result()
        except BaseException:  # Ctrl-C as well: the others stop at their next block
            work.stop()
            raise
