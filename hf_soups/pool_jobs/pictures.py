"""What the pictures of a search, a cascade and a pool show, as points; the page of a report draws the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from hf_soups.cascades.cost_points import cost_picture
from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.costs import UNITS
from hf_soups.data.split import Split, read_image
from hf_soups.ensembles.curves import Curve
from hf_soups.errors import DataError, InputError, PredictionsError
from hf_soups.files.problem_types import MULTI_LABEL
from hf_soups.metrics import expected_calibration_error
from hf_soups.plots.canvas import scale_of, unit_of
from hf_soups.plots.cascades import (
    TALLEST,
    Bin,
    Exit,
    LatencyBar,
    SheetImage,
    SheetRow,
    draw_bins,
    draw_exits,
    draw_latency,
    draw_sheet,
)
from hf_soups.plots.costs import draw_cost_picture
from hf_soups.plots.curves import CURVE_LOOKS, CurvePanel, MeanCurve, draw_curves
from hf_soups.pool.store import Member
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    from PIL.Image import Image

BINS = 15  # as many as `expected_calibration_error` has by default
PER_EXIT = 8  # images of a sheet's row
CAPTION = 16  # letters in a line under an image


def draw_cascade_pictures(
    out: str | Path,
    frontier: Frontier,
    answers: CascadePredictions,
    *,
    plan: Plan | None = None,
    report: Mapping[str, Predictions] | None = None,
    images: Split | Sequence[Image] | None = None,
    members: Mapping[str, Member] | None = None,
) -> tuple[Path, ...]:
    """Draw everything about one cascade and the search it came from; all paths, each PNG with its CSV.

    Args:
        out: the folder: score_vs_cost, exits, reliability (for labelled answers), latency (where seconds were measured)
            and, with images, sheet.png.
        frontier: of the search.
        answers: the cascade's, as `plan.apply` gives them; best of rows that nothing was chosen on.
        plan: of the cascade, for the members' names.
        report: all members' predictions of rows that nothing was chosen on, by name: score_vs_cost is scored on them.
        images: of the rows of `answers`: a split, joined by row id, or the images in their order.
        members: the pool's, by name: with their measured seconds, and by their weights it is seen which are soups.
    Raises:
        PredictionsError: if there are no rows, or images and rows do not fit together.
    """
    at, stages = Path(out), plan.members if plan is not None else ()
    exits = exits_of(answers, stages)
    soups = [name for name, member in (members or {}).items() if is_soup(member)]
    written = draw_cost_picture(cost_picture(frontier, plan=plan, report=report, soups=soups), at / "score_vs_cost.png")
    written += draw_exits(exits, at / "exits.png", unit=(plan or frontier.best_single).unit)
    if answers.labels is not None:
        written += draw_reliability(answers, at / "reliability.png")
    if plan is not None and members is not None:
        bars = latency_bars(plan, answers, members, beside=frontier.best_single.members)
        written += draw_latency(bars, at / "latency.png") if bars else ()
    if images is not None:
        written += (draw_images_by_exit(images, answers, at / "sheet.png", stages=stages),)
    return written


def is_soup(member: Member) -> bool:
    """Whether a member is a soup, by its folder."""
    return member.has_model and (Path(member.source) / (member.subfolder or "") / "soup.json").is_file()


# Exits, latency, reliability


def exits_of(answers: CascadePredictions, members: Sequence[str] = ()) -> tuple[Exit, ...]:
    """Rows, accuracy and cost by exit stage.

    Args:
        answers: of a cascade, at least one row.
        members: names by stage; stages that no row exits at are listed too.
    Raises:
        PredictionsError: if there are no rows.
    """
    assert answers.exits is not None
    assert answers.costs is not None
    if not len(answers):
        raise PredictionsError("the cascade answered no rows, so there is no exit to show.")
    hit = None if answers.labels is None else answers.hits
    made = []
    for stage in range(int(max(answers.exits.max() + 1, len(members)))):
        inside = answers.exits == stage
        rows = int(inside.sum())
        accuracy = float(hit[inside].mean()) if hit is not None and rows else None
        cost = float(answers.costs[inside].mean()) if rows else None
        member = members[stage] if stage < len(members) else ""
        made.append(Exit(stage + 1, member, rows, rows / len(answers), accuracy, cost))
    return tuple(made)


def latency_bars(
    plan: Plan, answers: CascadePredictions, members: Mapping[str, Member], *, beside: Sequence[str] = ()
) -> tuple[LatencyBar, ...]:
    """The single models, the fastest first, then the cascade; nothing unless all were measured on one machine.

    A cascade's seconds are those of the members that its rows met; deciding and gathering rows are not in them.

    Args:
        plan: of the cascade.
        answers: the cascade's, whose exits say which members each row met.
        members: the pool's, by name.
        beside: further single models, such as the best.
    """
    known = [members[name] for name in dict.fromkeys((*plan.members, *beside))]
    seconds = {
        m.name: (m.seconds_batch_1, m.seconds) for m in known if m.seconds_batch_1 is not None and m.seconds is not None
    }
    if len(seconds) < len(known) or len({m.hardware for m in known}) != 1 or not len(answers):
        return ()
    hardware = known[0].hardware
    singles = [LatencyBar("single", name, one, best, one, best, hardware) for name, (one, best) in seconds.items()]
    singles.sort(key=lambda bar: bar.seconds_batch_1)
    if len(plan.members) == 1:
        return tuple(singles)
    assert answers.exits is not None
    met = np.array([(answers.exits >= stage).mean() for stage in range(len(plan.members))])
    each = np.array([seconds[name] for name in plan.members])
    (mean_1, mean), (worst_1, worst) = (met[:, None] * each).sum(axis=0).tolist(), each.sum(axis=0).tolist()
    return (*singles, LatencyBar("cascade", plan.in_order, mean_1, mean, worst_1, worst, hardware))


def reliability_bins(p: Predictions, *, bins: int = BINS) -> tuple[Bin, ...]:
    """Labelled predictions by their confidence, in the bins of the expected calibration error.

    The error is the mean over rows of the distance between confidence and accuracy of their bin.

    Raises:
        InputError: if `bins` < 1.
        PredictionsError: if there are no rows or labels.
    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    if bins < 1:
        raise InputError(f"{bins} bins; a reliability diagram needs at least 1.")
    hit = p.hits
    confidence = np.exp(p.log_probs.max(axis=1).astype(np.float32)).astype(np.float64)
    of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    made = []
    for i in range(bins):
        inside = of == i
        means = (float(confidence[inside].mean()), float(hit[inside].mean())) if inside.any() else (None, None)
        made.append(Bin(i / bins, (i + 1) / bins, int(inside.sum()), *means))
    return tuple(made)


