"""A frontier belongs to the answers, rows and weights that it was searched on, wherever the folders lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hf_soups.cascades import Frontier
from hf_soups.errors import InputError
from hf_soups.hub import push
from hf_soups.pool import read_pool
from hf_soups.pool.store import write_pool
from hf_soups.pool_jobs import build_from, certify_plan, draw_plan, search_pool
from hf_soups.pool_jobs.plans import open_plan
from hf_soups.predictions import Predictions
from hf_soups.reporting.page import page_for
from tests.makers.tiny import tiny_vit
from tests.pool_jobs.made_pool import LABELS, made_pool


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/, preds/select with its frontier, preds/report: named from the folder's inside, as a user would."""
    folder = tmp_path_factory.mktemp("project") / "project"
    names = dict(enumerate(LABELS))
    about = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    models = tuple(tiny_vit(folder / f"models/m{i}", labels=3, seed=i, **about) for i in range(2))
    for role, seed in (("select", 0), ("report", 1)):
        at = made_pool(folder / f"preds/{role}", 2, seed=seed, data=role, sources=models)
        pool = read_pool(at)
        known = {
            name: replace(m, sha256=m.checkpoint.sha256(), files=m.checkpoint.files_digest())
            for name, m in pool.members.items()
        }
        write_pool(replace(pool, members=known))
    search_pool(folder / "preds/select", report=str(folder / "preds/report"), folds=0)
    return folder


@pytest.fixture
def moved(project: Path, tmp_path: Path) -> Path:
    """The whole project in another place."""
    return Path(shutil.copytree(project, tmp_path / "elsewhere/deeper/project"))


def cascade_of(folder: Path) -> str:
    frontier = Frontier.load(folder / "preds/select/frontier.json")
    index = next(i for i, p in enumerate(frontier.plans) if len(p.members) > 1)
    return f"{folder}/preds/select/frontier.json#{index}"


def test_a_frontier_names_its_pools_relative_to_itself(project: Path) -> None:
    told = json.loads((project / "preds/select/frontier.json").read_text())
    assert (told["pool"], told["report"]) == (".", "../report")
    assert set(told["chosen_on"]["members"]) == {"m0", "m1"}
    assert all(len(m["answers"]) == 32 and len(m["weights"]) == 64 for m in told["chosen_on"]["members"].values())


