"""What a search found, printed: the frontier, the plan for the goal, its score on report rows, and what to do next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_soups.report.frontier import FrontierTable, choice_in_words, cost_in_words
from hf_soups.report.words import score_in_words

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

    from hf_soups.from_pool.search import SearchResult


@dataclass(frozen=True)
class SearchTable:
    """Renders the result of a search."""

    result: SearchResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich.text import Text

        result = self.result
        yield FrontierTable(result.frontier)
        yield Text(choice_in_words(result.choice, result.frontier), style="bold")
        if result.reported:
            yield self._report()
        yield Text(f"searched in {result.seconds:.1f} s; wrote {result.path}", style="dim")
        plan = result.choice.plan
        if plan is not None:
            index = next(i for i, p in enumerate(result.frontier.plans) if p is plan)
            yield Text(f"Next: hf-soups cascade build {result.path}#{index} --out my-cascade", style="dim")

    def _report(self) -> Table:
        from rich import box
        from rich.table import Table

        rows = self.result.reported
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="on report rows, which nothing was chosen on")
        for title in ("", "members", "report", "[95%]", "average", "leave here", "p against best single"):
            table.add_column(title, justify="left" if title in ("", "members") else "right")
        for row in rows:
            metric, told = row.plan.metric, row.score
            table.add_row(
                row.name,
                " -> ".join(row.plan.members),
                score_in_words(told.value, metric),
                f"{score_in_words(told.low, metric)}, {score_in_words(told.high, metric)}",
                cost_in_words(row.average_cost),
                " ".join(f"{100 * share:.0f}%" for share in row.exit_shares) if len(row.exit_shares) > 1 else "",
                "" if row.p_value is None else f"{row.p_value:.2g}",
            )
        return table


@contextmanager
def search_progress() -> Iterator[Callable[..., None] | None]:
    """A bar on a terminal that is fed with shares in [0, 1]; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("search", total=1.0)
        yield lambda share, doing="": bar.update(task, completed=share, description=doing or "search")
