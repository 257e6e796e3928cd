"""The page's first sentence: which model to ship and why; chosen on select, shown on report.

Candidates are the best single model and what costs no more a row than it does: soups, and cascades by their average.
The best of them on select is named, of equals the cheapest. What costs more is named beside it where it scores more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hf_soups.costs import UNITS
from hf_soups.leaderboard.rows import Row
from hf_soups.metrics import METRICS, Metric, PairedDifference, metric_named, paired_bootstrap, score, traits_of
from hf_soups.predictions import Predictions
from hf_soups.reporting.page.sources import AnsweredPool, ReportContent, ShownCascade, ShownSweep
from hf_soups.wording import cost_in_words, difference_in_words, interval_in_words, score_in_words

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Choice:
    """What to ship, in words; and its answers beside the best single model's, where both are at hand."""

    words: tuple[str, ...]  # the first one names it
    name: str = ""
    answers: Predictions | None = None
    role: str = ""  # of the rows answered
    best_name: str = ""  # the same model where nothing is better
    best_answers: Predictions | None = None


def choice_of(content: ReportContent) -> Choice:
    """What to ship of all that is there."""
    if content.sweep is not None and content.sweep.board.scored:
        found = _of_sweep(content.sweep)
        return replace(found, words=(*found.words, *_not_compared(content, content.sweep)))
    for cascade in content.cascades:
        if cascade.answered is not None and cascade.answers is not None and len(cascade.answers):
            return _of_cascade(cascade, cascade.answered)
    if content.cascades:
        return Choice((_unanswered(content.cascades[0]),))
    for some in content.answered:
        return _of_pool(some)
    return Choice(("Nothing to ship yet: no run has finished.",))


# Of a sweep


def _of_sweep(sweep: ShownSweep) -> Choice:
    metric, rows = sweep.found.metric, sweep.board.scored
    best, answers = rows[0], {m.row.name: m.report for m in sweep.found.everything}
    pick = _picked(sweep, metric)
    gain = None
    if pick.name != best.name:
        gain = paired_bootstrap(answers[pick.name], answers[best.name], metric, resamples=RESAMPLES)
    beaten = gain is not None and max(metric.sign * gain.low, metric.sign * gain.high) < 0
    if pick.name == best.name or beaten:
        words = (_single_wins(sweep, best, pick, gain), *_dearer(sweep, best, metric))
        return Choice(words, best.name, answers[best.name], "report", best.name, answers[best.name])
    assert gain is not None
    first = (
        f"Ship {_named(pick)}: of what costs no more a row than {best.name}, the best single model, it scored highest "
        f"on the {sweep.board.select_rows} select rows ({score_in_words(pick.select, metric.name)}; {best.name} "
        f"{score_in_words(best.select, metric.name)}). {_shown(sweep, pick)}"
    )
    words = (first, _gain(gain, pick, best, metric, sweep.board.report_rows), *_dearer(sweep, pick, metric))
    return Choice(words, pick.name, answers[pick.name], "report", best.name, answers[best.name])


def _picked(sweep: ShownSweep, metric: Metric) -> Row:
    """The best on select of what costs no more than the best single model; of equals the cheapest."""
    able = [row for row in sweep.board.scored if _affordable(row, sweep.board.scored[0])]
    return max(able, key=lambda row: (metric.rank(_select(row)), -(row.macs or 0)))


def _affordable(row: Row, best: Row) -> bool:
    if row is best:
        return True
    cheap = row.macs is not None and best.macs is not None and row.macs <= best.macs
    return row.status == "finished" and (row.kind == "soup" or (row.kind in ("ensemble", "cascade") and cheap))


def _select(row: Row) -> float:
    return math.nan if row.select is None else row.select


def _named(row: Row) -> str:
    counted = row.kind == "soup" and row.ingredients and row.pool
    return f"{row.name} ({row.ingredients} of {row.pool} models)" if counted else row.name


def _shown(sweep: ShownSweep, row: Row, *, decided: bool = False) -> str:
    """Its score on report, with interval and cost; `decided`: the report rows decided against another one."""
    board = sweep.board
    ends = interval_in_words(row.report_low, row.report_high, board.metric)
    cost = f", at {cost_in_words(row.macs)} MACs a row{_share(row, board.scored[0])}" if row.macs else ""
    untouched = "" if decided else ", which were not looked at when choosing,"
    return (
        f"On the {board.report_rows} report rows{untouched} its {board.metric} is "
        f"{score_in_words(row.report, board.metric)} {ends}".rstrip()
        + f"{cost}."
    )


def _share(row: Row, best: Row) -> str:
    """How much of the best single model's cost, where it differs."""
    differs = row.macs and best.macs and row.macs != best.macs
    return f" ({row.macs / best.macs:.2g}x of {best.name})" if differs and row.macs and best.macs else ""


def _gain(gain: PairedDifference, pick: Row, best: Row, metric: Metric, rows: int) -> str:
    assert pick.report is not None
    assert best.report is not None
    words = difference_in_words(pick.report, best.report, metric.name, rows)
    sure = min(metric.sign * gain.low, metric.sign * gain.high) > 0
    meaning = "more than chance explains" if sure else "it can be chance"
    ends = interval_in_words(gain.low, gain.high, metric.name)
    return f"Its difference from {best.name} on report is {words}, 95% interval {ends}: {meaning}."


