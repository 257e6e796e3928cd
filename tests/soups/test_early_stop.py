"""A candidate that cannot join any more is scored no further, and no decision is another one for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import Options, cook
from hf_soups.cooking.one_soup import why_one
from hf_soups.files.problem_types import MULTI_LABEL, REGRESSION
from hf_soups.metrics import METRICS
from hf_soups.metrics.best_possible import BestPossible
from hf_soups.predictions import Predictions
from hf_soups.recipe import load_recipe
from hf_soups.soups import Soup, greedy, uniform
from hf_soups.soups.early_stop import FIRST, EarlyStop, hard_first
from hf_soups.soups.journal import Journal
from hf_soups.soups.scoring import SoupScorer, open_scorer
from hf_soups.soups.soup import AtBest, Score, values_of

BOUNDED = [name for name, metric in METRICS.items() if metric.bounded]


def random_answers(random: np.random.Generator, metric: str, rows: int) -> Predictions:
    of_type = METRICS[metric].problem_types[random.integers(len(METRICS[metric].problem_types))]
    if of_type == REGRESSION:
        return Predictions.from_logits(
            random.normal(size=(rows, 1)), labels=random.normal(size=rows), problem_type=of_type
        )
    classes = 2 if metric in ("f1", "accuracy_f1") else int(random.integers(2, 5))
    logits = random.normal(size=(rows, classes)) * random.choice([0.3, 3.0])
    shape = (rows, classes) if of_type == MULTI_LABEL else rows
    labels = random.integers(0, 2 if of_type == MULTI_LABEL else classes, shape)
    return Predictions.from_logits(logits, labels=labels, problem_type=of_type)


@settings(deadline=None)
@given(st.sampled_from(BOUNDED), st.integers(0, 2**32 - 1))
def test_no_answers_to_the_rows_that_are_left_beat_the_bound(metric: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    p, of = random_answers(random, metric, rows=int(random.integers(1, 12))), METRICS[metric]
    best = BestPossible.of(of, p.needs_labels(), classes=p.classes, problem_type=p.problem_type)
    final, order, last = of.compute(p), random.permutation(len(p)), math.inf
    for row in order:
        bound = best.after(p.take([row]))
        assert of.rank(bound) >= of.rank(final) - 1e-9
        assert of.rank(bound) <= last + 1e-9  # it only falls
        last = of.rank(bound)
    assert bound == pytest.approx(final, abs=1e-9)  # at the end it is the value


def test_metrics_that_a_perfect_row_can_make_worse_or_that_compare_rows_have_no_bound() -> None:
    others = {name for name, metric in METRICS.items() if not metric.bounded}
    assert others == {
        "matthews", "roc_auc", "average_precision", "mAP", "ece", "pearson", "spearman", "pearson_spearman"
    }  # fmt: skip


@settings(deadline=None)
@given(st.permutations(range(30)), st.lists(st.integers(1, 5), min_size=30, max_size=30), st.integers(1, 4))
def test_every_row_is_in_one_batch_and_the_hardest_come_first(order: list[int], lengths: list[int], size: int) -> None:
    batches = hard_first(np.array(order), np.array(lengths), size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(30))
    first = {row for batch in batches[:FIRST] for row in batch.tolist()}
    assert first == set(order[: FIRST * size])
    assert max(len(batch) for batch in batches) == size


@st.composite
def pools(draw: st.DrawFn) -> tuple[str, int, dict[frozenset[str], Score], int]:
    """Ingredients and a score of every mixture, of few values so that ties are common; some NaN; of either sign."""
    letters = "abcde"[: draw(st.integers(1, 5))]
    sign, pairs = draw(st.sampled_from([1, -1])), draw(st.booleans())
    values = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0, math.nan])
    table: dict[frozenset[str], Score] = {}
    for mask in range(1, 2 ** len(letters)):
        value = draw(values)
        both = (value, math.nan if math.isnan(value) else draw(st.sampled_from([0.1, 0.2])))
        table[frozenset(c for i, c in enumerate(letters) if mask >> i & 1)] = both if pairs else value
    return letters, sign, table, draw(st.integers(0, 2**16))


@settings(deadline=None)
@given(pools(), st.sampled_from([">=", ">"]), st.integers(0, 3), st.booleans())
def test_greedy_with_bounds_takes_every_decision_of_the_plain_loop(
    drawn: tuple[str, int, dict[frozenset[str], Score], int], tie: Any, restarts: int, prune: bool
) -> None:
    letters, sign, table, seed = drawn
    random = np.random.default_rng(seed)

    def score(soup: Soup) -> Score:
        return table[frozenset(c.source for c in soup.ingredients)]

    def score_or_bound(soup: Soup, floor: Score | None) -> Score | AtBest:
        value = score(soup)
        first = values_of(value)[0]
        least = math.nan if floor is None else values_of(floor)[0]
        if math.isnan(least) or (not math.isnan(first) and not sign * first < sign * least) or random.random() < 0.3:
            return value
        # anything between what it is (NaN: nothing is known) and what it must reach
        at = least - sign * 2 if math.isnan(first) else first
        return AtBest(at + (least - at) * random.choice([0.0, 0.5, 0.99]))

    pool = [Checkpoint(letter) for letter in letters]
    how: dict[str, Any] = {"tie": tie, "restarts": restarts, "prune": prune, "signs": (sign, -1)}
    if all(math.isnan(values_of(table[frozenset(c)])[0]) for c in letters):
        return
    plain, bounded = greedy(pool, score, **how), greedy(pool, score, score_or_bound=score_or_bound, **how)
    assert bounded.ingredients == plain.ingredients
    assert repr(bounded.scores) == repr(plain.scores)
    assert len(bounded.steps) == len(plain.steps)
    for mine, theirs in zip(bounded.steps, plain.steps, strict=True):
        if mine.at_best is None:
            assert repr(mine) == repr(theirs)
            continue
        assert math.isnan(mine.score)  # nobody takes it for a score
        assert not theirs.accepted
        assert math.isnan(theirs.score) or sign * theirs.score <= sign * mine.at_best < sign * mine.best_so_far
        unknown = {"score": 0.0, "tie_break": None, "at_best": None}
        assert repr(replace(mine, **unknown)) == repr(replace(theirs, **unknown))
    if len(bounded.ingredients) == 1 and not prune:  # it says which came closest
        assert why_one(bounded.steps, {}, "accuracy", 4, sign=sign) == why_one(
            plain.steps, {}, "accuracy", 4, sign=sign
        )


def test_a_bound_is_not_taken_where_the_score_is_wanted() -> None:
    pool = [Checkpoint(letter) for letter in "ab"]
    with pytest.raises(Exception, match="without a score to reach"):
        greedy(pool, lambda soup: 0.5, score_or_bound=lambda soup, floor: AtBest(0.1))


# --- with models


@pytest.fixture
def scorer(pile: Path, pool: list[Checkpoint]) -> SoupScorer:
    found = open_scorer(pool, load_recipe(pile / "recipe.yaml"), batch_size=4)
    for checkpoint in pool:
        found(uniform([checkpoint]))
    return found


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "nll"])
def test_a_bound_is_no_better_than_what_it_must_reach_and_no_worse_than_the_score(
    pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path, metric: str
) -> None:
    scorer = replace(scorer, metric=METRICS[metric])
    early, soup, sign = EarlyStop(scorer, tmp_path / "rows"), uniform(pool), METRICS[metric].sign
    exact = early(soup, None)
    assert early(soup, exact) == exact  # it can be reached, so it is scored on all rows: in the same batches
    out_of_reach = 2.0 if sign > 0 else 0.0
    bound = early(soup, out_of_reach)
    assert isinstance(bound, AtBest)
    assert sign * exact <= sign * bound.value < sign * out_of_reach


def test_a_metric_without_a_bound_is_scored_on_all_rows(
    pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path
) -> None:
    early = EarlyStop(replace(scorer, metric=METRICS["matthews"]), tmp_path / "rows")
    assert early(uniform(pool), 2.0) == early(uniform(pool), None)


def test_the_order_of_the_rows_is_kept_over_a_kill(pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path) -> None:
    EarlyStop(scorer, tmp_path / "rows")(uniform(pool), None)
    again = EarlyStop(replace(scorer, losses={}, cached={}), tmp_path / "rows")
    assert again._kept().tolist() == EarlyStop(scorer, tmp_path / "other")._hardest().tolist()
    (tmp_path / "rows").write_text('{"order": [0, 0]}')
    assert again._kept() is None


def test_a_bound_that_was_written_down_is_used_and_never_taken_for_a_score(
    pool: list[Checkpoint], tmp_path: Path
) -> None:
    asked: list[Score | None] = []

    def measure(soup: Soup, floor: Score | None) -> Score | AtBest:
        asked.append(floor)
        return 0.5 if floor is None else AtBest(0.6)

    soup = uniform(pool)

    def journal() -> Journal:
        return Journal(lambda soup: 0.5, tmp_path / "j", "a")

    assert journal().or_bound(soup, 0.9, measure, 1) == AtBest(0.6)
    assert journal().or_bound(soup, 0.8, measure, 1) == AtBest(0.6)
    assert asked == [0.9]
    assert journal().or_bound(soup, None, measure, 1) == 0.5  # the score itself is wanted
    assert journal()(soup) == 0.5
    assert journal().or_bound(soup, 0.9, measure, 1) == 0.5  # and known from now on
    assert asked == [0.9, None]


def steps_of(folder: Path) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((folder / "soup.json").read_text())["steps"]
    return steps


def test_cook_takes_the_same_decisions_with_and_without_every_row(pile: Path, tmp_path: Path) -> None:
    said: list[str] = []
    how: dict[str, Any] = {"recipe": pile / "recipe.yaml", "overrides": {"train.eval_batch_size": 2}}
    sources = [pile / f"m{i}" for i in range(4)]
    cook(sources, ["greedy"], tmp_path / "early", tell=said.append, **how)
    cook(sources, ["greedy"], tmp_path / "all", options=Options(every_row=True), tell=None, **how)
    early, full = steps_of(tmp_path / "early"), steps_of(tmp_path / "all")
    assert not any("at_best" in step for step in full)
    for mine, theirs in zip(early, full, strict=True):
        unknown = {"score": 0, "at_best": 0}
        assert {**mine, **unknown} == {**theirs, **unknown}
        if "at_best" in mine:
            assert mine["score"] is None
            assert theirs["score"] <= mine["at_best"] < mine["best_so_far"]
            assert any(f"with {mine['candidate']} at most {100 * mine['at_best']:.1f}, left out" in s for s in said)
        else:
            assert mine["score"] == theirs["score"]
    assert not list(tmp_path.glob(".*"))  # nothing of the state is left
