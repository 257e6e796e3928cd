"""JSON records that anybody may have changed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files import reading
from hf_soups.files.reading import read_json, read_record, visible


@dataclass(frozen=True, slots=True)
class Record:
    names: tuple[str, ...]
    cost: float
    rows: int = 0


def record(path: Path) -> Record:
    return read_record(path, Record, what="a test's record", format="test.v1", again="Make it again.")


def write(path: Path, **values: object) -> Path:
    path.write_text(json.dumps({"format": "test.v1", "names": ["a"], "cost": 1, **values}))
    return path


def test_values_have_the_declared_types_and_unknown_keys_are_left_out(tmp_path: Path) -> None:
    assert record(write(tmp_path / "r.json", later=3)) == Record(("a",), 1.0)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"names": "abc"}, "not valid as a test's record: names: Input should be"),
        ({"names": [1]}, "names.0: Input should be a valid string"),
        ({"cost": "1"}, "cost: Input should be a valid number"),
        ({"cost": True}, "cost: Input should be a valid number"),
        ({"rows": 1.5}, "rows: Input should be a valid integer"),
        ({"rows": False}, "rows: Input should be a valid integer"),
        ({"format": "test.v2"}, r"expected a test's record \('test.v1'\), got the format 'test.v2'"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path: Path, values: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=rf"r\.json: .*{why}.* Make it again\."):
        record(write(tmp_path / "r.json", **values))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b"[1]", "expected a test's record, got list"),
        (b'"\xff"', "not UTF-8 text"),
        (b"[" * 200_000, "nested too deep"),
        (
            b'{"format": "test.v1", "names": ' + b"[" * 900 + b"]" * 900 + b', "cost": 1}',
            "not valid as a test's record",
        ),
        (b'{"cost": ' + b"9" * 5000 + b"}", "no valid JSON"),
    ],
)
def test_what_is_no_record_is_one_error_that_names_the_file(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"r\.json: .*{why}") as told:
        record(path)
    assert "\n" not in str(told.value)


def test_a_number_that_no_float_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"n": 1' + "0" * 400 + "}")
    with pytest.raises(CheckpointError, match=r"a\.json: .*a number of 401 digits"):
        read_json(tmp_path / "a.json", error=CheckpointError)
    for value in ("NaN", "1e400"):
        (tmp_path / "a.json").write_text(f'{{"n": {value}}}')
        with pytest.raises(InputError, match=r"a\.json: not valid as a record"):
            read_record(tmp_path / "a.json", dict[str, float], what="a record", format="", again="")


def test_a_link_that_leads_nowhere_is_not_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"a\.json: a link that leads nowhere"):
        read_json(tmp_path / "a.json", error=CheckpointError)


def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(CheckpointError, match=r"pipe\.json: no regular file"):
        read_json(tmp_path / "pipe.json", error=CheckpointError)
    with pytest.raises(InputError, match=r"folder\.json: "):
        read_json(tmp_path / "folder.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST", 10)
    with pytest.raises(InputError, match=r"r\.json: \d+ bytes, more than the 10 that are read"):
        record(write(tmp_path / "r.json"))


def test_what_another_process_is_writing_is_not_read(tmp_path: Path) -> None:
    """A command that reads a sweep while another cooks once took the half-written pointer for one more soup."""
    for name in ("greedy.json", ".uniform.partial-1.json", "run_0/run.json", ".run_1.partial-1/run.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert [path.name for path in visible(tmp_path, "*.json")] == ["greedy.json"]
    assert [path.parent.name for path in visible(tmp_path, "*/run.json")] == ["run_0"]
    assert visible(tmp_path / "gone", "*") == []
