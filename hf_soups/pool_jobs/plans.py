"""A plan of a frontier with the pool that it was searched on, checked to belong together; then certified or drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hf_soups.cascades.certify import Certificate, certify
from hf_soups.cascades.frontier import Frontier, opened_reference
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.provenance import MemberSeen, Seen, changed
from hf_soups.errors import InputError
from hf_soups.metrics import METRICS
from hf_soups.pool import Pool, read_pool
from hf_soups.pool.report_rows import OtherPool, SelectAndReport, select_and_report
from hf_soups.pool.rows import rows_of_pool
from hf_soups.predictions import Predictions, same_rows

OFF = 1e-6  # by so much a score or a share of the cost may differ when it is computed again


@dataclass(frozen=True)
class OpenedPlan:
    """A plan of a frontier, the pool that it was searched on, and the rows of both roles."""

    path: Path  # of the frontier
    frontier: Frontier
    index: int
    parts: SelectAndReport

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.frontier.plan(self.index)

    @property
    def pool(self) -> Pool:
        """The pool."""
        return self.parts.pool


def open_plan(reference: str, pool: str | Path | None = None) -> OpenedPlan:
    """The plan that a name such as `preds/frontier.json#3` stands for, with its pool.

    Args:
        reference: FILE#NUMBER.
        pool: where the pool is now; default: where the frontier says, relative to itself.
    Raises:
        InputError: if there is no such plan or pool, or the pool is not any more what the search saw.
    """
    path, frontier, index = opened_reference(reference)
    return OpenedPlan(path, frontier, index, _parts(path, frontier, pool, (frontier.plan(index),)))


def check_frontier(path: Path, frontier: Frontier, pool: str | Path) -> SelectAndReport:
    """The rows of both roles of a frontier's pool, all members compared, and the scores of the plans that are printed.

    Args:
        path: of the frontier.
        frontier: what it holds.
        pool: where its pool is.
    Raises:
        InputError: as `open_plan`.
    """
    if isinstance(frontier.report, OtherPool) and not Path(frontier.report.folder).is_dir():
        frontier = replace(frontier, report=None)  # rows to report on that lie elsewhere by now: not compared
    return _parts(path, frontier, pool, (*frontier.singles, *(frontier.plans[i] for i in frontier.printed())))


def seen_in(pool: Pool, names: Iterable[str]) -> Seen:
    """Rows, answers and weights of some of a pool's members; those that it lacks are left out."""
    members = {}
    for name in names:
        if name in pool.members:
            member = pool.members[name]
            members[name] = MemberSeen(pool.predictions[name].fingerprint, member.sha256, member.files)
    return Seen(pool.data.fingerprint, members)


def _parts(path: Path, frontier: Frontier, pool: str | Path | None, plans: Iterable[Plan]) -> SelectAndReport:
    if not (pool or frontier.pool):
        raise InputError(f"{path}: it was not searched on a pool of predictions. Search one (hf-soups cascade search).")
    at = Path(pool or frontier.pool)
    if not at.is_dir():
        raise InputError(
            f"{path}: the pool that it was searched on is not at {at} any more. Move it back, or name it (--pool)."
        )
    searched, plans = read_pool(at), tuple(plans)
    names = list(dict.fromkeys(name for plan in plans for name in plan.members))
    _compare(path, frontier.chosen_on or Seen(frontier.data), searched, names)
    parts = select_and_report(searched, frontier.report, frontier.seed)
    if frontier.reported_on is not None and isinstance(frontier.report, OtherPool):
        _compare(path, frontier.reported_on, read_pool(frontier.report.folder), names)
    for plan in plans:
        _check_scores(path, plan, parts.select)
    return parts


def _compare(path: Path, before: Seen, pool: Pool, names: list[str]) -> None:
    if not before.members and before.data and same_rows(before.data, pool.data.fingerprint):
        return  # of 0.1.0, which kept the rows alone: the scores tell
    differ = changed(before, seen_in(pool, names), names)
    if differ:
        raise InputError(
            f"{pool.folder} is not any more what {path} was searched on: {'; '.join(differ)}. Search again "
            "(hf-soups cascade search)."
        )


def _check_scores(path: Path, plan: Plan, select: Mapping[str, Predictions]) -> None:
    """The plan must score and cost on its rows what the frontier says."""
    if math.isnan(plan.score) or plan.metric not in METRICS:
        return
    answers, metric = plan.apply(select), METRICS[plan.metric]
    score = metric.sign * metric.compute(answers)
    assert answers.costs is not None
    cost = float(answers.costs.mean())
    if abs(score - plan.score) > OFF or abs(cost - plan.average_cost) > OFF * max(1.0, abs(cost)):
        raise InputError(
            f"{path}: the plan of {', '.join(plan.members)} scores {score:.6g} and costs {cost:.6g} on the rows that "
            f"it was chosen on, where the file says {plan.score:.6g} and {plan.average_cost:.6g}: it does not belong "
            "to these answers. Search again (hf-soups cascade search)."
        )


def certify_plan(
    reference: str,
    *,
    against: str | None = None,
    max_loss: float = 0.01,
    delta: float = 0.05,
    seed: int = 0,
) -> Certificate:
    """Thresholds for a plan such as `preds/frontier.json#3` that lose at most `max_loss` accuracy with 1 - `delta`.

    Args:
        reference: FILE#NUMBER.
        against: the model whose accuracy is the measure; default: all of the plan's members together.
        max_loss: of accuracy, in (0, 1).
        delta: chance that the certificate is wrong.
        seed: of the split into ordering and test rows.
    Raises:
        InputError: if the search kept no rows back, which a certificate needs.
    """
    opened = open_plan(reference)
    rows = unseen_rows(opened)
    return certify(opened.plan, rows, reference=against, max_loss=max_loss, delta=delta, seed=seed)


def unseen_rows(opened: OpenedPlan) -> Mapping[str, Predictions]:
    """The rows that the search did not see.

    Raises:
        InputError: if it saw all of them.
    """
    if opened.parts.report is None:
        raise InputError(
            f"{opened.path}: the search saw every row, and a certificate needs rows that it did not see. "
            "Search again with --report 0.5, or with the folder of another pool."
        )
    return opened.parts.report


def draw_plan(reference: str, out: str | Path, *, images: bool = True) -> tuple[Path, ...]:
    """Draw score against cost, exits, reliability and, of images, a sheet by exit; the first three with their CSV.

    Args:
        reference: FILE#NUMBER.
        out: the folder.
        images: read the pool's images again for the sheet.
    """
    from hf_soups.pool_jobs.pictures import draw_cascade_pictures

    opened = open_plan(reference)
    frontier, plan, pool, parts = opened.frontier, opened.plan, opened.pool, opened.parts
    rows = parts.select if parts.report is None else parts.report
    own_rows = images and pool.kind == "image" and not isinstance(frontier.report, OtherPool)
    shown = rows_of_pool(pool) if own_rows else None
    return draw_cascade_pictures(
        out, frontier, plan.apply(rows), plan=plan, report=parts.report, images=shown, members=pool.members
    )
