"""What the diagnosis says, from facts made by hand: each case has its reason, and no other."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from hf_soups.diagnosis.findings import Absent, Findings, Greedy, Line, Mixed, RunPair, Single
from hf_soups.diagnosis.words import SettingRule, in_words, separating_rule
from hf_soups.soups import Step


def facts(
    scores: list[float],
    dips: dict[tuple[int, int], float] | None = None,
    *,
    rates: list[float] | None = None,
    uniform: float = 0.8,
    ensemble: float = 0.8,
    noise: float = 0.02,
    sign: int = 1,
    metric: str = "accuracy",
    greedy: Greedy | None = None,
    **about,
) -> Findings:
    """All pairs of runs; a pair's middle lies `dips` below the mean of its ends (0 where none is given)."""
    names = [f"run_{i:02d}" for i in range(len(scores))]
    settings = [{"learning_rate": r} for r in rates or []] or [{} for _ in scores]
    singles = tuple(
        Single(n, s, s - 0.03, s + 0.03, values) for n, s, values in zip(names, scores, settings, strict=True)
    )
    pairs = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        if math.isnan(scores[i] + scores[j]):
            continue
        middle = (scores[i] + scores[j]) / 2 - sign * (dips or {}).get((i, j), 0.0)
        line = Line(names[i], names[j], (0.0, 0.5, 1.0), (scores[i], middle, scores[j]), sign)
        pairs.append(RunPair(line, 1.0, 60.0, middle))
    values = {
        "metric": metric, "sign": sign, "rows": 1000, "all_rows": 1000, "noise": noise, "ensemble_noise": noise / 2,
        "chance": 0.5 if sign > 0 else 5.0, "singles": singles, "pairs": tuple(pairs), "possible_pairs": len(pairs),
        "uniform": Mixed("uniform", tuple(names), uniform, ensemble), "greedy": greedy, **about,
    }  # fmt: skip
    return Findings(**values)


def kept(*members: str, refused: dict[str, float] | None = None, score: float = 0.82) -> Greedy:
    steps = [Step(name, score, score, True, i + 1) for i, name in enumerate(members)]
    steps += [Step(name, value, score, False, len(members) + 1) for name, value in (refused or {}).items()]
    return Greedy(members, tuple(steps))


def said(told: Findings) -> str:
    return "\n".join(in_words(told))


def test_a_run_behind_a_barrier_is_named_with_its_height_and_learning_rate_and_the_rule() -> None:
    """The issue's own example."""
    told = said(
        facts(
            [0.80, 0.82, 0.81, 0.79],
            {(1, 3): 0.031, (0, 3): 0.04, (2, 3): 0.05},
            rates=[1e-5, 5e-5, 1e-4, 8e-4],
            greedy=kept("run_01", "run_02", "run_00", refused={"run_03": 0.78}),
        )
    )
    assert "run_03 lies behind a barrier of 3.1 points (learning rate 8e-4) from run_01." in told
    assert (
        "The learning rate tells which: the 3 pairs without a barrier have runs up to 1e-4, each of the 3 with one has "
        "a run from 8e-4 on. Keep it at 1e-4 or below." in told
    )


def test_when_no_setting_separates_the_pairs_no_rule_is_claimed() -> None:
    told = facts([0.80, 0.82, 0.81], {(0, 1): 0.05}, rates=[1e-5, 1e-5, 8e-4])
    assert separating_rule(told) is None
    assert "1 of 3 measured pairs have a barrier; no single setting" in said(told)


def test_the_smaller_batch_is_the_bolder_setting() -> None:
    made = facts([0.80, 0.82, 0.81], {(0, 1): 0.05, (0, 2): 0.05})
    singles = [replace(s, settings={"batch_size": b}) for s, b in zip(made.singles, (8, 32, 64), strict=True)]
    assert separating_rule(replace(made, singles=tuple(singles))) == SettingRule("batch size", 32, 8, False)


