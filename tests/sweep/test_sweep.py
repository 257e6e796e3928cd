"""A sweep survives whatever is done to it. Fine-tunes are played by `makers.fake_run`; one slow test runs real ones."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import pytest

from hf_soups.errors import HfSoupsError, InputError, RecipeError
from hf_soups.recipe import Recipe, recipe_from
from hf_soups.sweep import SweepResult, print_result, run_sweep
from hf_soups.sweep.executor import cores, surroundings
from hf_soups.sweep.ledger import Ledger
from hf_soups.sweep.run import prepare
from tests.makers.patience import PATIENCE
from tests.makers.processes import alive

ROOT = Path(__file__).parents[2]

SUPERVISOR = """
import sys
from pathlib import Path
from tests.sweep.test_sweep import fake, recipe
from hf_soups.sweep import run_sweep
out, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
sys.exit(run_sweep(recipe(6), out, slots=2, progress=False, command=fake(out, log, seconds)).exit_status)
"""


def recipe(runs: int = 4, **train: float) -> Recipe:
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-3]}}
    return recipe_from(
        {"name": "r", "task": "glue/rte", "model": "m", "train": train, "sweep": {"runs": runs, "space": space}}
    )


def fake(out: Path, log: Path, seconds: float = 0.0, **ends: str) -> Callable[[str], list[str]]:
    script = str(ROOT / "tests/makers/fake_run.py")
    return lambda name: [
        sys.executable, script, name, str(out / name), str(log), str(seconds), ends.get(name, "finished")
    ]  # fmt: skip


def run(tmp_path: Path, runs: int = 4, *, slots: int = 2, retry_failed: bool = False, **ends: str) -> SweepResult:
    out = tmp_path / "sweep"
    command = fake(out, tmp_path / "log", **ends)
    return run_sweep(recipe(runs), out, slots=slots, progress=False, retry_failed=retry_failed, command=command)


def events(tmp_path: Path) -> Counter[tuple[str, str]]:
    lines = (tmp_path / "log").read_text().splitlines()
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def supervise(tmp_path: Path, seconds: float) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "sweep"), str(tmp_path / "log"), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", SUPERVISOR, *arguments], cwd=ROOT, env=environment)


def children(tmp_path: Path) -> list[int]:
    """Living fake runs of this test."""
    texts = [path.read_text() for path in tmp_path.glob("log.*.pid")]
    return [int(text) for text in texts if text and alive(int(text))]


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
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
        run_sweep(recipe(4, weight_decay=0.5), out, progress=False, command=fake(out, tmp_path / "log"))
    with pytest.raises(RecipeError, match="cannot shrink to 2"):
        run_sweep(recipe(2), out, progress=False, command=fake(out, tmp_path / "log"))


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no sweep"):
        run_sweep(recipe(), tmp_path, progress=False, command=fake(tmp_path, tmp_path / "log"))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_killed_run_starts_again_and_leaves_nothing_half(tmp_path: Path) -> None:
    first = supervise(tmp_path, 2 * PATIENCE)
    wait_for(lambda: len(children(tmp_path)) == 2)
    for pid in children(tmp_path):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: events(tmp_path)["start", "run_02"] == 1)
    first.send_signal(signal.SIGINT)
    first.wait(PATIENCE)
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
    assert [each.wait(PATIENCE) for each in both] == [0, 0]
    assert events(tmp_path) == Counter({(e, f"run_{i:02d}"): 1 for e in ("start", "end") for i in range(6)})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_killed_whenever_every_run_ends_up_finished_once(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(6):
        sweeps = [supervise(tmp_path, 0.5) for _ in range(dice.choice((1, 2)))]
        if dice.random() < 0.8:
            wait_for(lambda: bool(children(tmp_path)) or (tmp_path / "sweep/run_05").exists())
        time.sleep(dice.uniform(0, 0.8))
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


def test_what_the_system_ends_by_itself_is_a_failure_and_not_a_kill(tmp_path: Path) -> None:
    result = run(tmp_path, 2, run_00="segfault")
    assert [(e.name, e.reason) for e in result.failed] == [("run_00", "ended with signal SIGSEGV: it said nothing")]
    assert run(tmp_path, 2).failed == result.failed
    assert events(tmp_path)["start", "run_00"] == 1


def test_the_words_of_an_earlier_attempt_are_not_taken_for_the_last_ones(tmp_path: Path) -> None:
    run(tmp_path, 2, run_00="crash")
    result = run(tmp_path, 2, run_00="silent", retry_failed=True)
    assert result.failed[0].reason == "ended with exit status 3: it said nothing"
    assert "the driver went away" in (tmp_path / "sweep/logs/run_00.log").read_text()


def test_a_terminated_sweep_ends_its_runs(tmp_path: Path) -> None:
    first = supervise(tmp_path, 2 * PATIENCE)
    wait_for(lambda: len(children(tmp_path)) == 2)
    first.terminate()
    assert first.wait(PATIENCE) == 128 + signal.SIGTERM
    assert children(tmp_path) == []
    assert not [e for e in events(tmp_path) if e[0] == "end"]
    assert run(tmp_path, 6).exit_status == 0


def test_two_sweeps_that_repeat_failures_repeat_each_once(tmp_path: Path) -> None:
    run(tmp_path, 2, run_00="failed")
    out = tmp_path / "sweep"
    command = fake(out, tmp_path / "log", 1.0, run_00="failed")

    def again() -> SweepResult:
        return run_sweep(recipe(2), out, progress=False, retry_failed=True, command=command)

    claim = Ledger(out).claim("run_00")  # until both have seen the failure
    assert claim is not None
    with ThreadPoolExecutor(2) as both:
        sweeps = [both.submit(again), both.submit(again)]
        time.sleep(1.0)
        claim.release()
        results = [each.result() for each in sweeps]
    assert [result.exit_status for result in results] == [1, 1]
    assert events(tmp_path)["start", "run_00"] == 2


def test_a_sweep_that_waits_for_another_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    prepare(recipe(2), out)
    claim = Ledger(out).claim("run_01")
    assert claim is not None
    Timer(1.0, claim.release).start()
    assert run_sweep(recipe(2), out, slots=2, command=fake(out, tmp_path / "log")).exit_status == 0
    assert "waiting for run_01: another process works on them" in capsys.readouterr().out


def test_a_sweep_killed_while_it_prepared_its_folder_goes_on(tmp_path: Path) -> None:
    """Whatever the first files are that a kill left, none of them looks like another's folder."""
    out = tmp_path / "sweep"
    prepare(recipe(), out)
    assert run(tmp_path).exit_status == 0
    made = sorted(p.name for p in out.iterdir())
    for left in ([], [".lock"], [".lock", "plan"], [".lock", "plan", "logs"], [".lock", "plan", "logs", "recipe.yaml"]):
        (tmp_path / "log").unlink()
        shutil.rmtree(out)
        prepare(recipe(), out)
        (out / ".lock").touch()
        for path in out.iterdir():
            if path.name not in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert run(tmp_path).exit_status == 0
        assert sorted(p.name for p in out.iterdir() if p.name != ".lock") == [n for n in made if n != ".lock"]


