"""Many labels a row and regressions from the recipe to the report: every answer is what the stock pipeline gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from transformers import pipeline

import hf_soups.registration  # noqa: F401 (cascades become known to transformers)
from hf_soups.batch_predict import predict_rows
from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.data import load_splits
from hf_soups.demo.cascade import load_demo_cascade
from hf_soups.errors import CheckpointError, InputError, RecipeError
from hf_soups.finetune import finetune
from hf_soups.finetune.run_record import read_run
from hf_soups.leaderboard import build_leaderboard
from hf_soups.leaderboard.compare import compare
from hf_soups.pool import predict_pool, read_pool
from hf_soups.pool.elsewhere import add_answers
from hf_soups.pool_jobs import pool_ensembles, search_pool
from hf_soups.pool_jobs.build import build_from
from hf_soups.pool_jobs.plans import draw_plan
from hf_soups.predictions import Predictions
from hf_soups.recipe import load_recipe
from hf_soups.reporting.cards.card import check_card, write_card
from hf_soups.reporting.page import report
from tests.makers.tiny import tiny_bert
from tests.problem_types.made import LABELS, MULTI_LABEL_TASK, recipe


@pytest.fixture
def job(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / made.name)


@pytest.fixture(scope="module")
def cooked(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cooked") / made.name
    runs = sorted((made / "runs").iterdir())
    cook(runs, ("uniform", "greedy", "learned"), folder, recipe=made / "data/recipe.yaml", tell=None)
    return folder


def rows_of(made: Path) -> pd.DataFrame:
    return pd.read_csv(made / "data/validation.csv")


def by_stock(folder: Path, made: Path, texts: list[str]) -> np.ndarray:
    """Each label's probability, or the number, of each text as the stock pipeline answers it."""
    stock: Any = pipeline("text-classification", model=str(folder), device="cpu")
    scored = [{one["label"]: one["score"] for one in row} for row in stock(texts, top_k=None)]
    names = LABELS if made.name == "multi-label" else ("stars",)
    return np.array([[row[name] for name in names] for row in scored])


def values_of(p: Predictions) -> np.ndarray:
    return p.probs if p.problem_type == "multi-label" else p.answers[:, None]


def own_score(made: Path, labels: np.ndarray, answers: np.ndarray) -> float:
    """The recipe's metric by scikit-learn and SciPy."""
    if made.name == "multi-label":
        return float(sklearn.metrics.f1_score(labels, answers > 0.5, average="macro", zero_division=0))
    said = answers[:, 0]
    return float((scipy.stats.pearsonr(labels, said)[0] + scipy.stats.spearmanr(labels, said)[0]) / 2)


def test_a_run_answers_as_the_stock_pipeline_does(made: Path) -> None:
    config = Checkpoint(made / "runs/run_0").config
    assert config["problem_type"] == ("regression" if made.name == "regression" else "multi_label_classification")
    report, record = Predictions.load(made / "runs/run_0/predictions/report.safetensors"), read_run(made / "runs/run_0")
    assert report.problem_type == made.name
    frame = rows_of(made)
    stock = by_stock(made / "runs/run_0", made, frame["text"].tolist())
    np.testing.assert_allclose(values_of(report), stock, atol=1e-4)
    labels = frame[list(LABELS)].to_numpy() if made.name == "multi-label" else frame["stars"].to_numpy()
    np.testing.assert_array_equal(report.needs_labels(), labels)
    beside = "nll" if made.name == "multi-label" else "rmse"
    assert set(record.scores["report"]) == {record.metric, beside}
    assert record.scores["report"][record.metric] == pytest.approx(own_score(made, labels, values_of(report)), abs=1e-9)


def test_a_run_learned(made: Path) -> None:
    for record in map(read_run, (made / "runs").iterdir()):
        assert (record.scores["report"][record.metric] or 0) > 0.5
        assert record.history[-1]["loss"] < record.history[0]["loss"]


