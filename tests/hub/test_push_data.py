"""Leaderboards and pools of predictions as data sets: the tables that `load_dataset` reads, and what stays here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from hf_soups.errors import InputError, PredictionsError
from hf_soups.hub.contents import Contents
from hf_soups.hub.data_sets import tables_of, write_table
from hf_soups.hub.pushing import gathered
from hf_soups.leaderboard import Leaderboard
from hf_soups.leaderboard.rows import Row
from hf_soups.leaderboard.table import save_csv, save_parquet
from hf_soups.pool.store import Member, Pool, PoolData, file_of, read_pool, write_pool
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions
from tests.hub.clients import Client, client, run
from tests.hub.server import Hub

BOARD, POOL = "me/board", "me/pool"
PUSHES = """
from hf_soups.hub import push
def do(folder, repo, **options):
    done = push(folder, repo, **options)
    return {"url": done.url, "commit": done.commit, "unchanged": done.unchanged, "words": done.words()}
"""


@pytest.fixture(scope="module")
def pushes(lasting_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(lasting_hub, PUSHES, tmp_path_factory.mktemp("home")) as process:
        yield process


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep's folder with its leaderboard, a recipe that names a place of this machine, and a run with weights."""
    at = tmp_path / "runs"
    (at / "run_00").mkdir(parents=True)
    (at / "run_00" / "model.safetensors").write_bytes(b"weights")
    (at / "plan.json").write_text("{}")
    (at / "recipe.yaml").write_text(
        "name: digits\ntask: {kind: image, path: /home/me/digits, image: image}\nmodel: m\n"
    )
    save_board(at, 0.5)
    return at


