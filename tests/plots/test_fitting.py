"""Where things are in a picture: nothing is over anything else or outside, whatever there is to show."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from hf_soups.plots.canvas import Picture, Point, TriedMixture, also_written_as, finished, new_figure, report_vs_select
from hf_soups.plots.canvas import score_by_ingredients as draw_steps
from hf_soups.plots.cascades import Bin, Exit, LatencyBar, draw_bins, draw_exits, draw_latency
from hf_soups.plots.costs import CostPicture, CostPoint, drawn_costs
from hf_soups.plots.fitting import NAME, Box, marker_boxes, tick_labels
from hf_soups.plots.looks import METHODS, STYLES, looks_apart
from hf_soups.reporting.page.charts import LOOKS, ON_PAGE, SHAPES

LONG = "a-model-with-a-name-as-long-as-people-give-them-on-the-hub-with-a-date-2026-12-01-and-a-seed"
KINDS = ("run", "soup", "ensemble", "cascade")
Scores = Callable[[int], float]


def names_of(count: int, long: bool) -> list[tuple[str, str]]:
    """Kinds and names: one best run, three of each kind that is combined, the rest runs."""
    combined = [(kind, f"{way} {kind} of 9") for kind in KINDS[1:] for way in ("uniform", "greedy", "mean-logit")]
    taken = combined[: max(0, min(9, count - 2))]
    runs = [("run", f"run_{i:02d}") for i in range(count - 1 - len(taken))]
    return [(kind, f"{name} {LONG}" if long else name) for kind, name in (("best on select", "run_00"), *taken, *runs)]


def scores_board(count: int, score: Scores, *, long: bool = False) -> Picture:
    points = [Point(kind, name, score(i), score(i + 3), score(i + 3) - 0.02, score(i + 3) + 0.02)
              for i, (kind, name) in enumerate(names_of(count, long))]  # fmt: skip
    return report_vs_select(points, metric="accuracy", rows=(200, 277))


def costs_board(count: int, score: Scores, *, long: bool = False) -> Picture:
    costs = {"run": 2.4e6, "best on select": 2.4e6, "soup": 2.4e6, "ensemble": 24e6, "cascade": 5e6}
    points = [
        CostPoint(kind, name, costs[kind] * (1 + i % 3), score(i), 3e7, interval=(score(i) - 0.02, score(i) + 0.02),
                  chosen=i == 0)
        for i, (kind, name) in enumerate(names_of(count, long))
    ]  # fmt: skip
    return drawn_costs(CostPicture(tuple(points), "accuracy", "macs", 277, "report"))


SCORES: dict[str, Scores] = {
    "apart": lambda i: 0.9 + (i * 7 % 13) / 200,
    "close": lambda i: 0.9 + (i % 3) / 1000,
    "equal": lambda i: 0.91,
    "at the ends": lambda i: float(i % 2),
}


def overlap(a: Box, b: Box, by: float = 0.5) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > by and min(a[3], b[3]) - max(a[1], b[1]) > by


def boxes_of(figure: Figure) -> tuple[list[Box], list[Box], list[Box]]:
    """Boxes of names at points; of the markers; of all other texts and the legend."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    names, markers, others = [], [], []
    for axes in figure.axes:
        named = [text for text in axes.texts if text.get_gid() == NAME]
        # the text alone: the box of an annotation has its line in it
        names += [tuple(Text.get_window_extent(text, renderer).extents) for text in named]
        markers += list(marker_boxes(axes))
        texts = [*tick_labels(axes.xaxis), *tick_labels(axes.yaxis), axes.title, axes._left_title, axes.xaxis.label,
                 axes.yaxis.label]  # type: ignore[attr-defined]  # fmt: skip
        shown = [text for text in texts if text.get_visible() and text.get_text()]
        others += [tuple(text.get_window_extent(renderer).extents) for text in shown]
        for axis in (axes.xaxis, axes.yaxis):
            said = [text.get_text() for text in tick_labels(axis)]
            assert len(set(said)) == len(said) or isinstance(axis.get_major_formatter(), FixedFormatter)
    others += [tuple(legend.get_window_extent(renderer).extents) for legend in figure.legends]
    return names, markers, others  # type: ignore[return-value]


