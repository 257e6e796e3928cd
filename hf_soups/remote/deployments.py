"""Deployments: replicas on Ray Serve, each holding one object; whoever deployed them asks them, and they end with it.

Ray Serve starts a lost replica again and picks a free one for each call. Its controller and replicas live on by
themselves, so they are ended when the command ends; where it is killed they notice that and end of their own accord.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_soups.ending import called_at_end
from hf_soups.errors import HfSoupsError, InputError, MissingExtra, ReplicasGone
from hf_soups.remote.cluster import Cluster, Resources, in_words, last_line, leave, ray_module

READY_SECONDS = 600.0  # for replicas to load what they hold
POLL_SECONDS = 0.2
STARTS = 5  # of Ray Serve, one second apart
ANSWER_SECONDS = 300.0  # for an answer; while none is up a call waits for a replica
RETRIES = 2  # of a call whose replica was lost
PREFIX = "hf_soups"
OWN_ERROR = re.compile(r"^hf_soups\.errors\.\w+: ")


def serve_module() -> Any:
    """Ray Serve, imported; it says nothing below an error.

    Raises:
        MissingExtra: if it is not installed.
    """
    ray_module()
    try:
        module = importlib.import_module("ray.serve")
    except ImportError as error:
        raise MissingExtra(
            f"a service on a cluster needs Ray Serve, which cannot be imported ({error}). Install it with: "
            "pip install 'hf_soups[ray-serve]', or leave out --address."
        ) from error
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    return module


@dataclass(frozen=True)
class Deployment:
    """Replicas that are wanted."""

    name: str  # in messages, such as a member's
    make: Callable[[], Any]  # called in each replica, for the object that it holds
    replicas: int = 1
    each: Resources = field(default_factory=lambda: {"CPU": 1.0})  # of the cluster, for each replica


class Replica:
    """In a worker of Ray Serve: one object, as long as the command lives that wanted it."""

    def __init__(self, make: Callable[[], Any], lease: Any, applications: Sequence[str]) -> None:
        threading.Thread(target=_end_without, args=(lease, applications), daemon=True).start()
        self._held = make()

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the object returns."""
        return getattr(self._held, method)(*arguments)


