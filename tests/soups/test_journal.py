"""Scores that were measured are not measured again after a kill."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.soups import Soup, greedy, uniform
from hf_soups.soups.journal import Journal
from tests.makers.tiny import tiny_bert


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    folder = tmp_path_factory.mktemp("pool")
    return [Checkpoint(tiny_bert(folder / f"m{i}", seed=i)) for i in range(3)]


class Counting:
    """Scores by number of ingredients; stops like a killed process after `limit` questions."""

    def __init__(self, limit: int = 99) -> None:
        self.asked, self.limit = 0, limit

    def __call__(self, soup: Soup) -> float:
        if self.asked == self.limit:
            raise KeyboardInterrupt
        self.asked += 1
        return math.nan if soup.ingredients[0].name == "m2" else len(soup.ingredients) / 3


@pytest.mark.parametrize("limit", range(5))
def test_a_search_that_was_stopped_goes_on_where_it_was(pool: list[Checkpoint], tmp_path: Path, limit: int) -> None:
    path = tmp_path / "scores.jsonl"
    straight = greedy(pool, Counting())
    with pytest.raises(KeyboardInterrupt):
        greedy(pool, Journal(Counting(limit), path, "a"))
    rest = Counting()
    resumed = greedy(pool, Journal(rest, path, "a"))
    assert rest.asked == 5 - limit
    assert resumed.coefficients == straight.coefficients
    assert [s.candidate for s in resumed.steps] == [s.candidate for s in straight.steps]


def test_scores_come_back_bit_for_bit(pool: list[Checkpoint], tmp_path: Path) -> None:
    Journal(lambda soup: 0.1 + 0.2, tmp_path / "j", "a")(uniform(pool))
    assert Journal(lambda soup: 0.0, tmp_path / "j", "a")(uniform(pool)) == 0.1 + 0.2


def test_a_line_cut_short_is_measured_again(pool: list[Checkpoint], tmp_path: Path) -> None:
    Journal(lambda soup: 0.5, tmp_path / "j", "a")(uniform(pool))
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:-9])
    counting = Counting()
    assert Journal(counting, tmp_path / "j", "a")(uniform(pool)) == 1.0
    assert counting.asked == 1


def test_lines_of_other_kinds_are_measured_again_and_a_folder_is_refused(
    pool: list[Checkpoint], tmp_path: Path
) -> None:
    journal = Journal(lambda _: 0.5, tmp_path / "scores.jsonl", "ours")
    journal.path.write_text("\n".join(("7", '["a", 7]', '["a", "0x1p99999"]', "[" * 10_000, '[["a"], "0x1p0"]')) + "\n")
    assert journal(uniform(pool)) == 0.5
    journal.path.unlink()
    journal.path.mkdir()
    with pytest.raises(InputError, match=r"scores\.jsonl: .*Remove it: the scores are measured again"):
        journal(uniform(pool))


def test_another_context_or_changed_weights_are_measured_anew(pool: list[Checkpoint], tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(lambda soup: 0.5, path, "a")(uniform(pool))
    assert Journal(lambda soup: 0.25, path, "b")(uniform(pool)) == 0.25
    weights = Path(pool[0].source, "model.safetensors")
    os.utime(weights, (1, 1))
    again = [Checkpoint(c.source) for c in pool]
    assert Journal(lambda soup: 0.75, path, "a")(uniform(again)) == 0.75
