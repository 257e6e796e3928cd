"""Learned deferral for a plan of a frontier, beside the plan's own confidence, on select and on report rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_soups.cascades.deferral import Deferral, learn_deferral
from hf_soups.metrics.significance import paired_bootstrap
from hf_soups.pool_jobs.plans import open_plan
from hf_soups.pool_jobs.search import Reported, reported_on
from hf_soups.wording import cost_in_words, score_in_words

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


@dataclass(frozen=True, slots=True)
class DeferralResult:
    """Whether learned deferral pays, and what both plans do on rows that nothing was chosen on."""

    deferral: Deferral
    learned: Reported | None  # None: there are no report rows
    simple: Reported | None
    difference: tuple[float, float] | None  # the 95% interval of the difference on report rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        yield self.deferral.in_words()
        if self.learned is None or self.simple is None or self.difference is None:
            return
        metric = self.deferral.plan.metric
        both = [
            f"{score_in_words(one.score.value, metric)} at {cost_in_words(one.average_cost)}"
            for one in (self.learned, self.simple)
        ]
        ends = ", ".join(f"{100 * end:+.2f}" for end in self.difference)
        yield f"On report rows: learned {both[0]}, simple {both[1]}; difference x 100 in [{ends}] (95%)."


def defer_plan(reference: str, *, folds: int = 5, seed: int = 0) -> DeferralResult:
    """Learn deferral for a plan such as `preds/frontier.json#3`, at its average cost.

    Args:
        reference: FILE#NUMBER.
        folds: of the cross-fitting.
        seed: of the folds and of the bootstrap.
    Raises:
        InputError: as `learn_deferral`, or if there is no such plan or pool.
    """
    opened = open_plan(reference)
    found, report = learn_deferral(opened.plan, opened.parts.select, folds=folds, seed=seed), opened.parts.report
    if report is None:
        return DeferralResult(found, None, None, None)
    learned, simple = found.plan.apply(report), found.simple.apply(report)
    apart = paired_bootstrap(learned, simple, found.plan.metric, seed=seed)
    both = (reported_on(report, "learned", found.plan, simple), reported_on(report, "simple", found.simple, simple))
    return DeferralResult(found, *both, (apart.low, apart.high))
