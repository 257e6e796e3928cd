"""The pictures of a cascade: score against cost, who leaves where, reliability, and images by exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.costs.unit import UNITS
from hf_soups.data.split import Split
from hf_soups.errors import PredictionsError
from hf_soups.pool.member import Member
from hf_soups.predictions import Predictions
from hf_soups.report.costs import cost_picture, draw_cost_picture
from hf_soups.report.latency import draw_latency, latency_bars
from hf_soups.report.plots import BLUE, GREEN, VERMILION, legend_below, new_panels, save_figure
from hf_soups.report.reliability import draw_reliability
from hf_soups.report.sheet import draw_sheet
from hf_soups.report.table import amount, write_csv

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Exit:
    """The rows that left at one stage."""

    stage: int  # 1 is the first member
    member: str
    rows: int
    share: float  # of all rows
    accuracy: float | None  # of these rows; None without rows or labels
    cost: float | None  # of each of them


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
    found = exits_of(answers, stages)
    soups = [name for name, member in (members or {}).items() if is_soup(member)]
    written = draw_cost_picture(cost_picture(frontier, plan=plan, report=report, soups=soups), at / "score_vs_cost.png")
    unit = (plan or frontier.best_single).unit
    written += draw_exits(found, at / "exits.png", unit=unit)
    if answers.labels is not None:
        written += draw_reliability(answers, at / "reliability.png")
    if plan is not None and members is not None:
        bars = latency_bars(plan, answers, members, beside=frontier.best_single.members)
        written += draw_latency(bars, at / "latency.png") if bars else ()
    if images is not None:
        written += (draw_sheet(images, answers, at / "sheet.png", stages=stages),)
    return written


def is_soup(member: Member) -> bool:
    """Whether a member's weights lie in a soup's folder."""
    return (Path(member.source) / (member.subfolder or "") / "soup.json").is_file()


def exits_of(answers: CascadePredictions, members: Sequence[str] = ()) -> tuple[Exit, ...]:
    """Rows, accuracy and cost by exit stage.

    Args:
        answers: of a cascade, at least one row.
        members: names by stage; stages that no row left at are told of too.
    Raises:
        PredictionsError: if there are no rows.
    """
    assert answers.exits is not None
    assert answers.costs is not None
    if not len(answers):
        raise PredictionsError("the cascade answered no rows, so there is no exit to show.")
    hit = None if answers.labels is None else answers.answers == answers.labels
    made = []
    for stage in range(int(max(answers.exits.max() + 1, len(members)))):
        inside = answers.exits == stage
        rows = int(inside.sum())
        made.append(
            Exit(
                stage + 1,
                members[stage] if stage < len(members) else "",
                rows,
                rows / len(answers),
                float(hit[inside].mean()) if hit is not None and rows else None,
                float(answers.costs[inside].mean()) if rows else None,
            )
        )
    return tuple(made)


def draw_exits(exits: Sequence[Exit], path: str | Path, *, unit: str = "") -> tuple[Path, ...]:
    """Write share of rows and accuracy by exit stage as PNG, and the numbers as CSV beside it; both paths."""
    figure, (left, right) = new_panels(2)
    at = list(range(len(exits)))
    thick = min(0.7, 0.15 * len(exits) + 0.1)
    left.barh(at, [100 * e.share for e in exits], height=thick, color=BLUE, alpha=0.8)
    for i, e in enumerate(exits):
        cost = "" if e.cost is None else f", {amount(e.cost) if e.cost >= 1 else format(e.cost, '.3g')} each"
        left.annotate(f" {100 * e.share:.1f}{cost}", (100 * e.share, i), va="center", fontsize=8)
    left.set_xlim(0, 135)  # room for the words
    left.set_xticks([0, 25, 50, 75, 100])
    left.set_xlabel("% of the rows" + (f"; cost: {UNITS.get(unit, unit)}" if unit else ""), fontsize=9)
    known = [(i, 100 * e.accuracy) for i, e in enumerate(exits) if e.accuracy is not None]
    right.barh([i for i, _ in known], [a for _, a in known], height=thick, color=GREEN, alpha=0.8)
    for i, accuracy in known:
        right.annotate(f" {accuracy:.1f}", (accuracy, i), va="center", fontsize=8)
    if known:
        whole = sum(100 * e.share * e.accuracy for e in exits if e.accuracy is not None)
        right.axvline(whole, color=VERMILION, lw=1.5, ls="--", label=f"all rows: {whole:.1f}")
    right.set_xlim(0, 115)
    right.set_xlabel("accuracy x 100 of the rows that left there", fontsize=9)
    left.set_yticks(at, [f"exit {e.stage}" + (f"\n{e.member}" if e.member else "") for e in exits], fontsize=8)
    right.set_yticks(at, [""] * len(exits))
    for axes in (left, right):
        axes.set_ylim(len(exits) - 0.4, -0.6)  # the first exit on top
    legend_below(right)
    to = Path(path)
    save_figure(figure, to)
    write_csv(to.with_suffix(".csv"), [asdict(e) for e in exits])
    return to, to.with_suffix(".csv")
