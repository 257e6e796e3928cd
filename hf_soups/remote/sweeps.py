"""A sweep's runs as Ray tasks: Ray decides where each runs, and starts it again where a worker or a machine is lost.

This process alone claims runs in the sweep's folder. A task starts the same command as on one machine, in the same
surroundings, and ends it with itself: no run outlives its task.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.remote.cluster import RETRIES, Cluster, Resources, connected, in_words, last_line, refuse_url
from hf_soups.sweep.executor import GRACE_SECONDS, POLL_SECONDS, RunProcess, signal_group, surroundings
from hf_soups.sweep.launcher import TIED, tied
from hf_soups.sweep.ledger import Ledger, RunClaim

SEEN_SECONDS = 90.0  # for a run's folder to appear on this machine: network file systems cache folders for a minute
LOOK_SECONDS = 2.0  # between looks at the cluster's size
PATIENCE_SECONDS = 120.0  # without any node that could do a run
ADVICE = (
    "Give other --gpus-per-run or --cpus-per-run, or start Ray on a machine that has them; runs on several machines "
    "are not supported."
)


@contextlib.contextmanager
def ray_executor(
    out: Path,
    address: str = "auto",
    *,
    gpus_per_run: float | None = None,
    cpus_per_run: int | None = None,
    processes_per_run: int | None = None,
) -> Iterator[RayExecutor]:
    """An executor for `run_sweep`, connected and checked; leaving the block ends what still runs.

    Args:
        out: the sweep's folder, which every node must see.
        address: see `hf_soups.remote.cluster.connected`.
        gpus_per_run: several are worked on by as many processes. Default: 1 a process where the cluster has GPUs.
        cpus_per_run: default: 1 a process.
        processes_per_run: data parallel. Default: 1 a GPU.
    Raises:
        InputError: if a node does not see the folder, or no node has what a run needs.
    """
    refuse_url(out)
    gpus, processes = gpus_per_run, processes_per_run or max(1, int(gpus_per_run or 1))
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise InputError(f"{gpus:g} GPUs a run are not possible; give a whole number, or a share of one such as 0.5.")
    if gpus and processes > max(1, gpus):
        raise InputError(
            f"a run of {processes} processes needs {processes} GPUs; --gpus-per-run gives it {gpus:g}. Give both alike."
        )
    with connected(address) as cluster:
        if gpus is None:
            gpus = float(processes) if cluster.room({"GPU": 1}) else 0.0
        each = {"CPU": float(cpus_per_run or processes), "GPU": gpus}
        cluster.check_room(each, "a run", ADVICE)
        cluster.check_folder(Path(out))
        yield RayExecutor(cluster, each, processes)


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

    def _ended(self) -> int:
        try:
            status, recorded = self.ray.get(self.reference)
            if recorded:
                self._see()
            return int(status)
        except self.ray.exceptions.TaskCancelledError:
            return -signal.SIGTERM
        except self.ray.exceptions.RayTaskError as error:  # of the task itself: the run's own failure ends as a status
            self._note(error)
            return 1
        except self.ray.exceptions.RayError as error:  # a machine's, once too often: the same command starts it again
            self._note(error)
            return -signal.SIGKILL

    def _see(self) -> None:
        """Until this machine sees the folder that another one wrote."""
        deadline = time.monotonic() + SEEN_SECONDS
        while self.ledger.entry(self.name).state == "open" and time.monotonic() < deadline:
            with os.scandir(self.ledger.sweep) as entries:  # which makes it look again
                next(entries, None)
            time.sleep(POLL_SECONDS)

    def _note(self, error: Exception) -> None:
        with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as file:
            file.write(f"{last_line(error)}\n")


class RayExecutor:
    """Runs as tasks of a cluster, as many as fit on it; see `hf_soups.sweep.executor.Executor`."""

    def __init__(self, cluster: Cluster, each: Resources, processes: int) -> None:
        self.processes = processes
        self._cluster, self._each = cluster, each
        self._running: dict[Any, RayRun] = {}
        self._count, self._looked, self._fitted = cluster.room(each), time.monotonic(), time.monotonic()
        self._task = cluster.ray.remote(work_on).options(
            num_cpus=each["CPU"], num_gpus=each["GPU"], max_retries=RETRIES, retry_exceptions=False
        )

    @property
    def count(self) -> int:
        """As many runs as would fit on the nodes that are there now.

        Raises:
            HfSoupsError: if none would for too long.
        """
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._count, self._looked = self._cluster.room(self._each), time.monotonic()
        if self._count:
            self._fitted = time.monotonic()
        elif time.monotonic() - self._fitted > PATIENCE_SECONDS:
            raise HfSoupsError(
                f"for {PATIENCE_SECONDS:.0f} seconds no node of the cluster had {in_words(self._each)} for a run. What "
                "is finished is kept: the same command goes on, once Ray runs on a machine that has them."
            )
        return self._count

    def start(self, slot: int, command: Sequence[str], log: Path, claim: RunClaim, ledger: Ledger) -> RayRun:
        """Hand the run to Ray, which starts it when a node has room; the task notes the attempt."""
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, int(self._each["CPU"]) // self.processes))
        own = {"OMP_NUM_THREADS": threads, **({} if self._each["GPU"] else {"CUDA_VISIBLE_DEVICES": ""})}
        # of this process's Python each node has its own
        words = ["" if command[0] == sys.executable else command[0], *command[1:]]
        sweep, here = str(ledger.sweep), str(Path.cwd())
        reference = self._task.remote(sweep, claim.name, words, str(log), own, self.processes, here)
        self._running[reference] = RayRun(self._cluster.ray, reference, claim.name, ledger, log)
        return self._running[reference]

    def signal(self, process: RunProcess, number: signal.Signals) -> None:
        """Cancel the task: asked, it ends its run in order; a worker that is killed takes its run with it."""
        assert isinstance(process, RayRun)
        if process.poll() is None:
            self._cluster.ray.cancel(process.reference, force=number == signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """For `seconds`, or until some run has ended."""
        _ = self.count  # also when nothing is left to start: what waits may have lost its machine
        for reference in [r for r, run in self._running.items() if run.status is not None]:
            del self._running[reference]
        if self._running:
            self._cluster.ray.wait(list(self._running), timeout=seconds)
        else:
            time.sleep(seconds)


def work_on(
    sweep: str, name: str, command: Sequence[str], log: str, own: Mapping[str, str], processes: int, directory: str
) -> tuple[int, bool]:
    """One run, in a worker of the cluster, by the same command as on one machine.

    Args:
        sweep: the sweep's folder.
        name: of the run, which the sweep's own process has claimed.
        command: with "" in the place of Python.
        log: what the run prints goes to its end.
        own: variables of the run's environment.
        processes: of the run.
        directory: to work in, where this machine has it.
    Returns:
        Its exit status, and whether it left a record.
    """
    ledger = Ledger(Path(sweep))
    if ledger.entry(name).state != "open":  # the worker was lost after the run had ended
        return 0, True
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
        ledger.started(name, pid=process.pid, node=socket.gethostname())
        return process.wait(), ledger.entry(name).state != "open"
    except BaseException:  # cancelled
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    signal_group(process.pid, signal.SIGKILL)
    process.wait()
