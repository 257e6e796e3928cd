"""Parts of batch predict on Ray: a chain of Ray Data over the parts' numbers, with a pool of workers for each member.

A worker keeps its member loaded. Where one is lost, Ray starts another and gives it the part again; a part that needs
no further member is written where that turned out. This process only counts.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.batch_predict.parts import Halfway, PartsJob, Route, one_stage
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.writing import refuse_url
from hf_soups.remote.cluster import RETRIES, Cluster, Resources, connected, in_words, last_line
from hf_soups.remote.scores import device_here

if TYPE_CHECKING:
    from hf_soups.models.classifier import Answerer
    from hf_soups.pool.rows import Rows

LOOK_SECONDS = 5.0  # between looks at the cluster's size
GRACE_SECONDS = 3.0  # for the chain to end
PATIENCE_SECONDS = 120.0  # without room for the workers
IN_FLIGHT = 2  # parts at a worker: the one that it answers, and the next
# a worker that is lost is started again, anywhere
LOST = {"max_restarts": -1, "max_task_retries": RETRIES, "scheduling_strategy": "SPREAD"}
ADVICE = "Start Ray on a machine that has them."
Batch = dict[str, np.ndarray]


@contextlib.contextmanager
def ray_answers(
    out: str | Path,
    address: str = "auto",
    *,
    replicas: Mapping[str, int] | None = None,
    seen: Sequence[str | Path] = (),
) -> Iterator[RayAnswers]:
    """An executor for `predict_rows`, connected and checked; leaving the block ends what still runs.

    Args:
        out: the folder of the answers, which every node must see.
        address: see `hf_soups.remote.cluster.connected`.
        replicas: workers of each member, by its name; default: a worker a core, shared out by the members' work.
        seen: model and data; of these every node must see what is on this machine.
    Raises:
        InputError: if a node does not see a folder, or no node can work.
    """
    refuse_url(out)
    for name, count in (replicas or {}).items():
        if count < 1:
            raise InputError(f"--replicas {name}={count}: expected 1 or more.")
    with connected(address) as cluster:
        cluster.check_room({"CPU": 1.0}, "answering a part", ADVICE)
        cluster.check_folder(Path(out))
        local = [path for each in seen if (path := Path(each).expanduser()).exists()]
        cluster.check_seen([path if path.is_dir() else path.parent for path in local])
        yield RayAnswers(cluster, dict(replicas or {}))


@dataclass(eq=False)
class RayAnswers:
    """See `hf_soups.batch_predict.parts.PartsExecutor`."""

    cluster: Cluster
    replicas: Mapping[str, int] = field(default_factory=dict)
    moved_bytes: int = field(default=0, init=False)  # of answers, from member to member

    def answer(self, job: PartsJob, tick: Callable[[int], object]) -> int:
        """See `hf_soups.batch_predict.parts.PartsExecutor`."""
        workers = _workers(self.cluster, job.route, self.replicas)
        each = _each(self.cluster, sum(workers))
        missing, rows = job.files.missing(), 0
        for batch in _watched(self.cluster, _chain(self.cluster, job, missing, workers, each), sum(workers), each):
            if failed := str(batch["failed"][0]):
                raise HfSoupsError(f"part {int(batch['number'][0])}: {failed}")
            start, stop = job.files.span(int(batch["number"][0]))
            rows += stop - start
            self.moved_bytes += int(batch["moved"][0])
            tick(rows)
        return rows


def _workers(cluster: Cluster, route: Route, replicas: Mapping[str, int]) -> list[int]:
    """Of each member: as given, or its share of the cores (of GPUs, where there are some) by its work."""
    if unknown := sorted(set(replicas) - set(route.members)):
        raise InputError(
            f"--replicas names {', '.join(unknown)}; the members that rows can meet are {', '.join(route.members)}."
        )
    room = cluster.room({"GPU": 1.0}) or cluster.room({"CPU": 1.0})
    work = route.work or (1.0,) * len(route.members)
    shares = [max(1, round(room * own / (sum(work) or 1.0))) for own in work]
    return [replicas.get(name, share) for name, share in zip(route.members, shares, strict=True)]


def _each(cluster: Cluster, workers: int) -> Resources:
    """What a worker takes. All fit on half of the cores too: one that is started again must not wait for a new node."""
    nodes = cluster.nodes()
    cores, gpus = (sum(node.resources.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    most = math.floor(1000 * min(1.0, cores / (2 * workers))) / 1000
    return {"CPU": most, "GPU": 1.0 / math.ceil(workers / gpus) if gpus else 0.0}


def _chain(cluster: Cluster, job: PartsJob, missing: Sequence[int], workers: Sequence[int], each: Resources) -> Any:
    """A block for each part, which holds what the members so far answered."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error ends in one line, see `_watched`
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, int(2 * each["CPU"])))
    begun = {"sofar": Halfway().packed(), "failed": "", "moved": 0}
    chain: Any = ray.data.from_items(
        [{"number": number, **begun} for number in missing], override_num_blocks=len(missing)
    )
    # Ray 2.64 has no place for them any more; its own default is to try for ever
    parameters = inspect.signature(chain.map_batches).parameters
    limited = {"ray_remote_args_fn": lambda: LOST} if "ray_remote_args_fn" in parameters else {}
    for stage, count in enumerate(workers):
        chain = chain.map_batches(
            Worker, fn_constructor_args=(job, stage), batch_size=1, batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=IN_FLIGHT),
            num_cpus=each["CPU"], num_gpus=each["GPU"],
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}}, **limited,
        )  # fmt: skip
    return chain


