"""Phrases: numbers of a diagnosis as its sentences need them."""

from __future__ import annotations

import math
from collections.abc import Callable

from hf_soups.diagnosis.facts import KNOBS, Absent, Facts, Single
from hf_soups.report.words import PERCENT, loss_in_words, score_in_words


def score(facts: Facts, value: float) -> str:
    """A score of the diagnosis's metric."""
    return score_in_words(value, facts.metric)


def scored(facts: Facts, single: Single) -> str:
    """A run with its score."""
    return f"{single.name} {score(facts, single.score)}"


def points(facts: Facts, value: float) -> str:
    """A difference of scores, without its sign."""
    return f"{100 * value:.1f} points" if facts.metric in PERCENT else f"{value:.4f}"


def loss(facts: Facts, lost: float, rows: int) -> str:
    """What was lost on so many rows, in rows too where the metric counts rows."""
    return "everything: it answers NaN" if math.isinf(lost) else loss_in_words(lost, facts.metric, rows)


def height(facts: Facts, barrier: float) -> str:
    """Of a barrier; an infinite one is a mixture that answers NaN."""
    return "answers that are NaN" if math.isinf(barrier) else points(facts, barrier)


def above(facts: Facts, difference: float) -> str:
    """A difference with its direction; "better" and "worse", since for some metrics lower is better."""
    if not math.isfinite(difference):
        return "NaN beside"
    if points(facts, abs(difference)) == points(facts, 0.0):
        return "level with"
    better, worse = ("above", "below") if facts.sign > 0 else ("better than", "worse than")
    return f"{points(facts, abs(difference))} {better if difference > 0 else worse}"


def settings(facts: Facts, run: Single | Absent) -> str:
    """The settings that differ between runs, for this run: " (learning rate 8e-4, 2 epochs)"."""
    everyone = [s.settings for s in facts.singles] + [a.settings for a in facts.absent]
    varied = [k for k in KNOBS if k != "seed" and len({s.get(k) for s in everyone} - {None}) > 1]
    told = [f"{KNOBS[k]} {shown(KNOBS[k])(run.settings[k])}" for k in varied if k in run.settings]
    return f" ({', '.join(told)})" if told else ""


def shown(setting: str) -> Callable[[float], str]:
    """How values of this setting are written."""
    return rate if setting == "learning rate" else _plain


def _plain(value: float) -> str:
    return f"{value:.4g}"


def rate(value: float) -> str:
    """A learning rate in three digits.

    >>> rate(0.0008), rate(0.000108208), rate(3e-05)
    ('8e-4', '1.08e-4', '3e-5')
    """
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def rounded(rows: float) -> str:
    """Two digits are all such an estimate holds.

    >>> rounded(12345.6), rounded(87)
    ('12,000', '87')
    """
    digits = max(len(str(round(rows))) - 2, 0)
    return f"{round(rows, -digits):,.0f}"
