"""Verdict: does averaging pay here, and if not, what stands in its way: barriers, alikeness, weak runs, or chance."""

from __future__ import annotations

import math

from hf_soups.diagnosis.facts import Facts, Mixed
from hf_soups.diagnosis.phrases import above, height, points, rounded, score, scored


def verdict(facts: Facts) -> str:
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


def _best_soup(facts: Facts) -> Mixed:
    """The best of the uniform soup and those cooked; a soup of one run is that run, and no soup."""
    mixed = [facts.uniform, *(m for m in facts.soups if len(m.members) > 1)]
    able = [m for m in mixed if not math.isnan(m.soup)]
    return max(able, key=lambda m: facts.sign * m.soup, default=facts.uniform)


def _near_chance(facts: Facts) -> bool:
    worse_end = facts.best.low if facts.sign > 0 else facts.best.high
    return facts.gain(worse_end, facts.chance) <= 0


def _chance_words(facts: Facts) -> str:
    return (
        f"no run can be told from chance. The best, {scored(facts, facts.best)}, is hardly better than giving every "
        f"row the class shares ({score(facts, facts.chance)}), so there is nothing in the weights to average yet."
    )


def _size(facts: Facts) -> str:
    return f"On {facts.rows} rows two runs differ by {points(facts, facts.noise)} by chance."


def _why_no_soup(facts: Facts) -> str:
    if facts.blocked:
        return (
            f"They do not share one basin: {len(facts.blocked)} of {len(facts.pairs)} measured pairs have a barrier "
            f"between them, the highest {height(facts, max(p.line.barrier for p in facts.blocked))}."
        )
    return (
        "No barrier was measured between pairs, so the runs share a basin; what is missing is either weights that are "
        "equally good (leave weak runs out) or a finer choice of coefficients."
    )


def _why_nothing(facts: Facts) -> str:
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


def _needed(facts: Facts) -> str:
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
