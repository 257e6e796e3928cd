"""Greedy against the paper's rule, with dictionaries of scores for models."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.soups import Soup, Step, greedy, uniform

Table = Mapping[frozenset[str], float]


def names(soup: Soup) -> list[str]:
    return [c.source for c in soup.ingredients]


def scorer(table: Table):
    return lambda soup: table[frozenset(names(soup))]


def table_of(**scores: float) -> dict[frozenset[str], float]:
    """table_of(a=0.5, ab=0.6): one letter an ingredient."""
    return {frozenset(letters): score for letters, score in scores.items()}


def pile(letters: str) -> list[Checkpoint]:
    return [Checkpoint(letter) for letter in letters]


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, dict[frozenset[str], float]]:
    """Ingredients in any order, with a score for every subset; few values, so that ties are common; some NaN."""
    letters = draw(st.permutations("abcd"[: draw(st.integers(1, 4))]))
    subsets = [frozenset(c for i, c in enumerate(letters) if mask >> i & 1) for mask in range(1, 2 ** len(letters))]
    values = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0, math.nan])
    return "".join(letters), {subset: draw(values) for subset in subsets}


def naive_greedy(letters: str, table: Table, tie: str) -> set[str]:
    """Recipe 1 of the paper, written as directly as can be."""
    value = {s: (-math.inf if math.isnan(v) else v) for s, v in table.items()}
    ranked = sorted(letters, key=lambda c: value[frozenset(c)], reverse=True)
    soup = {ranked[0]}
    for candidate in ranked[1:]:
        old, new = value[frozenset(soup)], table[frozenset(soup | {candidate})]
        if new > old or (tie == ">=" and new == old):
            soup.add(candidate)
    return soup


@given(tables(), st.sampled_from([">=", ">"]))
def test_greedy_is_the_papers_rule(drawn: tuple[str, Table], tie: str) -> None:
    letters, table = drawn
    if all(math.isnan(table[frozenset(c)]) for c in letters):
        with pytest.raises(HfSoupsError, match="none of the"):
            greedy(pile(letters), scorer(table), tie=tie)
        return
    assert set(names(greedy(pile(letters), scorer(table), tie=tie))) == naive_greedy(letters, table, tie)


@given(tables())
def test_greedy_never_scores_below_its_best_ingredient(drawn: tuple[str, Table]) -> None:
    letters, table = drawn
    singles = [table[frozenset(c)] for c in letters if not math.isnan(table[frozenset(c)])]
    if singles:
        assert scorer(table)(greedy(pile(letters), scorer(table))) >= max(singles)


@given(tables())
def test_every_step_is_recorded_with_its_score(drawn: tuple[str, Table]) -> None:
    letters, table = drawn
    if all(math.isnan(table[frozenset(c)]) for c in letters):
        return
    seen: list[Step] = []
    soup = greedy(pile(letters), scorer(table), on_step=seen.append)
    assert tuple(seen) == soup.steps
    assert sorted(step.candidate for step in soup.steps) == sorted(letters)
    members: set[str] = set()
    for step in soup.steps:
        expected = table[frozenset(members | {step.candidate})]
        assert step.score == expected or (math.isnan(step.score) and math.isnan(expected))
        assert step.ingredients == len(members) + 1
        if step.accepted:
            members.add(step.candidate)
            assert step.best_so_far == step.score
    assert members == set(names(soup))
    assert soup.scores["score"] == soup.steps[-1].best_so_far


def test_an_equal_score_joins_by_default_and_not_with_a_strict_tie() -> None:
    table = table_of(a=0.5, b=0.4, ab=0.5)
    assert names(greedy(pile("ab"), scorer(table))) == ["a", "b"]
    assert names(greedy(pile("ab"), scorer(table), tie=">")) == ["a"]


def test_ingredients_are_tried_from_the_best_down_and_ties_keep_their_order() -> None:
    table = table_of(a=0.1, b=0.9, c=0.1, ab=0.9, bc=0.0, abc=0.0)
    soup = greedy(pile("abc"), scorer(table))
    assert [step.candidate for step in soup.steps] == ["b", "a", "c"]
    assert names(soup) == ["b", "a"]


def test_an_ingredient_without_a_score_comes_last_and_never_joins() -> None:
    table = table_of(a=math.nan, b=0.2, c=0.1, bc=0.3, abc=math.nan)
    soup = greedy(pile("abc"), scorer(table))
    assert names(soup) == ["b", "c"]
    assert math.isnan(soup.steps[-1].score)
    assert math.isnan(soup.scores["singles"]["a"])


def test_the_candidate_is_the_last_ingredient_that_is_scored() -> None:
    asked: list[list[str]] = []

    def score(soup: Soup) -> float:
        asked.append(names(soup))
        return 1.0

    greedy(pile("abc"), score)
    assert asked == [["a"], ["b"], ["c"], ["a", "b"], ["a", "b", "c"]]


def test_coefficients_are_one_over_the_number_kept() -> None:
    soup = greedy(pile("abc"), lambda soup: 1.0)
    assert soup.coefficients == (1 / 3, 1 / 3, 1 / 3)
    assert soup.method == "greedy"


def test_uniform_takes_everything_with_equal_coefficients() -> None:
    soup = uniform(pile("abcd"))
    assert names(soup) == list("abcd")
    assert soup.coefficients == (0.25,) * 4
    assert soup.is_uniform


def test_one_ingredient_is_a_soup_of_one() -> None:
    soup = greedy(pile("a"), lambda soup: 0.5)
    assert (names(soup), soup.coefficients) == (["a"], (1.0,))


@pytest.mark.parametrize("method", [uniform, lambda pile: greedy(pile, lambda soup: 0.0)])
def test_no_ingredient_is_refused(method) -> None:
    with pytest.raises(InputError, match="at least one ingredient"):
        method([])


def test_an_unknown_tie_is_refused() -> None:
    with pytest.raises(InputError, match="tie is '<'; expected '>='"):
        greedy(pile("a"), lambda soup: 0.0, tie="<")


def test_a_soup_needs_one_finite_coefficient_for_each_ingredient() -> None:
    with pytest.raises(InputError, match="1 coefficients for 2 ingredients"):
        Soup(tuple(pile("ab")), (1.0,))
    with pytest.raises(InputError, match="the coefficient of b is nan"):
        Soup(tuple(pile("ab")), (1.0, math.nan))


@pytest.mark.parametrize("coefficients", [(1.0, -1.5), (0.0, 0.0), (1e308, 1e308)])
def test_coefficients_whose_sum_makes_no_model_are_refused(coefficients: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="the coefficients sum to"):
        Soup(tuple(pile("ab")), coefficients)


def test_checkpoints_of_one_short_name_are_told_apart_in_the_steps(tmp_path) -> None:
    for run in ("x", "y"):
        (tmp_path / run / "checkpoint").mkdir(parents=True)
    pair = [Checkpoint(tmp_path / run / "checkpoint") for run in ("x", "y")]
    soup = greedy(pair, lambda soup: 1.0)
    assert [step.candidate for step in soup.steps] == [c.source for c in pair]


# Further choices: ties broken by a second value, other orders, members taken out again.


def test_a_second_value_decides_where_the_first_are_equal() -> None:
    table = {frozenset("a"): (0.5, -0.3), frozenset("b"): (0.5, -0.2), frozenset("ab"): (0.5, -0.25)}
    soup = greedy(pile("ab"), lambda soup: table[frozenset(names(soup))])
    assert [step.candidate for step in soup.steps] == ["b", "a"]
    assert names(soup) == ["b"]
    assert [step.tie_break for step in soup.steps] == [-0.2, -0.25]
    better = {**table, frozenset("ab"): (0.5, -0.1)}
    assert names(greedy(pile("ab"), lambda soup: better[frozenset(names(soup))], tie=">")) == ["b", "a"]


def test_a_second_value_never_outweighs_the_first() -> None:
    table = {frozenset("a"): (0.5, -9.0), frozenset("b"): (0.4, -0.1), frozenset("ab"): (0.49, 0.0)}
    assert names(greedy(pile("ab"), lambda soup: table[frozenset(names(soup))])) == ["a"]


@given(tables(), st.integers(0, 4), st.booleans(), st.integers(0, 3))
def test_more_orders_and_pruning_never_make_it_worse(
    drawn: tuple[str, Table], restarts: int, prune: bool, seed: int
) -> None:
    letters, table = drawn
    if all(math.isnan(table[frozenset(c)]) for c in letters):
        return
    score = scorer(table)
    plain = score(greedy(pile(letters), score))
    tried = greedy(pile(letters), score, restarts=restarts, prune=prune, seed=seed)
    assert score(tried) >= plain
    assert tried.scores["score"] == score(tried)


def test_another_order_finds_what_the_order_by_score_misses() -> None:
    table = table_of(a=0.9, b=0.8, c=0.7, ab=0.1, ac=0.1, bc=1.0, abc=0.2)
    assert names(greedy(pile("abc"), scorer(table))) == ["a"]
    soup = greedy(pile("abc"), scorer(table), restarts=8)
    assert set(names(soup)) == {"b", "c"}
    assert len(soup.scores["orders"]) == 9
    assert [order["won"] for order in soup.scores["orders"]].count(True) == 1
    assert {step.candidate for step in soup.steps if step.accepted} == {"b", "c"}


def test_orders_are_the_same_for_the_same_seed() -> None:
    table = {frozenset(s): hash(s) % 7 / 7 for s in ("a", "b", "c", "ab", "ac", "bc", "abc")}
    soups = [greedy(pile("abc"), scorer(table), restarts=3, seed=5) for _ in range(2)]
    assert soups[0] == soups[1]


def test_pruning_takes_out_the_member_least_missed() -> None:
    table = table_of(a=0.5, b=0.4, c=0.3, ab=0.6, abc=0.7, bc=0.9, ac=0.8)
    soup = greedy(pile("abc"), scorer(table), prune=True)
    assert set(names(soup)) == {"b", "c"}
    assert [(s.candidate, s.accepted) for s in soup.steps if s.removes] == [("a", True), ("c", False)]
    assert soup.coefficients == (0.5, 0.5)


def test_no_mixture_is_scored_twice() -> None:
    asked: list[frozenset[str]] = []

    def score(soup: Soup) -> float:
        asked.append(frozenset(names(soup)))
        return len(asked[-1]) / 10

    greedy(pile("abcd"), score, restarts=6, prune=True)
    assert len(asked) == len(set(asked))


def test_a_random_order_does_not_begin_with_an_ingredient_without_a_score() -> None:
    table = table_of(a=0.5, b=math.nan, ab=math.nan)
    assert names(greedy(pile("ab"), scorer(table), restarts=10)) == ["a"]


def test_a_negative_number_of_restarts_is_refused() -> None:
    with pytest.raises(InputError, match="restarts is -1"):
        greedy(pile("a"), lambda soup: 0.0, restarts=-1)


@given(tables(), st.sampled_from([">=", ">"]), st.booleans())
def test_a_loss_is_minimised_and_kept_as_it_is(drawn: tuple[str, Table], tie: str, prune: bool) -> None:
    """The same as maximising the negated loss, but for the signs of what is recorded."""
    letters, table = drawn
    if all(math.isnan(table[frozenset(c)]) for c in letters):
        return
    score, pool = scorer(table), pile(letters)
    lowest = greedy(pool, score, signs=(-1,), tie=tie, prune=prune)
    highest = greedy(pool, lambda soup: -score(soup), tie=tie, prune=prune)
    assert lowest.coefficients == highest.coefficients
    assert names(lowest) == names(highest)
    assert [s.score for s in lowest.steps] == pytest.approx([-s.score for s in highest.steps], nan_ok=True)
    assert lowest.scores["score"] == -highest.scores["score"]