def test_without_any_barrier_the_runs_are_said_to_lie_in_one_basin() -> None:
    told = said(facts([0.80, 0.82, 0.81], {(0, 1): 0.012}))
    assert "No pair has a barrier beyond the sampling error (the deepest dip is 1.2 points, run_00 - run_01)" in told
    assert "tells which" not in told


def test_when_all_pairs_have_a_barrier_there_is_no_basin() -> None:
    told = said(facts([0.80, 0.82], {(0, 1): 0.2}, rates=[3e-4, 4e-4], uniform=0.6, ensemble=0.82))
    assert "All 1 measured pairs have a barrier" in told
    assert "the lowest learning rate here was 3e-4, so try below it" in told
    assert in_words(facts([0.80, 0.82], {(0, 1): 0.2}, uniform=0.6))[0].startswith("Averaging loses here")


def test_greedy_that_kept_one_is_explained_run_by_run() -> None:
    greedy = kept("run_01", refused={"run_00": 0.817, "run_02": 0.75, "run_03": 0.70})
    told = said(facts([0.81, 0.82, 0.66, 0.815], {(1, 3): 0.117}, greedy=greedy))
    assert "Greedy kept run_01 alone (82.0)" in told
    assert "within the sampling error: run_00 81.0 (adding it lost 0.3 points = 3 of 1000 rows)." in told
    assert "too weak beside it: run_02 66.0 (their average level with the mean of the two, 8.0 points below" in told
    assert "run_03 lies behind a barrier of 11.7 points from run_01." in told


def test_greedy_that_kept_some_or_all_says_how_much_it_gained() -> None:
    some = said(facts([0.80, 0.82, 0.81], greedy=kept("run_01", "run_02", refused={"run_00": 0.84}, score=0.85)))
    assert "Greedy kept 2 of 3: run_01, run_02 (85.0, 3.0 points above the best run alone: more than chance)." in some
    everyone = said(facts([0.80, 0.82], greedy=kept("run_01", "run_00", score=0.825)))
    assert "Greedy kept all 2: run_01, run_00 (82.5, 0.5 points above the best run alone: within the" in everyone


def test_without_a_greedy_soup_the_pairs_alone_are_judged() -> None:
    told = said(facts([0.80, 0.82, 0.79], {(0, 1): -0.02}))
    assert "No greedy soup chosen on select" in told
    assert "no worse than the better of the two: run_00 80.0 (together 1.0 points above it)." in told
    near = said(facts([0.80, 0.82, 0.79], {(0, 1): -0.005}))
    assert "is worse, but within the sampling error: run_00 80.0 (adding it lost 0.5 points = 5 of 1000" in near
    assert "Left out" not in near


def test_small_differences_are_put_down_to_chance() -> None:
    verdict = in_words(facts([0.815, 0.82, 0.81], uniform=0.822, ensemble=0.824))[0]
    assert verdict.startswith("At this size the effect does not show")
    assert "two runs differ by 2.0 points by chance" in verdict
    assert "all runs score alike (1.0 points apart)" in verdict
    # 0.02 falls with the root of the rows: 1,000 rows x (0.02 / 0.004)^2
    assert "To tell a gain of 0.4 points from chance takes about 25,000 select rows: better or more equal" in verdict
    nearer = in_words(facts([0.815, 0.82, 0.81], uniform=0.83, ensemble=0.824))[0]
    assert nearer.endswith("To tell a gain of 1.0 points from chance takes about 4,000 select rows.")
    subset = in_words(facts([0.815, 0.82, 0.81], uniform=0.83, ensemble=0.824, all_rows=5000))[0]
    assert subset.endswith("about 4,000 select rows (select has 5000).")


def test_when_nothing_is_above_the_best_run_no_number_of_rows_is_promised() -> None:
    verdict = in_words(facts([0.815, 0.82, 0.81], uniform=0.81, ensemble=0.82))[0]
    assert verdict.endswith("so more rows alone would not show a gain.")


def test_an_ensemble_that_does_not_gain_means_equal_errors() -> None:
    verdict = in_words(facts([0.815, 0.82, 0.81], uniform=0.82, ensemble=0.82))[0]
    assert "the models make the same errors, and there is no diversity to use" in verdict