def test_a_corrected_recipe_is_taken_until_something_was_made(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    prepare(recipe(6, weight_decay=0.5), out)
    assert run_sweep(recipe(2), out, progress=False, command=fake(out, tmp_path / "log")).exit_status == 0
    assert [r["train"]["weight_decay"] for r in json.loads((out / "plan.json").read_text())["runs"]] == [0.01, 0.01]
    with pytest.raises(RecipeError, match="holds the sweep of another recipe"):
        run_sweep(recipe(2, weight_decay=0.5), out, progress=False, command=fake(out, tmp_path / "log"))


def test_runs_that_were_planned_otherwise_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    run(tmp_path, 2)
    path = tmp_path / "sweep/plan.json"
    path.write_text(path.read_text().replace('"batch_size": 32', '"batch_size": 64', 1))
    with pytest.raises(InputError, match="run_00 was planned with other values"):
        run(tmp_path, 3)
    path.write_text("{")
    with pytest.raises(InputError, match="Remove it and run the same sweep again"):
        run(tmp_path, 3)
    path.unlink()
    assert run(tmp_path, 3).exit_status == 0
    assert max(events(tmp_path).values()) == 1


def test_a_full_disk_is_one_message_and_earlier_results_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 2)
    out = tmp_path / "sweep"
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(HfSoupsError, match=r"could not be written: the disk is full. Free some space"):
            run(tmp_path, 4)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}.items() <= before.items()
    assert run(tmp_path, 4).exit_status == 0


