"""WiSE-FT and task vectors: weights against dense float64 sums, choices against a dictionary of scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, IncompatibleCheckpoints, InputError
from hf_soups.soups import Soup, Step, uniform
from hf_soups.soups.methods.lines import task_vectors, wise_ft
from tests.makers.pile import NAMES, label, near
from tests.makers.tiny import tiny_bert, tiny_resnet
from tests.soups import dense


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("lines") / "start")


@pytest.fixture(scope="module")
def tuned(start: Path) -> list[Path]:
    return [label(folder, NAMES) for folder in dense.fine_tunes(start, start.parent, 3)]


def checkpoints(folders: list[Path]) -> list[Checkpoint]:
    return [Checkpoint(folder) for folder in folders]


def by(key: str, table: dict[float, float]) -> Callable[[Soup], float]:
    """A score function that looks up the soup's alpha or scale."""
    return lambda soup: table[soup.about[key]]


def preferring(wanted: float, key: str = "alpha") -> Callable[[Soup], float]:
    return lambda soup: -abs(soup.about[key] - wanted)


# WiSE-FT.


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_a_point_of_the_line_is_the_dense_sum(start: Path, tuned: list[Path], alpha: float, tmp_path: Path) -> None:
    soup = wise_ft(Checkpoint(tuned[0]), Checkpoint(start), preferring(alpha))
    exact = dense.combined([(alpha, tuned[0]), (1 - alpha, start)])
    soup.save_pretrained(tmp_path / "soup")
    dense.assert_close(tmp_path / "soup", exact)
    dense.assert_same_logits(tmp_path / "soup", exact)
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert (record["method"], record["alpha"], record["start"]) == ("wise-ft", alpha, str(start))
    assert Checkpoint(tmp_path / "soup").label_names == NAMES  # of the fine-tune; the start names none


@pytest.mark.parametrize(("alpha", "whole"), [(0.0, "start"), (1.0, "m0")])
def test_the_ends_of_the_line_are_the_checkpoints_bit_for_bit(
    start: Path, tuned: list[Path], alpha: float, whole: str, tmp_path: Path
) -> None:
    soup = wise_ft(Checkpoint(tuned[0]), Checkpoint(start), preferring(alpha))
    assert [(c.folder.name, w) for c, w in zip(soup.ingredients, soup.coefficients, strict=True)] == [(whole, 1.0)]
    soup.save_pretrained(tmp_path / "soup")
    one, saved = dense.load(start.parent / whole), dense.load(tmp_path / "soup")
    assert all(np.array_equal(saved[name], one[name]) for name in one)


def test_every_point_is_scored_and_recorded(start: Path, tuned: list[Path]) -> None:
    seen: list[Step] = []
    table = {0.0: 0.5, 0.25: 0.7, 0.5: math.nan, 0.75: 0.6, 1.0: 0.4}
    soup = wise_ft(
        Checkpoint(tuned[0]), Checkpoint(start), by("alpha", table), points=[1, 0, 0.5, 0.75, 0.25], on_step=seen.append
    )
    assert tuple(seen) == soup.steps
    assert [step.candidate for step in soup.steps] == [f"alpha {a}" for a in ("0.00", "0.25", "0.50", "0.75", "1.00")]
    assert [step.accepted for step in soup.steps] == [True, True, False, False, False]
    assert [step.best_so_far for step in soup.steps] == [0.5, 0.7, 0.7, 0.7, 0.7]
    assert [step.ingredients for step in soup.steps] == [1, 2, 2, 2, 1]
    assert math.isnan(soup.steps[2].score)
    assert (soup.about["alpha"], soup.scores["score"]) == (0.25, 0.7)


VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.75, math.nan])


@given(st.lists(VALUES, min_size=11, max_size=11))
def test_the_best_point_wins_and_of_equals_the_larger_alpha(
    start: Path, tuned: list[Path], values: list[float]
) -> None:
    table = {i / 10: value for i, value in enumerate(values)}
    numbers = [(value, alpha) for alpha, value in table.items() if not math.isnan(value)]

    def chosen() -> Soup:
        return wise_ft(Checkpoint(tuned[0]), Checkpoint(start), by("alpha", table))

    if not numbers:
        with pytest.raises(HfSoupsError, match="none of the 11 points has a score"):
            chosen()
        return
    assert (chosen().scores["score"], chosen().about["alpha"]) == max(numbers)


def test_a_second_value_breaks_ties(start: Path, tuned: list[Path]) -> None:
    loss = {0.0: 3.0, 0.5: 1.0, 1.0: 2.0}
    soup = wise_ft(
        Checkpoint(tuned[0]), Checkpoint(start), lambda soup: (0.5, -loss[soup.about["alpha"]]), points=list(loss)
    )
    assert soup.about["alpha"] == 0.5
    assert [step.tie_break for step in soup.steps] == [-3.0, -1.0, -2.0]


@pytest.mark.parametrize("points", [[], [0.5, math.nan], [math.inf]])
def test_points_that_are_no_numbers_are_refused(start: Path, tuned: list[Path], points: list[float]) -> None:
    with pytest.raises(InputError, match=r"points are .* expected one or more finite numbers"):
        wise_ft(Checkpoint(tuned[0]), Checkpoint(start), preferring(1), points=points)


