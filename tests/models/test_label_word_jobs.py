"""Label-word models through the whole job: start, fine-tune, soups, a pool, a cascade, rows of a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, pipeline

from hf_soups import Checkpoint, preflight
from hf_soups.batch_predict.run import load_answerer
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Rule
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.cooking import cook
from hf_soups.data import load_splits
from hf_soups.errors import IncompatibleCheckpoints, InputError
from hf_soups.finetune import finetune
from hf_soups.finetune.run_record import read_run
from hf_soups.finetune.start import load_start, make_start, start_key
from hf_soups.models.classifier import PredictSettings
from hf_soups.models.label_words import WordClassifier
from hf_soups.pool.predict import predict_pool
from hf_soups.pool.rows import RowsWanted
from hf_soups.pool_jobs import search_pool
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe, load_recipe
from hf_soups.reporting.cards.card import check_card, run_snippet, write_card
from tests.finetune.test_distributed import NO_DROPOUT, launched
from tests.makers.small_task import text_recipe, write_texts
from tests.makers.tiny import tiny_bert, tiny_bert_mlm, tiny_t5, tiny_t5_classifier, tiny_t5_v1_1

WORDS = {"neg": "bad", "pos": "good"}
BASES: dict[str, Callable[..., Path]] = {"t5": tiny_t5, "t5-v1.1": tiny_t5_v1_1, "bert": tiny_bert_mlm}
SMALL = {"train_rows": 120, "report_rows": 30}


def recipe_of(place: Path, base: str, **changes: Any) -> Recipe:
    prompt = "{text} it was {mask} ." if base == "bert" else "it was {text}"
    head = {"init": "label-words", "words": WORDS, "prompt": prompt, **changes.pop("head", {})}
    train = {"learning_rate": 3e-3, "epochs": 3, **changes.pop("train", {})}
    return text_recipe(place / "data", place / base, head=head, data=SMALL, train=train, **changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models; what else stands here is made by `runs`."""
    folder = tmp_path_factory.mktemp("words")
    for name, build in BASES.items():
        build(folder / name)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe_of(folder, name).model_dump(mode="json")))
    return folder


def runs(place: Path, base: str) -> list[str]:
    """Two fine-tunes from one start, each made once."""
    recipe, start = load_recipe(place / f"{base}.yaml"), place / f"{base}-start"
    make_start(recipe, load_splits(recipe.task, recipe.data), start)
    folders = [place / f"{base}-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        if not folder.exists():
            one = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
            finetune(one, folder, start=start, progress=False)
    return [str(folder) for folder in folders]


ALL = [pytest.param(base, marks=pytest.mark.slow) if base == "t5-v1.1" else base for base in BASES]


@pytest.mark.parametrize("base", ALL)
def test_a_start_is_the_base_model_with_words_and_nothing_new(place: Path, base: str) -> None:
    runs(place, base)
    about = json.loads((place / f"{base}-start" / "start.json").read_text())
    assert (about["head_init"], about["head_parameters"]) == ("label-words", [])
    start, own = Checkpoint(place / f"{base}-start"), Checkpoint(place / base)
    assert set(start.tensors) == set(own.tensors)
    assert all(np.array_equal(start.read(name), own.read(name)) for name in own.tensors)
    assert start.label_names == ("neg", "pos")
    assert start.config["label_words"] == ["bad", "good"]
    assert "{text}" in start.config["prompt"]


@pytest.mark.parametrize("base", ALL)
def test_fine_tuning_teaches_the_words(place: Path, base: str) -> None:
    for folder in runs(place, base):
        run = read_run(Path(folder))
        assert (run.status, run.family) == ("finished", "masked-words" if base == "bert" else "text-to-text")
        assert run.history[-1]["loss"] < run.history[0]["loss"]
        assert run.macs is not None
        assert run.macs > 0


@pytest.mark.parametrize("base", ALL)
def test_soups_of_label_words_answer_as_their_folders(place: Path, base: str, tmp_path: Path) -> None:
    made = cook(
        runs(place, base),
        ("uniform", "greedy", "learned"),
        tmp_path / "soups",
        recipe=place / f"{base}.yaml",
        tell=None,
    )
    assert len(made.soups) == 3
    recipe = load_recipe(place / f"{base}.yaml")
    report = load_splits(recipe.task, recipe.data).report
    stock = AutoModelForMaskedLM if base == "bert" else AutoModelForSeq2SeqLM
    for soup in made.soups:
        cached = Predictions.load(soup.folder / "predictions" / "report.safetensors")
        told = WordClassifier.load(soup.folder, device="cpu")(list(report.rows["text"]))
        fresh = [[{a["label"]: a["score"] for a in answer}[name] for name in ("neg", "pos")] for answer in told]
        np.testing.assert_allclose(np.exp(cached.log_probs), fresh, atol=1e-5)
        assert set(Checkpoint(soup.folder).tensors) == set(Checkpoint(place / base).tensors)  # ties are written once
        assert stock.from_pretrained(soup.folder).config.label_words == ["bad", "good"]


def test_other_words_or_another_prompt_cannot_be_mixed(place: Path, tmp_path: Path) -> None:
    other = shutil.copytree(runs(place, "t5")[1], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "label_words": ["dull", "good"]}))
    report = preflight([Checkpoint(place / "t5-0"), Checkpoint(other)])
    assert [finding.topic for finding in report.errors] == ["label words"]
    with pytest.raises(IncompatibleCheckpoints, match=r"label_words is \['dull', 'good'\], but \['bad', 'good'\] in"):
        report.raise_for_errors()
    assert preflight([Checkpoint(path) for path in runs(place, "t5")]).errors == ()


