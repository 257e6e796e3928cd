"""Filling a pool: each model answers as it would alone, labels joined by name, and nothing is done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_soups.data import load_splits
from hf_soups.errors import DataError, DataWarning, HfSoupsError, InputError
from hf_soups.models.vision import Vision
from hf_soups.pool import read_pool
from hf_soups.pool.predict import predict_pool, print_result
from hf_soups.pool.shards import Processes, alone, check_disk, row_bytes
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions
from tests.makers.patience import PATIENCE
from tests.makers.small_task import image_recipe, text_recipe, write_images, write_texts
from tests.makers.tiny import tiny_bert, tiny_clip, tiny_resnet, tiny_vit

NAMES = ("top", "middle", "bottom")
ROWS = 31


def called(names: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and models whose classes stand in several orders."""
    made = tmp_path_factory.mktemp("pool")
    write_images(made / "data", train=40, report=ROWS)
    tiny_vit(made / "vit", **called(NAMES))
    tiny_vit(made / "turned", **called(NAMES[::-1]))  # the same weights, other names
    tiny_resnet(made / "resnet", seed=1, **called(NAMES))
    tiny_resnet(made / "wide", labels=5, seed=2, **called(("a", "bottom", "b", "top", "middle")))
    tiny_vit(made / "nameless", seed=3)
    return made


def predicted(folder: Path, out: Path, *models: str, **how: Any) -> Any:
    given = {"data": str(folder / "data" / "validation.parquet"), "batch_size": 4, "progress": False, **how}
    return predict_pool([str(folder / m) for m in models], out=out, **given)


def by_hand(folder: Path, model: str, size: int | None = None) -> np.ndarray:
    """Log-probabilities of one model, row by row, in its own order of classes."""
    recipe = image_recipe(folder / "data", folder / model)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"image_size": size})})
    split, family = load_splits(recipe.task, recipe.data).report, Vision()
    encoded = family.encode(split, family.processor(folder / model), recipe.task, recipe.data)
    loaded = family.load(folder / model)
    with torch.no_grad():
        how = {"interpolate_pos_encoding": True} if size else {}
        rows = [loaded(**encoded.batch([i]), **how).logits for i in range(len(split))]
    return torch.cat(rows).log_softmax(dim=1).numpy()


def test_labels_are_joined_by_name_whatever_their_order_or_number(folder: Path, tmp_path: Path) -> None:
    result = predicted(folder, tmp_path / "preds", "vit", "turned", "wide")
    assert (result.answered, result.failed, result.exit_status) == (("vit", "turned", "wide"), {}, 0)
    pool = read_pool(tmp_path / "preds")
    assert (pool.kind, pool.label_names, pool.data.rows, pool.data.columns) == ("image", NAMES, ROWS, ("image",))
    own = by_hand(folder, "vit")
    np.testing.assert_allclose(pool.predictions["vit"].log_probs, own, atol=2e-5)
    np.testing.assert_allclose(pool.predictions["turned"].log_probs, own[:, ::-1], atol=2e-5)
    wide = by_hand(folder, "wide")[:, [3, 4, 1]]  # asked about three of its five classes
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(pool.predictions["wide"].log_probs, wide, atol=2e-5)
    assert pool.members["wide"].notes[0] == "asked about 3 of its 5 classes"
    first = pool.predictions["vit"]
    assert all(p.aligned_to(first) is p for p in pool.predictions.values())  # one order of rows, nothing copied
    assert isinstance(first.log_probs, np.memmap)
    assert sorted(p.name for p in pool.folder.iterdir()) == [
        "pool.json", "turned.safetensors", "vit.safetensors", "wide.safetensors",
    ]  # fmt: skip


def test_a_model_without_label_names_is_refused_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    result = predicted(folder, tmp_path / "preds", "nameless", "resnet")
    assert result.answered == ("resnet",)
    assert result.exit_status == 1
    assert "have no names (LABEL_0, LABEL_1, ...)" in result.failed["nameless"]
    assert "`assume_label_order=True`" in result.failed["nameless"]
    again = predicted(folder, tmp_path / "preds", "nameless", "resnet", assume_label_order=True)
    assert (again.answered, again.kept) == (("nameless",), ("resnet",))
    assert again.pool.members["nameless"].notes[0] == "its classes are assumed to be in the data's order"


