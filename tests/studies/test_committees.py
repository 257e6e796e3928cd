"""The studies of ensembles and cascades: recipes are planned, scripts run from start to end on tiny models."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_soups.cascades import Frontier
from hf_soups.finetune.run_record import read_run
from hf_soups.pool import read_pool
from hf_soups.pool.entries import pool_entries
from hf_soups.recipe import Recipe, load_recipe
from hf_soups.sweep.dry_run import dry_run
from tests.makers.small_task import write_images
from tests.makers.tiny import IMAGE_SIZE, tiny_efficientnet, tiny_mobilenet_v2, tiny_resnet, tiny_vit

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "recipes" / "studies"
OURS = ("small-copies", "cascades", "self-cascade", "streeter", "soups-in-cascades")
RECIPES = sorted(path for name in OURS for path in (STUDIES / name).glob("*.yaml"))
CLASSES = {0: "top", 1: "middle", 2: "bottom"}
Study = Callable[..., str]


def called(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", RECIPES, ids=called)
def test_a_recipe_is_planned_without_the_hub(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    if recipe.task.train != recipe.task.report:  # else nothing is trained, and there is nothing to cut select from
        assert len(dry_run(recipe, tmp_path, probe=False).plan) == recipe.sweep.runs
    names = [asked.name for asked in pool_entries(recipe.members)] if recipe.members else []
    assert len(set(names)) == len(names) != 1


@pytest.mark.parametrize("study", OURS)
def test_a_study_says_what_has_run_and_how_to_run_it(study: str) -> None:
    text = (STUDIES / study / "README.md").read_text()
    for path in (STUDIES / study).glob("*.yaml"):
        assert path.name in text
    assert "## What has not run" in text
    subprocess.run(["sh", "-n", STUDIES / study / "run.sh"], check=True)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (STUDIES / study / target).exists(), target


def test_streeters_pool_is_of_more_than_a_hundred_checkpoints() -> None:
    assert len(pool_entries(load_recipe(STUDIES / "streeter/full.yaml").members)) > 100


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of three classes in images/, and models that know them in models/."""
    folder = tmp_path_factory.mktemp("studies")
    write_images(folder / "images", train=120, report=80)
    for i, make in enumerate((tiny_mobilenet_v2, tiny_resnet, tiny_efficientnet)):
        make(folder / "models" / make.__name__, seed=i, id2label=CLASSES)
    tiny_vit(folder / "models" / "narrow", id2label=CLASSES, hidden_size=16, intermediate_size=32)
    tiny_vit(folder / "models" / "wide", id2label=CLASSES)
    return folder


