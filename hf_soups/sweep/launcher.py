"""Launcher: one run's processes, side by side on this machine: `python -m hf_soups.sweep.launcher COUNT COMMAND...`.

Of a run on several machines each has a launcher, which starts its equal share of the COUNT processes; see `Meeting`.

They get the environment that torch and accelerate read. Unlike those of torch's own launcher they stay in the
launcher's group, so that one signal reaches all of them, and keep its open files: each holds the run's lock, and a
run that lost its launcher is not started a second time beside what is left of it.
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

POLL_SECONDS = 0.05
GRACE_SECONDS = 3.0  # between asking a process to end and killing it
MACHINE = "HF_SOUPS_MACHINE"  # set: which of a run's machines this is; see `Meeting.words`
TIED = "HF_SOUPS_TIED"  # set: what is started here does not outlive this process, whatever ends it
# The child asks the kernel itself: code between fork and exec is not safe in a process with threads. What is asked for
# stays over the exec, and follows the thread that forked.
TIE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, int(sys.argv[2]))\n"
    "os.getppid() == int(sys.argv[1]) or os._exit(137)\n"
    "os.execvp(sys.argv[3], sys.argv[3:])"
)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where a run's processes find each other, and which of its machines this is."""

    port: int
    address: str = "127.0.0.1"
    machine: int = 0
    machines: int = 1

    @property
    def words(self) -> str:
        """As the environment carries it.

        >>> Meeting(29500, "10.0.0.1", 1, 2).words
        '1/2 10.0.0.1:29500'
        """
        return f"{self.machine}/{self.machines} {self.address}:{self.port}"

    @classmethod
    def of(cls, words: str) -> Meeting:
        """See `words`."""
        which, _, where = words.partition(" ")
        (machine, _, machines), (address, _, port) = which.partition("/"), where.rpartition(":")
        return cls(int(port), address, int(machine), int(machines))


def launch(count: int, command: Sequence[str]) -> int:
    """Run `command` in `count` processes, or this machine's share of them; when one fails the others are ended.

    Returns:
        The exit status: 0, or that of the first failure; 128 + n where a process was killed by signal n.
    """
    words = os.environ.get(MACHINE)
    meeting = Meeting.of(words) if words else Meeting(free_port())
    started: list[subprocess.Popen[bytes]] = []
    try:
        for local in range(count // meeting.machines):
            environment = {**os.environ, **place(local, count, meeting)}
            started.append(subprocess.Popen(tied(command, environment), env=environment, close_fds=False))
        return _first_failure(started)
    finally:
        _end(started)


def tied(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command, such that what it starts is killed when the thread ends that starts it, where that is asked for.

    A kill of this process's group does not reach it, and where this process is killed nobody else can end it.
    """
    if TIED not in environment or sys.platform != "linux":
        return list(command)
    return [sys.executable, "-ESs", "-c", TIE, str(os.getpid()), str(int(signal.SIGKILL)), *command]


def place(local: int, count: int, meeting: Meeting) -> Mapping[str, str]:
    """What torch and accelerate read to find the other processes.

    Args:
        local: the number of the process on this machine.
        count: of the processes on all machines.
        meeting: of the run.
    """
    share = count // meeting.machines
    return {
        "RANK": str(meeting.machine * share + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(share),
        "MASTER_ADDR": meeting.address,
        "MASTER_PORT": str(meeting.port),
    }


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this machine that nobody listens on; on every address of it where `host` is ""."""
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


def _first_failure(started: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        statuses = [process.poll() for process in started]
        failed = next((status for status in statuses if status), 0)
        if failed or None not in statuses:
            return 128 - failed if failed < 0 else failed
        time.sleep(POLL_SECONDS)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
