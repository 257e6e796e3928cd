"""Memory that a piece of work adds to its process, for the benchmarks beside this file."""

from __future__ import annotations

import threading
from pathlib import Path


class Memory:
    """The largest growth of this process's resident pages, looked at every 2 ms."""

    def __enter__(self) -> Memory:
        self._before = self._now()
        self._growth = dict.fromkeys(self._before, 0.0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        self._done.set()
        self._thread.join()

    def figures(self) -> dict[str, float]:
        """In bytes."""
        return {"anonymous": self._growth["RssAnon"], "file": self._growth["RssFile"]}

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._look()

    def _look(self) -> None:
        for kind, size in self._now().items():
            self._growth[kind] = max(self._growth[kind], size - self._before[kind])

    @staticmethod
    def _now() -> dict[str, float]:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {line.split(":")[0]: float(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
        return {kind: found[kind] for kind in ("RssAnon", "RssFile")}
