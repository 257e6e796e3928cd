"""Ahead: scores that are worked out elsewhere, several at once, before a method asks for them.

Greedy says which mixtures it will most likely ask for next. They are begun side by side; what it then asks for is
waited for, and what it has no more use for is dropped: it decides from the same scores in the same order as alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hf_soups.checkpoint import Checkpoint
from hf_soups.soups.soup import AtBest, Score, Soup

if TYPE_CHECKING:
    from hf_soups.soups.early_stop import EarlyStop
    from hf_soups.soups.scoring import SoupScorer

GREEDY = "greedy"  # the method whose mixtures are scored elsewhere
Answer = tuple[Score | AtBest, Any]  # the score, and of an ingredient alone the loss of each row


class Ticket(Protocol):
    """A score that was asked for."""

    def result(self) -> Answer:
        """The score, once it is there."""

    def cancel(self) -> None:
        """Nobody wants it any more."""


class Workers(Protocol):
    """Score mixtures outside this process."""

    @property
    def count(self) -> int:
        """At once."""

    def submit(self, soup: Soup, floor: Score | None, variant: str, batches: tuple[Any, ...] | None) -> Ticket:
        """Begin to score a mixture as `SoupScorer` and `EarlyStop` do.

        Args:
            soup: a mean of ingredients.
            floor: see `SoupScorer.or_bound`.
            variant: how its BatchNorm statistics are made.
            batches: of the rows, for mixtures.
        """


@dataclass(eq=False)
class Ahead:
    """Answers as a scorer and its `EarlyStop` do, from what workers began before."""

    workers: Workers
    scorer: SoupScorer
    early: EarlyStop
    begun: dict[tuple[tuple[Checkpoint, ...], Score | None], Ticket] = field(default_factory=dict)

    def expect(self, soups: Sequence[Soup], floor: Score | None) -> None:
        """These will be asked for next; the others that were expected will not."""
        wanted = {(soup.ingredients, floor): soup for soup in soups if not self.scorer.answered(soup)}
        for key in [key for key in self.begun if key not in wanted]:
            self.begun.pop(key).cancel()
        for key, soup in wanted.items():
            if key not in self.begun:
                self.begun[key] = self._submit(soup, floor)

    def __call__(self, soup: Soup) -> Score:
        """As the scorer, called."""
        if soup.method != GREEDY or self.scorer.answered(soup):
            return self.scorer(soup)
        found, losses = self._result(soup, None)
        assert not isinstance(found, AtBest)
        if losses is not None:
            self.scorer.losses[soup.ingredients[0]] = losses
        return found

    def or_bound(self, soup: Soup, floor: Score | None) -> Score | AtBest:
        """As `EarlyStop`, called."""
        return self._result(soup, floor)[0]

    def _result(self, soup: Soup, floor: Score | None) -> Answer:
        ticket = self.begun.pop((soup.ingredients, floor), None) or self._submit(soup, floor)
        return ticket.result()

    def _submit(self, soup: Soup, floor: Score | None) -> Ticket:
        batches = self.early.batches if len(soup.ingredients) > 1 else None
        return self.workers.submit(soup, floor, self.scorer.variant, batches)