def _watched(cluster: Cluster, chain: Any, workers: int, each: Resources) -> Iterator[Batch]:
    """Its blocks, as they come.

    Raises:
        HfSoupsError: if Ray gives up, or the cluster has no room for the workers for too long.
    """
    found: queue.Queue[Batch | Exception | None] = queue.Queue()
    stopped, fitted = threading.Event(), time.monotonic()
    thread = threading.Thread(target=_follow, args=(chain, found, stopped), daemon=True)
    thread.start()
    try:
        while True:
            with contextlib.suppress(queue.Empty):
                batch = found.get(timeout=LOOK_SECONDS)
                if batch is None:
                    return
                if isinstance(batch, Exception):
                    raise _given_up(batch) from batch
                fitted = time.monotonic()
                yield batch
            fitted = time.monotonic() if cluster.room(each) >= workers else fitted
            if time.monotonic() - fitted > PATIENCE_SECONDS:
                raise _no_room(workers, each)
    finally:
        stopped.set()
        _end(chain, thread)


def _follow(chain: Any, found: queue.Queue[Batch | Exception | None], stopped: threading.Event) -> None:
    try:
        for batch in chain.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=0):
            found.put(batch)
            if stopped.is_set() or batch["failed"][0]:
                return  # which ends the chain
        found.put(None)
    except Exception as error:  # whatever Ray gives up with
        found.put(error)


def _end(chain: Any, thread: threading.Thread) -> None:
    thread.join(GRACE_SECONDS)
    running = getattr(chain, "_current_executor", None)
    if thread.is_alive() and running is not None:  # it waits for a part that nobody wants
        with contextlib.suppress(Exception):
            running.shutdown(force=True)
        thread.join(GRACE_SECONDS)


def _no_room(workers: int, each: Resources) -> HfSoupsError:
    return HfSoupsError(
        f"for {PATIENCE_SECONDS:.0f} seconds the cluster has had no room for {workers} workers of {in_words(each)} "
        "each. What is finished is kept: the same command goes on, with fewer --replicas or on more machines."
    )


def _given_up(error: Exception) -> HfSoupsError:
    return HfSoupsError(
        f"a part was not answered: its worker or machine was lost {RETRIES + 1} times, or Ray itself failed "
        f"({last_line(error)[:300]}). What is finished is kept; the same command goes on."
    )


class Worker:
    """In a worker: one member, loaded when the first part comes, and the rows."""

    def __init__(self, job: PartsJob, stage: int) -> None:
        self._job, self._stage = job, stage
        self._opened: tuple[Rows, Answerer] | None = None

    def __call__(self, batch: Batch) -> dict[str, list[Any]]:
        """One part with this member's answers; one that is finished, or failed, passes through."""
        number, moved = int(batch["number"][0]), int(batch["moved"][0])
        sofar, failed = bytes(batch["sofar"][0]), str(batch["failed"][0])
        if sofar:
            try:
                sofar = self._answered(number, Halfway.unpacked(sofar))
                moved += len(sofar)
            except Exception as error:  # of the model or the data: once more would fail once more
                sofar = b""
                failed = str(error) if isinstance(error, HfSoupsError) else f"{type(error).__name__}: {error}"
        return {"number": [number], "sofar": [sofar], "failed": [failed], "moved": [moved]}

    def _answered(self, number: int, sofar: Halfway) -> bytes:
        """What the next member needs; nothing where the part is finished."""
        if self._job.files.path(number).is_file():  # a worker was lost after it had written it
            return b""
        if self._opened is None:
            from hf_soups.user_code import import_what_the_parent_did

            import_what_the_parent_did()
            self._opened = self._job.open_rows(), self._job.open_members[self._stage](device_here())
        known, needing = one_stage(self._job, *self._opened, number, sofar)
        return known.packed() if needing else b""
