"""What the page shows as HTML: a plan, one input's way, a batch. Every text that is not ours is escaped."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape

import numpy as np

from hf_soups.cascades.plan import Plan
from hf_soups.costs import UNITS
from hf_soups.demo.journeys import Always, Journey, Meeting, totals
from hf_soups.metrics import traits_of
from hf_soups.wording import cost_in_words, score_in_words

CLASSES = 4  # shown of each member


def unit_in_words(unit: str) -> str:
    """What costs count.

    >>> unit_in_words("macs"), unit_in_words("")
    ('MACs per example', 'of cost per example')
    """
    return UNITS.get(unit, f"{unit} per example") if unit else "of cost per example"


def one_unit_in_words(unit: str) -> str:
    """What the cost of a single input counts.

    >>> one_unit_in_words("seconds_batch_1")
    'seconds at batch 1'
    """
    return unit_in_words(unit).replace(" per example", "")


FOR_HUMAN = "Ask a human. Likeliest:"


def plan_in_words(plan: Plan) -> str:
    """Members in order, each with the confidence from which on it answers.

    >>> plan_in_words(Plan(("small", "large"), (0.7790,), (1.0, 5.0)))
    'small (answers at confidence 0.779 or more), then large'
    >>> plan_in_words(Plan(("small",), (), (1.0,), abstain=0.6))
    'small alone; a human where the confidence is below 0.600 even then'
    """
    if plan.abstain is not None:
        own = plan_in_words(replace(plan, abstain=None))
        return f"{own}; a human where the confidence is below {_digits(plan.abstain)} even then"
    if len(plan.members) == 1:
        return f"{plan.members[0]} alone"
    if all(threshold > 1 for threshold in plan.thresholds):
        return f"{', '.join(plan.members[:-1])} and {plan.members[-1]}, all asked for every input"
    parts = [
        name if threshold > 1 else f"{name} (answers at confidence {_digits(threshold)} or more)"
        for name, threshold in zip(plan.members, plan.thresholds, strict=False)
    ]
    return ", then ".join([*parts, plan.members[-1]])


def as_metric(value: float, metric: str) -> float:
    """A score, or a bound of one, as its metric gives it: plans hold losses negated."""
    return traits_of(metric).sign * value


def score_line(plan: Plan) -> str:
    """The plan's score, on what, and how far it can be trusted.

    >>> score_line(Plan(("a",), (), (1.0,), score=0.9833, rows=300))
    'accuracy 98.3 (x 100) on the 300 rows that the plans were chosen on, so optimistic'
    """
    if math.isnan(plan.score):
        return "not scored"
    scale = " (x 100)" if traits_of(plan.metric).percent else ""
    rows = f"the {plan.rows} rows" if plan.rows else "the rows"
    bound = ""
    if plan.score_low is not None:
        low = score_in_words(as_metric(plan.score_low, plan.metric), plan.metric)
        bound = f"; 95% lower bound on new rows: {low}"
    score = score_in_words(as_metric(plan.score, plan.metric), plan.metric)
    return f"{plan.metric} {score}{scale} on {rows} that the plans were chosen on, so optimistic{bound}"


def cost_line(cost: float, always: Always, unit: str) -> str:
    """A cost beside that of one member asked for every input.

    >>> cost_line(1.0, Always("large", 5.0), "macs")
    '1 MACs per example, 20% of asking large for every input (5): 80% saved'
    >>> cost_line(6.0, Always("large", 5.0), "macs")
    '6 MACs per example, 120% of asking large for every input (5): 20% more'
    """
    if math.isnan(cost):
        return "cost not known"
    return (
        f"{cost_in_words(cost)} {unit_in_words(unit)}, {share_of(cost, always)} of asking {always.member} for every "
        f"input ({cost_in_words(always.cost)}): {saved_in_words(cost, always)}"
    )


def share_of(cost: float, always: Always) -> str:
    """A cost in per cent of asking one member for every input."""
    return f"{100 * cost / always.cost:.0f}%" if always.cost > 0 else "-"


def saved_in_words(cost: float, always: Always) -> str:
    """What was saved, or spent on top.

    >>> saved_in_words(5.0, Always("large", 5.0))
    'nothing saved'
    """
    saved = always.saved(cost)
    if round(100 * saved) == 0:
        return "nothing saved"
    return f"{100 * saved:.0f}% saved" if saved > 0 else f"{-100 * saved:.0f}% more"


def decision(meeting: Meeting) -> str:
    """Why a member answered, or the next was asked.

    >>> import numpy as np
    >>> p = np.array([0.9, 0.1])
    >>> decision(Meeting("small", p.astype(np.float32), p, 0.9, 0.95, 1.0))
    'confidence 0.900, below the threshold of 0.950: asks the next member'
    """
    confidence = f"confidence {_digits(meeting.confidence)}"
    if meeting.threshold is None:
        return f"{confidence}; the last member answers whatever its confidence"
    if meeting.threshold > 1:
        return f"{confidence}; the next member is always asked"
    if meeting.leaves:
        return f"{confidence}, at or above the threshold of {_digits(meeting.threshold)}: answers"
    return f"{confidence}, below the threshold of {_digits(meeting.threshold)}: asks the next member"


def place_of(exit: int, members: Sequence[str]) -> str:
    """The member that answered.

    >>> place_of(0, ("small", "large"))
    'small (member 1 of 2)'
    """
    return f"{members[exit]} (member {exit + 1} of {len(members)})"


def _digits(value: float) -> str:
    return f"{value:.3f}"


def message(text: str, *, wrong: bool = False) -> str:
    """A sentence in the place of a result; `wrong` for what the visitor has to change."""
    return f'<p class="hs-alert" role="alert">{escape(text)}</p>' if wrong else f'<p class="hs-hint">{escape(text)}</p>'


def plan_view(plan: Plan, number: int, count: int, built: int, always: Always) -> str:
    """The plan that the slider is at.

    Args:
        plan: it.
        number: among the plans; 0 is the cheapest.
        count: of plans.
        built: the number of the one that the cascade was built with.
        always: what costs are held against.
    """
    title = f"Plan {number + 1} of {count}" + (", the one it was built with" if number == built else "")
    facts = {"Score": score_line(plan), "Average cost": cost_line(plan.average_cost, always, plan.unit)}
    return (
        f'<div class="hs-plan"><p class="hs-small">{escape(title)}</p>'
        f"<p><strong>{escape(plan_in_words(plan))}</strong></p>{_list(facts)}</div>"
    )


def journey_view(way: Journey, plan: Plan, labels: Sequence[str], always: Always) -> str:
    """One input's answer, the member that gave it, what that cost, and what every member said."""
    cost = {"Cost": f"{cost_in_words(way.cost)} {one_unit_in_words(plan.unit)}"}
    facts = cost if always.alone else {
        "Answered by": place_of(way.exit, plan.members), **cost,
        f"Against {always.member} for every input": f"{share_of(way.cost, always)}: {saved_in_words(way.cost, always)}",
    }  # fmt: skip
    title = "Likeliest classes" if always.alone else "Members asked"
    members = [_member_view(m, i, plan, labels, always.alone) for i, m in enumerate(way.meetings)]
    members += [_unasked_view(name, i) for i, name in enumerate(plan.members) if i > way.exit]
    return (
        f'<div class="hs-answer"><p class="hs-small">{FOR_HUMAN if way.for_human else "Answer"}</p>'
        f'<p class="hs-big">{escape(labels[way.answer])}</p>'
        f"<p>with probability {_percent(way.probability)}</p>{_list(facts)}</div>"
        f'<h3>{title}</h3><p class="hs-small">Confidence is {plan.rule.in_words()[1]}.</p>'
        f'<ol class="hs-members">{"".join(members)}</ol>'
    )


