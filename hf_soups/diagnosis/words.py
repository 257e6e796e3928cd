"""Words: what the numbers of a diagnosis mean, and what to do about it; each sentence follows from `Findings` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hf_soups.diagnosis.findings import KNOBS, Absent, Findings, Mixed, Single
from hf_soups.metrics import traits_of
from hf_soups.soups.soup import Step
from hf_soups.wording import loss_in_words, score_in_words


def in_words(facts: Findings) -> tuple[str, ...]:
    """The diagnosis, one paragraph an item: what was measured, why each run is in or out, and the verdict."""
    if len(facts.answering) < 2:
        return (_measured(facts), *_nan(facts), *_absent(facts))
    return (
        _verdict(facts),
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


# Does averaging pay?


def _verdict(facts: Findings) -> str:
    best_soup = _best_soup(facts)
    soup, ensemble = facts.gain(best_soup.soup, facts.best.score), facts.gain(facts.uniform.ensemble, facts.best.score)
    gains = (
        f"the best soup ({best_soup.name}) is {_above(facts, soup)} the best run alone ({_scored(facts, facts.best)}), "
        f"the ensemble of all {len(facts.answering)} is {_above(facts, ensemble)} it"
    )
    if _near_chance(facts):
        return f"Train longer before averaging: {_chance_words(facts)}"
    if soup > facts.noise:
        return f"Averaging pays here: {gains}. {_size(facts)}"
    if ensemble > facts.noise:
        return f"The runs' errors differ enough for an ensemble, but no soup uses it: {gains}. {_why_no_soup(facts)}"
    if not soup >= -facts.noise:  # NaN too
        return f"Averaging loses here: {gains}. {_size(facts)} {_why_nothing(facts)}"
    luck = f"{facts.best.name} was picked as the best of {len(facts.answering)} on these rows, partly by luck."
    return (
        f"At this size the effect does not show: {gains}. {_size(facts)} {luck} {_why_nothing(facts)} {_needed(facts)}"
    )


def _best_soup(facts: Findings) -> Mixed:
    """The best of the uniform soup and those cooked; a soup of one run is that run, and no soup."""
    mixed = [facts.uniform, *(m for m in facts.soups if len(m.members) > 1)]
    able = [m for m in mixed if not math.isnan(m.soup)]
    return max(able, key=lambda m: facts.sign * m.soup, default=facts.uniform)


def _near_chance(facts: Findings) -> bool:
    worse_end = facts.best.low if facts.sign > 0 else facts.best.high
    return facts.gain(worse_end, facts.chance) <= 0


def _chance_words(facts: Findings) -> str:
    return (
        f"no run is distinguishable from chance. The best, {_scored(facts, facts.best)}, is hardly better than giving "
        f"every row the class shares ({_score(facts, facts.chance)}): there is nothing in the weights to average yet."
    )


def _size(facts: Findings) -> str:
    return f"On {facts.rows} rows two runs differ by {_points(facts, facts.noise)} by chance."


def _why_no_soup(facts: Findings) -> str:
    if facts.blocked:
        return (
            f"They do not share one basin: {len(facts.blocked)} of {len(facts.pairs)} measured pairs have a barrier "
            f"between them, the highest {_height(facts, max(p.line.barrier for p in facts.blocked))}."
        )
    return (
        "No barrier was measured between pairs, so the runs share a basin; what is missing is either weights that are "
        "equally good (leave weak runs out) or a finer choice of coefficients."
    )


def _why_nothing(facts: Findings) -> str:
    scores = [s.score for s in facts.answering]
    diversity = facts.gain(facts.uniform.ensemble, sum(scores) / len(scores))
    spread = facts.gain(facts.best.score, facts.answering[-1].score)
    reasons = []
    if diversity <= facts.ensemble_noise:
        reasons.append(
            f"the ensemble is {_above(facts, diversity)} the average run, no more than chance: the models make the "
            "same errors, and there is no diversity to use (vary the settings more, or train longer)"
        )
    elif spread > facts.noise:
        reasons.append(
            f"the ensemble is {_above(facts, diversity)} the average run, so their errors do differ, but the runs are "
            f"unequal ({_score(facts, facts.answering[-1].score)} to {_score(facts, facts.best.score)}) and the weak "
            "take away what averaging gives (train them longer, or leave their settings out)"
        )
    if spread <= facts.noise:
        reasons.append(f"all runs score alike ({_points(facts, spread)} apart), so which is best is a matter of chance")
    if facts.blocked:
        reasons.append(f"{len(facts.blocked)} of {len(facts.pairs)} measured pairs have a barrier between them")
    return f"Because {'; '.join(reasons)}." if reasons else ""


def _needed(facts: Findings) -> str:
    """How many rows would show the largest gain that was seen; noise falls with the root of the rows."""
    gain = max(
        facts.gain(facts.uniform.ensemble, facts.best.score), facts.gain(_best_soup(facts).soup, facts.best.score)
    )
    if not gain > 0:
        return "Neither the ensemble nor a soup is above the best run, so more rows alone would not show a gain."
    rows = facts.rows * (facts.noise / gain) ** 2
    text = f"To tell a gain of {_points(facts, gain)} from chance takes about {_rounded(rows)} select rows"
    if rows > 10 * facts.all_rows:
        return f"{text}: better or more equal runs help more than rows."
    return f"{text} (select has {facts.all_rows})." if facts.rows < facts.all_rows else f"{text}."


# Greedy: what it did, or what it would have met


def _measured(facts: Findings) -> str:
    part = f" (a subset of {facts.all_rows})" if facts.rows < facts.all_rows else ""
    scores = [s.score for s in facts.answering]
    text = f"{len(facts.singles)} runs, {facts.metric} on {facts.rows} select rows{part}"
    return (
        f"{text}: from {_score(facts, scores[-1])} to {_score(facts, scores[0])} ({facts.best.name}). Measured: "
        f"{len(facts.pairs)} of {facts.possible_pairs} pairs."
    )


def _greedy(facts: Findings) -> str:
    if facts.greedy is None:
        return (
            "No greedy soup chosen on select was found for these runs, so each run is judged by its plain average "
            f"with the best, {facts.best.name} (hf-soups cook --method greedy makes one)."
        )
    kept, reached = facts.greedy.members, facts.greedy.steps[-1].best_so_far
    gain = facts.gain(reached, _greedy_start(facts))
    if len(kept) == 1:
        return f"Greedy kept {kept[0]} alone ({_score(facts, reached)}): no average with another run reached it."
    beyond = "more than chance" if gain > facts.noise else "within the sampling error"
    return (
        f"Greedy kept {_all_or(len(kept), facts)}: {', '.join(kept)} ({_score(facts, reached)}, {_above(facts, gain)} "
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
        return f"{runs[0].name} lies behind a barrier {_figures(facts, reason, runs[0])} from {best}."
    runs_in_words = [f"{_scored(facts, run)} {_figures(facts, reason, run)}".rstrip() for run in runs]
    return f"{REASONS[reason].format(best=best)}: {'; '.join(runs_in_words)}."


def _figures(facts: Findings, reason: str, run: Single) -> str:
    """The numbers behind a reason."""
    pair, lost = facts.with_best(run.name), _lost(facts, run)
    if reason == "barrier" and pair is not None:
        return f"of {_height(facts, pair.line.barrier)}{_settings(facts, run)}"
    if reason == "weak" and pair is not None:
        gains = _above(facts, pair.line.gain_over_mean), _above(facts, pair.line.gain_over_better)
        return f"(their average {gains[0]} the mean of the two, {gains[1]} the better)"
    if lost is None:
        return ""
    # greedy's own steps were scored on all select rows, pairs on those that were asked for
    rows = facts.all_rows if _refused(facts, run) else facts.rows
    return f"(together {_above(facts, -lost)} it)" if lost <= 0 else f"(adding it lost {_loss(facts, lost, rows)})"


def _lost(facts: Findings, single: Single) -> float | None:
    """What adding the run lost: in greedy's own step, else in the average with the best; None if not measured."""
    refused = _refused(facts, single)
    if refused:
        return math.inf if math.isnan(refused[0].score) else facts.gain(refused[0].best_so_far, refused[0].score)
    pair = facts.with_best(single.name)
    return None if pair is None else -pair.line.gain_over_better


