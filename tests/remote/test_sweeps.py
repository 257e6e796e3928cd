"""A sweep on a cluster survives what a cluster meets. Fine-tunes are played by `makers.fake_run`, as in tests/sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hf_soups.errors import HfSoupsError, InputError, as_a_command
from hf_soups.remote.cluster import Cluster
from hf_soups.remote.sweeps import LOOK_SECONDS, PATIENCE_SECONDS, RayExecutor, ray_executor
from hf_soups.sweep import SweepResult, run_sweep
from hf_soups.sweep.ledger import Ledger
from tests.makers.patience import PATIENCE
from tests.makers.processes import gone
from tests.remote.conftest import Nodes
from tests.sweep.test_sweep import ROOT, children, events, fake, recipe, run, supervise, wait_for

DRIVER = """
import sys
from pathlib import Path
from hf_soups.ending import end_in_one_line
from hf_soups.remote.sweeps import ray_executor
from hf_soups.sweep import run_sweep
from tests.sweep.test_sweep import fake, recipe
end_in_one_line("hf-soups")
out, log, seconds, address = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
with ray_executor(out, address) as where:
    done = run_sweep(recipe(6), out, progress=False, command=fake(out, log, seconds), executor=where)
sys.exit(done.exit_status)
"""
ALL_ONCE = Counter({f"run_{i:02d}": 1 for i in range(6)})


def driver(tmp_path: Path, nodes: Nodes, seconds: float) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "sweep"), str(tmp_path / "log"), str(seconds), nodes.address]
    return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], cwd=ROOT)


def ends(tmp_path: Path) -> Counter[str]:
    return Counter(name for (event, name), count in events(tmp_path).items() for _ in range(count) if event == "end")


def on_ray(tmp_path: Path, runs: int = 4, *, retry_failed: bool = False, **how: str) -> SweepResult:
    """In this process, which is connected."""
    out = tmp_path / "sweep"
    command = fake(out, tmp_path / "log", **how)
    with ray_executor(out) as where:
        return run_sweep(recipe(runs), out, progress=False, retry_failed=retry_failed, command=command, executor=where)


def attempts(tmp_path: Path, name: str) -> list[dict[str, object]]:
    text = (tmp_path / f"sweep/ledger/{name}.attempts.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def pid_of(tmp_path: Path, name: str) -> int:
    return int((tmp_path / f"log.{name}.pid").read_text())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_runs_that_fail_are_failures_as_on_one_machine_and_are_not_started_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    how = {"run_01": "failed", "run_02": "crash", "run_03": "segfault"}
    result = on_ray(tmp_path, **how)
    there = {e.name: (e.state, e.status, e.reason) for e in result.entries}
    assert there == {
        "run_00": ("finished", "finished", ""),
        "run_01": ("failed", "nan-loss", "the loss is NaN at step 3"),
        "run_02": ("failed", "error", "ended with exit status 3: the driver went away"),
        "run_03": ("failed", "error", "ended with signal SIGSEGV: it said nothing"),
    }
    assert {event: count for event, count in events(tmp_path).items() if event[0] == "start"} == {
        ("start", name): 1 for name in there
    }
    (tmp_path / "here").mkdir()
    here = run(tmp_path / "here", **how)
    assert {e.name: (e.state, e.status, e.reason) for e in here.entries} == there
    assert sorted(p.name for p in (tmp_path / "sweep").rglob("*")) == sorted(
        p.name for p in (tmp_path / "here/sweep").rglob("*")
    )
    assert run(tmp_path, retry_failed=True).exit_status == 0  # either executor repeats the other's failures
    assert events(tmp_path)["start", "run_00"] == 1


def test_what_no_node_has_is_refused_before_anything_is_made(cluster: Cluster, tmp_path: Path) -> None:
    with (
        as_a_command(),
        pytest.raises(
            InputError, match=r"a run needs 8 CPUs, 8 GPUs, which no node has \(127.*Give other --gpus-per-run"
        ),
        ray_executor(tmp_path / "sweep", gpus_per_run=8),
    ):
        pass
    with pytest.raises(InputError, match=r"1\.5 GPUs a run"), ray_executor(tmp_path / "sweep", gpus_per_run=1.5):
        pass
    assert not list(tmp_path.iterdir())


def test_when_no_node_is_left_that_could_do_a_run_it_is_said_and_not_waited_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nobody(Cluster):
        def room(self, each: object) -> int:
            return 0

    clock = [0.0]
    monkeypatch.setattr("hf_soups.remote.sweeps.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("hf_soups.remote.sweeps.time.sleep", lambda seconds: None)
    executor = RayExecutor(Nobody(pytest.importorskip("ray"), "auto"), {"CPU": 1.0, "GPU": 2.0}, 2)
    executor.wait(0.1)
    clock[0] += PATIENCE_SECONDS + LOOK_SECONDS
    with pytest.raises(HfSoupsError, match=r"for 120 seconds no node of the cluster had 1 CPU, 2 GPUs for a run"):
        executor.wait(0.1)


def test_a_worker_that_is_killed_takes_its_run_with_it_and_ray_starts_the_run_again(
    nodes: Nodes, tmp_path: Path
) -> None:
    sweep = driver(tmp_path, nodes, 1.0)
    wait_for(lambda: len(children(tmp_path)) == 2)
    victim = pid_of(tmp_path, "run_00")
    os.kill(parent_of(victim), signal.SIGKILL)
    assert gone(victim)
    assert sweep.wait(PATIENCE) == 0
    assert ends(tmp_path) == ALL_ONCE
    assert len(attempts(tmp_path, "run_00")) == 2
    assert children(tmp_path) == []


def test_a_node_that_is_lost_costs_its_run_alone_and_every_run_is_finished_once(nodes: Nodes, tmp_path: Path) -> None:
    sweep = driver(tmp_path, nodes, 1.0)
    wait_for(lambda: len(children(tmp_path)) == 2)
    there = children(tmp_path)
    try:
        nodes.end_second()
        assert sweep.wait(PATIENCE) == 0
    finally:
        nodes.start_second()
    assert ends(tmp_path) == ALL_ONCE
    assert sum(len(attempts(tmp_path, name)) for name in ALL_ONCE) == 7
    assert gone(*there)
    assert not list((tmp_path / "sweep").glob(".*partial*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_when_the_sweeps_own_process_ends_its_runs_end_and_either_executor_goes_on(
    nodes: Nodes, tmp_path: Path, number: signal.Signals
) -> None:
    sweep = driver(tmp_path, nodes, 600.0)
    wait_for(lambda: len(children(tmp_path)) == 2)
    runs = children(tmp_path)
    sweep.send_signal(number)
    assert sweep.wait(PATIENCE) == (-number if number == signal.SIGKILL else 128 + number)
    assert gone(*runs)
    if number == signal.SIGKILL:
        assert run(tmp_path, 6).exit_status == 0
    else:
        assert driver(tmp_path, nodes, 0.0).wait(PATIENCE) == 0
    assert ends(tmp_path) == ALL_ONCE
    assert not list((tmp_path / "sweep").glob(".*partial*"))


def test_a_local_sweep_that_was_killed_is_gone_on_with_on_the_cluster(nodes: Nodes, tmp_path: Path) -> None:
    first = supervise(tmp_path, 3)
    wait_for(lambda: len(children(tmp_path)) == 2)
    first.kill()
    first.wait()
    assert Ledger(tmp_path / "sweep").claim("run_00") is None  # its runs live on, and are waited for
    assert driver(tmp_path, nodes, 0.0).wait(PATIENCE) == 0
    assert ends(tmp_path) == ALL_ONCE
    assert max(events(tmp_path).values()) == 1


def test_two_sweeps_of_one_folder_share_the_work_and_never_a_run(nodes: Nodes, tmp_path: Path) -> None:
    both = [driver(tmp_path, nodes, 0.3) for _ in range(2)]
    assert [each.wait(PATIENCE) for each in both] == [0, 0]
    assert events(tmp_path) == Counter({(e, f"run_{i:02d}"): 1 for e in ("start", "end") for i in range(6)})
