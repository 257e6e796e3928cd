"""A file system that grants a lock to everybody: leases take the place of locks."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hf_soups.sweep import leases as module
from hf_soups.sweep.leases import Leases, locks_hold
from hf_soups.sweep.ledger import Ledger
from tests.makers.patience import PATIENCE
from tests.makers.processes import gone
from tests.sweep.test_sweep import ROOT, SUPERVISOR, children, events, run, wait_for

GENEROUS = "import fcntl; fcntl.flock = lambda *_: None\n"  # in every process


@pytest.fixture
def everybody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks are granted to everybody, here too."""
    module._locks_hold.cache_clear()
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    yield
    module._locks_hold.cache_clear()


def supervise(tmp_path: Path, seconds: float) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "sweep"), str(tmp_path / "log"), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", GENEROUS + SUPERVISOR, *arguments], cwd=ROOT, env=environment)


def test_this_machines_locks_hold_and_the_question_leaves_nothing(tmp_path: Path) -> None:
    module._locks_hold.cache_clear()
    assert locks_hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_locks_that_everybody_is_granted_do_not_hold(tmp_path: Path, everybody: None) -> None:
    assert not locks_hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lease_is_exclusive_until_it_is_given_up(tmp_path: Path, everybody: None) -> None:
    claim = Ledger(tmp_path).claim("run_00")
    assert claim is not None
    assert claim.descriptor is None
    assert Ledger(tmp_path).claim("run_00") is None
    assert Ledger(tmp_path).claim("run_01") is not None
    claim.release()
    assert Ledger(tmp_path).claim("run_00") is not None
    assert [p.name for p in (tmp_path / "ledger").glob("run_00.*")] == ["run_00.lease-000002"]


def test_of_many_who_try_at_once_one_gets_it(tmp_path: Path, everybody: None) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found = list(pool.map(lambda _: Ledger(tmp_path).claim("run_00"), range(8)))
            (mine,) = [claim for claim in found if claim is not None]
            mine.release()


def test_the_lease_of_a_process_that_has_ended_is_free_at_once(tmp_path: Path) -> None:
    code = "import os, sys; from hf_soups.sweep.leases import *; Leases(Path(sys.argv[1])).take('run_00'); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["run_00.lease-000001"]
    assert Leases(tmp_path).take("run_00") is not None


def test_another_machines_lease_is_free_when_it_is_not_touched_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "owner", lambda: "another-1")
    assert Leases(tmp_path).take("run_00") is not None
    monkeypatch.undo()
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    mine = Leases(tmp_path)
    for touched in range(3):  # as long as it is touched, whatever its own clock says
        os.utime(tmp_path / "run_00.lease-000001", ns=(touched, touched))
        assert mine.take("run_00") is None
        clock[0] += module.STALE_SECONDS - 1
    assert mine.take("run_00") is None
    clock[0] += 2
    assert mine.take("run_00") == tmp_path / "run_00.lease-000002"


def test_what_is_owned_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    lease = Leases(tmp_path).take("run_00")
    assert lease is not None
    os.utime(lease, ns=(1, 1))
    wait_for(lambda: lease.stat().st_mtime_ns > 1)


def test_two_sweeps_share_the_work_and_never_a_run_without_locks(tmp_path: Path) -> None:
    both = [supervise(tmp_path, 0.3) for _ in range(2)]
    assert [each.wait(PATIENCE) for each in both] == [0, 0]
    assert events(tmp_path) == Counter({(e, f"run_{i:02d}"): 1 for e in ("start", "end") for i in range(6)})


def test_without_locks_a_run_ends_with_its_sweep_and_the_next_goes_on(tmp_path: Path, everybody: None) -> None:
    first = supervise(tmp_path, 2 * PATIENCE)
    wait_for(lambda: len(children(tmp_path)) == 2)
    runs = children(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert gone(*runs)
    assert run(tmp_path, 6).exit_status == 0
    assert all(events(tmp_path)["end", f"run_{i:02d}"] == 1 for i in range(6))
