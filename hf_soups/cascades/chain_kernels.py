"""What chains of subsets score over a grid of thresholds: the compiled loops.

A row that stays at stages 1 to 3 of a chain meets the fourth member. What it adds to the hits is the difference of two
subsets that share all members but one; they differ on a few rows in a hundred, and only those are counted anew. How many
rows stay is a matter of the first three stages alone, and so is counted once for all fourth members. Chains of fewer
stages have axes of one threshold that keeps all rows.
"""

from __future__ import annotations

import numpy as np

from hf_soups.cascades.compiled import compiled

WORD = 32  # rows whose hits are kept in one word
ROUNDING = 1e-12
DE_BRUIJN = 0x077CB531  # times a power of two its upper 5 bits differ for each, which tells the place of the bit
BIT_PLACES = np.zeros(32, np.int64)
for _place in range(32):
    BIT_PLACES[((DE_BRUIJN << _place) & 0xFFFFFFFF) >> 27] = _place


@compiled
def differing(one: np.ndarray, other: np.ndarray, rows: np.ndarray, gains: np.ndarray) -> int:
    """Rows that just one of two states hits; `gains` is 1 where it is the other. Returns how many."""
    found = 0
    for word in range(len(one)):
        theirs = np.int64(other[word])
        left = np.int64(one[word]) ^ theirs
        while left:
            lowest = left & -left
            rows[found] = word * WORD + BIT_PLACES[((lowest * DE_BRUIJN) & 0xFFFFFFFF) >> 27]
            gains[found] = 1 if theirs & lowest else -1
            left ^= lowest
            found += 1
    return found


