"""A model whose replicas answer on a cluster, by Ray Serve: whole ones, or of each member its own.

The app stays in this process. Batches are gathered there, and each is one call: a call costs the app milliseconds of
CPU, however many rows it has.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_soups.batch_predict.run import split_by_member
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.alone import lone_member
from hf_soups.cascades.running.config import CascadeConfig, read_cascade
from hf_soups.cascades.running.members import for_members
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.models.answers import Answers
from hf_soups.models.classifier import check_dtype
from hf_soups.pool.entries import is_cascade, one_model
from hf_soups.remote.cluster import Cluster, connected
from hf_soups.remote.deployments import Deployment, Replicas, deployed, serve_module
from hf_soups.remote.scores import device_here
from hf_soups.serving.answering import Answering
from hf_soups.serving.asked import Refused
from hf_soups.serving.batching import Worker
from hf_soups.serving.by_member import MemberAnswering
from hf_soups.serving.served import Served, load_served, of_config
from hf_soups.serving.settings import OnCluster
from hf_soups.user_code import import_what_the_parent_did


@contextlib.contextmanager
def served_on(model: str | Path, how: OnCluster) -> Iterator[Served]:
    """The model, answered by replicas on a cluster; leaving the block ends them.

    Args:
        model: as for `load_served`.
        how: which replicas.
    Raises:
        MissingExtra: if Ray Serve is not installed.
        InputError: if there is no such cluster, it has no room, or members are named that there are not.
        HfSoupsError: if a replica cannot load the model, or they are not ready in ten minutes.
    """
    serve_module()  # said before a model is fetched from the Hub
    checkpoint = one_model(model)
    if not Path(checkpoint.source).is_dir():  # replicas that start later are of this commit too
        checkpoint = Checkpoint(checkpoint.source, checkpoint.folder.name)
    known = _known(checkpoint, how) if is_cascade(checkpoint) else None
    if how.split_members and known is None:
        raise InputError(f"{checkpoint}: a single classifier has no members. Leave out --split-members.")
    members = known.members if how.split_members and known is not None else ()
    counts = {name: int(n) for name, n in _of_each(how.replicas, members, "--replicas", 1).items()}
    with connected(how.address) as cluster:
        if Path(checkpoint.source).is_dir():
            cluster.check_seen([Path(checkpoint.source)])
        each = _resources(cluster, how, members, counts, _on_cpu(checkpoint) if members else ())
        wanted = [
            Deployment(name or "the model", partial(_held, name, checkpoint, how), counts[name], each[name])
            for name in counts
        ]
        with deployed(cluster, wanted) as deployments:
            about: Served = known or deployments[0].call("about")
            named = zip(counts, deployments, strict=True)
            yield replace(about, workers={name: Worker(partial(_ask, one), counts[name]) for name, one in named})


def _known(checkpoint: Checkpoint, how: OnCluster) -> Served:
    """A cascade as its config says it, with what is given for it."""
    config = read_cascade(checkpoint.folder)
    _dtypes(checkpoint, config, how)
    asked = [place.name for place in config.places if place.endpoint is not None]
    if how.split_members and asked:  # what answers where an endpoint does not is the whole cascade's affair
        raise InputError(f"{checkpoint}: {', '.join(asked)} is asked at an endpoint. Leave out --split-members.")
    return of_config(checkpoint.name, config, how.loading.get("budget"), _nowhere)


def _dtypes(checkpoint: Checkpoint, config: CascadeConfig, how: OnCluster) -> dict[str, str]:
    ((for_all, dtypes),) = split_by_member(checkpoint, how.loading.get("dtype"))
    named = for_members(dtypes if for_all is None else for_all, config.names, "dtype")
    for each in named.values():
        check_dtype(each)
    return named


def _of_each(given: Any, members: Sequence[str], option: str, least: float) -> dict[str, float]:
    """An option's value for each deployment: of the whole model under ""."""
    if isinstance(given, Mapping) and not members:
        raise InputError(f"{option} by member is for deployments by member: give --split-members too.")
    values = {**dict.fromkeys(members or ("",), 1), **for_members(given, members or ("",), option)}
    for name, value in values.items():
        if value < least:
            raise InputError(f"{option} {f'{name}=' if name else ''}{value:g}: expected {least:g} or more.")
    return values


