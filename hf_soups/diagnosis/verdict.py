"""Verdict: does averaging pay here, and if not, what stands in its way: barriers, alikeness, weak runs, or chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hf_soups.diagnosis.findings import KNOBS, Absent, Findings, Mixed, RunPair, Single
from hf_soups.metrics import traits_of
from hf_soups.wording import loss_in_words, score_in_words


def score(facts: Findings, value: float) -> str:
    """A score of the diagnosis's metric."""
    return score_in_words(value, facts.metric)


def scored(facts: Findings, single: Single) -> str:
    """A run with its score."""
    return f"{single.name} {score(facts, single.score)}"


def points(facts: Findings, value: float) -> str:
    """A difference of scores, without its sign."""
    return f"{100 * value:.1f} points" if traits_of(facts.metric).percent else f"{value:.4f}"


def loss(facts: Findings, lost: float, rows: int) -> str:
    """What was lost on so many rows, in rows too where the metric counts rows."""
    return "everything: it answers NaN" if math.isinf(lost) else loss_in_words(lost, facts.metric, rows)


def height(facts: Findings, barrier: float) -> str:
    """Of a barrier; an infinite one is a mixture that answers NaN."""
    return "answers that are NaN" if math.isinf(barrier) else points(facts, barrier)


def above(facts: Findings, difference: float) -> str:
    """A difference with its direction; "better" and "worse", since for some metrics lower is better."""
    if not math.isfinite(difference):
        return "NaN beside"
    if points(facts, abs(difference)) == points(facts, 0.0):
        return "level with"
    better, worse = ("above", "below") if facts.sign > 0 else ("better than", "worse than")
    return f"{points(facts, abs(difference))} {better if difference > 0 else worse}"


def settings(facts: Findings, run: Single | Absent) -> str:
    """The settings that differ between runs, for this run: " (learning rate 8e-4, 2 epochs)"."""
    everyone = [s.settings for s in facts.singles] + [a.settings for a in facts.absent]
    varied = [k for k in KNOBS if k != "seed" and len({s.get(k) for s in everyone} - {None}) > 1]
    told = [f"{KNOBS[k]} {shown(KNOBS[k])(run.settings[k])}" for k in varied if k in run.settings]
    return f" ({', '.join(told)})" if told else ""


def shown(setting: str) -> Callable[[float], str]:
    """How values of this setting are written."""
    return rate if setting == "learning rate" else _plain


def _plain(value: float) -> str:
    return f"{value:.4g}"


def rate(value: float) -> str:
    """A learning rate in three digits.

    >>> rate(0.0008), rate(0.000108208), rate(3e-05)
    ('8e-4', '1.08e-4', '3e-5')
    """
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def rounded(rows: float) -> str:
    """Two digits are all such an estimate holds.

    >>> rounded(12345.6), rounded(87)
    ('12,000', '87')
    """
    digits = max(len(str(round(rows))) - 2, 0)
    return f"{round(rows, -digits):,.0f}"


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
        bolder = max if upward else min
        values = {p.names: [value(facts.single(n)) for n in p.names] for p in facts.pairs}
        if any(v is None for both in values.values() for v in both):
            continue
        known = {names: bolder(v for v in both if v is not None) for names, both in values.items()}
        rule = _between(name, [known[p.names] for p in facts.free], [known[p.names] for p in facts.blocked], upward)
        if rule is not None:
            return rule
    return None


def _between(name: str, free: list[float], blocked: list[float], upward: bool) -> SettingRule | None:
    if not free or not blocked:
        return None
    if upward and max(free) < min(blocked):
        return SettingRule(name, max(free), min(blocked), upward)
    if not upward and min(free) > max(blocked):
        return SettingRule(name, min(free), max(blocked), upward)
    return None


def _setting(key: str) -> Callable[[Single], float | None]:
    return lambda single: single.settings.get(key)


def _distance(single: Single) -> float | None:
    return single.from_start


# What a user can turn comes first; the distance is what comes of it.
SETTINGS: tuple[tuple[str, Callable[[Single], float | None], bool], ...] = (
    ("learning rate", _setting("learning_rate"), True),
    ("epochs", _setting("epochs"), True),
    ("batch size", _setting("batch_size"), False),
    ("distance from the start", _distance, True),
)


def lowest_learning_rate(pairs: tuple[RunPair, ...], facts: Findings) -> float | None:
    """The lowest learning rate among the runs of these pairs, where it is recorded."""
    rates = [facts.single(n).settings.get("learning_rate") for p in pairs for n in p.names]
    return min((r for r in rates if r is not None), default=None)


def verdict(facts: Findings) -> str:
    """Whether averaging pays here, and if not, why not."""
    best_soup = _best_soup(facts)
    soup, ensemble = facts.gain(best_soup.soup, facts.best.score), facts.gain(facts.uniform.ensemble, facts.best.score)
    gains = (
        f"the best soup ({best_soup.name}) is {above(facts, soup)} the best run alone ({scored(facts, facts.best)}), "
        f"the ensemble of all {len(facts.answering)} is {above(facts, ensemble)} it"
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
        f"no run can be told from chance. The best, {scored(facts, facts.best)}, is hardly better than giving every "
        f"row the class shares ({score(facts, facts.chance)}), so there is nothing in the weights to average yet."
    )


def _size(facts: Findings) -> str:
    return f"On {facts.rows} rows two runs differ by {points(facts, facts.noise)} by chance."


def _why_no_soup(facts: Findings) -> str:
    if facts.blocked:
        return (
            f"They do not share one basin: {len(facts.blocked)} of {len(facts.pairs)} measured pairs have a barrier "
            f"between them, the highest {height(facts, max(p.line.barrier for p in facts.blocked))}."
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
            f"the ensemble is {above(facts, diversity)} the average run, no more than chance: the models make the "
            "same errors, and there is no diversity to use (vary the settings more, or train longer)"
        )
    elif spread > facts.noise:
        reasons.append(
            f"the ensemble is {above(facts, diversity)} the average run, so their errors do differ, but the runs are "
            f"unequal ({score(facts, facts.answering[-1].score)} to {score(facts, facts.best.score)}) and the weak "
            "take away what averaging gives (train them longer, or leave their settings out)"
        )
    if spread <= facts.noise:
        reasons.append(f"all runs score alike ({points(facts, spread)} apart), so which is best is a matter of chance")
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
    told = f"To tell a gain of {points(facts, gain)} from chance takes about {rounded(rows)} select rows"
    if rows > 10 * facts.all_rows:
        return f"{told}: better or more equal runs help more than rows."
    return f"{told} (select has {facts.all_rows})." if facts.rows < facts.all_rows else f"{told}."