@dataclass(frozen=True, eq=False)
class Replicas:
    """Asks the replicas of a deployment."""

    name: str
    _handle: Any
    _lost: type[Exception]

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of a replica's object returns; where the replica is lost on the way, that of another one.

        Raises:
            ReplicasGone: if none answers.
        """
        for _ in range(RETRIES + 1):
            try:
                return self._handle.call.remote(method, *arguments).result(timeout_s=ANSWER_SECONDS)
            except self._lost:
                continue
            except TimeoutError:
                raise ReplicasGone(f"{self.name}: no replica answered in {ANSWER_SECONDS:.0f} seconds.") from None
        raise ReplicasGone(f"{self.name}: {RETRIES + 1} replicas were lost, one after another, at this call.")


@contextlib.contextmanager
def deployed(cluster: Cluster, wanted: Sequence[Deployment]) -> Iterator[list[Replicas]]:
    """Replicas that are ready; leaving the block ends them, and so does a signal that ends this process.

    Raises:
        MissingExtra: if Ray Serve is not installed.
        InputError: if the cluster has no room for them, were it idle.
        HfSoupsError: if one cannot make its object, or they are not ready in ten minutes.
    """
    serve = serve_module()
    check_room(cluster, wanted)
    run = uuid.uuid4().hex[:12]
    names = [f"{PREFIX}-{run}-{number}" for number in range(len(wanted))]
    lease = cluster.ray.remote(num_cpus=0)(_lease()).remote()
    with contextlib.ExitStack() as ending:
        if cluster.own:  # asked by Ray itself: of children that are asked all at once, agents are left
            ending.enter_context(called_at_end(functools.partial(_silently, leave, cluster.ray)))
        ending.enter_context(called_at_end(functools.partial(cluster.ray.kill, lease)))
        ending.enter_context(called_at_end(functools.partial(_silently, _end, serve, names)))
        targets = [_target(serve, *pair, lease, names) for pair in zip(names, wanted, strict=True)]
        _run(cluster, serve, targets)
        _wait(serve, dict(zip(names, wanted, strict=True)))
        lost = cluster.ray.exceptions.RayActorError
        yield [Replicas(one.name, serve.get_app_handle(name), lost) for name, one in zip(names, wanted, strict=True)]


def check_room(cluster: Cluster, wanted: Sequence[Deployment]) -> None:
    """Whether all replicas fit on the nodes, were they idle: the most demanding first, each where most is left.

    Raises:
        InputError: if they do not.
    """
    left = [dict(node.resources) for node in cluster.nodes()]
    for one in sorted(wanted, key=lambda one: -max(one.each.values(), default=0.0)):
        for number in range(one.replicas):
            able = [node for node in left if all(node.get(k, 0.0) >= v - 1e-6 for k, v in one.each.items() if v > 0)]
            if not able:
                there = "; ".join(f"{node.address}: {in_words(node.resources)}" for node in cluster.nodes())
                needs = "; ".join(f"{each.replicas} x {each.name}: {in_words(each.each)} each" for each in wanted)
                raise InputError(
                    f"the cluster has no room for replica {number + 1} of {one.name} ({needs}; nodes: {there}). Give "
                    "fewer --replicas or less to each, or start Ray on one more machine."
                )
            most = max(able, key=lambda node: min(node.get(k, 0.0) - v for k, v in one.each.items()))
            for k, v in one.each.items():
                most[k] = most.get(k, 0.0) - v


def _lease() -> type:
    class Lease:
        """Lives as long as the process that made it; whoever waits for it learns of the end."""

        async def held(self) -> None:
            import asyncio

            await asyncio.Event().wait()

    return Lease


def _end_without(lease: Any, applications: Sequence[str]) -> None:
    """In a replica: wait until the command is gone, and end what it wanted."""
    ray, serve = ray_module(), serve_module()
    while True:
        try:
            ray.get(lease.held.remote())
        except ray.exceptions.ActorUnavailableError:  # it may come back
            time.sleep(1.0)
        except Exception:  # the lease or the cluster is gone, which Ray says in many ways
            break
    with contextlib.suppress(Exception):
        _end(serve, applications)


def _target(serve: Any, name: str, one: Deployment, lease: Any, names: Sequence[str]) -> Any:
    made = serve.deployment(
        name="model",
        num_replicas=one.replicas,
        max_ongoing_requests=1,  # a call is a whole batch, and who holds a model answers in one thread
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=2.0,
        health_check_period_s=2.0,
        ray_actor_options={"num_cpus": one.each.get("CPU", 0.0), "num_gpus": one.each.get("GPU", 0.0)},
    )(Replica)
    return serve.RunTarget(made.bind(one.make, lease, list(names)), name=name, route_prefix=None)


def _run(cluster: Cluster, serve: Any, targets: Sequence[Any]) -> None:
    """Start Ray Serve, where nobody has, and the applications. Another command may start or end it at this moment."""
    for attempt in range(STARTS):
        try:
            serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
            serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
            return
        except (cluster.ray.exceptions.RayError, serve.exceptions.RayServeException) as error:
            if attempt == STARTS - 1:
                raise HfSoupsError(f"Ray Serve cannot be started on the cluster: {last_line(error)}") from error
            time.sleep(1.0)


def _wait(serve: Any, wanted: dict[str, Deployment]) -> None:
    """Until all run."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        found = serve.status().applications
        starting = [name for name in wanted if name not in found or found[name].status != "RUNNING"]
        if not starting:
            return
        for name in starting:
            if name not in found:
                raise HfSoupsError(
                    "Ray Serve was ended on the cluster while replicas started. The same command goes on."
                )
            _check(wanted[name].name, found[name], time.monotonic() > deadline)
        time.sleep(POLL_SECONDS)


def _check(called: str, application: Any, late: bool) -> None:
    """Raise what a replica failed with, as soon as one did."""
    why = next((state.message for state in application.deployments.values() if state.message), "")
    line = last_line(RuntimeError(why)) if why else ""
    if OWN_ERROR.match(line):
        raise HfSoupsError(f"{called}: {OWN_ERROR.sub('', line)}")
    if application.status == "DEPLOY_FAILED":
        raise HfSoupsError(f"{called}: the replicas cannot be started: {line or application.message}")
    if late:
        raise HfSoupsError(
            f"{called}: the replicas are not ready after {READY_SECONDS:.0f} seconds ({line or 'they still start'}). "
            "`ray status` shows what other work holds the cluster."
        )


def _end(serve: Any, names: Sequence[str]) -> None:
    """End our applications, and Ray Serve itself where nothing else is served."""
    try:
        others = set(serve.status().applications) - set(names)
    except Exception:  # it was not started
        return
    if not others:
        serve.shutdown()
        return
    for name in names:
        with contextlib.suppress(Exception):
            serve.delete(name)


def _silently(function: Callable[..., object], *arguments: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # where Ray prints who is gone
        function(*arguments)
