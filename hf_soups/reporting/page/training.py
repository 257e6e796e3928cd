"""Learning curves of runs, and what each soup is made of, step by step, on the page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from hf_soups.plots.canvas import TriedMixture, scale_of, unit_of
from hf_soups.reporting.cards.soups import short_names
from hf_soups.reporting.page.charts import curve_chart, step_chart
from hf_soups.reporting.page.html import Block, Cell, Chart, PageTable, Section, losses, page_table
from hf_soups.reporting.page.sources import ReportContent
from hf_soups.soups.soup_record import MAYBE_TRAINED_ON, SoupRecord
from hf_soups.wording import at_best_in_words, score_in_words

POINTS = 16  # of a loss that was recorded up to 200 times, and swings from batch to batch
Points = Sequence[tuple[float, float]]  # epoch, value


def curve_section(content: ReportContent) -> Section | None:
    """Score on select and loss of the sweep's runs, the best on select in bold; it says so where none is recorded."""
    if content.sweep is None:
        return None
    runs, metric = content.sweep.found.planned, content.sweep.board.metric
    best = content.sweep.board.best_name
    histories = {run.name: run.record.history for run in runs if run.record is not None and run.record.history}
    scores = {name: points for name, h in histories.items() if (points := score_points(h))}
    lost = {name: points for name, h in histories.items() if (points := loss_points(h))}
    charts = []
    if scores:
        words, axis = f"Score on select after each epoch, {unit_of(metric)}", f"select: {unit_of(metric)}"
        in_words = partial(score_in_words, metric=metric)
        charts.append(
            _chart(
                "curves-select",
                words,
                scores,
                axis,
                best,
                in_words,
                scale=scale_of(metric),
                lower=losses(metric, "value"),
            )
        )
    if lost:
        words = f"Training loss, means over at most {POINTS} parts of each run"
        charts.append(_chart("curves-loss", words, lost, "loss", best, "{:.3f}".format, lower=("value",)))
    blocks = [Block(charts=tuple(charts))]
    if not scores:
        blocks.append(Block(words=("No score on select was recorded while training.",)))
    lacking = [run.name for run in runs if run.name not in histories]
    if lacking:
        blocks.append(Block(words=(f"No learning curve is recorded for {', '.join(lacking)}.",)))
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
    count = min(POINTS, len(known))
    ends = [round(len(known) * (i + 1) / count) for i in range(count)]
    parts = [known[start:end] for start, end in itertools.pairwise([0, *ends])]
    return [(round(part[-1][0], 2), sum(loss for _, loss in part) / len(part)) for part in parts]


def _chart(
    name: str, words: str, curves: Mapping[str, Points], axis: str, best: str, in_words: Callable[[float], str],
    scale: float = 1.0, lower: Collection[str] = (),
) -> Chart:  # fmt: skip
    values: list[dict[str, Any]] = [
        {"run": run, "epoch": epoch, "value": scale * value, "shown": in_words(value), "best": run == best}
        for run, points in curves.items()
        for epoch, value in points
    ]
    marked = f" The bold line is {best}, the best on select." if best in curves else ""
    ends = ", ".join(f"{run} {in_words(p[0][1])} to {in_words(p[-1][1])}" for run, p in curves.items())
    text = f"{words}, a line for each of {len(curves)} runs.{marked} From the first to the last point: {ends}."
    spec = curve_chart(values, axis=axis, text=text, name=f"near_{name.replace('-', '_')}")
    rows = [[Cell.words(v["run"]), Cell(f"{v['epoch']:g}", v["epoch"]), Cell(v["shown"], v["value"])] for v in values]
    return Chart(
        name, words, text, spec, page_table(f"{name}-table", words, ("run", "epoch", "value"), rows, lower=lower)
    )


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def soup_section(content: ReportContent) -> Section | None:
    """What each soup is made of; without soups it says how to cook some."""
    if content.sweep is None:
        return None
    soups = content.sweep.found.soup_records
    if not soups:
        words = (
            f"No soup was cooked from this sweep. hf-soups cook {content.sweep.folder} --method greedy --out ... makes "
            "one."
        )
        return Section("soups", "Soups", (Block(words=(words,)),))
    alone = {row.name: row.select for row in content.sweep.board.scored if row.kind == "run" and row.select is not None}
    blocks = [_block(f"soup-{number}", name, record, alone) for number, (name, record) in enumerate(soups.items(), 1)]
    return Section("soups", "Soups", tuple(blocks))


def _block(name: str, title: str, record: SoupRecord, alone: Mapping[str, float]) -> Block:
    tried = _tried(record)
    chart = (_steps(name, record, tried),) if tried else ()
    return Block(
        title, words=_words(record, tried), charts=chart, table=_ingredients(name, title, record, alone), folded=True
    )


