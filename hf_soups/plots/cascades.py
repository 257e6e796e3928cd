"""The pictures of a cascade: score against cost, who leaves where, latency, reliability, and images by exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.costs import UNITS
from hf_soups.data.split import Split
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.writing import write_csv
from hf_soups.metrics import expected_calibration_error
from hf_soups.plots.canvas import BLUE, GREEN, GREY, VERMILION, legend_below, new_figure, new_panels, save_figure
from hf_soups.plots.costs import cost_picture, draw_cost_picture
from hf_soups.plots.images_by_exit import draw_sheet
from hf_soups.pool.store import Member
from hf_soups.predictions import Predictions
from hf_soups.wording import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image


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


@dataclass(frozen=True, slots=True)
class LatencyBar:
    """Seconds of an example: at batch 1, which is latency, and at each member's best batch, which is throughput."""

    kind: str  # "single" or "cascade"
    name: str
    seconds_batch_1: float  # of a cascade: the members that its rows met, on average
    seconds: float
    worst_batch_1: float  # of a row that meets every member
    worst: float
    hardware: str


def latency_bars(
    plan: Plan, answers: CascadePredictions, members: Mapping[str, Member], *, beside: Sequence[str] = ()
) -> tuple[LatencyBar, ...]:
    """The single models, the fastest first, then the cascade; nothing unless all were measured on one machine.

    A cascade's seconds are those of the members that its rows met; deciding and gathering rows are not in them.

    Args:
        plan: of the cascade.
        answers: the cascade's, whose exits say which members each row met.
        members: the pool's, by name.
        beside: further single models, such as the best.
    """
    known = [members[name] for name in dict.fromkeys((*plan.members, *beside))]
    seconds = {m.name: (m.seconds_batch_1, m.seconds) for m in known}
    told = {name: (first, best) for name, (first, best) in seconds.items() if first is not None and best is not None}
    if len(told) < len(known) or len({m.hardware for m in known}) != 1 or not len(answers):
        return ()
    hardware = known[0].hardware
    singles = [LatencyBar("single", name, one, best, one, best, hardware) for name, (one, best) in told.items()]
    singles.sort(key=lambda bar: bar.seconds_batch_1)
    if len(plan.members) == 1:
        return tuple(singles)
    assert answers.exits is not None
    met = np.array([(answers.exits >= stage).mean() for stage in range(len(plan.members))])
    each = np.array([told[name] for name in plan.members])
    (mean_1, mean), (worst_1, worst) = (met[:, None] * each).sum(axis=0).tolist(), each.sum(axis=0).tolist()
    cascade = LatencyBar("cascade", " -> ".join(plan.members), mean_1, mean, worst_1, worst, hardware)
    return (*singles, cascade)


def draw_latency(bars: Sequence[LatencyBar], path: str | Path) -> tuple[Path, ...]:
    """Write the bars as PNG, latency on the left and throughput on the right, and the numbers as CSV; both paths."""
    figure, (left, right) = new_panels(2)
    _panel(left, bars, [(b.seconds_batch_1, b.worst_batch_1) for b in bars])
    _panel(right, bars, [(b.seconds, b.worst) for b in bars])
    left.set_xlabel("ms an example, one at a time", fontsize=9)
    right.set_xlabel("ms an example, at each member's best batch", fontsize=9)
    names = [bar.name.replace(" -> ", " ->\n") for bar in bars]
    left.set_yticks(range(len(bars)), names, fontsize=8)
    right.set_yticks(range(len(bars)), [""] * len(bars))
    left.set_title(bars[0].hardware, fontsize=9, loc="left")
    legend_below(left)
    at = Path(path)
    save_figure(figure, at)
    write_csv(at.with_suffix(".csv"), [asdict(bar) for bar in bars])
    return at, at.with_suffix(".csv")


def _panel(axes: Axes, bars: Sequence[LatencyBar], told: Sequence[tuple[float, float]]) -> None:
    thick = min(0.7, 0.15 * len(bars) + 0.1)
    for i, (bar, (mean, worst)) in enumerate(zip(bars, told, strict=True)):
        cascade = bar.kind == "cascade"
        label = "cascade, average over rows" if cascade else "single model"
        axes.barh(i, 1000 * mean, height=thick, color=VERMILION if cascade else GREY, alpha=0.85, label=label)
        if cascade:
            axes.plot([1000 * mean, 1000 * worst], [i, i], color=VERMILION, lw=1.2, marker="|", label="at worst")
        axes.annotate(f" {1000 * mean:.3g}", (1000 * mean, i), xytext=(0, 7), textcoords="offset points", fontsize=8)
    axes.set_xlim(0, 1150 * max(worst for _, worst in told))
    axes.set_ylim(len(bars) - 0.4, -0.6)  # the first on top


@dataclass(frozen=True, slots=True)
class Exit:
    """The rows that left at one stage."""

    stage: int  # 1 is the first member
    member: str
    rows: int
    share: float  # of all rows
    accuracy: float | None  # of these rows; None without rows or labels
    cost: float | None  # of each of them