def save_board(at: Path, report: float) -> None:
    scores = {"select": 0.75, "select_low": 0.5, "select_high": 1.0, "report": report, "report_low": 0.25,
              "report_high": 0.75, "macs": 2000}  # fmt: skip
    rows = (Row("best on select", "run_00", "finished", **scores), Row("run", "run_01", "nan-loss", reason="diverged"))
    board = Leaderboard(rows, "accuracy", 4, 4, "runs")
    save_csv(board, at / "leaderboard.csv")
    save_parquet(board, at / "leaderboard.parquet")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two members on five rows of three classes; one name holds what neither a config nor a path may."""
    at = tmp_path / "preds"
    names = ("small", "org/large@160")
    for seed, name in enumerate(names):
        answers(seed).save(at / file_of(name))
    members = {name: Member(name, f"/home/me/{i}", file=file_of(name), macs=5) for i, name in enumerate(names)}
    about = PoolData("/home/me/digits", "validation", rows=5, fingerprint="rows", label="label")
    write_pool(Pool(at, "image", about, ("cat", "dog", "bird"), members))
    return at


def answers(seed: int, rows: int = 5) -> Predictions:
    logits = np.random.default_rng(seed).normal(size=(rows, 3))
    labels = np.arange(rows) % 3
    return Predictions.from_logits(
        logits, labels=labels, row_ids=np.arange(rows) * 7, label_names=("cat", "dog", "bird"), data="rows", model="m"
    )


def contents(folder: Path, repo: str) -> tuple[Contents, dict[str, bytes]]:
    with gathered(folder, repo) as found:
        return found, {file.path: file.source.read_bytes() for file in found.files}


def held(hub: Hub, repo: str) -> dict[str, bytes]:
    found = hub.repo(repo, "datasets").at("main")
    assert found is not None
    return {path: blob.data for path, blob in found.files.items() if path != ".gitattributes"}


def test_a_leaderboard_goes_without_weights_and_without_places_of_this_machine(sweep: Path) -> None:
    found, files = contents(sweep, BOARD)
    assert found.kind == "leaderboard"
    assert found.repo_type == "dataset"
    assert sorted(files) == ["README.md", "leaderboard.csv", "leaderboard.parquet", "recipe.yaml"]
    assert b"path: ./digits" in files["recipe.yaml"]
    card = files["README.md"].decode()
    assert "| run_00 | best on select | 75.0 | 50.0 | 25.0 to 75.0 | - | 2 k |" in card
    assert "| run_01 (nan-loss) | run | - | - | - | - | - |" in card
    assert 'load_dataset("me/board", split="train")' in card


def test_reasons_on_a_leaderboard_name_no_place_of_this_machine(sweep: Path) -> None:
    rows = (Row("run", "run_00", "out-of-memory", reason="/home/me/runs/run_00 took 9 GB. See /home/me/x.log."),)
    board = Leaderboard(rows, "accuracy", 4, 4, "runs")
    save_csv(board, sweep / "leaderboard.csv")
    save_parquet(board, sweep / "leaderboard.parquet")
    with gathered(sweep, BOARD) as found:
        files = {file.path: file.source for file in found.files}
        csv_text = files["leaderboard.csv"].read_text()
        reasons = pyarrow.parquet.read_table(files["leaderboard.parquet"])["reason"].to_pylist()
        kept = pyarrow.parquet.read_schema(files["leaderboard.parquet"])
    assert reasons == ["./run_00 took 9 GB. See ./x.log."]
    assert reasons[0] in csv_text
    assert kept.equals(pyarrow.parquet.read_schema(sweep / "leaderboard.parquet"))


def test_a_leaderboard_pushed_twice_makes_one_commit(hub: Hub, pushes: Client, sweep: Path) -> None:
    first, second = (pushes(folder=str(sweep), repo=BOARD) for _ in range(2))
    assert first["url"] == f"{hub.url}/datasets/{BOARD}"
    assert held(hub, BOARD) == contents(sweep, BOARD)[1]
    assert (first["unchanged"], second["unchanged"]) == (False, True)
    assert hub.repo(BOARD, "datasets").titles == ["Push a leaderboard with hf_soups"]
    assert second["words"][-1] == f'Next: datasets.load_dataset("{BOARD}", split="train")'


def test_two_tables_that_differ_are_refused(sweep: Path, tmp_path: Path) -> None:
    before = (sweep / "leaderboard.csv").read_bytes()
    save_board(sweep, 0.625)
    (sweep / "leaderboard.csv").write_bytes(before)
    with pytest.raises(InputError, match=r"leaderboard\.parquet: says other things than leaderboard\.csv beside it"):
        contents(sweep, BOARD)
    (sweep / "leaderboard.parquet").unlink()
    assert "path: leaderboard.csv" in contents(sweep, BOARD)[1]["README.md"].decode()


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "kind,name\n"])
def test_what_is_no_leaderboard_is_refused(sweep: Path, text: str) -> None:
    (sweep / "leaderboard.csv").write_text(text)
    with pytest.raises(InputError, match=r"leaderboard\.csv: no leaderboard: it has no .*Make it again: hf-soups lead"):
        contents(sweep, BOARD)


def test_the_users_own_readme_goes_with_a_leaderboard(sweep: Path) -> None:
    (sweep / "README.md").write_text("# mine\n")
    found, files = contents(sweep, BOARD)
    assert files["README.md"] == b"# mine\n"
    assert any("README.md of the folder is pushed as it is" in note for note in found.notes)


def test_a_pool_goes_with_a_table_for_each_member_and_says_that_labels_go_along(pool: Path) -> None:
    (pool / "old.safetensors").write_bytes(b"of a member that is no more")
    found, files = contents(pool, POOL)
    assert sorted(files) == [
        "README.md", "org--large@160.safetensors", "pool.json", "small.safetensors", "tables/org-large-160.parquet",
        "tables/small.parquet",
    ]  # fmt: skip
    assert [one.path for one in found.left_out] == ["old.safetensors"]
    assert "ids and labels are pushed" in found.notes[0]
    assert b"/home/me" not in files["pool.json"]


def test_a_pool_that_arrived_is_read_as_the_one_that_was_pushed(hub: Hub, pushes: Client, pool: Path) -> None:
    told = pushes(folder=str(pool), repo=POOL, private=True)
    assert pushes(folder=str(pool), repo=POOL)["commit"] == told["commit"]
    assert hub.repo(POOL, "datasets").private
    arrived = pool.parent / "arrived"
    for path, data in held(hub, POOL).items():
        (arrived / path).parent.mkdir(parents=True, exist_ok=True)
        (arrived / path).write_bytes(data)
    here, there = read_pool(pool), read_pool(arrived)
    assert there.members.keys() == here.members.keys()
    for name in here.members:
        assert np.array_equal(there.predictions[name].log_probs, here.predictions[name].log_probs)
        assert there.predictions[name].labels is not None


def test_a_member_of_other_rows_is_refused(pool: Path) -> None:
    answers(3, rows=4).save(pool / "small.safetensors")
    with pytest.raises(PredictionsError, match="holds 4 rows"):
        contents(pool, POOL)
    (pool / "small.safetensors").unlink()
    with pytest.raises(InputError, match=r"small\.safetensors: no file"):
        contents(pool, POOL)


def test_a_table_holds_what_was_answered(tmp_path: Path) -> None:
    dense = answers(0)
    write_table(dense, tmp_path / "dense.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "dense.parquet").to_pydict()
    assert rows["row_id"] == dense.row_ids.tolist()
    assert rows["label"] == [0, 1, 2, 0, 1]
    assert rows["answer"] == dense.answers.tolist()
    assert np.array_equal(np.array(rows["log_probs"], dtype=np.float32), dense.log_probs)


def test_a_table_of_some_classes_names_them_and_says_what_is_left(tmp_path: Path) -> None:
    top = TopKPredictions.of(answers(0), 2)
    write_table(top, tmp_path / "top.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "top.parquet").to_pydict()
    assert np.array_equal(rows["classes"], top.indices)
    assert np.array_equal(np.array(rows["log_probs"], dtype=np.float32), top.top)
    assert np.array_equal(np.array(rows["left"], dtype=np.float32), top.left)


def test_rows_without_labels_and_ids_that_are_texts_have_a_table_too(tmp_path: Path) -> None:
    p = Predictions.from_probs([[0.75, 0.25]] * 2, row_ids=["a", "b"])
    write_table(p, tmp_path / "p.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert (rows["row_id"], rows["label"], rows["answer"]) == (["a", "b"], [None, None], [0, 0])


def test_equal_predictions_give_equal_bytes_however_many_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(answers(0, rows=5000), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pyarrow.parquet.read_metadata(tmp_path / "a").num_rows == 5000


def test_members_whose_names_differ_in_forbidden_characters_alone_get_tables_of_their_own() -> None:
    names = ("a/b", "a@b", "a-b", "@")
    members = {name: Member(name, "m") for name in names}
    tables = tables_of(Pool(Path(), "image", PoolData("d", "data/*.csv"), ("x", "y"), members))
    assert [t.config for t in tables] == ["a-b", "a-b-1", "a-b-2", "member"]
    assert {t.split for t in tables} == {"data_csv"}


LOADED = """
import json, sys
from datasets import load_dataset
found = {}
board = load_dataset("me/board", split="train")
found["board"] = [list(board["name"]), list(board["report"]), list(board["macs"])]
for config in (None, "small", "org-large-160"):
    rows = load_dataset("me/pool", config, split="validation")
    ids, labels, log_probs = (list(rows[name]) for name in ("row_id", "label", "log_probs"))
    found[str(config)] = [ids, rows.features["label"].names, labels, log_probs]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_pushed_tables_are_loaded_by_their_names(
    hub: Hub, pushes: Client, sweep: Path, pool: Path, tmp_path: Path
) -> None:
    for folder, repo in ((sweep, BOARD), (pool, POOL)):
        pushes(folder=str(folder), repo=repo)
    told: dict[str, Any] = json.loads(run(hub, LOADED, home=tmp_path / "pull"))
    assert told["board"] == [["run_00", "run_01"], [0.5, None], [2000, None]]
    assert told["None"] == told["small"]
    for config, seed in (("small", 0), ("org-large-160", 1)):
        ids, names, labels, log_probs = told[config]
        assert ids == [0, 7, 14, 21, 28]
        assert names == ["cat", "dog", "bird"]
        assert labels == [0, 1, 2, 0, 1]
        assert np.array_equal(np.array(log_probs, dtype=np.float32), answers(seed).log_probs)


def test_a_readme_with_broken_metadata_is_told_before_any_upload(hub: Hub, pushes: Client, sweep: Path) -> None:
    (sweep / "README.md").write_text("---\ntags: [a\n---\n")
    told = pushes(folder=str(sweep), repo=BOARD)
    assert "nothing was committed. Invalid metadata in README.md. - while parsing" in told["error"]
    assert not hub.stored
