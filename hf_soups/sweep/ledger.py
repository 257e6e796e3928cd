"""Ledger: what became of every planned run, as the disk shows it.

A run is done when its folder is there: folders appear whole or not at all. A run is being worked on when its lock
is held. The lock (flock) belongs to the open file, and the run's process inherits it: it is free only when both
the sweep and the run's process are gone, so a run whose sweep was killed is never started a second time beside itself.
Where such locks do not hold, a lease takes their place, and a run ends with its sweep.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.reading import read_json
from hf_soups.files.writing import write_json
from hf_soups.finetune.run_record import RUN_FILE, read_run
from hf_soups.sweep.leases import Leases, locks_hold

State = Literal["finished", "failed", "open"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one run; `open` runs have not started, or were killed half-way."""

    name: str
    state: State
    status: str = ""  # "finished" or one of errors.RUN_FAILURES
    reason: str = ""
    seconds: float | None = None  # of training, where that is known
    noted: int = 0  # when, in the file system's nanoseconds: tells one failure from the next


@dataclass(frozen=True, slots=True)
class RunClaim:
    """The right to work on one run, held by an open and locked file, or else by a lease."""

    name: str
    descriptor: int | None  # which the run's process can hold too
    lease: Path | None = None
    leases: Leases | None = None

    def release(self) -> None:
        """Give up this process's share of it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        elif self.leases is not None and self.lease is not None:
            self.leases.give_up(self.lease)


class Ledger:
    """The runs of one sweep's folder."""

    def __init__(self, sweep: Path) -> None:
        self.sweep = sweep
        self._folder = sweep / "ledger"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._leases = Leases(self._folder)

    def entry(self, name: str) -> Entry:
        """What the disk says of a run."""
        folder, crash = self.sweep / name, self._folder / f"{name}.json"
        noted = _modified(folder / RUN_FILE)
        if noted is not None:
            try:
                record = read_run(folder)
            except CheckpointError as error:
                return Entry(name, "failed", "error", str(error), noted=noted)
            state: State = "finished" if record.status == "finished" else "failed"
            return Entry(name, state, record.status, record.reason, record.train_seconds, noted)
        noted = _modified(crash)
        if noted is not None:
            return Entry(name, "failed", "error", _reason(crash), noted=noted)
        return Entry(name, "open")

    def claim(self, name: str) -> RunClaim | None:
        """Claim a run, or None while another process works on it. What was left of a half run is removed."""
        if not locks_hold(self._folder):
            lease = self._leases.take(name)
            if lease is not None:
                self.clear(name)
            return None if lease is None else RunClaim(name, None, lease, self._leases)
        descriptor = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.clear(name)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return RunClaim(name, descriptor)

    def started(self, name: str, *, pid: int, **where: str) -> None:
        """Note that a process works on a claimed run; every attempt is kept."""
        path = self._folder / f"{name}.attempts.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"pid": pid, **where, "started": _now()}) + "\n")

    def crashed(self, claim: RunClaim, reason: str) -> None:
        """Note a run that ended by itself without leaving a record."""
        write_json(self._folder / f"{claim.name}.json", {"reason": reason, "ended": _now()})

    def forget_failure(self, claim: RunClaim) -> None:
        """Open a failed run again."""
        (self._folder / f"{claim.name}.json").unlink(missing_ok=True)
        if self.entry(claim.name).state == "failed":
            self._remove(claim.name)

    def clear(self, name: str) -> None:
        """Remove what a killed run, or a killed removal of a run, left behind; the caller has claimed the run."""
        if (self.sweep / name).exists() and not (self.sweep / name / RUN_FILE).exists():
            self._remove(name)
        for left in self.sweep.glob(f".{name}.*-*"):  # partial, probe, replaced, removed
            shutil.rmtree(left, ignore_errors=True)

    def _remove(self, name: str) -> None:
        """Out of sight by one rename: a kill in between leaves the whole run, or none."""
        removed = self.sweep / f".{name}.removed-{os.getpid()}"
        (self.sweep / name).rename(removed)
        shutil.rmtree(removed)


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _reason(crash: Path) -> str:
    try:
        return str(read_json(crash)["reason"])
    except (OSError, InputError, KeyError):
        return "ended without a record of the reason"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