def draw_cascade_pictures(
    out: str | Path,
    frontier: Frontier,
    answers: CascadePredictions,
    *,
    plan: Plan | None = None,
    report: Mapping[str, Predictions] | None = None,
    images: Split | Sequence[Image] | None = None,
    members: Mapping[str, Member] | None = None,
) -> tuple[Path, ...]:
    """Draw everything about one cascade and the search it came from; all paths, each PNG with its CSV.

    Args:
        out: the folder: score_vs_cost, exits, reliability (for labelled answers), latency (where seconds were measured)
            and, with images, sheet.png.
        frontier: of the search.
        answers: the cascade's, as `plan.apply` gives them; best of rows that nothing was chosen on.
        plan: of the cascade, for the members' names.
        report: all members' predictions of rows that nothing was chosen on, by name: score_vs_cost is scored on them.
        images: of the rows of `answers`: a split, joined by row id, or the images in their order.
        members: the pool's, by name: with their measured seconds, and by their weights it is seen which are soups.
    Raises:
        PredictionsError: if there are no rows, or images and rows do not fit together.
    """
    at, stages = Path(out), plan.members if plan is not None else ()
    found = exits_of(answers, stages)
    soups = [name for name, member in (members or {}).items() if is_soup(member)]
    written = draw_cost_picture(cost_picture(frontier, plan=plan, report=report, soups=soups), at / "score_vs_cost.png")
    unit = (plan or frontier.best_single).unit
    written += draw_exits(found, at / "exits.png", unit=unit)
    if answers.labels is not None:
        written += draw_reliability(answers, at / "reliability.png")
    if plan is not None and members is not None:
        bars = latency_bars(plan, answers, members, beside=frontier.best_single.members)
        written += draw_latency(bars, at / "latency.png") if bars else ()
    if images is not None:
        written += (draw_sheet(images, answers, at / "sheet.png", stages=stages),)
    return written


def is_soup(member: Member) -> bool:
    """Whether a member's weights lie in a soup's folder."""
    return (Path(member.source) / (member.subfolder or "") / "soup.json").is_file()


def exits_of(answers: CascadePredictions, members: Sequence[str] = ()) -> tuple[Exit, ...]:
    """Rows, accuracy and cost by exit stage.

    Args:
        answers: of a cascade, at least one row.
        members: names by stage; stages that no row left at are told of too.
    Raises:
        PredictionsError: if there are no rows.
    """
    assert answers.exits is not None
    assert answers.costs is not None
    if not len(answers):
        raise PredictionsError("the cascade answered no rows, so there is no exit to show.")
    hit = None if answers.labels is None else answers.answers == answers.labels
    made = []
    for stage in range(int(max(answers.exits.max() + 1, len(members)))):
        inside = answers.exits == stage
        rows = int(inside.sum())
        made.append(
            Exit(
                stage + 1,
                members[stage] if stage < len(members) else "",
                rows,
                rows / len(answers),
                float(hit[inside].mean()) if hit is not None and rows else None,
                float(answers.costs[inside].mean()) if rows else None,
            )
        )
    return tuple(made)


def draw_exits(exits: Sequence[Exit], path: str | Path, *, unit: str = "") -> tuple[Path, ...]:
    """Write share of rows and accuracy by exit stage as PNG, and the numbers as CSV beside it; both paths."""
    figure, (left, right) = new_panels(2)
    at = list(range(len(exits)))
    thick = min(0.7, 0.15 * len(exits) + 0.1)
    left.barh(at, [100 * e.share for e in exits], height=thick, color=BLUE, alpha=0.8)
    for i, e in enumerate(exits):
        cost = "" if e.cost is None else f", {amount(e.cost) if e.cost >= 1 else format(e.cost, '.3g')} each"
        left.annotate(f" {100 * e.share:.1f}{cost}", (100 * e.share, i), va="center", fontsize=8)
    left.set_xlim(0, 135)  # room for the words
    left.set_xticks([0, 25, 50, 75, 100])
    left.set_xlabel("% of the rows" + (f"; cost: {UNITS.get(unit, unit)}" if unit else ""), fontsize=9)
    known = [(i, 100 * e.accuracy) for i, e in enumerate(exits) if e.accuracy is not None]
    right.barh([i for i, _ in known], [a for _, a in known], height=thick, color=GREEN, alpha=0.8)
    for i, accuracy in known:
        right.annotate(f" {accuracy:.1f}", (accuracy, i), va="center", fontsize=8)
    if known:
        whole = sum(100 * e.share * e.accuracy for e in exits if e.accuracy is not None)
        right.axvline(whole, color=VERMILION, lw=1.5, ls="--", label=f"all rows: {whole:.1f}")
    right.set_xlim(0, 115)
    right.set_xlabel("accuracy x 100 of the rows that left there", fontsize=9)
    left.set_yticks(at, [f"exit {e.stage}" + (f"\n{e.member}" if e.member else "") for e in exits], fontsize=8)
    right.set_yticks(at, [""] * len(exits))
    for axes in (left, right):
        axes.set_ylim(len(exits) - 0.4, -0.6)  # the first exit on top
    legend_below(right)
    to = Path(path)
    save_figure(figure, to)
    write_csv(to.with_suffix(".csv"), [asdict(e) for e in exits])
    return to, to.with_suffix(".csv")