@pytest.mark.parametrize("points", [[-0.1, 0.5], [0.5, 1.1]])
def test_points_beyond_the_ends_are_refused(start: Path, tuned: list[Path], points: list[float]) -> None:
    with pytest.raises(InputError, match=r"alphas lie between 0 \(the start\) and 1"):
        wise_ft(Checkpoint(tuned[0]), Checkpoint(start), preferring(1), points=points)


# Task vectors.


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0, -0.5])
def test_the_sum_of_task_vectors_is_the_dense_one(start: Path, tuned: list[Path], scale: float, tmp_path: Path) -> None:
    zero, models = dense.load(start), [dense.load(folder) for folder in tuned]
    exact = {name: w + scale * sum(m[name] - w for m in models) for name, w in zero.items()}
    soup = task_vectors(checkpoints(tuned), Checkpoint(start), scales=[scale])
    assert (soup.steps, soup.about["scale"]) == ((), scale)
    soup.save_pretrained(tmp_path / "soup")
    dense.assert_close(tmp_path / "soup", exact)
    dense.assert_same_logits(tmp_path / "soup", exact)
    assert Checkpoint(tmp_path / "soup").label_names == NAMES


@pytest.mark.parametrize("models", [1, 2, 3])
def test_scale_one_over_k_is_the_uniform_soup(start: Path, tuned: list[Path], models: int, tmp_path: Path) -> None:
    pool = checkpoints(tuned[:models])
    task_vectors(pool, Checkpoint(start), scales=[1 / models]).save_pretrained(tmp_path / "sum")
    uniform(pool).save_pretrained(tmp_path / "mean")
    dense.assert_close(tmp_path / "sum", dense.load(tmp_path / "mean"))


def test_the_best_scale_wins_and_of_equals_the_smaller(start: Path, tuned: list[Path]) -> None:
    table = {0.2: math.nan, 0.4: 0.7, 0.6: 0.8, 0.8: 0.8, 0.125: 0.1}
    soup = task_vectors(checkpoints(tuned), Checkpoint(start), by("scale", table), scales=list(table))
    assert (soup.about["scale"], soup.scores["score"]) == (0.6, 0.8)
    assert soup.coefficients == (0.6, 0.6, 0.6, 1 - 3 * 0.6)
    assert [step.candidate for step in soup.steps] == [f"scale {s}" for s in ("0.125", "0.20", "0.40", "0.60", "0.80")]
    assert [step.accepted for step in soup.steps] == [True, False, True, True, False]


def test_without_points_ten_scales_are_tried(start: Path, tuned: list[Path]) -> None:
    soup = task_vectors(checkpoints(tuned), Checkpoint(start), preferring(0.3, "scale"))
    assert len(soup.steps) == 10
    assert soup.about["scale"] == 0.3


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_variances_stay_positive_beyond_the_ingredients(scale: float, tmp_path: Path) -> None:
    start = tiny_resnet(tmp_path / "start")
    pool = [near(start, tmp_path / f"m{i}", seed=i) for i in range(3)]
    soup = task_vectors(checkpoints(pool), Checkpoint(start), scales=[scale])
    soup.save_pretrained(tmp_path / "soup")
    saved, mean = dense.load(tmp_path / "soup"), dense.combined([(1 / 3, folder) for folder in pool])
    exact = dense.combined([*((scale, folder) for folder in pool), (1 - 3 * scale, start)])
    variances = [name for name in saved if name.endswith("running_var")]
    assert variances
    assert all((saved[name] > 0).all() for name in variances)
    dense.assert_close(tmp_path / "soup", {name: (mean if "running" in name else exact)[name] for name in saved})


def test_several_scales_without_a_score_are_refused(start: Path, tuned: list[Path]) -> None:
    with pytest.raises(InputError, match="10 scales but no score"):
        task_vectors(checkpoints(tuned), Checkpoint(start))


@pytest.mark.parametrize("scales", [[], [math.nan], [0.5, -math.inf]])
def test_scales_that_are_no_numbers_are_refused(start: Path, tuned: list[Path], scales: list[float]) -> None:
    with pytest.raises(InputError, match=r"scales are .* expected one or more finite numbers"):
        task_vectors(checkpoints(tuned), Checkpoint(start), scales=scales)


def test_no_ingredient_is_refused(start: Path) -> None:
    with pytest.raises(InputError, match="at least one ingredient, got none"):
        task_vectors([], Checkpoint(start), scales=[0.5])


def test_a_scale_without_a_score_is_an_error(start: Path, tuned: list[Path]) -> None:
    with pytest.raises(HfSoupsError, match="none of the 10 points has a score"):
        task_vectors(checkpoints(tuned), Checkpoint(start), lambda soup: math.nan)


def test_a_start_of_another_architecture_is_refused_before_anything_is_scored(
    tuned: list[Path], tmp_path: Path
) -> None:
    def never(soup: Soup) -> float:
        raise AssertionError("scored")

    bare = Checkpoint(tiny_resnet(tmp_path / "bare"))
    with pytest.raises(IncompatibleCheckpoints, match=r"holds 0 of the \d+ tensors"):
        wise_ft(Checkpoint(tuned[0]), bare, never)
    with pytest.raises(IncompatibleCheckpoints, match=r"holds 0 of the \d+ tensors"):
        task_vectors(checkpoints(tuned), bare, never)
