"""What the user's words for models stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_soups.errors import InputError
from hf_soups.pool.entries import pool_entries
from tests.makers.folders import folder_of


def made(path: Path) -> Path:
    return folder_of(path, {})


def told(*models: object, **how: object) -> list[tuple[str, int | None]]:
    return [(a.name, a.image_size) for a in pool_entries([str(m) for m in models], **how)]  # type: ignore[arg-type]


def test_names_and_sizes_are_parts_of_a_word(tmp_path: Path) -> None:
    a = made(tmp_path / "a")
    assert told(a) == [("a", None)]
    assert told(f"{a}@160") == [("a@160", 160)]
    assert told(f"small={a}@160", f"{a}") == [("small", 160), ("a", None)]
    assert told(a, names=["x"]) == [("x", None)]
    assert told(f"x={a}", image_sizes=(96, 224)) == [("x@96", 96), ("x@224", 224)]
    assert pool_entries([a])[0].checkpoint.source == str(a.resolve())


def test_a_folder_whose_own_name_looks_so_is_itself(tmp_path: Path) -> None:
    assert told(made(tmp_path / "model@160")) == [("model@160", None)]
    assert told(made(tmp_path / "lr=1e-5")) == [("lr=1e-5", None)]


def test_hub_repos_have_revisions_and_sizes() -> None:
    [asked] = pool_entries(["org/model@v1.0@160"])
    assert (asked.checkpoint.source, asked.checkpoint.revision, asked.image_size) == ("org/model", "v1.0", 160)
    [asked] = pool_entries(["org/model"])
    assert (asked.name, asked.checkpoint.revision) == ("org/model", None)


def test_equal_names_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    one, two = made(tmp_path / "a" / "model"), made(tmp_path / "b" / "model")
    assert told(one, two, f"{two}@64") == [("a/model", None), ("b/model", None), ("b/model@64", 64)]
    with pytest.raises(InputError, match="'model' is asked for twice"):
        pool_entries([one, one])


def test_a_sweep_stands_for_its_finished_runs_and_its_soups(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for name, status in (("run_01", "finished"), ("run_00", "finished"), ("run_02", "nan-loss")):
        made(sweep / name)
        (sweep / name / "run.json").write_text(json.dumps({"format": "hf_soups.run.v1", "status": status}))
    (sweep / "plan.json").write_text("{}")
    made(tmp_path / "soup")
    (sweep / "soups").mkdir()
    (sweep / "soups" / "greedy.json").write_text(json.dumps({"path": "../../soup"}))
    assert told(sweep) == [("run_00", None), ("run_01", None), ("greedy", None)]
    assert pool_entries([sweep])[-1].checkpoint.source == str((tmp_path / "soup").resolve())
    (sweep / "soups" / "greedy.json").write_text("{}")
    with pytest.raises(InputError, match=r"greedy\.json: not valid as a pointer to a soup"):
        pool_entries([sweep])


def test_nothing_and_names_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model is named"):
        pool_entries([])
    with pytest.raises(InputError, match="2 names for 1 models; expected one for each"):
        pool_entries([made(tmp_path / "a")], names=["x", "y"])
