"""How many rows greedy leaves out because it stops scoring a candidate that can no longer join.

    python benchmarks/early_rejection.py runs/sst2 runs/tiny20

With accuracy, a candidate is refused for sure once it has made more mistakes than the soup so far. How soon that shows
depends on the order of the rows. For every mixture that greedy refuses on a real sweep, this prints the share of rows
and of tokens (padding included; pixels count as one token a row) that each order would need:

- by length, in batches of like length, which is how every row was scored before;
- batches with mistakes first: the same batches, those first in which the soup so far makes most mistakes;
- mistakes first: the rows that the soup so far gets wrong, whatever their length;
- hardest first: as `hf_soups.soups.early_stop` orders them, by what the ingredients alone answer.

Nothing is stopped: all rows are scored, and the stop is worked out from the answers. The last line of each sweep is the
price: the tokens of a mixture that joins, and so is scored to its end, in batches of that order.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hf_soups.models.inference import length_buckets
from hf_soups.soups import Soup, Step, greedy, uniform
from hf_soups.soups.early_stop import EarlyStop
from hf_soups.soups.ingredients import gather
from hf_soups.soups.scoring import SoupScorer, open_scorer

ORDERS = ("by length", "batches with mistakes first", "mistakes first", "hardest first")


def batches(scorer: SoupScorer, wrong_before: np.ndarray, hardest: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Rows in batches, in the order in which each of `ORDERS` scores them."""
    encoded, size = scorer.encoded, scorer.batch_size
    by_length = length_buckets(encoded.lengths, size)
    first = np.argsort(~wrong_before, kind="stable")
    yield by_length
    yield sorted(by_length, key=lambda batch: -wrong_before[batch].mean())
    yield [first[at : at + size] for at in range(0, len(first), size)]
    yield hardest


def tokens(order: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    return np.array([len(batch) * lengths[batch].max() for batch in order])


def needed(order: list[np.ndarray], wrong: np.ndarray, allowed: int, lengths: np.ndarray) -> tuple[float, float]:
    """Rows and tokens up to the batch that makes one mistake more than `allowed`, as shares of all by length."""
    mistakes = np.cumsum([wrong[batch].sum() for batch in order])
    stop = int(np.argmax(mistakes > allowed)) + 1
    rows = np.array([len(batch) for batch in order])
    by_length = tokens(length_buckets(lengths, max(rows)), lengths).sum()
    return rows[:stop].sum() / rows.sum(), tokens(order, lengths)[:stop].sum() / by_length


def measured(folder: Path) -> None:
    pool = gather([folder])
    assert pool.recipe is not None
    scorer = open_scorer(pool.checkpoints, pool.recipe, cache=folder / "cache")
    if scorer.metric.name != "accuracy":
        sys.exit(f"{folder}: the metric is {scorer.metric.name}; this is about accuracy")
    labels, lengths = scorer.split.labels, np.asarray(scorer.encoded.lengths)
    for checkpoint in pool.checkpoints:
        scorer(uniform([checkpoint]))
    with TemporaryDirectory() as kept:
        hardest = list(EarlyStop(scorer, Path(kept) / "rows").batches)
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
        if not step.accepted:
            before, now = answered[frozenset(members)], answered[frozenset({*members, step.candidate})]
            shares.append([needed(o, now, int(before.sum()), lengths) for o in batches(scorer, before, hardest)])
        else:
            members.add(step.candidate)

    soup = greedy(pool.checkpoints, score, on_step=on_step)
    print(f"{folder.name}: {len(labels)} rows, {len(soup.ingredients)} kept, {len(shares)} mixtures refused")
    for name, (rows, share) in zip(ORDERS, np.mean(shares, axis=0), strict=True):
        print(f"  {name:28} {rows:7.1%} of the rows, {share:7.1%} of the tokens")
    price = tokens(hardest, lengths).sum() / tokens(length_buckets(lengths, scorer.batch_size), lengths).sum()
    print(f"  scored to the end, hardest first: {price:.1%} of the tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    for folder in parser.parse_args().sweeps:
        measured(folder)


if __name__ == "__main__":
    main()
