"""Charts by Altair as Vega-Lite specifications: colours and shapes by kind, as wide as their place in the page.

Colours are those of page.css, which follow light and dark. In all values `shown` is the score, share or loss in words.

Every view and parameter is named here: Altair would count them, and the second report of a process would differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_soups.costs import UNITS
from hf_soups.plots.costs import spans_decades
from hf_soups.plots.looks import BLUE, GREEN, GREY, PURPLE, STYLES, VERMILION

if TYPE_CHECKING:
    import altair

Values = Sequence[Mapping[str, Any]]

ON_PAGE = {GREY: "var(--grey)", BLUE: "var(--blue)", VERMILION: "var(--vermilion)", GREEN: "var(--green)",
           PURPLE: "var(--purple)"}  # fmt: skip
SHAPES = {"o": "circle", "D": "diamond", "^": "triangle-up", "s": "square"}
# kind -> (colour of page.css, shape): either tells them apart
LOOKS = {
    **{kind: (ON_PAGE[colour], SHAPES[marker]) for kind, (marker, colour, _) in STYLES.items()},  # as in the PNGs
    "single": ("var(--grey)", "circle"),
    "kept": ("var(--vermilion)", "diamond"),
    "taken out": ("var(--green)", "triangle-down"),
    "rejected": ("var(--grey)", "cross"),
    "rejected early": ("var(--grey)", "square"),
}
STEP = 24  # pixels of a line in a chart of lines
ROOM = 36  # pixels beside the cheapest and the most expensive point, for half of a name
NEAR = 300  # square pixels around a point that answer the pointer
NAMED = 8  # single models that are named at their points; more names would cover one another
FEW = 6  # values of a setting that are all written at the axis
CELL = 24  # pixels of a class in a confusion matrix
LABEL = 122  # pixels of a name beside an axis
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "autosize": {"type": "fit-x", "contains": "padding", "resize": True},
    "axis": {
        "labelColor": "var(--soft)", "titleColor": "var(--ink)", "gridColor": "var(--line)",
        "domainColor": "var(--line)", "tickColor": "var(--line)", "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": "var(--ink)", "labelFontSize": 12, "labelLimit": 220, "symbolSize": 80, "symbolOpacity": 1,
    },
}  # fmt: skip


def _chart_of(alt: Any, values: Values, *described_by: str) -> altair.Chart:
    """A chart of these values, without a mark; `alt` is what a screen reader says of each."""
    rows = [{**v, "alt": ", ".join(str(v[key]) for key in described_by)} if described_by else dict(v) for v in values]
    made: altair.Chart = alt.Chart(alt.Data(values=rows))
    return made


def _looks(alt: Any, values: Values) -> dict[str, Any]:
    """Colours and shapes of the kinds that there are, in one legend below."""
    used = [kind for kind in LOOKS if any(v["kind"] == kind for v in values)]
    colours, shapes = (alt.Scale(domain=used, range=[LOOKS[kind][part] for kind in used]) for part in (0, 1))
    legend = alt.Legend(title=None, orient="bottom", columns=2)
    color, shape = alt.Color("kind:N", scale=colours, legend=legend), alt.Shape("kind:N", scale=shapes, legend=legend)
    return {"color": color, "shape": shape}


def _tooltips(alt: Any, axis: str) -> list[Any]:
    return [alt.Tooltip("name:N", title="model"), alt.Tooltip("kind:N"), alt.Tooltip("shown:N", title=axis)]


def _snug(alt: Any) -> Any:
    """A scale just around the values."""
    return alt.Scale(zero=False, nice=False, padding=14)


def _names(alt: Any, values: Values) -> Any:
    """A line for each name, in their order."""
    axis = alt.Axis(title=None, labelLimit=LABEL, labelFontSize=11, ticks=False, domain=False, labelPadding=6)
    return alt.Y("name:N", sort=None, scale=alt.Scale(domain=[v["name"] for v in values]), axis=axis)


def _spec_of(chart: Any, text: str, *, height: float) -> dict[str, Any]:
    """The specification as wide as its place in the page, without the address of its schema."""
    sized = chart.properties(width="container", height=height, description=text)
    # a test checks every kind of chart against Vega-Lite's schema; here that would take as long as all the rest
    spec: dict[str, Any] = sized.configure(**_CONFIG).to_dict(validate=False)
    spec.pop("$schema", None)  # an address, though nothing would be loaded from it
    return spec


def interval_chart(values: Values, *, axis: str, text: str) -> dict[str, Any]:
    """Scores with intervals, a line for each name.

    Args:
        values: name, kind, score, low, high, and `shown`.
        axis: the title of the scores.
        text: what the chart shows.
    """
    import altair as alt

    y = _names(alt, values)
    base = _chart_of(alt, values, "name", "kind", "shown")
    lines = base.mark_rule(strokeWidth=2, opacity=0.55, aria=False).encode(
        x=alt.X("low:Q", title=axis, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=7)), x2="high:Q", y=y,
        color=_looks(alt, values)["color"],
    )  # fmt: skip
    points = base.mark_point(size=70, filled=True, opacity=1).encode(
        x="score:Q", y=y, **_looks(alt, values), tooltip=_tooltips(alt, axis),
        description="alt:N",
    )  # fmt: skip
    return _spec_of(alt.layer(lines, points), text, height=STEP * len(values) + 8)


def cost_chart(values: Values, stairs: Values, *, axis: str, unit: str, text: str) -> dict[str, Any]:
    """Scores against costs.

    Args:
        values: name, kind, cost, score, `shown`, and `costs` in words; `low` and `high` where they are known, and
            `chosen` for a ring around the point.
        stairs: cost and score of the best within each cost.
        axis: the title of the scores.
        unit: of the costs.
        text: what the chart shows.
    """
    import altair as alt

    y = alt.Y("score:Q", title=axis, scale=_snug(alt))
    where = {"x": _cost_axis(alt, [v["cost"] for v in values], unit), "y": y}
    stair = _chart_of(alt, stairs).mark_line(interpolate="step-after", color="var(--blue)", strokeWidth=1.5, aria=False)
    tooltip = [*_tooltips(alt, axis), alt.Tooltip("costs:N", title="cost"), alt.Tooltip("exits:N", title="exits at")]
    base = _chart_of(alt, values, "name", "kind", "shown", "costs")
    points = base.mark_point(size=75, filled=True, opacity=0.9, stroke="var(--surface)", strokeWidth=0.7).encode(
        **where, **_looks(alt, values), tooltip=tooltip, description="alt:N"
    )
    layers = [stair.encode(**where), *_bars(alt, values, where["x"], axis), points]
    singles = [v for v in values if v["kind"] == "single"]
    if 0 < len(singles) <= NAMED:
        names = _chart_of(alt, _at_one_place(singles)).mark_text(dy=15, limit=2 * ROOM, color="var(--soft)", aria=False)
        layers.append(names.encode(**where, text="name:N"))
    if rings := [v for v in values if v.get("chosen")]:
        ring = _chart_of(alt, rings).mark_point(size=320, filled=False, color="var(--ink)", strokeWidth=1.8, aria=False)
        layers.append(ring.encode(**where))
    return _spec_of(alt.layer(*layers), text, height=340)


def _at_one_place(values: Values) -> list[dict[str, Any]]:
    """The values with one name for all that are at the same cost and score: names would be over each other."""
    places: dict[tuple[float, float], list[Mapping[str, Any]]] = {}
    for v in values:
        places.setdefault((v["cost"], v["score"]), []).append(v)
    return [{**same[0], "name": ", ".join(v["name"] for v in same)} for same in places.values()]


def _cost_axis(alt: Any, costs: Sequence[float], unit: str) -> Any:
    of_scale: dict[str, Any] = (
        {"type": "log"} if spans_decades(costs) else {"type": "linear", "zero": False}
    )  # Vega warns of both
    return alt.X(
        "cost:Q",
        title=f"{UNITS.get(unit, unit or 'cost')}, average",
        scale=alt.Scale(**of_scale, padding=ROOM, nice=False),
        axis=alt.Axis(format=".4~s" if min(costs) >= 1 else "~g", tickCount=5, labelOverlap=True),
    )


def _bars(alt: Any, values: Values, x: Any, axis: str) -> Iterator[Any]:
    """The intervals of scores, where they are known."""
    known = [v for v in values if "low" in v]
    if known:
        bars = _chart_of(alt, known).mark_rule(strokeWidth=1.5, opacity=0.35, aria=False)
        yield bars.encode(x=x, y=alt.Y("low:Q", title=axis), y2="high:Q", color=_looks(alt, values)["color"])


def curve_chart(values: Values, *, axis: str, text: str, name: str) -> dict[str, Any]:
    """A line for each run over epochs; the best stands out, and so does the one that the pointer is on.

    Args:
        values: run, epoch, value, `shown`, the value in words, and whether the run is the `best`.
        axis: the title of the values.
        text: what the chart shows.
        name: of the parameter, unique in the page.
    """
    import altair as alt

    # not `nearest`: under it Vega-Lite tells of a run's name that it is undefined
    near = alt.selection_point(name=name, fields=["run"], on="pointerover", clear="pointerout", empty=False)
    is_best = alt.datum.best
    last = math.ceil(max(v["epoch"] for v in values))
    ticks = list(range(0, last + 1, max(1, math.ceil(last / 6))))  # at most seven whole numbers
    base = _chart_of(alt, values).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=ticks, format="d")),
        y=alt.Y("value:Q", title=axis, scale=alt.Scale(zero=False)),
    )
    lines = base.mark_line(aria=False, point={"filled": True, "size": 14, "aria": False}).encode(
        detail="run:N",
        color=alt.when(is_best).then(alt.value("var(--blue)")).otherwise(alt.value("var(--grey)")),
        strokeWidth=alt.when(near).then(alt.value(3.5)).when(is_best).then(alt.value(2.5)).otherwise(alt.value(1.2)),
        opacity=alt.when(near).then(alt.value(1)).when(is_best).then(alt.value(1)).otherwise(alt.value(0.55)),
    )
    points = base.mark_point(filled=True, opacity=0, size=NEAR, aria=False).encode(
        tooltip=[alt.Tooltip("run:N"), alt.Tooltip("epoch:Q", format="~g"), alt.Tooltip("shown:N", title=axis)]
    )
    # shown or not, never filtered: of no points Vega warns that their extent is infinite
    marked = base.mark_point(filled=True, size=45, color="var(--ink)", aria=False).encode(
        opacity=alt.when(near).then(alt.value(1)).otherwise(alt.value(0))
    )
    return _spec_of(alt.layer(lines, marked, points.add_params(near)), text, height=260)


def setting_chart(
    values: Values, *, title: str, axis: str, text: str, numbers: bool, log: bool = False
) -> dict[str, Any]:
    """Scores of runs against one of their settings, a point for each run.

    Args:
        values: name, kind ("run" or "best on select"), setting, `value` (the setting in words), score, shown.
        title: of the setting.
        axis: the title of the scores.
        text: what the chart shows.
        numbers: whether the setting is a number; else each of its values is a place on the axis.
        log: whether the numbers' axis is logarithmic.
    """
    import altair as alt

    if numbers:
        distinct = sorted({v["setting"] for v in values})
        ticks: dict[str, Any] = {"values": distinct} if len(distinct) <= FEW else {"tickCount": 5}
        of_scale: dict[str, Any] = {"type": "log"} if log else {"type": "linear", "zero": False}
        places = alt.Scale(**of_scale, padding=14, nice=False)
        x = alt.X("setting:Q", title=title, scale=places, axis=alt.Axis(format=".4~g", labelOverlap=True, **ticks))
    else:
        x = alt.X("setting:N", title=title, axis=alt.Axis(labelAngle=0, labelLimit=LABEL, labelOverlap=True))
    colours = [LOOKS[kind][0] for kind in ("run", "best on select")]
    scale = alt.Scale(domain=["run", "best on select"], range=colours)
    points = _chart_of(alt, values, "name", "value", "shown").mark_point(size=70, filled=True, opacity=0.8).encode(
        x=x, y=alt.Y("score:Q", title=axis, scale=_snug(alt), axis=alt.Axis(tickCount=5)),
        color=alt.Color("kind:N", scale=scale, legend=alt.Legend(title=None, orient="bottom")),
        tooltip=[alt.Tooltip("name:N", title="run"), alt.Tooltip("value:N", title=title),
                 alt.Tooltip("shown:N", title=axis)],
        description="alt:N",
    )  # fmt: skip
    return _spec_of(points, text, height=220)


def confusion_chart(values: Values, *, names: Sequence[str], text: str) -> dict[str, Any]:
    """Labels against answers: how many rows of each pair, coloured by their share of the label's rows.

    Args:
        values: label, answer, rows, `share` of the label's rows in percent, and whether it is `right`.
        names: of the classes, in order.
        text: what the chart shows.
    """
    import altair as alt

    axis: dict[str, Any] = {"labelLimit": 80, "labelOverlap": False, "ticks": False, "domain": False}
    scale = alt.Scale(domain=list(names))
    base = _chart_of(alt, values, "label", "answer", "rows").encode(
        x=alt.X("answer:N", sort=None, scale=scale, title="answer", axis=alt.Axis(labelAngle=-40, **axis)),
        y=alt.Y("label:N", sort=None, scale=scale, title="label", axis=alt.Axis(**{**axis, "labelLimit": LABEL})),
    )
    colour = alt.when(alt.datum.right).then(alt.value("var(--green)")).otherwise(alt.value("var(--bad)"))
    # pale enough at 100% for the numbers on it to be read, dark enough at one row to be seen
    opacity = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 100], range=[0.08, 0.6]), legend=None)
    cells = base.mark_rect(stroke="var(--line)").encode(
        color=colour, opacity=opacity, description="alt:N",
        tooltip=[alt.Tooltip("label:N"), alt.Tooltip("answer:N"), alt.Tooltip("rows:Q"),
                 alt.Tooltip("share:Q", title="% of the label", format=".1f")],
    )  # fmt: skip
    numbers = base.mark_text(color="var(--ink)", fontSize=11 if len(names) <= 12 else 9, aria=False)
    layers = alt.layer(cells, numbers.encode(text="rows:Q"))
    return _spec_of(layers, text, height=max(CELL * len(names), 120))


def step_chart(values: Values, *, axis: str, text: str) -> dict[str, Any]:
    """Scores of the mixtures that were tried, one after another, and the best so far.

    Args:
        values: step, candidate, score, best, kind ("kept", "rejected", "rejected early" or "taken out"), shown.
        axis: the title of the scores.
        text: what the chart shows.
    """
    import altair as alt

    x = alt.X("step:Q", title="mixture tried", axis=alt.Axis(tickMinStep=1, format="d"), scale=_snug(alt))
    y = alt.Y("score:Q", title=axis, scale=_snug(alt))
    base = _chart_of(alt, values, "candidate", "kind", "shown")
    best = base.mark_line(interpolate="step-after", color="var(--vermilion)", strokeWidth=1.5, aria=False)
    tooltip = [
        alt.Tooltip("step:Q"), alt.Tooltip("candidate:N"), alt.Tooltip("shown:N", title=axis),
        alt.Tooltip("kind:N", title="was"),
    ]  # fmt: skip
    points = base.mark_point(size=80, filled=True, opacity=1).encode(
        x=x, y=y, **_looks(alt, values), tooltip=tooltip, description="alt:N"
    )
    return _spec_of(alt.layer(best.encode(x=x, y=alt.Y("best:Q", title=axis)), points), text, height=260)


def bar_chart(values: Values, *, axis: str, colour: str, text: str, line: float | None = None) -> dict[str, Any]:
    """Horizontal bars from 0 to 100, a line for each name.

    Args:
        values: name, value, and `shown`, the value in words, at the bar's end.
        axis: the title of the values.
        colour: one of page.css, such as "var(--blue)".
        text: what the chart shows.
        line: a value to mark across all bars.
    """
    import altair as alt

    y = _names(alt, values)
    shown = alt.Axis(values=[0, 25, 50, 75, 100])
    x = alt.X("value:Q", title=axis, scale=alt.Scale(domain=[0, 125], nice=False), axis=shown)  # room for the words
    base = _chart_of(alt, values, "name", "shown").encode(y=y, x=x)
    bars = base.mark_bar(color=colour, height={"band": 0.55}).encode(
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("shown:N", title=axis)], description="alt:N"
    )
    layers: list[Any] = [
        bars,
        base.mark_text(align="left", dx=5, color="var(--ink)", aria=False).encode(text="shown:N"),
    ]
    if line is not None:
        rule = _chart_of(alt, [{"value": line}]).mark_rule(color="var(--ink)", strokeDash=[4, 3], aria=False)
        layers.append(rule.encode(x=x))
    return _spec_of(alt.layer(*layers), text, height=STEP * 1.6 * len(values) + 8)
