"""Pulling: models, soups and cascades by their names on the Hub, at the revision that was asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.hub.clients import Client, client
from tests.hub.conftest import blobs_of
from tests.hub.server import DROP, Blob, Hub
from tests.makers.tiny import tiny_bert, tiny_vit

LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}


def other(files: dict[str, Blob]) -> dict[str, Blob]:
    """The same checkpoint with other weights: the last number is another."""
    weights = files["model.safetensors"].data
    return {**files, "model.safetensors": Blob(weights[:-4] + np.float32(7).tobytes(), lfs=True)}


# What a Checkpoint says of the Hub; no model runs.


def test_a_branch_a_tag_and_a_commit_are_pulled_as_they_are(hub: Hub, reader: Client, small: Path) -> None:
    files = blobs_of(small)
    repo = hub.create("me/revisions")
    first = repo.commit("main", "one", files)
    repo.tags["v1"] = first.oid
    repo.commit("main", "two", other(files))
    repo.branches["try/three"] = first.oid
    old = files["model.safetensors"].sha256
    new = other(files)["model.safetensors"].sha256
    assert old != new
    expected = {None: new, "main": new, "v1": old, "try/three": old, first.oid: old}
    assert {rev: reader(repo="me/revisions", revision=rev)["sha256"] for rev in expected} == expected
    repo.commit("main", "three", files)
    assert reader(repo="me/revisions")["sha256"] == old


def test_only_the_subfolder_that_was_asked_for_is_pulled(hub: Hub, reader: Client, small: Path) -> None:
    files = blobs_of(small)
    placed = {
        f"member_{i}/{path}": blob for i, these in enumerate((files, other(files))) for path, blob in these.items()
    }
    hub.create("me/members").commit("main", "x", {"config.json": Blob(b"{}"), **placed})
    told = reader(repo="me/members", subfolder="member_1")
    assert told["sha256"] == other(files)["model.safetensors"].sha256
    assert hub.asked("GET", "/storage/") == 1
    assert hub.asked("GET", "/member_0/") == hub.asked("HEAD", "/member_0/") == 0


def test_an_export_to_onnx_is_pulled_with_its_graph_and_other_peoples_copies_are_not(
    hub: Hub, reader: Client, small: Path, tmp_path: Path
) -> None:
    config = {"config.json": Blob((small / "config.json").read_bytes())}
    graph = {"model.onnx": Blob(b"graph"), "model.onnx.data": Blob(b"weights" * 1000)}
    hub.create("me/exported").commit("main", "x", {**config, **graph, "onnx.json": Blob(b"{}")})
    told = reader(repo="me/exported")
    assert (Path(told["folder"]) / "model.onnx.data").read_bytes() == b"weights" * 1000
    hub.create("me/copy").commit("main", "x", {**blobs_of(small), **graph})
    told = reader(repo="me/copy")
    assert told["sha256"] == blobs_of(small)["model.safetensors"].sha256
    assert not (Path(told["folder"]) / "model.onnx").exists()


@pytest.mark.parametrize(
    ("repo", "revision", "token", "message"),
    [
        ("me/none", None, None, "it is private (401, no token was sent): check the name, or log in (hf auth login"),
        ("me/none", None, "hf_read", "it is private (404, not for this token): check the name, or use a token"),
        ("me/secret", None, None, "no such repo on the Hub, or it is private (401, no token was sent)"),
        ("me/secret", None, "hf_other", "no such repo on the Hub, or it is private (404, not for this token)"),
        ("me/secret", None, "hf_gone", "the Hub does not accept this token (401: Invalid credentials"),
        ("me/secret", "v9", "hf_read", "me/secret@v9: the repo has no such revision. Name a branch, tag or commit"),
        ("me/gated", None, None, "this repo is gated. Ask for access on its page"),
        ("me/gated", None, "hf_other", "this repo is gated. Ask for access on its page"),
    ],
)
def test_a_refused_pull_says_why_and_what_to_do(
    hub: Hub, reader: Client, small: Path, repo: str, revision: str | None, token: str | None, message: str
) -> None:
    hub.create("me/secret", private=True).commit("main", "x", blobs_of(small))
    hub.create("me/gated").commit("main", "x", blobs_of(small))
    hub.repo("me/gated").gated = True
    told = reader(repo=repo, revision=revision, token=token)
    assert message in told["error"]
    assert told["error"].startswith(repo)
    assert "\n" not in told["error"]
    assert told["status"] == 2


def test_a_token_that_only_reads_is_enough_for_a_private_repo(hub: Hub, reader: Client, small: Path) -> None:
    hub.create("me/mine", private=True).commit("main", "x", blobs_of(small))
    assert reader(repo="me/mine", token="hf_read")["sha256"] == blobs_of(small)["model.safetensors"].sha256


def test_offline_what_was_pulled_before_is_used_and_anything_else_is_told(
    hub: Hub, reader: Client, small: Path
) -> None:
    hub.create("me/known").commit("main", "x", blobs_of(small))
    known = reader(repo="me/known")
    before = len(hub.requests)
    assert reader(repo="me/known", offline=True) == known
    told = reader(repo="me/new", offline=True)
    assert (
        "me/new: no such folder here, not in the Hub's cache, and offline mode is on (HF_HUB_OFFLINE)" in told["error"]
    )
    assert told["status"] == 2
    assert len(hub.requests) == before


# What transformers loads, in one process that has imported it.

LOADER = """
import sys
import torch
import hf_soups
from PIL import Image
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, pipeline
from hf_soups import CascadeForImageClassification
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.cli import app
from hf_soups.hub import models, push, pushing
from hf_soups.pool.store import Member
from hf_soups.files import downloads

