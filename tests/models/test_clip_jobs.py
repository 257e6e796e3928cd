"""The whole job on tiny CLIPs: fine-tunes from a zero-shot start, soups, the line to the start, pools and cascades."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoModelForImageClassification, CLIPVisionModelWithProjection, pipeline

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import Options, cook
from hf_soups.data import load_splits
from hf_soups.errors import IncompatibleCheckpoints, MemberError
from hf_soups.finetune import finetune
from hf_soups.finetune.start import make_start
from hf_soups.pool import Pool
from hf_soups.pool.predict import predict_pool
from hf_soups.pool_jobs import build_from, search_pool
from hf_soups.recipe import load_recipe
from hf_soups.reporting.cards.card import card_for, run_snippet, snippet_of
from hf_soups.soups import wise_ft
from hf_soups.soups.compatibility import preflight
from hf_soups.sweep.plan import make_plan
from hf_soups.sweep.run import make_shared, prepare
from tests.makers.small_task import image_recipe, write_images
from tests.makers.tiny import tiny_clip, tiny_resnet, tiny_siglip

LABELS = ("top", "middle", "bottom")
TEMPLATES = ("a photo of a {}.", "the {}!")
IDS = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
WEIGHTS = "model.safetensors"
RECIPES = Path(__file__).parent.parent.parent / "recipes"


def make_sweep(folder: Path, build: Callable[..., Path], runs: int = 3) -> Path:
    """A sweep from a zero-shot start, its fine-tunes made in this process."""
    space = {"learning_rate": {"log_uniform": [1e-3, 3e-3]}}
    recipe = image_recipe(
        folder / "data", build(folder / "base"), head={"init": "zero-shot", "templates": list(TEMPLATES)},
        train={"epochs": 2, "schedule": "cosine"}, sweep={"runs": runs, "space": space},
    )  # fmt: skip
    out = folder / "sweep"
    plan = prepare(recipe, out)
    make_shared(recipe, out)
    for run in plan:
        each = load_recipe(out / "plan" / f"{run.name}.yaml")
        finetune(each, out / run.name, start=out / "start", cache=out / "cache", progress=False)
    return out


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("clip"), tiny_clip)


@pytest.fixture(scope="module")
def soups(sweep: Path) -> Path:
    methods = ("uniform", "greedy", "learned", "wise-ft", "model-stock")
    cook([sweep], methods, sweep.parent / "soups", options=Options(epochs=1), tell=None)
    return sweep.parent / "soups"


@pytest.fixture(scope="module")
def pool(sweep: Path) -> Pool:
    """The zero-shot model, one of its fine-tunes and a CNN at two sizes, asked about the report rows."""
    folder = sweep.parent
    cnn = tiny_resnet(folder / "cnn", **IDS)
    members = [f"zero={folder / 'base'}", f"tuned={sweep / 'run_00'}", f"cnn={cnn}", f"large={cnn}@48"]
    found = predict_pool(
        members, data=str(folder / "data" / "validation.parquet"), out=folder / "preds", templates=TEMPLATES,
        batch_size=8, progress=False,
    )  # fmt: skip
    assert found.failed == {}
    return found.pool


def test_runs_of_one_zero_shot_start_belong_together(sweep: Path) -> None:
    runs = [Checkpoint(str(sweep / f"run_0{i}")) for i in range(3)]
    preflight(runs).raise_for_errors()
    records = [json.loads((sweep / f"run_0{i}" / "run.json").read_text()) for i in range(3)]
    assert {record["family"] for record in records} == {"clip"}
    assert len({record["head_fingerprint"] for record in records}) == 1
    assert all(record["macs"] > 0 for record in records)


@pytest.mark.parametrize("method", ["uniform", "greedy", "learned", "wise-ft", "model-stock"])
def test_every_soup_is_an_ordinary_folder(soups: Path, method: str) -> None:
    told = json.loads((soups / method / "soup.json").read_text())
    assert told["method"] == method
    model = AutoModelForImageClassification.from_pretrained(soups / method)
    assert tuple(model.config.id2label.values()) == LABELS
    tower = CLIPVisionModelWithProjection.from_pretrained(soups / method).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unit = torch.nn.functional.normalize(tower(pixels).image_embeds, dim=1)
        wanted = unit @ model.classifier.weight.T + model.classifier.bias
        np.testing.assert_allclose(model.eval()(pixels).logits, wanted, atol=1e-5)
    assert len(pipeline("image-classification", model=str(soups / method))(Image.new("RGB", (40, 30)))) == 3


def test_a_uniform_soup_is_the_mean_of_its_runs(sweep: Path, soups: Path) -> None:
    runs = [load_file(sweep / f"run_0{i}" / WEIGHTS) for i in range(3)]
    for name, values in load_file(soups / "uniform" / WEIGHTS).items():
        exact = np.mean([run[name].astype(np.float64) for run in runs], axis=0)
        np.testing.assert_allclose(values, exact, rtol=1e-6, atol=1e-7)


def test_the_line_to_the_start_ends_in_the_zero_shot_model(sweep: Path, pool: Pool, tmp_path: Path) -> None:
    """Alpha 0 answers as the whole CLIP asked zero-shot, which no fine-tune has touched."""
    tuned, start = Checkpoint(str(sweep / "run_00")), Checkpoint(str(sweep / "start"))
    end = wise_ft(tuned, start, lambda _soup: 0.0, points=[0.0])
    end.save_pretrained(tmp_path / "end")
    stored, base = load_file(tmp_path / "end" / WEIGHTS), load_file(sweep.parent / "base" / WEIGHTS)
    for name in set(stored) - {"classifier.weight", "classifier.bias"}:
        np.testing.assert_array_equal(stored[name], base[name])
    again = predict_pool(
        [f"end={tmp_path / 'end'}"], data=str(sweep.parent / "data" / "validation.parquet"), out=tmp_path / "preds",
        progress=False,
    )  # fmt: skip
    wanted = pool.predictions["zero"].log_probs
    np.testing.assert_allclose(again.pool.predictions["end"].log_probs, wanted, atol=1e-5)


def test_fine_tuning_moves_the_tower_and_the_head(sweep: Path) -> None:
    start, run = (load_file(sweep / name / WEIGHTS) for name in ("start", "run_00"))
    moved = {name for name in run if not np.array_equal(run[name], start[name])}
    assert {"classifier.weight", "visual_projection.weight"} <= moved
    assert any("embeddings.patch_embedding" in name for name in moved)


def test_runs_of_other_texts_are_not_mixed(sweep: Path, tmp_path: Path) -> None:
    recipe = load_recipe(sweep / "recipe.yaml", {"head.templates": ["my {}"]})
    make_start(recipe, load_splits(recipe.task, recipe.data), tmp_path / "other")
    with pytest.raises(IncompatibleCheckpoints, match="head"):
        preflight([Checkpoint(str(sweep / "run_00")), Checkpoint(str(tmp_path / "other"))]).raise_for_errors()


class TestCascades:
    def test_zero_shot_is_stored_as_a_classifier_that_answers_the_same(self, pool: Pool, tmp_path: Path) -> None:
        names = ("zero", "tuned")
        plan = Plan(names, (_middle(pool, "zero"),), (1.0, 2.0), unit="macs")
        told = plan.apply({name: pool.predictions[name] for name in names})
        out = build_cascade(plan, pool.members, tmp_path / "c", kind="image", label_names=LABELS)
        assert json.loads((out / "member_0" / "config.json").read_text())["model_type"] == "clip_vision_model"
        pipe = pipeline("cascade-image-classification", model=str(out), device="cpu")  # type: ignore[call-overload]
        answers = pipe(_images(pool), return_exits=True, top_k=None)
        assert [a[0]["exit"] if isinstance(a, list) else a["exit"] for a in answers] == told.exits.tolist()
        for answer, probs in zip(answers, told.probs, strict=True):
            rows = answer if isinstance(answer, list) else answer["scores"]
            found = {row["label"]: row["score"] for row in rows}
            np.testing.assert_allclose([found[name] for name in LABELS], probs, atol=1e-4)

    def test_a_search_may_choose_any_of_them(self, pool: Pool, tmp_path: Path) -> None:
        found = search_pool(pool.folder, out=tmp_path / "found")
        for index, plan in enumerate(found.frontier.plans):
            if "zero" in plan.members or index == 0:
                out = build_from(f"{found.path}#{index}", tmp_path / f"c{index}", pool=pool.folder)
                assert (out / "member_0" / "config.json").is_file()

    def test_a_zero_shot_member_cannot_be_referred_to(self, pool: Pool, tmp_path: Path) -> None:
        plan = Plan(("zero", "tuned"), (0.5,), (1.0, 2.0), unit="macs")
        with pytest.raises(
            MemberError, match=r"'zero'.*classifier made of its texts is in no repo.*without references"
        ):
            build_cascade(plan, pool.members, tmp_path / "c", kind="image", label_names=LABELS, references=True)


def test_the_fine_tune_has_learned_more_than_the_start_knew(pool: Pool) -> None:
    labels = pool.predictions["zero"].labels
    zero, tuned = ((pool.predictions[name].answers == labels).mean() for name in ("zero", "tuned"))
    assert tuned > zero


def test_a_card_of_a_soup_says_how_it_is_loaded(soups: Path) -> None:
    card = card_for(soups / "uniform")
    assert card.data.pipeline_tag == "image-classification"
    assert snippet_of(card).startswith("import hf_soups  # so that transformers knows this class of models\n")


@pytest.mark.slow
def test_the_code_of_the_card_runs(soups: Path) -> None:
    printed = run_snippet(soups / "uniform", name="me/soup")
    assert all(name in printed for name in LABELS)


@pytest.mark.slow
def test_siglip_goes_the_same_way(tmp_path: Path) -> None:
    write_images(tmp_path / "data", train=80, report=11)
    sweep = make_sweep(tmp_path, tiny_siglip, runs=2)
    cook([sweep], ("uniform", "greedy"), tmp_path / "soups", tell=None)
    recipe = load_recipe(sweep / "recipe.yaml")
    assert len(load_splits(recipe.task, recipe.data).report) == 11
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "soups" / "uniform")
    assert type(model).__name__ == "SiglipVisionForImageClassification"


# with these seeds the untrained tower and its head give more than one class, or the run would be refused
@pytest.mark.parametrize(
    ("recipe", "head", "runs", "seed"),
    [("imagenet-clip-vit-b32", "linear-probe", 72, 5), ("cifar10-small-clip", "zero-shot", 32, 0)],
)
def test_a_recipe_runs_for_a_few_steps_on_a_tiny_model_of_its_classes(
    recipe: str, head: str, runs: int, seed: int, tmp_path: Path
) -> None:
    """Its head, schedule, precision and one draw of its space, on a tiny random CLIP and images of three classes."""
    path = RECIPES / "vision" / f"{recipe}.yaml"
    small = image_recipe(tmp_path / "data", tiny_clip(tmp_path / "base", seed=seed))
    changes = {
        "task": small.task.model_dump(exclude_defaults=True), "model": small.model, "data": {"select_minimum": 40},
        "train.max_steps": 3, "train.batch_size": 16,
    }  # fmt: skip
    cut = load_recipe(path, changes)
    finetune(make_plan(cut)[0].recipe(cut), tmp_path / "run", progress=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["family"], record["steps"]) == ("finished", "clip", 3)
    given = load_recipe(path)
    assert (given.head.init, given.sweep.runs) == (head, runs)


def _middle(pool: Pool, name: str) -> float:
    """A threshold that about half of the rows pass, in a gap."""
    confidence = np.sort(pool.predictions[name].probs.max(axis=1))
    at = len(confidence) // 2
    return float(confidence[at - 1] + confidence[at]) / 2


def _images(pool: Pool) -> list[Image.Image]:
    rows = Dataset.from_parquet(pool.data.path, cache_dir=str(pool.folder / "cache"))
    return [image.convert("RGB") for image in rows["image"]]
