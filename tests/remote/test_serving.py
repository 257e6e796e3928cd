"""A service whose model or members answer on two nodes: as the local one, whatever is killed; nothing is left."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hf_soups.errors import HfSoupsError, InputError, as_a_command
from hf_soups.remote.cluster import Cluster
from hf_soups.remote.deployments import Deployment, deployed
from hf_soups.serving import OnCluster, build_app
from hf_soups.serving.on_ray import served_on
from tests.demo.made import demo_of
from tests.makers.fake_replicas import DRIVER, Broken, Echo
from tests.makers.patience import PATIENCE
from tests.makers.tiny import tiny_bert
from tests.remote.conftest import ROOT, Nodes
from tests.serving.test_command import same, served

# Looked for, not imported: Ray reads its settings, of a token too, when it is first imported (`ray_module` makes them).
NEEDED = ("ray", "grpc", "opencensus", "prometheus_client", "smart_open")
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)),
    reason="Ray Serve is not installed: pip install 'hf_soups[ray-serve]'",
)
HALF = {"CPU": 0.5}
ODD = [b"{", b'{"inputs": 3}', b'{"inputs": []}', b'{"inputs": "a", "parameters": {"budget": 1e-9}}', b" " * 2**21]


def ours(*titles: bytes) -> list[int]:
    """Processes of Ray Serve, or of its replicas alone."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = file.read_bytes()
        except OSError:  # it has ended
            continue
        if title.startswith(titles or (b"ray::Serve", b"ray::Lease")):
            found.append(int(file.parent.name))
    return found


def assert_nothing_is_left() -> None:
    deadline = time.monotonic() + PATIENCE
    while ours():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_calls_are_answered_though_replicas_are_lost_and_failures_are_said(cluster: Cluster) -> None:
    with deployed(cluster, [Deployment("echo", Echo, 2, HALF)]) as (echo,):
        _, victim = echo.call("answer", "first")
        with ThreadPoolExecutor(8) as callers:
            waiting = [callers.submit(echo.call, "answer", str(i), 0.05) for i in range(40)]
            os.kill(victim, signal.SIGKILL)
            assert [one.result()[0] for one in waiting] == [str(i) for i in range(40)]
        with pytest.raises(KeyError, match="a defect"):
            echo.call("fails")
        broken = [Deployment("broken", Broken, 1, HALF)]
        with (
            pytest.raises(HfSoupsError, match=r"^broken: the model: no weights are there\.$"),
            deployed(cluster, broken),
        ):
            pass
        assert echo.call("answer", "still here")[0] == "still here"
    assert_nothing_is_left()


def test_what_the_cluster_has_no_room_for_is_refused(cluster: Cluster) -> None:
    for wanted, why in (
        (
            [Deployment("small", Echo, 3)],
            r"no room for replica 3 of small \(3 x small: 1 CPU each; nodes: 127.0.0.2: 1",
        ),
        ([Deployment("small", Echo, 3, HALF), Deployment("big", Echo)], "no room for replica 3 of small"),
        (
            [Deployment("big", Echo, 1, {"CPU": 1, "GPU": 0.5})],
            r"no room for replica 1 of big \(1 x big: 1 CPU, 0.5 GPUs",
        ),
    ):
        with pytest.raises(InputError, match=why), deployed(cluster, wanted):
            pass


def test_nothing_outlives_the_process_that_wanted_it_nor_ends_with_another_one(nodes: Nodes) -> None:
    command, pipe = [sys.executable, "-c", DRIVER, nodes.address], subprocess.PIPE
    how: dict[str, Any] = {"cwd": ROOT, "text": True, "stdin": pipe, "stdout": pipe, "stderr": pipe}
    with subprocess.Popen(command, **how) as one, subprocess.Popen(command, **how) as other:
        pids = [ready(one), ready(other)]
        assert set(pids) == set(ours(b"ray::ServeReplica"))
        one.send_signal(signal.SIGINT)
        assert one.communicate(timeout=PATIENCE)[1] == "driver: interrupted; nothing is left.\n"
        assert one.returncode == 128 + signal.SIGINT
        assert ours(b"ray::ServeReplica") == pids[1:]
        other.kill()
        other.communicate()
    assert_nothing_is_left()