def _refused(facts: Findings, single: Single) -> list[Step]:
    """Greedy's step that left the run out, if it did and knows by how much."""
    steps = () if facts.greedy is None else facts.greedy.steps
    left_out = [s for s in steps if s.candidate == single.name and not s.accepted and not s.removes]
    return [s for s in left_out if s.at_best is None]


def _nan(facts: Findings) -> list[str]:
    broken = [s for s in facts.singles if math.isnan(s.score)]
    return [
        f"{s.name} answers NaN, so no line to it was measured{_settings(facts, s)}: it diverged or overflows; "
        "fine-tune it again with a lower learning rate."
        for s in broken
    ]


def _absent(facts: Findings) -> list[str]:
    return [f"{a.name} was not measured: {a.reason}{_settings(facts, a)}." for a in facts.absent]


# Barriers, angles, ensembles


def _basin(facts: Findings) -> list[str]:
    if not facts.pairs:
        return []
    if not facts.blocked:
        dip = max(facts.pairs, key=lambda p: p.line.barrier)
        return [
            f"No pair has a barrier beyond the sampling error (the deepest dip is {_points(facts, dip.line.barrier)}, "
            f"{dip.line.a} - {dip.line.b}): as far as measured the runs lie in one basin."
        ]
    if not facts.free:
        return [_no_common_basin(facts)]
    rule = separating_rule(facts)
    if rule is None:
        return [
            f"{len(facts.blocked)} of {len(facts.pairs)} measured pairs have a barrier; no single setting (learning "
            "rate, epochs, batch size, distance from the start) separates them from the others."
        ]
    show, verb = _shown(rule.setting), ("up to", "from") if rule.upward else ("down to", "at")
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
    rates = [facts.single(name).settings.get("learning_rate") for p in facts.pairs for name in p.names]
    lowest = min((r for r in rates if r is not None), default=None)
    below = "" if lowest is None else f"; the lowest learning rate here was {_rate(lowest)}, so try below it"
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
        f"Uniform soup of all {len(facts.answering)} {_score(facts, facts.uniform.soup)}, mean-logit ensemble of all "
        f"{_score(facts, facts.uniform.ensemble)}, best alone {_score(facts, facts.best.score)}."
    )
    gaps = [facts.gain(p.line.middle, p.ensemble) for p in facts.pairs if not math.isnan(p.line.middle)]
    if not gaps:
        return of_all
    return f"{of_all} The average of two runs is {_above(facts, sum(gaps) / len(gaps))} their ensemble in the mean."


