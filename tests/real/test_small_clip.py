"""A small CLIP trained here on captions made from labels: zero-shot head, probe, fine-tunes, soup and the line back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.commands import ROOT, hf_soups

pytestmark = pytest.mark.real
RECIPE = "recipes/vision/cifar10-small-clip.yaml"
CHANCE = 0.1


@pytest.fixture(scope="module")
def clip(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, cut down."""
    out = tmp_path_factory.mktemp("clip") / "small-clip"
    command = [sys.executable, "examples/small_clip.py", str(shared / "data/cifar10"), "--config", "plain_text"]
    command += ["--image", "img", "--rows", "6000", "--epochs", "6", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return out


def settings(clip: Path, shared: Path, *more: str) -> list[str]:
    given = [
        f"task.path={clip / 'data'}",
        f"task.shifts.tiny_imagenet.path={shared / 'data/cifar10_tiny_imagenet_shift'}",
        f"model={clip / 'model'}",
        "data.select_minimum=200",
        "data.train_rows=1000",
        "data.report_rows=1000",
        *more,
    ]
    return [part for setting in given for part in ("--set", setting)]


@pytest.fixture(scope="module")
def pile(clip: Path, shared: Path) -> Path:
    """Three short fine-tunes from the zero-shot head, and soups."""
    cut = settings(clip, shared, "sweep.runs=3", "sweep.space.epochs.integer=[1, 2]")
    hf_soups("sweep", RECIPE, "--out", str(clip / "runs"), "--slots", "2", *cut)
    methods = [part for name in ("uniform", "greedy", "wise-ft") for part in ("--method", name)]
    hf_soups("cook", str(clip / "runs"), *methods, "--out", str(clip / "soups"))
    return clip


def test_the_zero_shot_head_knows_the_classes_and_fine_tunes_start_from_it(pile: Path) -> None:
    """Alpha 0 of the line is the zero-shot model; 200 select rows: one standard error is 2 points at chance."""
    rows = {r["candidate"]: float(r["score"]) for r in csv.DictReader((pile / "soups/wise-ft/steps.csv").open())}
    assert rows["alpha 0.00"] > CHANCE + 0.08
    singles = [json.loads(p.read_text())["scores"]["report"]["accuracy"] for p in pile.glob("runs/run_*/run.json")]
    assert min(singles) > CHANCE + 0.08


def test_soups_of_fine_tunes_from_one_zero_shot_head_do_not_collapse(pile: Path) -> None:
    """1,000 report rows: a standard error is at most 1.6 points, and a collapsed soup would be at 10%."""
    singles = [json.loads(p.read_text())["scores"]["report"]["accuracy"] for p in pile.glob("runs/run_*/run.json")]
    for method in ("uniform", "greedy"):
        scores = json.loads((pile / "soups" / method / "soup.json").read_text())["scores"]
        assert scores["report"]["accuracy"] > min(singles) - 0.05
        assert scores["shift-tiny_imagenet"]["accuracy"] > CHANCE


def test_zero_shot_is_a_member_of_a_cascade(pile: Path, shared: Path) -> None:
    """The whole CLIP asked by prompts, then the greedy soup; built, and run by the pipeline."""
    members = [f"zero={pile / 'model'}", f"soup={pile / 'soups/greedy'}"]
    cut = settings(pile, shared)
    hf_soups("predict", *members, "--recipe", RECIPE, "--split", "select", "--out", str(pile / "preds"), *cut)
    hf_soups("cascade", "search", str(pile / "preds"), "--min-accuracy", "best")
    frontier = json.loads((pile / "preds" / "frontier.json").read_text())
    with_zero = [i for i, plan in enumerate(frontier["plans"]) if "zero" in plan["members"]]
    index = with_zero[-1] if with_zero else 0
    hf_soups("cascade", "build", f"{pile / 'preds/frontier.json'}#{index}", "--out", str(pile / "cascade"))
    config = json.loads((pile / "cascade" / "member_0" / "config.json").read_text())
    assert config["model_type"] == "clip_vision_model"