def ready(driver: subprocess.Popen[str]) -> int:
    """The process of its replica, once it answers."""
    assert driver.stdout is not None
    line = driver.stdout.readline()
    assert line.startswith("ready here"), driver.communicate()
    return int(line.split()[-1])


def test_the_command_with_members_apart_answers_as_the_local_one_and_ends_whole(nodes: Nodes, tmp_path: Path) -> None:
    made = demo_of("text", tmp_path / "text")
    texts = made.pool.inputs[:8]
    bodies = [
        json.dumps({"inputs": text, "parameters": {"budget": budget, "return_exits": True}}).encode()
        for text in texts
        for budget in (None, 0.3, 1)
    ]
    with TestClient(build_app(made.folder, device="cpu")) as here:
        wanted, refused = ([asked(here, body) for body in some] for some in (bodies, ODD))
        counted = here.get("/metrics").text
    apart = ("--address", nodes.address, "--split-members", "--cpus-per-replica", "0.5")
    with served(made.folder, tmp_path, *apart) as there:
        assert_equal([there.ask(body) for body in bodies], wanted)
        assert [there.ask(body) for body in ODD] == refused
        assert [status for status, _ in refused] == [400, 400, 400, 400, 413]
        said = there.ask(b"", "GET", "/metrics")[1]
        assert of_exits(said) == of_exits(counted)
        members = sorted(ours(b"ray::ServeReplica"))
        assert len(members) == 3
        with ThreadPoolExecutor(200) as clients:
            waiting = list(clients.map(there.ask, bodies * 9, timeout=PATIENCE))
        assert_equal(waiting, wanted * 9)
        os.kill(members[0], signal.SIGKILL)
        assert_equal([there.ask(body) for body in bodies], wanted)
        os.kill(ours(b"ray::ServeReplica")[0], signal.SIGKILL)
        there.process.send_signal(signal.SIGTERM)  # while Ray Serve starts another one
        _, errors = there.process.communicate(timeout=PATIENCE)
        assert there.process.returncode == 128 + signal.SIGTERM
        assert errors == "hf-soups: ended by SIGTERM; open requests were answered.\n"
        assert ours(b"ray::Serve") == []  # by then
    assert_nothing_is_left()


def asked(client: TestClient, body: bytes) -> tuple[int, Any]:
    answer = client.post("/", content=body, headers={"Content-Type": "application/json"})
    return answer.status_code, answer.json()


def assert_equal(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for (status, answer), (other_status, other) in zip(found, wanted, strict=True):
        assert (status, other_status) == (200, 200)
        assert same(answer, other)
        assert [one["exit"] for one in answer[0]] == [one["exit"] for one in other[0]]


def of_exits(metrics: str) -> list[str]:
    """Lines that say which rows left where, and what they cost."""
    return re.findall(r"^hf_soups_(?:rows|exits|cost)_.*$", metrics, re.MULTILINE)


def test_what_does_not_go_together_is_refused_before_a_cluster_is_looked_for(tmp_path: Path) -> None:
    made = demo_of("text", tmp_path / "text")
    first = next(iter(made.pool.members))
    cascade, single = made.folder, tiny_bert(tmp_path / "one")
    for model, how, why in (
        (single, {"split_members": True}, f"{single}: a single classifier has no members. Leave out --split-members."),
        (cascade, {"replicas": {first: 2}}, "--replicas by member is for deployments by member: give --split-members"),
        (cascade, {"replicas": 0}, "--replicas 0: expected 1 or more."),
        (
            cascade,
            {"replicas": {"x": 2}, "split_members": True},
            "--replicas names x, but the members of the cascade are ",
        ),
        (cascade, {"replicas": {first: 0}, "split_members": True}, f"--replicas {first}=0: expected 1 or more."),
        (cascade, {"loading": {"budget": 1e-9}}, "a budget of 1e-09"),
        (cascade, {"loading": {"dtype": {"x": "float32"}}}, "dtype names x, but the members of the cascade are "),
        (cascade, {"loading": {"dtype": "int8"}}, "dtype 'int8'; expected one of"),
        (cascade, {"address": "head"}, "'head' is no address of a cluster"),
    ):
        with pytest.raises(InputError) as refused, as_a_command(), served_on(model, OnCluster(**how)):
            pass
        with as_a_command():
            assert why in str(refused.value)
