"""The studies of soups: recipes are planned, scripts run from start to end on tiny models, pictures hold data."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_soups.finetune.run_record import read_run
from hf_soups.recipe import load_recipe
from hf_soups.sweep.dry_run import dry_run
from tests.makers.small_task import write_images
from tests.makers.small_task import write_texts as write_small_texts
from tests.makers.tiny import tiny_bert, tiny_clip, tiny_t5

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "recipes" / "studies"
OURS = ("soups-in-and-out", "soups-on-images", "glue-soups", "heads")
GLUE = [f"glue/{task}-{model}-base.yaml" for task in ("mrpc", "rte", "cola", "sst2") for model in ("bert", "t5")]
FULL = ["vision/imagenet-clip-vit-b32.yaml", *GLUE]
SMALL = [
    "vision/tiny-imagenet-20-efficientnet-lite0.yaml",
    "studies/glue-soups/small-t5.yaml",
    "studies/heads/small.yaml",
    "studies/soups-on-images/small.yaml",
    "studies/soups-on-images/full.yaml",
]
HEADS = ("zero-shot", "linear-probe", "shared-random")
PICTURES = ("barriers", "angles", "soup_vs_ensemble")
RUNS = 2  # each is a process that imports torch
Study = Callable[..., str]


@pytest.mark.parametrize("name", FULL)
def test_a_full_recipe_is_planned_as_the_paper_ran_it(name: str, tmp_path: Path) -> None:
    """72 fine-tunes of CLIP, 32 of each text model and task (Wortsman et al. 2022); the Hub is not asked."""
    planned = dry_run(load_recipe(ROOT / "recipes" / name), tmp_path, probe=False)
    assert len(planned.plan) == (72 if "clip" in name else 32)
    rates = [run.train["learning_rate"] for run in planned.plan]
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_is_planned(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / name)
    assert len(dry_run(recipe, tmp_path, probe=False).plan) == recipe.sweep.runs <= 32


def test_the_clip_study_names_the_five_shifts_of_the_paper() -> None:
    recipe = load_recipe(ROOT / "recipes/vision/imagenet-clip-vit-b32.yaml")
    assert set(recipe.task.shifts) == {"v2", "r", "sketch", "objectnet", "a"}
    assert {name for name, shift in recipe.task.shifts.items() if shift.only_its_classes} == {"r", "objectnet", "a"}
    assert recipe.head.init == "linear-probe"


@pytest.mark.parametrize("study", OURS)
def test_a_study_says_how_to_run_it_and_what_has_not_run(study: str) -> None:
    text = (STUDIES / study / "README.md").read_text()
    for path in (STUDIES / study).glob("*.yaml"):
        assert path.name in text
    for heading in ("## The question", "## How to run it", "## What was run here", "## What has not run"):
        assert heading in text
    subprocess.run(["sh", "-n", STUDIES / study / "run.sh"], check=True)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (STUDIES / study / target).exists(), target


# --- from start to end, on models of the same classes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and texts of a few rows, and models that know them."""
    folder = tmp_path_factory.mktemp("studies")
    write_images(folder / "images", train=120, report=60)
    write_images(folder / "shift", train=20, report=40)
    write_small_texts(folder / "texts", train=160, report=40)
    tiny_clip(folder / "clip")
    tiny_bert(folder / "bert")
    tiny_t5(folder / "t5")
    return folder


