"""What is scored ahead, and how much of it, changes no decision: tables of scores stand for models."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.soups import Soup, greedy, uniform
from hf_soups.soups.ahead import Ahead
from hf_soups.soups.soup import AtBest, Score, Step, values_of
from tests.soups.test_greedy import Table, pile, tables


@dataclass
class Made:
    """Scores out of a table; mixtures that miss their floor are known by a bound alone, between the two."""

    table: Table
    asked: int = 0

    def __call__(self, soup: Soup, floor: Score | None = None) -> Score | AtBest:
        self.asked += 1
        value = self.table[frozenset(c.source for c in soup.ingredients)]
        low = values_of(floor)[0] if floor is not None else math.nan
        return AtBest((value + low) / 2) if value < low else value


@dataclass
class Beside(Made):
    """Works out what is expected at once, and answers from that alone, but for what no order can foresee."""

    most: int = 1
    begun: dict[Any, Any] = field(default_factory=dict)
    surprises: int = 0

    def expect(self, soups: Sequence[Soup], floor: Score | None) -> None:
        assert len(soups) <= self.most
        keys = [(s.ingredients, floor) for s in soups]
        self.begun = {k: self.begun.get(k) or Made.__call__(self, s, floor) for k, s in zip(keys, soups, strict=True)}

    def __call__(self, soup: Soup, floor: Score | None = None) -> Score | AtBest:
        if (soup.ingredients, floor) in self.begun:
            return self.begun.pop((soup.ingredients, floor))
        self.surprises += 1
        return Made.__call__(self, soup, floor)


@given(tables(), st.sampled_from([">=", ">"]), st.integers(1, 6), st.integers(0, 2), st.booleans(), st.integers(0, 9))
def test_any_number_of_candidates_ahead_gives_the_decisions_of_none_step_for_step(
    drawn: tuple[str, Table], tie: Any, most: int, restarts: int, prune: bool, seed: int
) -> None:
    letters, table = drawn
    if all(math.isnan(table[frozenset(c)]) for c in letters):
        return
    how = {"tie": tie, "restarts": restarts, "prune": prune, "seed": seed}
    serial, beside = Made(table), Beside(table, most=most)
    told: tuple[list[Step], list[Step]] = [], []
    one = greedy(pile(letters), serial, score_or_bound=serial, on_step=told[0].append, **how)
    two = greedy(
        pile(letters),
        beside,
        score_or_bound=beside,
        on_step=told[1].append,
        expect=beside.expect,
        speculate=most,
        **how,
    )
    assert [c.source for c in two.ingredients] == [c.source for c in one.ingredients]
    assert (repr(two.steps), repr(two.scores), repr(told[1])) == (repr(one.steps), repr(one.scores), repr(told[0]))
    if not restarts and len(one.ingredients) > 1:
        assert beside.surprises == 0  # everything was begun before it was asked for
    if most == 1 and not prune and not restarts:  # another order meets mixtures that are known, and looks beyond them
        assert beside.asked == serial.asked  # nothing in vain


def test_to_look_no_step_ahead_is_the_least() -> None:
    with pytest.raises(InputError, match="speculate is 0; expected 1"):
        greedy(pile("a"), lambda soup: 1.0, speculate=0)


@dataclass
class Tickets:
    """Workers that note what they are asked for."""

    count: int = 4
    log: list[str] = field(default_factory=list)

    def submit(self, soup: Soup, floor: Score | None, variant: str, batches: Any) -> Any:
        name = "".join(c.source for c in soup.ingredients)
        self.log.append(f"begin {name}")
        return OneTicket(name, self.log)


@dataclass
class OneTicket:
    name: str
    log: list[str]

    def result(self) -> Any:
        self.log.append(f"wait {self.name}")
        return float(len(self.name)), f"losses of {self.name}" if len(self.name) == 1 else None

    def cancel(self) -> None:
        self.log.append(f"drop {self.name}")


@dataclass
class Scorer:
    losses: dict[Checkpoint, Any] = field(default_factory=dict)
    variant: str = "averaged"
    batches: Any = ()

    def answered(self, soup: Soup) -> bool:
        return soup.ingredients[0].source == "k" and len(soup.ingredients) == 1

    def __call__(self, soup: Soup) -> Score:
        return 0.5


def means(letters: str) -> Soup:
    from dataclasses import replace

    return replace(uniform(pile(letters)), method="greedy")


def test_what_was_begun_is_waited_for_and_what_is_not_wanted_any_more_is_dropped() -> None:
    workers, scorer = Tickets(), Scorer()
    ahead = Ahead(workers, scorer, scorer)  # type: ignore[arg-type]
    ahead.expect([means("a"), means("k"), means("b")], None)
    assert (ahead(means("a")), ahead(means("k"))) == (1.0, 0.5)  # k's answers are there already
    ahead.expect([means("ab"), means("ac")], 1.0)
    assert ahead.or_bound(means("ab"), 1.0) == 2.0
    ahead.expect([means("ac"), means("ad")], 1.0)
    ahead.expect([means("abc")], 2.0)
    assert ahead.or_bound(means("xy"), None) == 2.0  # not foreseen
    assert workers.log == [
        "begin a", "begin b", "wait a", "drop b", "begin ab", "begin ac", "wait ab", "begin ad",
        "drop ac", "drop ad", "begin abc", "begin xy", "wait xy",
    ]  # fmt: skip
    assert scorer.losses == {Checkpoint("a"): "losses of a"}


def test_another_methods_mixtures_are_scored_here() -> None:
    workers = Tickets()
    assert Ahead(workers, Scorer(), Scorer())(uniform(pile("ab"))) == 0.5  # type: ignore[arg-type]
    assert workers.log == []


def test_a_checkpoint_for_another_process_is_whole_and_its_path_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    here = Checkpoint("m")
    assert here.config == {}  # read, which is not sent
    there = pickle.loads(pickle.dumps(here))
    assert there == Checkpoint(tmp_path / "m")
    assert there.config == {}
    assert pickle.loads(pickle.dumps(Checkpoint("org/m", "v1"))) == Checkpoint("org/m", "v1")
