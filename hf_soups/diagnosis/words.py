"""Words: what the numbers of a diagnosis mean, and what to do about it; each sentence follows from `Findings` alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hf_soups.diagnosis.findings import Findings, Single
from hf_soups.diagnosis.verdict import (
    above,
    height,
    loss,
    lowest_learning_rate,
    points,
    rate,
    score,
    scored,
    separating_rule,
    settings,
    shown,
    verdict,
)
from hf_soups.soups.soup import Step


def in_words(facts: Findings) -> tuple[str, ...]:
    """The diagnosis, one paragraph an item: what was measured, why each run is in or out, and the verdict."""
    if len(facts.answering) < 2:
        return (_measured(facts), *_nan(facts), *_absent(facts))
    return (
        verdict(facts),
        _measured(facts),
        _greedy(facts),
        *_outside(facts),
        *_nan(facts),
        *_absent(facts),
        *_basin(facts),
        *_geometry(facts),
        _ensembles(facts),
        *facts.notes,
    )


# Greedy: what it did, or what it would have met.


def _measured(facts: Findings) -> str:
    part = f" (a subset of {facts.all_rows})" if facts.rows < facts.all_rows else ""
    scores = [s.score for s in facts.answering]
    told = f"{len(facts.singles)} runs, {facts.metric} on {facts.rows} select rows{part}"
    return (
        f"{told}: from {score(facts, scores[-1])} to {score(facts, scores[0])} ({facts.best.name}). Measured: "
        f"{len(facts.pairs)} of {facts.possible_pairs} pairs."
    )


def _greedy(facts: Findings) -> str:
    if facts.greedy is None:
        return (
            "No greedy soup chosen on select lies in a sweep's folder here, so each run is judged by its plain average "
            f"with the best, {facts.best.name} (hf-soups cook --method greedy makes one)."
        )
    kept, reached = facts.greedy.members, facts.greedy.steps[-1].best_so_far
    gain = facts.gain(reached, _greedy_start(facts))
    if len(kept) == 1:
        return f"Greedy kept {kept[0]} alone ({score(facts, reached)}): no average with another run reached it."
    beyond = "more than chance" if gain > facts.noise else "within the sampling error"
    return (
        f"Greedy kept {_all_or(len(kept), facts)}: {', '.join(kept)} ({score(facts, reached)}, {above(facts, gain)} "
        f"the best run alone: {beyond})."
    )


def _greedy_start(facts: Findings) -> float:
    """Score of the best single as greedy saw it: on all rows, also where the diagnosis takes a subset."""
    assert facts.greedy is not None
    single = next((s for s in facts.greedy.steps if s.ingredients == 1), None)
    return facts.best.score if single is None or facts.rows == facts.all_rows else single.score


def _all_or(kept: int, facts: Findings) -> str:
    return f"all {kept}" if kept == len(facts.singles) else f"{kept} of {len(facts.singles)}"


def _outside(facts: Findings) -> list[str]:
    """Why each run is not in the soup, the runs of one reason in one sentence."""
    inside = (facts.best.name,) if facts.greedy is None else facts.greedy.members
    runs: dict[str, list[Single]] = {}
    for single in facts.answering:
        if single.name not in inside:
            runs.setdefault(_reason(facts, single), []).append(single)
    return [_sentence(facts, reason, runs[reason]) for reason in REASONS if reason in runs]


REASONS = {
    "barrier": "Behind a barrier from {best}",
    "weak": "No barrier from {best}, but too weak beside it",
    "chance": "Left out by a difference within the sampling error",
    "near": "Their average with {best} is worse, but within the sampling error",
    "gain": "Their average with {best} is no worse than the better of the two",
    "other": "No barrier from {best}, and alone within chance of it, yet the soup lost by adding it",
    "unknown": "Not measured together with {best} (a larger --pairs does)",
}


def _reason(facts: Findings, single: Single) -> str:
    """The key of why a run is not in the soup."""
    pair, lost = facts.with_best(single.name), _lost(facts, single)
    if pair is not None and pair.line.barrier > facts.noise:
        return "barrier"
    if lost is None:
        return "unknown"
    if lost <= facts.noise:
        worse = "near" if facts.greedy is None else "chance"
        return "gain" if lost <= 0 else worse
    weak = facts.gain(facts.best.score, single.score) > facts.noise
    return "weak" if weak and pair is not None else "other"


def _sentence(facts: Findings, reason: str, runs: Sequence[Single]) -> str:
    best = facts.best.name
    if reason == "barrier" and len(runs) == 1:
        return f"{runs[0].name} lies behind a barrier {_told(facts, reason, runs[0])} from {best}."
    told = [f"{scored(facts, run)} {_told(facts, reason, run)}".rstrip() for run in runs]
    return f"{REASONS[reason].format(best=best)}: {'; '.join(told)}."


def _told(facts: Findings, reason: str, run: Single) -> str:
    """The numbers behind a reason."""
    pair, lost = facts.with_best(run.name), _lost(facts, run)
    if reason == "barrier" and pair is not None:
        return f"of {height(facts, pair.line.barrier)}{settings(facts, run)}"
    if reason == "weak" and pair is not None:
        gains = above(facts, pair.line.gain_over_mean), above(facts, pair.line.gain_over_better)
        return f"(their average {gains[0]} the mean of the two, {gains[1]} the better)"
    if lost is None:
        return ""
    # greedy's own steps were scored on all select rows, pairs on those that were asked for
    rows = facts.all_rows if _refused(facts, run) else facts.rows
    return f"(together {above(facts, -lost)} it)" if lost <= 0 else f"(adding it lost {loss(facts, lost, rows)})"


def _lost(facts: Findings, single: Single) -> float | None:
    """What adding the run lost: in greedy's own step, else in the average with the best; None if not measured."""
    refused = _refused(facts, single)
    if refused:
        return math.inf if math.isnan(refused[0].score) else facts.gain(refused[0].best_so_far, refused[0].score)
    pair = facts.with_best(single.name)
    return None if pair is None else -pair.line.gain_over_better


