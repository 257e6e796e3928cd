"""Watching a cascade: its answers to new rows against those to its select rows, printed or in a report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.batch_predict.outputs import KeptAnswers, read_answers, weights_of
from hf_soups.cascades.drift import LEVEL, AnswersSeen, Compared, Drift, drift_of
from hf_soups.cascades.evidence import read_evidence
from hf_soups.cascades.plan import Plan, plan_values, within_budget
from hf_soups.cascades.running.stored import StoredCascade, read_stored
from hf_soups.costs import UNITS
from hf_soups.display import Displayed
from hf_soups.errors import InputError
from hf_soups.metrics.closed_intervals import wilson_interval
from hf_soups.pool.entries import is_cascade, one_model
from hf_soups.wording import cost_in_words

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType

SHOWN = 10  # labels, those that differ most


@dataclass(frozen=True, slots=True, repr=False)
class Watched(Displayed):
    """What `watch` found."""

    drift: Drift
    answers: str  # where they are
    errors: int  # rows that could not be answered
    notes: tuple[str, ...] = ()

    def in_short(self) -> str:
        """The verdict."""
        return self.drift.in_words()

    def to_pandas(self) -> pd.DataFrame:
        """A stage, label or bin of confidence a row, with the ends of its share's 95% interval among new rows."""
        import pandas as pd

        rows = [line for one in self.drift.compared for line in lines_of(one)]
        return pd.DataFrame(rows, columns=["compared", "of", "select", "now", "low", "high", "p"])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("", "select", "now", "[95%]", "p"):
            table.add_column(title, justify="right" if title else "left")
        for one in self.drift.compared:
            table.add_row(f"[bold]{one.name}[/bold]", "", "", "", f"{one.p_value:.2g}")
            for _, name, then, now, low, high, _ in shown_lines(one):
                table.add_row(f"  {name}", f"{then:.1%}", f"{now:.1%}", f"{low:.1%}, {high:.1%}", "")
        yield table
        yield from words_of(self)


def words_of(watched: Watched) -> list[str]:
    """Costs, rows without an answer, notes, and the verdict last."""
    drift = watched.drift
    (then, now), (low, high) = drift.average_costs, drift.cost_difference
    ends = ", ".join(("+" if end >= 0 else "-") + cost_in_words(abs(end)) for end in (low, high))
    unit = UNITS.get(drift.plan.unit, drift.plan.unit)
    lines = [f"Average cost: {cost_in_words(then)} then, {cost_in_words(now)} now {unit}; difference {ends} (95%)."]
    if drift.now.abstained is not None:
        before = (
            "" if drift.then.abstained is None else f", {drift.then.abstained / drift.then.rows:.1%} of select rows"
        )
        lines.append(f"For a human: {drift.now.abstained / drift.now.rows:.1%} of new rows{before}.")
    if watched.errors:
        lines.append(f"{watched.errors} rows have an error instead of an answer, and are not counted.")
    return [*lines, *watched.notes, drift.in_words()]


def lines_of(one: Compared) -> list[tuple[str, str, float, float, float, float, float]]:
    """Of each stage, label or bin: the shares of select and new rows, the ends of the latter's interval, and p."""
    then, now = sum(one.then), sum(one.now)
    return [
        (one.name, of, a / then, b / now, *wilson_interval(b, now, 0.95), one.p_value)
        for of, a, b in zip(one.of, one.then, one.now, strict=True)
    ]


def shown_lines(one: Compared) -> list[tuple[str, str, float, float, float, float, float]]:
    """Those that a reader can look through: of many labels the ones that differ most, of bins those with rows."""
    lines = [line for line in lines_of(one) if one.name == "exits" or line[2] or line[3]]
    if one.name != "labels" or len(lines) <= SHOWN:
        return lines
    return sorted(lines, key=lambda line: -abs(line[2] - line[3]))[:SHOWN]


def watch(cascade: str | Path, answers: str | Path, *, last: int | None = None, level: float = LEVEL) -> Watched:
    """Compare a cascade's answers to new rows with those to the rows that it was chosen on.

    Args:
        cascade: its folder or Hub repo.
        answers: a folder that `predict` wrote with this cascade, finished or not.
        last: only so many of its last rows.
        level: chance of a false alarm, in (0, 1).
    Raises:
        InputError: if they do not belong together, or nothing is known of the select rows.
    """
    checkpoint = one_model(cascade)
    if not is_cascade(checkpoint):
        raise InputError(f"{cascade}: no cascade, so there are no exits to watch. Name a folder of cascade build.")
    stored, kept = read_stored(checkpoint.folder), read_answers(answers)
    notes = []
    if kept.weights and kept.weights != weights_of(checkpoint):
        notes.append(f"{kept.folder}: the cascade's members or config are not those that gave these answers any more.")
    plan = stored.built if kept.budget is None else within_budget(stored.plans, kept.budget)
    then, note = _select_rows(checkpoint.folder, stored, plan)
    now, errors = _counted(stored, plan, kept, last)
    return Watched(drift_of(plan, then, now, level), str(kept.folder), errors, (*notes, *note))


def _select_rows(folder: Path, stored: StoredCascade, plan: Plan) -> tuple[AnswersSeen, tuple[str, ...]]:
    """What the cascade knows of its select rows, and what it does not."""
    kept = read_evidence(folder)
    if kept.answers is not None and plan.way == stored.built.way and kept.plan == plan_values(stored.built):
        return kept.answers, ()
    seen = AnswersSeen.of_plan(plan)
    if seen is None:
        raise InputError(
            f"{folder}: where its select rows left is not known, so there is nothing to compare with. It must be "
            "built again, of what hf-soups cascade search found."
        )
    return seen, ("Of this plan's select rows exits alone are known: labels and confidence are not compared.",)


def _counted(stored: StoredCascade, plan: Plan, kept: KeptAnswers, last: int | None) -> tuple[AnswersSeen, int]:
    table = kept.table if last is None else kept.table.slice(max(0, kept.table.num_rows - last))
    answered: dict[str, list[Any]] = table.filter(table["exit_stage"].is_valid()).to_pydict()
    exits, labels = np.asarray(answered["exit_stage"], dtype=np.int64), [str(name) for name in answered["label"]]
    unknown = sorted(set(labels) - set(stored.label_names))
    if unknown or (len(exits) and exits.max() >= len(plan.members)):
        what = f"the label {unknown[0]!r}" if unknown else f"exits at stage {exits.max()}"
        raise InputError(f"{kept.folder} has {what}, so it is not of this cascade, {plan.in_order}.")
    abstained = answered.get("abstained")
    known = None if abstained is None or None in abstained else abstained
    errors = table.num_rows - len(exits)
    return AnswersSeen.count(len(plan.members), exits, labels, answered["score"], known), errors