def batch_view(
    names: Sequence[str],
    ways: Sequence[Journey | str],
    plan: Plan,
    labels: Sequence[str],
    always: Always,
    pictures: Sequence[str] = (),
) -> str:
    """A batch as a table, below what it came to.

    Args:
        names: of the inputs.
        ways: of the inputs, or why one could not be read.
        plan: that was followed.
        labels: names of the classes.
        always: what costs are held against.
        pictures: data: addresses of small pictures of the inputs, or "".
    """
    shown = pictures or [""] * len(names)
    rows = "".join(
        _row(name, way, plan, labels, always, picture) for name, way, picture in zip(names, ways, shown, strict=True)
    )
    titles = ("Input", "Answer", "Probability", *(() if always.alone else ("Answered by", "Cost")))
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    costs = "" if always.alone else (
        f'<p class="hs-small">Costs in {escape(one_unit_in_words(plan.unit))}; in brackets, as a share of '
        f"the cost of {escape(always.member)}.</p>"
    )  # fmt: skip
    text = base64.b64encode(answers_csv(names, ways, plan, labels).encode()).decode()
    return (
        f"{_totals_view([way for way in ways if isinstance(way, Journey)], len(ways), plan, always)}{costs}"
        f'<p><a class="hs-link" download="answers.csv" href="data:text/csv;charset=utf-8;base64,{text}">'
        "Download as CSV</a></p>"
        '<div class="hs-scroll" role="region" aria-label="Answers" tabindex="0"><table class="hs-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def answers_csv(names: Sequence[str], ways: Sequence[Journey | str], plan: Plan, labels: Sequence[str]) -> str:
    """A batch as CSV: input, answer, probability, answered_by, cost and, where there is no answer, the reason."""
    held, abstains = io.StringIO(), plan.abstain is not None
    table = csv.writer(held, lineterminator="\n")
    table.writerow(
        ("input", "answer", "probability", "answered_by", "cost", "unit", "error", *["abstained"] * abstains)
    )
    for name, way in zip(names, ways, strict=True):
        if isinstance(way, str):
            table.writerow((_cell(name), "", "", "", "", "", _cell(way), *[""] * abstains))
        else:
            human = [str(way.for_human).lower()] * abstains
            table.writerow((_cell(name), _cell(labels[way.answer]), f"{way.probability:.6f}",
                            _cell(plan.members[way.exit]), f"{way.cost:g}", plan.unit, "", *human))  # fmt: skip
    return held.getvalue()


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def frontier_view(plans: Sequence[Plan], at: int) -> str:
    """Score against average cost of all plans, the current one marked; empty where there is nothing to draw."""
    known = [i for i, plan in enumerate(plans) if math.isfinite(plan.score) and math.isfinite(plan.average_cost)]
    if len(known) < 2 or at not in known:
        return ""
    x = _scaled([plans[i].average_cost for i in known], 8, 312)
    y = _scaled([-plans[i].score for i in known], 8, 92)
    dots = "".join(
        f'<circle class="{"hs-now" if i == at else "hs-dot"}" cx="{a:.1f}" cy="{b:.1f}" r="{6 if i == at else 3}"/>'
        for i, a, b in sorted(zip(known, x, y, strict=True), key=lambda point: point[0] == at)
    )
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    ends = [cost_in_words(plans[i].average_cost) for i in (known[0], known[-1])]
    about = f"Score against average cost of {len(known)} plans; plan {at + 1} is marked."
    return (
        f'<figure class="hs-frontier"><svg viewBox="0 0 320 100" role="img" aria-label="{escape(about)}">'
        f'<polyline points="{line}"/>{dots}</svg><figcaption class="hs-small"><span>{ends[0]}</span>'
        f"<span>average cost, {escape(unit_in_words(plans[at].unit))} (up: score)</span><span>{ends[1]}</span>"
        "</figcaption></figure>"
    )


def _totals_view(ways: Sequence[Journey], count: int, plan: Plan, always: Always) -> str:
    if not ways:
        return message("None of these could be read.", wrong=True)
    batch = totals(ways, plan)
    if always.alone:
        return f'<div class="hs-answer hs-totals">{_list({"Answered": f"{batch.count} of {count}"})}</div>'
    exits = ", ".join(
        f"{name} {left} ({_percent(share)})"
        for name, left, share in zip(plan.members, batch.exits, batch.shares, strict=True)
    )
    human = sum(way.for_human for way in ways)
    facts = {
        "Plan": plan_in_words(plan),
        "Answered": f"{batch.count - human} of {count}" + (f"; {human} for a human" if human else ""),
        "Answered by": exits,
        "Average cost": cost_line(batch.average_cost, always, plan.unit),
    }
    return f'<div class="hs-answer hs-totals">{_list(facts)}</div>'


def _row(
    name: str, way: Journey | str, plan: Plan, labels: Sequence[str], always: Always, picture: str
) -> str:  # fmt: skip
    small = f'<img class="hs-thumb" alt="" src="{escape(picture)}">' if picture else ""
    first = f'<th scope="row">{small}{escape(name)}</th>'
    if isinstance(way, str):
        return f'<tr>{first}<td colspan="{2 if always.alone else 4}" class="hs-wrong">{escape(way)}</td></tr>'
    said = labels[way.answer]
    cells = [f"{FOR_HUMAN} {said}" if way.for_human else said, _percent(way.probability)]
    if not always.alone:
        cells += [
            f"{way.exit + 1}. {plan.members[way.exit]}", f"{cost_in_words(way.cost)} ({share_of(way.cost, always)})",
        ]  # fmt: skip
    return f"<tr>{first}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _member_view(meeting: Meeting, number: int, plan: Plan, labels: Sequence[str], alone: bool) -> str:
    together = number > 0 and plan.rule.combine != "last"
    likeliest = np.argsort(-np.maximum(meeting.own, meeting.combined), kind="stable")[:CLASSES]
    best = likeliest[np.argsort(-meeting.combined[likeliest], kind="stable")]
    titles = ("Class", "Alone", "Together so far") if together else ("Class", "Probability")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    rows = "".join(
        f'<tr><th scope="row">{escape(labels[i])}</th>{_bar(float(meeting.own[i]))}'
        f"{_bar(float(meeting.combined[i])) if together else ''}</tr>"
        for i in best.tolist()
    )
    badge = "answered" if meeting.leaves else "not sure enough"
    said = f"confidence {_digits(meeting.confidence)}" if alone else decision(meeting)
    name = "" if alone else (
        f'<h4>{number + 1}. {escape(meeting.member)}<span class="hs-badge">{badge}</span></h4>'
    )  # fmt: skip
    return (
        f'<li class="hs-member{" hs-left" if meeting.leaves else ""}">{name}'
        f"{_gauge(meeting)}<p>{escape(said)}.</p>"
        f'<table class="hs-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></li>'
    )


def _unasked_view(name: str, number: int) -> str:
    return (
        f'<li class="hs-member hs-unasked"><h4>{number + 1}. {escape(name)}<span class="hs-badge">not asked</span>'
        "</h4></li>"
    )


def _gauge(meeting: Meeting) -> str:
    """The confidence as a bar with a mark at the threshold; the sentence below says the same."""
    mark = ""
    if meeting.threshold is not None and meeting.threshold <= 1:
        mark = f'<span class="hs-mark" style="left:{100 * meeting.threshold:.1f}%"></span>'
    return (
        f'<div class="hs-gauge" aria-hidden="true"><span style="width:{100 * meeting.confidence:.1f}%"></span>'
        f"{mark}</div>"
    )


def _bar(share: float) -> str:
    return (
        f'<td><span class="hs-share">{_percent(share)}<span class="hs-bar" aria-hidden="true">'
        f'<span style="width:{100 * share:.1f}%"></span></span></span></td>'
    )


def _list(facts: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()) + "</dl>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _scaled(values: Sequence[float], low: float, high: float) -> list[float]:
    least, span = min(values), max(values) - min(values)
    return [low + (high - low) * ((value - least) / span if span else 0.5) for value in values]
