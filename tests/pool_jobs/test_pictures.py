"""The pictures of cascades and ensembles: what is drawn, and that the tables beside them say the same."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hf_soups.cascades import NEVER, CascadePredictions, Frontier, Plan, Rule
from hf_soups.data import Split
from hf_soups.ensembles import ensemble, member_curves
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS, expected_calibration_error
from hf_soups.plots import canvas, cascades, costs
from hf_soups.pool_jobs import pictures as owner
from hf_soups.predictions import Predictions
from tests.ensembles.pool import pool

COSTS = {"small": 1.0, "big": 10.0}


def members(seed: int, rows: int = 60) -> dict[str, Predictions]:
    return {
        "small": pool(seed, 1, rows, 4, skill=2.0)["m0"],
        "big": replace(pool(seed, 2, rows, 4, skill=3.5)["m1"]),
    }


def plan_of(predictions: dict[str, Predictions], names: tuple[str, ...], thresholds: tuple[float, ...]) -> Plan:
    """A plan with what it scores and costs on these rows."""
    plan = Plan(names, thresholds, tuple(COSTS[n] for n in names), unit="macs", rows=len(predictions["small"]))
    done = plan.apply(predictions)
    assert done.costs is not None
    score = METRICS["accuracy"].compute(done)
    return replace(plan, score=score, average_cost=float(done.costs.mean()), score_low=score - 0.05)


@pytest.fixture
def frontier() -> Frontier:
    predictions = members(0)
    singles = tuple(plan_of(predictions, (name,), ()) for name in ("big", "small"))
    both = plan_of(predictions, ("small", "big"), (NEVER,))
    ways = tuple(plan_of(predictions, ("small", "big"), (t,)) for t in (0.5, 0.7, 0.9))
    return Frontier((singles[1], *ways, both), singles, (both,))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    plain = canvas.save_figure

    def watched(figure: Figure, path: Path) -> None:
        figures.append(figure)
        plain(figure, path)

    for module in (canvas, cascades):
        monkeypatch.setattr(module, "save_figure", watched)
    return figures


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def offsets(figure: Figure) -> set[tuple[float, float]]:
    seen = (xy for axes in figure.axes for c in axes.collections for xy in getattr(c, "get_offsets", list)())
    return {(round(float(x), 6), round(float(y), 6)) for x, y in seen}


def legend(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.legends[0].get_texts()}


def test_every_single_ensemble_and_plan_is_a_point(frontier: Frontier, drawn: list[Figure], tmp_path: Path) -> None:
    picture = owner.cost_picture(frontier, plan=frontier.plans[2])
    png, beside = costs.draw_cost_picture(picture, tmp_path / "c.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert {(round(p.average_cost, 6), round(100 * p.score, 6)) for p in frontier.singles} <= offsets(drawn[0])
    said = table(beside)
    kinds = [row["kind"] for row in said]
    assert kinds.count("single") == 2
    assert kinds.count("ensemble") == 1
    assert [row["name"] for row in said if row["chosen"] == "True"] == ["small -> big"]
    assert {(round(float(r["average_cost"]), 6), round(100 * float(r["score"]), 6)) for r in said} <= offsets(drawn[0])
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "MACs per example, average over rows"
    assert axes.get_ylabel() == "select: accuracy x 100, 60 rows"
    assert {"2 single models", "1 ensemble", "best of these within a cost", "chosen: small -> big"} <= legend(drawn[0])


def test_on_report_rows_everything_is_scored_anew(frontier: Frontier, drawn: list[Figure], tmp_path: Path) -> None:
    report = members(1, rows=80)
    picture = owner.cost_picture(frontier, report=report)
    found = {(p.name, p.thresholds): p for p in picture.points}
    for plan in (*frontier.singles, *frontier.ensembles):
        done = plan.apply(report)
        name = (" + " if plan.thresholds else "").join(plan.members)
        assert found[name, plan.thresholds].score == METRICS["accuracy"].compute(done)
    cascade = frontier.plans[2]
    done = cascade.apply(report)
    assert done.costs is not None
    assert found["small -> big", cascade.thresholds].cost == done.costs.mean()
    costs.draw_cost_picture(picture, tmp_path / "c.png")
    assert drawn[0].axes[0].get_ylabel() == "report: accuracy x 100, 80 rows"
    with pytest.raises(InputError, match="'mine' cannot be computed by its name"):
        owner.cost_picture(frontier, report=report, metric="mine")


def test_on_report_rows_the_ensembles_of_the_best_singles_are_drawn_too() -> None:
    made = pool(7, 3, 50, 4)
    singles = tuple(Plan((n,), (), (c,), score=1 - c / 10) for n, c in zip(made, (1.0, 2.0, 3.0), strict=True))
    frontier = Frontier(singles, singles)
    assert all(p.kind == "single" for p in owner.cost_picture(frontier).points)
    found = {p.name: p for p in owner.cost_picture(frontier, report=made).points if p.kind == "ensemble"}
    assert list(found) == ["m0 + m1", "m0 + m1 + m2"]
    assert found["m0 + m1"].score == METRICS["accuracy"].compute(ensemble([made["m0"], made["m1"]]))
    assert [p.cost for p in found.values()] == [3.0, 6.0]
    alone = tuple(replace(p, rule=Rule("last")) for p in singles)
    assert len(owner.cost_picture(Frontier(alone, alone), report=made).points) == 3


def test_a_loss_is_drawn_in_its_own_sign_with_the_lowest_as_best(drawn: list[Figure], tmp_path: Path) -> None:
    singles = tuple(
        Plan((n,), (), (c,), score=-loss, average_cost=c, metric="nll", rows=5)
        for n, c, loss in (("big", 10.0, 0.2), ("small", 1.0, 0.4), ("poor", 5.0, 0.9))
    )
    picture = owner.cost_picture(Frontier(singles, singles))
    assert [p.score for p in picture.points] == [0.2, 0.4, 0.9]
    costs.draw_cost_picture(picture, tmp_path / "c.png")
    (stairs,) = [line for line in drawn[0].axes[0].get_lines() if line.get_label() == "best of these within a cost"]
    assert list(stairs.get_ydata()) == [0.4, 0.2, 0.2]


def test_exits_tell_rows_accuracy_and_cost_of_each_stage(drawn: list[Figure], tmp_path: Path) -> None:
    predictions = members(2)
    plan = plan_of(predictions, ("small", "big"), (0.7,))
    done = plan.apply(predictions)
    found = owner.exits_of(done, plan.members)
    assert [e.member for e in found] == ["small", "big"]
    assert [e.cost for e in found] == [1.0, 11.0]
    assert sum(e.rows for e in found) == 60
    assert math.isclose(sum(e.share * (e.accuracy or 0) for e in found), METRICS["accuracy"].compute(done))
    first = done.take(done.exits == 0)  # type: ignore[arg-type]
    assert found[0].accuracy == METRICS["accuracy"].compute(first)
    paths = cascades.draw_exits(found, tmp_path / "e.png", unit="macs")
    bars = [[patch.get_width() for patch in axes.patches] for axes in drawn[0].axes]
    assert bars[0] == pytest.approx([100 * e.share for e in found])
    assert [float(r["accuracy"]) for r in table(paths[1])] == [e.accuracy for e in found]


def test_a_stage_that_no_row_leaves_at_is_shown_as_empty(tmp_path: Path) -> None:
    predictions = members(2)
    plan = plan_of(predictions, ("small", "big"), (NEVER,))
    found = owner.exits_of(plan.apply(predictions), plan.members)
    assert (found[0].rows, found[0].accuracy, found[0].cost) == (0, None, None)
    unlabelled = replace(plan.apply(predictions), labels=None)
    assert [e.accuracy for e in owner.exits_of(unlabelled)] == [None, None]
    for path in cascades.draw_exits(owner.exits_of(unlabelled), tmp_path / "e.png"):
        assert path.stat().st_size


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_bins_of_a_reliability_diagram_sum_to_the_calibration_error(bins: int, tmp_path: Path) -> None:
    p = pool(3, 1, 200, 3)["m0"]
    found = owner.reliability_bins(p, bins=bins)
    assert sum(b.rows for b in found) == 200
    gaps = [
        b.rows / 200 * abs(b.confidence - b.accuracy)
        for b in found
        if b.confidence is not None and b.accuracy is not None
    ]
    assert sum(gaps) == pytest.approx(expected_calibration_error(p, bins=bins, debiased=False), abs=1e-12)
    assert all(b.low < b.confidence <= b.high for b in found if b.confidence is not None)


def test_a_reliability_diagram_names_the_answerer_and_its_error(drawn: list[Figure], tmp_path: Path) -> None:
    p = pool(3, 1, 200, 3)["m0"]
    png, beside = owner.draw_reliability(p, tmp_path / "r.png", name="small")
    assert png.read_bytes().startswith(b"\x89PNG")
    error = 100 * expected_calibration_error(p)
    assert drawn[0].axes[0].get_title(loc="left") == f"small: ECE {error:.1f} x 100"
    assert len(table(beside)) == 15
    with pytest.raises(InputError, match="0 bins"):
        owner.reliability_bins(p, bins=0)


def pictures(rows: int) -> list[Image.Image]:
    return [Image.new("RGB", (20 + i, 16), (i % 256, 0, 0)) for i in range(rows)]


def cascade(rows: int = 60) -> CascadePredictions:
    predictions = members(4, rows)
    return plan_of(predictions, ("small", "big"), (0.7,)).apply(predictions)


def test_a_sheet_shows_the_surest_of_each_exit_first_and_marks_what_is_wrong(
    drawn: list[Figure], tmp_path: Path
) -> None:
    done = cascade()
    owner.draw_images_by_exit(pictures(60), done, tmp_path / "s.png", per_exit=5, stages=("small", "big"))
    panels = [drawn[0].axes[start : start + 5] for start in (0, 5)]
    assert done.exits is not None
    for stage, row in enumerate(panels):
        at = owner.surest(done, stage, 5)
        assert set(done.exits[at]) == {stage}
        sure = done.probs.max(axis=1)
        assert list(sure[at]) == sorted(sure[done.exits == stage], reverse=True)[:5]
        for axes, i in zip(row, at, strict=False):
            shown = axes.images[0].get_array()
            assert shown is not None
            assert shown[0, 0, 0] == i  # the red of the row's own image
            wrong = done.answers[i] != done.needs_labels()[i]
            assert axes.spines["left"].get_visible() == wrong
            assert (f"not {done.needs_labels()[i]}" in axes.get_xlabel()) == wrong
        assert f"exit {stage + 1} ({('small', 'big')[stage]})" in drawn[0].texts[stage].get_text()


def test_images_of_a_split_are_joined_by_row_id_and_a_broken_one_has_its_place(
    drawn: list[Figure], tmp_path: Path
) -> None:
    done = cascade(12)
    order = np.random.default_rng(0).permutation(12)
    files = []
    for i in order:
        path = tmp_path / f"{i}.png"
        pictures(12)[i].save(path)
        files.append(str(path))
    broken = int(owner.surest(done, 0, 1)[0])
    (tmp_path / f"{broken}.png").write_bytes(b"not an image")
    rows = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    split = Split("report", rows, order.astype(np.int64), done.needs_labels()[order], ("a", "b", "c", "d"), "made", "f")
    owner.draw_images_by_exit(split, done, tmp_path / "s.png", per_exit=4)
    first, *others = drawn[0].axes[:4]
    assert [text.get_text() for text in first.texts] == ["cannot be\ndecoded"]
    for axes, i in zip(others, owner.surest(done, 0, 4)[1:], strict=False):
        shown = axes.images[0].get_array()
        assert shown is not None
        assert shown[0, 0, 0] == i
    with pytest.raises(PredictionsError, match="answered rows are not in made"):
        owner.draw_images_by_exit(replace(split, row_ids=split.row_ids + 1), done, tmp_path / "s.png")


def test_a_sheet_needs_rows_and_an_image_for_each(tmp_path: Path) -> None:
    done = cascade(10)
    with pytest.raises(PredictionsError, match="9 images for 10 answers"):
        owner.draw_images_by_exit(pictures(9), done, tmp_path / "s.png")
    with pytest.raises(PredictionsError, match="no image to show"):
        owner.draw_images_by_exit([], done.take([]), tmp_path / "s.png")
    with pytest.raises(PredictionsError, match="no exit to show"):
        owner.exits_of(done.take([]))


def test_one_call_draws_everything_and_the_same_bytes_again(frontier: Frontier, tmp_path: Path) -> None:
    done = frontier.plans[2].apply(members(0))
    how = {"plan": frontier.plans[2], "report": members(0)}
    first = owner.draw_cascade_pictures(tmp_path / "a", frontier, done, **how)
    paths = owner.draw_cascade_pictures(tmp_path / "b", frontier, done, images=pictures(60), **how)
    assert [p.name for p in paths] == [
        "score_vs_cost.png", "score_vs_cost.csv", "exits.png", "exits.csv", "reliability.png", "reliability.csv",
        "sheet.png",
    ]  # fmt: skip
    assert all(p.read_bytes() == (tmp_path / "b" / p.name).read_bytes() for p in first)
    unlabelled = replace(done, labels=None)
    assert len(owner.draw_cascade_pictures(tmp_path / "c", frontier, unlabelled)) == 4


def test_curves_stand_beside_each_other_with_every_point_in_the_table(drawn: list[Figure], tmp_path: Path) -> None:
    made = pool(5, members=5, rows=40, classes=3)
    predictions = dict(zip(("b0-s0", "b0-s1", "b0-s2", "b1-s0", "b1-s1"), made.values(), strict=True))
    prices = {name: 4.0 if name.startswith("b1") else 1.0 for name in predictions}
    found = member_curves(predictions, prices)
    png, beside = owner.draw_member_curves(found, tmp_path / "m.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    said = table(beside)
    assert [(r["model"], int(r["members"])) for r in said] == [("b0", 1), ("b0", 2), ("b0", 3), ("b1", 1), ("b1", 2)]
    assert [float(r["mean"]) for r in said] == [p.mean for c in found for p in c.points]
    assert legend(drawn[0]) == {"b0", "b1"}
    lines = [list(line.get_xdata()) for line in drawn[0].axes[1].get_lines()]
    assert [1.0, 2.0, 3.0] in lines
    assert [4.0, 8.0] in lines
    with pytest.raises(InputError, match="2 curves; expected one or more, all of one metric"):
        owner.draw_member_curves([found[0], replace(found[1], metric="nll")], tmp_path / "n.png")
    with pytest.raises(InputError, match="0 curves"):
        owner.draw_member_curves([], tmp_path / "n.png")