def test_the_end_tells_what_finished_what_failed_why_and_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path, run_01="failed")
    capsys.readouterr()
    print_result(result)
    told = " ".join(capsys.readouterr().out.split())
    for words in (
        "3 of 4 │ finished",
        "run_01 │ nan-loss",
        "the loss is NaN at step 3",
        "--retry-failed",
        "Next: hf-soups cook",
    ):
        assert words in told


@pytest.mark.parametrize(("slots", "processes"), [(0, 1), (1, 0), (-1, 1)])
def test_no_slots_and_no_processes_are_refused(tmp_path: Path, slots: int, processes: int) -> None:
    with pytest.raises(InputError, match="at least 1 of each"):
        run_sweep(recipe(), tmp_path / "sweep", slots=slots, processes_per_run=processes)
    assert not (tmp_path / "sweep").exists()


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # not above: the processes of these tests import this module, and start faster without

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="2 processes needs 2 GPUs, but 1 can be used"):
        run_sweep(recipe(), tmp_path / "sweep", processes_per_run=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="the installed torch cannot use them"):
        run_sweep(recipe(), tmp_path / "sweep", processes_per_run=2)


def test_a_run_of_several_processes_gets_a_gpu_for_each_or_is_told_to_use_cpus() -> None:
    shares = [surroundings(slot, 2, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, processes=2) for slot in range(2)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0,1", "2,3"]
    assert "ACCELERATE_USE_CPU" not in shares[0]
    on_cpus = surroundings(0, 1, {"CUDA_VISIBLE_DEVICES": ""}, processes=2)
    assert on_cpus["ACCELERATE_USE_CPU"] == "true"
    assert int(on_cpus["OMP_NUM_THREADS"]) == max(1, cores() // 2)


@pytest.mark.slow
def test_real_fine_tunes_survive_the_kill_of_everything(tmp_path: Path) -> None:
    import yaml

    from tests.makers.small_task import text_recipe, write_texts
    from tests.makers.tiny import tiny_bert

    write_texts(tmp_path / "data", train=200)
    values = text_recipe(tmp_path / "data", tiny_bert(tmp_path / "bert")).model_dump(mode="json")
    planned = tmp_path / "recipe.yaml"
    planned.write_text(yaml.safe_dump({**values, "sweep": {"runs": 3}}))
    out = tmp_path / "sweep"
    command = [sys.executable, "-m", "hf_soups.cli", "sweep", str(planned), "--out", str(out), "--slots", "2"]
    first = subprocess.Popen(command, cwd=ROOT)
    wait_for(lambda: any(out.glob("run_*/run.json")))
    wait_for(lambda: len(list(out.glob("ledger/*.attempts.jsonl"))) > 2)
    first.kill()
    first.wait()
    for path in out.glob("ledger/*.attempts.jsonl"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(json.loads(path.read_text())["pid"], signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("run_*/run.json")}
    assert 1 <= len(finished) < 3
    assert subprocess.run(command, cwd=ROOT, timeout=300).returncode == 0
    assert len(list(out.glob("run_*/model.safetensors"))) == 3
    assert len({json.loads((out / f"run_{i:02d}/run.json").read_text())["head_fingerprint"] for i in range(3)}) == 1
    for path, modified in finished.items():
        assert path.stat().st_mtime_ns == modified
        attempts = out / "ledger" / f"{path.parent.name}.attempts.jsonl"
        assert len(attempts.read_text().splitlines()) == 1
    assert not list(out.glob(".*partial*"))


def test_every_slot_gets_its_share_of_cores_and_a_gpu_of_its_own() -> None:
    shares = [surroundings(slot, 2, {"CUDA_VISIBLE_DEVICES": "3,5"}) for slot in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["3", "5", "3"]
    assert len({share["OMP_NUM_THREADS"] for share in shares}) == 1
    assert int(surroundings(0, 1000, {})["OMP_NUM_THREADS"]) == 1
    assert surroundings(0, 2, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"  # the user's own


def test_a_place_without_permission_is_one_message(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("")
        out = tmp_path / "file" / "sweep"  # root may write everywhere, but not below a file
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        out = tmp_path / "closed" / "sweep"
    with pytest.raises(Exception, match="could not be written"):
        run_sweep(recipe(), out, progress=False, command=fake(out, tmp_path / "log"))
