"""Cascades for people without hf_soups: the code that goes with the folder answers as the package does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForImageClassification, pipeline

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Rule
from hf_soups.cascades.running import modeling_cascade
from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.cascades.running.model import CascadeForImageClassification, cascade_class
from hf_soups.errors import InputError, MemberError
from hf_soups.pool.store import Member
from tests.cascades.made import NAMES, Made, make
from tests.hub.clients import knowing
from tests.hub.conftest import blobs_of
from tests.hub.server import running
from tests.makers.bare import bare_python
from tests.makers.tiny import TINY_IMAGE, TINY_TEXT, tiny_clip, tiny_t5_classifier

CODE = "modeling_cascade.py"
RULES = [
    Rule(combine, confidence)
    for combine, confidence in (
        ("mean", "max"),
        ("geometric", "gap"),
        ("last", "entropy"),
        ("geometric", "agreement"),
    )
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    kept: dict[str, Made] = {}

    def one(kind: str) -> Made:
        if kind not in kept:
            kept[kind] = make(kind, tmp_path_factory.mktemp(kind), rows=12)
        return kept[kind]

    return one


def rows_of(pool: Made) -> dict[str, Any]:
    if pool.kind == "image":
        return {"images": [image.convert("RGB") for image in pool.inputs]}
    return {"texts": [(row["text"], row["text_pair"]) if isinstance(row, dict) else row for row in pool.inputs]}


def code_class(kind: str) -> Any:
    name = "CascadeForImageClassification" if kind == "image" else "CascadeForSequenceClassification"
    return getattr(modeling_cascade, name)


def assert_same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-4)
    assert found.exits.tolist() == wanted.exits.tolist()
    assert found.costs.tolist() == wanted.costs.tolist()
    np.testing.assert_allclose(found.confidences, wanted.confidences, atol=1e-4)


@pytest.mark.parametrize("kind", ["image", "text", "text-pair"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.combine}-{rule.confidence}")
def test_the_code_answers_as_the_package(made: Callable[[str], Made], tmp_path: Path, kind: str, rule: Rule) -> None:
    pool = made(kind)
    folder = pool.built(pool.plan((0.4, 0.5), rule, (0.1, 0.13, 0.07)), tmp_path / "c", max_length=64, with_code=True)
    ours, code = (cls.from_pretrained(folder) for cls in (cascade_class(kind), code_class(kind)))
    assert_same(code(**rows_of(pool)), ours(**rows_of(pool)))


ALONE = {
    **{name: ("image", build) for name, build in TINY_IMAGE.items()},
    **{name: ("text", build) for name, build in TINY_TEXT.items() if name != "bert-without-pooler"},  # without a head
}


@pytest.mark.parametrize("architecture", ALONE)
def test_every_architecture_that_it_takes_is_asked_as_the_package_asks_it(
    made: Callable[[str], Made], tmp_path: Path, architecture: str
) -> None:
    kind, build = ALONE[architecture]
    pool, ids = made(kind), {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    one = replace(pool, members={"m": Member("m", str(build(tmp_path / "m", labels=4, **ids)))})
    folder = one.built(Plan(("m",), (), (1.0,)), tmp_path / "c", with_code=True)
    ours, code = (cls.from_pretrained(folder) for cls in (cascade_class(kind), code_class(kind)))
    assert_same(code(**rows_of(pool)), ours(**rows_of(pool)))


def test_of_many_labels_a_row_too(made: Callable[[str], Made], tmp_path: Path) -> None:
    pool = made("text")
    plan = Plan(tuple(pool.members), (0.5, 0.5), (1.0, 4.0, 16.0), Rule("geometric", "labels"), (1.5, 1.0, 0.7))
    members = {}
    for name, member in pool.members.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in Path(member.source).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
        members[name] = replace(member, source=str(folder))
    built = replace(pool, members=members).built(plan, tmp_path / "c", max_length=64, with_code=True)
    ours, code = (cls.from_pretrained(built) for cls in (cascade_class("text"), code_class("text")))
    assert_same(code(**rows_of(pool)), ours(**rows_of(pool)))


def test_images_of_another_size_and_labels_in_another_order(made: Callable[[str], Made], tmp_path: Path) -> None:
    pool = made("image")
    members = {**pool.members, "vit": replace(pool.members["vit"], image_size=48)}
    sized = replace(pool, members=members)
    plan = pool.plan((0.4, 0.5), temperatures=(0.1, 0.13, 0.07))
    from hf_soups.cascades.running.build_folder import build_cascade

    folder = build_cascade(
        plan, sized.members, tmp_path / "c", kind="image", label_names=("great", "good", "bad"), with_code=True
    )
    ours, code = (cls.from_pretrained(folder) for cls in (cascade_class("image"), code_class("image")))
    assert ours.config.places[0].label_order == (3, 2, 0)
    assert_same(code(**rows_of(pool)), ours(**rows_of(pool)))


def test_with_hf_soups_its_own_classes_load_the_folder(made: Callable[[str], Made], tmp_path: Path) -> None:
    pool = made("image")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c", with_code=True)
    for trusted in ({}, {"trust_remote_code": True}):
        model = AutoModelForImageClassification.from_pretrained(folder, **trusted)
        assert type(model) is CascadeForImageClassification
    assert type(model.config) is CascadeConfig
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / CODE).read_bytes() == (folder / CODE).read_bytes()
    assert json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_with_hf_soups_nobody_is_asked_whether_to_run_the_code(
    made: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    pool = made(kind)
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c", with_code=True)
    stock: Any = f"{kind}-classification"
    for task in (stock, f"cascade-{kind}-classification"):
        pipe = pipeline(task, model=str(folder), device="cpu")
        assert type(pipe.model) is cascade_class(kind)
        assert len(pipe(pool.inputs)) == len(pool.inputs)
    assert asked == []


def test_no_code_unless_asked_for(made: Callable[[str], Made], tmp_path: Path) -> None:
    pool = made("image")
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
    assert not (folder / CODE).exists()
    assert "auto_map" not in (folder / "config.json").read_text() + (folder / "preprocessor_config.json").read_text()


@pytest.mark.parametrize("where", ["evil.Config", "me/other--modeling_cascade.CascadeConfig", "../modeling_cascade.X"])
def test_code_of_others_is_refused(made: Callable[[str], Made], tmp_path: Path, where: str) -> None:
    pool = made("image")
    path = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c", with_code=True) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {**config["auto_map"], "AutoConfig": where}}))
    with pytest.raises(InputError, match=r"auto_map.*names code to run"):
        AutoModelForImageClassification.from_pretrained(path.parent)


def test_members_that_transformers_does_not_ask_alike_are_refused(made: Callable[[str], Made], tmp_path: Path) -> None:
    images, texts = made("image"), made("text")
    ids = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    clip = replace(images.members["vit"], source=str(tiny_clip(tmp_path / "clip")), templates=("a photo of a {}.",))
    t5 = replace(texts.members["bert"], source=str(tiny_t5_classifier(tmp_path / "t5", labels=4, **ids)))
    for pool, name, member in ((images, "vit", clip), (texts, "bert", t5)):
        other = replace(pool, members={**pool.members, name: member})
        plan = pool.plan((0.4, 0.5))
        with pytest.raises(
            MemberError, match=rf"member {name!r} .*transformers alone does not load .*Build without code"
        ):
            other.built(plan, tmp_path / "refused", with_code=True)
        assert not (tmp_path / "refused").exists()
        other.built(plan, tmp_path / name)


LOAD = """
import json, sys, torch
try:
    import hf_soups