def test_soups_are_chosen_and_scored_by_the_recipes_metric(made: Path, cooked: Path) -> None:
    known = load_recipe(made / "data/recipe.yaml")
    select = load_splits(known.task, known.data).select
    for method in ("uniform", "greedy", "learned"):
        told = json.loads((cooked / method / "soup.json").read_text())
        answers = by_stock(cooked / method, made, list(select.rows["text"]))
        assert told["scores"]["select"][str(known.task.metric)] == pytest.approx(
            own_score(made, select.labels, answers), abs=1e-3
        )
        assert (
            Checkpoint(cooked / method).config["problem_type"] == Checkpoint(made / "runs/run_0").config["problem_type"]
        )
        folder = Path(shutil.copytree(cooked / method, cooked.parent / f"carded-{method}"))
        write_card(folder)
        check_card(folder)
        card = (folder / "README.md").read_text()
        if made.name == "regression":
            assert "It gives texts a number: stars." in card
            assert "check its probabilities" not in card
        else:
            assert "It gives texts any number of 3 labels: animals, places, praise." in card
            assert 'print(classify("A text to classify.", top_k=None))' in card
    alone = [read_run(run).scores["select"][str(known.task.metric)] or 0 for run in (made / "runs").iterdir()]
    assert json.loads((cooked / "greedy/soup.json").read_text())["scores"]["select"][str(known.task.metric)] >= max(
        alone
    )


def test_rows_without_labels_are_answered_as_the_stock_pipeline_does(made: Path, tmp_path: Path) -> None:
    frame = rows_of(made)
    frame[["text"]].to_csv(tmp_path / "rows.csv", index=False)
    predict_rows(made / "runs/run_0", data=str(tmp_path / "rows.csv"), out=tmp_path / "out", top_k=3, progress=False)
    out = pd.read_parquet(tmp_path / "out")
    stock = by_stock(made / "runs/run_0", made, frame["text"].tolist())
    if made.name == "regression":
        np.testing.assert_allclose(out["score"], stock[:, 0], atol=1e-4)
        assert out["label"].isna().all()
        return
    for row, scores in zip(out.to_dict("records"), stock, strict=True):
        told = dict(zip(row["top_labels"], row["top_scores"], strict=True))
        assert [told[name] for name in LABELS] == pytest.approx(scores.tolist(), abs=1e-4)
        clear = [n for n, s in zip(LABELS, scores, strict=True) if abs(s - 0.5) > 1e-3]
        assert [n for n in row["labels"] if n in clear] == [n for n in clear if told[n] > 0.5]


def test_a_pool_is_filled_scored_and_joined(job: Path, tmp_path: Path) -> None:
    known = load_recipe(job / "data/recipe.yaml")
    done = predict_pool(
        [job / "runs/run_0", job / "runs/run_1"], out=tmp_path / "pool", recipe=job / "data/recipe.yaml", progress=False
    )
    assert not done.failed
    pool = read_pool(tmp_path / "pool")
    assert pool.data.problem_type == job.name
    select = load_splits(known.task, known.data).select
    for name, p in pool.predictions.items():
        stock = by_stock(job / "runs" / name, job, list(select.rows["text"]))
        np.testing.assert_allclose(values_of(p), stock, atol=1e-4)
    found = pool_ensembles(tmp_path / "pool", metric=str(known.task.metric))
    ways = ["mean"] if job.name == "regression" else ["mean", "geometric", "vote"]
    assert [row.name.partition(":")[0] for row in found.rows] == ["best single", *ways, "selected"]
    mean = np.mean([values_of(p) for p in pool.predictions.values()], axis=0)
    assert found.rows[1].select.value == pytest.approx(own_score(job, select.labels, mean), abs=1e-6)
    (tmp_path / "llm.csv").write_text("id,a,b\n0,0.5,0.5\n")
    with pytest.raises(InputError, match=f"of problem type '{job.name}', and answers made elsewhere can join"):
        add_answers(tmp_path / "pool", "llm", tmp_path / "llm.csv")
    # the same rows without a recipe, by their columns
    label = ",".join(LABELS) if job.name == "multi-label" else "stars"
    given = {"data": str(job / "data/validation.csv"), "label": label, "text": ("text",)}
    predict_pool([job / "runs/run_0"], out=tmp_path / "plain", progress=False, **given)
    plain = read_pool(tmp_path / "plain").predictions["run_0"]
    report = Predictions.load(job / "runs/run_0/predictions/report.safetensors")
    np.testing.assert_array_equal(plain.needs_labels(), report.needs_labels())
    np.testing.assert_allclose(plain.log_probs, report.log_probs, atol=1e-4)


