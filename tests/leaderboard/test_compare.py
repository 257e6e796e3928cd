"""`hf-soups compare`: which rows, which tests, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.errors import InputError
from hf_soups.leaderboard.compare import Comparisons, compare, holm
from hf_soups.predictions import Predictions
from tests.makers.synthetic_sweep import (
    REPORT,
    SELECT,
    answers,
    write_failed_run,
    write_finished_run,
    write_plan,
    write_soup_record,
)

RESAMPLES = 200
ENSEMBLES = ("mean-logit ensemble", "mean-prob ensemble", "selected ensemble")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """run_01 is the best on select; run_00 is much worse; run_03 failed; the greedy soup is like run_01."""
    folder = write_plan(tmp_path / "sweep", 4)
    for i, (select, report) in enumerate(((120, 150), (180, 225), (170, 228))):
        write_finished_run(folder / f"run_0{i}", select, report, seed=i)
        answers(60 + 10 * i, 100, "books", i).save(folder / f"run_0{i}/predictions/shift-books.safetensors")
    write_failed_run(folder / "run_03")
    write_soup(folder, 182, 231)
    return folder


def write_soup(sweep: Path, select: int, report: int, **about: object) -> None:
    folder = sweep.parent / "greedy"
    answers(select, 200, SELECT, 9).save(folder / "predictions/select.safetensors")
    answers(report, 277, REPORT, 9).save(folder / "predictions/report.safetensors")
    write_soup_record(folder, ["run_01"], **about)
    (sweep / "soups").mkdir(exist_ok=True)
    (sweep / "soups/greedy.json").write_text(json.dumps({"path": "../../greedy", "method": "greedy"}))


def right(sweep: Path, name: str, role: str = "report") -> np.ndarray:
    folder = sweep.parent / name if name == "greedy" else sweep / name
    p = Predictions.load(folder / "predictions" / f"{role}.safetensors")
    return p.answers == p.needs_labels()


def told(result: Comparisons) -> str:
    return " ".join(" ".join(result.words(pair)) for pair in result.pairs)


def test_two_rows_are_compared_on_the_rows_that_only_one_answers_right(sweep: Path) -> None:
    result = compare(sweep, ["greedy", "run_00"], resamples=RESAMPLES)
    (pair,) = result.pairs
    a, b = right(sweep, "greedy"), right(sweep, "run_00")
    assert (pair.a, pair.b, result.rows, result.on) == ("greedy soup", "run_00", 277, "report")
    assert (pair.only_a, pair.only_b) == ((a & ~b).sum(), (b & ~a).sum())
    exact = binomtest(pair.only_a, pair.only_a + pair.only_b).pvalue
    assert pair.mcnemar_p == pytest.approx(exact) == pytest.approx(pair.holm_p)
    assert pair.a_score - pair.b_score == pytest.approx(a.mean() - b.mean())
    assert pair.low <= pair.a_score - pair.b_score <= pair.high


def test_the_order_of_the_two_turns_the_signs(sweep: Path) -> None:
    (ab,), (ba,) = (
        compare(sweep, names, resamples=RESAMPLES).pairs for names in (["run_00", "best"], ["best", "run_00"])
    )
    assert (ab.only_a, ab.only_b, ab.a_score) == (ba.only_b, ba.only_a, ba.b_score)
    assert ab.mcnemar_p == ba.mcnemar_p
    assert ab.low == pytest.approx(-ba.high)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("greedy", "greedy soup"),
        ("greedy soup", "greedy soup"),
        ("ensemble", "mean-logit ensemble"),
        ("run_02", "run_02"),
    ],
)
def test_rows_go_by_their_names_and_one_alone_meets_the_best(sweep: Path, name: str, row: str) -> None:
    (pair,) = compare(sweep, name, resamples=RESAMPLES).pairs
    assert compare(sweep, [name], resamples=RESAMPLES).pairs == (pair,)
    assert (pair.a, pair.b) == (row, "run_01")


def test_without_names_everything_meets_the_best_on_select_and_is_corrected(sweep: Path) -> None:
    result = compare(sweep, resamples=RESAMPLES)
    assert [(p.a, p.b) for p in result.pairs] == [
        (name, "run_01") for name in ("greedy soup", *ENSEMBLES, "run_02", "run_00")
    ]
    assert [p.holm_p for p in result.pairs] == holm([p.mcnemar_p for p in result.pairs])
    assert "Holm: corrected for 6 comparisons. 1 of 6 differ from the best on select" in result.conclusion()
    assert "(run_00)" in result.conclusion()


def test_three_names_are_a_family_of_their_own(sweep: Path) -> None:
    result = compare(sweep, ["greedy", "run_00", "ensemble"], resamples=RESAMPLES)
    assert [p.a for p in result.pairs] == ["greedy soup", "run_00", "mean-logit ensemble"]
    assert result.against_best


def test_where_nothing_differs_it_is_not_called_equal(sweep: Path) -> None:
    result = compare(sweep, ["greedy", "ensemble", "run_02"], resamples=RESAMPLES)
    assert "None of 3 is distinguishable from the best on select on these 277 rows" in result.conclusion()
    assert "Models that are not distinguishable need not be equal" in result.conclusion()


def test_a_small_difference_is_not_called_one(sweep: Path) -> None:
    said = told(compare(sweep, ["greedy", "best"], resamples=RESAMPLES))
    assert "greedy soup 83.4, run_01 81.2: +2.2 = 6 of 277 rows" in said
    assert "greedy soup and run_01 are not distinguishable on these 277 rows (McNemar's exact test, 5% level)" in said
    assert "that does not show that they are equal" in said


def test_a_large_difference_is_of_these_two_models_alone(sweep: Path) -> None:
    for names in (["greedy", "run_00"], ["run_00", "greedy"]):
        said = told(compare(sweep, names, resamples=RESAMPLES))
        assert "greedy soup is ahead of run_00 by more than the choice of these 277 rows explains" in said
        assert "other seeds or data are not tested here" in said


def test_other_metrics_are_decided_by_their_own_bootstrap_and_lower_may_be_better(sweep: Path) -> None:
    write_plan(sweep, 4, metric="nll")
    result = compare(sweep, ["run_00", "run_02"], resamples=RESAMPLES)
    (pair,) = result.pairs
    assert result.test == "paired bootstrap of nll"
    assert result.decides(pair) == pair.bootstrap_p == pair.holm_p
    assert pair.a_score > pair.b_score
    assert "run_02 is ahead of run_00" in told(result)


def test_a_shift_is_compared_too_and_what_lacks_it_is_said(sweep: Path) -> None:
    result = compare(sweep, on="books", resamples=RESAMPLES)
    assert (result.on, result.rows) == ("books", 100)
    assert [p.a for p in result.pairs] == [*ENSEMBLES, "run_02", "run_00"]
    assert result.warnings == ("left out, without answers on books: greedy soup.",)
    with pytest.raises(InputError, match=r"greedy soup has no answers on 'books': `hf-soups answer .*` makes them"):
        compare(sweep, ["greedy", "run_00"], on="books")


def test_what_cannot_be_used_is_said_with_its_file(sweep: Path) -> None:
    """It changes the correction of all the others."""
    path = sweep / "run_01" / "predictions" / "report.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert any(f"run_01: {path}: " in warning for warning in compare(sweep).warnings)


def test_select_rows_were_chosen_on_and_it_is_said(sweep: Path) -> None:
    result = compare(sweep, ["greedy", "run_00"], on="select", resamples=RESAMPLES)
    assert result.rows == 200
    assert "select rows were chosen on" in result.warnings[0]
    assert compare(sweep, ["greedy", "run_00"], resamples=RESAMPLES).warnings == ()


def test_a_soup_chosen_on_report_is_warned_of(sweep: Path) -> None:
    write_soup(sweep, 182, 231, optimistic=True)
    (warning,) = compare(sweep, ["greedy", "run_00"], resamples=RESAMPLES).warnings
    assert "greedy soup: chosen on the report rows" in warning


@pytest.mark.parametrize(
    ("names", "on", "message"),
    [
        (
            ["grady", "best"],
            "report",
            r"no row 'grady' on the leaderboard; there are: best, greedy, mean-logit ensemble, .*run_01",
        ),
        (["run_03", "best"], "report", r"run_03 has no scores: nan-loss \(the loss was NaN at step 7\)"),
        (["run_01", "best"], "report", "name two rows of the leaderboard that differ"),
        (["best"], "report", "name two rows of the leaderboard that differ"),
        ([], "mars", r"no answers on 'mars'; there are: report, select, books"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_lists_what_can(
    sweep: Path, names: list[str], on: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compare(sweep, names, on=on)


def test_nothing_finished_is_nothing_to_compare(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "sweep", 1)
    write_failed_run(folder / "run_00")
    with pytest.raises(InputError, match="no run has finished yet"):
        compare(folder)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_stepwise_procedure_rejects(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if min(1.0, p_values[at] * (len(p_values) - rank)) >= level:
                break
            rejected.add(at)
        assert {i for i, p in enumerate(corrected) if p < level} == rejected
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))


def test_the_command_prints_words_for_two_and_a_table_for_all(sweep: Path) -> None:
    two = CliRunner().invoke(app, ["compare", str(sweep), "greedy", "best", "--resamples", "100"])
    assert two.exit_code == 0, two.output
    assert "McNemar's exact test: only greedy soup right on " in two.output
    everything = CliRunner().invoke(app, ["compare", str(sweep), "--on", "select", "--resamples", "100"])
    assert everything.exit_code == 0, everything.output
    assert "against run_01, the best on select" in " ".join(everything.output.split())
    assert "warning: select rows were chosen on" in " ".join(everything.output.split())