def _single_wins(sweep: ShownSweep, best: Row, pick: Row, gain: PairedDifference | None) -> str:
    board = sweep.board
    runs, made = len(sweep.found.runs), [row for row in board.scored if row.kind in ("soup", "cascade")]
    if gain is not None:
        why = (
            f"the best single model: {_named(pick)} scored higher on select, but on report it is worse by more than "
            f"chance explains (95% interval of the difference {interval_in_words(gain.low, gain.high, board.metric)})"
        )
    elif made:
        why = f"the best single model: no soup or cascade at its cost beat it on the {board.select_rows} select rows"
    elif runs > 1:
        why = f"the best of {runs} runs on the {board.select_rows} select rows"
    else:
        why = "the only run with scores"
    todo = "" if made or runs < 2 else f" Nothing was made of these runs yet; try hf-soups cook {sweep.folder}."
    return f"Ship {best.name}, {why}. {_shown(sweep, best, decided=gain is not None)}{todo}"


def _dearer(sweep: ShownSweep, pick: Row, metric: Metric) -> Iterator[str]:
    """What scores more on select than the choice, and costs more."""
    best = sweep.board.scored[0]
    others = [r for r in sweep.board.scored if r.kind in ("ensemble", "cascade") and not _affordable(r, best)]
    others = [r for r in others if metric.rank(_select(r)) > metric.rank(_select(pick))]
    if others:
        most = max(others, key=lambda row: (metric.rank(_select(row)), -(row.macs or 0)))
        yield (
            f"At a greater cost {most.name} scored higher on select ({score_in_words(most.select, metric.name)})."
            f" {_shown(sweep, most)}"
        )


def _not_compared(content: ReportContent, sweep: ShownSweep) -> Iterator[str]:
    """Cascades that are no line of the leaderboard; those of the sweep itself have other names there."""
    names = {row.name for row in sweep.board.rows}
    for cascade in content.cascades:
        of_sweep = cascade.answered is not None and cascade.answered.pool is None
        if cascade.row_name not in names and not of_sweep:
            yield f"Not compared, as its rows are not the leaderboard's: cascade {cascade.name} ({cascade.chain})."


# Of cascades and pools


def _of_cascade(cascade: ShownCascade, some: AnsweredPool) -> Choice:
    plan, best = cascade.plan, some.frontier.best_single
    assert cascade.answers is not None
    name, own = best.members[0], some.shown[best.members[0]]
    where = f"the {cascade.rows} {cascade.role} rows"
    too_good = "" if cascade.role == "report" else " It was chosen on these rows, so the score is too good."
    single = f"{name}, the best single model, has {_scored(own, plan.metric)} at {_cost(best.average_cost, plan.unit)}"
    costs = cascade.answers.costs
    cost = plan.average_cost if costs is None else float(costs.mean())
    if plan.score <= best.score and plan.average_cost >= best.average_cost:
        words = (
            f"Ship {name}, the best single model: cascade {cascade.name} scores no more on select, at no less cost. "
            f"Its {plan.metric} on {where} is {_scored(own, plan.metric)} at "
            f"{_cost(best.average_cost, plan.unit)}.{too_good}"
        )
        return Choice((words,), name, own, cascade.role, name, own)
    why = "it reaches the best single model's score on select" if plan.score >= best.score else "it is cheaper"
    share = f", so the cascade costs {cost / best.average_cost:.2g}x as much" if best.average_cost else ""
    first = (
        f"Ship cascade {cascade.name} ({cascade.chain}): {why}. Its {plan.metric} on {where} is "
        f"{_scored(cascade.answers, plan.metric)} at {_cost(cost, plan.unit)}; {single}{share}.{too_good}"
    )
    worse = () if plan.score >= best.score else (f"On select it scores less than {name}: whether that pays is yours.",)
    return Choice((first, *worse), cascade.name, cascade.answers, cascade.role, name, own)


def _unanswered(cascade: ShownCascade) -> str:
    plan = cascade.plan
    known = "it keeps no score of its own"
    if not math.isnan(plan.score):
        known = (
            f"{plan.metric} {score_in_words(traits_of(plan.metric).sign * plan.score, plan.metric)} at "
            f"{_cost(plan.average_cost, plan.unit)} on the {plan.rows or '?'} rows that it was chosen on, so the score "
            "is too good"
        )
    return (
        f"Only cascade {cascade.name} ({cascade.chain}) is here, without its members' answers: {known}. Name the pool "
        "that it was built from as well, to see whether to ship it or its last member."
    )


def _of_pool(some: AnsweredPool) -> Choice:
    best = some.frontier.best_single
    name, own = best.members[0], some.shown[best.members[0]]
    alone = "the only model here" if len(some.shown) == 1 else f"the best of {len(some.shown)} models"
    cost = f" at {_cost(best.average_cost, best.unit)}" if best.average_cost else ""
    chosen = "" if some.role == "report" else " It was chosen on these rows, so the score is too good."
    searched = "The search found no cascade worth its cost."
    if not some.frontier.plans:
        searched = "No cascade was found here; hf-soups cascade search looks for one."
    words = (
        f"Ship {name}, {alone}: its {best.metric} on the {len(own)} {some.role} rows is "
        f"{_scored(own, best.metric)}{cost}.{chosen} {searched}"
    )
    return Choice((words,), name, own, some.role, name, own)


def _scored(answers: Predictions, metric: str) -> str:
    if metric not in METRICS or answers.labels is None:
        return "not known"
    found = score(answers, metric_named(metric), resamples=RESAMPLES)
    return f"{score_in_words(found.value, metric)} {interval_in_words(found.low, found.high, metric)}"


def _cost(value: float, unit: str) -> str:
    named = UNITS.get(unit, unit or "(unit unknown)")
    return f"{cost_in_words(value)} {named.replace(' per example', '')} a row"
