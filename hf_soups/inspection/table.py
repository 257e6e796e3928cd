"""An inspection on the terminal: a row for each checkpoint, a table of pairs, and each finding in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

    from hf_soups.inspection.comparison import ComparedCheckpoint
    from hf_soups.inspection.inspect import Inspection

BETWEEN = 2  # spaces between two columns
NARROWEST_NAME = 16
BAD, DOUBTFUL = "red", "yellow"


@dataclass(frozen=True, slots=True)
class InspectionColumn:
    """One column; where the width does not allow all, those that say one thing only go first, then by `rank`."""

    title: str
    text: Callable[[ComparedCheckpoint], str]
    rank: int
    bad: tuple[str, ...] = ()  # cells that mean an error
    doubtful: tuple[str, ...] = ()

    def style(self, row: ComparedCheckpoint) -> str:
        """Of the row's cell."""
        text = self.text(row)
        if text in self.bad or (self.title in ("names", "shapes") and text != "same"):
            return BAD
        return DOUBTFUL if text in self.doubtful or (self.title == "dtype" and row.other_dtypes) else ""


_TIES = {"none": "none", "same": "same", "stored twice": "twice", "not recorded": "?", "other": "other"}
_LABELS = {"same": "same", "not named": "unnamed", "other order": "order", "other": "other"}
_INPUT = {"same": "same", "none": "none", "slightly other": "minor", "other": "other"}
_HEAD = {"same": "same", "not recorded": "?", "other": "other"}
_CLASSES = {None: "?", True: "one", False: "all"}
COLUMNS = (
    InspectionColumn("names", lambda row: _names(row), 0),
    InspectionColumn("shapes", lambda row: f"{len(row.other_shapes)} other" if row.other_shapes else "same", 1),
    InspectionColumn("dtype", lambda row: "+".join(row.dtypes) or "-", 6),
    InspectionColumn("ties", lambda row: _TIES[row.tied], 7, ("other",)),
    InspectionColumn("labels", lambda row: _LABELS[row.labels], 2, ("other",), ("order", "unnamed")),
    InspectionColumn("input", lambda row: _INPUT[row.processor], 3, ("other",), ("minor",)),
    InspectionColumn("head", lambda row: _HEAD[row.head], 4, ("other",), ("?",)),
    InspectionColumn("values", lambda row: "finite" if row.finite else "NaN", 5, ("NaN",)),
    InspectionColumn("classes", lambda row: _CLASSES[row.one_class], 8, ("one",)),
    InspectionColumn("to start", lambda row: "-" if row.from_start is None else f"{row.from_start:.3g}", 9),
    InspectionColumn("angle", lambda row: "-" if row.angle is None else f"{row.angle:.0f}°", 10),
)
LEGEND = (
    "Each against the first. names: -missing +extra tensors; input: tokenizer or image processor; head: the start of "
    "the head; classes: that the cached select answers hold; ?: not recorded. to start: Euclidean distance of all "
    "learned weights; angle: at the start, to the first."
)