@compiled
def search_groups(
    first: int, stop: int, group_state: np.ndarray, group_prefixes: np.ndarray, group_following: np.ndarray,
    prefixes: np.ndarray, prefix_states: np.ndarray, following: np.ndarray, following_states: np.ndarray,
    costs: np.ndarray, max_worst: float, hits: np.ndarray, counts: np.ndarray, bins: np.ndarray, sizes: np.ndarray,
    worst_levels: np.ndarray, low: float, scale: float, best: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Cells of the grid that nothing known beats, of the chains in some groups.

    A group is all beginnings that end in one state, and all members that can follow them.

    Args:
        first, stop: groups to do.
        group_state: state that the beginnings of each group end in.
        group_prefixes, group_following: (groups + 1) where the rows of each group begin below.
        prefixes: (prefixes, 3) members of the beginnings, -1 before the first.
        prefix_states: (prefixes, 3) their states, -1 for stages that are not there.
        following, following_states: members that can follow, and the states that this makes.
        costs: of one row, by member.
        max_worst: the most that a chain may cost at worst.
        hits, counts: packed by state, and how many.
        bins: (states asked, rows) which bin of the grid each row falls into.
        sizes: (3) thresholds of each stage; 1 for stages that are not there.
        worst_levels, low, scale, best: of `Known`, in hits and costs of one row; `best` is changed.
    Returns:
        (cells, 6): place in `prefixes`, following member, three places of thresholds, hits; and average costs.
    """
    rows, (b1, b2, b3) = bins.shape[1], (sizes[0], sizes[1], sizes[2])
    most = np.max(group_following[first + 1 : stop + 1] - group_following[first:stop])
    changed, gains = np.empty((most, rows), np.int32), np.empty((most, rows), np.int8)
    changes, other_rows, other_gains = np.empty(most, np.int64), np.empty(rows, np.int32), np.empty(rows, np.int8)
    plane, cell = np.empty(rows, np.int32), np.empty(rows, np.int32)
    staying, base, spent = np.empty((b1, b2, b3)), np.empty((b1, b2)), np.empty((b1, b2))
    gained, open_columns, grid = np.empty((b1, b2)), np.empty((b1, b2), np.bool_), np.empty((b1, b2, b3), np.int32)
    line = np.empty(best.shape[1])
    cells, averages, found = np.empty((1024, 6), np.int32), np.empty(1024), 0
    for group in range(first, stop):
        begin, end = group_following[group], group_following[group + 1]
        for n in range(begin, end):
            changes[n - begin] = differing(
                hits[group_state[group]], hits[following_states[n]], changed[n - begin], gains[n - begin]
            )  # fmt: skip
        for p in range(group_prefixes[group], group_prefixes[group + 1]):
            members = prefixes[p]
            spent_before = _spent_before(members, costs)
            if spent_before > max_worst * (1 + ROUNDING):
                continue
            _place(prefix_states[p], bins, b2, b3, plane, cell, staying)
            _score_without_last(
                prefix_states[p], members, costs, hits, counts, plane, staying, base, spent, other_rows, other_gains
            )  # fmt: skip
            for n in range(begin, end):
                member = following[n]
                worst = spent_before + costs[member]
                if member == members[0] or member == members[1] or worst > max_worst * (1 + ROUNDING):
                    continue
                level = np.searchsorted(worst_levels, worst * (1 + ROUNDING), side="right") - 1
                if level >= 0:
                    line[:] = best[level]
                else:
                    line[:] = -np.inf
                last_cost = costs[member]
                differ = changes[n - begin]
                if not _columns(
                    changed[n - begin], gains[n - begin], differ, plane, staying, base, spent, last_cost, low, scale,
                    line, gained, open_columns,
                ):  # fmt: skip
                    continue
                _grid(changed[n - begin], gains[n - begin], differ, cell, grid)
                before = found
                for i in range(b1):
                    for j in range(b2):
                        if not open_columns[i, j]:
                            continue
                        total, top = base[i, j], -np.inf
                        for k in range(b3):
                            total += grid[i, j, k]
                            if total <= top:
                                continue
                            average = (spent[i, j] + staying[i, j, k] * last_cost) / rows
                            place = (average - low) * scale
                            if total <= line[min(max(int(place), 0), len(line) - 1)]:
                                continue
                            top = total
                            if found == len(averages):
                                cells, averages = _doubled(cells), _doubled_line(averages)
                            cells[found, 0], cells[found, 1], cells[found, 5] = p, member, np.int32(total)
                            cells[found, 2], cells[found, 3], cells[found, 4] = i, j, k
                            averages[found] = average
                            found += 1
                            _learn(line, int(np.ceil(place)), total)
                level = np.searchsorted(worst_levels, worst * (1 - ROUNDING))
                for f in range(before, found):
                    place = int(np.ceil((averages[f] - low) * scale))
                    for other in range(level, len(worst_levels)):
                        if not _learn(best[other], place, cells[f, 5]):
                            break
    return cells[:found], averages[:found]


@compiled
def _doubled(cells: np.ndarray) -> np.ndarray:
    more = np.empty((2 * len(cells), cells.shape[1]), cells.dtype)
    more[: len(cells)] = cells
    return more


@compiled
def _doubled_line(averages: np.ndarray) -> np.ndarray:
    more = np.empty(2 * len(averages), averages.dtype)
    more[: len(averages)] = averages
    return more


@compiled
def _learn(line: np.ndarray, place: int, score: float) -> bool:
    """Note a score from a bucket on; whether it is news there."""
    if place >= len(line) or line[place] >= score:
        return False
    while place < len(line) and line[place] < score:
        line[place] = score
        place += 1
    return True


@compiled
def _spent_before(members: np.ndarray, costs: np.ndarray) -> float:
    total = 0.0
    for m in members:
        if m >= 0:
            total += costs[m]
    return total


@compiled
def _place(
    states: np.ndarray, bins: np.ndarray, b2: int, b3: int, plane: np.ndarray, cell: np.ndarray, staying: np.ndarray
) -> None:
    """Where each row falls in the grid of the first three stages, and how many rows stay at each of its cells."""
    staying[:] = 0
    plane[:] = 0
    flat = staying.reshape(-1)
    if states[0] >= 0:
        for row in range(len(plane)):
            plane[row] = bins[states[0], row] * b2
    if states[1] >= 0:
        for row in range(len(plane)):
            plane[row] += bins[states[1], row]
    for row in range(len(plane)):
        cell[row] = plane[row] * b3 + bins[states[2], row]
        flat[cell[row]] += 1
    _sum_planes(staying)
    for i in range(staying.shape[0]):
        for j in range(staying.shape[1]):
            for k in range(1, staying.shape[2]):
                staying[i, j, k] += staying[i, j, k - 1]


@compiled
def _sum_planes(grid: np.ndarray) -> None:
    """Cumulative sums along the first two axes."""
    for i in range(grid.shape[0]):
        for j in range(1, grid.shape[1]):
            for k in range(grid.shape[2]):
                grid[i, j, k] += grid[i, j - 1, k]
    for i in range(1, grid.shape[0]):
        for j in range(grid.shape[1]):
            for k in range(grid.shape[2]):
                grid[i, j, k] += grid[i - 1, j, k]


@compiled
def _score_without_last(
    states: np.ndarray, members: np.ndarray, costs: np.ndarray, hits: np.ndarray, counts: np.ndarray,
    plane: np.ndarray, staying: np.ndarray, base: np.ndarray, spent: np.ndarray, rows: np.ndarray, gains: np.ndarray,
) -> None:  # fmt: skip
    """Hits and cost of all rows by the first two thresholds, if the third stage answers all that come to it."""
    b1, b2, b3 = staying.shape
    base[:] = 0
    begin = 0 if states[0] >= 0 else 1 if states[1] >= 0 else 2
    if begin < 2:
        for n in range(differing(hits[states[1]], hits[states[2]], rows, gains)):
            base[plane[rows[n]] // b2, plane[rows[n]] % b2] += gains[n]
        for i in range(b1):
            for j in range(1, b2):
                base[i, j] += base[i, j - 1]
    if begin == 0:
        for n in range(differing(hits[states[0]], hits[states[1]], rows, gains)):
            base[plane[rows[n]] // b2] += gains[n]
    for i in range(1, b1):
        for j in range(b2):
            base[i, j] += base[i - 1, j]
    first = costs[members[0]] if members[0] >= 0 else 0.0
    second = costs[members[1]] if members[1] >= 0 else 0.0
    everyone = staying[b1 - 1, b2 - 1, b3 - 1]
    for i in range(b1):
        for j in range(b2):
            base[i, j] += counts[states[begin]]
            spent[i, j] = (
                everyone * first + staying[i, b2 - 1, b3 - 1] * second + staying[i, j, b3 - 1] * costs[members[2]]
            )


@compiled
def _columns(
    rows: np.ndarray, gains: np.ndarray, differ: int, plane: np.ndarray, staying: np.ndarray, base: np.ndarray,
    spent: np.ndarray, last_cost: float, low: float, scale: float, line: np.ndarray, gained: np.ndarray,
    open_columns: np.ndarray,
) -> bool:  # fmt: skip
    """Which columns of the grid could hold a cell that nothing known beats: all gains at the least cost beat it."""
    b1, b2, b3 = staying.shape
    gained[:] = 0
    flat = gained.reshape(-1)
    for n in range(differ):
        if gains[n] > 0:
            flat[plane[rows[n]]] += 1
    any_open = False
    everyone = staying[b1 - 1, b2 - 1, b3 - 1]
    for i in range(b1):
        for j in range(b2):
            if j > 0:
                gained[i, j] += gained[i, j - 1]
        if i > 0:
            for j in range(b2):
                gained[i, j] += gained[i - 1, j]
        for j in range(b2):
            place = ((spent[i, j] + staying[i, j, 0] * last_cost) / everyone - low) * scale
            is_open = base[i, j] + gained[i, j] > line[min(max(int(place), 0), len(line) - 1)]
            open_columns[i, j] = is_open
            any_open |= is_open
    return any_open


@compiled
def _grid(rows: np.ndarray, gains: np.ndarray, differ: int, cell: np.ndarray, grid: np.ndarray) -> None:
    """What the last member adds to the hits, by cell: summed over the first two thresholds, not yet over the third."""
    grid[:] = 0
    flat = grid.reshape(-1)
    for n in range(differ):
        flat[cell[rows[n]]] += gains[n]
    _sum_planes(grid)


@compiled
def unbeaten(order: np.ndarray, merits: np.ndarray, costs: np.ndarray, kept: np.ndarray) -> None:
    """Keep each point that has a higher merit than all points before it in `order` that cost no more.

    By a tree of maxima over ranks of cost: the logarithm of the points for each point.
    """
    tree = np.full(len(order) + 1, -1, np.int64)
    for point in order:
        best, at = -1, costs[point] + 1
        while at > 0:
            best = max(best, tree[at])
            at -= at & -at
        if merits[point] > best:
            kept[point] = True
            at = costs[point] + 1
            while at <= len(order):
                tree[at] = max(tree[at], merits[point])
                at += at & -at
