"""Models exported to ONNX answer as they did, are members beside PyTorch ones, and damaged ones are refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hf_soups
from hf_soups.cascades.running.stored import HANDLER_FILE, read_stored
from hf_soups.checkpoint import Checkpoint
from hf_soups.cli import app
from hf_soups.errors import CheckpointError, InputError, MemberError, MissingExtra
from hf_soups.files.onnx import GRAPH, MANIFEST, RECORD, WEIGHTS
from hf_soups.hub.pushing import gathered
from hf_soups.models.classifier import Classifier
from hf_soups.models.registry import family_for
from hf_soups.pool import read_pool
from hf_soups.pool.predict import predict_pool
from hf_soups.pool.rows import RowsWanted
from hf_soups.pool_jobs.exporting import export_onnx
from hf_soups.soups import uniform
from tests.cascades.made import Made, make
from tests.makers import tiny
from tests.makers.small_task import write_images

CLOSE = 1e-4  # of log-probabilities of one model by two programs


def answers(folder: Path, kind: str, values: list[Any]) -> np.ndarray:
    checkpoint = Checkpoint(folder)
    loaded = Classifier.load(checkpoint, family_for(checkpoint.config, kind, checkpoint), kind)
    return loaded.answer(values).log_probs


def given(pool: Made) -> list[Any]:
    """Its rows as classifiers take them."""
    if pool.kind == "image":
        return [image.convert("RGB") for image in pool.inputs]
    return [(r["text"], r["text_pair"]) if isinstance(r, dict) else (r, None) for r in pool.inputs]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("image", tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def vit(images: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ViT of `images`, exported."""
    out = tmp_path_factory.mktemp("onnx") / "vit-onnx"
    export_onnx(images.members["vit"].source, out)
    return out


@pytest.fixture
def copied(vit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit, tmp_path / "copied"))


def with_member(pool: Made, name: str, folder: Path) -> Made:
    """The pool with a member's ONNX form in its place, and what that answers."""
    own = replace(pool.predictions[name], log_probs=answers(folder, pool.kind, given(pool)))
    member = replace(pool.members[name], source=str(folder), sha256="", files="")
    return replace(pool, members={**pool.members, name: member}, predictions={**pool.predictions, name: own})


