"""Plans: a cascade on stored predictions, row for row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.cascades import NEVER, CascadePredictions, Plan, Rule
from hf_soups.cascades.simulate import ROWS_AT_ONCE, simulate
from hf_soups.ensembles import ensemble
from hf_soups.errors import InputError, PredictionsError
from hf_soups.predictions import Predictions

NAMES = ("a", "b", "c")


def pool(rows: int = 30, classes: int = 3, seed: int = 0, names: tuple[str, ...] = NAMES) -> dict[str, Predictions]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    return {name: Predictions.from_logits(random.normal(0, 2, (rows, classes)), labels=labels) for name in names}


def by_hand(members: list[Predictions], thresholds: tuple[float, ...]) -> list[tuple[int, int]]:
    """(answer, exit) of each row of a mean cascade, one row at a time and without the package's rule."""
    found = []
    for row in range(len(members[0])):
        for k in range(1, len(members) + 1):
            p = np.mean([np.exp(m.log_probs[row].astype(np.float64)) for m in members[:k]], axis=0)
            if k == len(members) or np.float32(p.max()) >= np.float32(thresholds[k - 1]):
                found.append((int(p.argmax()), k - 1))
                break
    return found


@given(st.integers(0, 1000), st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2))
def test_a_cascade_leaves_and_answers_as_counted_by_hand(seed: int, thresholds: list[float]) -> None:
    predictions = pool(seed=seed)
    done = Plan(NAMES, tuple(thresholds), (1, 2, 3)).apply(predictions)
    wanted = by_hand([predictions[name] for name in NAMES], tuple(thresholds))
    assert done.exits is not None
    assert list(zip(done.answers.tolist(), done.exits.tolist(), strict=True)) == wanted


def test_thresholds_of_zero_make_the_first_member() -> None:
    predictions = pool()
    done = Plan(NAMES, (0, 0), (1, 2, 3)).apply(predictions)
    np.testing.assert_allclose(done.log_probs, predictions["a"].log_probs, atol=1e-6)
    assert (done.exits == 0).all()
    assert (done.costs == 1).all()


@pytest.mark.parametrize("combine", ["mean", "geometric"])
def test_thresholds_never_reached_make_the_ensemble(combine: str) -> None:
    predictions = pool()
    done = Plan(NAMES, (NEVER, NEVER), (1, 2, 3), Rule(combine)).apply(predictions)  # type: ignore[arg-type]
    np.testing.assert_allclose(done.log_probs, ensemble(list(predictions.values()), combine).log_probs, atol=2e-6)
    assert (done.exits == 2).all()
    assert (done.costs == 6).all()


def test_costs_are_those_of_all_members_that_a_row_met() -> None:
    done = Plan(NAMES, (0.6, 0.6), (1, 10, 100)).apply(pool(rows=200))
    assert done.exits is not None
    assert done.costs is not None
    assert sorted(set(done.exits.tolist())) == [0, 1, 2]
    assert (done.costs == np.array([1, 11, 111])[done.exits]).all()


def test_rows_are_joined_by_their_ids() -> None:
    predictions = pool()
    shuffled = {**predictions, "b": predictions["b"].take(np.random.default_rng(1).permutation(30))}
    plan = Plan(NAMES, (0.6, 0.6), (1, 2, 3))
    assert np.array_equal(plan.apply(shuffled).log_probs, plan.apply(predictions).log_probs)


def test_blocks_of_rows_do_not_change_what_comes_out() -> None:
    predictions = pool(rows=ROWS_AT_ONCE + 10)
    done = Plan(NAMES, (0.6, 0.7), (1, 2, 3)).apply(predictions)
    tail = {name: p.take(np.arange(ROWS_AT_ONCE - 5, ROWS_AT_ONCE + 10)) for name, p in predictions.items()}
    assert np.array_equal(Plan(NAMES, (0.6, 0.7), (1, 2, 3)).apply(tail).log_probs, done.log_probs[-15:])


def test_taking_rows_takes_their_exits_and_costs() -> None:
    done = Plan(NAMES, (0.6, 0.6), (1, 2, 3)).apply(pool())
    some = done.take([3, 1])
    assert isinstance(some, CascadePredictions)
    assert some.exits is not None
    assert done.exits is not None
    assert some.exits.tolist() == [done.exits[3], done.exits[1]]


def test_temperatures_are_those_of_the_members() -> None:
    predictions = pool()
    plan = Plan(("a", "b"), (0.6,), (1, 2), temperatures=(2.0, 0.5))
    scaled = {"a": predictions["a"].at_temperature(2.0), "b": predictions["b"].at_temperature(0.5)}
    assert np.array_equal(plan.apply(predictions).log_probs, Plan(("a", "b"), (0.6,), (1, 2)).apply(scaled).log_probs)


def test_an_empty_set_of_rows_gives_an_empty_answer() -> None:
    empty = {name: p.take([]) for name, p in pool().items()}
    assert len(Plan(NAMES, (0.6, 0.6), (1, 2, 3)).apply(empty)) == 0


def test_a_member_without_predictions_is_named() -> None:
    with pytest.raises(PredictionsError, match="no predictions of z; there are: a, b, c"):
        Plan(("a", "z"), (0.5,), (1, 2)).apply(pool())


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"members": ("a", "a")}, "a member stands there twice"),
        ({"costs": (1.0,)}, "1 costs for 2 members"),
        ({"temperatures": (1.0, 0.0)}, "expected numbers above 0"),
        ({"temperatures": (1.0,)}, "1 temperatures for 2 members"),
        ({"thresholds": (0.5, 0.5)}, "2 thresholds for 2 members"),
    ],
)
def test_plans_that_cannot_run_are_refused(about: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Plan(**{"members": ("a", "b"), "thresholds": (0.5,), "costs": (1.0, 2.0), **about})  # type: ignore[arg-type]


def test_simulation_refuses_thresholds_of_another_number_of_members() -> None:
    with pytest.raises(InputError, match="expected 2"):
        simulate(list(pool().values()), [0.5], Rule())
