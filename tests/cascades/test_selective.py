"""Abstaining: the curve is that of brute force, what runs marks the same rows, and certificates keep their promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import pipeline

import hf_soups  # noqa: F401 (registers the pipelines)
from hf_soups.cascades import NEVER, Plan, Rule
from hf_soups.cascades.plan import plan_of, plan_values
from hf_soups.cascades.running import modeling_cascade
from hf_soups.cascades.running.model import CascadeForSequenceClassification
from hf_soups.cascades.selective import abstaining_plan, certify_risk, coverage_risk
from hf_soups.errors import InputError, PredictionsError
from hf_soups.predictions import Predictions
from tests.cascades.made import Made, make
from tests.cascades.pools import random_pool

RULES = [Rule(), Rule("geometric", "gap"), Rule("last", "entropy"), Rule("mean", "agreement")]
PLANS = [Plan(("m0",), (), (1.0,)), Plan(("m0", "m2"), (0.7,), (1.0, 5.0))]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.combine}-{r.confidence}")
@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.in_order)
@pytest.mark.parametrize("digits", [None, 1])
def test_every_point_is_what_the_plan_does_with_that_threshold(plan: Plan, rule: Rule, digits: int | None) -> None:
    pool, _ = random_pool(3, rows=80, seed=1, digits=digits)
    plan = replace(plan, rule=rule)
    curve = coverage_risk(plan, pool)
    assert curve.coverages[0] == 1.0
    assert (np.diff(curve.coverages) < 0).all()
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverages, curve.risks, strict=True):
        answers = replace(plan, abstain=float(threshold)).apply(pool)
        given = ~answers.abstained
        assert given.mean() == pytest.approx(coverage)
        if given.any():
            assert (answers.answers != answers.labels)[given].mean() == pytest.approx(risk)
    late = replace(plan, abstain=0.0).apply(pool)
    distinct = np.unique(late.confidences[late.exits == len(plan.members) - 1])
    assert len(curve.thresholds) == len(distinct) + 1  # every threshold that makes a difference


def test_the_area_is_the_mean_risk_of_the_surest_rows() -> None:
    pool, _ = random_pool(1, rows=200, seed=3)
    answers = replace(PLANS[0], abstain=0.0).apply(pool)
    order = np.argsort(-answers.confidences, kind="stable")
    wrong = (answers.answers != answers.labels)[order]
    assert coverage_risk(PLANS[0], pool).aurc == pytest.approx(np.mean([wrong[: k + 1].mean() for k in range(200)]))


def test_thresholds_are_chosen_by_coverage_and_by_risk() -> None:
    pool, _ = random_pool(1, rows=400, seed=2)
    curve = coverage_risk(PLANS[0], pool)
    for coverage in (1.0, 0.9, 0.5, 0.013):
        own = abstaining_plan(PLANS[0], curve.at_coverage(coverage), pool)
        assert own.coverage is not None
        assert coverage <= own.coverage < coverage + 0.01
    at = curve.at_risk(0.2)
    assert at is not None
    kept = curve.coverages[curve.risks <= 0.2].max()
    assert abstaining_plan(PLANS[0], at, pool).coverage == pytest.approx(kept)
    assert curve.at_risk(-1.0) is None
    with pytest.raises(InputError, match=r"coverage is 1\.5"):
        curve.at_coverage(1.5)


def test_a_plan_keeps_its_threshold_in_json_and_refuses_what_is_none() -> None:
    plan = Plan(("a", "b"), (0.5,), (1.0, 2.0), abstain=0.75, coverage=0.9, score_answered=0.95)
    assert plan_of(plan_values(plan)) == plan
    assert "abstain" not in plan_values(Plan(("a",), (), (1.0,)))
    assert plan.way != replace(plan, abstain=None).way
    for wrong in (-0.1, 2.5, float("nan")):
        with pytest.raises(InputError, match="abstain is"):
            replace(plan, abstain=wrong)


def test_nothing_answered_has_no_score() -> None:
    pool, _ = random_pool(1, rows=30)
    none = abstaining_plan(PLANS[0], NEVER, pool)
    assert (none.coverage, none.score_answered) == (0.0, None)
    assert abstaining_plan(none, None, pool) == PLANS[0]


def test_rows_without_labels_or_with_several_have_no_risk() -> None:
    pool, _ = random_pool(1, rows=30)
    with pytest.raises(PredictionsError, match="have no labels"):
        coverage_risk(PLANS[0], {"m0": replace(pool["m0"], labels=None)})
    many = Predictions.from_logits(np.zeros((4, 3)), labels=np.ones((4, 3), int), problem_type="multi-label")
    with pytest.raises(InputError, match="'multi-label' are not answered right or wrong as a whole"):
        coverage_risk(Plan(("m",), (), (1.0,), Rule("mean", "labels")), {"m": many})


def drawn(rng: np.random.Generator, rows: int) -> Predictions:
    """Right with a chance of the confidence, which is uniform in [0.5, 1]."""
    sure = rng.uniform(0.5, 1.0, rows)
    right = rng.random(rows) < sure
    return Predictions.from_probs(np.stack([sure, 1 - sure], axis=1), labels=np.where(right, 0, 1))


def true_risk(threshold: float) -> float:
    """Of the answers at or above it: half of what is missing from there to 1."""
    return (1 - min(max(threshold, 0.5), 1.0)) / 2


def test_certificates_are_wrong_no_more_often_than_delta_and_naive_choices_are() -> None:
    rng, draws, max_risk, delta = np.random.default_rng(0), 200, 0.1, 0.1
    given = wrong = naive_wrong = 0
    for seed in range(draws):
        rows = {"m0": drawn(rng, 1500)}
        found = certify_risk(PLANS[0], rows, max_risk=max_risk, delta=delta, seed=seed)
        if found.plan is not None:
            assert found.plan.abstain is not None
            given += 1
            wrong += true_risk(found.plan.abstain) > max_risk
        naive = coverage_risk(PLANS[0], rows).at_risk(max_risk)
        naive_wrong += naive is not None and true_risk(naive) > max_risk
    allowed = draws * delta + 3 * np.sqrt(draws * delta * (1 - delta))
    assert wrong <= allowed < naive_wrong
    assert given > 0.6 * draws  # and it is of use


def test_with_many_rows_nearly_all_that_may_be_answered_is() -> None:
    found = certify_risk(PLANS[0], {"m0": drawn(np.random.default_rng(1), 40_000)}, max_risk=0.1)
    assert found.plan is not None
    assert found.plan.abstain == pytest.approx(0.8, abs=0.05)  # where the true risk is 0.1
    assert found.plan.coverage == pytest.approx(found.answered / found.rows)
    assert "Certified with probability 0.95: at most 10% of the answers wrong, if a human is asked" in found.in_words()


def test_what_cannot_be_shown_says_how_many_rows_would_do_or_that_none_would() -> None:
    rows = {"m0": drawn(np.random.default_rng(2), 60)}
    short = certify_risk(PLANS[0], rows, max_risk=0.05)
    assert not short.certified
    if short.rows_needed is not None:
        assert short.rows_needed > 60
    hopeless = certify_risk(PLANS[0], {"m0": Predictions.from_probs([[0.9, 0.1]] * 60, labels=[1] * 60)}, max_risk=0.05)
    assert hopeless.rows_needed is None
    assert "No threshold is safe enough for any number of rows" in hopeless.in_words()
    for wrong in ({"max_risk": 0.0}, {"delta": 1.0}):
        with pytest.raises(InputError, match="expected a share between 0 and 1"):
            certify_risk(PLANS[0], rows, **wrong)
    with pytest.raises(InputError, match="cannot be split"):
        certify_risk(PLANS[0], rows, ordering_share=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("text", tmp_path_factory.mktemp("text"), rows=24)


@pytest.fixture(scope="module")
def built(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A cascade that leaves about half of the rows that meet its last member to a human."""
    plan = made.plan((0.4, 0.3))
    answers = replace(plan, abstain=0.0).apply(made.predictions)
    late = np.sort(answers.confidences[answers.exits == 2]).astype(float)
    widest = int(np.diff(late)[1:-1].argmax()) + 1  # no row's own: batches differ in rounding
    plan = replace(plan, abstain=float(late[widest] + late[widest + 1]) / 2)
    return plan, made.built(plan, tmp_path_factory.mktemp("built") / "c", max_length=64, with_code=True)