@pytest.fixture(scope="module")
def study(place: Path, command: str) -> Study:
    """Runs a study's script on a recipe, cut down; what it printed."""

    def run(name: str, recipe: str, out: str, *, settings: dict[str, str] | None = None, **changes: Any) -> str:
        options = [
            w for k, v in changes.items() for w in ("--set", f"{k}={yaml.safe_dump(v, default_flow_style=True)}")
        ]
        about = {"HF_SOUPS": command, "SLOTS": "2", "SUBSETS": "2", **(settings or {})}
        done = subprocess.run(
            ["sh", STUDIES / name / "run.sh", ROOT / "recipes" / recipe, out, *options],
            cwd=place, env={**os.environ, **about}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


SWEEP = {"runs": RUNS, "space": {"learning_rate": {"log_uniform": [2e-3, 4e-3]}}}
TRAIN = {"epochs": 4, "batch_size": 16, "precision": "no"}
IMAGES = {
    "task": {"kind": "image", "path": "images", "image": "image", "train": "train.parquet",
             "report": "validation.parquet", "shifts": {"other": {"path": "shift", "split": "validation.parquet"}}},
    "model": "clip", "data": {"select_minimum": 40}, "train": TRAIN, "sweep": SWEEP,
}  # fmt: skip
TEXTS = {
    "task": {"name": "glue/sst2", "kind": "text", "path": "texts", "text": ["text"], "train": "train.csv",
             "report": "validation.csv"},
    "data": {"select_minimum": 40, "max_length": 32}, "train": {**TRAIN, "epochs": 8}, "sweep": SWEEP,
}  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    """The numbers of a picture, which is there."""
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return list(csv.DictReader(path.with_suffix(".csv").open()))


def curves(sweep: Path, role: str) -> dict[tuple[str, int], float]:
    """Mean scores by curve and number of runs."""
    points = rows(sweep / "by_number/by_number")
    return {(r["what"], int(r["models"])): float(r["mean"]) for r in points if r["role"] == role}


@pytest.mark.slow
def test_soups_in_and_out_of_distribution(study: Study, place: Path) -> None:
    told = study(
        "soups-in-and-out",
        FULL[0],
        "clip-out",
        settings={"SHIFTS": "other", "DIAGNOSE": "--points 1 --grid 0"},
        **IMAGES,
    )
    sweep = place / "clip-out/runs"
    assert "differences on other" in told
    for picture in PICTURES:
        assert rows(sweep / "diagnosis" / picture)
    for picture in ("leaderboard", "leaderboard_other"):
        assert (sweep / f"{picture}.png").stat().st_size > 10_000
    for role, key in (("report", "report"), ("shift-other", "shift-other")):
        found = curves(sweep, role)
        greedy = json.loads((place / "clip-out/soups/greedy/soup.json").read_text())["scores"][key]["accuracy"]
        assert found["greedy soup", RUNS] == pytest.approx(greedy)
        assert set(found) == {
            (what, n)
            for what in ("best on select", "uniform soup", "greedy soup", "mean-logit ensemble")
            for n in range(1, RUNS + 1)
        }
    before = (sweep / "by_number/by_number.csv").read_bytes()
    again = study(
        "soups-in-and-out",
        FULL[0],
        "clip-out",
        settings={"SHIFTS": "other", "DIAGNOSE": "--points 1 --grid 0"},
        **IMAGES,
    )
    assert "joins" not in again  # nothing is cooked twice
    assert (sweep / "by_number/by_number.csv").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(("model", "recipe"), [("bert", "glue/sst2-bert-base.yaml"), ("t5", "glue/sst2-t5-base.yaml")])
def test_soups_of_text_models(study: Study, place: Path, model: str, recipe: str) -> None:
    words = {"words": {"neg": "bad", "pos": "good"}, "prompt": "it was {text}"} if model == "t5" else {}
    head = {**load_recipe(ROOT / "recipes" / recipe).head.model_dump(exclude_none=True), **words}
    study(
        "glue-soups",
        recipe,
        f"{model}-out",
        settings={"DIAGNOSE": "--points 1 --grid 0"},
        model=model,
        head=head,
        **TEXTS,
    )
    sweep = place / f"{model}-out/runs"
    assert {read_run(sweep / f"run_{i:02d}").family for i in range(RUNS)} == {
        "encoder" if model == "bert" else "text-to-text"
    }
    assert rows(sweep / "diagnosis/angles")
    assert curves(sweep, "report")["uniform soup", RUNS] == pytest.approx(
        json.loads((place / f"{model}-out/soups/uniform/soup.json").read_text())["scores"]["report"]["accuracy"]
    )


@pytest.mark.slow
def test_three_heads_are_three_starts_of_the_same_fine_tunes(study: Study, place: Path) -> None:
    head = {"templates": ["a photo of a {}."]}
    told = study("heads", "studies/heads/small.yaml", "heads-out", settings={"PAIRS": "2"}, head=head, **IMAGES)
    records = {name: read_run(place / f"heads-out/{name}/runs/run_00") for name in HEADS}
    assert [name for name in HEADS if f"== head: {name}" in told] == list(HEADS)
    assert len({r.head_fingerprint for r in records.values()}) == len(HEADS)
    rates = {name: r.recipe["train"]["learning_rate"] for name, r in records.items() if r.recipe}
    assert len(set(rates.values())) == 1
    assert {r["sweep"] for r in rows(place / "heads-out/by_number/by_number")} == set(HEADS)
    for name in HEADS:
        assert curves(place / f"heads-out/{name}/runs", "shift-other")
        line = (place / f"heads-out/{name}/soups/wise-ft/steps.csv").read_text()
        assert "alpha 0.00" in line