@dataclass(frozen=True)
class InspectionTable:
    """Renders an inspection in the width there is."""

    inspection: Inspection

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich.text import Text

        found = self.inspection
        usable = [row for row in found.rows if row.usable]
        shown, same = fitting(COLUMNS, usable, _name_width(found.rows), options.max_width)
        yield self._table(shown)
        if same:
            yield Text(f"In every row: {', '.join(f'{c.title} {c.text(usable[0])}' for c in same)}.")
        narrow = [c.title for c in COLUMNS if c not in shown and c not in same and usable]
        if narrow:
            yield Text(f"Too narrow for: {', '.join(narrow)}; a wider terminal or --json has them.", style="dim")
        yield Text(LEGEND, style="dim")
        yield from self._pairs(options.max_width)
        for finding in found.errors:
            yield Text("error: ", style=f"bold {BAD}").append(finding.message, style="not bold default")
        for finding in found.warnings:
            yield Text("warning: ", style=f"bold {DOUBTFUL}").append(finding.message, style="not bold default")
        for line in permutations(found):
            yield Text(line)
        for note in found.notes:
            yield Text(note, style="dim")
        yield Text(found.verdict, style="bold green" if found.mixable else f"bold {BAD}")

    def _table(self, columns: Sequence[InspectionColumn]) -> Table:
        from rich.text import Text

        table = _plain_table()
        table.add_column(
            "checkpoint", overflow="fold", min_width=min(NARROWEST_NAME, _name_width(self.inspection.rows))
        )
        for column in columns:
            table.add_column(column.title, no_wrap=True)
        for row in self.inspection.rows:
            if row.usable:
                table.add_row(row.name, *(Text(c.text(row), style=c.style(row)) for c in columns))
            else:
                table.add_row(_with_status(row), *("-" for _ in columns), style="dim")
        return table

    def _pairs(self, width: int) -> Iterable[RenderableType]:
        """Distances below the diagonal and angles above it; where that is too wide, the ends of their ranges."""
        from rich.text import Text

        pairs = self.inspection.pairs
        if not pairs:
            return
        names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
        cells = {(names.index(p.b), names.index(p.a)): f"{p.distance:.3g}" for p in pairs}
        cells |= {(names.index(p.a), names.index(p.b)): "-" if p.angle is None else f"{p.angle:.0f}°" for p in pairs}
        widest = max(len(text) for text in cells.values())
        name_width = max(len(name) for name in names) + 3
        if min(name_width, NARROWEST_NAME) + len(names) * (widest + BETWEEN) > width:
            yield from (Text(line) for line in ranges(self.inspection))
            return
        table = _plain_table()
        table.add_column(
            "distance \\ angle" if any(p.angle is not None for p in pairs) else "distance", overflow="fold"
        )
        for number in range(1, len(names) + 1):
            table.add_column(str(number), justify="right", no_wrap=True)
        for i, name in enumerate(names):
            table.add_row(f"{i + 1} {name}", *(cells.get((i, j), "") for j in range(len(names))))
        yield table


def fitting(
    columns: Sequence[InspectionColumn], rows: Sequence[ComparedCheckpoint], name_width: int, width: int
) -> tuple[list[InspectionColumn], list[InspectionColumn]]:
    """The columns to show beside the names, and those that were taken out because they say the same in every row."""
    if not rows:
        return [], []

    def needed(chosen: Sequence[InspectionColumn]) -> int:
        texts = ([column.title, *(column.text(row) for row in rows)] for column in chosen)
        return min(name_width, NARROWEST_NAME) + sum(max(map(len, text)) + BETWEEN for text in texts)

    shown, same = list(columns), []
    for column in sorted(columns, key=lambda c: -c.rank):
        uniform = len({column.text(row) for row in rows}) == 1
        if uniform and needed(shown) > width:
            shown.remove(column)
            same.append(column)
    while len(shown) > 1 and needed(shown) > width:
        shown.remove(max(shown, key=lambda c: c.rank))
    return shown, [c for c in columns if c in same]


def ranges(inspection: Inspection) -> list[str]:
    """The closest and the farthest pair, and the ends of the angles, in words."""
    by_distance = sorted(inspection.pairs, key=lambda p: p.distance)
    near, far = by_distance[0], by_distance[-1]
    lines = [
        f"{len(by_distance)} pairs: the closest {near.a} and {near.b} ({near.distance:.3g} apart), the farthest "
        f"{far.a} and {far.b} ({far.distance:.3g}); --json has all."
    ]
    angles = sorted(p.angle for p in inspection.pairs if p.angle is not None)
    if angles:
        lines.append(f"Angles at the start: {angles[0]:.0f}° to {angles[-1]:.0f}°.")
    return lines


def permutations(inspection: Inspection) -> list[str]:
    """How --align-labels reads the head of each checkpoint whose labels are in another order."""
    return [
        f"{row.name}: --align-labels reads the rows of its head in the order {', '.join(map(str, row.label_order))}, "
        f"which is {', '.join(row.label_names[i] for i in row.label_order)}."
        for row in inspection.rows
        if row.label_order and row.label_names
    ]


def _plain_table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, BETWEEN - 1, 0, 0))


def _names(row: ComparedCheckpoint) -> str:
    counts = [f"{sign}{len(names)}" for sign, names in (("-", row.missing), ("+", row.extra)) if names]
    return " ".join(counts) or "same"


def _with_status(row: ComparedCheckpoint) -> str:
    """A row that cannot be used: its status if the reason starts with one, else that it cannot be read."""
    status = row.reason.split(" (")[0]
    return f"{row.name} ({status})" if len(status) <= len("out-of-memory") else f"{row.name} (unreadable)"


def _name_width(rows: Sequence[ComparedCheckpoint]) -> int:
    return max((len(row.name if row.usable else _with_status(row)) for row in rows), default=0)