def draw_reliability(p: Predictions, path: str | Path, *, bins: int = BINS, name: str = "") -> tuple[Path, ...]:
    """Write the reliability diagram as PNG, and its bins as CSV beside it; both paths.

    Of a multi-label problem each label of each row counts by itself.

    Args:
        p: labelled predictions.
        path: the PNG file.
        bins: equal-width bins of confidence.
        name: of the model, for the title; by default the one that the predictions carry.
    """
    name = name or p.model or "predictions"
    p = p.decisions if p.problem_type == MULTI_LABEL else p
    error = expected_calibration_error(p, bins=bins)
    return draw_bins(reliability_bins(p, bins=bins), path, error=error, name=name)


# Images by exit


def draw_images_by_exit(
    images: Split | Sequence[Image],
    answers: CascadePredictions,
    path: str | Path,
    *,
    per_exit: int = PER_EXIT,
    stages: Sequence[str] = (),
) -> Path:
    """Write a PNG with one row of images for each exit, the most confident answers first.

    Under each image is the answer with its confidence; a wrong one has a frame and the true label.

    Args:
        images: a split that holds the predictions' rows, joined by row id, or the images in the predictions' order.
        answers: of a cascade; without labels nothing is marked.
        path: the PNG file.
        per_exit: images in a row.
        stages: the members' names, the first stage first.
    Raises:
        PredictionsError: if there are no rows, or their images are not among `images`.
    """
    if not len(answers):
        raise PredictionsError("the cascade answered no rows, so there is no image to show.")
    read, rows = _reader(images, answers), []
    for e in exits_of(answers, stages):
        title = f"exit {e.stage}{e.member and f' ({e.member})'}: {100 * e.share:.1f}% of {len(answers)} rows"
        shown = surest(answers, e.stage - 1, per_exit).tolist()
        rows.append(SheetRow(title, tuple(_sheet_image(read(row), answers, row) for row in shown)))
    return draw_sheet(rows, Path(path), columns=per_exit)


def surest(answers: CascadePredictions, stage: int, count: int | None = None) -> np.ndarray:
    """Positions of the rows that exit at a stage, the most confident first, at most `count`."""
    assert answers.exits is not None
    rows = np.flatnonzero(answers.exits == stage)
    sure = sureness(answers, rows) if len(rows) else np.empty(0)
    return np.asarray(rows[np.argsort(-sure, kind="stable")][:count])


