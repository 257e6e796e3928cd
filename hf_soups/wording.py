"""Scores and differences in words: "+0.7 = 2 of 277 rows"."""

from __future__ import annotations

import math

from hf_soups.metrics import traits_of


def score_in_words(score: float | None, metric: str) -> str:
    """A score as tables show it: x 100 with one decimal for accuracy and the like, else four digits.

    >>> score_in_words(0.8431, "accuracy"), score_in_words(0.8431, "nll"), score_in_words(None, "accuracy")
    ('84.3', '0.8431', '-')
    """
    if score is None or math.isnan(score):
        return "-"
    return f"{100 * score:.1f}" if traits_of(metric).percent else f"{score:.4f}"


def at_best_in_words(value: float, metric: str) -> str:
    """What a score is surely no better than.

    >>> at_best_in_words(0.8431, "accuracy"), at_best_in_words(0.5, "nll")
    ('at most 84.3', 'at least 0.5000')
    """
    return f"{'at most' if traits_of(metric).sign > 0 else 'at least'} {score_in_words(value, metric)}"


def interval_in_words(low: float | None, high: float | None, metric: str) -> str:
    """The ends of an interval in brackets; nothing where they are not known.

    >>> interval_in_words(0.81, 0.8731, "accuracy"), interval_in_words(None, None, "accuracy")
    ('[81.0, 87.3]', '')
    """
    return "" if low is None or high is None else f"[{score_in_words(low, metric)}, {score_in_words(high, metric)}]"


def difference_in_words(new: float, old: float, metric: str, rows: int) -> str:
    """How far `new` is from `old`, with its sign; in rows too where the metric counts rows.

    >>> difference_in_words(0.7329, 0.7256, "accuracy", 277)
    '+0.7 = 2 of 277 rows'
    >>> difference_in_words(0.75, 0.75, "accuracy", 200), difference_in_words(0.81, 0.83, "f1", 200)
    ('0.0 = 0 of 200 rows', '-2.0')
    """
    difference = new - old
    if math.isnan(difference):
        return "not a number"
    if traits_of(metric).counts_rows:
        return f"{_signed(100 * difference, 1)} = {abs(round(difference * rows))} of {rows} rows"
    return _signed(100 * difference, 1) if traits_of(metric).percent else _signed(difference, 4)


def loss_in_words(lost: float, metric: str, rows: int) -> str:
    """How much was lost, as a sentence needs it.

    >>> loss_in_words(0.015, "accuracy", 200), loss_in_words(0.015, "matthews", 200)
    ('1.5 points = 3 of 200 rows', '1.5 points')
    """
    if not traits_of(metric).percent:
        return f"{lost:.4f}"
    points = f"{100 * lost:.1f} points" if 100 * lost >= 0.05 else f"{100 * lost:.2g} points"
    return f"{points} = {round(lost * rows)} of {rows} rows" if traits_of(metric).counts_rows else points


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def amount(value: float | None) -> str:
    """A count with a unit prefix: 22.7 M.

    >>> amount(22_713_986), amount(950), amount(None)
    ('22.7 M', '950', '-')
    """
    if value is None:
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def cost_in_words(value: float) -> str:
    """A cost with three digits: counts with a unit prefix, fractions as they are.

    >>> cost_in_words(390_000_000), cost_in_words(0.0123), cost_in_words(5)
    ('390 M', '0.0123', '5')
    """
    return amount(value) if value >= 1000 else f"{value:.3g}"