torch.set_num_threads(1)
pushing.WAITS, downloads.WAITS = (0.0, 0.0, 0.0), (0.0, 0.0)
models.run_snippet = lambda *_, **__: None  # test_push_cards.py runs it
IMAGES = [Image.linear_gradient("L").convert("RGB").rotate(90 * turn) for turn in range(4)]
TEXTS = ["a good film", "the story was terrible and boring", "dogs"]

def do(op, **what):
    return globals()[op](**what)

def pushed(folder, repo, **how):
    done = push(folder, repo, **how)
    return {"commit": done.commit, "unchanged": done.unchanged}

def logits(model, kind, **how):
    auto = AutoModelForImageClassification if kind == "image" else AutoModelForSequenceClassification
    loaded = auto.from_pretrained(model, **how).eval()
    given = {"pixel_values": torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)} if kind == "image" else {
        "input_ids": torch.arange(5, 15)[None]}
    with torch.no_grad():
        return loaded(**given).logits.tolist()

def piped(task, model, **how):
    return pipeline(task, model=model, **how)(TEXTS if task.startswith("text") else IMAGES)

def cascaded(model, **how):
    cascade = CascadeForImageClassification.from_pretrained(model, **how)
    return [place.subfolder or place.repo for place in cascade.places]

def built(out, members, references=False):
    known = {name: Member(name, source) for name, source in members.items()}
    plan = Plan(tuple(known), (0.5,), (1.0, 4.0), unit="macs")
    return str(build_cascade(
        plan, known, out, kind="image", label_names=("cat", "dog", "bird"), references=references))

def line(arguments):
    return app(arguments, standalone_mode=False)
"""


@pytest.fixture(scope="module")
def lasting_loader(lasting_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(lasting_hub, LOADER, tmp_path_factory.mktemp("home")) as process:
        yield process


@pytest.fixture
def loader(hub: Hub, lasting_loader: Client) -> Client:
    """Loads what this test's Hub holds, by transformers."""
    return lasting_loader


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("vits")
    return {name: tiny_vit(at / name, seed=seed, **LABELS) for seed, name in enumerate(("first", "second"))}


