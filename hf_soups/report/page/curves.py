"""Learning curves of runs on the page: the score on select where it was looked at, and the loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_soups.cook.pool import Run
from hf_soups.report.page.charts import curve_chart
from hf_soups.report.page.parts import Block, Cell, Chart, Section, Table, plain_table
from hf_soups.report.plots import scale_of, unit_of
from hf_soups.report.words import score_in_words

POINTS = 16  # of a loss that was recorded up to 200 times, and swings from batch to batch
Points = Sequence[tuple[float, float]]  # epoch, value


def curve_section(runs: Sequence[Run], *, metric: str, best: str) -> Section:
    """The section; where no run recorded its course, it says so.

    Args:
        runs: of the sweep, finished or not.
        metric: that select was scored by.
        best: the run that is the best on select; it stands out.
    """
    histories = {run.name: run.record.history for run in runs if run.record is not None and run.record.history}
    scores = {name: points for name, h in histories.items() if (points := score_points(h))}
    losses = {name: points for name, h in histories.items() if (points := loss_points(h))}
    blocks = []
    if scores:
        words = f"Score on select after each epoch, {unit_of(metric)}"
        scaled = {name: [(e, scale_of(metric) * v) for e, v in points] for name, points in scores.items()}
        told = {name: [score_in_words(v, metric) for _, v in points] for name, points in scores.items()}
        blocks.append(Block(charts=(_chart("curves-select", words, scaled, told, f"select: {unit_of(metric)}", best),)))
    else:
        blocks.append(Block(words=("No score on select was looked at while training.",)))
    if losses:
        words = f"Training loss, means over at most {POINTS} parts of each run"
        told = {name: [f"{v:.3f}" for _, v in points] for name, points in losses.items()}
        blocks.append(Block(charts=(_chart("curves-loss", words, losses, told, "loss", best),)))
    lacking = [run.name for run in runs if run.name not in histories]
    if lacking:
        blocks.append(Block(words=(f"No course of training is recorded for {', '.join(lacking)}.",)))
    return Section("curves", "Learning curves", tuple(blocks))


def score_points(history: Sequence[Mapping[str, Any]]) -> Points:
    """Epoch and score on select, wherever that was looked at."""
    found, epoch = [], 0.0
    for point in history:
        epoch = _number(point.get("epoch"), epoch)
        score = _number(point.get("select"), math.nan)
        if math.isfinite(score):
            found.append((round(epoch, 2), score))
    return found


def loss_points(history: Sequence[Mapping[str, Any]]) -> Points:
    """The loss in at most `POINTS` means over consecutive records, each at the epoch of the last of them."""
    known = [(_number(p.get("epoch"), math.nan), _number(p.get("loss"), math.nan)) for p in history]
    known = [(epoch, loss) for epoch, loss in known if math.isfinite(epoch) and math.isfinite(loss)]
    ends = (
        [round(len(known) * (i + 1) / POINTS) for i in range(POINTS)]
        if len(known) > POINTS
        else range(1, len(known) + 1)
    )
    parts = [known[start:end] for start, end in itertools.pairwise([0, *ends])]
    return [(round(part[-1][0], 2), sum(loss for _, loss in part) / len(part)) for part in parts]


def _chart(
    name: str, words: str, curves: Mapping[str, Points], told: Mapping[str, Sequence[str]], axis: str, best: str
) -> Chart:
    values = [
        {"run": run, "epoch": epoch, "value": value, "told": text, "best": run == best}
        for run, points in curves.items()
        for (epoch, value), text in zip(points, told[run], strict=True)
    ]
    marked = f" The bold line is {best}, the best on select." if best in curves else ""
    ends = ", ".join(f"{run} {told[run][0]} to {told[run][-1]}" for run in curves)
    text = f"{words}, a line for each of {len(curves)} runs.{marked} From the first to the last point: {ends}."
    spec = curve_chart(values, axis=axis, text=text, name=f"near_{name.replace('-', '_')}")
    return Chart(name, words, text, spec, _table(name, words, values))


def _table(name: str, words: str, values: Sequence[Mapping[str, Any]]) -> Table:
    rows = [[Cell.words(v["run"]), Cell(f"{v['epoch']:g}", v["epoch"]), Cell(v["told"], v["value"])] for v in values]
    return plain_table(f"{name}-table", words, ("run", "epoch", "value"), rows)


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
