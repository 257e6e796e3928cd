"""Scores of mixtures as Ray tasks: greedy's next candidates, side by side on the cluster.

A worker that has opened the rows and a model keeps both for the next task. Where it is lost, Ray gives the task to
another one, which opens them anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, InputError, is_short_of_memory
from hf_soups.remote.cluster import RETRIES, Cluster, connected, last_line, ray_module
from hf_soups.soups.ahead import GREEDY, Answer
from hf_soups.soups.soup import Score, Soup

if TYPE_CHECKING:
    from hf_soups.cooking.run import OpenWorkers
    from hf_soups.recipe import Recipe
    from hf_soups.soups.scoring import SoupScorer

SPECULATE = 4  # mixtures at once, where the cluster has room
# Of a task with GPUs Ray shows the worker those alone, and ends it with the task: a model could not be kept.
ALL_GPUS = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker opens once: as `open_scorer` takes it."""

    id: str
    pool: tuple[Checkpoint, ...]
    recipe: Recipe
    how: Mapping[str, Any]
    directory: str  # of the command, to which paths may be relative


@contextlib.contextmanager
def ray_workers(address: str = "auto", *, speculate: int | None = None) -> Iterator[OpenWorkers]:
    """Workers for `cook`, on a cluster that is connected and checked.

    Args:
        address: see `hf_soups.remote.cluster.connected`.
        speculate: mixtures scored at once; default: 4, or as many as the cluster has room for.
    Raises:
        InputError: if `speculate` is below 1.
    """
    if speculate is not None and speculate < 1:
        raise InputError(f"--speculate {speculate}: expected 1 or more.")
    with connected(address) as cluster:
        gpus = 1.0 if cluster.room({"GPU": 1}) else 0.0
        least = {"CPU": 1.0, "GPU": gpus}
        cluster.check_room(least, "scoring a mixture", "Start Ray on a machine that has them.")
        count = min(speculate or SPECULATE, cluster.room(least))

        def open_workers(pool: Sequence[Checkpoint], recipe: Recipe, how: Mapping[str, Any]) -> RayWorkers:
            cluster.check_seen([c.folder.resolve() for c in pool if Path(c.source).expanduser().is_dir()])
            cache = how["cache"]
            how = {**how, "cache": None if cache is None else Path(cache).resolve()}
            job = Job(uuid.uuid4().hex, tuple(pool), recipe, how, str(Path.cwd()))
            return RayWorkers(cluster, job, count, {"CPU": _share(cluster, count, gpus), "GPU": gpus})

        yield open_workers


def _share(cluster: Cluster, count: int, gpus: float) -> float:
    """As many cores for each as there are for so many at once."""
    most = int(max(node.resources.get("CPU", 0.0) for node in cluster.nodes()))
    return float(next((c for c in range(most, 1, -1) if cluster.room({"CPU": c, "GPU": gpus}) >= count), 1))


@dataclass(frozen=True, eq=False)
class RayTicket:
    """A task."""

    ray: Any
    reference: Any

    def result(self) -> Answer:
        """Its answer.

        Raises:
            HfSoupsError: if it failed, or its machine was lost too often.
        """
        try:
            found: Answer = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, HfSoupsError) or (isinstance(cause, Exception) and is_short_of_memory(cause)):
                raise cause from error  # the caller has words for it
            raise HfSoupsError(f"a mixture could not be scored on the cluster: {last_line(error)}") from error
        return found

    def cancel(self) -> None:
        """A task that has not begun never will; one that has ends after its batch."""
        self.ray.cancel(self.reference, force=False)


class RayWorkers:
    """See `hf_soups.soups.ahead.Workers`."""

    def __init__(self, cluster: Cluster, job: Job, count: int, each: Mapping[str, float]) -> None:
        self.count = count
        self._ray = cluster.ray
        self._job = cluster.ray.put(job)
        self._place = {checkpoint: i for i, checkpoint in enumerate(job.pool)}
        self._batches: tuple[Any, Any] = (None, None)  # of the last mixture, and where Ray keeps them
        threads = os.environ.get("OMP_NUM_THREADS") or f"{each['CPU']:.0f}"
        variables = {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        self._task = cluster.ray.remote(
            num_cpus=each["CPU"], num_gpus=each["GPU"], max_retries=RETRIES, retry_exceptions=False, max_calls=0,
            runtime_env={"env_vars": variables | ({ALL_GPUS: "1"} if each["GPU"] else {})},
        )(score_here)  # fmt: skip

    def submit(self, soup: Soup, floor: Score | None, variant: str, batches: tuple[Any, ...] | None) -> RayTicket:
        """See `hf_soups.soups.ahead.Workers`."""
        if batches is not self._batches[0]:
            self._batches = batches, self._ray.put(batches)
        members = tuple(self._place[checkpoint] for checkpoint in soup.ingredients)
        reference = self._task.remote(self._job, members, floor, variant, self._batches[1])
        return RayTicket(self._ray, reference)


_open: dict[tuple[str, str], SoupScorer] = {}  # in a worker: the one job that it works for


def score_here(
    job: Job, members: Sequence[int], floor: Score | None, variant: str, batches: tuple[Any, ...] | None
) -> Answer:
    """In a worker: the score of a mean, and of an ingredient alone the loss of each row."""
    from hf_soups.soups.methods.uniform import uniform

    with _stopped_between_batches() as check:
        scorer = replace(_opened(job).variants[variant], each=check)
        soup = replace(uniform([job.pool[i] for i in members]), method=GREEDY)
        if len(members) == 1:
            return scorer(soup), scorer.losses.get(soup.ingredients[0])
        return replace(scorer, batches=batches).or_bound(soup, floor), None


@contextlib.contextmanager
def _stopped_between_batches() -> Iterator[Callable[[object], None]]:
    """Ray cancels a task by an interrupt, which would leave a library half imported or a model half loaded."""
    asked = threading.Event()

    def check(_: object) -> None:
        if asked.is_set():
            raise HfSoupsError("nobody wants this score any more")

    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _opened(job: Job) -> SoupScorer:
    device = device_here()
    if (job.id, device) not in _open:
        from hf_soups.soups.scoring import open_scorer
        from hf_soups.user_code import import_what_the_parent_did

        if Path(job.directory).is_dir():
            os.chdir(job.directory)
        import_what_the_parent_did()
        _open.clear()
        _open[job.id, device] = open_scorer(job.pool, job.recipe, device=device, **job.how)
    return _open[job.id, device]


def device_here() -> str:
    """The GPU that Ray gave to this task, by its place among those that are visible."""
    given = ray_module().get_gpu_ids()
    if not given:
        return "cpu"
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
    return f"cuda:{visible.index(str(given[0])) if str(given[0]) in visible else given[0]}"
