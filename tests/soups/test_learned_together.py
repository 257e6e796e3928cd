"""Several processes learn the soup that one learns; here they are threads, each with a model of its own."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.soups import scoring
from hf_soups.soups.methods.learned import learned
from hf_soups.soups.methods.learned.team import help_cooking
from hf_soups.soups.scoring import SoupScorer
from hf_soups.soups.soup import Soup
from tests.makers.patience import PATIENCE
from tests.makers.pile import near
from tests.makers.tiny import tiny_bert
from tests.soups.test_learned import decided, scorer_of

HOW: dict[str, Any] = {"epochs": 3, "batch_size": 20, "rows_at_once": 8}
FORMS: list[dict[str, Any]] = [
    {}, {"per": "tensor"}, {"sign": "free", "learning_rate": 0.02}, {"sign": "free", "models_at_once": 2, "epochs": 5},
]  # fmt: skip
# float32 gradients are added in another order, which changes 1e-7 of them; AdamW's 10 to 25 steps are of 0.05 at most
CLOSE = 1e-5


class Mates:
    """A team of threads."""

    def __init__(self, number: int, count: int, shared: Shared) -> None:
        self.number, self.count, self._shared = number, count, shared

    def say(self, message: tuple[Any, ...]) -> None:
        assert self.number == 0
        for waiting in self._shared.heard[1:]:
            waiting.put(message)

    def hear(self) -> tuple[Any, ...]:
        assert self.number > 0
        message: tuple[Any, ...] = self._shared.heard[self.number].get(timeout=PATIENCE)
        return message

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        self._shared.numbers[self.number] = numbers
        self._shared.all_here.wait(PATIENCE)
        total = np.sum(self._shared.numbers, axis=0)
        self._shared.all_here.wait(PATIENCE)
        return np.asarray(total)


class Shared:
    def __init__(self, count: int) -> None:
        self.heard: list[queue.Queue[Any]] = [queue.Queue() for _ in range(count)]
        self.numbers: list[Any] = [None] * count
        self.all_here = threading.Barrier(count)

    def mates(self) -> list[Mates]:
        return [Mates(number, len(self.heard), self) for number in range(len(self.heard))]


@dataclass(frozen=True)
class Pile:
    folder: Path

    @property
    def pool(self) -> list[Checkpoint]:
        return [Checkpoint(self.folder / f"m{i}") for i in range(4)]

    @property
    def scorer(self) -> SoupScorer:
        return scorer_of(self.folder / "start", self.folder / "m1")


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Pile:
    folder = tmp_path_factory.mktemp("together")
    start = decided(tiny_bert(folder / "start"))
    for i, spread in enumerate((0.02, 0.5, 0.7, 0.9)):
        near(start, folder / f"m{i}", seed=i, spread=spread)
    return Pile(folder)


def together(pile: Pile, count: int, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Soup:
    """The soup that `count` of them learn, as the commands' processes do."""
    scorers = [pile.scorer for _ in range(count)]
    waiting = scorers[1:]
    monkeypatch.setattr(scoring, "open_scorer", lambda pool, recipe, device: waiting.pop())
    first, *others = Shared(count).mates()
    with ThreadPoolExecutor(count) as threads:
        helping: list[Future[None]] = [threads.submit(help_cooking, mate, None) for mate in others]
        first.say(("open", pile.pool, None, {}))
        soup = learned(pile.pool, replace(scorers[0], team=first), **how)
        first.say(("done",))
        for one in helping:
            one.result(PATIENCE)
    return soup


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "softmax")
def test_several_learn_what_one_learns(pile: Pile, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    how = {**HOW, **form}
    alone = learned(pile.pool, pile.scorer, **how)
    assert alone.about["learned"]["kept"] == "learned"
    several = together(pile, 2 if form else 3, monkeypatch, **how)
    np.testing.assert_allclose(of_all(several), of_all(alone), atol=CLOSE)
    losses = [[e["loss"] for e in soup.about["learned"]["history"][1:]] for soup in (alone, several)]
    np.testing.assert_allclose(*losses, rtol=CLOSE)
    held_out = [[e["held_out_nll"] for e in soup.about["learned"]["history"]] for soup in (alone, several)]
    np.testing.assert_allclose(*held_out, rtol=CLOSE)


def of_all(soup: Soup) -> np.ndarray:
    return np.array(list(soup.by_tensor.values()) if soup.by_tensor else soup.coefficients)


def test_a_process_without_rows_adds_nothing(pile: Pile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batches have fewer rows than there are processes."""
    how = {**HOW, "batch_size": 2, "epochs": 1, "holdout": 0.8}
    alone, several = learned(pile.pool, pile.scorer, **how), together(pile, 3, monkeypatch, **how)
    np.testing.assert_allclose(of_all(several), of_all(alone), atol=CLOSE)


def test_a_state_goes_on_with_another_number_of_processes(
    pile: Pile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    straight = learned(pile.pool, pile.scorer, **HOW)

    def stop(step: Any) -> None:
        if step.step == 4:
            raise HfSoupsError("stopped")

    with pytest.raises(HfSoupsError, match="stopped"):
        learned(pile.pool, pile.scorer, state=tmp_path / "state", on_step=stop, **HOW)
    went_on = together(pile, 2, monkeypatch, state=tmp_path / "state", **HOW)
    np.testing.assert_allclose(of_all(went_on), of_all(straight), atol=CLOSE)