def test_an_ensemble_that_gains_where_the_soup_does_not_means_barriers() -> None:
    verdict = in_words(facts([0.80, 0.82, 0.81], {(0, 1): 0.1, (1, 2): 0.2}, uniform=0.7, ensemble=0.87))[0]
    assert "no soup uses it" in verdict
    assert "They do not share one basin: 2 of 3 measured pairs have a barrier between them, the highest 20.0" in verdict


def test_a_soup_that_gains_is_said_to_pay() -> None:
    assert in_words(facts([0.80, 0.82], uniform=0.86, ensemble=0.86))[0].startswith("Averaging pays here")


def test_the_case_of_the_issue_is_explained() -> None:
    """Eight runs from 66 to 81.9, greedy kept one, the uniform soup 0.6 below it, the ensemble 0.4 above."""
    scores = [0.66, 0.70, 0.76, 0.78, 0.79, 0.80, 0.81, 0.819]
    greedy = kept("run_07", refused={f"run_{i:02d}": 0.79 for i in range(7)}, score=0.819)
    verdict, *rest = in_words(facts(scores, uniform=0.813, ensemble=0.823, noise=0.02, greedy=greedy))
    assert verdict.startswith("At this size the effect does not show: the best soup (uniform) is 0.6 points below")
    assert "the ensemble of all 8 is 0.4 points above it" in verdict
    assert "their errors do differ, but the runs are unequal (66.0 to 81.9)" in verdict
    assert "about 25,000 select rows" in verdict
    assert any("too weak beside it: run_06" in words or "lost by adding it: run_06" in words for words in rest)


def test_runs_that_answer_like_a_coin_are_not_averaged() -> None:
    verdict = in_words(facts([0.50, 0.52, 0.51], uniform=0.52, ensemble=0.52))[0]
    assert verdict.startswith("Train longer before averaging")
    assert "(50.0)" in verdict


def test_runs_that_answer_nan_or_failed_are_named_with_their_settings() -> None:
    absent = (Absent("run_09", "nan-loss (the loss was NaN at step 7)", {"learning_rate": 0.01}),)
    told = said(facts([0.80, math.nan, 0.82], rates=[1e-5, 5e-3, 1e-5], absent=absent))
    assert "run_01 answers NaN, so no line to it was measured (learning rate 5e-3)" in told
    assert "run_09 was not measured: nan-loss (the loss was NaN at step 7) (learning rate 1e-2)." in told
    alone = said(facts([0.80, math.nan]))
    assert "run_01 answers NaN" in alone


def test_a_mixture_that_answers_nan_is_a_barrier_in_words() -> None:
    told = said(facts([0.80, 0.82], {(0, 1): math.nan}, uniform=math.nan))
    assert "run_00 lies behind a barrier of answers that are NaN from run_01." in told


def test_for_a_loss_lower_is_better_in_every_sentence() -> None:
    greedy = kept("run_01", refused={"run_00": 0.90}, score=0.50)
    made = facts(
        [0.60, 0.50], {(0, 1): 0.35}, sign=-1, metric="nll", uniform=0.90, ensemble=0.49, noise=0.02, greedy=greedy
    )
    told = said(made)
    assert made.best.name == "run_01"
    assert "run_00 lies behind a barrier of 0.3500 from run_01." in told
    assert "0.4000 worse than the best run alone (run_01 0.5000)" in told
    assert "the ensemble of all 2 is 0.0100 better than it" in told
    pays = in_words(facts([0.60, 0.50], sign=-1, metric="nll", uniform=0.40, ensemble=0.40))[0]
    assert pays.startswith("Averaging pays here: the best soup (uniform) is 0.1000 better than")


@pytest.mark.parametrize("scores", [[0.8], [math.nan, 0.8, math.nan]])
def test_too_few_runs_that_answer_are_told_without_fail(scores: list[float]) -> None:
    told = said(facts(scores))
    assert told.startswith(f"{len(scores)} runs, accuracy on 1000 select rows: from 80.0 to 80.0")
    assert told.count("answers NaN") == len(scores) - 1