def test_the_start_knows_words_and_prompt(place: Path) -> None:
    recipe = recipe_of(place, "t5")
    splits = load_splits(recipe.task, recipe.data)
    other = recipe_of(place, "t5", head={"words": {"neg": "awful", "pos": "great"}})
    again = recipe_of(place, "t5", head={"prompt": "so {text}"})
    assert len({start_key(r, splits) for r in (recipe, other, again)}) == 3


def test_a_model_with_words_can_be_kept_or_given_a_head(place: Path, tmp_path: Path) -> None:
    runs(place, "t5")
    short = {"max_steps": 2, "learning_rate": 1e-5}
    own = {"words": None, "prompt": None}
    kept = recipe_of(place, "t5-0", head={"init": "keep", **own}, train=short)
    finetune(kept, tmp_path / "kept", progress=False)
    assert read_run(tmp_path / "kept").family == "text-to-text"
    fresh = recipe_of(place, "t5-0", head={"init": "shared-random", **own}, train=short)
    finetune(fresh, tmp_path / "fresh", progress=False)
    assert read_run(tmp_path / "fresh").family == "encoder-decoder"
    assert Checkpoint(tmp_path / "fresh").config["architectures"] == ["T5ForSequenceClassification"]


@pytest.mark.parametrize("init", ["shared-random", "linear-probe"])
def test_a_t5_with_a_head_is_fine_tuned(place: Path, tmp_path: Path, init: str) -> None:
    recipe = text_recipe(
        place / "data", tiny_t5_classifier(tmp_path / "base"), head={"init": init}, data=SMALL,
        train={"learning_rate": 3e-3, "epochs": 3},
    )  # fmt: skip
    finetune(recipe, tmp_path / "run", progress=False)
    run = read_run(tmp_path / "run")
    assert (run.status, run.family) == ("finished", "encoder-decoder")
    assert run.history[-1]["loss"] < run.history[0]["loss"]


@pytest.mark.parametrize("base", ["t5", "bert"])
def test_mixed_float16_is_refused_for_t5_alone(place: Path, base: str, tmp_path: Path) -> None:
    runs(place, base)
    recipe = recipe_of(place, base, train={"precision": "fp16"})
    splits = load_splits(recipe.task, recipe.data)
    if base == "bert":
        assert make_start(recipe, splits, tmp_path / "start").is_dir()
        return
    with pytest.raises(InputError, match=r"a T5 in float16.*Use float32 or bfloat16 \(train.precision: no or bf16"):
        make_start(recipe, splits, tmp_path / "start")
    with pytest.raises(InputError, match=r"a T5 in float16"):  # a sweep may draw it for one run
        load_start(place / "t5-start", recipe, splits)


