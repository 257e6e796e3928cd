"""The processes of one run start together, find each other, end together, and hold the run's lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_soups.sweep.executor import surroundings
from hf_soups.sweep.launcher import MACHINE, Meeting, free_port, place
from hf_soups.sweep.ledger import Ledger
from tests.makers.patience import PATIENCE
from tests.makers.processes import alive, gone

NOTE = "import os, sys, time; open(f'{sys.argv[1]}/{os.environ[\"RANK\"]}', 'w').write(str(os.getpid()))\n"


def launched(folder: Path, code: str, count: int = 2, **options: object) -> subprocess.Popen[bytes]:
    launch = [sys.executable, "-m", "hf_soups.sweep.launcher", str(count)]
    command = [*launch, sys.executable, "-c", NOTE + code, str(folder)]
    return subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]


def noted(folder: Path, count: int = 2) -> list[int]:
    """Process ids, once all have started."""
    deadline = time.monotonic() + PATIENCE
    while True:
        texts = [path.read_text() for path in sorted(folder.iterdir()) if path.name.isdigit()]
        if len(texts) == count and all(texts):
            return [int(text) for text in texts]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_process_knows_its_place() -> None:
    places = [place(rank, 3, Meeting(12345)) for rank in range(3)]
    assert [p["RANK"] for p in places] == [p["LOCAL_RANK"] for p in places] == ["0", "1", "2"]
    assert {p["WORLD_SIZE"] for p in places} == {"3"}
    assert len({(p["MASTER_ADDR"], p["MASTER_PORT"]) for p in places}) == 1
    assert 1024 < free_port() < 65536


def test_on_several_machines_each_starts_its_share_and_all_meet_at_one_address(tmp_path: Path) -> None:
    code = "keys = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')\n"
    code += "print(' '.join(os.environ[key] for key in keys))"
    for machine, there in enumerate(("0 0 2 1 10.0.0.1 29500", "1 0 2 1 10.0.0.1 29500")):
        environment = {**os.environ, MACHINE: Meeting(29500, "10.0.0.1", machine, 2).words}
        run = launched(tmp_path, code, stdout=subprocess.PIPE, env=environment)
        output, _ = run.communicate(timeout=PATIENCE)
        assert output.decode().strip() == there
    assert len(noted(tmp_path)) == 2


def test_all_processes_end_well(tmp_path: Path) -> None:
    assert launched(tmp_path, "", count=3).wait(PATIENCE) == 0
    assert len(noted(tmp_path, 3)) == 3


def test_when_one_fails_the_others_are_ended_and_its_status_is_told(tmp_path: Path) -> None:
    run = launched(tmp_path, "time.sleep(600) if os.environ['RANK'] == '0' else sys.exit(7)")
    assert run.wait(PATIENCE) == 7
    assert gone(*noted(tmp_path))


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code = deaf + "time.sleep(600) if os.environ['RANK'] == '0' else (time.sleep(0.5), sys.exit(7))"
    assert launched(tmp_path, code).wait(PATIENCE) == 7
    assert gone(*noted(tmp_path))


def test_a_killed_process_is_told_as_by_a_shell(tmp_path: Path) -> None:
    run = launched(tmp_path, "time.sleep(600)")
    pids = noted(tmp_path)
    os.kill(pids[1], signal.SIGKILL)
    assert run.wait(PATIENCE) == 137
    assert gone(*pids)


def test_ending_the_launcher_ends_all(tmp_path: Path) -> None:
    run = launched(tmp_path, "time.sleep(600)")
    pids = noted(tmp_path)
    run.terminate()
    assert run.wait(PATIENCE) == 143
    assert gone(*pids)


def test_what_outlives_a_killed_launcher_still_holds_the_runs_lock(tmp_path: Path) -> None:
    claim = Ledger(tmp_path).claim("run_00")
    assert claim is not None
    run = launched(tmp_path, "time.sleep(600)", pass_fds=(claim.descriptor,))
    claim.release()
    pids = noted(tmp_path)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert all(map(alive, pids))
    assert Ledger(tmp_path).claim("run_00") is None
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert gone(*pids)
    assert Ledger(tmp_path).claim("run_00") is not None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has it alone")
def test_what_is_tied_does_not_outlive_its_parent_however_that_ends(tmp_path: Path) -> None:
    """The parent starts a launcher, and is killed: launcher and processes end with it."""
    code = (
        "import os, subprocess, sys; from hf_soups.sweep.launcher import TIED, tied; os.environ[TIED] = '1'\n"
        "subprocess.Popen(tied(sys.argv[1:], os.environ), start_new_session=True).wait()"
    )
    launch = [sys.executable, "-m", "hf_soups.sweep.launcher", "2"]
    command = [*launch, sys.executable, "-c", NOTE + "time.sleep(600)", str(tmp_path)]
    parent = subprocess.Popen([sys.executable, "-c", code, *command])
    pids = noted(tmp_path)
    parent.kill()
    parent.wait()
    assert gone(*pids)


@pytest.mark.slow
def test_accelerate_counts_as_many_processes_as_were_started(tmp_path: Path) -> None:
    code = "from accelerate import Accelerator; print(f'processes={Accelerator().num_processes}', flush=True)"
    environment = surroundings(0, 1, {**os.environ, "CUDA_VISIBLE_DEVICES": ""}, processes=2)
    run = launched(tmp_path, code, stdout=subprocess.PIPE, env=environment)
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0
    assert output.count(b"processes=2") == 2
