"""The local executor: claimed runs as processes of their own, a few side by side, each with its share of the cores."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_soups.ledger import Claim, Entry, Ledger

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # between asking a run's process to end and killing it

Command = Callable[[str], Sequence[str]]  # a run's name -> what to execute
Watch = Callable[["Slots"], None]


@dataclass(eq=False)
class Working:
    """One run's process, which holds the run's lock too."""

    claim: Claim
    process: subprocess.Popen[bytes]
    log: Path
    slot: int
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
    """At most `count` runs at once. Leaving the `with` block ends what still runs."""

    def __init__(self, ledger: Ledger, command: Command, logs: Path, count: int) -> None:
        self._ledger, self._command, self._logs, self._count = ledger, command, logs, count
        self.working: dict[int, Working] = {}

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()

    @property
    def free(self) -> bool:
        """Whether another run can start."""
        return len(self.working) < self._count

    def start(self, claim: Claim) -> Working:
        """Start the claimed run in a free slot."""
        slot = next(i for i in range(self._count) if i not in self.working)
        log = self._logs / f"{claim.name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(self._command(claim.name)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=surroundings(slot, self._count),
                pass_fds=(claim.descriptor,),  # the run's own share of the lock
                start_new_session=True,  # Ctrl-C is for the sweep, which then ends its runs in order
            )
        self._ledger.started(claim, pid=process.pid)
        self.working[slot] = Working(claim, process, log, slot)
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
        killed = entry.state == "open" and status < 0
        if entry.state == "open" and not killed:
            last = last_lines(work.log, 3)
            self._ledger.crashed(work.claim, f"ended with exit status {status}: {' '.join(last) or 'it said nothing'}")
            entry = self._ledger.entry(work.claim.name)
        work.claim.release()
        return Ended(work.claim.name, entry, work.seconds, killed)

    def _end_all(self) -> None:
        for work in self.working.values():
            _signal(work.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for work in self.working.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                work.process.wait(max(0.0, deadline - time.monotonic()))
            _signal(work.process, signal.SIGKILL)
            work.process.wait()
            work.claim.release()
        self.working.clear()


def surroundings(slot: int, slots: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a run: its share of the cores, and a GPU of its own where there are several.

    Two processes with two threads each on two cores slow each other down several times over.
    """
    found = dict(os.environ if base is None else base)
    threads = str(max(1, cores() // slots))
    found.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="false")
    gpus = visible_gpus(found)
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that may be used, without starting CUDA."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu for gpu in listed.split(",") if gpu.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()][-count:]


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the run and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def work_through(
    names: Sequence[str],
    ledger: Ledger,
    slots: Slots,
    *,
    retry_failed: bool,
    told: Callable[[Ended], None],
    watch: Watch,
) -> None:
    """Run everything that is open, and wait for what other sweeps of the same folder are running.

    Args:
        names: of all runs, in order.
        ledger: of the sweep's folder.
        slots: where runs are started.
        retry_failed: whether runs that failed before are repeated, once.
        told: called with each run that ended here.
        watch: called several times a second.
    """
    waiting = [name for name in names if _wanted(ledger.entry(name), retry_failed)]
    while waiting or slots.working:
        for name in list(waiting):
            if not slots.free:
                break
            claim = ledger.claim(name)
            if claim is None:
                continue
            waiting.remove(name)
            if not _wanted(ledger.entry(name), retry_failed):  # another sweep was faster
                claim.release()
                continue
            ledger.forget_failure(claim)
            slots.start(claim)
        for ended in slots.ended():
            told(ended)
        watch(slots)
        time.sleep(POLL_SECONDS)
        waiting = [name for name in waiting if _wanted(ledger.entry(name), retry_failed)]


def _wanted(entry: Entry, retry_failed: bool) -> bool:
    return entry.state == "open" or (entry.state == "failed" and retry_failed)
