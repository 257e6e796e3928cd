"""Cluster: a connection to Ray, and whether its nodes can do the work.

Every node must have the versions of this process, see the same folders at the same paths, and one of them must have
the processors that a piece of work takes: Ray itself would wait for ever, or fail in the middle. This module alone
imports Ray, and only when it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.errors import HfSoupsError, InputError, MissingExtra
from hf_soups.files.writing import refuse_url, writable

ADDRESSES = "auto (the cluster that this machine is part of), HOST:PORT of its head, or local (this machine alone)"
# What decides results, logins and the user's own code on every node. HF_SOUPS_IMPORT is --import.
GOES_ALONG = (
    "HF_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_", "CUBLAS_", "NCCL_",
    "GLOO_", "WANDB_", "TRACKIO_", "PYTHONPATH",
)  # fmt: skip
ANSWER_SECONDS = 90.0  # for a node to start a worker and answer; a busy laptop takes 20
REACH_SECONDS = 5.0
SEEN_SECONDS = 5.0  # for a new file to appear on another node: network file systems cache folders for seconds
RETRIES = 5  # of a task whose worker or machine was lost
PACKAGES = ("ray", "hf_soups", "torch")

Resources = Mapping[str, float]  # "CPU", "GPU", and names of one's own


def ray_module() -> Any:
    """Ray, imported; it sends no statistics of its use.

    Raises:
        MissingExtra: if it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # by default for ever
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # nothing connects again once a connection was closed
    if _has_token():  # `ray start` asks for it by then, and `ray.init` does not bring it of itself
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtra(
            "work on a cluster needs the package ray, which is not installed. Install it with: "
            "pip install 'hf_soups[ray]', or leave out --executor ray."
        ) from error


