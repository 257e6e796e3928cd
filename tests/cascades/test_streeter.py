"""Streeter's greedy: against the rule written out plainly, and what it guarantees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.cascades import Plan
from hf_soups.cascades.search.streeter import streeter
from hf_soups.costs import Cost
from hf_soups.errors import InputError, PredictionsError
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions, load_predictions
from tests.cascades.pools import random_pool


def plainly(
    pool: Mapping[str, Predictions], costs: Mapping[str, float], reference: str, share: float
) -> tuple[list[str], np.ndarray]:
    """The models that the rule takes, and which of them answers each row."""
    names = list(pool)
    confidence = {n: np.exp(pool[n].log_probs.astype(np.float64)).max(axis=1).astype(np.float32) for n in names}
    right = {n: pool[n].answers == pool[n].labels for n in names}
    remaining, members = np.ones(len(pool[names[0]]), dtype=bool), []
    answered = np.full(len(remaining), -1)
    while remaining.any():
        found = []
        for order, name in enumerate(names):
            if name in members:
                continue
            for threshold in np.unique(confidence[name][remaining]):
                rows = remaining & (confidence[name] >= threshold)
                if right[name][rows].sum() >= share * right[reference][rows].sum() - 1e-9:
                    found.append((-rows.sum() / costs[name], costs[name], order, name, rows))
                    break  # the lowest threshold that qualifies
        *_, name, rows = min(found, key=lambda f: f[:3])
        answered[rows] = len(members)
        members.append(name)
        remaining &= ~rows
    return members, answered


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    models=st.integers(2, 6),
    rows=st.integers(1, 50),
    digits=st.sampled_from([None, 1]),
    share=st.sampled_from([1.0, 0.9, 0.7]),
)
def test_the_members_and_exits_are_those_of_the_rule_written_plainly(
    seed: int, models: int, rows: int, digits: int | None, share: float
) -> None:
    pool, costs = random_pool(models, rows=rows, seed=seed, digits=digits)
    reference = f"m{models - 1}"
    found = streeter(pool, costs, reference=reference, shares=[share])
    members, answered = plainly(pool, costs, reference, share)
    same = [p for p in found.plans if p.members == tuple(members)]
    accuracy = np.mean([pool[members[k]].answers[i] == pool[members[k]].labels[i] for i, k in enumerate(answered)])
    cost = np.cumsum([costs[m] for m in members])[answered].mean()
    if same:
        assert (same[0].apply(pool).exits == answered).all()
        assert same[0].score == pytest.approx(accuracy)
        assert same[0].average_cost == pytest.approx(cost)
    else:  # another plan is as good and as cheap
        assert any(p.score >= accuracy and p.average_cost <= cost * (1 + 1e-9) for p in found.plans)


def test_a_cascade_keeps_its_share_of_the_references_accuracy() -> None:
    pool, costs = random_pool(8, rows=400, classes=5, seed=3)
    for share in (1.0, 0.95, 0.8):
        found = streeter(pool, costs, shares=[share])
        plan = found.cheapest(share * found.best_single.score - 1e-12)
        assert plan is not None
        assert len(plan.members) > 1 or share < 1
        assert plan.average_cost < found.best_single.average_cost


def test_plans_have_the_simulations_numbers() -> None:
    pool, costs = random_pool(6, rows=300, seed=2)
    found = streeter(pool, costs)
    assert any(len(p.members) > 2 for p in found.plans)
    for plan in found.plans:
        done = plan.apply(pool)
        assert plan.score == pytest.approx((done.answers == done.labels).mean())
        assert plan.average_cost == pytest.approx(done.costs.mean())
        assert plan.exit_shares == pytest.approx(np.bincount(done.exits, minlength=len(plan.members)) / 300)


def test_the_last_of_few_members_is_the_reference() -> None:
    pool, costs = random_pool(8, rows=400, seed=3)
    for most in (1, 2, 3):
        found = streeter(pool, costs, max_members=most)
        assert max(len(p.members) for p in found.plans) <= most
    pairs = [p for p in streeter(pool, costs, max_members=2, reference="m5").plans if len(p.members) == 2]
    assert pairs
    assert all(p.members[-1] == "m5" or p.exit_shares[-1] > 0 for p in pairs)


def test_stored_top_k_predictions_give_the_same_cascades() -> None:
    pool, costs = random_pool(5, rows=200, classes=10, seed=4)
    kept = {name: TopKPredictions.of(p, 3) for name, p in pool.items()}
    assert streeter(kept, costs) == streeter(pool, costs)


def test_threads_temperatures_and_confidences() -> None:
    pool, _ = random_pool(5, rows=200, classes=4, seed=5)
    costs = {name: 4.0**i for i, name in enumerate(pool)}
    assert streeter(pool, costs, threads=1) == streeter(pool, costs, threads=3)
    for confidence in ("gap", "entropy"):
        plan = next(p for p in streeter(pool, costs, confidence=confidence).plans if len(p.members) > 1)
        assert plan.rule.confidence == confidence
        assert plan.score == pytest.approx((plan.apply(pool).answers == pool["m0"].labels).mean())
    warm = next(
        p for p in streeter(pool, costs, temperatures={"m0": 2.0, "m1": 2.0, "m2": 2.0}).plans if "m2" in p.members
    )
    assert warm.temperatures[warm.members.index("m2")] == 2.0


def test_units_of_costs_are_kept_and_free_models_come_first() -> None:
    pool, costs = random_pool(3, rows=100, seed=6)
    told = {name: Cost(cost, "macs") for name, cost in costs.items()} | {"m0": Cost(0.0, "macs")}
    found = streeter(pool, told, shares=[0.9])
    assert all(p.unit == "macs" and p.rows == 100 for p in (*found.plans, *found.singles))
    assert [p.members[0] for p in found.plans if len(p.members) > 1] in ([], ["m0"])
    assert found.data == "rows"


def test_progress_is_told() -> None:
    pool, costs = random_pool(4, rows=20)
    told: list[tuple[float, str]] = []
    streeter(pool, costs, shares=[1.0, 0.9], progress=lambda share, what: told.append((share, what)))
    assert [what for _, what in told] == ["answers"] * 4 + ["greedy"] * 2 + ["counting"]
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[-1][0] == 1


def test_bad_input_is_told() -> None:
    pool, costs = random_pool(3, rows=20)
    with pytest.raises(PredictionsError, match="the reference 'm9' is not in the pool, which is: m0, m1, m2"):
        streeter(pool, costs, reference="m9")
    for shares in ([], [0.0], [1.1], [float("nan")]):
        with pytest.raises(InputError, match=r"expected one or more in \(0, 1\]"):
            streeter(pool, costs, shares=shares)
    with pytest.raises(InputError, match="max_members is 0"):
        streeter(pool, costs, max_members=0)
    with pytest.raises(InputError, match="their agreement says nothing"):
        streeter(pool, costs, confidence="agreement")
    with pytest.raises(InputError, match="no cost of m2"):
        streeter(pool, {"m0": 1.0, "m1": 1.0})
    with pytest.raises(PredictionsError, match="hold no labels"):
        streeter({k: replace(p, labels=None) for k, p in pool.items()}, costs)
    broken = pool["m1"].log_probs.copy()
    broken[3, 1] = np.nan
    with pytest.raises(PredictionsError, match="NaN"):
        streeter({**pool, "m1": replace(pool["m1"], log_probs=broken)}, costs)


def test_ties_of_every_confidence_leave_together() -> None:
    labels = [0, 0, 1, 1]
    same = Predictions.from_probs([[0.8, 0.2]] * 4, labels=labels)
    good = Predictions.from_probs([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], labels=labels)
    found = streeter({"same": same, "good": good}, {"same": 1.0, "good": 4.0}, shares=[1.0])
    assert [p.members for p in found.plans] == [("same",), ("good",)]
    assert isinstance(found.best_single, Plan)


def test_more_files_can_be_mapped_than_a_process_may_open_at_first(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    pool, costs = random_pool(2, rows=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 300:
        pytest.skip("the system allows too few open files")
    for i in range(120):
        TopKPredictions.of(pool[f"m{i % 2}"], 2).save(tmp_path / f"{i}.safetensors")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        mapped = {str(i): load_predictions(tmp_path / f"{i}.safetensors") for i in range(120)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = streeter(mapped, {name: costs[f"m{int(name) % 2}"] for name in mapped})
    assert len(found.singles) == 120
