"""Batch predict on a cluster: whatever is killed, every row is there once and as one process answers it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_soups.batch_predict.parts import PartsJob
from hf_soups.cli import app
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.remote.answers import RayAnswers, ray_answers
from hf_soups.remote.cluster import Cluster
from tests.makers.fake_parts import answer_serially, fake_job
from tests.makers.patience import PATIENCE
from tests.remote.conftest import ROOT, Nodes

ROWS = 1500
ONE_EACH = {"small": 1, "large": 1}
DRIVER = """
import sys
from pathlib import Path
from hf_soups.remote.answers import ray_answers
from tests.makers.fake_parts import fake_job
out, log, address = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with ray_answers(out, address, replicas={"small": 1, "large": 1}) as executor:
    executor.answer(fake_job(out, log, 1500, seconds=0.002), print)
"""


def slow_job(folder: Path) -> PartsJob:
    return fake_job(folder / "out", folder / "log", ROWS, seconds=0.002)


def wait_for_parts(job: PartsJob, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not job.files.folder.is_dir() or len(job.files.present()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_last(folder: Path, member: str) -> None:
    """The process that answered for a member last."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    os.kill(next(int(pid) for name, pid, *_ in reversed(lines) if name == member), signal.SIGKILL)


def meanwhile(do: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def answers_of_one_process(job: PartsJob, folder: Path) -> None:
    """Whether a job's files hold the rows, labels, exits, costs and scores of one process."""
    serial = fake_job(folder / "serial", folder / "serial.log", ROWS)
    answer_serially(serial)
    wanted, found = serial.files.read(), job.files.read()
    assert job.files.missing() == []
    assert found["row_id"].to_pylist() == [f"row {i}" for i in range(ROWS)]
    exact = [name for name in wanted.column_names if "score" not in name]
    assert found.select(exact).equals(wanted.select(exact))
    scores = [table["score"].drop_null().to_numpy() for table in (found, wanted)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_a_killed_worker_loses_nothing_nor_does_the_large_members_only_one(cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path)
    job.files.folder.mkdir()

    def kill() -> None:
        for count, member in ((3, "small"), (6, "large")):
            wait_for_parts(job, count)
            kill_last(tmp_path, member)

    killing = meanwhile(kill)
    done: list[int] = []
    executor = RayAnswers(cluster, ONE_EACH)
    assert executor.answer(job, done.append) == ROWS == done[-1]
    killing.join()
    workers = {(line.split()[0], line.split()[1]) for line in (tmp_path / "log").read_text().splitlines()}
    assert sorted(name for name, _ in workers) == ["large", "large", "small", "small"]
    assert 0 < executor.moved_bytes / ROWS < 60  # 4 classes of 4 bytes, and a part's 300 bytes of headers
    answers_of_one_process(job, tmp_path)


def test_a_lost_node_loses_nothing(nodes: Nodes, cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path)
    job.files.folder.mkdir()

    def end() -> None:
        wait_for_parts(job, 5)
        nodes.end_second()

    ending = meanwhile(end)
    try:
        assert RayAnswers(cluster, ONE_EACH).answer(job, lambda rows: None) == ROWS
    finally:
        ending.join()
        nodes.start_second()
    answers_of_one_process(job, tmp_path)


def test_what_a_killed_driver_left_is_gone_on_with_on_one_machine_and_on_the_cluster(
    nodes: Nodes, tmp_path: Path
) -> None:
    job = slow_job(tmp_path)
    arguments = [str(job.files.folder), str(tmp_path / "log"), nodes.address]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for_parts(job, 5)
    driver.kill()
    driver.wait()
    answer_serially(job, job.files.missing()[:3])
    with ray_answers(job.files.folder, nodes.address, replicas=ONE_EACH) as executor:
        missing = len(job.files.missing())
        assert 0 < executor.answer(job, lambda rows: None) <= 100 * missing < ROWS
    answers_of_one_process(job, tmp_path)


def test_a_models_own_failure_ends_the_job_once(cluster: Cluster, tmp_path: Path) -> None:
    job = fake_job(tmp_path / "out", tmp_path / "log", 500, fails_at=200)
    job.files.folder.mkdir()
    with pytest.raises(HfSoupsError, match=r"part \d: large: its weights are not a number"):
        RayAnswers(cluster, ONE_EACH).answer(job, lambda rows: None)
    assert {0, 1} >= set(job.files.present())
    with pytest.raises(InputError, match="names middle; the members that rows can meet are small, large"):
        RayAnswers(cluster, {"middle": 1}).answer(job, lambda rows: None)


def test_the_command_writes_the_folder_of_the_local_one(nodes: Nodes, tmp_path: Path) -> None:
    from tests.makers.tiny import tiny_bert

    model = tiny_bert(tmp_path / "bert", id2label={0: "no", 1: "yes"})
    (tmp_path / "rows.csv").write_text("text\n" + "\n".join(f"a film {i}" for i in range(40)) + "\n")
    command = ["predict", str(model), "--answers", "--data", str(tmp_path / "rows.csv"), "--shard-rows", "10"]
    on_ray = ["--executor", "ray", "--address", nodes.address, "--replicas", "bert=1"]
    for out, more in (("here", []), ("there", on_ray), ("there", [])):
        done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / out), *more])
        assert done.exit_code == 0, done.exception
        assert f"40 rows in {tmp_path / out}, {0 if (out, more) == ('there', []) else 40} answered now" in done.output
    here, there = (sorted(p.name for p in (tmp_path / out).iterdir()) for out in ("here", "there"))
    assert here == there


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--replicas", "small=1"], "--replicas: of a cluster; give --executor ray too"),
        (["--executor", "ray", "--replicas", "small"], "expected workers by member, such as small=8,large=2"),
        (["--executor", "ray", "--replicas", "small=0"], "--replicas small=0: expected 1 or more"),
        (["--executor", "ray", "--device", "cpu"], "--device is of one machine"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], why: str, tmp_path: Path) -> None:
    command = ["predict", "x", "--answers", "--data", "y", "--out", str(tmp_path / "out"), *options]
    with pytest.raises(InputError) as refused:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert why in refused.value.as_command if hasattr(refused.value, "as_command") else str(refused.value)
