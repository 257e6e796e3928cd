"""The watch over exits: silent on rows like the search's at the stated level, heard when they differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hf_soups.metrics.significance import shares_p_value
from hf_soups.serving.exit_watch import ALARM, ExitWatch
from tests.serving.made import PLANS

TRUE = np.array([0.7, 0.25, 0.05])
PLAN = replace(PLANS[0], members=("a", "b", "c"), thresholds=(0.9, 0.8), costs=(1.0, 2.0, 3.0), exit_shares=())


def watch(random: np.random.Generator, shares: np.ndarray = TRUE, rows: int = 500) -> ExitWatch:
    """Of a plan whose shares were seen on as many rows of a search."""
    seen = random.multinomial(rows, shares) / rows
    return ExitWatch(replace(PLAN, exit_shares=tuple(seen.tolist()), rows=rows), window=200)


def exits(random: np.random.Generator, shares: np.ndarray, rows: int) -> list[int]:
    found: list[int] = random.choice(len(shares), rows, p=shares).tolist()
    return found


def test_false_warnings_are_as_rare_as_stated() -> None:
    random, services = np.random.default_rng(0), 400
    false = sum(bool(watch(random).add(exits(random, TRUE, 3000))) for _ in range(services))
    # more than this had a chance of one in 10,000 if each service warned with the stated probability
    assert false <= stats.binom.isf(1e-4, services, ALARM)


def test_a_shift_is_warned_of_once_with_both_shares() -> None:
    random = np.random.default_rng(1)
    one = watch(random)
    assert one.add(exits(random, TRUE, 1000)) == ""
    said = [one.add(exits(random, np.array([0.4, 0.4, 0.2]), 200)) for _ in range(10)]
    assert sum(map(bool, said)) == 1
    assert "of 500 rows (p = " in next(filter(None, said))
    assert one.warned


def test_nothing_is_said_before_the_window_is_full_or_without_shares_to_compare() -> None:
    one = watch(np.random.default_rng(2))
    assert one.add([2] * 199) == ""
    assert one.add([2]) != ""
    for plan in (replace(PLAN, rows=500), replace(PLANS[0], rows=0), PLANS[1]):
        silent = ExitWatch(plan, window=1)
        assert not silent.can_tell
        assert silent.add([0, 0]) == ""


@pytest.mark.parametrize("counts", [([600, 400], [50, 50]), ([60, 30, 30], [100, 80, 90])])
def test_the_p_value_is_that_of_scipys_table(counts: tuple[list[int], list[int]]) -> None:
    one, other = map(np.array, counts)
    known = stats.chi2_contingency([one, other], correction=False).pvalue
    assert shares_p_value(one, other) == pytest.approx(known)


def test_stages_with_few_rows_are_counted_with_their_neighbours() -> None:
    assert shares_p_value(np.array([1000, 0, 0]), np.array([996, 3, 1])) == 1.0
    merged = shares_p_value(np.array([600, 300, 1]), np.array([300, 600, 2]))
    assert merged == pytest.approx(shares_p_value(np.array([600, 301]), np.array([300, 602])))
    assert shares_p_value(np.array([500, 500]), np.array([1000, 0])) < 1e-9