def test_the_pipeline_and_the_code_for_others_mark_the_rows_of_the_simulation(
    made: Made, built: tuple[Plan, Path]
) -> None:
    plan, folder = built
    wanted = plan.apply(made.predictions).abstained
    assert wanted is not None
    assert 0 < wanted.sum() < 24
    pipe: Any = pipeline("cascade-text-classification", model=str(folder), device="cpu", batch_size=7)
    assert [answer["abstained"] for answer in pipe(made.inputs)] == wanted.tolist()
    for row, own in zip(made.inputs[:5], wanted.tolist(), strict=False):
        (alone,) = pipe(row)
        assert alone["abstained"] is own
    code: Any = modeling_cascade.CascadeForSequenceClassification.from_pretrained(folder)
    assert code(texts=made.inputs).abstained.tolist() == wanted.tolist()
    ours = CascadeForSequenceClassification.from_pretrained(folder)
    assert isinstance(ours, CascadeForSequenceClassification)
    assert ours.abstains
    never = ours.run(_raw(made), plan=replace(plan, abstain=None))
    assert never.abstained is None


def _raw(made: Made) -> Any:
    from hf_soups.models.readers import RawRows

    return RawRows([(text, None) for text in made.inputs], len(made.inputs))


def test_answers_in_files_and_over_http_have_a_column_for_it(
    made: Made, built: tuple[Plan, Path], tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fastapi.testclient import TestClient

    from hf_soups import build_app
    from hf_soups.batch_predict import predict_rows

    plan, folder = built
    wanted = plan.apply(made.predictions).abstained
    assert wanted is not None
    pq.write_table(pa.table({"text": made.inputs}), tmp_path / "rows.parquet")
    rows = {"data": str(tmp_path / "rows.parquet"), "shard_rows": 7}
    result = predict_rows(folder, out=tmp_path / "out", progress=False, **rows)
    assert result.abstained == wanted.sum()
    told = pq.read_table(sorted((tmp_path / "out").glob("*.parquet"))).to_pydict()
    assert told["abstained"] == wanted.tolist()
    with TestClient(build_app(folder)) as client:
        answers = client.post("/", json={"inputs": made.inputs, "parameters": {"top_k": 1}}).json()
    assert [answer[0]["abstained"] for answer in answers] == wanted.tolist()


def test_the_demo_sends_these_rows_to_a_human(made: Made, built: tuple[Plan, Path]) -> None:
    from hf_soups.demo.cascade import load_demo_cascade
    from hf_soups.demo.views import batch_view, journey_view, plan_in_words

    plan, folder = built
    wanted = plan.apply(made.predictions).abstained
    assert wanted is not None
    cascade = load_demo_cascade(folder, device="cpu")
    ways = cascade.follow(made.inputs, plan)
    assert [way.for_human for way in ways] == wanted.tolist()
    at = int(wanted.argmax())
    assert "Ask a human. Likeliest:" in journey_view(ways[at], plan, cascade.label_names, cascade.always)
    table = batch_view(made.inputs, ways, plan, cascade.label_names, cascade.always)
    assert f"{24 - wanted.sum()} of 24; {wanted.sum()} for a human" in table
    assert "a human where the confidence is below" in plan_in_words(plan)
