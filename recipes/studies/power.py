"""How small a difference of two models a number of rows can show, from how often the two disagree.

Both answer the same rows. Rows that one alone answers right decide (McNemar); with a share d of them, a difference D of
accuracies is shown by a two-sided test at level a with power 1 - b where

    D = (z(1 - a/2) * sqrt(d) + z(1 - b) * sqrt(d - D^2)) / sqrt(rows)

Source: Connor 1987, Sample size for testing differences in proportions for the paired-sample design.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm

LEVEL, POWER = 0.05, 0.8


def smallest_effect(discordant: float, rows: int, *, level: float = LEVEL, power: float = POWER) -> float:
    """The difference of accuracies, in [0, 1], that is shown with that power.

    Args:
        discordant: share of the rows that exactly one of the two answers right, in (0, 1].
        rows: that both answer.
        level: of the two-sided test.
        power: the chance that the test shows it.
    Returns:
        The difference; `discordant` itself where even all of them on one side would not be enough.

    >>> round(smallest_effect(0.10, 1000), 4)
    0.028
    """
    alpha, beta, share = norm.ppf(1 - level / 2), norm.ppf(power), math.sqrt(discordant)

    def short_of(effect: float) -> float:
        """How far the difference is from being shown, in standard errors."""
        return effect * math.sqrt(rows) - alpha * share - beta * math.sqrt(max(discordant - effect**2, 0.0))

    return min(discordant, float(brentq(short_of, 0.0, share))) if short_of(share) > 0 else discordant


def rows_for(effect: float, discordant: float, *, level: float = LEVEL, power: float = POWER) -> int:
    """The rows that show a difference with that power.

    >>> rows_for(0.028, 0.10)
    999
    """
    alpha, beta = norm.ppf(1 - level / 2), norm.ppf(power)
    return math.ceil((alpha * math.sqrt(discordant) + beta * math.sqrt(discordant - effect**2)) ** 2 / effect**2)