def assert_apart(figure: Figure) -> None:
    names, markers, others = boxes_of(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for box in (*names, *markers, *others):
        assert box[0] >= -1, box
        assert box[1] >= -1, box
        assert box[2] <= width + 1, box
        assert box[3] <= height + 1, box
    assert not [pair for pair in itertools.combinations([*names, *others], 2) if overlap(*pair)]
    assert not [(a, b) for a in (*names, *others) for b in markers if overlap(a, b, by=2)]


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("scores", list(SCORES))
@pytest.mark.parametrize("count", [2, 12, pytest.param(72, marks=pytest.mark.slow)])
@pytest.mark.parametrize("board", [scores_board, costs_board])
def test_nothing_is_over_anything_else_or_outside(
    board: Callable[..., Picture], count: int, scores: str, long: bool
) -> None:
    assert_apart(board(count, SCORES[scores], long=long).figure)


def test_points_at_one_place_share_a_line_and_a_name_without_room_is_left_out() -> None:
    points = [CostPoint("run", f"run_{i:02d}", 1e6, 0.9 if i < 7 else 0.91, 1e6) for i in range(9)]
    figure = drawn_costs(CostPicture(tuple(points), "accuracy", "macs", 10, "report")).figure
    named = sorted(text.get_text() for text in figure.axes[0].texts if text.get_gid() == NAME)
    assert named == ["run_00, run_01 and 5 more", "run_07, run_08"]


def test_costs_that_hardly_differ_are_not_written_twice_along_the_axis() -> None:
    points = [CostPoint("run", f"run_{i:02d}", 1e6 * (1 + i / 900), 0.9, 1e6) for i in range(12)]
    assert_apart(drawn_costs(CostPicture(tuple(points), "accuracy", "macs", 10, "report")).figure)


def drawn_by(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    from hf_soups.plots import canvas

    figures: list[Figure] = []
    monkeypatch.setattr(canvas, "save_figure", lambda figure, path: (figures.append(figure), None)[1])
    return figures


@pytest.mark.parametrize("bars", [1, 4, pytest.param(30, marks=pytest.mark.slow)])
def test_pictures_of_a_cascade_have_room_for_long_names(
    bars: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn_by(monkeypatch)
    draw_exits([Exit(i + 1, LONG, 10, 1 / bars, i / bars, 1e6) for i in range(bars)], tmp_path / "e.png", unit="macs")
    latencies = [LatencyBar("single", LONG, 0.01, 0.002, 0.01, 0.002, "a cpu") for _ in range(bars)]
    draw_latency([*latencies, LatencyBar("cascade", f"{LONG} -> b", 0.01, 0.002, 0.02, 0.003, "a cpu")], tmp_path / "l")
    draw_bins([Bin(i / 15, (i + 1) / 15, 5, (i + 0.5) / 15, i % 2) for i in range(15)], tmp_path / "r", error=0.1,
              name=LONG)  # fmt: skip
    steps = [TriedMixture(LONG, i, 0.9, 0.9, "kept") for i in range(1, bars + 1)]
    draw_steps(steps, tmp_path / "s", metric="accuracy", rows=9, marks={LONG: (bars, 0.9)}, title=LONG + LONG)
    for figure in figures:
        assert_apart(figure)
        assert figure.axes[0].get_title(loc="left")


def test_a_method_has_one_look_and_two_models_of_a_picture_never_share_one() -> None:
    alone = looks_apart([("soup", "greedy soup of 3")])
    soups = [("soup", f"{name} soup of 3") for name in (*METHODS, "mine", "another")]
    beside = looks_apart([*soups, ("ensemble", "greedy")])
    assert alone["soup", "greedy soup of 3"] == beside["soup", "greedy soup of 3"] == METHODS["greedy"]
    assert len(set(beside.values())) == len(beside)


def test_the_charts_of_the_page_have_the_pictures_colours_and_shapes() -> None:
    assert {kind: LOOKS[kind] for kind in STYLES} == {
        kind: (ON_PAGE[colour], SHAPES[marker]) for kind, (marker, colour, _) in STYLES.items()
    }


def test_svg_is_written_beside_png_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with also_written_as("svg"):
            written = finished(new_figure()[0]).save(tmp_path / f"{name}.png")
        assert written == (tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert finished(new_figure()[0]).save(tmp_path / "alone.svg") == (tmp_path / "alone.svg",)
    assert not (tmp_path / "alone.png").exists()
