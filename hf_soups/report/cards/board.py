"""What the card of a soup says of the leaderboard that its folder keeps: the rows, costs, and the best single model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.errors import InputError
from hf_soups.leaderboard.table import BOARD_FILE, text_cells, training_of
from hf_soups.metrics import traits_of
from hf_soups.report.cards.markdown import MarkdownTable
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from hf_soups.leaderboard import Leaderboard
    from hf_soups.leaderboard.board import Row
    from hf_soups.soups.soup_record import SoupRecord

BOARD_PICTURE = "leaderboard.png"
BEST = "report: the best single model on select"


def own_row(board: Leaderboard, record: SoupRecord, folder: Path) -> Row | None:
    """The soup's own row; None where the leaderboard does not know it.

    Raises:
        InputError: if its report score is not the soup's.
    """
    name, metric = f"{record.method} soup", record.metric
    row = next((row for row in board.rows if row.kind == "soup" and row.name == name), None)
    told = record.scores.get("report", {}).get(metric)
    if row is not None and row.report is not None and told is not None and row.report != told:
        raise InputError(
            f"{folder / BOARD_FILE}: the {metric} of the {name} on report is {row.report}, but soup.json says {told}. "
            "Make it anew: hf-soups leaderboard with the sweep's folder."
        )
    return row


def board_table(board: Leaderboard) -> MarkdownTable:
    """Everything that was compared; single fine-tunes, of which there may be many, when they are asked for."""
    columns, rows = text_cells(board)
    single = sum(row.kind == "run" for row in board.rows if row.report is not None)
    summary = f"the {single} single fine-tunes"
    return MarkdownTable("Leaderboard", columns, rows, record=BOARD_FILE, folded=single, summary=summary)


def has_picture(board: Leaderboard | None) -> bool:
    """Whether a card draws the leaderboard: where anything is scored."""
    return board is not None and any(row.report is not None for row in board.rows)


def board_note(board: Leaderboard) -> str:
    """How to read the leaderboard, and the picture that is written with the card."""
    scale = " x 100" if traits_of(board.metric).percent else ""
    seen = f"\n\n![Report score against select score of everything that was compared]({BOARD_PICTURE})"
    return (
        f"{board.metric}{scale}, with 95% bootstrap intervals by row. Select rows chose, report rows were not looked "
        "at when choosing; gains are over the model that was best on select, NLL and ECE (x 100) are of report. "
        f"Training seconds are the sum over all fine-tunes in a row.{seen if has_picture(board) else ''}"
    )


def best_single(board: Leaderboard) -> dict[str, str] | None:
    """The report row of the model that was best on select, for the table of results."""
    best = next((row for row in board.rows if row.kind == "best on select" and row.report is not None), None)
    if best is None:
        return None
    ends = [score_in_words(end, board.metric) for end in (best.report_low, best.report_high)]
    return {
        "Rows": f"{BEST}, {best.name}",
        board.metric: score_in_words(best.report, board.metric),
        "95% interval": f"{ends[0]} to {ends[1]}",
        "nll": score_in_words(best.report_nll, "nll"),
        "ece": score_in_words(best.report_ece, "ece"),
        "Number of rows": str(board.report_rows),
    }


def costs_table(board: Leaderboard, row: Row) -> MarkdownTable:
    """What the soup costs to run, and what it took to train."""
    runs, seconds, devices = training_of(board.rows)
    told = {
        "parameters": f"{row.parameters:,}" if row.parameters else None,
        "multiply-adds of one row": f"{row.macs:,}" if row.macs else None,
        "hardware of these": "counted, so the same everywhere",
        "training seconds of its ingredients": _seconds(row.train_seconds),
        "training seconds of the whole pool": _seconds(seconds if runs else None),
        "hardware of the seconds": devices if runs else None,
    }
    return MarkdownTable.of_values("Costs", told, record=BOARD_FILE)


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f}"
