"""One run as a task of Ray, which starts it again where a worker or a machine is lost.

A task starts the same command as on one machine, in the same surroundings, and ends it with itself: no run outlives its
task.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.remote.cluster import last_line
from hf_soups.sweep.executor import GRACE_SECONDS, POLL_SECONDS, signal_group, surroundings
from hf_soups.sweep.launcher import MACHINE, TIED, Meeting, tied
from hf_soups.sweep.ledger import Ledger

SEEN_SECONDS = 90.0  # for a run's folder to appear on this machine: network file systems cache folders for a minute


@dataclass(eq=False)
class RayRun:
    """One run's task, as `subprocess.Popen` has a process."""

    ray: Any
    reference: Any
    name: str
    ledger: Ledger
    log: Path
    status: int | None = None

    def poll(self) -> int | None:
        """The exit status; None while the task waits, runs or is started again."""
        if self.status is None and self.ray.wait([self.reference], timeout=0)[0]:
            self.status = self._ended()
        return self.status

    def wait(self, timeout: float | None = None) -> int:
        """See `poll`.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds.
        """
        if not self.ray.wait([self.reference], timeout=timeout)[0]:
            raise subprocess.TimeoutExpired("a task", timeout or 0.0)
        status = self.poll()
        assert status is not None
        return status

    @property
    def references(self) -> list[Any]:
        """Of Ray's tasks that are not known to have ended."""
        return [self.reference] if self.status is None else []

    def end(self, *, at_once: bool) -> None:
        """Cancel the task: asked, it ends its run in order; a worker that is killed takes its run with it."""
        if self.poll() is None:
            self.ray.cancel(self.reference, force=at_once)

    def _ended(self) -> int:
        try:
            status, recorded = self.ray.get(self.reference)
            if recorded:
                see(self.ledger, self.name)
            return int(status)
        except self.ray.exceptions.TaskCancelledError:
            return -signal.SIGTERM
        except self.ray.exceptions.RayTaskError as error:  # of the task itself: the run's own failure ends as a status
            note(self.log, last_line(error))
            return 1
        except self.ray.exceptions.RayError as error:  # a machine's, once too often: the same command starts it again
            note(self.log, last_line(error))
            return -signal.SIGKILL


def see(ledger: Ledger, name: str) -> None:
    """Wait until this machine sees a run's folder that another one wrote."""
    deadline = time.monotonic() + SEEN_SECONDS
    while ledger.entry(name).state == "open" and time.monotonic() < deadline:
        with os.scandir(ledger.sweep) as entries:  # which makes it look again
            next(entries, None)
        time.sleep(POLL_SECONDS)


def note(log: Path, line: str) -> None:
    """Add a line to a run's log, where that can be written."""
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def work_on(
    sweep: str, name: str, command: Sequence[str], log: str, own: Mapping[str, str], processes: int, directory: str
) -> tuple[int, bool]:
    """One run, in a worker of the cluster, by the same command as on one machine.

    Args:
        sweep: the sweep's folder.
        name: of the run, which the sweep's own process has claimed.
        command: with "" in the place of Python.
        log: what the run prints goes to its end.
        own: variables of the run's environment; on several machines, which this is.
        processes: of the run, on this machine.
        directory: to work in, where this machine has it.
    Returns:
        Its exit status, and whether it left a record.
    """
    ledger = Ledger(Path(sweep))
    first = machine(own) == 0
    if ledger.entry(name).state != "open":  # the worker was lost after the run had ended
        return 0, True
    if first:
        ledger.clear(name)
    environment = {**surroundings(0, 1, {**os.environ, **own}, processes=processes), TIED: "1"}
    words = [command[0] or sys.executable, *command[1:]]
    with Path(log).open("ab") as output:
        process = subprocess.Popen(
            tied(words, environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory if Path(directory).is_dir() else None,
            start_new_session=True,
        )
    try:
        if first:
            ledger.started(name, pid=process.pid, node=socket.gethostname())
        return process.wait(), ledger.entry(name).state != "open"
    except BaseException:  # cancelled
        _end(process)
        raise


def machine(own: Mapping[str, str]) -> int:
    """The number of this machine among those of its run, by the run's environment."""
    return Meeting.of(own[MACHINE]).machine if MACHINE in own else 0


def _end(process: subprocess.Popen[bytes]) -> None:
    signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    signal_group(process.pid, signal.SIGKILL)
    process.wait()