def sureness(answers: Predictions, rows: np.ndarray) -> Float64[np.ndarray, " rows"]:
    """How sure each of the rows is: the probability of its class, or over its labels the mean of each one's answer."""
    if answers.problem_type != MULTI_LABEL:
        return np.asarray(np.exp(answers.log_probs[rows].max(axis=1)), dtype=np.float64)
    probs = np.exp(answers.log_probs[rows].astype(np.float64))
    return np.asarray(np.maximum(probs, 1 - probs).mean(axis=1))


def named_answer(answers: Predictions, value: np.ndarray) -> str:
    """An answer or a label of one row in words: the name of its class, or those of its labels."""
    names = answers.label_names or tuple(map(str, range(answers.classes)))
    if answers.problem_type == MULTI_LABEL:
        return ", ".join(names[i] for i in np.flatnonzero(value)) or "none"
    return names[int(value)]


def _reader(images: Split | Sequence[Image], answers: CascadePredictions) -> Callable[[int], Image | None]:
    """The image of a row of the answers; None for one that cannot be decoded."""
    if not isinstance(images, Split):
        if len(images) != len(answers):
            raise PredictionsError(f"{len(images)} images for {len(answers)} answers; expected one for each, in order.")
        return lambda row: images[row].convert("RGB")
    split, position = images, {row_id: i for i, row_id in enumerate(images.row_ids.tolist())}
    lacking = [row_id for row_id in answers.row_ids.tolist() if row_id not in position]
    if lacking:
        raise PredictionsError(
            f"{len(lacking)} of {len(answers)} answered rows are not in {split.source} (first: {lacking[0]!r}). Give "
            "the split that the members answered."
        )

    def read(row: int) -> Image | None:
        try:
            return read_image(split, position[answers.row_ids[row].item()], edge=TALLEST)
        except DataError:
            return None  # one broken image does not spoil the sheet: its place says so

    return read


def _sheet_image(image: Image | None, answers: CascadePredictions, row: int) -> SheetImage:
    one = answers.take([row])
    caption = f"{_short(named_answer(one, one.answers[0]))}\n{100 * sureness(one, np.arange(1))[0]:.0f}%"
    if one.labels is None or one.hits[0]:
        return SheetImage(image, caption, wrong=False)
    return SheetImage(image, f"{caption}, not {_short(named_answer(one, one.labels[0]))}", wrong=True)


def _short(name: str) -> str:
    return name if len(name) <= CAPTION else f"{name[: CAPTION - 1]}."


# Ensembles of more and more copies


def draw_member_curves(curves: Sequence[Curve], path: str | Path) -> tuple[Path, ...]:
    """Write the picture as PNG, and every point as CSV beside it; both paths.

    Left: score against the number of members; right: against the cost of an example, the single models (filled) among
    the ensembles. Lines are the means over subsets, bands reach from the worst to the best subset.

    Raises:
        InputError: if there is no curve, or they are not of one metric, unit and number of rows.
    """
    if len({(c.metric, c.unit, c.rows, c.combine) for c in curves}) != 1:
        raise InputError(
            f"{len(curves)} curves; expected one or more, all of one metric, unit of cost, combination and set of rows."
        )
    first, up = curves[0], f"{unit_of(curves[0].metric)}, {curves[0].rows} rows"
    by_members, by_cost = (tuple(_mean_curve(c, i, on) for i, c in enumerate(curves)) for on in ("members", "cost"))
    title = f"ensembles by {first.combine}, filled: single models"
    panels = [
        CurvePanel(by_members, "members", up, title),
        CurvePanel(by_cost, UNITS.get(first.unit, first.unit or "cost"), "", costs=True),
    ]
    return draw_curves(panels, path, [row for curve in curves for row in _curve_rows(curve)])


def _mean_curve(curve: Curve, number: int, on: str) -> MeanCurve:
    scale, x = scale_of(curve.metric), tuple(float(getattr(p, on)) for p in curve.points)
    mean, low, high = (tuple(scale * getattr(p, key) for p in curve.points) for key in ("mean", "low", "high"))
    look = CURVE_LOOKS[number % len(CURVE_LOOKS)]
    return MeanCurve(curve.name or "one model", x, mean, low, high, look, spread="band")


def _curve_rows(curve: Curve) -> list[dict[str, Any]]:
    about = {"model": curve.name, "combine": curve.combine, "metric": curve.metric, "rows": curve.rows}
    return [{**about, **asdict(point), "unit": curve.unit} for point in curve.points]