def _has_token() -> bool:
    """Whether this user has a token of Ray's, which its clusters then ask for."""
    by_name = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(by_name) or (Path.home() / ".ray" / "auth_token").is_file()


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the cluster, or one part of a machine."""

    id: str
    address: str
    resources: Resources

    def fit(self, each: Resources) -> int:
        """How many pieces of work with these needs it can do at once, were it idle."""
        needs = {name: amount for name, amount in each.items() if amount > 0}
        # Ray counts in ten-thousandths
        return min((int(self.resources.get(name, 0.0) / need + 1e-4) for name, need in needs.items()), default=1 << 20)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that this process is connected to."""

    ray: Any  # the module
    address: str
    own: bool = False  # this process has started it, and it ends with it

    def nodes(self) -> tuple[Node, ...]:
        """Those that are alive, by address: Ray gives them in any order."""
        alive = (each for each in self.ray.nodes() if each["Alive"])
        found = (Node(each["NodeID"], each["NodeManagerAddress"], dict(each["Resources"])) for each in alive)
        return tuple(sorted(found, key=lambda node: (node.address, node.id)))

    def room(self, each: Resources) -> int:
        """How many pieces of work with these needs all nodes can do at once, were they idle."""
        return sum(node.fit(each) for node in self.nodes())

    def check_room(self, each: Resources, what: str, advice: str) -> None:
        """Ray would wait for ever for what no node has.

        Args:
            each: what one piece of work needs.
            what: it is, such as "a run".
            advice: what to do about it, a sentence.
        Raises:
            InputError: if no node, were it idle, could do one.
        """
        if self.room(each) == 0:
            there = "; ".join(f"{node.address}: {in_words(node.resources)}" for node in self.nodes())
            raise InputError(f"{what} needs {in_words(each)}, which no node has ({there}). {advice}")

    def on_every_node(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What a function answers on each node, by address.

        Args:
            function: one that was defined inside another, so that it travels whole and imports what it needs itself:
                a node without this package can still answer.
            arguments: of it.
        Raises:
            HfSoupsError: if a node does not answer, or the function fails there.
        """
        exactly = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        remote = self.ray.remote(function)
        asked = {
            remote.options(num_cpus=0, max_retries=1, scheduling_strategy=exactly(node.id, soft=False)).remote(
                *arguments
            ): node
            for node in self.nodes()
        }
        done, late = self.ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        if late:
            raise HfSoupsError(
                f"{', '.join(sorted(asked[each].address for each in late))}: no answer from this node in "
                f"{ANSWER_SECONDS:.0f} seconds. `ray status` shows the cluster; restart Ray there or take it out."
            )
        return {asked[each].address: self._answer(each, asked[each]) for each in done}

    def _answer(self, reference: Any, node: Node) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            raise HfSoupsError(f"{node.address}: this node cannot work: {last_line(error)}") from error

    def check_versions(self) -> None:
        """Whether all nodes have this process's versions of what decides results.

        Raises:
            InputError: naming every difference.
        """
        look = _version_reader()
        here = look(PACKAGES)
        differing = [
            f"{address} has {name} {there[name]}, but this process has {version}"
            for address, there in sorted(self.on_every_node(look, PACKAGES).items())
            for name, version in here.items()
            if there[name] != version
        ]
        if differing:
            raise InputError(
                f"the cluster's nodes differ: {'; '.join(differing)}. Install the same versions on every node: one "
                "virtual environment on a shared file system, or one container image."
            )

    def check_folder(self, folder: Path) -> None:
        """Whether all nodes see this folder and can write into it; makes it where it is missing.

        Raises:
            InputError: naming the nodes that do not, and what to do.
        """
        refuse_url(folder)
        folder = folder.resolve()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file. Give another --out.")
        token = uuid.uuid4().hex
        written = folder / f".seen-{token}"
        try:
            with writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
                written.write_text(token, encoding="utf-8")
            answers = self.on_every_node(_token_reader(), str(written), token, SEEN_SECONDS)
        finally:
            for left in folder.glob(f"{written.name}*"):
                left.unlink(missing_ok=True)
        wrong = [f"{address} {answer}" for address, answer in sorted(answers.items()) if answer]
        if wrong:
            raise InputError(
                f"{folder}: not every node of the cluster works in this same folder ({'; '.join(wrong)}). Give one on "
                "a file system that all nodes share at the same path, such as NFS; addresses such as s3://bucket/out "
                "are not supported yet."
            )

    def check_seen(self, folders: Sequence[Path]) -> None:
        """Whether all nodes see these folders, which are only read.

        Raises:
            InputError: naming the nodes that do not.
        """
        names = [str(folder.resolve()) for folder in folders]
        missing = self.on_every_node(_folder_finder(), names)
        wrong = [f"{address} lacks {lacks[0]}" for address, lacks in sorted(missing.items()) if lacks]
        if wrong:
            raise InputError(
                f"not every node of the cluster sees the same files ({'; '.join(wrong)}). Put them on a file system "
                "that all nodes share at the same path, such as NFS."
            )


def in_words(resources: Resources) -> str:
    """What a node has or a piece of work needs, without what Ray adds of its own.

    >>> in_words({"CPU": 8.0, "GPU": 0.5, "node:10.0.0.1": 1.0, "memory": 1e9})
    '8 CPUs, 0.5 GPUs'
    """
    names = {"CPU": "CPU", "GPU": "GPU"}
    own = {
        k: v for k, v in resources.items() if not re.match(r"node:|memory$|object_store_memory$|accelerator_type:", k)
    }
    said = [f"{v:g} {names.get(k, repr(k))}{'' if v == 1 or k not in names else 's'}" for k, v in own.items() if v]
    return ", ".join(said) or "no processors"


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of this process that its work takes along: of the Hub, of threads, of trackers, and --import."""
    found = os.environ if base is None else base
    return {name: value for name, value in found.items() if name.startswith(GOES_ALONG)}


@contextlib.contextmanager
def connected(address: str = "auto") -> Iterator[Cluster]:
    """A cluster that has answered and has the same versions; leaving the block ends what still runs there.

    Where this process is connected to Ray already, that connection is taken, and it stays.

    Args:
        address: "auto", "HOST:PORT" or "local".
    Raises:
        MissingExtra: if Ray is not installed.
        InputError: if there is no such cluster, or its nodes' versions differ.
        HfSoupsError: if a node does not answer.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield _checked(Cluster(ray, address))
        return
    _check_address(address)
    _start(ray, address)
    try:
        yield _checked(Cluster(ray, address, own=address == "local"))
    finally:
        leave(ray)


def leave(ray: Any) -> None:
    """Close the connection, and end the cluster if it is this process's own."""
    with _own_signals():
        ray.shutdown()


def _checked(cluster: Cluster) -> Cluster:
    cluster.check_versions()
    return cluster


def _check_address(address: str) -> None:
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise InputError(f"{address!r} is no address of a cluster; expected {ADDRESSES}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{address}: no cluster can be reached there ({error}). Start one with: ray start --head --port {port}, on "
            "that machine, and on every other one: ray start --address HOST:PORT."
        ) from error


def _start(ray: Any, address: str) -> None:
    host = address.rpartition(":")[0]
    # a cluster on loopback addresses alone: Ray would look for this machine's part of it by the outer one
    loopback = {"_node_ip_address": host} if host.startswith("127.") else {}
    own = {"include_dashboard": False} if address == "local" else {}
    with _own_signals():
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": environment()},
                **loopback,
                **own,
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            ray.shutdown()
            raise InputError(
                f"--address {address}: cannot connect to Ray: {last_line(error).rstrip('.')}. Expected {ADDRESSES}. A "
                "cluster is started with: ray start --head; this command runs on one of its machines, with the "
                "cluster's token where it has one (RAY_AUTH_TOKEN, or ~/.ray/auth_token)."
            ) from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts its own handlers in the place of ours, by which Ctrl-C and SIGTERM end a command in one line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(error: BaseException) -> str:
    """Of an exception that may hold a whole traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# These functions travel as a whole, since they are defined inside others: a node may lack this package.


def _version_reader() -> Callable[..., dict[str, str]]:
    def look(packages: Sequence[str]) -> dict[str, str]:
        import importlib.metadata
        import sys

        found = {"Python": "{}.{}".format(*sys.version_info)}
        for name in packages:
            try:  # without a build's name: torch for CPUs and for GPUs are one version
                found[name] = importlib.metadata.version(name).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                found[name] = "not installed"
        return found

    return look


def _token_reader() -> Callable[..., str]:
    def look(path: str, token: str, seconds: float) -> str:
        import os
        import pathlib
        import time

        seen, deadline = pathlib.Path(path), time.monotonic() + seconds
        while not seen.exists() and time.monotonic() < deadline:
            with os.scandir(seen.parent) if seen.parent.exists() else os.scandir("/") as entries:
                next(entries, None)  # a network file system looks again when the folder is opened
            time.sleep(0.1)
        try:
            if seen.read_text(encoding="utf-8") != token:
                return "sees another file there"
        except OSError:
            return "does not see what is written there" if seen.parent.exists() else "has no such folder"
        try:
            mine = seen.with_name(f"{seen.name}.{os.getpid()}")
            mine.write_text(token, encoding="utf-8")
            mine.unlink()
        except OSError as error:
            return f"cannot write there ({error.strerror})"
        return ""

    return look


def _folder_finder() -> Callable[..., list[str]]:
    def look(folders: Sequence[str]) -> list[str]:
        import os

        return [folder for folder in folders if not os.path.isdir(folder)]  # noqa: PTH112 (few imports)

    return look