def test_an_assumed_order_that_the_data_contradict_is_refused(folder: Path, tmp_path: Path) -> None:
    """All models of one pool see the rows; this one is right on all of them, but for the names of its classes."""
    write_images(tmp_path / "data", train=40, report=200)
    at = tmp_path / "data" / "validation.parquet"
    found = predicted(folder, tmp_path / "look", "vit", data=str(at)).pool.predictions["vit"]
    assert len(np.unique(found.answers)) > 1
    labels = (found.answers + 1) % 3  # the data, as if the model's classes were numbered otherwise
    from datasets import Dataset

    rows = Dataset.from_parquet(str(at)).remove_columns("label")
    rows = rows.add_column("label", [NAMES[i] for i in labels]).class_encode_column("label")
    rows.to_parquet(tmp_path / "turned.parquet")
    config = json.loads((folder / "vit" / "config.json").read_text())
    for name in ("id2label", "label2id"):
        del config[name]
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    for path in (folder / "vit").iterdir():
        (nameless / path.name).symlink_to(path)
    (nameless / "config.json").unlink()
    (nameless / "config.json").write_text(json.dumps({**config, "num_labels": 3}))
    result = predict_pool(
        [nameless], data=str(tmp_path / "turned.parquet"), out=tmp_path / "preds", assume_label_order=True,
        progress=False,
    )  # fmt: skip
    assert "its labels were assumed to be in the data's order, but it is right on" in result.failed["nameless"]
    assert not (tmp_path / "preds" / "nameless.safetensors").exists()


def test_one_model_at_two_input_sizes_is_two_members(folder: Path, tmp_path: Path) -> None:
    pool = predicted(folder, tmp_path / "preds", "vit", "vit@16").pool
    small, big = pool.members["vit@16"], pool.members["vit"]
    assert (small.image_size, big.image_size) == (16, None)
    assert small.sha256 == big.sha256
    assert pool.checkpoint("vit@16") == pool.checkpoint("vit")
    assert small.macs is not None
    assert big.macs is not None
    assert small.macs < big.macs / 3  # a quarter of the patches
    np.testing.assert_allclose(pool.predictions["vit@16"].log_probs, by_hand(folder, "vit", 16), atol=2e-5)
    sized = predicted(folder, tmp_path / "sized", "resnet", image_sizes=(24, 32)).pool
    assert list(sized.members) == ["resnet@24", "resnet@32"]