@pytest.fixture(scope="module")
def study(place: Path, command: str) -> Study:
    """Runs a study's script on a recipe of it, on the local images; what it printed."""

    def run(recipe: Path, out: str, *words: str, **changes: Any) -> str:
        task = {"kind": "image", "path": "images", "image": "image", "train": "train.parquet",
                "report": "validation.parquet"}  # fmt: skip
        data = {"select_minimum": 30, **({"image_size": IMAGE_SIZE} if load_recipe(recipe).data.image_size else {})}
        changes = {"task": task, "data": data, **changes}
        options = [
            w for k, v in changes.items() for w in ("--set", f"{k}={yaml.safe_dump(v, default_flow_style=True)}")
        ]
        done = subprocess.run(
            ["sh", recipe.parent / "run.sh", recipe, out, *words, *options],
            cwd=place, env={**os.environ, "HF_SOUPS": command, "SLOTS": "2"}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def rows(path: Path) -> list[dict[str, str]]:
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return list(csv.DictReader(path.with_suffix(".csv").open()))


QUICK = {"sweep.runs": 2, "train.precision": "no"}
LEARNS = {"train.learning_rate": 3e-3, "train.epochs": 6, "train.batch_size": 16}


@pytest.fixture(scope="module")
def copies(study: Study, place: Path) -> str:
    """The study of copies, once: two of each of two widths."""
    recipe = STUDIES / "small-copies/full-wide-resnet.yaml"
    return study(recipe, "copies", "narrow=models/narrow", "wide=models/wide", **QUICK, **LEARNS)


@pytest.mark.slow
def test_copies_are_trained_from_weights_of_their_own_and_drawn_by_number_and_cost(copies: str, place: Path) -> None:
    pool = read_pool(place / "copies/preds/report")
    assert list(pool.members) == ["narrow-00", "narrow-01", "wide-00", "wide-01"]
    heads = {read_run(Path(m.source)).head_fingerprint for m in pool.members.values()}
    assert len(heads) == 4  # so that pre-flight refuses to mix them
    for combine in ("geometric", "mean"):
        drawn = rows(place / f"copies/pictures/{combine}/score_vs_members")
        assert [(r["model"], r["members"], r["combine"]) for r in drawn] == [
            (model, str(n), combine) for model in ("narrow", "wide") for n in (1, 2)
        ]
    assert copies.count("best single") == 2


@pytest.mark.slow
def test_streeters_greedy_searches_all_runs_of_sweeps(copies: str, study: Study, place: Path) -> None:
    recipe = STUDIES / "small-copies/full-wide-resnet.yaml"
    script = STUDIES / "streeter/run.sh"
    assert script.is_file()
    told = study(recipe.parent.parent / "streeter/full.yaml", "streeter", "narrow=copies/narrow", "wide=copies/wide")
    frontier = Frontier.load(place / "streeter/streeter.json")
    assert {p.members[0] for p in frontier.singles} == {"narrow-00", "narrow-01", "wide-00", "wide-01"}
    assert all(p.rule.combine == "last" for p in frontier.plans)
    assert {r["kind"] for r in rows(place / "streeter/pictures/streeter/score_vs_cost")} >= {"single"}
    assert "on report rows, which nothing was chosen on" in told


@pytest.mark.slow
def test_the_recipes_members_are_a_pool_whose_missing_models_are_left_out(study: Study, place: Path) -> None:
    members = ["a=models/tiny_resnet", "b=models/tiny_mobilenet_v2", "c=models/nowhere"]
    told = study(STUDIES / "streeter/full.yaml", "members", members=members)
    assert list(read_pool(place / "members/preds/all").members) == ["a", "b"]
    assert "not answered: c" in told


@pytest.mark.slow
def test_cascades_are_searched_for_every_goal_and_drawn_with_their_latency(study: Study, place: Path) -> None:
    members = [f"{name}=models/tiny_{name}" for name in ("mobilenet_v2", "resnet", "efficientnet")]
    told = study(STUDIES / "cascades/full-efficientnet.yaml", "cascades", members=members)
    for goal in ("match-accuracy", "match-cost", "worst-case", "latency", "throughput"):
        frontier = Frontier.load(place / f"cascades/{goal}.json")
        assert {p.members[0] for p in frontier.singles} == {"mobilenet_v2", "resnet", "efficientnet"}
    assert told.count("== ") == 6
    worst = Frontier.load(place / "cascades/worst-case.json")
    assert max(p.worst_cost for p in worst.plans) <= 1.5 * worst.best_single.average_cost * (1 + 1e-9)
    drawn = rows(place / "cascades/pictures/match-accuracy/latency")
    assert all(float(r["seconds_batch_1"]) > 0 and r["hardware"] for r in drawn)
    assert (place / "cascades/cascade/config.json").is_file()
    for kind in ("score_vs_cost", "exits", "reliability"):
        assert rows(place / f"cascades/pictures/match-accuracy/{kind}")


@pytest.mark.slow
def test_one_model_at_two_sizes_is_two_members(study: Study, place: Path) -> None:
    members = ["m@24=models/tiny_efficientnet@24", "m@32=models/tiny_efficientnet"]
    told = study(STUDIES / "self-cascade/full.yaml", "self", members=members)
    pool = read_pool(place / "self/preds")
    assert [m.image_size for m in pool.members.values()] == [24, None]
    assert pool.members["m@24"].macs < pool.members["m@32"].macs  # type: ignore[operator]
    assert told.count("members combined by") == 2
    assert rows(place / "self/pictures/last/score_vs_cost")


@pytest.mark.slow
def test_soups_join_the_cascades_and_stand_in_one_picture_with_all_else(study: Study, place: Path) -> None:
    words = ("narrow=models/narrow", "wide=models/wide")
    recipe = STUDIES / "soups-in-cascades/full.yaml"
    space = {"learning_rate": {"choice": [1e-3, 2e-3]}}
    study(recipe, "soups", *words, **{**QUICK, **LEARNS, "train.epochs": 3, "sweep.space": space})
    assert "narrow-greedy" not in {p.members[0] for p in Frontier.load(place / "soups/without-soups.json").singles}
    pool = read_pool(place / "soups/preds/select")
    assert {"narrow-00", "narrow-greedy", "narrow-uniform", "wide-greedy"} <= set(pool.members)
    kinds = {r["name"]: r["kind"] for r in rows(place / "soups/pictures/with-soups/score_vs_cost")}
    assert (kinds["wide-greedy"], kinds["wide-00"]) == ("soup", "single")
    assert (place / "soups/wide/score_vs_cost.png").read_bytes().startswith(b"\x89PNG")
    assert (place / "soups/cascade/config.json").is_file()


def test_the_small_recipes_are_the_full_ones_cut_down() -> None:
    def space(recipe: Recipe) -> set[str]:
        return set(recipe.sweep.space)

    copies = [load_recipe(STUDIES / "small-copies" / f"{name}.yaml") for name in ("full-wide-resnet", "small")]
    assert all(recipe.train.random_weights and not space(recipe) for recipe in copies)
    soups = [load_recipe(STUDIES / "soups-in-cascades" / f"{name}.yaml") for name in ("full", "small")]
    assert space(soups[1]) <= space(soups[0])