# Which setting separates pairs with a barrier from those without


@dataclass(frozen=True, slots=True)
class SettingRule:
    """All pairs without a barrier lie on one side of a setting, all pairs with one on the other."""

    setting: str
    free: float  # the last value without a barrier
    blocked: float  # the first with one
    upward: bool  # barriers come with larger values


def separating_rule(facts: Findings) -> SettingRule | None:
    """The first setting that separates the pairs without any exception; None if none does, or there is one kind only.

    A pair counts by the run with the bolder setting: the larger learning rate, the more epochs, the smaller batch,
    the larger distance from the start.
    """
    for name, value, upward in SETTINGS:
        sign = 1 if upward else -1
        both = {p.names: [value(facts.single(n)) for n in p.names] for p in facts.pairs}
        if any(v is None for values in both.values() for v in values) or not facts.free or not facts.blocked:
            continue
        bold = {names: max(sign * v for v in values if v is not None) for names, values in both.items()}
        free, blocked = max(bold[p.names] for p in facts.free), min(bold[p.names] for p in facts.blocked)
        if free < blocked:
            return SettingRule(name, sign * free, sign * blocked, upward)
    return None


# What a user can turn comes first; the distance is what comes of it.
SETTINGS: tuple[tuple[str, Callable[[Single], float | None], bool], ...] = (
    ("learning rate", lambda run: run.settings.get("learning_rate"), True),
    ("epochs", lambda run: run.settings.get("epochs"), True),
    ("batch size", lambda run: run.settings.get("batch_size"), False),
    ("distance from the start", lambda run: run.from_start, True),
)


# Numbers


def _score(facts: Findings, value: float) -> str:
    return score_in_words(value, facts.metric)


def _scored(facts: Findings, single: Single) -> str:
    return f"{single.name} {_score(facts, single.score)}"


def _points(facts: Findings, value: float) -> str:
    return f"{100 * value:.1f} points" if traits_of(facts.metric).percent else f"{value:.4f}"


def _loss(facts: Findings, lost: float, rows: int) -> str:
    return "everything: it answers NaN" if math.isinf(lost) else loss_in_words(lost, facts.metric, rows)


def _height(facts: Findings, barrier: float) -> str:
    return "answers that are NaN" if math.isinf(barrier) else _points(facts, barrier)


def _above(facts: Findings, difference: float) -> str:
    """A difference with its direction; "better" and "worse", since for some metrics lower is better."""
    if not math.isfinite(difference):
        return "NaN beside"
    if _points(facts, abs(difference)) == _points(facts, 0.0):
        return "level with"
    better, worse = ("above", "below") if facts.sign > 0 else ("better than", "worse than")
    return f"{_points(facts, abs(difference))} {better if difference > 0 else worse}"


def _settings(facts: Findings, run: Single | Absent) -> str:
    """The settings that differ between runs, for this run: " (learning rate 8e-4, 2 epochs)"."""
    everyone = [s.settings for s in facts.singles] + [a.settings for a in facts.absent]
    varied = [k for k in KNOBS if k != "seed" and len({s.get(k) for s in everyone} - {None}) > 1]
    values = [f"{KNOBS[k]} {_shown(KNOBS[k])(run.settings[k])}" for k in varied if k in run.settings]
    return f" ({', '.join(values)})" if values else ""


def _shown(setting: str) -> Callable[[float], str]:
    return _rate if setting == "learning rate" else "{:.4g}".format


def _rate(value: float) -> str:
    """A learning rate in three digits.

    >>> _rate(0.0008), _rate(0.000108208), _rate(3e-05)
    ('8e-4', '1.08e-4', '3e-5')
    """
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _rounded(rows: float) -> str:
    """Two digits are all such an estimate holds.

    >>> _rounded(12345.6), _rounded(87)
    ('12,000', '87')
    """
    digits = max(len(str(round(rows))) - 2, 0)
    return f"{round(rows, -digits):,.0f}"
