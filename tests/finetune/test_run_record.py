"""run.json and the folder around it."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.errors import RUN_FAILURES, CheckpointError, HfSoupsError, InputError
from hf_soups.files.writing import check_place, owner, writable, written_whole
from hf_soups.finetune.run_record import RUN_FILE, RunRecord, read_run, write_run

RECORD = RunRecord(
    status="finished",
    recipe={"train": {"learning_rate": 2e-5}},
    seed=3,
    label_names=("no", "ja"),
    scores={"select": {"accuracy": 0.75}},
    history=({"step": 1, "loss": 0.7},),
)


def raise_after(work: Callable[[], None], error: type[BaseException]) -> None:
    work()
    raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(
    status=st.sampled_from(["finished", *RUN_FAILURES]),
    reason=st.text(),
    seed=st.integers(0, 2**60),
    labels=st.lists(st.text()).map(tuple),
    seconds=st.none() | st.floats(0, 1e9),
)
def test_a_record_written_and_read_is_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    status: str,
    reason: str,
    seed: int,
    labels: tuple[str, ...],
    seconds: float | None,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    record = RunRecord(status=status, reason=reason, seed=seed, label_names=labels, train_seconds=seconds)
    write_run(folder, record)
    assert read_run(folder) == record
    assert names(folder) == [RUN_FILE]


def test_not_a_number_is_written_as_null(tmp_path: Path) -> None:
    write_run(tmp_path, RunRecord(status="finished", scores={"select": {"own": float("nan")}}))
    assert json.loads((tmp_path / RUN_FILE).read_text())["scores"] == {"select": {"own": None}}


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="status 'done' is none of finished, nan-loss"):
        RunRecord(status="done")


def test_keys_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    told = {**json.loads(RECORD.to_json()), "carbon": 3}
    (tmp_path / RUN_FILE).write_text(json.dumps(told))
    assert read_run(tmp_path) == RECORD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no run.json here, so this is no run's folder"),
        ('{"status": "finish', "cannot be read"),
        ("[]", "expected the record of a run"),
        ('{"format": "other"}', "expected the record of a run"),
        ('{"format": "hf_soups.run.v1"}', "not valid as the record of a run: status: Field required"),
        ('{"format": "hf_soups.run.v1", "status": "great"}', "status 'great' is none of"),
    ],
)
def test_an_unreadable_record_is_one_clear_error(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_run(tmp_path)


def test_reading_a_run_imports_nothing_heavy() -> None:
    code = "import hf_soups.finetune.run_record, sys; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    with written_whole(out, marker=RUN_FILE) as partial:
        write_run(partial, RECORD)
        assert not out.exists()
    assert read_run(out) == RECORD
    assert names(out.parent) == ["run"]


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_when_the_block_fails(tmp_path: Path, raised: type[BaseException]) -> None:
    with pytest.raises(raised), written_whole(tmp_path / "run", marker=RUN_FILE) as partial:
        raise_after(lambda: write_run(partial, RECORD), raised)
    assert names(tmp_path) == []


def test_an_earlier_run_is_kept_unless_overwritten_on_purpose(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with written_whole(out, marker=RUN_FILE) as partial:
        write_run(partial, RECORD)
    with pytest.raises(InputError, match=r"exists already\. Choose another folder with `out`"):
        check_place(out, marker=RUN_FILE)
    with pytest.raises(ValueError, match="late"), written_whole(out, overwrite=True, marker=RUN_FILE) as partial:
        raise ValueError("late")
    assert read_run(out) == RECORD
    with written_whole(out, overwrite=True, marker=RUN_FILE) as partial:
        write_run(partial, RunRecord(status="error", reason="new"))
    assert read_run(out).reason == "new"
    assert names(tmp_path) == ["run"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds no run\.json, so it was not made by this command"):
        check_place(tmp_path, overwrite=True, marker=RUN_FILE)
    assert (tmp_path / "thesis.tex").exists()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    machine = owner().partition("-")[0]
    abandoned, alive = (tmp_path / f".run.partial-{machine}-{pid}" for pid in (gone.pid, os.getppid()))
    abandoned.mkdir()
    alive.mkdir()
    with written_whole(tmp_path / "run", marker=RUN_FILE) as partial:
        write_run(partial, RECORD)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, "run"])


def test_a_file_in_the_way_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HfSoupsError, match=r"could not be written: .*run the same command again"):
        check_place(tmp_path / "file" / "run", marker=RUN_FILE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_forbidden_place_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HfSoupsError, match="no permission to write there"):
        check_place(tmp_path / "run", marker=RUN_FILE)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full. Free some space and run the same command again; nothing half-written"),
        (errno.EACCES, "no permission to write there .* Choose another place with `out`"),
        (errno.EROFS, "no permission to write there"),
    ],
)
def test_what_the_system_says_becomes_advice(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(HfSoupsError, match=message), written_whole(tmp_path / "run", marker=RUN_FILE):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_what_safetensors_says_of_the_system_is_understood(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: safetensors raises an error of its own with the number in it."""
    import numpy as np
    from safetensors.numpy import save_file

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with (
            pytest.raises(HfSoupsError, match=r"the file is larger than allowed here"),
            writable(tmp_path),
        ):
            save_file({"w": np.zeros(100_000)}, tmp_path / "w.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