def test_a_second_call_keeps_what_is_there_and_adds_what_is_new(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "preds"
    predicted(folder, out, "vit")
    before = (out / "vit.safetensors").stat().st_mtime_ns
    result = predicted(folder, out, "vit", "resnet", batch_size=7)  # the size of batches is no part of an answer
    assert (result.answered, result.kept) == (("resnet",), ("vit",))
    assert (out / "vit.safetensors").stat().st_mtime_ns == before
    (out / "vit.safetensors").write_bytes(b"damaged")
    assert predicted(folder, out, "vit", "resnet").answered == ("vit",)
    assert len(read_pool(out).predictions["vit"]) == ROWS


def test_a_name_is_not_given_to_other_weights(folder: Path, tmp_path: Path) -> None:
    predicted(folder, tmp_path / "preds", "vit")
    again = predict_pool(
        [f"vit={folder / 'resnet'}"], data=str(folder / "data" / "validation.parquet"), out=tmp_path / "preds",
        progress=False,
    )  # fmt: skip
    assert "has a member 'vit' already, of other weights" in again.failed["vit"]
    assert "NAME=MODEL" in again.failed["vit"]


def test_a_pool_of_other_rows_is_refused_before_anything_is_answered(folder: Path, tmp_path: Path) -> None:
    predicted(folder, tmp_path / "preds", "vit")
    with pytest.raises(InputError, match=r"there is a pool of other predictions: rows with the fingerprint .* instead"):
        predicted(folder, tmp_path / "preds", "vit", data=str(folder / "data" / "train.parquet"))
    with pytest.raises(InputError, match=r"top-k None instead of 2 \(31 rows of .*validation.parquet, split train\)"):
        predicted(folder, tmp_path / "preds", "vit", top_k=2)


def test_top_k_members_answer_as_dense_ones_and_say_what_is_uncertain(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = predicted(folder, tmp_path / "dense", "vit", "resnet").pool
    result = predicted(folder, tmp_path / "top", "vit", "resnet", top_k=2)
    for name, p in result.pool.predictions.items():
        assert isinstance(p, TopKPredictions)
        np.testing.assert_array_equal(p.answers, dense.predictions[name].answers)
        np.testing.assert_array_equal(p.needs_labels(), dense.predictions[name].needs_labels())
        np.testing.assert_allclose(p.log_probs, dense.predictions[name].log_probs, atol=1e-5)  # one class is left out
    assert result.uncertain is not None
    assert 0 <= result.uncertain < 1
    print_result(result)
    assert "top 2 of 3 classes kept: the answer of the members' mean is certain for all but" in capsys.readouterr().out


def test_a_recipe_gives_the_rows_that_soups_are_chosen_on(tmp_path: Path) -> None:
    write_texts(tmp_path / "data", train=100)
    model = tiny_bert(tmp_path / "bert", id2label={0: "neg", 1: "pos"})
    recipe = text_recipe(tmp_path / "data", model)
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json(exclude_none=True))
    how = {"recipe": tmp_path / "recipe.yaml", "progress": False}
    with pytest.warns(DataWarning, match=r"^bert: no run\.json says that the select rows were kept out"):
        pool = predict_pool([model], out=tmp_path / "preds", **how).pool
    select = load_splits(recipe.task, recipe.data).select
    assert (pool.data.fingerprint, pool.data.split) == (select.fingerprint, "select")
    np.testing.assert_array_equal(pool.predictions["bert"].row_ids, select.row_ids)
    report = predict_pool([model], out=tmp_path / "report", split="report", limit=10, **how).pool
    assert report.data.rows == 10
    with pytest.raises(InputError, match="no split 'test' to answer; there are: select, report"):
        predict_pool([model], out=tmp_path / "x", split="test", **how)


def test_texts_are_found_by_their_columns(tmp_path: Path) -> None:
    write_texts(tmp_path / "data")
    model = tiny_bert(tmp_path / "bert", id2label={0: "neg", 1: "pos"})
    pool = predict_pool(
        [model], data=str(tmp_path / "data" / "validation.csv"), out=tmp_path / "p", progress=False
    ).pool
    assert (pool.kind, pool.data.columns, pool.data.label) == ("text", ("text",), "label")
    with pytest.raises(DataError, match="no column 'words'; there are: text, label"):
        predict_pool([model], data=str(tmp_path / "data"), text=["words"], split="train.csv", out=tmp_path / "q")
    (tmp_path / "bare.csv").write_text("one\nword\n")
    with pytest.raises(DataError, match=r"no label column among one\. A pool is scored, so its rows need labels"):
        predict_pool([model], data=str(tmp_path / "bare.csv"), out=tmp_path / "q")
    with pytest.raises(InputError, match=r"give either data \(`data`, with `split`\) or a recipe"):
        predict_pool([model], out=tmp_path / "q")


def test_a_zero_shot_clip_is_a_member_like_others(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    clip = tiny_clip(tmp_path / "clip")
    templates = ("a photo of a {}.", "the {}!")
    pool = predicted(folder, tmp_path / "preds", str(clip), templates=templates).pool
    assert pool.members["clip"].templates == templates
    whole, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    recipe = image_recipe(folder / "data", clip)
    split = load_splits(recipe.task, recipe.data).report
    pixels = Vision().encode(split, Vision().processor(clip), recipe.task, recipe.data).batch(range(ROWS))
    heads = []
    with torch.no_grad():
        for name in NAMES:
            tokens = tokenizer([t.format(name) for t in templates], padding=True, return_tensors="pt")
            told = whole(**tokens, **pixels)
            heads.append(torch.nn.functional.normalize(told.text_embeds.mean(dim=0), dim=0))
        logits = whole.logit_scale.exp() * told.image_embeds @ torch.stack(heads).T
    np.testing.assert_allclose(pool.predictions["clip"].log_probs, logits.log_softmax(dim=1), atol=1e-4)
    with pytest.raises(InputError, match=r"the template 'a cat' has no place for the class. Put one \{\} in it"):
        predicted(folder, tmp_path / "x", str(clip), templates=("a cat",))


def test_costs_are_counted_always_and_measured_on_request(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "preds"
    pool = predicted(folder, out, "resnet").pool
    member = pool.members["resnet"]
    assert pool.costs("macs")["resnet"].value == member.macs
    assert (pool.costs()["resnet"].unit, pool.costs()["resnet"].hardware) == ("macs", "")
    assert member.bytes is not None
    assert member.parameters is not None
    assert member.bytes > 4 * member.parameters
    with pytest.raises(
        InputError, match=r"resnet: its seconds .* were not measured\. Predict again with `measure_seconds=True`"
    ):
        pool.costs("seconds")
    with pytest.raises(InputError, match="'watts' is no unit of costs; expected one of macs, parameters, seconds"):
        pool.costs("watts")
    measured = predicted(folder, out, "resnet", measure_seconds=True)
    assert measured.kept == ("resnet",)
    cost, single = (measured.pool.costs(unit)["resnet"] for unit in ("seconds", "seconds_batch_1"))
    assert 0 < cost.value <= single.value
    assert "thread" in cost.hardware


def test_a_broken_model_is_named_and_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tiny_vit(tmp_path / "broken", **called(NAMES))
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    result = predicted(folder, tmp_path / "preds", str(broken), "resnet")
    assert "answers 4 of 4 rows of report with NaN" in result.failed["broken"]
    assert list(result.pool.members) == ["resnet"]


def test_answers_that_do_not_fit_on_the_disk_are_told_before(tmp_path: Path) -> None:
    with pytest.raises(HfSoupsError, match=r"need .* GB, but .* GB are free there.*With `top_k=20` it would be"):
        check_disk(tmp_path / "preds", members=30, rows=10**12, classes=1000, top_k=None)
    check_disk(tmp_path / "preds", members=3, rows=1000, classes=10, top_k=None)
    assert row_bytes(1000, 2000) > row_bytes(1000, 10)


def test_two_calls_do_not_write_one_pool_at_once(tmp_path: Path) -> None:
    with alone(tmp_path / "preds", Processes()):  # noqa: SIM117 (the second must find the first)
        with pytest.raises(InputError, match="another call of hf-soups predict writes there now"):
            with alone(tmp_path / "preds", Processes()):
                pass
    with alone(tmp_path / "preds", Processes()):
        pass


def test_a_pool_can_be_moved_with_its_models_and_names_no_file_outside(folder: Path, tmp_path: Path) -> None:
    tiny_vit(tmp_path / "one" / "vit", **called(NAMES))
    predicted(folder, tmp_path / "one" / "preds", str(tmp_path / "one" / "vit"))
    (tmp_path / "one").rename(tmp_path / "two")
    pool = read_pool(tmp_path / "two" / "preds")
    assert pool.checkpoint("vit").sha256() == pool.members["vit"].sha256
    told = json.loads((tmp_path / "two" / "preds" / "pool.json").read_text())
    told["members"]["vit"]["file"] = "../vit/model.safetensors"
    (tmp_path / "two" / "preds" / "pool.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"are said to lie in .*not in the pool's folder"):
        read_pool(tmp_path / "two" / "preds")
    with pytest.raises(InputError, match=r"no pool.json here, so this is no pool\. Make one with hf-soups predict"):
        read_pool(folder)


SCRIPT = """
import sys, time
from hf_soups.pool.job import MemberModel
from hf_soups.pool.predict import predict_pool
answer = MemberModel.answer
def slow(self, *how):
    time.sleep(0.1)
    sys.stdout.write(f"answered: {how[0]}\\n")  # one write: lines of two processes stay whole
    sys.stdout.flush()
    return answer(self, *how)
MemberModel.answer = slow
data, out, *models = sys.argv[1:]
predict_pool(models, data=data, out=out, batch_size=2, progress=False)
"""


def launched(*command: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_killed_call_goes_on_shard_by_shard_and_two_processes_equal_one(folder: Path, tmp_path: Path) -> None:
    models = [str(folder / name) for name in ("vit", "resnet")]
    data = str(folder / "data" / "validation.parquet")
    (tmp_path / "script.py").write_text(SCRIPT)
    whole = predict_pool(models, data=data, out=tmp_path / "whole", batch_size=2, progress=False).pool

    process = launched(str(tmp_path / "script.py"), data, str(tmp_path / "killed"), *models)
    shards: list[Path] = []
    while process.poll() is None and len(shards) < 4:
        shards = list((tmp_path / "killed").glob(".work/*/*.safetensors"))
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob(".work/*/*.safetensors")}
    assert 4 <= len(kept) < 16
    calls = counted_answers(
        lambda: predict_pool(models, data=data, out=tmp_path / "killed", batch_size=2, progress=False)
    )
    assert calls == 2 * 16 - len(kept)
    same_pools(tmp_path / "killed", whole.predictions)

    both = launched(
        "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(tmp_path / "script.py"), data,
        str(tmp_path / "both"), *models,
    )  # fmt: skip
    said, told = both.communicate(timeout=PATIENCE)
    assert both.returncode == 0, told.decode()
    starts = sorted(map(int, re.findall(rb"answered: (\d+)", said)))
    assert starts == sorted(2 * list(range(0, ROWS, 2)))  # every shard once for each model
    same_pools(tmp_path / "both", whole.predictions)


def counted_answers(call: Any) -> int:
    """How many shards a call answers."""
    from hf_soups.pool.job import MemberModel

    answer, seen = MemberModel.answer, []

    def counting(self: Any, *how: Any) -> Predictions:
        seen.append(how)
        return answer(self, *how)

    MemberModel.answer = counting  # type: ignore[method-assign]
    try:
        call()
    finally:
        MemberModel.answer = answer  # type: ignore[method-assign]
    return len(seen)


def same_pools(folder: Path, wanted: Any) -> None:
    pool = read_pool(folder)
    assert list(pool.members) == list(wanted)
    assert not (folder / ".work").exists()
    for name, p in pool.predictions.items():
        np.testing.assert_array_equal(p.row_ids, wanted[name].row_ids)
        np.testing.assert_allclose(p.log_probs, wanted[name].log_probs, atol=1e-6)
        np.testing.assert_array_equal(p.answers, wanted[name].answers)
