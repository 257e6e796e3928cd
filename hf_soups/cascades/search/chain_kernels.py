"""What chains of subsets score over a grid of thresholds: the compiled loops.

A row that stays at stages 1 to 3 of a chain meets the fourth member. What it adds to the hits is the difference of two
subsets that share all members but one; they differ on a few rows in a hundred: only those are counted anew. How many
rows stay is a matter of the first three stages alone, and so is counted once for all fourth members. Chains of fewer
stages have axes of one threshold that keeps all rows.

Four chains in five, once much is known, are left out before their grid is counted. It is split into blocks, at most 8
along each axis: no cell of a block adds more than the rows that are won at its last cell, less those lost at its first.

All of it stands in one file, since numba keeps compiled code by the file of the caller and would not see a change in
another. Arrays are copied by loops, since NumPy's own functions take seconds to compile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hf_soups.cascades.compiled import compiled

BLOCKS = 8  # along each axis of a grid, at most
WORD = 32  # rows whose hits are kept in one word
DE_BRUIJN = 0x077CB531  # times a power of two its upper 5 bits differ for each, which tells the place of the bit
BIT_PLACES = np.argsort([((DE_BRUIJN << place) & 0xFFFFFFFF) >> 27 for place in range(32)])
ROUNDING = 1e-12  # relative: the same costs added up in another order differ by less


class Problem(NamedTuple):
    """The chains of one length. A group is all beginnings that end in one state, and all members that can follow."""

    group_state: np.ndarray  # that the beginnings of each group end in
    prefix_start: np.ndarray  # where each group's rows of `prefixes` begin, and the end
    following_start: np.ndarray  # the same of `following`
    prefixes: np.ndarray  # (prefixes, 3) members, -1 before the first
    prefix_states: np.ndarray  # (prefixes, 3), -1 for stages that are not there
    following: np.ndarray  # members that can follow
    following_states: np.ndarray  # that this leads to
    costs: np.ndarray  # of one row, by member
    max_worst: float  # that a chain may cost
    hits: np.ndarray  # (states, words), packed
    counts: np.ndarray  # hits of each state
    bins: np.ndarray  # (states asked, rows) where each row falls on the grid
    sizes: np.ndarray  # (3) thresholds of each stage, 1 for stages that are not there
    blocks: np.ndarray  # (cells, 2) as `blocks_of` gives them, as are the next
    shifts: np.ndarray  # (3)
    worst_levels: np.ndarray  # of `Known`, as are the next two
    low: float
    scale: float


class Room(NamedTuple):
    """Arrays that are written again and again. Costs of rows are also told in buckets of `Known`."""

    plane: np.ndarray  # (rows) place of each row on the grid of the first two stages
    cell: np.ndarray  # (rows) and of all three
    staying: np.ndarray  # (grid) rows that stay at all three thresholds
    fewest: np.ndarray  # (plane) those that stay at the lowest third one
    base: np.ndarray  # (plane) hits of all rows, if the third stage answers all that come to it
    spent: np.ndarray  # (plane) what a row costs then on average, in buckets
    added: np.ndarray  # (grid) what the last member adds to the hits
    bounds: np.ndarray  # (2, blocks) rows that the last member wins at the last cell, and loses at the first
    most: np.ndarray  # (blocks of the plane) more than this it adds at no threshold of the third stage
    rows: np.ndarray  # (following and one, rows) that the last member changes
    gains: np.ndarray  # (following and one, rows) 1 where it wins the row, -1 where it loses it
    changes: np.ndarray  # (following) how many
    lines: np.ndarray  # (following, buckets) best hits known at the worst cost of the chain
    worst: np.ndarray  # (following) that worst cost, -1 for none
    news: np.ndarray  # (following) the first bucket that `best` does not know of


def blocks_of(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where `Room.bounds` counts the rows of each cell, won and lost; by how many bits places shift to those of blocks.

    A row that is won counts from the block of its cell on, one that is lost from the first block that it stays at
    every cell of.
    """
    shifts = np.array([max(0, int(size - 1).bit_length() - (BLOCKS - 1).bit_length()) for size in sizes])
    won, lost = np.zeros((2, 1, 1, 1), np.int16)
    lost += 1
    for axis, (size, shift) in enumerate(zip(sizes, shifts, strict=True)):
        place = np.arange(size).reshape(np.where(np.arange(3) == axis, -1, 1))
        won = won * np.int16(BLOCKS + 1) + (place >> shift).astype(np.int16)
        lost = lost * np.int16(BLOCKS + 1) + ((place + (1 << shift) - 1) >> shift).astype(np.int16)
    return np.stack([won, lost], axis=-1).reshape(-1, 2).astype(np.uint16), shifts


