"""What a report takes folders for, and what it says of those that are nothing of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_soups.errors import InputError
from hf_soups.reporting.page.sources import find_sources
from tests.makers.synthetic_sweep import write_finished_run, write_plan
from tests.reporting.made import write_soup


def made(path: Path, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep, two pools one level deeper, a cascade, and what is none of these."""
    made(tmp_path / "runs/plan.json")
    made(tmp_path / "preds/select/pool.json")
    made(tmp_path / "preds/report/pool.json")
    made(tmp_path / "cascade/config.json", '{"model_type": "cascade"}')
    made(tmp_path / "start/config.json", '{"model_type": "bert"}')
    made(tmp_path / "start/run.json")
    made(tmp_path / ".hidden/plan.json")
    return tmp_path


def test_a_folder_stands_for_all_that_it_holds(folder: Path) -> None:
    found = find_sources([folder])
    assert found.sweep == folder / "runs"
    assert found.pools == (folder / "preds/report", folder / "preds/select")
    assert found.cascades == (folder / "cascade",)


def test_named_one_by_one_they_are_the_same(folder: Path) -> None:
    assert find_sources([folder / "runs", folder / "preds", folder / "cascade"]) == find_sources([folder])


def test_a_folder_that_is_named_twice_is_one(folder: Path) -> None:
    assert find_sources([folder, folder / "runs", folder / "runs/../runs"]) == find_sources([folder])


def test_run_folders_without_a_plan_are_a_sweep(tmp_path: Path) -> None:
    write_finished_run(tmp_path / "some/run_a", 170, 230)
    assert find_sources([tmp_path / "some"]).sweep == tmp_path / "some"


def test_two_sweeps_are_refused(folder: Path) -> None:
    made(folder / "other/plan.json")
    with pytest.raises(InputError, match=r"other and \S+runs are sweeps; a report is about one"):
        find_sources([folder])


@pytest.mark.parametrize(
    ("named", "message"),
    [("gone", "gone: no such folder"), ("empty", "empty holds no sweep, pool or cascade"), ("file", "no such folder")],
)
def test_what_is_nothing_of_ours_is_refused_with_what_to_name(tmp_path: Path, named: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=f"{message}.*Name a sweep"):
        find_sources([tmp_path / named])


def test_no_folder_is_refused() -> None:
    with pytest.raises(InputError, match="no folder is named"):
        find_sources([])


def test_a_soup_is_refused_with_the_way_to_show_it(tmp_path: Path) -> None:
    soup = write_soup(write_plan(tmp_path / "sweep", 1), "greedy", ["run_00"], 180, 230)
    with pytest.raises(InputError, match=r"is a soup.*Name the sweep that it was cooked from"):
        find_sources([soup])


def test_a_damaged_config_is_no_cascade(tmp_path: Path) -> None:
    made(tmp_path / "c/config.json", '{"model_type": ')
    with pytest.raises(InputError, match="holds no sweep, pool or cascade"):
        find_sources([tmp_path])
