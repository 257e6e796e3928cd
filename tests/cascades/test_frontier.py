"""The frontier: goals, files, references, costs as the command line takes them, and the printed table."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hf_soups.cascades import NEVER, Frontier, Plan, Rule
from hf_soups.cascades.frontier import plan_at, relative_cost, split_reference, undominated, wanted_score
from hf_soups.errors import InputError
from hf_soups.reporting.frontier_table import FrontierTable, choice_in_words, print_frontier, verdicts
from hf_soups.wording import cost_in_words

SMALL = Plan(("small",), (), (100.0,), score=0.70, average_cost=100.0, exit_shares=(1.0,), rows=1000)
BIG = Plan(("big",), (), (1000.0,), score=0.80, average_cost=1000.0, exit_shares=(1.0,), rows=1000)
CHEAP = Plan(
    ("small", "big"), (0.6,), (100.0, 1000.0), score=0.80, average_cost=500.0, exit_shares=(0.6, 0.4), rows=1000
)
BEST = Plan(
    ("small", "big"), (0.9,), (100.0, 1000.0), score=0.82, average_cost=900.0, exit_shares=(0.2, 0.8), rows=1000
)
BOTH = Plan(
    ("small", "big"), (NEVER,), (100.0, 1000.0), score=0.815, average_cost=1100.0, exit_shares=(0.0, 1.0), rows=1000
)
FRONTIER = Frontier((SMALL, CHEAP, BEST), (BIG, SMALL), (BOTH,), data="photos")


def printed(frontier: Frontier, width: int = 140) -> str:
    console = Console(width=width, record=True)
    print_frontier(frontier, console)
    return console.export_text()


def test_save_then_load_is_the_identity(tmp_path: Path) -> None:
    tuned = Plan(
        ("a", "b"), (0.25,), (1.0, 2.0), Rule("geometric", "gap"), (1.5, 0.7), 0.9, 0.88, 2.5, (0.5, 0.5), "f1",
        "seconds", "a laptop", 77,
    )  # fmt: skip
    unscored = Plan(("c",), (), (1.0,))
    for frontier in (FRONTIER, Frontier((tuned,), (tuned, unscored))):
        frontier.save(tmp_path / "deep" / "frontier.json")
        loaded = Frontier.load(tmp_path / "deep" / "frontier.json")
        assert repr(loaded) == repr(frontier)  # NaN is not equal to itself
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["frontier.json"]


def test_a_plan_is_found_by_file_and_index(tmp_path: Path) -> None:
    FRONTIER.save(tmp_path / "a#b.json")
    assert plan_at(f"{tmp_path}/a#b.json#1") == CHEAP


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such frontier"),
        ("{", "no valid JSON"),
        ("[]", "expected a frontier, got list"),
        ('{"format": "other"}', "expected a frontier .* got the format 'other'"),
        ('{"format": "hf_soups.frontier.v1", "plans": []}', "not valid as a frontier"),
        ('{"format": "hf_soups.frontier.v1", "plans": [3], "singles": [], "ensembles": []}', "not valid as a frontier"),
    ],
)
def test_a_file_that_is_no_frontier_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "frontier.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        Frontier.load(path)


@pytest.mark.parametrize("name", ["pool", "report", "data", "seed"])
def test_a_frontier_that_does_not_say_what_it_was_made_from_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "frontier.json"
    FRONTIER.save(path)
    told = json.loads(path.read_text())
    del told[name]
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match=rf"frontier\.json: not valid as a frontier: it lacks {name}"):
        Frontier.load(path)


def test_a_plan_with_thresholds_out_of_range_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frontier.json"
    FRONTIER.save(path)
    told = json.loads(path.read_text())
    told["plans"][1]["thresholds"] = [7]
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"not valid as a frontier: plans.1: the threshold of stage 0 is 7"):
        Frontier.load(path)


@pytest.mark.parametrize("reference", ["frontier.json", "frontier.json#", "frontier.json#-1", "frontier.json#x", "#1"])
def test_a_reference_of_another_form_is_refused(reference: str) -> None:
    with pytest.raises(InputError, match="does not name a plan"):
        split_reference(reference)


def test_a_plan_that_is_not_there_is_named_with_the_range(tmp_path: Path) -> None:
    FRONTIER.save(tmp_path / "f.json")
    with pytest.raises(InputError, match="no plan 3: the frontier holds plans 0 to 2"):
        plan_at(f"{tmp_path}/f.json#3")


def test_goals_choose_the_cheapest_or_the_best_within_the_bounds() -> None:
    assert FRONTIER.choose().plan is CHEAP
    assert FRONTIER.choose(min_score=0.81).plan is BEST
    assert FRONTIER.choose(max_average_cost=950).plan is BEST
    assert FRONTIER.choose(max_average_cost=899).plan is CHEAP
    assert FRONTIER.choose(max_average_cost=899, max_worst_cost=500).plan is SMALL
    assert FRONTIER.choose(min_score=0.7, max_worst_cost=500).plan is SMALL


def test_where_nothing_fits_the_nearest_is_told() -> None:
    too_high = FRONTIER.choose(min_score=0.9, max_average_cost=600)
    assert (too_high.plan, too_high.nearest) == (None, CHEAP)
    assert too_high.why == "no plan scores 0.9 or more and costs 600 or less on average."
    too_cheap = FRONTIER.choose(max_average_cost=50)
    assert (too_cheap.plan, too_cheap.nearest) == (None, SMALL)
    words = choice_in_words(too_cheap, FRONTIER)
    assert words.startswith("No plan costs 50 or less on average. The nearest is plan 0: small, accuracy 70.0 at 100")


@given(
    plans=st.lists(st.tuples(*(st.integers(0, 5) for _ in range(3))), min_size=1, max_size=30),
    bounds=st.tuples(*(st.none() | st.integers(0, 6) for _ in range(3))),
)
def test_choosing_agrees_with_looking_at_every_plan(
    plans: list[tuple[int, int, int]], bounds: tuple[int | None, int | None, int | None]
) -> None:
    made = tuple(Plan((f"m{i}",), (), (float(w),), score=s, average_cost=a) for i, (s, a, w) in enumerate(plans))
    frontier = Frontier(made, tuple(sorted(made, key=lambda p: -p.score)))
    score, average, worst = bounds
    found = frontier.choose(min_score=score, max_average_cost=average, max_worst_cost=worst)
    least = frontier.best_single.score if score is None and average is None else score
    fitting = [
        p
        for p in made
        if (least is None or p.score >= least)
        and (average is None or p.average_cost <= average)
        and (worst is None or p.worst_cost <= worst)
    ]
    assert (found.plan is None) == (not fitting)
    if found.plan is not None and least is None:
        assert found.plan.score == max(p.score for p in fitting)
    elif found.plan is not None:
        assert found.plan.average_cost == min(p.average_cost for p in fitting)
    else:
        assert found.nearest is not None
        assert found.why


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.tuples(*(st.integers(0, 4) for _ in range(3))), min_size=1, max_size=40))
def test_undominated_agrees_with_comparing_every_pair(values: list[tuple[int, int, int]]) -> None:
    plans = [Plan((f"m{i}",), (), (float(w),), score=s, average_cost=a) for i, (s, a, w) in enumerate(values)]

    def point(p: Plan) -> tuple[float, float, float]:
        return -p.score, p.average_cost, p.worst_cost

    points = {point(p) for p in plans}
    expected = {p for p in points if not any(q != p and all(x <= y for x, y in zip(q, p, strict=True)) for q in points)}
    found = [point(p) for p in undominated(plans)]
    assert sorted(found) == sorted(expected)


def test_within_keeps_plans_of_these_members_alone() -> None:
    only = FRONTIER.within(["small"])
    assert only.plans == (SMALL,)
    assert only.singles == (SMALL,)
    assert only.ensembles == ()
    with pytest.raises(InputError, match="tiny: not in the frontier's pool, which is big, small"):
        FRONTIER.within(["tiny"])
    with pytest.raises(InputError, match="no member"):
        FRONTIER.within([])


@pytest.mark.parametrize(
    ("text", "cost"),
    [("0.5x", 500.0), ("1.2x", 1200.0), ("250", 250.0), (250, 250.0), ("2k", 2000.0), ("1.5G", 1.5e9), ("1e3", 1000.0)],
)
def test_costs_are_absolute_or_multiples_of_the_best_single(text: str, cost: float) -> None:
    assert relative_cost(text, FRONTIER) == pytest.approx(cost)


@pytest.mark.parametrize("text", ["", "x", "half", "-1x", "1.2.3x", "nan"])
def test_what_is_no_cost_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a cost"):
        relative_cost(text, FRONTIER)


def test_a_least_score_is_the_best_singles_or_a_number() -> None:
    assert wanted_score("best", FRONTIER) == 0.80
    assert wanted_score("0.79", FRONTIER) == 0.79
    loss = Plan(("m",), (), (1.0,), score=-0.4, average_cost=1.0, metric="nll")
    assert wanted_score("0.5", Frontier((loss,), (loss,))) == -0.5
    for text in ("79", "high", "nan"):
        with pytest.raises(InputError, match="is not a least accuracy"):
            wanted_score(text, FRONTIER)


def test_the_table_shows_true_indices_and_relative_costs() -> None:
    text = printed(FRONTIER)
    assert "small -> big" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("1 "))
    assert row.split() == ["1", "small", "->", "big", "0.600", "80.0", "500", "0.50x", "1.1", "k", "60%", "40%"]
    assert "3 of 3 plans" in text


def test_a_long_frontier_is_thinned_to_its_ends_and_what_matters() -> None:
    plans = [
        Plan(("a", "b"), (i / 100,), (1.0, 9.0), score=i / 100, average_cost=1 + i / 10, rows=100) for i in range(100)
    ]
    single = Plan(("b",), (), (9.0,), score=0.333, average_cost=9.0, rows=100)
    frontier = Frontier(tuple(plans), (single,))
    shown = frontier.printed(16)
    assert len(shown) == 16
    assert {0, 34, 99} <= set(shown)
    assert max(b - a for a, b in itertools.pairwise(shown)) < 20
    assert [int(r["#"]) for r in FrontierTable(frontier).rows()[:-1]] == list(shown)


def test_words_say_what_beats_the_best_single_and_what_does_not() -> None:
    said = " ".join(verdicts(FRONTIER))
    assert "Best single model: big, accuracy 80.0 at 1 k" in said
    assert "Best ensemble: small + big, accuracy 81.5 at 1.10x" in said
    assert "Plan 1 reaches big's accuracy at 0.50x its cost." in said
    assert "Plan 2 scores the most: +2.0 = 20 of 1000 rows against big" in said
    alone = " ".join(verdicts(Frontier((SMALL, BIG), (BIG, SMALL))))
    assert "No cascade reaches big's accuracy at less than its cost." in alone
    assert "No cascade or ensemble scores more than big." in alone


def test_losses_are_shown_with_their_own_sign() -> None:
    loss = Plan(("m",), (), (1.0,), score=-0.4321, average_cost=1.0, metric="nll", rows=10)
    text = printed(Frontier((loss,), (loss,)))
    assert "0.4321" in text
    assert "-0.4321" not in text


def test_an_ensemble_is_what_never_leaves_early() -> None:
    assert BOTH.is_ensemble
    assert not CHEAP.is_ensemble
    assert not SMALL.is_ensemble


def test_costs_of_seconds_keep_their_digits() -> None:
    assert cost_in_words(0.00123) == "0.00123"


def test_a_frontier_needs_a_single_model() -> None:
    with pytest.raises(InputError, match="without a single model"):
        Frontier((), ())
