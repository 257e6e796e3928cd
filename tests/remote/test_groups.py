"""A run on two machines: its processes meet, end together, and start again together where a machine is lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hf_soups.errors import InputError
from hf_soups.remote import groups
from hf_soups.remote.cluster import Cluster, Node
from hf_soups.remote.sweeps import ray_executor
from hf_soups.sweep import SweepResult, run_sweep
from hf_soups.sweep.ledger import Ledger
from tests.makers.processes import gone
from tests.remote.conftest import Nodes
from tests.sweep.test_sweep import ROOT, recipe, wait_for


def fake(tmp_path: Path, end: str = "finished") -> Callable[[str], list[str]]:
    launch = [
        sys.executable,
        "-m",
        "hf_soups.sweep.launcher",
        "2",
        sys.executable,
        str(ROOT / "tests/makers/fake_part.py"),
    ]
    return lambda name: [*launch, str(tmp_path / "sweep" / name), str(tmp_path / "log"), str(tmp_path / "go"), end]


def on_two(tmp_path: Path, end: str = "finished") -> SweepResult:
    out = tmp_path / "sweep"
    with ray_executor(out, nodes_per_run=2) as where:
        assert where.processes == 2
        return run_sweep(recipe(1), out, progress=False, command=fake(tmp_path, end), executor=where)


def places(tmp_path: Path) -> list[dict[str, str]]:
    """Of all processes that were started, in the order of their attempts."""
    found = sorted(tmp_path.glob("log.*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) for path in found]


def test_a_lost_machine_starts_the_run_again_as_a_whole_and_its_neighbours_failure_is_forgotten(
    nodes: Nodes, cluster: Cluster, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as thread:  # Ray starts a node in the main thread alone
        sweep = thread.submit(on_two, tmp_path)
        try:
            wait_for(lambda: len(places(tmp_path)) == 2 or sweep.done())
            nodes.end_second()
            nodes.start_second()
            wait_for(lambda: len(places(tmp_path)) == 4 or sweep.done())
        finally:
            (tmp_path / "go").touch()
        result = sweep.result()
    assert result.exit_status == 0
    assert result.entries[0].reason == ""
    found = places(tmp_path)
    assert gone(*(int(place["pid"]) for place in found))
    assert {(p["WORLD_SIZE"], p["LOCAL_RANK"], p["LOCAL_WORLD_SIZE"]) for p in found} == {("2", "0", "1")}
    for attempt in (found[:2], found[2:]):
        assert sorted(place["RANK"] for place in attempt) == ["0", "1"]
        assert len({(place["MASTER_ADDR"], place["MASTER_PORT"]) for place in attempt}) == 1
    assert {place["MASTER_ADDR"] for place in found} <= {"127.0.0.2", "127.0.0.3"}


def test_a_machine_that_fails_by_itself_ends_the_run_once_with_its_words(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "SETTLE_SECONDS", 0.5)  # the other would wait for ever
    result = on_two(tmp_path, "failed")
    (failed,) = result.failed
    assert failed.reason.startswith("ended with exit status 3: ")
    assert "machine 1: " in failed.reason
    assert failed.reason.endswith("the disk of this machine is full")
    assert len(places(tmp_path)) == 2
    assert gone(*(int(place["pid"]) for place in places(tmp_path)))
    assert Ledger(tmp_path / "sweep").claim("run_00") is not None


def test_a_run_on_more_nodes_than_there_are_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"on 3 nodes needs 1 CPU on each of them; the cluster has that 2 times\."),
        ray_executor(tmp_path / "sweep", nodes_per_run=3),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"2` cuts a run into equal parts, which 3 processes, 3 CPUs do not"),
        ray_executor(tmp_path / "sweep", nodes_per_run=2, processes_per_run=3),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gpus", "there", "nodes"), [(8, (8, 8), 1), (16, (8, 8), 2), (12, (8, 4, 4, 4), 3), (9, (8, 8), 1)]
)
def test_a_run_takes_as_few_nodes_as_have_its_gpus(gpus: int, there: tuple[int, ...], nodes: int) -> None:
    from hf_soups.remote.sweeps import _fewest_nodes

    class Idle(Cluster):
        def nodes(self) -> tuple[Node, ...]:
            return tuple(Node(str(i), f"10.0.0.{i}", {"CPU": 64.0, "GPU": float(n)}) for i, n in enumerate(there))

    assert _fewest_nodes(Idle(None, "auto"), {"CPU": float(gpus), "GPU": float(gpus)}, gpus) == nodes