@pytest.mark.parametrize("at", [".", "models", "/"])
def test_a_moved_project_works_from_any_working_directory(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    monkeypatch.chdir(moved / at)
    opened = open_plan(cascade_of(moved))
    assert opened.pool.folder == moved / "preds/select"
    assert opened.parts.report is not None
    built = build_from(cascade_of(moved), tmp_path / "cascade")
    assert (built / "member_1/model.safetensors").is_file()
    certify_plan(cascade_of(moved), max_loss=0.5)
    assert draw_plan(cascade_of(moved), tmp_path / "pictures", images=False)
    assert page_for([moved / "preds"], examples=0).sections


def test_the_pool_of_the_working_directory_is_not_taken_for_the_one_that_was_searched(
    moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search run as `hf-soups cascade search preds/select`, and then a build beside another preds/select."""
    made_pool(tmp_path / "preds/select", 2, seed=5)
    monkeypatch.chdir(tmp_path)
    assert open_plan(cascade_of(moved)).pool.folder == moved / "preds/select"
    with pytest.raises(InputError, match="its rows are others"):
        open_plan(cascade_of(moved), "preds/select")


def answered_again(project: Path) -> None:
    file = project / "preds/select/m1.safetensors"
    p = Predictions.load(file)
    replace(p, log_probs=p.log_probs[:, [1, 0, 2]]).save(file)


def other_weights(project: Path) -> None:
    pool = read_pool(project / "preds/select")
    write_pool(pool.with_member(replace(pool.members["m1"], sha256="f" * 64)))


def other_files(project: Path) -> None:
    pool = read_pool(project / "preds/select")
    write_pool(pool.with_member(replace(pool.members["m1"], files="f" * 64)))


def one_member_less(project: Path) -> None:
    pool = read_pool(project / "preds/select")
    write_pool(replace(pool, members={"m0": pool.members["m0"]}))


def report_answered_again(project: Path) -> None:
    file = project / "preds/report/m1.safetensors"
    p = Predictions.load(file)
    replace(p, log_probs=p.log_probs[:, [1, 0, 2]]).save(file)


def pool_gone(project: Path) -> None:
    (project / "preds/select/frontier.json").rename(project / "frontier.json")
    shutil.rmtree(project / "preds/select")
    (project / "preds/select").mkdir()
    (project / "frontier.json").rename(project / "preds/select/frontier.json")


def other_thresholds(project: Path) -> None:
    path = project / "preds/select/frontier.json"
    told = json.loads(path.read_text())
    for plan in told["plans"]:
        plan["thresholds"] = [0.123] * len(plan["thresholds"])
    path.write_text(json.dumps(told))


def better_scores(project: Path) -> None:
    path = project / "preds/select/frontier.json"
    told = json.loads(path.read_text())
    for plan in told["plans"]:
        plan["score"] = 0.999
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (answered_again, "'m1' answered again since, with other answers"),
        (other_weights, "'m1' has other weights now"),
        (other_files, "'m1' has another config, tokenizer or processor now"),
        (one_member_less, "'m1' is not there any more"),
        (report_answered_again, "report is not any more what .*'m1' answered again since"),
        (pool_gone, r"no pool\.json here"),
        (other_thresholds, "does not belong to these answers"),
        (better_scores, "where the file says 0.999"),
    ],
)
def test_whatever_changed_since_the_search_is_refused_by_everything_that_uses_it(
    moved: Path, tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    plan = cascade_of(moved)
    change(moved)
    for use in (
        lambda: build_from(plan, tmp_path / "cascade"),
        lambda: certify_plan(plan),
        lambda: draw_plan(plan, tmp_path / "pictures"),
        *(
            ()
            if change is pool_gone
            else (lambda: push(moved / "preds/select", "me/preds", dry_run=True, token="hf_x"),)
        ),
        *(() if change is pool_gone else (lambda: page_for([moved / "preds/select"], examples=0),)),
    ):
        with pytest.raises(InputError, match=why):
            use()
    assert not (tmp_path / "cascade").exists()


def test_weights_that_were_replaced_on_disk_are_not_built_in(moved: Path, tmp_path: Path) -> None:
    plan = cascade_of(moved)
    shutil.copy(moved / "models/m0/model.safetensors", moved / "models/m1/model.safetensors")
    with pytest.raises(InputError, match="models/m1: its weights are not what answered as 'm1'"):
        build_from(plan, tmp_path / "cascade")


def test_a_processor_that_was_changed_on_disk_is_not_built_in(moved: Path, tmp_path: Path) -> None:
    plan = cascade_of(moved)
    path = moved / "models/m1/preprocessor_config.json"
    path.write_text(path.read_text().replace("0.5", "0.4"))
    with pytest.raises(InputError, match="models/m1: its config, tokenizer or processor is not what answered"):
        build_from(plan, tmp_path / "cascade")


def test_a_frontier_of_the_first_version_is_read_and_its_scores_are_checked(
    moved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """0.1.0 named its pool from the working directory and kept no fingerprints of members."""
    path = moved / "preds/select/frontier.json"
    told = json.loads(path.read_text())
    del told["chosen_on"], told["reported_on"]
    path.write_text(json.dumps({**told, "pool": "preds/select", "report": "preds/report"}))
    monkeypatch.chdir(tmp_path)
    assert open_plan(cascade_of(moved)).pool.folder == moved / "preds/select"
    answered_again(moved)
    with pytest.raises(InputError, match="does not belong to these answers"):
        open_plan(cascade_of(moved))


def test_a_cascade_stores_its_last_member_alone_as_a_plan_too(project: Path, tmp_path: Path) -> None:
    built = build_from(cascade_of(project), tmp_path / "cascade")
    config = json.loads((built / "config.json").read_text())
    costs = [plan["average_cost"] for plan in config["frontier"]]
    assert costs == sorted(costs)
    assert [config["plan"]["members"][-1]] in [plan["members"] for plan in config["frontier"]]
