"""The plots: what is drawn, and that drawing leaves no global state behind."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_soups.plots import canvas as plots
from hf_soups.plots import looks
from hf_soups.plots.canvas import Point, TriedMixture, report_vs_select, score_by_ingredients

POINTS = [
    Point("best on select", "run_01", 0.92, 0.91, 0.88, 0.94),
    Point("soup", "uniform soup of 3", 0.91, 0.93, 0.90, 0.96),
    Point("soup", "greedy soup of 2", 0.93, 0.92, 0.89, 0.95),
    Point("ensemble", "mean-logit ensemble of 3", 0.94, 0.92, 0.89, 0.95),
    Point("run", "run_00", 0.90, 0.90),
    Point("run", "run_01", 0.92, 0.91),
    Point("run", "run_02", 0.85, 0.87),
]
STEPS = [
    TriedMixture("run_01", 1, 0.92, 0.92, "kept"),
    TriedMixture("run_00", 2, 0.90, 0.92, "rejected"),
    TriedMixture("run_02", 2, 0.93, 0.93, "kept"),
    TriedMixture("run_03", 3, math.nan, 0.93, "rejected"),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    plain = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: (figures.append(figure), plain(figure, path)))
    return figures


def legend(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.legends[0].get_texts()}


def test_every_answerer_is_a_point_in_the_unit_of_the_axes(drawn: list[Figure], tmp_path: Path) -> None:
    report_vs_select(POINTS, metric="accuracy", rows=(200, 277)).save(tmp_path / "p.png")
    axes = drawn[0].axes[0]
    seen = {tuple(round(v, 6) for v in xy) for c in axes.collections for xy in getattr(c, "get_offsets", list)()}
    assert {(100 * p.select, 100 * p.report) for p in POINTS} <= {(round(x, 6), round(y, 6)) for x, y in seen}
    assert axes.get_xlabel() == "select: accuracy x 100, 200 rows, used to choose"
    assert axes.get_ylabel() == "report: accuracy x 100, 277 rows"
    assert legend(drawn[0]) == {
        "best on select (run_01)", "uniform soup of 3", "greedy soup of 2", "mean-logit ensemble of 3", "single run",
        "select = report",
    }  # fmt: skip


def test_scores_that_are_no_shares_are_drawn_as_they_are(drawn: list[Figure], tmp_path: Path) -> None:
    report_vs_select(POINTS, metric="nll", rows=(200, 277)).save(tmp_path / "p.png")
    assert drawn[0].axes[0].get_xlabel() == "select: nll, 200 rows, used to choose"
    assert drawn[0].axes[0].get_xlim()[1] < 1


def test_the_line_goes_through_what_joined_and_crosses_mark_what_did_not(drawn: list[Figure], tmp_path: Path) -> None:
    score_by_ingredients(STEPS, tmp_path / "s.png", metric="accuracy", rows=50, marks={"uniform of all": (4, 0.91)})
    axes = drawn[0].axes[0]
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == pytest.approx([92, 93])
    assert legend(drawn[0]) == {"joined", "tried, left out", "uniform of all"}
    assert axes.get_xlabel() == "ingredients in the mixture"


def test_soups_differ_in_shape_as_well_as_colour() -> None:
    named = [("soup", name) for name in ("uniform", "greedy", "learned")]
    named += [("ensemble", name) for name in ("mean-logit", "mean-prob", "selected", "another")]
    named += [("cascade", "a"), ("cascade", "b")]
    found = [looks.STYLES[kind][:2] for kind in ("run", "best on select")] + list(looks.looks_apart(named).values())
    assert len(set(found)) == len(found)
    shapes = [marker for marker, _ in found[2:]]
    assert len(set(shapes)) == len(shapes)


def test_a_single_point_and_nan_scores_are_drawn_without_fail(tmp_path: Path) -> None:
    report_vs_select(POINTS[:1], metric="accuracy", rows=(1, 1)).save(tmp_path / "p.png")
    score_by_ingredients(STEPS[:1], tmp_path / "s.png", metric="accuracy", rows=1)
    nan = TriedMixture("a", 1, math.nan, math.nan, "kept")
    score_by_ingredients([nan], tmp_path / "n.png", metric="accuracy", rows=1)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_the_same_scores_make_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        report_vs_select(POINTS, metric="accuracy", rows=(200, 277)).save(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_drawing_neither_imports_pyplot_nor_needs_a_display(tmp_path: Path) -> None:
    code = (
        "import sys; from hf_soups.plots.canvas import Point, report_vs_select\n"
        "picture = report_vs_select([Point('run', 'a', .5, .5)], metric='f1', rows=(1, 1))\n"
        f"picture.save({str(tmp_path / 'p.png')!r})\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == "False"