@pytest.mark.slow
def test_a_soup_pushed_through_faults_is_loaded_by_auto_model_and_by_the_pipeline(
    hub: Hub, loader: Client, tmp_path: Path
) -> None:
    from hf_soups import Checkpoint, uniform

    large = {"hidden_size": 256, "intermediate_size": 2048, **LABELS}  # 10 MB and more
    runs = [Checkpoint(tiny_vit(tmp_path / f"run_{seed}", seed=seed, **large)) for seed in (0, 1)]
    soup = uniform(runs).save_pretrained(tmp_path / "soup")
    assert (soup / "model.safetensors").stat().st_size > 10_000_000
    for method, part, how in (
        ("POST", "/repos/create", 429), ("PUT", "/lfs/", DROP), ("POST", "/commit/", DROP), ("POST", "/commit/", 503),
    ):  # fmt: skip
        hub.fail(method, part, how)
    told = loader(op="pushed", folder=str(soup), repo="me/soup", private=True)
    assert told == {"commit": hub.repo("me/soup").branches["main"], "unchanged": False}
    assert hub.faults == []
    assert len(hub.repo("me/soup").titles) == 1
    assert hub.asked("PUT", "/lfs/") == 2
    assert loader(op="pushed", folder=str(soup), repo="me/soup") == {**told, "unchanged": True}

    branch = tmp_path / "branch"
    shutil.copytree(soup, branch)
    shutil.copy(runs[0].folder / "model.safetensors", branch)
    hub.repo("me/soup").commit("v2", "the first run alone", blobs_of(branch))

    for revision, folder in (("main", soup), ("v2", branch)):
        for how in ({"op": "logits", "kind": "image"}, {"op": "piped", "task": "image-classification"}):
            pulled = loader(model="me/soup", revision=revision, token="hf_read", **how)
            assert pulled == loader(model=str(folder), **how)
    assert loader(op="logits", model=str(soup), kind="image") != loader(op="logits", model=str(branch), kind="image")
    refused = loader(op="logits", model="me/soup", kind="image", revision="main", force_download=True, token=None)
    assert "is not a local folder and is not a valid model identifier" in refused["error"]


@pytest.mark.slow
def test_a_soup_of_texts_is_loaded_by_auto_model_and_by_the_pipeline(hub: Hub, loader: Client, tmp_path: Path) -> None:
    from hf_soups import Checkpoint, uniform

    runs = [Checkpoint(tiny_bert(tmp_path / f"run_{seed}", seed=seed)) for seed in (0, 1)]
    soup = uniform(runs).save_pretrained(tmp_path / "soup")
    hub.create("me/texts").commit("main", "x", blobs_of(soup))
    for how in ({"op": "logits", "kind": "text"}, {"op": "piped", "task": "text-classification"}):
        assert loader(model="me/texts", **how) == loader(model=str(soup), **how)


@pytest.mark.slow
def test_a_cascade_is_loaded_by_its_class_and_by_the_pipeline(
    hub: Hub, loader: Client, vits: dict[str, Path], tmp_path: Path
) -> None:
    for name, folder in vits.items():
        hub.create(f"me/{name}").commit("main", "x", blobs_of(folder))
    ids = {name: f"me/{name}" for name in vits}
    folders = {name: str(folder) for name, folder in vits.items()}
    inside = Path(loader(op="built", out=str(tmp_path / "inside"), members=folders))
    pinned = Path(loader(op="built", out=str(tmp_path / "pinned"), members=ids, references=True))
    assert not list(pinned.glob("member_*"))
    for name, folder in (("inside", inside), ("pinned", pinned)):
        hub.create(f"me/{name}", private=name == "inside").commit("main", "x", blobs_of(folder))
    answers = loader(op="piped", task="cascade-image-classification", model=str(inside))
    assert len(answers) == 4
    # the members' own repos move on; a cascade stays with the commits that it was chosen with
    for name, another in (("first", "second"), ("second", "first")):
        hub.repo(f"me/{name}").commit("main", "another model", blobs_of(vits[another]))
    for repo in ("me/inside", "me/pinned"):
        assert loader(op="piped", task="cascade-image-classification", model=repo, token="hf_read") == answers
    assert loader(op="cascaded", model="me/inside") == ["member_0", "member_1"]
    assert loader(op="cascaded", model="me/pinned") == ["me/first", "me/second"]


