"""Intervals that need no resampling, where the bootstrap's do not cover: calibration error, accuracy on few rows.

The bootstrap centres on the plain estimate. That of a calibration error is too large on few rows, and a resample's is
larger still; and where all rows are right, all resamples are.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64, Real
from numpy.typing import ArrayLike

from hf_soups.predictions import Predictions

FEW = 10  # rows that are right, or wrong: fewer of them, and the bootstrap's ends are not to be trusted
FEW_ROWS = 50
CLEAR = 2.0  # standard errors: from here on a bin's gap counts as there
MEAN_OF_ABSOLUTE = math.sqrt(2 / math.pi)  # of a standard normal number

Bins = Float64[np.ndarray, "*resamples bins"]


def wilson_interval(hits: int | float, rows: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.

    >>> [round(end, 4) for end in wilson_interval(10, 10, 0.95)]
    [0.7225, 1.0]
    """
    z, share = two_sided(confidence), hits / rows
    scale = 1 + z * z / rows
    middle = (share + z * z / (2 * rows)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half) if hits < rows else 1.0


def share_interval(hits: float, rows: int, confidence: float) -> tuple[float, float] | None:
    """Wilson's interval of a share of rows where these are few, or few are in it or outside; else None."""
    if rows >= FEW_ROWS and min(hits, rows - hits) >= FEW:
        return None
    return wilson_interval(hits, rows, confidence)


def calibration_rows(p: Predictions, bins: int) -> Real[np.ndarray, "examples statistics"]:
    """For each bin confidence less hit, then hit, then one, of the rows in it; last one for each row."""
    hit = p.answers == p.needs_labels()
    confidence = p.probs.max(axis=1).astype(np.float64)
    bin_of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    rows, at = np.zeros((len(p), 3 * bins + 1)), np.arange(len(p))
    rows[at, bin_of], rows[at, bins + bin_of], rows[at, 2 * bins + bin_of] = confidence - hit, hit, 1
    rows[:, -1] = 1
    return rows


def debiased_value(sums: Real[np.ndarray, "*resamples statistics"]) -> Float64[np.ndarray, "*resamples"]:
    """The calibration error less what chance adds to it.

    A bin's gap is seen with an error, so that its size is too large on average: by the mean of |N(gap, error)| less the
    gap, which is taken off. Source: Kumar, Liang and Ma 2019, arXiv:1909.10155, and the normal debiasing in its code.
    """
    less, hits, counts, rows = _parts(sums)
    gap = np.abs(less) / rows
    share = _divided(hits, counts)
    error = np.sqrt(counts * share * (1 - share)) / rows
    far = np.divide(gap, error, out=np.full_like(gap, np.inf), where=error > 0)
    expected = MEAN_OF_ABSOLUTE * error * np.exp(-far * far / 2) + gap * _erf(far / math.sqrt(2))
    return np.asarray(np.clip((2 * gap - expected).sum(axis=-1), 0, None), dtype=np.float64)


def calibration_interval(p: Predictions, bins: int, confidence: float) -> tuple[float, float]:
    """An interval of the calibration error over these bins, which a model has on all rows of this kind.

    Upwards: the sum of the gaps in the directions in which they point is at least the sum in the true ones, whose error
    is normal. Downwards: gaps that are not clearly there may be chance alone, and are taken to be as large as chance
    makes them (the selection of moments of Andrews and Soares 2010). Each end errs on the side of covering.
    """
    less, hits, counts, rows = _parts(calibration_rows(p, bins).sum(axis=0))
    gap = np.abs(less) / rows
    variance = _most_variance(less + hits, hits, counts) * counts / rows**2
    error, z = np.sqrt(variance), two_sided(confidence)
    chance = gap <= CLEAR * error
    floor = MEAN_OF_ABSOLUTE * error[chance].sum()
    spread = math.sqrt((1 - MEAN_OF_ABSOLUTE**2) * variance[chance].sum() + variance[~chance].sum())
    total = float(gap.sum())
    return max(0.0, total - floor - z * spread), min(1.0, total + z * math.sqrt(variance.sum()))


def _parts(sums: ArrayLike) -> tuple[Bins, Bins, Bins, Float64[np.ndarray, "*resamples 1"]]:
    """Confidence less hits, hits and rows by bin, and the number of all rows."""
    each = np.asarray(sums, dtype=np.float64)
    less, hits, counts = np.split(each[..., :-1], 3, axis=-1)
    return less, hits, counts, np.maximum(each[..., -1:], 1)


def _most_variance(confidences: Bins, hits: Bins, counts: Bins) -> Bins:
    """The larger variance of a hit: of the hits seen and four more, half of them right, or as confidences say."""
    seen = (hits + 2) / (counts + 4)
    meant = np.clip(_divided(confidences, counts), 0, 1)
    return np.asarray(np.maximum(seen * (1 - seen), meant * (1 - meant)))


def _divided(above: Bins, below: Bins) -> Bins:
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below != 0))


def _erf(x: Bins) -> Bins:
    """The error function, which numpy lacks; a table of ten models would wait 0.3 s for the import of scipy.special."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=np.float64)


def two_sided(confidence: float) -> float:
    """How many standard errors a two-sided interval reaches, by the normal distribution.

    >>> round(two_sided(0.95), 4)
    1.96
    """
    return NormalDist().inv_cdf((1 + confidence) / 2)
