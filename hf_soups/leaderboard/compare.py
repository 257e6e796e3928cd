"""Compare: whether rows of the leaderboard differ by more than the choice of test rows explains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.display import Displayed
from hf_soups.errors import InputError
from hf_soups.files.problem_types import REGRESSION
from hf_soups.leaderboard.rows import UNUSABLE, ScoredModel, ScoredModels, read_scored_models
from hf_soups.metrics import traits_of
from hf_soups.metrics.metric import RECOMPUTED_RESAMPLES
from hf_soups.metrics.significance import McNemar, mcnemar, paired_bootstrap
from hf_soups.plots.canvas import unit_of
from hf_soups.recipe.task import SHIFT
from hf_soups.wording import difference_in_words, score_in_words

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from hf_soups.metrics import Metric

LEVEL = 0.05
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of the leaderboard against another on the same test rows; differences are a's score less b's."""

    a: str
    b: str
    a_score: float
    b_score: float
    only_a: int  # rows that a alone answers right
    only_b: int
    mcnemar_p: float  # of right answers
    low: float  # 95% interval of the difference, by paired bootstrap
    high: float
    bootstrap_p: float  # of the metric
    holm_p: float = 1.0  # of the test that decides, corrected for all comparisons of the call


@dataclass(frozen=True, slots=True, repr=False)
class Comparisons(Displayed):
    """What one call compared, on which rows, and what limits it."""

    metric: str
    sign: int  # of the metric: -1 where less is better
    on: str  # select, report or a shift
    rows: int
    pairs: tuple[Comparison, ...]
    resamples: int
    against_best: bool  # every row against the best on select, corrected by Holm
    warnings: tuple[str, ...] = ()

    @property
    def test(self) -> str:
        """The test that decides: of right answers where the metric counts them, else of the metric itself."""
        return "McNemar's exact test" if traits_of(self.metric).counts_rows else f"paired bootstrap of {self.metric}"

    def decides(self, pair: Comparison) -> float:
        """The p-value of that test."""
        return pair.mcnemar_p if traits_of(self.metric).counts_rows else pair.bootstrap_p

    def in_short(self) -> str:
        """Of one comparison what it says; of several how many differ."""
        if not self.against_best:
            return "; ".join(self._reading(pair) for pair in self.pairs)
        apart = sum(pair.holm_p < LEVEL for pair in self.pairs)
        return f"{apart} of {len(self.pairs)} differ from {self.pairs[0].b} on {self.on}, {self.rows} rows: {self.test}"

    def to_pandas(self) -> pd.DataFrame:
        """The comparisons, a row each."""
        import pandas as pd

        return pd.DataFrame([asdict(pair) for pair in self.pairs])

    def words(self, pair: Comparison) -> list[str]:
        """One comparison line by line, and how to read it."""
        a, b = (score_in_words(value, self.metric) for value in (pair.a_score, pair.b_score))
        difference = difference_in_words(pair.a_score, pair.b_score, self.metric, self.rows)
        hits = (
            f"McNemar's exact test: only {pair.a} right on {pair.only_a} rows, only {pair.b} right on {pair.only_b}, "
            f"{p_in_words(pair.mcnemar_p)}"
        )
        return [
            f"{unit_of(self.metric)} on {self.on}, {self.rows} rows: {pair.a} {a}, {pair.b} {b}: {difference}",
            f"Paired bootstrap by row ({self.resamples} resamples): 95% interval of the difference {self._ends(pair)}, "
            f"{p_in_words(pair.bootstrap_p)}",
            *(() if math.isnan(pair.mcnemar_p) else (hits,)),
            self._reading(pair),
        ]

    def to_rich(self) -> RenderableType:
        """All comparisons as one table."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        best = self.pairs[0].b if self.pairs else ""
        title = Text(f"{unit_of(self.metric)} on {self.on} ({self.rows} rows) against {best}, the best on select")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        table.add_column("model", overflow="fold")
        for column in ("score", "difference [95%]", "only it", "only best", "p", "Holm"):
            table.add_column(column, justify="right", no_wrap=True)
        for pair in self.pairs:
            difference = f"{_signed(pair.a_score - pair.b_score, self.metric)} {self._ends(pair)}"
            counts = str(pair.only_a), str(pair.only_b), _p(self.decides(pair)), _p(pair.holm_p)
            table.add_row(pair.a, score_in_words(pair.a_score, self.metric), difference, *counts)
        return table

    def conclusion(self) -> str:
        """The table in one sentence, after the correction."""
        apart = [pair.a for pair in self.pairs if pair.holm_p < LEVEL]
        found = f"{len(apart)} of {len(self.pairs)} differ from the best on select at the 5% level ({', '.join(apart)})"
        if not apart:
            found = f"None of {len(self.pairs)} is distinguishable from the best on select on these {self.rows} rows"
        return (
            f"only it, only best: rows that one of the two alone answers right; p: {self.test}; Holm: corrected for "
            f"{len(self.pairs)} comparisons. {found}. Models that are not distinguishable need not be equal, and other "
            "rows, seeds or data are not tested here."
        )

    def _ends(self, pair: Comparison) -> str:
        return f"[{_signed(pair.low, self.metric)}, {_signed(pair.high, self.metric)}]"

    def _reading(self, pair: Comparison) -> str:
        if not self.decides(pair) < LEVEL:
            return (
                f"{pair.a} and {pair.b} are not distinguishable on these {self.rows} rows ({self.test}, 5% level); "
                "that does not show that they are equal."
            )
        ahead = self.sign * (pair.a_score - pair.b_score) > 0
        better, worse = (pair.a, pair.b) if ahead else (pair.b, pair.a)
        return (
            f"{better} is ahead of {worse} by more than the choice of these {self.rows} rows explains ({self.test}, 5% "
            "level). That is about these two models; other seeds or data are not tested here."
        )


def compare(
    folder: str | Path,
    names: Sequence[str] | str = (),
    *,
    on: str = "report",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparisons:
    """Test rows of the leaderboard against one another, from cached predictions.

    Args:
        folder: a sweep's folder, or one that holds run folders.
        names: two rows of the leaderboard ("run_03", "greedy", "ensemble", "best"); one: against the best on select;
            none or more than two: all or these against the best on select, with Holm's correction.
        on: "report", "select" or a shift's name.
        resamples: of the paired bootstrap; metrics by `evaluate` take at most 200.
        seed: of the resamples.
    Raises:
        InputError: if a name or `on` is unknown, or a named row did not answer these rows.
    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    names = (names,) if isinstance(names, str) else names
    found = read_scored_models(folder)
    if not found.runs:
        raise InputError(f"{folder}: no run has finished yet, so there is nothing to compare.")
    role, metric = _role(found, on), found.metric
    sides = _sides(found, names, role, folder)
    pairs = [_compared(a, b, role, metric, resamples, seed) for a, b in sides]
    about = Comparisons(
        metric=metric.name,
        sign=metric.sign,
        on=on,
        rows=len(sides[0][0].answers[role]),
        pairs=(),
        resamples=resamples if metric.row_statistics is not None else min(resamples, RECOMPUTED_RESAMPLES),
        against_best=len(names) not in (1, 2),
        warnings=tuple(_warnings(found, sides, role, everything=not names)),
    )
    corrected = holm([about.decides(pair) for pair in pairs])
    return replace(about, pairs=tuple(replace(p, holm_p=h) for p, h in zip(pairs, corrected, strict=True)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, in their order: at a level of 5%, one false alarm in 20 families.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.03, 0.01, 0.5])
    [0.06, 0.03, 0.5]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[at] * (len(p_values) - rank)))
        corrected[at] = largest
    return corrected


