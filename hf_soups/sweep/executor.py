"""Executors of a sweep: claimed runs, a few at once, and the one loop that works through a sweep's folder.

`LocalExecutor` starts processes of this machine, each with its share of the cores; hf_soups.remote has one that starts
tasks of a cluster. They leave the same folders, logs and entries of the ledger, and either goes on with the other's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hf_soups.limits import cores
from hf_soups.sweep.fork_server import ForkedRun, ForkServer
from hf_soups.sweep.launcher import TIED, tied
from hf_soups.sweep.ledger import Entry, Ledger, RunClaim

PYTHON_M = (sys.executable, "-m")
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # between asking a run's process to end and killing it
# Ended from outside: such a run starts again. Any other signal (a segmentation fault) is the run's own failure.
KILLED = tuple(s for n in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM) for s in (-n, 128 + n))

Command = Callable[[str], Sequence[str]]  # a run's name -> what to execute
Watch = Callable[["Slots", Sequence[str]], None]  # what runs here, and the names of what runs elsewhere


class RunProcess(Protocol):
    """One run that was started: a process of this machine, or a task of a cluster."""

    def poll(self) -> int | None:
        """The exit status, -n after signal n; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one; `subprocess.TimeoutExpired` after `timeout` seconds."""


class Executor(Protocol):
    """Where runs are executed."""

    @property
    def count(self) -> int:
        """At most so many runs at once."""

    @property
    def processes(self) -> int:
        """Of each run."""

    def start(self, slot: int, command: Sequence[str], log: Path, claim: RunClaim, ledger: Ledger) -> RunProcess:
        """Start the claimed run in a free slot; the ledger gets a note of each attempt."""

    def signal(self, process: RunProcess, number: signal.Signals) -> None:
        """Ask a run and everything it started to end (SIGTERM), or end it (SIGKILL)."""

    def wait(self, seconds: float) -> None:
        """For `seconds`, or until some run has ended."""


class LocalExecutor:
    """Processes of this machine, which hold their runs' locks too: a run that lost its sweep is not started twice."""

    def __init__(self, count: int, processes: int = 1, server: ForkServer | None = None) -> None:
        self.count, self.processes = count, processes
        self._server = server  # forks the runs; None: each is started anew

    def start(
        self, slot: int, command: Sequence[str], log: Path, claim: RunClaim, ledger: Ledger
    ) -> subprocess.Popen[bytes] | ForkedRun:
        """See `Executor`. Ctrl-C is for the sweep, which ends its runs in order."""
        environment = surroundings(slot, self.count, processes=self.processes)
        with log.open("ab") as output:
            process = self._process(list(command), environment, output.fileno(), claim.descriptor)
        ledger.started(claim.name, pid=process.pid)
        return process

    def _process(
        self, command: list[str], environment: dict[str, str], log: int, lock: int | None
    ) -> subprocess.Popen[bytes] | ForkedRun:
        held = () if lock is None else (lock,)
        if lock is None:  # it cannot hold the claim when this process has ended, so it must end too
            environment[TIED] = "1"
        elif self._server is not None:
            try:
                return self._server.run(command[len(PYTHON_M) + 1 :], environment, log, held)
            except OSError:
                self._server.close()
                self._server = None
        return subprocess.Popen(
            tied(command, environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=held,
            start_new_session=True,
        )

    def signal(self, process: RunProcess, number: signal.Signals) -> None:
        """See `Executor`."""
        assert isinstance(process, subprocess.Popen | ForkedRun)
        signal_group(process.pid, number)

    def wait(self, seconds: float) -> None:
        """See `Executor`."""
        if self._server is None:
            time.sleep(seconds)
        else:
            self._server.wait(seconds)


@dataclass(eq=False)
class Working:
    """One run that was started here."""

    claim: RunClaim
    process: RunProcess
    log: Path
    log_bytes: int  # of the log before this attempt
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.began


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one run in this call; `killed` runs start again in the next one."""

    name: str
    entry: Entry
    seconds: float
    killed: bool = False


class Slots:
    """The runs that are executed now. Leaving the `with` block ends what still runs."""

    def __init__(self, ledger: Ledger, command: Command, logs: Path, executor: Executor) -> None:
        self._ledger, self._command, self._logs, self._executor = ledger, command, logs, executor
        self.wait = executor.wait
        self.working: dict[int, Working] = {}

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()

    @property
    def free(self) -> bool:
        """Whether another run can start."""
        return len(self.working) < self._executor.count

    def start(self, claim: RunClaim) -> Working:
        """Start the claimed run in a free slot."""
        slot = next(i for i in itertools.count() if i not in self.working)
        log = self._logs / f"{claim.name}.log"
        before = log.stat().st_size if log.exists() else 0
        process = self._executor.start(slot, self._command(claim.name), log, claim, self._ledger)
        self.working[slot] = Working(claim, process, log, before)
        return self.working[slot]

    def ended(self) -> Iterator[Ended]:
        """The runs whose processes have ended since the last call."""
        for slot, work in list(self.working.items()):
            status = work.process.poll()
            if status is None:
                continue
            del self.working[slot]
            yield self._closed(work, status)

    def _closed(self, work: Working, status: int) -> Ended:
        entry = self._ledger.entry(work.claim.name)
        killed = entry.state == "open" and status in KILLED
        if entry.state == "open" and not killed:
            last = " ".join(last_lines(work.log, 3, after=work.log_bytes)) or "it said nothing"
            self._ledger.crashed(work.claim, f"ended with {_in_words(status)}: {last}")
            entry = self._ledger.entry(work.claim.name)
        work.claim.release()
        return Ended(work.claim.name, entry, work.seconds, killed)

    def _end_all(self) -> None:
        for work in self.working.values():
            self._executor.signal(work.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for work in self.working.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                work.process.wait(max(0.0, deadline - time.monotonic()))
            self._executor.signal(work.process, signal.SIGKILL)
            work.process.wait()
            work.claim.release()
        self.working.clear()


def surroundings(slot: int, slots: int, base: Mapping[str, str] | None = None, *, processes: int = 1) -> dict[str, str]:
    """The environment of a run: its share of the cores, and GPUs of its own where there are enough.

    Two processes with two threads each on two cores slow each other down several times over. Threads that the user
    chose (OMP_NUM_THREADS) stay.
    """
    found = dict(os.environ if base is None else base)
    threads = found.get("OMP_NUM_THREADS") or str(max(1, cores() // (slots * processes)))
    found.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="false")
    gpus = visible_gpus(found)
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[(slot * processes + i) % len(gpus)] for i in range(processes))
    elif processes > 1:
        found["ACCELERATE_USE_CPU"] = "true"  # without it accelerate lets each process believe that it is alone
    return found


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that may be used, without starting CUDA."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu for gpu in listed.split(",") if gpu.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def last_lines(log: Path, count: int, *, after: int = 0) -> list[str]:
    """The last lines of a log, from byte `after` on, that say something."""
    try:
        with log.open("rb") as file:
            file.seek(max(after, log.stat().st_size - 4096))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()][-count:]


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does: in order, with the runs it started."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may say so
        yield
        return

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]  # not under nohup
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def signal_group(pid: int, number: signal.Signals) -> None:
    """To a run's process and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def work_through(
    names: Sequence[str],
    ledger: Ledger,
    slots: Slots,
    *,
    retry_failed: bool,
    on_end: Callable[[Ended], None],
    watch: Watch,
) -> None:
    """Run everything that is open, and wait for what other sweeps of the same folder are running.

    Args:
        names: of all runs, in order.
        ledger: of the sweep's folder.
        slots: where runs are started.
        retry_failed: whether runs that failed before this call are repeated, once.
        on_end: called with each run that ended here.
        watch: called several times a second.
    """
    found = [ledger.entry(name) for name in names]
    # a run that another sweep repeats at the same time and that fails again is not repeated once more
    again = {entry for entry in found if retry_failed and entry.state == "failed"}
    waiting = [entry.name for entry in found if entry.state == "open" or entry in again]
    while waiting or slots.working:
        elsewhere = _start_some(waiting, ledger, slots, again)
        watch(slots, elsewhere)
        slots.wait(POLL_SECONDS)
        for ended in slots.ended():
            on_end(ended)
        waiting = [name for name in waiting if _wanted(ledger.entry(name), again)]


def _start_some(waiting: list[str], ledger: Ledger, slots: Slots, again: set[Entry]) -> list[str]:
    """Fill the free slots, taking what is started from `waiting`; names of runs that others work on."""
    elsewhere = []
    for name in list(waiting):
        if not slots.free:
            break
        claim = ledger.claim(name)
        if claim is None:
            elsewhere.append(name)
            continue
        waiting.remove(name)
        if not _wanted(ledger.entry(name), again):  # another sweep was faster
            claim.release()
            continue
        ledger.forget_failure(claim)
        slots.start(claim)
    return elsewhere


def _wanted(entry: Entry, again: set[Entry]) -> bool:
    return entry.state == "open" or entry in again
