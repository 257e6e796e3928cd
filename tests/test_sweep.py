"""A sweep survives whatever is done to it. Fine-tunes are played by tests/fake_run.py; one slow test runs real ones."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_soups.errors import InputError, RecipeError
from hf_soups.executor import surroundings
from hf_soups.ledger import Ledger
from hf_soups.recipe import Recipe, recipe_from
from hf_soups.sweep import SweepResult, sweep

ROOT = Path(__file__).parent.parent

SUPERVISOR = """
import sys
from pathlib import Path
from tests.test_sweep import fake, recipe
from hf_soups.sweep import sweep
out, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
sys.exit(sweep(recipe(6), out, slots=2, progress=False, command=fake(out, log, seconds)).exit_status)
"""


def recipe(runs: int = 4, **train: float) -> Recipe:
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-3]}}
    return recipe_from(
        {"name": "r", "task": "glue/rte", "model": "m", "train": train, "sweep": {"runs": runs, "space": space}}
    )


def fake(out: Path, log: Path, seconds: float = 0.0, **ends: str) -> Callable[[str], list[str]]:
    script = str(ROOT / "tests/fake_run.py")
    return lambda name: [
        sys.executable, script, name, str(out / name), str(log), str(seconds), ends.get(name, "finished")
    ]  # fmt: skip


def run(tmp_path: Path, runs: int = 4, *, slots: int = 2, retry_failed: bool = False, **ends: str) -> SweepResult:
    out = tmp_path / "sweep"
    command = fake(out, tmp_path / "log", **ends)
    return sweep(recipe(runs), out, slots=slots, progress=False, retry_failed=retry_failed, command=command)


def events(tmp_path: Path) -> Counter[tuple[str, str]]:
    lines = (tmp_path / "log").read_text().splitlines()
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def supervise(tmp_path: Path, seconds: float) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "sweep"), str(tmp_path / "log"), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", SUPERVISOR, *arguments], cwd=ROOT, env=environment)


def children(tmp_path: Path) -> list[int]:
    """Living fake runs of this test."""
    found = []
    for path in tmp_path.glob("log.*.pid"):
        text = path.read_text()
        try:
            state = Path(f"/proc/{text}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text and state != "Z":  # a zombie is dead, whether or not somebody has asked
            found.append(int(text))
    return found


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_every_planned_run_is_run_once(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_status == 0
    assert result.finished == ("run_00", "run_01", "run_02", "run_03")
    assert events(tmp_path) == Counter({(e, n): 1 for e in ("start", "end") for n in result.finished})


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path).exit_status == 0
    assert max(events(tmp_path).values()) == 1


def test_a_sweep_can_be_extended(tmp_path: Path) -> None:
    run(tmp_path, 2)
    first = json.loads((tmp_path / "sweep/plan.json").read_text())["runs"]
    assert run(tmp_path, 4).finished == ("run_00", "run_01", "run_02", "run_03")
    assert json.loads((tmp_path / "sweep/plan.json").read_text())["runs"][:2] == first
    assert max(events(tmp_path).values()) == 1


def test_failed_runs_are_listed_with_the_reason_and_repeated_only_on_request(tmp_path: Path) -> None:
    result = run(tmp_path, run_01="failed")
    assert result.exit_status == 1
    assert [(e.name, e.status, e.reason) for e in result.failed] == [
        ("run_01", "nan-loss", "the loss is NaN at step 3")
    ]
    assert run(tmp_path).exit_status == 1
    assert events(tmp_path)["start", "run_01"] == 1
    assert run(tmp_path, retry_failed=True).exit_status == 0
    assert events(tmp_path)["start", "run_01"] == 2
    assert events(tmp_path)["start", "run_00"] == 1


def test_a_run_that_keeps_failing_is_retried_once_a_call(tmp_path: Path) -> None:
    run(tmp_path, run_01="failed")
    assert run(tmp_path, retry_failed=True, run_01="failed").exit_status == 1
    assert events(tmp_path)["start", "run_01"] == 2


def test_a_run_that_crashes_without_a_record_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    result = run(tmp_path, run_02="crash")
    assert [e.name for e in result.failed] == ["run_02"]
    assert result.failed[0].reason == "ended with exit status 3: the driver went away"
    assert run(tmp_path, retry_failed=True).exit_status == 0


def test_another_recipe_on_the_same_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    run(tmp_path)
    out = tmp_path / "sweep"
    with pytest.raises(RecipeError, match=r"train.weight_decay: 0.01 there, 0.5 now"):
        sweep(recipe(4, weight_decay=0.5), out, progress=False, command=fake(out, tmp_path / "log"))
    with pytest.raises(RecipeError, match="cannot shrink to 2"):
        sweep(recipe(2), out, progress=False, command=fake(out, tmp_path / "log"))


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no sweep"):
        sweep(recipe(), tmp_path, progress=False, command=fake(tmp_path, tmp_path / "log"))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_killed_run_starts_again_and_leaves_nothing_half(tmp_path: Path) -> None:
    first = supervise(tmp_path, 30)
    wait_for(lambda: len(children(tmp_path)) == 2)
    for pid in children(tmp_path):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: events(tmp_path)["start", "run_02"] == 1)
    first.send_signal(signal.SIGINT)
    first.wait(20)
    wait_for(lambda: not children(tmp_path))
    assert run(tmp_path, 6).exit_status == 0
    assert events(tmp_path)["start", "run_00"] == 2
    assert not list((tmp_path / "sweep").glob(".*partial*"))


def test_a_run_whose_sweep_was_killed_is_not_started_beside_itself(tmp_path: Path) -> None:
    first = supervise(tmp_path, 3)
    wait_for(lambda: len(children(tmp_path)) == 2)
    first.kill()
    first.wait()
    assert len(children(tmp_path)) == 2  # they live on, and hold their locks
    assert Ledger(tmp_path / "sweep").claim("run_00") is None
    assert run(tmp_path, 6).exit_status == 0
    assert events(tmp_path)["start", "run_00"] == 1
    assert max(events(tmp_path).values()) == 1


def test_two_sweeps_share_the_work_and_never_a_run(tmp_path: Path) -> None:
    both = [supervise(tmp_path, 0.3) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert events(tmp_path) == Counter({(e, f"run_{i:02d}"): 1 for e in ("start", "end") for i in range(6)})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_killed_whenever_every_run_ends_up_finished_once(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(6):
        sweeps = [supervise(tmp_path, 0.5) for _ in range(dice.choice((1, 2)))]
        time.sleep(dice.uniform(0.3, 1.5))
        victims = [each.pid for each in sweeps] + children(tmp_path)
        for pid in dice.sample(victims, dice.randint(1, len(victims))):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for each in sweeps:
            each.kill()
            each.wait()
    assert run(tmp_path, 6).exit_status == 0
    seen = events(tmp_path)
    assert not [key for key in seen if key[0] == "TWIN"]
    assert all(seen["end", f"run_{i:02d}"] <= 1 for i in range(6))
    assert not list((tmp_path / "sweep").glob(".*partial*"))


def test_every_slot_gets_its_share_of_cores_and_a_gpu_of_its_own() -> None:
    shares = [surroundings(slot, 2, {"CUDA_VISIBLE_DEVICES": "3,5"}) for slot in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["3", "5", "3"]
    assert len({share["OMP_NUM_THREADS"] for share in shares}) == 1
    assert int(surroundings(0, 1000, {})["OMP_NUM_THREADS"]) == 1


def test_a_place_without_permission_is_one_message(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("")
        out = tmp_path / "file" / "sweep"  # root may write everywhere, but not below a file
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        out = tmp_path / "closed" / "sweep"
    with pytest.raises(Exception, match="could not be written"):
        sweep(recipe(), out, progress=False, command=fake(out, tmp_path / "log"))