def print_comparisons(result: Comparisons) -> None:
    """Print one comparison in words, or several as a table."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if result.against_best:
        # into a file or a pipe nobody set a width: names are then not folded
        Console(width=None if console.is_terminal else 140, highlight=False, markup=False).print(result.to_rich())
        console.print(result.conclusion())
    else:
        for line in result.words(result.pairs[0]):
            console.print(line)
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow")


def p_in_words(p: float) -> str:
    """A p-value as a sentence needs it.

    >>> p_in_words(0.0312), p_in_words(0.00002)
    ('p = 0.031', 'p < 0.0001')
    """
    text = _p(p)
    return f"p {text[0]} {text[1:]}" if text[0] == "<" else f"p = {text}"


# What is compared


def _role(found: ScoredModels, on: str) -> str:
    """How the answers on these rows are called."""
    if on in ("select", "report"):
        return on
    if on not in found.shifts:
        known = ", ".join(("report", "select", *found.shifts))
        raise InputError(f"no answers on {on!r}; there are: {known}. `hf-soups answer` answers further shifts.")
    return f"{SHIFT}{on}"


def _sides(
    found: ScoredModels, names: Sequence[str], role: str, folder: str | Path
) -> list[tuple[ScoredModel, ScoredModel]]:
    """Each comparison: the two that are named, or everything against the best on select."""
    best = found.runs[0]
    chosen = [_named(found, name) for name in names] or [c for c in found.everything if role in c.answers]
    sides = [(chosen[0], chosen[1])] if len(names) == 2 else [(c, best) for c in chosen if c is not best]
    if not sides or sides[0][0] is sides[0][1]:
        raise InputError(
            f"{best.row.name} has nothing to be compared with; name two rows of the leaderboard that differ."
        )
    for model in (c for side in sides for c in side):
        if role not in model.answers:
            raise InputError(
                f"{model.row.name} has no answers on {role.removeprefix(SHIFT)!r}: `hf-soups answer {folder}` "
                "makes them."
            )
    return sides


def _named(found: ScoredModels, name: str) -> ScoredModel:
    """A row by its name on the leaderboard, "greedy" for "greedy soup", "best", "ensemble" for the mean-logit one."""
    for model in found.everything:
        if model.row.name in (name, f"{name} soup", f"{name} ensemble"):
            return model
    if name == "best":
        return found.runs[0]
    if name == "ensemble" and found.ensembles:
        return found.ensembles[0]
    for row in found.unscored:
        if row.name in (name, f"{name} soup"):
            raise InputError(f"{row.name} has no scores: {row.status}" + (f" ({row.reason})" if row.reason else ""))
    known = ", ".join(c.row.name.removesuffix(" soup") for c in found.everything)
    raise InputError(f"no row {name!r} on the leaderboard; there are: best, {known}.")


def _compared(a: ScoredModel, b: ScoredModel, role: str, metric: Metric, resamples: int, seed: int) -> Comparison:
    first, second = a.answers[role], b.answers[role]
    counts = McNemar(0, 0, math.nan) if first.problem_type == REGRESSION else mcnemar(first, second)
    drawn = paired_bootstrap(first, second, metric, resamples=resamples, seed=seed)
    return Comparison(
        a.row.name, b.row.name, metric.compute(first), metric.compute(second), counts.only_a, counts.only_b,
        counts.p_value, drawn.low, drawn.high, drawn.p_value,
    )  # fmt: skip


def _warnings(
    found: ScoredModels, sides: Sequence[tuple[ScoredModel, ScoredModel]], role: str, *, everything: bool
) -> Iterator[str]:
    if role == "select":
        yield (
            "select rows were chosen on, so the best on select and the soups look better there than they are; these "
            "tests do not make up for that. Compare on report."
        )
    compared = {c.row.name: c.row for side in sides for c in side}
    for row in compared.values():
        if row.status == "optimistic" and role == "report":
            yield f"{row.name}: {row.reason}; the tests do not make up for that."
    for row in found.unscored:
        if row.status in UNUSABLE:
            yield f"left out: {row.name}: {row.reason}"
    missing = [c.row.name for c in found.everything if role not in c.answers]
    if missing and everything:
        yield f"left out, without answers on {role.removeprefix(SHIFT)}: {', '.join(missing)}."


# Words


def _signed(value: float, metric: str) -> str:
    return f"{100 * value:+.1f}" if traits_of(metric).percent else f"{value:+.4f}"


def _p(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"