def _words(record: SoupRecord, tried: Sequence[TriedMixture]) -> tuple[str, ...]:
    models, kept, metric = len(record.models), len(record.ingredients), record.metric
    start = " and the start" if models < kept else ""
    words = [f"Method {record.method or 'by hand'}: {models} of {len(record.pool) or kept} models{start}."]
    if tried:
        joined = sum(t.was != "rejected" for t in tried)
        on = record.selected_on or ""
        words.append(f"{len(tried)} mixtures were tried on the {_rows(record)} {on} rows; {joined} kept.")
    best = record.best_single
    if best is not None and record.score is not None and metric is not None:
        words.append(
            f"On {record.selected_on} it scores {score_in_words(record.score, metric)}, the best single model "
            f"({best.name}) {score_in_words(best.score, metric)}."
        )
    if record.optimistic:
        words.append("It was chosen on the report rows, so its report score is too good.")
    if record.select_optimistic:
        words.append(f"{MAYBE_TRAINED_ON[0].upper()}{MAYBE_TRAINED_ON[1:]}.")
    return (" ".join(words), *record.whys)


def _rows(record: SoupRecord) -> str:
    return str(record.select_rows or "?")


def _steps(name: str, record: SoupRecord, tried: Sequence[TriedMixture]) -> Chart:
    metric = record.metric or "score"
    scale, rows, on = scale_of(metric), _rows(record), record.selected_on or "select"
    values = [
        {
            "step": number,
            "candidate": t.candidate,
            "score": scale * t.score,
            "best": scale * t.best_so_far,
            "kind": "rejected early" if t.at_best else t.was,
            "shown": _shown(t, metric),
        }
        for number, t in enumerate(tried, 1)
    ]
    joined = [t.candidate for t in tried if t.was == "kept"]
    words = f"Score of each mixture that was tried, {rows} {on} rows"
    text = (
        f"{words}. Kept, in this order: {', '.join(joined) or 'none'}. The score went from {values[0]['shown']} to "
        f"{score_in_words(tried[-1].best_so_far, metric)}."
    )
    if any(t.at_best for t in tried):
        text += " Of those rejected early a bound is shown: they could not join any more, and were scored no further."
    spec = step_chart(values, axis=f"{on}: {unit_of(metric)}", text=text)
    cells = [
        [
            Cell(str(number), number),
            Cell.words(t.candidate),
            Cell.words(t.was),
            Cell(str(t.ingredients), t.ingredients),
            Cell(_shown(t, metric), t.score),
            Cell(score_in_words(t.best_so_far, metric), t.best_so_far),
        ]
        for number, t in enumerate(tried, 1)
    ]
    titles = ("step", "candidate", "was", "ingredients", "score", "best so far")
    return Chart(
        f"{name}-steps",
        words,
        text,
        spec,
        page_table(f"{name}-steps-table", words, titles, cells, left=3, lower=losses(metric, *titles[-2:])),
    )


def _tried(record: SoupRecord) -> list[TriedMixture]:
    """The mixtures whose score can be drawn: NaN became null in the file."""
    short, tried = short_names(record), []
    for step in record.steps:
        at_best = _finite(step.at_best)
        score, best = _finite(step.score) if at_best is None else at_best, _finite(step.best_so_far)
        if score is not None:
            was = "rejected" if not step.accepted else "taken out" if step.removes else "kept"
            name, best = short.get(step.candidate, step.candidate), score if best is None else best
            tried.append(TriedMixture(name, step.ingredients, score, best, was, at_best is not None))
    return tried


def _shown(tried: TriedMixture, metric: str) -> str:
    return (at_best_in_words if tried.at_best else score_in_words)(tried.score, metric)


def _ingredients(name: str, title: str, record: SoupRecord, alone: Mapping[str, float]) -> PageTable:
    """Each ingredient with its own score; of soups that chose nothing, such as uniform, that of the leaderboard."""
    known_alone = alone if record.selected_on in (None, "", "select") else {}
    singles = {**known_alone, **(record.scores.get("singles") or {})}
    metric, on = record.metric or "", record.selected_on or "select"
    short, rows = short_names(record), []
    for ingredient in record.ingredients:
        who, share = short[ingredient.name], ingredient.coefficient
        known = _finite(singles.get(ingredient.name, known_alone.get(who)))
        scored = Cell(score_in_words(known, metric) if known is not None else "-", known)
        rows.append([Cell.words(who), Cell(f"{share:.4g}", share), scored])
    mean = " (mean over all tensors)" if record.coefficients_by_tensor is not None else ""
    caption = f"{title}: ingredients"
    return page_table(
        f"{name}-table",
        caption,
        ("ingredient", f"coefficient{mean}", f"alone on {on}"),
        rows,
        lower=losses(metric, f"alone on {on}"),
    )


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
