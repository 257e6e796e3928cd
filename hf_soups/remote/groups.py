"""One run on several machines: a placement group of Ray's, and in each of its bundles a task that starts its share.

The first bundle's machine names its address and a free port, where all processes meet. When one part fails the others
are ended. A run that lost a machine starts again as a whole, in a new group; one that failed by itself does not.
"""

from __future__ import annotations

import importlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.remote.cluster import RETRIES, Resources, last_line
from hf_soups.remote.run_tasks import note, see, work_on
from hf_soups.sweep.executor import GRACE_SECONDS, POLL_SECONDS, last_lines
from hf_soups.sweep.launcher import MACHINE, Meeting, free_port
from hf_soups.sweep.ledger import Ledger, RunClaim

# For the other parts to end by themselves when one has. A machine's loss ends its neighbours' processes in a second, as
# failures of their own; Ray takes half a minute to say that it was the machine.
SETTLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Share:
    """What one machine does of a run."""

    machines: int
    each: Resources  # of one machine
    processes: int  # on one machine
    arguments: tuple[Any, ...]  # of `work_on`: the sweep, the run's name, its command and log
    own: Mapping[str, str]
    directory: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one part ended; `status` is None where its worker or its machine was lost."""

    status: int | None
    recorded: bool = False
    words: str = ""


@dataclass(eq=False)
class GroupRun:
    """One run's parts, as `subprocess.Popen` has a process."""

    ray: Any
    share: Share
    claim: RunClaim
    ledger: Ledger
    log: Path
    status: int | None = None
    _group: Any = None
    _parts: list[Any] = field(default_factory=list)  # references
    _outcomes: dict[int, Outcome] = field(default_factory=dict)  # by the number of the machine
    _attempts: int = 0
    _failed: float | None = None  # when the first part did
    _asked: bool = False  # to end

    def __post_init__(self) -> None:
        self._begin()

    @property
    def references(self) -> list[Any]:
        """Of Ray's tasks that are not known to have ended."""
        return [part for number, part in enumerate(self._parts) if number not in self._outcomes]

    def poll(self) -> int | None:
        """The exit status; None while parts wait, run or are started again."""
        if self.status is None:
            self._look()
            if not self.references:
                self._close()
            elif any(outcome.status != 0 for outcome in self._outcomes.values()):
                self._end_others()
        return self.status

    def wait(self, timeout: float | None = None) -> int:
        """See `poll`.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("tasks", timeout or 0.0)
            self.ray.wait(self.references, timeout=POLL_SECONDS)
        return status

    def end(self, *, at_once: bool) -> None:
        """Cancel all parts, for good."""
        self._asked = True
        if self.poll() is None:
            self._cancel(at_once=at_once)

    def _begin(self) -> None:
        """Ask for a group; its tasks wait until it has its machines."""
        util, share = importlib.import_module("ray.util"), self.share
        scheduling = importlib.import_module("ray.util.scheduling_strategies")
        self._group = util.placement_group([_positive(share.each)] * share.machines, strategy="PACK")

        def task(function: Any, number: int, **needs: Any) -> Any:
            place = scheduling.PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            return self.ray.remote(function).options(scheduling_strategy=place, retry_exceptions=False, **needs)

        meeting = task(meeting_place, 0, num_cpus=0, max_retries=RETRIES).remote()
        needs = {"num_cpus": share.each["CPU"], "num_gpus": share.each["GPU"], "max_retries": 0}
        self._parts = [task(work_on_part, i, **needs).remote(meeting, i, share) for i in range(share.machines)]
        self._outcomes, self._failed = {}, None
        self._attempts += 1

    def _look(self) -> None:
        for number, part in enumerate(self._parts):
            if number not in self._outcomes and self.ray.wait([part], timeout=0)[0]:
                self._outcomes[number] = self._outcome(part)

    def _outcome(self, part: Any) -> Outcome:
        try:
            return Outcome(*self.ray.get(part))
        except self.ray.exceptions.TaskCancelledError:
            return Outcome(-signal.SIGTERM)
        except self.ray.exceptions.RayTaskError as error:  # of the task itself
            return Outcome(1, words=last_line(error))
        except self.ray.exceptions.RayError as error:
            return Outcome(None, words=last_line(error))

    def _end_others(self) -> None:
        """What does not end by itself, though a part of it is gone."""
        self._failed = self._failed or time.monotonic()
        late = time.monotonic() - self._failed - SETTLE_SECONDS
        if late > 0:
            self._cancel(at_once=late > 2 * GRACE_SECONDS)

    def _cancel(self, *, at_once: bool) -> None:
        for part in self.references:
            self.ray.cancel(part, force=at_once)

    def _close(self) -> None:
        """All parts have ended: the run's status, or once more from the start."""
        importlib.import_module("ray.util").remove_placement_group(self._group)
        outcomes = [self._outcomes[number] for number in sorted(self._outcomes)]
        if any(outcome.recorded for outcome in outcomes):
            see(self.ledger, self.claim.name)
        for number, outcome in enumerate(outcomes):
            if outcome.words:
                note(self.log, f"machine {number}: {outcome.words}")
        lost = any(outcome.status is None for outcome in outcomes)
        if self.ledger.entry(self.claim.name).state == "finished":
            self.status = 0
        elif self._asked:
            self.status = -signal.SIGTERM
        elif lost:
            self._start_again()
        else:
            failed = [outcome.status for outcome in outcomes if outcome.status]
            own = [status for status in failed if status != -signal.SIGTERM]  # not ended for another's sake
            self.status = next(iter(own or failed), 0)

    def _start_again(self) -> None:
        """What the parts that were left recorded is that they lost another one: no failure of the run's own."""
        self.ledger.forget_failure(self.claim)
        if self._attempts > RETRIES:  # the same command starts it again
            self.status = -signal.SIGKILL
        else:
            self._begin()


def _positive(each: Resources) -> dict[str, float]:
    return {name: amount for name, amount in each.items() if amount > 0}


def meeting_place() -> tuple[str, int]:
    """An address and a free port of the machine that this task runs on."""
    return importlib.import_module("ray.util").get_node_ip_address(), free_port("")


def work_on_part(meeting: tuple[str, int], machine: int, share: Share) -> tuple[int, bool, str]:
    """One machine's part of a run, in a worker of the cluster.

    Args:
        meeting: see `meeting_place`.
        machine: which of the run's.
        share: what it does.
    Returns:
        Its exit status, whether the run has left a record, and the last that the part said where it failed.
    """
    sweep, name, command, log = share.arguments
    address, port = meeting
    own = {**share.own, MACHINE: Meeting(port, address, machine, share.machines).words}
    mine = _log_of(Path(log), machine)
    before = mine.stat().st_size if mine.exists() else 0
    status, recorded = work_on(sweep, name, command, str(mine), own, share.processes, share.directory)
    words = last_lines(mine, 3, after=before) if status and machine else []
    return status, recorded, " ".join(words)


def _log_of(log: Path, machine: int) -> Path:
    """Of its own: several machines that add to one file of a network file system write over each other."""
    return log.with_suffix(f".machine-{machine}{log.suffix}") if machine else log


def uneven(whole: Sequence[tuple[str, float]], machines: int) -> str:
    """What does not come out even, in words; empty where all does.

    >>> uneven([("processes", 4), ("GPUs", 3)], 2)
    '3 GPUs'
    """
    return ", ".join(f"{amount:g} {name}" for name, amount in whole if amount % machines)