@compiled
def search_groups(first: int, stop: int, p: Problem, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the grid that nothing known beats, of the chains in some groups.

    Args:
        first, stop: groups to do.
        p: the chains.
        scores: (levels, buckets) known, the `best` of `Known`.
    Returns:
        (cells, 6): place in `prefixes`, last member, three places of thresholds, hits; and their average costs.
    """
    best, r = _hits(scores, p.bins.shape[1]), _room(p, first, stop, scores.shape[1])
    cells, averages = np.empty((1024, 6), np.int32), np.empty(1024)
    found = int(np.int64(0))  # for a literal 0 numba would compile `_new_cells` a second time
    for group in range(first, stop):
        begin, end = p.following_start[group], p.following_start[group + 1]
        for n in range(begin, end):
            one, other = p.hits[p.group_state[group]], p.hits[p.following_states[n]]
            r.changes[n - begin] = _differing(one, other, r.rows[n - begin], r.gains[n - begin])
        for prefix in range(p.prefix_start[group], p.prefix_start[group + 1]):
            paid = _paid(p.prefixes[prefix], p.costs)
            if paid > p.max_worst * (1 + ROUNDING):
                continue
            _place(p, r, p.prefix_states[prefix])
            _score_beginning(p, r, p.prefixes[prefix], p.prefix_states[prefix])
            for n in range(begin, end):
                member = p.following[n]
                worst = paid + p.costs[member]
                if worst > p.max_worst * (1 + ROUNDING) or _holds(p.prefixes[prefix], member):
                    continue
                _look_up(p, r, n - begin, worst, best)
                _bound(p, r, n - begin)
                if _may_be_new(p, r, n - begin, member):
                    _add(r, n - begin)
                    cells, averages, found = _new_cells(p, r, n - begin, prefix, member, cells, averages, found)
        for n in range(end - begin):
            _tell(p, r, n, best)
            r.worst[n] = -1
    return cells[:found], averages[:found]


@compiled
def _hits(scores: np.ndarray, rows: int) -> np.ndarray:
    """Scores as hits, -1 for none."""
    levels, buckets = scores.shape
    hits = np.empty((levels, buckets), np.int32)
    for level in range(levels):
        for place in range(buckets):
            hits[level, place] = np.rint(max(scores[level, place] * rows, -1.0))
    return hits


@compiled
def _room(p: Problem, first: int, stop: int, buckets: int) -> Room:
    following = 0
    for group in range(first, stop):
        following = max(following, p.following_start[group + 1] - p.following_start[group])
    rows, (b1, b2, b3) = p.bins.shape[1], (p.sizes[0], p.sizes[1], p.sizes[2])
    return Room(
        np.empty(rows, np.int32), np.empty(rows, np.uint32), np.empty((b1, b2, b3), np.int32),
        np.empty((b1, b2), np.int32), np.empty((b1, b2), np.int32), np.empty((b1, b2)),
        np.empty((b1, b2, b3), np.int32), np.empty((2, BLOCKS + 1, BLOCKS + 1, BLOCKS + 1), np.int32),
        np.empty((BLOCKS, BLOCKS), np.int32),
        np.empty((following + 1, rows), np.int32), np.empty((following + 1, rows), np.int8),
        np.empty(following, np.int64), np.empty((following, buckets), np.int32), np.full(following, -1.0),
        np.full(following, buckets),
    )  # fmt: skip


@compiled
def _differing(one: np.ndarray, other: np.ndarray, rows: np.ndarray, gains: np.ndarray) -> int:
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
def _sum_plane(plane: np.ndarray) -> None:
    for i in range(plane.shape[0]):
        for j in range(1, plane.shape[1]):
            plane[i, j] += plane[i, j - 1]
    for i in range(1, plane.shape[0]):
        for j in range(plane.shape[1]):
            plane[i, j] += plane[i - 1, j]


@compiled
def _paid(members: np.ndarray, costs: np.ndarray) -> float:
    total = 0.0
    for m in members:
        if m >= 0:
            total += costs[m]
    return total


@compiled
def _place(p: Problem, r: Room, states: np.ndarray) -> None:
    """Where each row falls on the grid of the first three stages, and how many rows stay at each of its cells."""
    b1, b2, b3 = r.staying.shape
    for row in range(len(r.plane)):
        r.plane[row] = 0
    for stage in range(2):
        if states[stage] >= 0:
            times = np.int32(b2 if stage == 0 else 1)
            for row in range(len(r.plane)):
                r.plane[row] += np.int32(p.bins[states[stage], row]) * times
    for row in range(len(r.plane)):
        r.cell[row] = r.plane[row] * np.int32(b3) + np.int32(p.bins[states[2], row])
    r.staying[:] = 0
    flat = r.staying.reshape(-1)
    for row in range(len(r.plane)):
        flat[r.cell[row]] += 1
    _sum_planes(r.staying)
    for i in range(b1):
        for j in range(b2):
            for k in range(1, b3):
                r.staying[i, j, k] += r.staying[i, j, k - 1]


@compiled
def _score_beginning(p: Problem, r: Room, members: np.ndarray, states: np.ndarray) -> None:
    """Hits and cost of all rows by the first two thresholds, if the third stage answers all that come to it."""
    b1, b2, b3 = r.staying.shape
    begin = 0 if states[0] >= 0 else 1 if states[1] >= 0 else 2
    rows, gains = r.rows[-1], r.gains[-1]  # the line that no last member has
    r.base[:] = 0
    flat = r.base.reshape(-1)
    for stage in range(begin, 2):  # what the next stage adds on the rows that come to it
        for n in range(_differing(p.hits[states[stage]], p.hits[states[stage + 1]], rows, gains)):
            flat[p.bins[states[0], rows[n]] * b2 if stage == 0 else r.plane[rows[n]]] += gains[n]
    _sum_plane(r.base)
    first = p.costs[members[0]] if members[0] >= 0 else 0.0
    second = p.costs[members[1]] if members[1] >= 0 else 0.0
    for i in range(b1):
        for j in range(b2):
            r.base[i, j] += p.counts[states[begin]]
            later = r.staying[i, b2 - 1, b3 - 1] * second + r.staying[i, j, b3 - 1] * p.costs[members[2]]
            r.spent[i, j] = (first + later / len(r.plane) - p.low) * p.scale
            r.fewest[i, j] = r.staying[i, j, 0]


@compiled
def _look_up(p: Problem, r: Room, n: int, worst: float, best: np.ndarray) -> None:
    """Make the line of a last member what is known at no more than a worst cost, unless it is."""
    if abs(worst - r.worst[n]) <= worst * ROUNDING:
        return
    _tell(p, r, n, best)
    level = 0
    while level < len(p.worst_levels) and p.worst_levels[level] <= worst * (1 + ROUNDING):
        level += 1
    for place in range(r.lines.shape[1]):
        r.lines[n, place] = best[level - 1, place] if level > 0 else -1
    r.worst[n] = worst


@compiled
def _tell(p: Problem, r: Room, n: int, best: np.ndarray) -> None:
    """Make the news of a line known at every level of worst cost that is no less than its own."""
    level, buckets = 0, r.lines.shape[1]
    if r.news[n] == buckets:
        return
    while level < len(p.worst_levels) and p.worst_levels[level] < r.worst[n] * (1 - ROUNDING):
        level += 1
    is_news = True
    while is_news and level < len(p.worst_levels):  # higher levels know what this one does
        is_news = False
        for place in range(r.news[n], buckets):
            is_news |= r.lines[n, place] > best[level, place]
            best[level, place] = max(best[level, place], r.lines[n, place])
        level += 1
    r.news[n] = buckets


@compiled
def _bound(p: Problem, r: Room, n: int) -> None:
    """The most that a last member adds, by block of the plane: rows won at its last cell, less lost at its first."""
    bounds, blocks = r.bounds.reshape(-1), p.blocks.reshape(-1)
    for place in range(len(bounds)):
        bounds[place] = 0
    for i in range(r.changes[n]):
        is_lost = np.uint32(r.gains[n, i] < 0)
        bounds[blocks[r.cell[r.rows[n, i]] * np.uint32(2) + is_lost]] += 1
    for sign in range(2):
        _sum_planes(r.bounds[sign])
    for i in range(BLOCKS):
        for j in range(BLOCKS):
            total, most = 0, 0
            for k in range(BLOCKS):
                total += r.bounds[0, i, j, k] - r.bounds[1, i, j, k]
                most = max(most, total)
            r.most[i, j] = most


@compiled
def _may_be_new(p: Problem, r: Room, n: int, member: int) -> bool:
    """Whether a last member may make a cell that nothing known beats."""
    of_row, line = p.costs[member] * p.scale / len(r.plane), r.lines[n]
    for i in range(r.base.shape[0]):
        for j in range(r.base.shape[1]):
            most = r.base[i, j] + r.most[i >> p.shifts[0], j >> p.shifts[1]]
            if most > line[int(r.spent[i, j] + r.fewest[i, j] * of_row)]:
                return True
    return False


@compiled
def _add(r: Room, n: int) -> None:
    """What the last member adds to the hits: summed over the first two thresholds, not yet over the third."""
    r.added[:] = 0
    flat = r.added.reshape(-1)
    for i in range(r.changes[n]):
        flat[r.cell[r.rows[n, i]]] += r.gains[n, i]
    _sum_planes(r.added)


@compiled
def _new_cells(
    p: Problem, r: Room, n: int, prefix: int, member: int, cells: np.ndarray, averages: np.ndarray, found: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Put cells that nothing known beats behind those found; the arrays, which may have grown, and how many it is."""
    of_row = p.costs[member] * p.scale / len(r.plane)
    for i in range(r.base.shape[0]):
        for j in range(r.base.shape[1]):
            known = r.lines[n, int(r.spent[i, j] + r.fewest[i, j] * of_row)] - r.base[i, j]
            if r.most[i >> p.shifts[0], j >> p.shifts[1]] <= known or _most(r.added[i, j]) <= known:
                continue
            if found + r.staying.shape[2] > len(averages):
                cells, averages = _longer(cells, averages)
            more = _new_in_column(
                r.base[i, j], r.spent[i, j], r.added[i, j], r.staying[i, j], of_row, r.lines[n], cells[found:],
                averages[found:],
            )  # fmt: skip
            for f in range(found, found + more):
                r.news[n] = min(r.news[n], int(averages[f]))
                averages[f] = averages[f] / p.scale + p.low
                cells[f, 0], cells[f, 1], cells[f, 2], cells[f, 3] = prefix, member, i, j
            found += more
    return cells, averages, found


@compiled
def _most(added: np.ndarray) -> int:
    """The most that the last member adds at any threshold of a column."""
    total, most = 0, 0
    for more in added:
        total += more
        most = max(most, total)
    return most


@compiled
def _new_in_column(
    hits: int, spent: float, added: np.ndarray, staying: np.ndarray, of_row: float, line: np.ndarray,
    cells: np.ndarray, places: np.ndarray,
) -> int:  # fmt: skip
    """New cells of one column, and in which buckets they are; how many.

    Apart from the loop that may let the arrays grow: there numba counts references to them at every cell.
    """
    found = 0
    for k in range(len(staying)):
        hits += added[k]
        place = spent + staying[k] * of_row
        if hits > line[int(place)]:
            cells[found, 4], cells[found, 5], places[found] = k, hits, place
            found += 1
            bucket = int(np.ceil(place))
            while bucket < len(line) and line[bucket] < hits:
                line[bucket] = hits
                bucket += 1
    return found


@compiled
def _longer(cells: np.ndarray, averages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same with as much room again."""
    more_cells, more_averages = np.empty((2 * len(cells), 6), np.int32), np.empty(2 * len(cells))
    for f in range(len(cells)):
        more_averages[f] = averages[f]
        for column in range(6):
            more_cells[f, column] = cells[f, column]
    return more_cells, more_averages


@compiled
def _holds(members: np.ndarray, member: int) -> bool:
    found = False
    for m in members:
        found |= m == member
    return found
