"""Chains: every ordered choice of members at every threshold of a grid, by accuracy; what is beaten is left out.

Exact: a cell of the grid is left out only if a cascade is known that costs no more, at worst and on average, and hits
as many rows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt16

from hf_soups.cascades.grid import Cuts
from hf_soups.cascades.pareto import Known, Points
from hf_soups.cascades.rule import NEVER
from hf_soups.cascades.search.candidates import Entries
from hf_soups.cascades.search.subsets import Members, Numbering, States
from hf_soups.cascades.search.threads import OnProgress, in_turns

LONGEST = 4  # members; the grid of the compiled loops has three axes
TASKS = 320  # of one length


@dataclass(frozen=True, eq=False)
class Groups:
    """Beginnings of one length, by the state that they end in, and the members that can follow each group."""

    state: Int64[np.ndarray, " groups"]
    prefix_start: Int64[np.ndarray, " groups_and_one"]
    following_start: Int64[np.ndarray, " groups_and_one"]
    prefixes: Int64[np.ndarray, "prefixes 3"]  # members, -1 before the first
    prefix_states: Int64[np.ndarray, "prefixes 3"]
    following: Int64[np.ndarray, " following"]
    following_states: Int64[np.ndarray, " following"]

    @classmethod
    def of(cls, numbering: Numbering, length: int) -> Groups:
        """The groups of all beginnings of `length` members."""
        found: dict[int, list[Members]] = {}
        for members in permutations(range(numbering.models), length):
            found.setdefault(numbering[members], []).append(members)
        last, nexts = -1, []
        for group in found.values():
            own = set(group[0]).intersection(*group)  # those that are in every beginning
            nexts.append([(m, numbering[(*group[0], m)]) for m in range(numbering.models) if m not in own])
        prefixes = [members for group in found.values() for members in group]
        pad = (last,) * (3 - length)
        return cls(
            np.array(list(found), dtype=np.int64),
            np.cumsum([0, *(len(group) for group in found.values())], dtype=np.int64),
            np.cumsum([0, *(len(following) for following in nexts)], dtype=np.int64),
            np.array([(*pad, *members) for members in prefixes], dtype=np.int64),
            np.array([(*pad, *numbering.chain(members)) for members in prefixes], dtype=np.int64),
            np.array([m for following in nexts for m, _ in following], dtype=np.int64),
            np.array([state for following in nexts for _, state in following], dtype=np.int64),
        )


def search_chains(
    entries: Entries, states: States, length: int, count: int, max_worst: float, found: Points, known: Known,
    pool: ThreadPoolExecutor, on_progress: OnProgress = lambda _: None,
) -> tuple[Points, Known]:  # fmt: skip
    """All cascades of `length` members on a grid of thresholds by accuracy, beside what was found before.

    Args:
        entries: the models.
        states: what they answer, with hits.
        length: members, two to `LONGEST`.
        count: thresholds of each stage.
        max_worst: the most that a row may cost that meets every member.
        found, known: from before.
        pool: whose threads work.
        on_progress: called with the share that is done.
    """
    groups = Groups.of(states.numbering, length - 1)
    grid = Cuts.of(states.confidence[: groups.state.max() + 1], count, pool)
    search = _Search(entries, states, groups, grid, max_worst)
    edges = np.linspace(0, len(groups.state), min(TASKS, len(groups.state)) + 1).astype(int)
    return in_turns(list(pairwise(edges)), search.points, found, known, pool, on_progress)


@dataclass(frozen=True, eq=False)
class _Search:
    """One length of beginnings, searched group by group."""

    entries: Entries
    states: States
    groups: Groups
    grid: Cuts
    max_worst: float

    def points(self, groups_of_task: tuple[int, int], known: Known) -> Points:
        """Cascades of these groups that are not surely beaten by what is known."""
        from hf_soups.cascades.search.chain_kernels import Problem, search_groups

        groups, states = self.groups, self.states
        assert states.hits is not None
        problem = Problem(
            groups.state, groups.prefix_start, groups.following_start, groups.prefixes, groups.prefix_states,
            groups.following, groups.following_states, self.entries.costs, self.max_worst, states.hits,
            states.hit_counts, self.grid.bins, self._sizes(), *self._blocks, known.worst, known.low, known.scale,
        )  # fmt: skip
        cells, averages = search_groups(*groups_of_task, problem, known.best)
        return self._as_points(cells, averages)

    @cached_property
    def _blocks(self) -> tuple[UInt16[np.ndarray, "cells 2"], Int64[np.ndarray, " 3"]]:
        from hf_soups.cascades.search.chain_kernels import blocks_of

        return blocks_of(self._sizes())

    def _sizes(self) -> Int64[np.ndarray, " 3"]:
        there = self.groups.prefixes[0] >= 0
        return np.where(there, self.grid.thresholds.shape[1], 1)

    def _as_points(self, cells: Int32[np.ndarray, "cells 6"], averages: Float64[np.ndarray, " cells"]) -> Points:
        deepest, rows = self.states.numbering.deepest, self.states.rows
        there = np.flatnonzero(self.groups.prefixes[0] >= 0)
        length = len(there)
        members = np.full((len(cells), deepest), -1, dtype=np.int16)
        members[:, :length] = self.groups.prefixes[cells[:, 0]][:, there]
        members[:, length] = cells[:, 1]
        thresholds = np.full((len(cells), deepest - 1), NEVER)
        for stage, axis in enumerate(there):
            states = self.groups.prefix_states[cells[:, 0], axis]
            thresholds[:, stage] = self.grid.thresholds[states, cells[:, 2 + axis]]
        return Points(members, thresholds, cells[:, 5] / rows, averages, self.entries.worst(members))
