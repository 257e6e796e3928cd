"""Learning curves of runs, and what each soup is made of, step by step, on the page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_soups.plots.canvas import scale_of, unit_of
from hf_soups.report.cards.soups import short_names
from hf_soups.report.page.charts import curve_chart, step_chart
from hf_soups.report.page.html import Block, Cell, Chart, PageTable, Section, plain_table
from hf_soups.soups.soup_record import SoupRecord, StepRecord
from hf_soups.sweep.folder import Run
from hf_soups.wording import score_in_words

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


def _table(name: str, words: str, values: Sequence[Mapping[str, Any]]) -> PageTable:
    rows = [[Cell.words(v["run"]), Cell(f"{v['epoch']:g}", v["epoch"]), Cell(v["told"], v["value"])] for v in values]
    return plain_table(f"{name}-table", words, ("run", "epoch", "value"), rows)


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def soup_section(soups: Mapping[str, SoupRecord], sweep: str) -> Section:
    """The section; without soups it says how to cook some.

    Args:
        soups: the records by the soups' names.
        sweep: its folder, as the user names it.
    """
    if not soups:
        words = f"No soup was cooked from this sweep. hf-soups cook {sweep} --method greedy --out ... makes one."
        return Section("soups", "Soups", (Block(words=(words,)),))
    blocks = [_block(f"soup-{number}", name, record) for number, (name, record) in enumerate(soups.items(), 1)]
    return Section("soups", "Soups", tuple(blocks))


def _block(name: str, title: str, record: SoupRecord) -> Block:
    steps = [step for step in record.steps if _finite(step.score) is not None]
    chart = (_steps(name, title, record, steps),) if steps else ()
    return Block(title, words=_words(record, steps), charts=chart, table=_ingredients(name, title, record), folded=True)


def _words(record: SoupRecord, steps: Sequence[StepRecord]) -> tuple[str, ...]:
    models, pool, kept = len(record.models), len(record.pool), len(record.ingredients)
    start = " and the start" if models < kept else ""
    told = [f"Method {record.method or 'by hand'}: {models} of {pool or kept} models{start}."]
    if steps:
        joined = sum(step.accepted for step in steps)
        told.append(
            f"{len(steps)} mixtures were tried on the {_rows(record)} {record.selected_on or ''} rows; {joined} kept."
        )
    best, metric = record.best_single, record.metric
    if best is not None and record.score is not None and metric is not None:
        told.append(
            f"On {record.selected_on} it scores {score_in_words(record.score, metric)}, the best single model "
            f"({best.name}) {score_in_words(best.score, metric)}."
        )
    if record.optimistic:
        told.append("It was chosen on the report rows, so its report score is too good.")
    return (" ".join(told), *record.whys)


def _steps(name: str, title: str, record: SoupRecord, steps: Sequence[StepRecord]) -> Chart:
    metric = record.metric or "score"
    scale, rows, on = scale_of(metric), _rows(record), record.selected_on or "select"
    short, values = short_names(record), list[dict[str, Any]]()
    for number, step in enumerate(steps, 1):
        score, best = _finite(step.score), _finite(step.best_so_far)
        assert score is not None
        value = {
            "step": number,
            "candidate": short.get(step.candidate, step.candidate),
            "score": scale * score,
            "was": _was(step),
        }
        told = {"best": scale * (score if best is None else best), "told": score_in_words(score, metric)}
        values.append({**value, **told, "ingredients": step.ingredients})
    joined = [v["candidate"] for v in values if v["was"] == "kept"]
    words = f"Score of each mixture that was tried, {rows} {on} rows"
    text = (
        f"{words}. Kept, in this order: {', '.join(joined) or 'none'}. The score went from {values[0]['told']} to "
        f"{score_in_words(values[-1]['best'] / scale, metric)}."
    )
    spec = step_chart(values, axis=f"{on}: {unit_of(metric)}", text=text)
    cells = [
        [
            Cell(str(v["step"]), v["step"]), Cell.words(v["candidate"]), Cell.words(v["was"]),
            Cell(str(v["ingredients"]), v["ingredients"]), Cell(v["told"], v["score"]),
            Cell(score_in_words(v["best"] / scale, metric), v["best"]),
        ]
        for v in values
    ]  # fmt: skip
    titles = ("step", "candidate", "was", "ingredients", "score", "best so far")
    return Chart(f"{name}-steps", words, text, spec, plain_table(f"{name}-steps-table", words, titles, cells, left=3))


def _ingredients(name: str, title: str, record: SoupRecord) -> PageTable:
    singles = record.scores.get("singles") or {}
    metric, on = record.metric or "", record.selected_on or "select"
    short, rows = short_names(record), []
    for told in record.ingredients:
        who, share = short[told.name], told.coefficient
        known = _finite(singles.get(told.name))
        scored = Cell(score_in_words(known, metric) if known is not None else "-", known)
        rows.append([Cell.words(who), Cell(f"{share:.4g}", share), scored])
    mean = " (mean over all tensors)" if record.coefficients_by_tensor is not None else ""
    caption = f"{title}: ingredients"
    return plain_table(f"{name}-table", caption, ("ingredient", f"coefficient{mean}", f"alone on {on}"), rows)


def _rows(record: SoupRecord) -> str:
    return str(record.select_rows or "?")


def _was(step: StepRecord) -> str:
    if not step.accepted:
        return "rejected"
    return "taken out" if step.removes else "kept"


def _finite(value: Any) -> float | None:
    """A score that can be drawn: NaN became null in the file."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
