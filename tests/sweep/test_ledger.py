"""The disk tells what became of each run; a lock tells who works on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_soups.finetune.run_record import RunRecord, write_run
from hf_soups.sweep.ledger import Entry, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def record(folder: Path, status: str, reason: str = "", seconds: float | None = None) -> None:
    folder.mkdir()
    write_run(folder, RunRecord(status=status, reason=reason, train_seconds=seconds))


def told(entry: Entry) -> tuple[str, str, str]:
    return entry.state, entry.status, entry.reason


def test_a_run_is_open_until_its_folder_is_there(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.entry("run_00") == Entry("run_00", "open")
    record(tmp_path / "run_00", "finished", seconds=1.5)
    assert told(ledger.entry("run_00")) == ("finished", "finished", "")
    assert ledger.entry("run_00").seconds == 1.5


def test_a_failed_run_tells_its_status_and_reason(ledger: Ledger, tmp_path: Path) -> None:
    record(tmp_path / "run_00", "one-class", "it answers 'cat' whatever it sees")
    assert told(ledger.entry("run_00")) == ("failed", "one-class", "it answers 'cat' whatever it sees")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "another"}'])
def test_an_unreadable_record_is_a_failure_that_names_the_file(ledger: Ledger, tmp_path: Path, text: str) -> None:
    (tmp_path / "run_00").mkdir()
    (tmp_path / "run_00/run.json").write_text(text)
    state, status, reason = told(ledger.entry("run_00"))
    assert (state, status) == ("failed", "error")
    assert f"{tmp_path}/run_00/run.json" in reason


def test_a_claim_is_exclusive_until_it_is_released(ledger: Ledger, tmp_path: Path) -> None:
    claim = ledger.claim("run_00")
    assert claim is not None
    assert ledger.claim("run_00") is None
    assert Ledger(tmp_path).claim("run_00") is None
    other = ledger.claim("run_01")
    assert other is not None
    claim.release()
    again = ledger.claim("run_00")
    assert again is not None


def test_a_claim_lives_as_long_as_the_process_that_inherited_it(ledger: Ledger) -> None:
    claim = ledger.claim("run_00")
    assert claim is not None
    with subprocess.Popen(["sleep", "30"], pass_fds=(claim.descriptor,)) as heir:
        claim.release()
        assert ledger.claim("run_00") is None
        heir.kill()
        heir.wait()
        assert ledger.claim("run_00") is not None


def test_a_claim_does_not_leak_into_other_processes(ledger: Ledger) -> None:
    """A tracker's service, or the run of another slot, must not keep this run locked."""
    claim = ledger.claim("run_00")
    assert claim is not None
    with subprocess.Popen(["sleep", "30"], close_fds=False) as stranger:
        claim.release()
        assert ledger.claim("run_00") is not None
        stranger.kill()


def test_claiming_removes_what_a_killed_run_left(ledger: Ledger, tmp_path: Path) -> None:
    left = (".run_00.partial-123", ".run_00.probe-9", ".run_00.replaced-9", ".run_00.removed-9")
    others = (".run_01.partial-123", ".run_000.partial-1", ".start.partial-4")
    for name in (*left, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
    (tmp_path / "run_00").mkdir()  # somebody's rm -r was interrupted: no record is left
    (tmp_path / "run_00/config.json").write_text("{}")
    assert ledger.claim("run_00") is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "ledger"])


def test_claiming_never_removes_a_run_that_ended(ledger: Ledger, tmp_path: Path) -> None:
    record(tmp_path / "run_00", "finished")
    record(tmp_path / "run_01", "nan-loss", "diverged")
    for name in ("run_00", "run_01"):
        claim = ledger.claim(name)
        assert claim is not None
    assert ledger.entry("run_00").state == "finished"
    assert ledger.entry("run_01").state == "failed"


def test_only_failures_are_forgotten(ledger: Ledger, tmp_path: Path) -> None:
    record(tmp_path / "run_00", "finished")
    record(tmp_path / "run_01", "nan-loss", "diverged")
    for name in ("run_00", "run_01", "run_02"):
        claim = ledger.claim(name)
        assert claim is not None
        if name == "run_02":
            ledger.crashed(claim, "segmentation fault")
            assert told(ledger.entry(name)) == ("failed", "error", "segmentation fault")
        ledger.forget_failure(claim)
    assert [ledger.entry(name).state for name in ("run_00", "run_01", "run_02")] == ["finished", "open", "open"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ledger", "run_00"]


def test_a_kill_while_a_failure_is_forgotten_leaves_no_half_folder(ledger: Ledger, tmp_path: Path) -> None:
    """Killed just before the removal: what is in the way of the next attempt is gone from its place all the same."""
    record(tmp_path / "run_00", "nan-loss")
    code = (
        "import os, shutil, sys; from pathlib import Path; from hf_soups.sweep.ledger import Ledger\n"
        "shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "ledger = Ledger(Path(sys.argv[1])); ledger.forget_failure(ledger.claim('run_00'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert ledger.entry("run_00").state == "open"
    assert ledger.claim("run_00") is not None
    assert [p.name for p in tmp_path.iterdir()] == ["ledger"]


def test_two_failures_of_one_run_are_told_apart(ledger: Ledger) -> None:
    claim = ledger.claim("run_00")
    assert claim is not None
    ledger.crashed(claim, "no memory")
    first = ledger.entry("run_00")
    os.utime(Path(f"/proc/self/fd/{claim.descriptor}").readlink().with_name("run_00.json"), ns=(1, 1))
    assert ledger.entry("run_00").reason == first.reason
    assert ledger.entry("run_00") != first


def test_every_attempt_is_kept(ledger: Ledger, tmp_path: Path) -> None:
    claim = ledger.claim("run_00")
    assert claim is not None
    ledger.started(claim.name, pid=11)
    ledger.started(claim.name, pid=12)
    lines = (tmp_path / "ledger/run_00.attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["pid"] for line in lines] == [11, 12]
