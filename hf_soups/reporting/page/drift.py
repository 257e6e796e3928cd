"""New rows: a cascade's answers to them against those to the rows that it was chosen on."""

from __future__ import annotations

from hf_soups.reporting.drift import Watched, shown_lines, words_of
from hf_soups.reporting.page.html import Block, Cell, Section, page_table
from hf_soups.reporting.page.sources import ReportContent

TITLES = ("", "select %", "now %", "from", "to", "p")


def drift_section(content: ReportContent) -> Section | None:
    """The section; None where no cascade has answers to new rows."""
    blocks = [_block(watched, f"drift-{number}") for number, watched in enumerate(content.watched, 1)]
    return Section("drift", "New rows: do they still look the same", tuple(blocks)) if blocks else None


def _block(watched: Watched, name: str) -> Block:
    *words, verdict = words_of(watched)
    rows = [
        [
            Cell.words(f"{kind}: {of}"),
            *(Cell(f"{100 * share:.1f}", share) for share in (then, now, low, high)),
            Cell(f"{p:.2g}", p),
        ]
        for one in watched.drift.compared
        for kind, of, then, now, low, high, p in shown_lines(one)
    ]
    caption = f"Shares of {watched.drift.then.rows} select rows and of {watched.drift.now.rows} new ones"
    table = page_table(f"{name}-table", f"{caption}, with 95% intervals of the latter", TITLES, rows)
    return Block(watched.answers, lead=(verdict,), words=tuple(words), table=table)
