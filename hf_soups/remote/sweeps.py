"""A sweep's runs as Ray tasks: Ray decides where each runs, and starts it again where a worker or a machine is lost.

This process alone claims runs in the sweep's folder. See `hf_soups.remote.run_tasks` for a run on one machine, and
`hf_soups.remote.groups` for one on several.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.writing import refuse_url
from hf_soups.remote.cluster import RETRIES, Cluster, Resources, connected, in_words
from hf_soups.remote.groups import GroupRun, Share, uneven
from hf_soups.remote.run_tasks import RayRun, work_on
from hf_soups.sweep.executor import RunProcess
from hf_soups.sweep.ledger import Ledger, RunClaim

LOOK_SECONDS = 2.0  # between looks at the cluster's size
PATIENCE_SECONDS = 120.0  # without any node that could do a run
ADVICE = (
    "Give other --gpus-per-run or --cpus-per-run, start Ray on a machine that has them, or spread each run over more "
    "nodes: --nodes-per-run."
)


@contextlib.contextmanager
def ray_executor(
    out: Path,
    address: str = "auto",
    *,
    gpus_per_run: float | None = None,
    cpus_per_run: int | None = None,
    processes_per_run: int | None = None,
    nodes_per_run: int | None = None,
) -> Iterator[RayExecutor]:
    """An executor for `run_sweep`, connected and checked; leaving the block ends what still runs.

    Args:
        out: the sweep's folder, which every node must see.
        address: see `hf_soups.remote.cluster.connected`.
        gpus_per_run: several are worked on by as many processes. Default: 1 a process where the cluster has GPUs.
        cpus_per_run: default: 1 a process.
        processes_per_run: data parallel. Default: 1 a GPU, and at least 1 a node.
        nodes_per_run: in equal parts; parts that fit on one node together may share it. Default: 1, or as many as it
            takes to give a run its GPUs.
    Raises:
        InputError: if a node does not see the folder, or no node has what a run needs.
    """
    refuse_url(out)
    gpus, processes = gpus_per_run, processes_per_run or max(nodes_per_run or 1, int(gpus_per_run or 1))
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise InputError(f"{gpus:g} GPUs a run are not possible; give a whole number, or a share of one such as 0.5.")
    if gpus and processes > max(1, gpus):
        raise InputError(
            f"a run of {processes} processes needs {processes} GPUs; --gpus-per-run gives it {gpus:g}. Give both alike."
        )
    with connected(address) as cluster:
        if gpus is None:
            gpus = float(processes) if cluster.room({"GPU": 1}) else 0.0
        whole = {"CPU": float(cpus_per_run or processes), "GPU": gpus}
        nodes = nodes_per_run or _fewest_nodes(cluster, whole, processes)
        each = _one_of(nodes, whole, processes)
        _check_room(cluster, each, nodes)
        cluster.check_folder(Path(out))
        yield RayExecutor(cluster, each, processes, nodes)


def _fewest_nodes(cluster: Cluster, whole: Resources, processes: int) -> int:
    """Over how many nodes a run's GPUs must be spread; 1 where no number of them has enough."""
    for nodes in range(1, min(len(cluster.nodes()), int(whole["GPU"])) + 1):
        even = not uneven(_amounts(whole, processes), nodes)
        if even and cluster.room(_one_of(nodes, whole, processes)) >= nodes:
            return nodes
    return 1


def _amounts(whole: Resources, processes: int) -> list[tuple[str, float]]:
    return [("processes", processes), ("GPUs", whole["GPU"]), ("CPUs", whole["CPU"])]


def _one_of(nodes: int, whole: Resources, processes: int) -> dict[str, float]:
    """What a run takes of each of its nodes.

    Raises:
        InputError: if that is no whole number.
    """
    if nodes > 1 and (left := uneven(_amounts(whole, processes), nodes)):
        raise InputError(
            f"--nodes-per-run {nodes} cuts a run into equal parts, which {left} do not make. Give multiples of "
            f"{nodes} as --gpus-per-run, --cpus-per-run and --processes."
        )
    return {name: amount / nodes for name, amount in whole.items()}


def _check_room(cluster: Cluster, each: Resources, nodes: int) -> None:
    cluster.check_room(each, "a run" if nodes == 1 else f"each of the {nodes} parts of a run", ADVICE)
    if (fit := cluster.room(each)) < nodes:
        raise InputError(
            f"a run on {nodes} nodes needs {in_words(each)} on each of them; the cluster has that {fit} time"
            f"{'' if fit == 1 else 's'}. Start Ray on more machines, or give fewer --nodes-per-run."
        )


class RayExecutor:
    """Runs as tasks of a cluster, as many as fit on it; see `hf_soups.sweep.executor.Executor`."""

    def __init__(self, cluster: Cluster, each: Resources, processes: int, nodes: int = 1) -> None:
        self.processes = processes
        self._cluster, self._each, self._nodes = cluster, each, nodes
        self._running: list[RayRun | GroupRun] = []
        self._count, self._looked, self._fitted = self._room(), time.monotonic(), time.monotonic()
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
            self._count, self._looked = self._room(), time.monotonic()
        if self._count:
            self._fitted = time.monotonic()
        elif time.monotonic() - self._fitted > PATIENCE_SECONDS:
            raise HfSoupsError(
                f"for {PATIENCE_SECONDS:.0f} seconds {self._lacking()} for a run. What "
                "is finished is kept: the same command goes on, once Ray runs on a machine that has them."
            )
        return self._count

    def _room(self) -> int:
        return self._cluster.room(self._each) // self._nodes

    def _lacking(self) -> str:
        if self._nodes == 1:
            return f"no node of the cluster had {in_words(self._each)}"
        return f"the cluster had less than {self._nodes} times {in_words(self._each)}"

    def start(self, slot: int, command: Sequence[str], log: Path, claim: RunClaim, ledger: Ledger) -> RayRun | GroupRun:
        """Hand the run to Ray, which starts it when a node has room; the task notes the attempt."""
        # of this process's Python each node has its own
        words = ["" if command[0] == sys.executable else command[0], *command[1:]]
        what = (str(ledger.sweep), claim.name, words, str(log))
        ray, own, here, each = self._cluster.ray, self._own(), str(Path.cwd()), self.processes // self._nodes
        run: RayRun | GroupRun
        if self._nodes == 1:
            run = RayRun(ray, self._task.remote(*what, own, each, here), claim.name, ledger, log)
        else:
            run = GroupRun(ray, Share(self._nodes, self._each, each, what, own, here), claim, ledger, log)
        self._running.append(run)
        return run

    def _own(self) -> dict[str, str]:
        """Variables of a run's environment, on each of its nodes."""
        each = self.processes // self._nodes
        own = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, int(self._each["CPU"]) // each))}
        if not self._each["GPU"]:
            own["CUDA_VISIBLE_DEVICES"] = ""
            if self.processes > 1:  # also where each node has one
                own["ACCELERATE_USE_CPU"] = "true"
        return own

    def signal(self, process: RunProcess, number: signal.Signals) -> None:
        """Cancel the run's tasks: asked, each ends in order; a worker that is killed takes its run with it."""
        assert isinstance(process, RayRun | GroupRun)
        process.end(at_once=number == signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """For `seconds`, or until some run has ended."""
        _ = self.count  # also when nothing is left to start: what waits may have lost its machine
        self._running = [run for run in self._running if run.status is None]
        if references := [reference for run in self._running for reference in run.references]:
            self._cluster.ray.wait(references, timeout=seconds)
        else:
            time.sleep(seconds)