def _on_cpu(checkpoint: Checkpoint) -> list[str]:
    """Members that run on the CPU by the cascade's config."""
    return [place.name for place in read_cascade(checkpoint.folder).places if place.device == "cpu"]


def _resources(
    cluster: Cluster, how: OnCluster, members: Sequence[str], counts: Mapping[str, int], on_cpu: Sequence[str]
) -> dict[str, dict[str, float]]:
    gpus = how.gpus_per_replica
    if gpus is None:
        there = int(sum(node.resources.get("GPU", 0.0) for node in cluster.nodes()))
        wanting = sum(count for name, count in counts.items() if name not in on_cpu)
        share = 1.0 / -(-wanting // there) if there and wanting else 0.0
        gpus = {name: 0.0 if name in on_cpu else share for name in members} if members else share
    elif isinstance(gpus, Mapping):
        gpus = {**dict.fromkeys(members, 0.0), **gpus}
    cpus = _of_each(how.cpus_per_replica, members, "--cpus-per-replica", 0)
    shares = _of_each(gpus, members, "--gpus-per-replica", 0)
    return {name: {"CPU": cpus[name], "GPU": shares[name]} for name in counts}


class Held:
    """What a replica holds: a loaded model or member, and what is known of the whole."""

    def __init__(self, served: Served, answering: Callable[[Any, int], Sequence[Any]]) -> None:
        self._served, self._answering = served, answering

    def about(self) -> Served:
        """The model without its weights."""
        return replace(self._served, answer=_nowhere)

    def answer(self, rows: Sequence[Any], number: int) -> list[Any]:
        """The answers to rows by the plan of this number; errors among them can travel."""
        return [_portable(one) if isinstance(one, Exception) else one for one in self._answering(rows, number)]


def _nowhere(values: Sequence[Any], plan: Plan) -> Answers:
    raise NotImplementedError  # what is known of a model whose replicas answer elsewhere


def _held(name: str, checkpoint: Checkpoint, how: OnCluster) -> Held:
    """In a replica: a member, or the whole model under ""."""
    import_what_the_parent_did()
    if name:
        return _member(name, checkpoint, how)
    called = checkpoint.source if checkpoint.revision is None else f"{checkpoint.source}@{checkpoint.revision}"
    device = "cpu" if device_here() == "cpu" else None  # None: each member's own, or the GPU that this replica sees
    served = load_served(called, device=device, **how.loading)
    return Held(served, Answering(served, how.max_pixels))


def _member(name: str, checkpoint: Checkpoint, how: OnCluster) -> Held:
    import torch

    config, served = read_cascade(checkpoint.folder), _known(checkpoint, how)
    plan = next(plan for plan in served.plans if name in plan.members)
    device = torch.device("cpu" if name in _on_cpu(checkpoint) else device_here())
    lone = lone_member(
        config, checkpoint.source, plan, plan.members.index(name), device=device,
        dtypes={member: getattr(torch, each) for member, each in _dtypes(checkpoint, config, how).items()},
        hub={} if checkpoint.revision is None else {"revision": checkpoint.revision},
    )  # fmt: skip

    def answer(values: Sequence[Any], temperature: float) -> Answers:
        return replace(lone, temperature=temperature).answer(values)

    return Held(served, MemberAnswering(name, served.plans, answer, served.kind, how.max_pixels))


def _portable(error: Exception) -> Exception:
    """An error as another process can read it, with its place as a note."""
    if isinstance(error, Refused):
        return error
    if not isinstance(error, HfSoupsError) and type(error).__module__ != "builtins":
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    error.add_note("".join(traceback.format_tb(error.__traceback__)))
    return error


def _ask(replicas: Replicas, rows: Sequence[Any], number: int) -> Sequence[Any]:
    try:
        answers: Sequence[Any] = replicas.call("answer", list(rows), number)
        return answers
    except Exception as error:  # of the cluster: each row says so
        return [error] * len(rows)