except ImportError:
    pass
else:
    raise SystemExit("hf_soups is here")
from PIL import Image
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, pipeline
asked = json.load(sys.stdin)
try:
    AutoModelForImageClassification.from_pretrained("without-code")
except ValueError as error:
    assert "model type `cascade`" in str(error)  # docs/hub.md says so; no other word of config.json is shown
else:
    raise SystemExit("transformers knows cascades")
found = []
for kind, folder, rows in asked:
    image = kind == "image"
    auto = AutoModelForImageClassification if image else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, trust_remote_code=True)
    rows = [Image.open(row) for row in rows] if image else rows
    pairs = [(row["text"], row["text_pair"]) if isinstance(row, dict) else row for row in rows]
    with torch.no_grad():
        done = model(images=rows) if image else model(texts=pairs)
    task = "image-classification" if image else "text-classification"
    pipe = pipeline(task, model=folder, trust_remote_code=True, device="cpu")
    found.append({
        "logits": done.logits.tolist(), "exits": done.exits.tolist(), "costs": done.costs.tolist(),
        "confidences": done.confidences.tolist(), "class": type(model).__module__,
        "pipe": [pipe(rows, top_k=2, batch_size=size) for size in (1, 3)],
    })
    try:
        model.save_pretrained("saved")
    except NotImplementedError as error:
        assert "Copy its folder" in str(error)
    else:
        raise SystemExit("it was saved without its members' folders")
assert not any(name.split(".")[0] == "hf_soups" for name in sys.modules)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_without_hf_soups_the_folder_loads_and_answers_as_the_package(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    """Two of the cascades are folders, one is a repo of a Hub."""
    asked, wanted, piped = [], [], []
    for kind in ("image", "text", "text-pair"):
        pool = made(kind)
        plan = pool.plan((0.4, 0.5), temperatures=(0.1, 0.13, 0.07))
        folder = pool.built(plan, tmp_path / kind, max_length=64, with_code=True)
        rows = pool.inputs
        if kind == "image":
            rows = [str(tmp_path / f"{i}.png") for i in range(len(pool.inputs))]
            for path, image in zip(rows, pool.inputs, strict=True):
                image.convert("RGB").save(path)
        asked.append((kind, "me/texts" if kind == "text" else str(folder), rows))
        wanted.append(cascade_class(kind).from_pretrained(folder)(**rows_of(pool)))
        task: Any = f"cascade-{'image' if kind == 'image' else 'text'}-classification"
        piped.append(pipeline(task, model=str(folder), device="cpu")(rows, top_k=2))
    pool = made("image")
    pool.built(pool.plan((0.4, 0.5)), tmp_path / "without-code")
    with running() as hub:
        hub.create("me/texts").commit("main", "a cascade", blobs_of(tmp_path / "text"))
        known = {name: value for name, value in knowing(hub, tmp_path / "home").items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [bare_python(tmp_path / "fresh"), "-c", LOAD], input=json.dumps(asked), capture_output=True, text=True,
            check=False, cwd=tmp_path, env=known,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not supported" not in done.stderr
    for found, told, answers in zip(json.loads(done.stdout), wanted, piped, strict=True):
        assert "transformers_modules" in found["class"]
        np.testing.assert_allclose(found["logits"], told.logits, atol=1e-4)
        np.testing.assert_allclose(found["confidences"], told.confidences, atol=1e-4)
        assert found["exits"] == told.exits.tolist()
        assert found["costs"] == told.costs.tolist()
        for batches in found["pipe"]:
            for one, other in zip(batches, answers, strict=True):
                assert [a["label"] for a in one] == [a["label"] for a in other]
                np.testing.assert_allclose([a["score"] for a in one], [a["score"] for a in other], atol=1e-5)