def _refused(facts: Findings, single: Single) -> list[Step]:
    """Greedy's step that left the run out, if it did."""
    steps = () if facts.greedy is None else facts.greedy.steps
    return [s for s in steps if s.candidate == single.name and not s.accepted and not s.removes]


def _nan(facts: Findings) -> list[str]:
    broken = [s for s in facts.singles if math.isnan(s.score)]
    return [
        f"{s.name} answers NaN, so no line to it was measured{settings(facts, s)}: it diverged or overflows; "
        "fine-tune it again with a lower learning rate."
        for s in broken
    ]


def _absent(facts: Findings) -> list[str]:
    return [f"{a.name} was not measured: {a.reason}{settings(facts, a)}." for a in facts.absent]


# Barriers, angles, ensembles.


def _basin(facts: Findings) -> list[str]:
    if not facts.pairs:
        return []
    if not facts.blocked:
        dip = max(facts.pairs, key=lambda p: p.line.barrier)
        return [
            f"No pair has a barrier beyond the sampling error (the deepest dip is {points(facts, dip.line.barrier)}, "
            f"{dip.line.a} - {dip.line.b}): as far as measured the runs lie in one basin."
        ]
    if not facts.free:
        return [_no_common_basin(facts)]
    rule = separating_rule(facts)
    if rule is None:
        return [
            f"{len(facts.blocked)} of {len(facts.pairs)} measured pairs have a barrier; no single setting (learning "
            "rate, epochs, batch size, distance from the start) tells them from the others, so no rule was found."
        ]
    show, verb = shown(rule.setting), ("up to", "from") if rule.upward else ("down to", "at")
    advice = {
        "distance from the start": "Fewer steps or a lower learning rate keep runs nearer.",
        "batch size": f"Keep it at {show(rule.free)} or above.",
    }.get(rule.setting, f"Keep it at {show(rule.free)} or below.")
    further = "on" if rule.upward else "or less"
    return [
        f"The {rule.setting} tells which: the {len(facts.free)} pairs without a barrier have runs {verb[0]} "
        f"{show(rule.free)}, each of the {len(facts.blocked)} with one has a run {verb[1]} {show(rule.blocked)} "
        f"{further}. {advice}"
    ]


def _no_common_basin(facts: Findings) -> str:
    lowest = lowest_learning_rate(facts.pairs, facts)
    below = "" if lowest is None else f"; the lowest learning rate here was {rate(lowest)}, so try below it"
    return (
        f"All {len(facts.pairs)} measured pairs have a barrier: the runs do not share a basin at all (other starts or "
        f"heads, too high a learning rate, or too long training{below})."
    )


def _geometry(facts: Findings) -> list[str]:
    angles = [p.angle for p in facts.pairs if p.angle is not None and not math.isnan(p.angle)]
    if not angles:
        return []
    return [
        f"Angles at the start lie between {min(angles):.0f} and {max(angles):.0f} degrees (0: the same direction, 90: "
        "nothing in common). The larger the angle within a basin, the more averaging has to work with."
    ]


def _ensembles(facts: Findings) -> str:
    of_all = (
        f"Uniform soup of all {len(facts.answering)} {score(facts, facts.uniform.soup)}, mean-logit ensemble of all "
        f"{score(facts, facts.uniform.ensemble)}, best alone {score(facts, facts.best.score)}."
    )
    gaps = [facts.gain(p.line.middle, p.ensemble) for p in facts.pairs if not math.isnan(p.line.middle)]
    if not gaps:
        return of_all
    return f"{of_all} The average of two runs is {above(facts, sum(gaps) / len(gaps))} their ensemble in the mean."


def paragraphs(title: str, words: Sequence[str]) -> str:
    """The words as Markdown."""
    return f"# {title}\n\n" + "\n".join(f"- {word}" for word in words) + "\n"
