"""How far select scores and their cross-fitted bounds can be trusted: random halves of a pool, over and over.

    python recipes/studies/cascades/halves.py POOL [--halves 200] [--max-members 4] [--member NAME ...] [--figures FILE]

One half of the rows is searched, the plan for each goal is held against the other half. `optimism` is the select score
less the report score; `below` is the share of halves whose report score lies below the plan's 95% lower bound (of a
plan that nothing is chosen for about 12%, since both halves are samples: 1.645 standard errors, where the difference of
two has the square root of 2); `gain` is report score and cost against the best single model
of select, with the range of 95% of the halves. Halves overlap, so that range is no confidence interval: one that allows
for the overlap is printed below the table (effects.over_halves). Rows are drawn class by class, or, where a class has a
single row, from all. `--figures` keeps both in a study's file of figures.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_soups import Predictions, read_pool, search_cascades
from hf_soups.cascades import Frontier, Plan
from hf_soups.cascades.crossfit import cross_fit
from hf_soups.cascades.search.streeter import streeter
from hf_soups.pool import Pool
from hf_soups.pool_jobs import select_and_report
from hf_soups.progress import Meter

sys.path.insert(0, str(Path(__file__).parents[1]))
from effects import over_halves, record

Goal = Callable[[Frontier], Plan | None]
Pairs = dict[str, Predictions]
GOALS: dict[str, Goal] = {
    "best single": lambda frontier: frontier.best_single,
    "match accuracy": lambda frontier: frontier.cheapest(min_score=frontier.best_single.score),
    "worst case 1.5x": lambda frontier: frontier.cheapest(
        min_score=frontier.best_single.score, max_worst_cost=1.5 * frontier.best_single.average_cost
    ),
    "match cost": lambda frontier: frontier.best(max_average_cost=frontier.best_single.average_cost),
    "best": lambda frontier: frontier.best(),
}
STREETER = "Streeter"


@dataclass(frozen=True, slots=True)
class Half:
    """One plan on both halves."""

    select: float
    low: float
    report: float
    gain: float
    cost: float  # in shares of the best single model's


@dataclass(frozen=True, slots=True)
class Task:
    """What is searched, over and over."""

    pool: Pool
    members: tuple[str, ...]
    max_members: int

    def halves(self, seed: int) -> tuple[Pairs, Pairs]:
        """Select and report rows of a draw."""
        labels = self.pool.predictions[self.members[0]].needs_labels()
        if np.unique(labels, return_counts=True)[1].min() > 1:
            parts = select_and_report(self.pool, "0.5", seed)
            assert parts.report is not None
            return {n: parts.select[n] for n in self.members}, {n: parts.report[n] for n in self.members}
        rows = np.random.default_rng(seed).permutation(len(labels))
        drawn = np.sort(rows[: len(rows) // 2]), np.sort(rows[len(rows) // 2 :])
        select, report = ({n: self.pool.predictions[n].take(half) for n in self.members} for half in drawn)
        return select, report

    def plans(self, select: Pairs) -> dict[str, Plan]:
        """Each goal's plan."""
        costs = {name: cost for name, cost in self.pool.costs(self.pool.unit()).items() if name in select}
        frontier = search_cascades(select, costs, max_members=self.max_members)
        chosen = {name: goal(frontier) for name, goal in GOALS.items()}
        greedy = streeter(select, costs)
        chosen[STREETER] = greedy.cheapest(min_score=greedy.best_single.score)
        return {name: plan for name, plan in chosen.items() if plan is not None}


def one_half(task: Task, seed: int) -> dict[str, Half]:
    """Each goal's plan, chosen on one half and held against the other."""
    select, report = task.halves(seed)
    plans = task.plans(select)
    fitted = [cross_fit([plan], select, seed=seed)[0] for plan in plans.values()]
    base, found = plans["best single"], {}
    single = base.apply(report)
    alone = float((single.answers == single.labels).mean())
    for (name, plan), fit in zip(plans.items(), fitted, strict=True):
        answers = plan.apply(report)
        assert answers.costs is not None
        score = float((answers.answers == answers.labels).mean())
        cost = float(answers.costs.mean()) / base.average_cost
        found[name] = Half(plan.score, fit.score_low, score, score - alone, cost)
    return found


def summary(halves: list[Half]) -> dict[str, list[float]]:
    """Mean and range of 95% of the halves of each value, and the share of bounds that did not hold."""
    values = {key: np.array([getattr(half, key) for half in halves]) for key in Half.__slots__}
    found = {key: [float(v.mean()), *map(float, np.quantile(v, [0.025, 0.975]))] for key, v in values.items()}
    return {**found, "below": [float((values["report"] < values["low"]).mean())]}


def row(name: str, found: dict[str, list[float]]) -> str:
    """One goal as a line of the table."""
    ranged = [
        "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(scale * value for value in found[key]))
        for key, scale in (("gain", 100), ("cost", 1))
    ]
    select, report, low = (100 * found[key][0] for key in ("select", "report", "low"))
    cells = f"{select:8.2f}{report:8.2f}{select - report:+10.2f}{low:8.2f}{found['below'][0]:8.1%}"
    return f"{name:16}{cells}{ranged[0]:>22}{ranged[1]:>22}"


def main() -> None:
    """Draw, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--halves", type=int, default=200)
    parser.add_argument("--max-members", type=int, default=4)
    parser.add_argument("--member", action="append", default=[], help="of the pool; default: all (repeatable)")
    parser.add_argument("--figures", type=Path, help="a study's file of figures")
    parser.add_argument("--name", help="in it; default: the pool's folder")
    given = parser.parse_args()
    pool = read_pool(given.pool)
    task = Task(pool, tuple(given.member) or tuple(pool.members), given.max_members)
    drawn: list[dict[str, Half]] = []
    with Meter("halves", given.halves, visible=True) as meter:
        for seed in range(given.halves):
            drawn.append(one_half(task, seed))
            meter(seed + 1)
    found = {
        name: summary([half[name] for half in drawn if name in half])
        for name in (*GOALS, STREETER)
        if any(name in half for half in drawn)
    }
    print(f"{'':16}{'select':>8}{'report':>8}{'optimism':>10}{'bound':>8}{'below':>8}{'gain':>22}{'cost':>22}")
    print("\n".join(row(name, values) for name, values in found.items()))
    print(f"accuracy x 100; {given.halves} random halves; cost in shares of the best single model's")
    rows = len(next(iter(pool.predictions[name] for name in task.members)).needs_labels()) // 2
    tested = [
        over_halves(name, [half[name].gain for half in drawn if name in half], rows, values["cost"][0])
        for name, values in found.items()
        if name != "best single"
    ]
    print("gain over the best single model of select, with an interval that allows for the halves' overlap")
    for one in tested:
        effect, low, high, could = (100 * value for value in (one.effect, one.low, one.high, one.could_show))
        print(f"{one.what:16}{effect:+.2f} [{low:+.2f}, {high:+.2f}], p = {one.p:.2g}; could show {could:.2f}")
    if given.figures:
        record(given.figures, given.name or given.pool.name, halves=given.halves, goals=found, findings=tested)


if __name__ == "__main__":
    main()
