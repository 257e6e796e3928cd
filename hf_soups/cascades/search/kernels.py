"""The compiled inner loops: means of subsets, rows through the stages of a chain, rows that a model may answer.

Subsets are walked so that each begins with one already summed. On the way, classes that the members still to come
cannot lift above the best are left out: rows that members agree on are decided after two or three of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hf_soups.cascades.compiled import compiled

WORD = 32  # rows whose hits are kept in one word
NEAR = 1e-5  # relative: log-probabilities that round to one float32 are of probabilities that differ by less
SMALLEST = float(np.finfo(np.float32).tiny)


class Walk(NamedTuple):
    """Where one row's walk through the subsets stands; the first axis of most is how many members are chosen."""

    chosen: np.ndarray  # the latest member
    classes: np.ndarray  # (sizes, candidates) that can still win
    sums: np.ndarray  # (sizes, candidates) of their probabilities
    alive: np.ndarray  # how many they are
    own: np.ndarray  # which of them is the label
    following: np.ndarray  # number of the next subset of each size
    most: np.ndarray  # (candidates, members and one) that this member or a later one gives each class
    rival: np.ndarray  # (members) the best class but the label, for each last member


@compiled
def answer_subsets(
    first: int, stop: int, start: np.ndarray, label: np.ndarray, probs: np.ndarray, numbers: np.ndarray, widest: int,
    confidence: np.ndarray, hits: np.ndarray,
) -> None:  # fmt: skip
    """Whether the mean of every subset hits the label, and how sure those are that another member can follow.

    Args:
        first: row to begin at, a multiple of `WORD`; `stop` is the row to end before.
        start, label, probs: of `Candidates`.
        numbers: the number of the first subset of each size, from size 1 to the largest; subsets of one size are
            numbered as `itertools.combinations` lists them.
        widest: the most candidates of a row.
        confidence: (subsets asked, rows) float32, written.
        hits: (subsets, words of rows) uint32, written.
    """
    sizes, members, asked = len(numbers), probs.shape[1], confidence.shape[0]
    words, sure = np.zeros(hits.shape[0], np.int64), np.zeros((WORD, asked), np.float32)
    w = Walk(
        np.zeros(sizes, np.int64), np.zeros((sizes, widest), np.int64), np.zeros((sizes, widest)),
        np.zeros(sizes, np.int64), np.zeros(sizes, np.int64), np.zeros(sizes, np.int64),
        np.zeros((widest, members + 1)), np.empty(members),
    )  # fmt: skip
    for word in range(first, stop, WORD):
        end = min(word + WORD, stop)
        words[:] = 0
        for row in range(word, end):
            here = probs[start[row] : start[row + 1]]
            _begin(w, here, label[row] - start[row], numbers)
            _answer_row(w, here, 1 << (row - word), words, sure[row - word])
        for subset in range(hits.shape[0]):
            hits[subset, word // WORD] = words[subset]
        for subset in range(asked):  # rows of one subset lie together, and so are written together
            for row in range(word, end):
                confidence[subset, row] = sure[row - word, subset]


@compiled
def _begin(w: Walk, here: np.ndarray, label: int, numbers: np.ndarray) -> None:
    """The empty subset."""
    for size in range(len(numbers)):
        w.following[size] = numbers[size]
    w.alive[0], w.own[0], w.chosen[0] = len(here), label, -1
    for c in range(len(here)):
        w.classes[0, c], w.sums[0, c] = c, 0.0
        w.most[c, here.shape[1]] = 0.0
        for m in range(here.shape[1] - 1, -1, -1):
            w.most[c, m] = max(w.most[c, m + 1], here[c, m])


@compiled
def _answer_row(w: Walk, here: np.ndarray, bit: int, words: np.ndarray, sure: np.ndarray) -> None:
    """Walk through all subsets that another member can follow, and answer those with one member more."""
    size, members = int(np.int64(0)), here.shape[1]  # for a literal 0 numba would compile what is called twice
    while size >= 0:
        after = w.chosen[size] + 1
        base = w.following[size]
        w.following[size] += members - after
        if base < len(sure):
            _hit(w, here, size, after, base, bit, words)
            total, c = w.sums[size, w.own[size]], w.classes[size, w.own[size]]
            for j in range(members - after):
                sure[base + j] = min(max(total + here[c, after + j], w.rival[j]) / (size + 1), 1.0)
        elif w.alive[size] == 1:  # only the label can win
            for j in range(members - after):
                words[base + j] |= bit
        elif w.alive[size] > 1:
            _hit(w, here, size, after, base, bit, words)
        size = _next(w, size, members)
        if size > 0:
            _join(w, here, size)


@compiled
def _next(w: Walk, size: int, members: int) -> int:
    """Go on to the next subset that another member can follow; its size, or -1 after the last."""
    if size + 1 < len(w.chosen) and w.chosen[size] + 1 <= members - 2:
        w.chosen[size + 1] = w.chosen[size] + 1
        return size + 1
    while size > 0 and w.chosen[size] + 1 > members - 2:
        size -= 1
    w.chosen[size] += 1
    return size if size > 0 else -1


@compiled
def _join(w: Walk, here: np.ndarray, size: int) -> None:
    """One member more: the sums of those classes that can still win, and of the label.

    Before the largest subsets, of which only hits count, `alive` is 0 if the label cannot win.
    """
    last, member, left, best = size - 1, w.chosen[size], len(w.chosen) - size, 0.0
    for i in range(w.alive[last]):
        best = max(best, w.sums[last, i] + here[w.classes[last, i], member])
    kept = 0
    for i in range(w.alive[last]):
        c = w.classes[last, i]
        total = w.sums[last, i] + here[c, member]
        can_win = total + left * w.most[c, member + 1] >= best * (1 - NEAR)
        if i == w.own[last]:
            w.own[size] = kept
            if left == 1 and not can_win:
                w.alive[size] = 0
                return
        if can_win or i == w.own[last]:
            w.classes[size, kept], w.sums[size, kept] = c, total
            kept += 1
    w.alive[size] = kept


@compiled
def _hit(w: Walk, here: np.ndarray, size: int, after: int, base: int, bit: int, words: np.ndarray) -> None:
    """Note for which members from `after` on, as the last one, the label wins; `rival` is the best other class."""
    count, own = here.shape[1] - after, w.own[size]
    for j in range(count):
        w.rival[j] = -1.0
    for i in range(w.alive[size]):
        if i != own:
            total, c = w.sums[size, i], w.classes[size, i]
            for j in range(count):
                w.rival[j] = max(w.rival[j], total + here[c, after + j])
    total, c = w.sums[size, own], w.classes[size, own]
    for j in range(count):
        mine = total + here[c, after + j]
        is_near = abs(mine - w.rival[j]) <= NEAR * mine
        if _wins_rounded(w, here, size, after + j) if is_near else mine > w.rival[j]:
            words[base + j] |= bit


@compiled
def _wins_rounded(w: Walk, here: np.ndarray, size: int, member: int) -> bool:
    """Whether the label wins when log-probabilities are rounded to float32, as answers are; the lowest wins a tie."""
    own = w.own[size]
    mine = _rounded((w.sums[size, own] + here[w.classes[size, own], member]) / (size + 1))
    for i in range(w.alive[size]):
        theirs = _rounded((w.sums[size, i] + here[w.classes[size, i], member]) / (size + 1))
        if theirs > mine or (theirs == mine and i < own):
            return False
    return True


@compiled
def _rounded(prob: float) -> np.float32:
    return np.float32(np.log(max(prob, SMALLEST)))


@compiled
def _exits(confidence: np.ndarray, thresholds: np.ndarray, first: int, exits: np.ndarray, stays: np.ndarray) -> None:
    """The stage, from `first` on, that each row leaves at; `stays` is room.

    Without a branch for each row, which the processor would guess wrong time and again.
    """
    for row in range(len(exits)):
        stays[row], exits[row] = 1, first
    for stage in range(first, len(confidence)):
        for row in range(len(exits)):
            stays[row] &= confidence[stage, row] < thresholds[stage]
            exits[row] += stays[row]


@compiled
def count_exits(
    confidence: np.ndarray, thresholds: np.ndarray, statistics: np.ndarray, sums: np.ndarray, leaving: np.ndarray
) -> None:
    """Sums of the statistics that rows exit with, and how many exit at each stage; one line for each plan.

    Args:
        confidence: (stages but the last, rows) float32.
        thresholds: (plans, stages but the last) float32.
        statistics: (stages, statistics, rows).
        sums, leaving: (plans, statistics) and (plans, stages), zeros that are written.
    """
    rows = statistics.shape[2]
    stays, exits = np.empty(rows, np.uint8), np.empty(rows, np.uint8)
    for plan in range(len(thresholds)):
        _exits(confidence, thresholds[plan], int(np.int64(0)), exits, stays)
        for stage in range(len(statistics)):
            here = 0
            for row in range(rows):
                here += exits[row] == stage
            leaving[plan, stage] = here
            for s in range(statistics.shape[1]):
                total = sums[plan, s]
                for row in range(rows):
                    total += statistics[stage, s, row] * (exits[row] == stage)
                sums[plan, s] = total


ODD_BITS, PAIRS, NIBBLES, BYTES = (np.uint64(0xFF * 0x0101010101010101 // n) for n in (3, 5, 17, 255))
ONE, TWO, FOUR, UPPER_BYTE = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)


@compiled
def _ones(word: np.uint64) -> np.uint64:
    """How many bits are set: in pairs, in fours, in eights, then all; LLVM knows it as one instruction."""
    word = word - ((word >> ONE) & ODD_BITS)
    word = (word & PAIRS) + ((word >> TWO) & PAIRS)
    word = (word + (word >> FOUR)) & NIBBLES
    return (word * BYTES) >> UPPER_BYTE


@compiled
def count_bits(stays: np.ndarray, at: np.ndarray, hits: np.ndarray, rows: int, leaving: np.ndarray) -> np.ndarray:
    """As `count_exits`, where the statistics are bits: of each plan the hits of all rows where they leave.

    Args:
        stays: (thresholds, words) uint64, which rows a threshold does not let go.
        at: (plans, stages but the last) which of `stays`.
        hits: (stages, words) uint64, which rows are right there.
        rows: how many.
        leaving: (plans, stages) int64, written.
    """
    plans, stages = at.shape
    found, at_first = np.zeros(plans, np.int64), np.int64(0)
    for word in range(hits.shape[1]):
        at_first += np.int64(_ones(hits[0, word]))
    alive = np.empty(hits.shape[1], np.uint64)
    for plan in range(plans):
        found[plan], before = at_first, np.int64(rows)
        alive[:] = ~np.uint64(0)
        for stage in range(stages):
            line, here, after = stays[at[plan, stage]], hits[stage], hits[stage + 1]
            left, won, lost = np.uint64(0), np.uint64(0), np.uint64(0)
            for word in range(len(alive)):
                alive[word] &= line[word]
                left += _ones(alive[word])
                won += _ones(alive[word] & after[word])
                lost += _ones(alive[word] & here[word])
            found[plan] += np.int64(won) - np.int64(lost)
            leaving[plan, stage], before = before - np.int64(left), np.int64(left)
        leaving[plan, stages] = before
    return found


@compiled
def sweep(
    order: np.ndarray, confidence: np.ndarray, thresholds: np.ndarray, stage: int, statistics: np.ndarray,
    costs: np.ndarray, sums: np.ndarray, averages: np.ndarray, between: np.ndarray,
) -> int:  # fmt: skip
    """Every threshold of one stage that makes a difference, the others as they are; returns how many.

    Args:
        order: rows by their confidence at `stage`, ascending.
        confidence, thresholds, statistics: as above, of one plan.
        costs: of a row that leaves at each stage.
        sums, averages: (rows, statistics) and (rows), written: of all rows, at each threshold.
        between: (rows, 2) float32, written: the confidences on both sides of the threshold; the last has none above.
    """
    rows, total = len(order), np.zeros(statistics.shape[1])
    exits, later, room = np.empty(rows, np.uint8), np.empty(rows, np.uint8), np.empty(rows, np.uint8)
    _exits(confidence, thresholds, int(np.int64(0)), exits, room)  # see `_answer_row`
    _exits(confidence, thresholds, stage + 1, later, room)
    spent = _if_all_leave(exits, stage, statistics, costs, total)
    cuts, before = 0, np.float32(-1.0)
    for row in order:
        if exits[row] < stage:
            continue
        sure = confidence[stage, row]
        if before >= 0 and sure > before:
            between[cuts, 0], between[cuts, 1], averages[cuts] = before, sure, spent / rows
            for s in range(len(total)):
                sums[cuts, s] = total[s]
            cuts += 1
        before = sure
        on = later[row]
        spent += costs[on] - costs[stage]
        for s in range(len(total)):
            total[s] += np.float64(statistics[on, s, row]) - np.float64(statistics[stage, s, row])
    if before >= 0:
        between[cuts, 0], between[cuts, 1], averages[cuts] = before, before, spent / rows
        for s in range(len(total)):
            sums[cuts, s] = total[s]
        cuts += 1
    return cuts


@compiled
def _if_all_leave(exits: np.ndarray, stage: int, statistics: np.ndarray, costs: np.ndarray, total: np.ndarray) -> float:
    """Sums of the statistics if all rows that come to a stage left there, added to `total`; what they cost together."""
    spent = 0.0
    for row in range(len(exits)):
        spent += costs[min(exits[row], stage)]
    for s in range(len(total)):
        here = total[s]
        for row in range(len(exits)):
            here += statistics[min(exits[row], stage), s, row]
        total[s] = here
    return spent


@compiled
def longest_prefixes(
    order: np.ndarray,
    confidence: np.ndarray,
    right: np.ndarray,
    reference: np.ndarray,
    remaining: np.ndarray,
    share: float,
    count: np.ndarray,
    last: np.ndarray,
    following: np.ndarray,
) -> None:
    """For each model, the most rows from the surest down on which it keeps its share of the reference's accuracy.

    Args:
        order: (models, rows) int32, each model's rows, the surest first.
        confidence: (models, rows) float32 in that order.
        right: (models, rows) bool by row.
        reference: (rows) bool.
        remaining: (rows) bool.
        share: of the reference's hits.
        count: (models) int64 for results: rows answered, 0 where no number of rows qualifies.
        last: (models) float32 for results: the least confidence answered.
        following: (models) float32 for results: the next lower one of the remaining rows, or -1.
    """
    models, rows = order.shape
    for m in range(models):
        hits, wanted, seen = 0, 0, 0
        before = np.float32(2)
        best, at, then = 0, np.float32(2), np.float32(2)
        for i in range(rows):
            row = order[m, i]
            if not remaining[row]:
                continue
            now = confidence[m, i]
            # rows of one confidence leave together
            if now != before and seen and hits + 1e-9 >= share * wanted:
                best, at, then = seen, before, now
            seen += 1
            hits += right[m, row]
            wanted += reference[row]
            before = now
        if seen and hits + 1e-9 >= share * wanted:
            best, at, then = seen, before, np.float32(-1)
        count[m], last[m], following[m] = best, at, then
