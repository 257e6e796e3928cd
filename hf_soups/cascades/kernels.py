"""What the mean of every subset of members answers, row by row: the compiled loops.

Subsets are walked so that each begins with one already summed. On the way, classes that the members still to come
cannot lift above the best are left out: rows that members agree on are decided after two or three of them.
"""

from __future__ import annotations

import numpy as np

from hf_soups.cascades.compiled import compiled

WORD = 32  # rows whose hits are kept in one word
NEAR = 1e-5  # relative: log-probabilities that round to one float32 are of probabilities that differ by less
SMALLEST = float(np.finfo(np.float32).tiny)


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
    deepest, members, asked = len(numbers), probs.shape[1], confidence.shape[0]
    words = np.zeros(hits.shape[0], np.int64)
    sure = np.zeros((WORD, asked), np.float32)
    most = np.zeros((widest, members + 1))
    classes, sums = np.zeros((deepest, widest), np.int64), np.zeros((deepest, widest))
    alive, own = np.zeros(deepest, np.int64), np.zeros(deepest, np.int64)
    chosen, following = np.zeros(deepest, np.int64), np.zeros(deepest, np.int64)
    rival = np.empty(members)
    for word in range(first, stop, WORD):
        end = min(word + WORD, stop)
        words[:] = 0
        for row in range(word, end):
            here = probs[start[row] : start[row + 1]]
            _begin(here, label[row] - start[row], most, classes[0], sums[0])
            alive[0], own[0], chosen[0], depth = len(here), label[row] - start[row], -1, 0
            following[:] = numbers
            bit = np.int64(1) << (row - word)
            while depth >= 0:
                after, base = chosen[depth] + 1, following[depth]
                following[depth] += members - after
                if base < asked:
                    _best(
                        here, classes[depth], sums[depth], alive[depth], own[depth], after, base, depth + 1, bit, words,
                        rival, sure[row - word],
                    )  # fmt: skip
                elif alive[depth] == 1:
                    for j in range(members - after):
                        words[base + j] |= bit
                elif alive[depth] > 1:
                    _hit(
                        here, classes[depth], sums[depth], alive[depth], own[depth], after, base, depth + 1, bit, words,
                        rival,
                    )  # fmt: skip
                depth = _next(depth, deepest, members, chosen)
                if depth > 0:
                    _join(here, depth, deepest, chosen[depth], most, classes, sums, alive, own)
        for subset in range(hits.shape[0]):
            hits[subset, word // WORD] = words[subset]
        for subset in range(asked):
            for row in range(word, end):
                confidence[subset, row] = sure[row - word, subset]


@compiled
def _begin(here: np.ndarray, label: int, most: np.ndarray, classes: np.ndarray, sums: np.ndarray) -> None:
    """The empty subset, and the most that any member from m on gives each class."""
    for c in range(len(here)):
        classes[c], sums[c] = c, 0.0
        most[c, here.shape[1]] = 0.0
        for m in range(here.shape[1] - 1, -1, -1):
            most[c, m] = max(most[c, m + 1], here[c, m])


@compiled
def _next(depth: int, deepest: int, members: int, chosen: np.ndarray) -> int:
    """Go on to the next subset that another member can follow; its size, or -1 after the last."""
    if depth + 1 < deepest and chosen[depth] + 1 <= members - 2:
        chosen[depth + 1] = chosen[depth] + 1
        return depth + 1
    while depth > 0 and chosen[depth] + 1 > members - 2:
        depth -= 1
    chosen[depth] += 1
    return depth if depth > 0 else -1


@compiled
def _join(
    here: np.ndarray, depth: int, deepest: int, member: int, most: np.ndarray, classes: np.ndarray, sums: np.ndarray,
    alive: np.ndarray, own: np.ndarray,
) -> None:  # fmt: skip
    """One member more: the sums of those classes that can still win.

    In the largest subsets only hits count: `alive` is 0 if the label cannot win, 1 if it wins for sure.
    """
    last, left, best = depth - 1, deepest - depth, 0.0
    for i in range(alive[last]):
        best = max(best, sums[last, i] + here[classes[last, i], member])
    kept = 0
    for i in range(alive[last]):
        c = classes[last, i]
        total = sums[last, i] + here[c, member]
        can_win = total + left * most[c, member + 1] >= best * (1 - NEAR)
        if i == own[last]:
            own[depth] = kept
            if left == 1 and not can_win:
                alive[depth] = 0
                return
        if can_win or i == own[last]:
            classes[depth, kept], sums[depth, kept] = c, total
            kept += 1
    alive[depth] = kept


@compiled
def _hit(
    here: np.ndarray, classes: np.ndarray, sums: np.ndarray, alive: int, own: int, after: int, base: int, size: int,
    bit: int, words: np.ndarray, rival: np.ndarray,
) -> None:  # fmt: skip
    """Note for which members from `after` on, as the last one, the label wins; `rival` is the best other class."""
    count = here.shape[1] - after
    rival[:count] = -1.0
    for i in range(alive):
        if i != own:
            total, c = sums[i], classes[i]
            for j in range(count):
                rival[j] = max(rival[j], total + here[c, after + j])
    total, c = sums[own], classes[own]
    for j in range(count):
        mine = total + here[c, after + j]
        if abs(mine - rival[j]) <= NEAR * mine:
            wins = _wins_rounded(here, classes, sums, alive, own, after + j, size)
        else:
            wins = mine > rival[j]
        if wins:
            words[base + j] |= bit


@compiled
def _wins_rounded(
    here: np.ndarray, classes: np.ndarray, sums: np.ndarray, alive: int, own: int, member: int, size: int
) -> bool:
    """Whether the label wins when log-probabilities are rounded to float32, as answers are; the lowest wins a tie."""
    mine = np.float32(np.log(max((sums[own] + here[classes[own], member]) / size, SMALLEST)))
    for i in range(alive):
        theirs = np.float32(np.log(max((sums[i] + here[classes[i], member]) / size, SMALLEST)))
        if theirs > mine or (theirs == mine and i < own):
            return False
    return True


@compiled
def _best(
    here: np.ndarray, classes: np.ndarray, sums: np.ndarray, alive: int, own: int, after: int, base: int, size: int,
    bit: int, words: np.ndarray, rival: np.ndarray, sure: np.ndarray,
) -> None:  # fmt: skip
    """The same, and the mean of the class that wins."""
    _hit(here, classes, sums, alive, own, after, base, size, bit, words, rival)
    total, c = sums[own], classes[own]
    for j in range(here.shape[1] - after):
        sure[base + j] = min(max(total + here[c, after + j], rival[j]) / size, 1.0)