def test_stock_onnx_runtime_loads_it_and_answers_as_torch_does(images: Made, vit: Path) -> None:
    import onnxruntime
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(vit, backend="pil")
    model: Any = AutoModelForImageClassification.from_pretrained(images.members["vit"].source)
    session = onnxruntime.InferenceSession(vit / GRAPH)
    for rows in (1, 3, 7):  # any number of rows
        pixels = processor(given(images)[:rows], return_tensors="pt")["pixel_values"]
        (logits,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
        with torch.no_grad():
            assert np.abs(logits - model(pixels).logits.numpy()).max() < CLOSE


def test_it_is_a_member_with_the_counts_of_the_model_that_it_came_from(images: Made, vit: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "data", train=30)
    ids = {"label2id": {"top": 0, "middle": 1, "bottom": 2}, "id2label": {0: "top", 1: "middle", 2: "bottom"}}
    source = tiny.tiny_vit(tmp_path / "three", labels=3, **ids)
    (done,) = export_onnx(source, tmp_path / "three-onnx")
    assert (done.record.parameters, done.record.int8, done.record.image_size) == (
        Checkpoint(source).parameters,
        None,
        32,
    )
    models = [source, tmp_path / "three-onnx"]
    rows: dict[str, Any] = {"data": str(tmp_path / "data"), "split": "train", "out": tmp_path / "pool"}
    result = predict_pool(models, **rows, measure_seconds=True, progress=False)
    by_torch, by_onnx = (result.pool.members[name] for name in ("three", "three-onnx"))
    assert (by_onnx.macs, by_onnx.parameters) == (by_torch.macs, by_torch.parameters)
    assert by_onnx.seconds is not None
    assert by_onnx.seconds_batch_1 is not None
    one, other = (result.pool.predictions[name].log_probs for name in ("three", "three-onnx"))
    assert np.abs(one - other).max() < CLOSE
    again = predict_pool(models, **rows, progress=False)
    assert again.answered == ()
    assert read_pool(tmp_path / "pool").members["three-onnx"].sha256 == Checkpoint(tmp_path / "three-onnx").sha256()


def test_a_cascade_of_both_kinds_leaves_where_its_simulation_says(images: Made, vit: Path, tmp_path: Path) -> None:
    pool = with_member(images, "vit", vit)
    plan = pool.plan((0.4, 0.5), temperatures=(0.1, 0.13, 0.07))
    folder = pool.built(plan, tmp_path / "c")
    raw = json.loads((folder / "config.json").read_text())
    assert [member.get("backend", "torch") for member in raw["members"]] == ["onnx", "torch", "torch"]
    assert {"onnx", "onnxruntime"} <= {
        line.partition(">=")[0] for line in (folder / "requirements.txt").read_text().splitlines()
    }
    told = plan.apply(pool.predictions)
    model: Any = hf_soups.CascadeForImageClassification.from_pretrained(folder)
    done = model(images=given(pool))
    assert told.exits is not None
    assert done.exits.tolist() == told.exits.tolist()
    assert np.abs(done.logits.exp().numpy() - told.probs).max() < CLOSE
    model.save_pretrained(tmp_path / "saved")
    again: Any = hf_soups.CascadeForImageClassification.from_pretrained(tmp_path / "saved")
    assert again(images=given(pool)).exits.tolist() == told.exits.tolist()


@pytest.mark.slow
def test_a_cascade_is_exported_with_its_plan_and_answers_as_before(images: Made, tmp_path: Path) -> None:
    plan = images.plan((0.4, 0.5), temperatures=(0.1, 0.13, 0.07))
    folder = images.built(plan, tmp_path / "c", beside={"evidence.json": b'{"members": {"vit": {"sha256": "x"}}}'})
    (folder / "README.md").write_text("the card")
    done = CliRunner().invoke(app, ["export", str(folder), "--onnx", "--out", str(tmp_path / "onnx")])
    assert done.exit_code == 0, done.output
    assert "the same plan over these members" in done.output
    before, after = read_stored(folder), read_stored(tmp_path / "onnx")
    assert after.built == before.built
    assert [place.backend for place in after.places] == ["onnx"] * 3
    kept = {path.name for path in (tmp_path / "onnx").iterdir()}
    assert {HANDLER_FILE, "evidence.json", "preprocessor_config.json", "requirements.txt"} <= kept
    assert "README.md" not in kept
    told = json.loads((tmp_path / "onnx" / "evidence.json").read_text())["members"]["vit"]
    assert told["sha256"] == after.places[0].sha256 == Checkpoint(tmp_path / "onnx", subfolder="member_0").sha256()
    assert "exported to ONNX after scores and costs were taken" in told["notes"][0]
    (tmp_path / "onnx" / "evidence.json").unlink()  # there is nothing in it for a card
    with gathered(tmp_path / "onnx", "me/x", dry_run=True) as found:
        sent = {file.path for file in found.files}
    assert {f"member_0/{name}" for name in (GRAPH, WEIGHTS, RECORD, MANIFEST, "config.json")} <= sent
    models = [hf_soups.CascadeForImageClassification.from_pretrained(one) for one in (folder, tmp_path / "onnx")]
    torch_done, onnx_done = (model(images=given(images)) for model in models)  # type: ignore[operator]
    assert onnx_done.exits.tolist() == torch_done.exits.tolist()
    assert (onnx_done.logits.exp() - torch_done.logits.exp()).abs().max() < CLOSE
    with pytest.raises(InputError, match="exists already"):
        export_onnx(folder, tmp_path / "onnx")
    export_onnx(folder, tmp_path / "onnx", overwrite=True)


def test_what_a_cascade_in_float32_onnx_would_get_wrong_is_refused(images: Made, tmp_path: Path) -> None:
    plan = images.plan((0.4, 0.5))
    vits = {name: member for name, member in images.members.items() if "vit" in name}
    code = replace(images, members={**images.members, **vits}).built(plan, tmp_path / "code", with_code=True)
    with pytest.raises(InputError, match="code for people without hf_soups loads PyTorch members alone"):
        export_onnx(code, tmp_path / "out")
    half = {name: replace(member, dtype="bfloat16") for name, member in images.members.items()}
    folder = replace(images, members=half).built(plan, tmp_path / "half")
    with pytest.raises(InputError, match="answers in bfloat16, and an export in float32 answers otherwise"):
        export_onnx(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_int8_members_of_a_cascade_are_folders_to_predict_with_and_no_cascade(images: Made, tmp_path: Path) -> None:
    folder = images.built(images.plan((0.4, 0.5)), tmp_path / "c")
    done = CliRunner().invoke(app, ["export", str(folder), "--int8", "dynamic", "--out", str(tmp_path / "int8")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == [
        "other-vit-int8", "resnet-int8", "vit-int8",
    ]  # fmt: skip
    assert "Next: hf-soups predict" in done.output
    whole, small = (
        answers(one, "image", given(images))
        for one in (Path(images.members["vit"].source), tmp_path / "int8" / "vit-int8")
    )
    assert 0 < np.abs(np.exp(whole) - np.exp(small)).max() < 0.05
    record = json.loads((tmp_path / "int8" / "vit-int8" / RECORD).read_text())
    assert record["int8"] == "dynamic"
    assert record["difference"] > 0


def test_static_int8_is_calibrated_on_rows_and_asks_for_them(tmp_path: Path) -> None:
    write_images(tmp_path / "data", train=30)
    source = tiny.tiny_resnet(tmp_path / "cnn")
    rows = RowsWanted(data=str(tmp_path / "data"), split="train", limit=20)
    (done,) = export_onnx(source, tmp_path / "static", int8="static", rows=rows)
    assert (done.record.int8, done.record.calibrated_on) == ("static", 20)
    import onnx

    kinds = {node.op_type for node in onnx.load(tmp_path / "static" / GRAPH, load_external_data=False).graph.node}
    assert {"QuantizeLinear", "Conv"} <= kinds
    for int8, given_rows in (("static", None), ("dynamic", rows), (None, rows)):
        with pytest.raises(InputError, match="static int8 takes the ranges of activations from rows"):
            export_onnx(source, tmp_path / "other", int8=int8, rows=given_rows)  # type: ignore[arg-type]


def test_another_input_size_is_exported_and_no_third_one_answered(tmp_path: Path) -> None:
    source = tiny.tiny_vit(tmp_path / "vit")
    (done,) = export_onnx(f"{source}@48", tmp_path / "at48")
    assert done.record.image_size == 48
    checkpoint = Checkpoint(tmp_path / "at48")
    family = family_for(checkpoint.config, "image", checkpoint)
    assert Classifier.load(checkpoint, family, "image", image_size=48).processor.size["height"] == 48
    with pytest.raises(CheckpointError, match="exported for images of 48 pixels, not 32"):
        Classifier.load(checkpoint, family, "image", image_size=32)
    with pytest.raises(CheckpointError, match="it answers in the precision that it was exported in"):
        Classifier.load(checkpoint, family, "image", dtype=torch.bfloat16)


def _change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _change_graph(folder: Path, change: Callable[[Any], None]) -> None:
    import onnx

    graph = onnx.load(folder / GRAPH, load_external_data=False)
    change(graph)
    (folder / GRAPH).write_bytes(graph.SerializeToString())


def _elsewhere(graph: Any) -> None:
    tensor = next(one for one in graph.graph.initializer if one.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = "../secret.bin"


def _foreign(graph: Any) -> None:
    graph.graph.node[0].domain = "evil.ops"


def _renamed(graph: Any) -> None:
    graph.graph.output[0].name = "scores"
    last = next(node for node in graph.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "scores"


THREE: dict[str, Any] = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other labels": (lambda at: _change_config(at, **THREE), "expected an output 'logits' of shape .rows, 3."),
    "no weights": (lambda at: (at / WEIGHTS).unlink(), "model.onnx is there and model.onnx.data is not"),
    "no record": (lambda at: (at / RECORD).unlink(), "but no onnx.json, so nobody knows what it holds"),
    "damaged record": (lambda at: (at / RECORD).write_text("{"), "onnx.json"),
    "damaged": (lambda at: (at / GRAPH).write_bytes(b"<html>not found</html>"), "no ONNX graph, or a damaged one"),
    "cut weights": (lambda at: (at / WEIGHTS).write_bytes(b"0" * 100), "ONNX Runtime cannot load it"),
    "elsewhere": (lambda at: _change_graph(at, _elsewhere), "nothing but model.onnx.data is read"),
    "foreign": (lambda at: _change_graph(at, _foreign), "of 'evil.ops', which is not loaded"),
    "renamed": (lambda at: _change_graph(at, _renamed), "expected an output 'logits'"),
}


@pytest.mark.parametrize("bad", BAD)
def test_damaged_and_foreign_files_are_refused(copied: Path, images: Made, bad: str) -> None:
    spoil, told = BAD[bad]
    spoil(copied)
    with pytest.raises(CheckpointError, match=told):
        answers(copied, "image", given(images)[:1])


def test_a_cascade_refuses_other_weights_than_it_was_built_of(images: Made, vit: Path, tmp_path: Path) -> None:
    pool = with_member(images, "vit", vit)
    folder = pool.built(pool.plan((0.4, 0.5)), tmp_path / "c")
    other = tmp_path / "other"
    export_onnx(images.members["other-vit"].source, other)
    for name in (GRAPH, WEIGHTS):
        shutil.copyfile(other / name, folder / "member_0" / name)
    with pytest.raises(MemberError, match="its weights are not those that the cascade was built of"):
        hf_soups.CascadeForImageClassification.from_pretrained(folder)


def test_labels_are_matched_by_name_before_rows_are_answered(vit: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "data", train=12)
    result = predict_pool([vit], data=str(tmp_path / "data"), out=tmp_path / "pool", progress=False)
    assert "top" in result.failed["vit-onnx"]


def test_rows_of_another_shape_and_inputs_that_are_missing_are_said(copied: Path, images: Made) -> None:
    processor = json.loads((copied / "preprocessor_config.json").read_text())
    processor["size"] = {"height": 20, "width": 20}
    (copied / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(CheckpointError, match="the graph refuses rows of this shape"):
        answers(copied, "image", given(images)[:1])
    checkpoint = Checkpoint(copied)
    model = Classifier.load(checkpoint, family_for(checkpoint.config, "image", checkpoint), "image").model
    with pytest.raises(CheckpointError, match="the graph reads pixel_values, but the batch has no pixel_values"):
        model(input_ids=torch.zeros(1, 3, dtype=torch.int64))


def test_an_export_is_no_ingredient_and_not_exported_again(vit: Path, images: Made, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be mixed or fine-tuned"):
        uniform([vit, images.members["other-vit"].source]).save_pretrained(tmp_path / "soup")
    with pytest.raises(CheckpointError, match="exported to ONNX already"):
        export_onnx(vit, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_is_more_than_a_models_own_logits_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a cascade nor a classifier"):
        export_onnx(tiny.tiny_clip(tmp_path / "clip"), tmp_path / "out")
    with pytest.raises(InputError, match="neither a cascade nor a classifier"):
        export_onnx(tiny.tiny_bert_mlm(tmp_path / "words"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named(vit: Path, images: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r'pip install "hf_soups\[onnx\]"'):
        answers(vit, "image", given(images)[:1])
    with pytest.raises(MissingExtra, match="onnxscript"):
        export_onnx(images.members["vit"].source, tmp_path / "out")


def test_commands_refuse_rows_without_a_split(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "x", "--out", str(tmp_path / "o"), "--recipe", "r.yaml"])
    assert "name the rows of --calibrate" in str(done.exception)
    done = CliRunner().invoke(app, ["export", "x", "--out", str(tmp_path / "o"), "--int8", "static"])
    assert "give --int8 static with --calibrate select" in str(done.exception)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "roberta", "t5_classifier"])
def test_texts_of_any_length_are_answered_as_before(name: str, tmp_path: Path) -> None:
    kind = "text" if name == "t5_classifier" else "text-pair"
    source = getattr(tiny, f"tiny_{name}")(tmp_path / name, labels=4)
    export_onnx(source, tmp_path / "onnx")
    for rows in (1, 2, 9):
        values = [(text, text[:9] if kind == "text-pair" else None) for text in tiny.tiny_sentences(rows, seed=rows)]
        one, other = (answers(folder, kind, values) for folder in (source, tmp_path / "onnx"))
        assert np.abs(one - other).max() < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_images_are_answered_as_before(name: str, tmp_path: Path, images: Made) -> None:
    source = getattr(tiny, f"tiny_{name}")(tmp_path / name, labels=4)
    export_onnx(source, tmp_path / "onnx")
    one, other = (answers(folder, "image", given(images)) for folder in (source, tmp_path / "onnx"))
    assert np.abs(one - other).max() < CLOSE