@pytest.mark.slow
def test_members_are_of_the_commit_that_the_config_is_of(
    hub: Hub, loader: Client, vits: dict[str, Path], tmp_path: Path
) -> None:
    folders = {name: str(folder) for name, folder in vits.items()}
    cascade = Path(loader(op="built", out=str(tmp_path / "c"), members=folders))
    (cascade / "member_1" / "config.json").unlink()
    torn, whole = blobs_of(cascade), {**blobs_of(cascade)}
    whole["member_1/config.json"] = Blob((vits["second"] / "config.json").read_bytes())
    for op, how in (("cascaded", {}), ("piped", {"task": "cascade-image-classification"})):
        repo = hub.create(f"me/moves-{op}")
        repo.commit("main", "whole", whole)
        # the next push arrives between the config and the members
        hub.fail("HEAD", "/config.json", lambda repo=repo: repo.commit("main", "torn", torn))
        told = loader(op=op, model=f"me/moves-{op}", **how)
        assert hub.faults == []
        assert isinstance(told, list), told
        again = loader(op="cascaded", model=f"me/moves-{op}")
        assert "member 'second' of the cascade" in again["error"]


@pytest.mark.slow
def test_a_cascade_that_may_not_be_seen_is_told_with_the_member_that_lacks(
    hub: Hub, loader: Client, vits: dict[str, Path], tmp_path: Path
) -> None:
    ids = {name: f"me/hidden-{name}" for name in vits}
    for name, folder in vits.items():
        hub.create(ids[name]).commit("main", "x", blobs_of(folder))
    pinned = Path(loader(op="built", out=str(tmp_path / "pinned"), members=ids, references=True))
    hub.create("me/hidden", private=True).commit("main", "x", blobs_of(pinned))
    told = loader(op="cascaded", model="me/hidden", token=None)
    assert told["error"].startswith("me/hidden: no such folder here and no such repo on the Hub, or it is private (401")
    hub.fail("GET", "/me/hidden-second/resolve/", 503, times=20)
    busy = loader(op="cascaded", model="me/hidden", cache_dir=str(tmp_path / "busy"))
    assert "member 'second' of the cascade (me/hidden-second" in busy["error"]
    assert "the Hub answered 503" in busy["error"]
    assert busy["status"] == 1
    hub.faults.clear()
    del hub.repos["models", "me/hidden-second"]
    gone = loader(op="cascaded", model="me/hidden", cache_dir=str(tmp_path / "empty"))
    assert "member 'second' of the cascade (me/hidden-second" in gone["error"]
    assert "no such repo on the Hub, or it is private (404, not for this token)" in gone["error"]
    assert gone["status"] == 2


@pytest.mark.slow
def test_cook_takes_repos_of_the_hub(hub: Hub, loader: Client, vits: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in vits.items():
        hub.create(f"me/{name}", private=True).commit("main", "x", blobs_of(folder))
    for sources, out in ((map(str, vits.values()), "here"), (("me/first", "me/second"), "there")):
        told = loader(op="line", arguments=["cook", *sources, "--method", "uniform", "--out", str(tmp_path / out)])
        assert told is None
    weights = [next((tmp_path / out).rglob("model.safetensors")) for out in ("here", "there")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    soup = json.loads((weights[1].parent / "soup.json").read_text())
    assert [place["source"] for place in soup["ingredients"]] == ["me/first", "me/second"]
    hub.create("me/closed", private=True).commit("main", "x", blobs_of(vits["first"]))
    arguments = ["cook", "me/first", "me/closed", "--method", "uniform", "--out", str(tmp_path / "refused")]
    told = loader(op="line", arguments=arguments, token="hf_other")
    assert "me/closed: no such folder here and no such repo on the Hub, or it is private (404" in told["error"]
    assert told["status"] == 2
    assert not (tmp_path / "refused").exists()
