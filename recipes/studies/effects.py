"""What a paired comparison showed, and what it could have shown: shared by the studies' scripts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from hf_soups.metrics.significance import mcnemar, paired_bootstrap
from hf_soups.predictions import Predictions

LEVEL, POWER = 0.05, 0.8


@dataclass(frozen=True, slots=True)
class Finding:
    """One answerer against another on the same report rows; shares of rows, the first's less the second's."""

    what: str
    against: str
    rows: int
    effect: float
    low: float
    high: float
    p: float
    could_show: float  # the smallest effect that this design shows with 80% power at 5%
    cost: float | None = None  # in shares of the second's, where it is part of the claim
    tests: int = 1  # of one family: p is corrected for them


def smallest_effect(discordance: float, rows: int, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest difference of two accuracies that McNemar's test shows with this power.

    Args:
        discordance: share of rows that exactly one of the two answers right.
        rows: that both answer.

    Source: Connor 1987, Sample size for testing differences in proportions for the paired-sample design.

    >>> round(smallest_effect(0.17, 1000), 4)
    0.0364
    """
    to_reject, to_see = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(power)

    def needed(effect: float) -> float:
        spread = to_reject * discordance**0.5 + to_see * max(discordance - effect**2, 0.0) ** 0.5
        return float(spread / effect) ** 2

    low, high = 0.0, max(discordance, 1e-12)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) > rows else (low, middle)
    return high


def finding(what: str, mine: Predictions, against: str, other: Predictions, cost: float | None = None) -> Finding:
    """The difference of two accuracies with its interval by row, McNemar's exact p, and what could have been shown."""
    test, apart = mcnemar(mine, other), paired_bootstrap(mine, other, "accuracy")
    rows = len(mine)
    could = smallest_effect((test.only_a + test.only_b) / rows, rows)
    return Finding(what, against, rows, apart.difference, apart.low, apart.high, test.p_value, could, cost)


def over_halves(what: str, gains: Sequence[float], rows: int, cost: float) -> Finding:
    """The mean gain over random halves, of which one is searched and the other reports, by the corrected resampled t.

    Halves overlap, so their spread as it stands says too little: the variance of the mean is the gains' variance times
    1 / halves + report rows / select rows, and the last is 1 here.

    Source: Nadeau and Bengio 2003, Inference for the generalization error.
    """
    from scipy.special import stdtr, stdtrit

    values = np.asarray(gains)
    error = float(values.std(ddof=1)) * (1 / len(values) + 1) ** 0.5
    mean, degrees = float(values.mean()), len(values) - 1
    if not error:
        return Finding(what, "the best single model", rows, mean, mean, mean, 1.0, 0.0, cost)
    half = float(stdtrit(degrees, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(degrees, -abs(mean) / error))
    could = (NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(POWER)) * error
    return Finding(what, "the best single model", rows, mean, mean - half, mean + half, p, could, cost)


def record(path: Path, name: str, **values: Any) -> None:
    """Put what a command found under its name into a study's file of figures; the other names stay."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = [asdict(value) for value in values.pop("findings", ())]
    kept[name] = {**values, "findings": found}
    path.write_text(json.dumps(_rounded(kept), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Floats with six digits, so that a file's difference shows what changed."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float | np.floating) else value
