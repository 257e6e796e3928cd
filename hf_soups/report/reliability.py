"""Reliability: how often answers are right, against how sure the model was of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hf_soups.errors import InputError
from hf_soups.metrics import expected_calibration_error
from hf_soups.predictions import Predictions
from hf_soups.report.plots import BLUE, GREY, VERMILION, legend_below, new_figure, save_figure
from hf_soups.report.table import write_csv

BINS = 15  # as many as `expected_calibration_error` has by default


@dataclass(frozen=True, slots=True)
class Bin:
    """The rows whose most probable class has a probability in (low, high]."""

    low: float
    high: float
    rows: int
    confidence: float | None  # mean of them; None without rows
    accuracy: float | None


def reliability_bins(p: Predictions, *, bins: int = BINS) -> tuple[Bin, ...]:
    """Labelled predictions by their confidence, in the bins of the expected calibration error.

    The error is the mean over rows of the distance between confidence and accuracy of their bin.

    Raises:
        InputError: if `bins` < 1.
        PredictionsError: if there are no rows or labels.
    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    if bins < 1:
        raise InputError(f"{bins} bins; a reliability diagram needs at least 1.")
    hit = p.answers == p.needs_labels()
    confidence = np.exp(p.log_probs.max(axis=1).astype(np.float32)).astype(np.float64)
    of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    made = []
    for i in range(bins):
        inside = of == i
        means = (float(confidence[inside].mean()), float(hit[inside].mean())) if inside.any() else (None, None)
        made.append(Bin(i / bins, (i + 1) / bins, int(inside.sum()), *means))
    return tuple(made)


def draw_reliability(p: Predictions, path: str | Path, *, bins: int = BINS, name: str = "") -> tuple[Path, ...]:
    """Write the reliability diagram as PNG, and its bins as CSV beside it; both paths.

    Args:
        p: labelled predictions.
        path: the PNG file.
        bins: equal-width bins of confidence.
        name: of the answerer, for the title; by default the one that the predictions carry.
    """
    found = reliability_bins(p, bins=bins)
    error = expected_calibration_error(p, bins=bins)
    figure, axes = new_figure()
    filled = [b for b in found if b.rows]
    middles, width = [(b.low + b.high) / 2 for b in filled], 1 / bins
    accuracy = [b.accuracy for b in filled if b.accuracy is not None]
    sure = [b.confidence for b in filled if b.confidence is not None]
    axes.bar(middles, accuracy, width=0.92 * width, color=BLUE, alpha=0.75, label="accuracy", zorder=2)
    axes.bar(
        middles, [b.rows / len(p) for b in filled], width=0.4 * width, color=GREY, label="share of the rows", zorder=3
    )
    axes.scatter(sure, accuracy, marker="D", s=28, color=VERMILION, label="mean confidence and accuracy", zorder=4)
    axes.plot([0, 1], [0, 1], color="#444444", lw=1, ls="--", label="as sure as it is right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"confidence: probability of the answer, {bins} bins")
    axes.set_ylabel(f"share that is right, {len(p)} rows")
    axes.set_title(
        f"{name or p.model or 'predictions'}: ECE {100 * error:.1f} x 100", fontsize=11, loc="left", wrap=True
    )
    legend_below(axes)
    at = Path(path)
    save_figure(figure, at)
    write_csv(at.with_suffix(".csv"), [asdict(b) for b in found])
    return at, at.with_suffix(".csv")