def test_a_pool_and_a_cascade_of_words_and_heads(place: Path, tmp_path: Path) -> None:
    recipe = text_recipe(place / "data", tiny_bert(tmp_path / "bert"), data=SMALL, train={"epochs": 4})
    finetune(recipe, tmp_path / "head", progress=False)
    models = [f"head={tmp_path / 'head'}", f"t5={runs(place, 't5')[0]}", f"mask={runs(place, 'bert')[0]}"]
    how: dict[str, Any] = {"recipe": place / "t5.yaml", "split": "select", "out": tmp_path / "preds", "progress": False}
    result = predict_pool(models, **how)
    assert (result.answered, result.failed) == (("head", "t5", "mask"), {})
    for name in ("t5", "bert"):
        stored = Predictions.load(place / f"{name}-0" / "predictions" / "select.safetensors")
        found = result.pool.predictions["mask" if name == "bert" else name]
        np.testing.assert_allclose(found.log_probs, stored.log_probs, atol=1e-5)
        member = result.pool.members["mask" if name == "bert" else name]
        assert min(member.macs or 0, member.bytes or 0) > 0
    low = predict_pool(models[:2], **{**how, "out": tmp_path / "low", "dtype": "float16"})
    assert low.answered == ("head",)
    assert "a T5 in float16" in low.failed["t5"]

    found = search_pool(tmp_path / "preds", members=["head", "t5"]).frontier.plans
    assert {name for plan in found for name in plan.members} <= {"head", "t5"}
    members, first = result.pool.members, result.pool.predictions["head"]
    sure = np.sort(first.probs.max(axis=1))
    middle = float(sure[len(sure) // 2 - 1] + sure[len(sure) // 2]) / 2
    plan = Plan(("head", "t5"), (middle,), (1.0, 4.0), Rule(), unit="macs")
    folder = build_cascade(plan, members, tmp_path / "cascade", kind="text", label_names=("neg", "pos"), max_length=128)
    split = load_splits(recipe.task, recipe.data).select
    told: Any = pipeline("cascade-text-classification", model=str(folder), device="cpu", batch_size=8)  # type: ignore[call-overload]
    answers = told(list(split.rows["text"]), return_exits=True)
    wanted = plan.apply({name: result.pool.predictions[name] for name in plan.members})
    assert [a["label"] for a in answers] == [split.label_names[i] for i in wanted.answers]
    assert [a["exit"] for a in answers] == wanted.exits.tolist()
    assert set(wanted.exits.tolist()) == {0, 1}


def test_rows_of_a_file_are_answered(place: Path) -> None:
    answerer = load_answerer(Checkpoint(runs(place, "t5")[0]), PredictSettings(device="cpu"), RowsWanted(), kind="text")
    rows = ["a bad day", "the good film"]
    told = answerer.answer([(row, None) for row in rows]).log_probs
    wanted = WordClassifier.load(place / "t5-0", device="cpu")(rows)
    assert answerer.label_names == ("neg", "pos")
    for got, answer in zip(np.exp(told), wanted, strict=True):
        assert {n: pytest.approx(p, abs=1e-5) for n, p in zip(("neg", "pos"), got, strict=True)} == {
            a["label"]: a["score"] for a in answer
        }


@pytest.mark.slow  # the card's code is run in a process of its own
def test_a_soups_card_names_code_that_runs(place: Path, tmp_path: Path) -> None:
    soups = cook(runs(place, "t5"), ("uniform",), tmp_path / "soups", recipe=place / "t5.yaml", tell=None)
    folder = soups.soups[0].folder
    write_card(folder)
    check_card(folder)
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "WordClassifier.load(" in card
    told = run_snippet(folder)
    assert "'label': 'pos'" in told
    assert "'label': 'neg'" in told


@pytest.mark.slow
@pytest.mark.parametrize("base", ["t5", "bert"])
def test_two_processes_teach_the_words_as_one_does(base: str, tmp_path: Path) -> None:
    write_texts(tmp_path / "data")
    BASES[base](tmp_path / base, **(NO_DROPOUT if base == "bert" else {}))
    recipe = recipe_of(tmp_path, base)
    finetune(recipe, tmp_path / "alone", progress=False)
    done = launched(recipe, tmp_path / "together", 2)
    assert done.returncode == 0, done.stderr
    one, two = (read_run(tmp_path / name) for name in ("alone", "together"))
    assert (one.processes, two.processes) == (1, 2)
    # replicas that are not kept alike lose their way by percents after one step
    np.testing.assert_allclose([p["loss"] for p in two.history], [p["loss"] for p in one.history], rtol=1e-3)