def test_a_cascade_leaves_by_the_labels_mean_confidence_and_a_regression_has_none(job: Path, tmp_path: Path) -> None:
    runs = [job / "runs/run_0", job / "runs/run_1"]
    predict_pool(runs, out=tmp_path / "pool", recipe=job / "data/recipe.yaml", progress=False)
    if job.name == "regression":
        with pytest.raises(InputError, match="numbers of a regression do not say how sure the model is"):
            search_pool(tmp_path / "pool")
        return
    for method in ("exhaustive", "beam"):
        found = search_pool(tmp_path / "pool", method=method, metric="f1_macro", folds=2)  # type: ignore[arg-type]
        assert {plan.rule.confidence for plan in found.frontier.plans} == {"labels"}
        for plan in found.frontier.plans:
            answers = plan.apply(read_pool(tmp_path / "pool").predictions)
            labels = answers.needs_labels()
            assert plan.score == pytest.approx(own_score(job, labels, answers.probs), abs=1e-9)
    with pytest.raises(InputError, match="Streeter's greedy is for one class a row"):
        search_pool(tmp_path / "pool", method="streeter")
    with pytest.raises(InputError, match="confidence 'gap' is not for rows of 'multi-label'; expected labels"):
        search_pool(tmp_path / "pool", confidence="gap")
    number = next((i for i, p in enumerate(found.frontier.plans) if len(p.members) > 1), 0)
    reference = f"{tmp_path / 'pool/frontier.json'}#{number}"
    assert {path.name for path in draw_plan(reference, tmp_path / "pictures")} >= {"reliability.png", "exits.png"}
    folder = build_from(reference, tmp_path / "cascade")
    write_card(folder)
    check_card(folder)
    report([tmp_path / "pool", folder], tmp_path / "page.html", resamples=20)
    with pytest.raises(InputError, match="the page shows one class of several for each row"):
        load_demo_cascade(folder)
    frame = rows_of(job)
    given = {"data": str(job / "data/validation.csv"), "label": ",".join(LABELS), "text": ("text",)}
    predict_pool(runs, out=tmp_path / "report", progress=False, **given)
    simulated = found.frontier.plans[number].apply(read_pool(tmp_path / "report").predictions)
    stock: Any = pipeline("cascade-text-classification", model=str(folder), device="cpu")
    for row, expected in zip(stock(frame["text"].tolist(), top_k=None), simulated.probs, strict=True):
        told = {one["label"]: one["score"] for one in row}
        assert [told[name] for name in LABELS] == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_confidence_of_many_labels_is_the_mean_of_each_ones_larger_side() -> None:
    from hf_soups.cascades.rule import Committee, Rule

    p = np.array([[0.9, 0.2, 0.5], [0.01, 0.99, 1.0]])
    logs = np.log(p).astype(np.float32)
    for combine in ("mean", "geometric", "last"):
        committee = Committee(Rule(combine, "labels")).joined(logs).joined(logs)  # type: ignore[arg-type]
        np.testing.assert_allclose(committee.probs(), p, atol=1e-6)
        np.testing.assert_allclose(committee.confidence(), np.maximum(p, 1 - p).mean(axis=1), atol=1e-6)
        assert committee.answers()[1].tolist() == [0, 1, 1]


