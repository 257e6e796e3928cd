"""Latency bars: seconds of an example, measured member by member, of single models and of a cascade of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.pool.member import Member
from hf_soups.report.plots import GREY, VERMILION, legend_below, new_panels, save_figure
from hf_soups.report.table import write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
