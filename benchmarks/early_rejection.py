"""How many rows greedy could leave out if it stopped scoring a candidate that can no longer join.

    python benchmarks/early_rejection.py runs/sst2 runs/tiny20

With accuracy, a candidate is refused for sure once it has made more mistakes than the soup so far. How soon that shows
depends on the order of the rows: as they are scored today (by length), with the soup's own mistakes first, or the
batches of today with the most of those mistakes first. For every mixture that greedy tries on a real sweep, this
prints the share of rows and of tokens (padding included; pixels count as one token a row) that each order would need.
Nothing is stopped: all rows are scored, and the stop is worked out from the answers.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hf_soups.models.inference import length_buckets
from hf_soups.soups import Soup, Step, greedy
from hf_soups.soups.ingredients import gather
from hf_soups.soups.scoring import SoupScorer, open_scorer

ORDERS = ("by length", "mistakes first", "batches with mistakes first")


def batches(scorer: SoupScorer, wrong_before: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Rows in batches, in the order in which each of `ORDERS` scores them."""
    encoded, size = scorer.encoded, scorer.batch_size
    today = length_buckets(encoded.lengths, size)
    first = np.argsort(~wrong_before, kind="stable")
    yield today
    yield [first[at : at + size] for at in range(0, len(first), size)]
    yield sorted(today, key=lambda batch: -wrong_before[batch].mean())


def needed(order: list[np.ndarray], wrong: np.ndarray, allowed: int, lengths: np.ndarray) -> tuple[float, float]:
    """Rows and tokens up to the batch that makes one mistake more than `allowed`, as shares of today's."""
    mistakes = np.cumsum([wrong[batch].sum() for batch in order])
    stop = int(np.argmax(mistakes > allowed)) + 1 if mistakes[-1] > allowed else len(order)
    rows = np.array([len(batch) for batch in order])
    tokens = np.array([len(batch) * lengths[batch].max() for batch in order])
    today = sum(len(b) * lengths[b].max() for b in length_buckets(lengths, max(rows)))
    return rows[:stop].sum() / rows.sum(), tokens[:stop].sum() / today


def measured(folder: Path) -> None:
    pool = gather([folder])
    assert pool.recipe is not None
    scorer = open_scorer(pool.checkpoints, pool.recipe, cache=folder / "cache")
    if scorer.metric.name != "accuracy":
        sys.exit(f"{folder}: the metric is {scorer.metric.name}; this is about accuracy")
    labels, lengths = scorer.split.labels, np.asarray(scorer.encoded.lengths)
    answered: dict[frozenset[str], np.ndarray] = {}

    def score(soup: Soup) -> float:
        alone = scorer.answered(soup)
        answers = scorer.cached[soup.ingredients[0]] if alone else scorer.predictions(soup)
        wrong = answers.answers != labels
        answered[frozenset(c.name for c in soup.ingredients)] = wrong
        return float(1 - wrong.mean())

    members: set[str] = set()
    shares = []

    def on_step(step: Step) -> None:
        if members:
            before, now = answered[frozenset(members)], answered[frozenset({*members, step.candidate})]
            shares.append([needed(o, now, int(before.sum()), lengths) for o in batches(scorer, before)])
        if step.accepted:
            members.add(step.candidate)

    soup = greedy(pool.checkpoints, score, on_step=on_step)
    mean = np.mean(shares, axis=0)
    print(f"{folder.name}: {len(shares)} mixtures of {len(labels)} rows, {len(soup.ingredients)} kept")
    for name, (rows, tokens) in zip(ORDERS, mean, strict=True):
        print(f"  {name:28} {rows:7.1%} of the rows, {tokens:7.1%} of the tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    for folder in parser.parse_args().sweeps:
        measured(folder)


if __name__ == "__main__":
    main()
