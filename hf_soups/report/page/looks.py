"""How charts look: colours and shapes by kind, sizes, and a specification as wide as its place in the page.

Colours are those of page.css, which follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair

Values = Sequence[Mapping[str, Any]]

# kind -> (colour of page.css, shape): told apart by either
LOOKS = {
    "run": ("var(--grey)", "circle"),
    "single": ("var(--grey)", "circle"),
    "best on select": ("var(--blue)", "circle"),
    "soup": ("var(--vermilion)", "diamond"),
    "ensemble": ("var(--green)", "triangle-up"),
    "cascade": ("var(--purple)", "square"),
}
WIDE = 5.0  # costs that differ by more than this factor stand on a logarithmic axis
STEP = 24  # pixels of a line in a chart of lines
ROOM = 36  # pixels beside the cheapest and the most expensive point, for half of a name
NEAR = 300  # square pixels around a point that answer the pointer
NAMED = 8  # single models whose names stand at their points; more would cover one another
LABEL = 122  # pixels of a name beside an axis


def chart_of(alt: Any, values: Values) -> altair.Chart:
    """A chart of these values, without a mark."""
    made: altair.Chart = alt.Chart(alt.Data(values=[dict(v) for v in values]))
    return made


def described(values: Values, *keys: str) -> list[dict[str, Any]]:
    """The values with what a screen reader says of each as `alt`."""
    return [{**v, "alt": ", ".join(str(v[key]) for key in keys)} for v in values]


def colour(alt: Any, values: Values) -> Any:
    """Colours of the kinds that there are."""
    return _look(alt, alt.Color, values, 0)


def shape(alt: Any, values: Values) -> Any:
    """Shapes of the kinds that there are."""
    return _look(alt, alt.Shape, values, 1)


def _look(alt: Any, channel: Any, values: Values, part: int) -> Any:
    """Colours or shapes of the kinds that there are, in one legend below."""
    used = [kind for kind in LOOKS if any(v["kind"] == kind for v in values)]
    scale = alt.Scale(domain=used, range=[LOOKS[kind][part] for kind in used])
    return channel("kind:N", scale=scale, legend=alt.Legend(title=None, orient="bottom", columns=2))


def told(alt: Any, axis: str) -> list[Any]:
    """What the pointer is told of a point."""
    return [alt.Tooltip("name:N", title="model"), alt.Tooltip("kind:N"), alt.Tooltip("told:N", title=axis)]


def whole_numbers(most: float) -> list[int]:
    """At most seven whole numbers from 0."""
    last = math.ceil(most)
    return list(range(0, last + 1, max(1, math.ceil(last / 6))))


def snug(alt: Any) -> Any:
    """A scale just around the values."""
    return alt.Scale(zero=False, nice=False, padding=14)


def names_axis(alt: Any) -> Any:
    """An axis of names, without a line."""
    return alt.Axis(title=None, labelLimit=LABEL, labelFontSize=11, ticks=False, domain=False, labelPadding=6)


def spec_of(chart: Any, text: str, *, height: float) -> dict[str, Any]:
    """The specification as wide as its place in the page, without the address of its schema."""
    sized = chart.properties(width="container", height=height, description=text)
    spec: dict[str, Any] = sized.configure(**_CONFIG).to_dict()
    spec.pop("$schema", None)  # an address, though nothing would be loaded from it
    return spec


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
