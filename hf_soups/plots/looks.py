"""One look for each kind of model and each method: the same marker and colour in all pictures and on the page."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

# Okabe and Ito's palette: told apart with any colour vision; marker shapes differ as well.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#8C8C8C"
SKY, WINE, BROWN, INK = "#56B4E9", "#882255", "#8C5A2B", "#222222"
Look = tuple[str, str]  # marker and colour

STYLES = {  # kind -> marker, colour, size in square points; charts of the page take marker and colour from here
    "run": ("o", GREY, 45),
    "best on select": ("o", BLUE, 110),
    "soup": ("D", VERMILION, 90),
    "ensemble": ("^", GREEN, 120),
    "cascade": ("s", PURPLE, 90),
}
METHODS: dict[str, Look] = {  # how the names of soups and ensembles begin
    "uniform": ("D", VERMILION),
    "greedy": ("P", ORANGE),
    "learned": ("X", SKY),
    "learned-by-tensor": ("X", WINE),
    "learned-free": ("X", BROWN),
    "model-stock": ("h", WINE),
    "wise-ft": ("d", SKY),
    "task-vectors": ("8", BROWN),
    "run-ema": ("h", ORANGE),
    "mean-logit": ("^", GREEN),
    "mean-prob": ("v", GREEN),
    "selected": ("<", GREEN),
}
_SPARE = {
    "soup": tuple((m, c) for c, m in itertools.product((VERMILION, ORANGE, SKY, WINE, BROWN), "DPXhd8")),
    "ensemble": tuple((m, c) for c, m in itertools.product((GREEN, "#5B8C00"), "^v<>")),
    "cascade": tuple((m, c) for c, m in itertools.product((PURPLE, "#7A3E8C"), "sp*H")),
}


def method_of(kind: str, name: str) -> str:
    """The method that a soup's or an ensemble's name begins with; nothing of other kinds and names.

    >>> method_of("soup", "learned-by-tensor soup of 3"), method_of("soup", "mine"), method_of("ensemble", "greedy")
    ('learned-by-tensor', '', '')
    """
    known = (method for method, (_, colour) in METHODS.items() if kind == ("ensemble" if colour == GREEN else "soup"))
    return max((method for method in known if name.startswith(method)), key=len, default="")


def look_of(kind: str, name: str = "") -> Look:
    """Marker and colour of a method, or of its kind where the name begins with none.

    >>> look_of("soup", "greedy soup of 3") == METHODS["greedy"]
    True
    >>> look_of("soup", "mine") == STYLES["soup"][:2]
    True
    """
    method = method_of(kind, name)
    return METHODS[method] if method else STYLES[kind if kind in STYLES else "run"][:2]


def looks_apart(named: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """A look for each kind and name of one picture: two soups, ensembles or cascades never share one.

    >>> sorted(marker for marker, _ in looks_apart([("soup", "a"), ("soup", "b")]).values())
    ['D', 'P']
    """
    ordered = sorted(set(named), key=lambda each: (not method_of(*each), each))
    made: dict[tuple[str, str], Look] = {}
    for kind, name in ordered:
        wanted = look_of(kind, name)
        free = (look for look in (wanted, *_SPARE.get(kind, ())) if look not in made.values())
        made[kind, name] = next(free, wanted) if kind in _SPARE else wanted
    return made