def test_leaderboard_comparison_diagnosis_and_report_are_made(job: Path, tmp_path: Path) -> None:
    board = build_leaderboard(job / "runs", resamples=50, cascades=job.name == "multi-label")
    kinds = [row.kind for row in board.rows]
    assert {"run", "ensemble"} <= set(kinds)
    assert all(row.report is not None for row in board.rows)
    assert ("cascade" in kinds) <= (job.name == "multi-label")
    best = board.rows[0]
    assert (best.report_nll is None, best.report_ece) == (job.name == "regression", None)
    assert board.save(tmp_path)
    assert board.shifts["again"].present == board.shifts["again"].classes == (1 if job.name == "regression" else 3)
    assert all(row.shifts["again"].value == row.report for row in board.rows if row.kind == "run")
    words = " ".join(compare(job / "runs", ["run_0", "run_1"], resamples=50).words(
        compare(job / "runs", ["run_0", "run_1"], resamples=50).pairs[0]
    ))  # fmt: skip
    assert ("McNemar" in words) == (job.name == "multi-label")
    report([job / "runs"], tmp_path / "page.html", resamples=20)
    assert "run_0" in (tmp_path / "page.html").read_text()


def test_a_cascade_on_the_leaderboard_of_a_regression_is_refused(made: Path) -> None:
    if made.name == "regression":
        with pytest.raises(InputError, match="regression"):
            build_leaderboard(made / "runs", resamples=20, cascades=True)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({**MULTI_LABEL_TASK, "metric": "matthews"}, "'matthews', which is for classification"),
        ({"kind": "text", "label": "stars3", "metric": "f1"}, r"'f1' cannot score a task of 3 classes"),
    ],
)
def test_a_metric_that_cannot_score_the_classes_ends_before_training(task: dict, message: str, tmp_path: Path) -> None:
    from hf_soups.sweep.dry_run import dry_run
    from hf_soups.sweep.run import run_sweep

    written = recipe(tmp_path / "data", tiny_bert(tmp_path / "model"), task=task)
    for name in ("train", "validation"):
        frame = pd.read_csv(tmp_path / f"data/{name}.csv")
        frame["stars3"] = frame["animals"] + frame["places"]
        frame.to_csv(tmp_path / f"data/{name}.csv", index=False)
    known = load_recipe(written)
    with pytest.raises(RecipeError, match=message):
        finetune(known, tmp_path / "run", progress=False)
    with pytest.raises(RecipeError, match=message):
        dry_run(known, tmp_path / "sweep")
    with pytest.raises(RecipeError, match=message):
        run_sweep(known, tmp_path / "sweep", progress=False)
    assert not (tmp_path / "run").exists()


def test_models_of_another_problem_type_are_refused_by_name(made: Path, tmp_path: Path) -> None:
    two = tiny_bert(tmp_path / "two", problem_type="single_label_classification")
    done = predict_pool(
        [made / "runs/run_0", two], out=tmp_path / "pool", recipe=made / "data/recipe.yaml", progress=False
    )
    wanted = "gives 2 logits a row" if made.name == "regression" else "a model of problem type 'classification'"
    assert wanted in done.failed["two"]
    assert set(read_pool(tmp_path / "pool").members) == {"run_0"}
    if made.name == "regression":
        kept = {"head.init": "keep", "model": str(tiny_bert(tmp_path / "m", 3))}
        known = load_recipe(made / "data/recipe.yaml", kept)
        with pytest.raises(CheckpointError, match="gives 3 logits a row, but a regression has one"):
            finetune(known, tmp_path / "run", progress=False)


def test_a_pool_is_pushed_with_its_labels_and_answers(made: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    from hf_soups.hub.data_sets import write_table

    report = Predictions.load(made / "runs/run_0/predictions/report.safetensors")
    write_table(report, tmp_path / "rows.parquet")
    rows = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "c"))["train"]
    np.testing.assert_array_equal(np.array(rows["label"][:]), report.needs_labels())
    np.testing.assert_array_equal(np.array(rows["answer"][:]), report.answers)
