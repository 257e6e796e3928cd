"""Soups on the page: what each is made of and, step by step, what greedy tried, kept and left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_soups.report.cards.soups import short_names
from hf_soups.report.page.charts import step_chart
from hf_soups.report.page.parts import Block, Cell, Chart, Section, Table, plain_table
from hf_soups.report.plots import scale_of, unit_of
from hf_soups.report.words import score_in_words

Record = Mapping[str, Any]  # what soup.json holds


def soup_section(soups: Mapping[str, Record], sweep: str) -> Section:
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


def _block(name: str, title: str, record: Record) -> Block:
    steps = [step for step in record.get("steps") or () if _score(step) is not None]
    chart = (_steps(name, title, record, steps),) if steps else ()
    return Block(title, words=_words(record, steps), charts=chart, table=_ingredients(name, title, record), folded=True)


def _words(record: Record, steps: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    metric, on = str(record.get("metric") or ""), str(record.get("selected_on") or "")
    pool, kept = record.get("pool") or (), record.get("ingredients") or ()
    models = [i for i in kept if not pool or i.get("name") in pool]
    start = " and the start" if len(models) < len(kept) else ""
    told = [f"Method {record.get('method') or 'by hand'}: {len(models)} of {len(pool) or len(kept)} models{start}."]
    if steps:
        joined = sum(bool(step.get("accepted")) for step in steps)
        told.append(
            f"{len(steps)} mixtures were tried on the {record.get('select_rows', '?')} {on} rows; {joined} kept."
        )
    best = record.get("best_single") or {}
    mine = ((record.get("scores") or {}).get(on) or {}).get(metric)
    if best and mine is not None:
        told.append(
            f"On {on} it scores {score_in_words(mine, metric)}, the best single model ({best.get('name')}) "
            f"{score_in_words(best.get('score'), metric)}."
        )
    if record.get("optimistic"):
        told.append("It was chosen on the report rows, so its report score is too good.")
    why = [record.get("why"), (record.get("learned") or {}).get("why"), record.get("batchnorm_why")]
    return (" ".join(told), *(str(w) for w in why if w))


def _steps(name: str, title: str, record: Record, steps: Sequence[Mapping[str, Any]]) -> Chart:
    metric = str(record.get("metric") or "score")
    scale, rows, on = scale_of(metric), record.get("select_rows", "?"), record.get("selected_on") or "select"
    short, values = short_names(record), list[dict[str, Any]]()
    for number, step in enumerate(steps, 1):
        score = _score(step)
        assert score is not None
        best = _finite(step.get("best_so_far"))
        value = {"step": number, "candidate": _named(step, short), "score": scale * score, "was": _was(step)}
        told = {"best": scale * (score if best is None else best), "told": score_in_words(score, metric)}
        values.append({**value, **told, "ingredients": int(step.get("ingredients") or 0)})
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


def _ingredients(name: str, title: str, record: Record) -> Table:
    singles = (record.get("scores") or {}).get("singles") or {}
    metric, on = str(record.get("metric") or ""), record.get("selected_on") or "select"
    short, rows = short_names(record), []
    for told in record.get("ingredients") or ():
        who, share = short[told["name"]], float(told.get("coefficient") or 0)
        known = _finite(singles.get(told["name"]))
        scored = Cell(score_in_words(known, metric) if known is not None else "-", known)
        rows.append([Cell.words(who), Cell(f"{share:.4g}", share), scored])
    mean = " (mean over all tensors)" if "coefficients_by_tensor" in record else ""
    caption = f"{title}: ingredients"
    return plain_table(f"{name}-table", caption, ("ingredient", f"coefficient{mean}", f"alone on {on}"), rows)


def _named(step: Mapping[str, Any], short: Mapping[str, str]) -> str:
    name = str(step.get("candidate"))
    return short.get(name, name)


def _was(step: Mapping[str, Any]) -> str:
    if not step.get("accepted"):
        return "rejected"
    return "taken out" if step.get("removes") else "kept"


def _score(step: Any) -> float | None:
    return _finite(step.get("score")) if isinstance(step, Mapping) else None


def _finite(value: Any) -> float | None:
    """A score that can be drawn: NaN became null in the file."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
