"""Runs are forks of one process: each ends by itself, and gives what a process of its own would."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_soups.predictions import Predictions
from hf_soups.sweep import run_sweep
from hf_soups.sweep.folder import write_recipe
from hf_soups.sweep.fork_server import IS_POSSIBLE, LOST, ForkedRun, ForkServer
from tests.makers.processes import gone
from tests.makers.small_task import text_recipe
from tests.makers.tiny import tiny_bert

pytestmark = pytest.mark.skipif(not IS_POSSIBLE, reason="forks are used on Linux alone")
LONG = 60.0


@pytest.fixture
def server() -> Iterator[ForkServer]:
    made = ForkServer(None, os.environ)
    yield made
    made.close()


def started(server: ForkServer, log: Path, *arguments: str) -> ForkedRun:
    with log.open("ab") as output:
        return server.run(arguments, os.environ, output.fileno(), ())


def waits(server: ForkServer, tmp_path: Path, keep: tuple[int, ...] = ()) -> ForkedRun:
    """A run that imports code of the user's, which takes for ever."""
    code = tmp_path / "waits.py"
    code.write_text("import time\ntime.sleep(600)\n")
    with (tmp_path / "waits.log").open("ab") as output:
        return server.run(["recipe.yaml"], {**os.environ, "HF_SOUPS_IMPORT": str(code)}, output.fileno(), keep)


def test_a_run_prints_to_its_log_and_ends_with_its_status(server: ForkServer, tmp_path: Path) -> None:
    assert started(server, tmp_path / "help.log", "--help").wait(LONG) == 0
    assert "usage: accelerate launch -m hf_soups.finetune" in (tmp_path / "help.log").read_text()
    assert started(server, tmp_path / "gone.log", str(tmp_path / "gone.yaml")).wait(LONG) == 2
    assert "hf_soups.finetune: " in (tmp_path / "gone.log").read_text()


def test_one_that_is_killed_costs_itself_alone(server: ForkServer, tmp_path: Path) -> None:
    run = waits(server, tmp_path)
    other = started(server, tmp_path / "help.log", "--help")
    assert run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)  # a group of its own, as the sweep ends it
    assert run.wait(LONG) == -signal.SIGKILL
    assert other.wait(LONG) == 0


def test_the_run_alone_holds_its_lock(server: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open("w") as tried:
        fcntl.flock(held, fcntl.LOCK_EX)
        run = waits(server, tmp_path, keep=(held.fileno(),))
        held.close()
        with pytest.raises(BlockingIOError):
            fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait(LONG)
        fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_runs_of_a_server_that_was_killed_count_as_killed_and_the_next_has_a_new_one(
    server: ForkServer, tmp_path: Path
) -> None:
    run = waits(server, tmp_path)
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    assert run.poll() is None  # it goes on, as no run ends with its sweep
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait(LONG) == LOST
    assert started(server, tmp_path / "help.log", "--help").wait(LONG) == 0


def test_a_server_that_is_asked_to_end_ends_its_runs(server: ForkServer, tmp_path: Path) -> None:
    run = waits(server, tmp_path)
    assert server._process is not None
    server._process.terminate()
    server._process.wait(LONG)
    assert gone(run.pid)


def test_a_server_without_its_sweep_ends(tmp_path: Path) -> None:
    code = """
import os
from hf_soups.sweep.fork_server import ForkServer
server = ForkServer(None, os.environ)
server._connected()
print(server._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert gone(int(done.stdout))


@pytest.mark.slow
def test_forked_runs_write_the_weights_and_answers_that_processes_of_their_own_write(tmp_path: Path) -> None:
    recipe = text_recipe(tmp_path / "data", tiny_bert(tmp_path / "bert"), sweep={"runs": 2, "seed": 0})
    for name, isolate in (("forked", False), ("isolated", True)):
        result = run_sweep(recipe, tmp_path / name, isolate=isolate, progress=False)
        assert [entry.state for entry in result.entries] == ["finished"] * 2
    for run in ("run_00", "run_01"):
        one, other = (tmp_path / name / run for name in ("forked", "isolated"))
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        for role in ("select", "report"):
            mine, theirs = (Predictions.load(at / f"predictions/{role}.safetensors") for at in (one, other))
            assert mine.metadata == theirs.metadata
            assert mine.log_probs.tobytes() == theirs.log_probs.tobytes()


def test_reading_rows_before_forks_leaves_no_thread_and_no_lock_that_forks_share(tmp_path: Path) -> None:
    recipe = text_recipe(tmp_path / "data", tiny_bert(tmp_path / "bert"))
    write_recipe(tmp_path / "recipe.yaml", recipe)
    code = f"""
import threading
from tqdm import tqdm
from hf_soups.finetune import run
from hf_soups.sweep import fork_server
fork_server._read_for({str(tmp_path / "recipe.yaml")!r})
assert run._shared and threading.active_count() == 1, threading.enumerate()
assert not hasattr(tqdm.get_lock(), "mp_lock")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
