"""How far select scores and their cross-fitted bounds can be trusted: random halves of a pool, over and over.

    python recipes/studies/cascades/halves.py POOL [--halves 200] [--max-members 4]

One half of the rows is searched, the plan for each goal is held against the other half. `optimism` is the select score
less the report score; `below` is the share of halves whose report score lies below the plan's 95% lower bound (of a
plan that nothing is chosen for about 12%, since both halves are samples: 1.645 standard errors, where the difference of
two has the square root of 2); `gain` is report score and cost against the best single model
of select, with the range of 95% of the halves.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_soups import read_pool, search_cascades
from hf_soups.cascades import Frontier, Plan
from hf_soups.cascades.crossfit import cross_fit
from hf_soups.pool_jobs import select_and_report
from hf_soups.progress import Meter

Goal = Callable[[Frontier], Plan | None]
GOALS: dict[str, Goal] = {
    "best single": lambda frontier: frontier.best_single,
    "match accuracy": lambda frontier: frontier.cheapest(min_score=frontier.best_single.score),
    "match cost": lambda frontier: frontier.best(max_average_cost=frontier.best_single.average_cost),
    "best": lambda frontier: frontier.best(),
}


@dataclass(frozen=True, slots=True)
class Half:
    """One plan on both halves."""

    select: float
    low: float
    report: float
    gain: float
    cost: float  # in shares of the best single model's


def one_half(folder: Path, seed: int, max_members: int) -> dict[str, Half]:
    """Each goal's plan, chosen on one half and held against the other."""
    pool = read_pool(folder)
    parts = select_and_report(pool, "0.5", seed)
    select = {name: parts.select[name] for name in parts.select}
    assert parts.report is not None
    report = {name: parts.report[name] for name in parts.report}
    frontier = search_cascades(select, pool.costs(pool.unit()), max_members=max_members)
    plans = {name: plan for name, goal in GOALS.items() if (plan := goal(frontier)) is not None}
    fitted = cross_fit(list(plans.values()), select, seed=seed)
    base, found = frontier.best_single, {}
    single = base.apply(report)
    alone = float((single.answers == single.labels).mean())
    for (name, plan), fit in zip(plans.items(), fitted, strict=True):
        answers = plan.apply(report)
        assert answers.costs is not None
        score = float((answers.answers == answers.labels).mean())
        cost = float(answers.costs.mean()) / base.average_cost
        found[name] = Half(plan.score, fit.score_low, score, score - alone, cost)
    return found


def main() -> None:
    """Draw, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--halves", type=int, default=200)
    parser.add_argument("--max-members", type=int, default=4)
    given = parser.parse_args()
    drawn: list[dict[str, Half]] = []
    with Meter("halves", given.halves, visible=True) as meter:
        for seed in range(given.halves):
            drawn.append(one_half(given.pool, seed, given.max_members))
            meter(seed + 1)
    print(f"{'':16}{'select':>8}{'report':>8}{'optimism':>10}{'bound':>8}{'below':>8}{'gain':>22}{'cost':>22}")
    for name in GOALS:
        halves = [found[name] for found in drawn if name in found]
        values = {key: np.array([getattr(half, key) for half in halves]) for key in Half.__slots__}
        ranged = [
            f"{scale * values[key].mean():+.2f} [{low:+.2f}, {high:+.2f}]"
            for key, scale in (("gain", 100), ("cost", 1))
            for low, high in [scale * np.quantile(values[key], [0.025, 0.975])]
        ]
        means = [100 * values[key].mean() for key in ("select", "report")]
        below = (values["report"] < values["low"]).mean()
        cells = [f"{means[0]:8.2f}{means[1]:8.2f}{means[0] - means[1]:+10.2f}{100 * values['low'].mean():8.2f}"]
        print(f"{name:16}{cells[0]}{below:8.1%}{ranged[0]:>22}{ranged[1]:>22}")
    print(f"accuracy x 100; {given.halves} random halves; cost in shares of the best single model's")


if __name__ == "__main__":
    main()
