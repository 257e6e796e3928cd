"""1,000 models by Streeter's greedy, from stored predictions: seconds and memory.

    python benchmarks/cascade_streeter.py           40 models, 2,000 rows, 100 classes: checks that the benchmark works
    python benchmarks/cascade_streeter.py --full    1,000 models, 50,000 rows, 1,000 classes; the bar is 60 s and 4 GB

Predictions are files of the 5 most probable classes of each row, as `hf-soups predict --top-k 5` stores them: 1,000
dense files would take 200 GB. They are made up: rows have a common hardness and models a skill that grows with their
cost; a model's confidence is the chance that it is right. The page cache is warm, since the files were just written.
The whole is timed, opening, reading, sorting, a cascade for each share and scoring these by the exact rule; what is
compiled was compiled before, and the seconds that this took are told apart. Memory is what the search adds to the
process: anonymous pages, and pages of files apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import Memory

from hf_soups.cascades.search.streeter import SHARES, streeter
from hf_soups.predictions.topk import TopKPredictions, load_predictions

K = 5


def main() -> None:
    options = arguments()
    models, rows, classes = (1000, 50_000, 1000) if options.full else (40, 2_000, 100)
    with tempfile.TemporaryDirectory(prefix="streeter-", dir=options.folder) as place:
        made = write_pool(Path(place), options.models or models, options.rows or rows, classes)
        print(f"compiled in {compiling():.1f} s")
        measure(Path(place), made, options.threads)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--models", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="for the files; 2 GB with --full")
    return parser.parse_args()


def measure(place: Path, costs: dict[str, float], threads: int) -> None:
    with Memory() as memory:
        start, cpu = time.perf_counter(), time.process_time()
        pool = {name: load_predictions(place / f"{name}.safetensors") for name in costs}
        opened = time.perf_counter()
        after: dict[str, float] = {}  # each part's last word
        frontier = streeter(
            pool, costs, threads=threads, progress=lambda _, what: after.update({what: time.perf_counter()})
        )
        done, used_cpu = time.perf_counter(), time.process_time() - cpu
    used = memory.figures()
    rows = len(next(iter(pool.values())))
    print(f"{len(costs)} models, {rows} rows, {len(SHARES)} shares, {threads} threads")
    print(f"  {done - start:.1f} s in all, {used_cpu:.1f} s of CPU")
    reading, greedy = after["answers"] - opened, after["greedy"] - after["answers"]
    print(
        f"  opening {opened - start:.1f} s, reading {reading:.1f} s, greedy {greedy:.1f} s, scoring by the exact rule "
        f"{done - after['greedy']:.1f} s"
    )
    print(f"  memory: {used['anonymous'] / 1e9:.2f} GB anonymous, {used['file'] / 1e9:.2f} GB of files")
    best, plan = frontier.best_single, frontier.cheapest()
    assert plan is not None
    print(f"  best single {best.score:.4f} at {best.average_cost:.3g}")
    cost = plan.average_cost / best.average_cost
    print(f"  at its accuracy: {len(plan.members)} members, {plan.score:.4f} at {cost:.2f}x")


def compiling() -> float:
    """Seconds of the first search, on a pool of three."""
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=20)
    labels = rng.integers(10, size=20)
    streeter({f"m{i}": member(rng, labels, hardness, float(i), 10) for i in range(3)}, {"m0": 1, "m1": 2, "m2": 3})
    return time.perf_counter() - start


def write_pool(place: Path, models: int, rows: int, classes: int) -> dict[str, float]:
    """Write the files, and give what each model costs."""
    rng = np.random.default_rng(0)
    labels, hardness = rng.integers(classes, size=rows), rng.normal(0, 2.5, size=rows)
    costs = {}
    for i, skill in enumerate(rng.uniform(0.5, 3.5, size=models)):
        name = f"model-{i:04d}"
        member(rng, labels, hardness, float(skill), classes).save(place / f"{name}.safetensors")
        costs[name] = float(np.exp(1.2 * skill + rng.normal(0, 0.6)))
    return costs


def member(
    rng: np.random.Generator, labels: np.ndarray, hardness: np.ndarray, skill: float, classes: int
) -> TopKPredictions:
    """The top-k predictions of one calibrated model of that skill."""
    rows = len(labels)
    best = 1 / (1 + np.exp(-(skill - hardness + rng.normal(0, 0.8, size=rows))))
    probs = np.maximum(best, 1.05 / K)[:, None] * np.ones((1, K))
    probs[:, 1:] = (1 - probs[:, :1]) * (0.5 ** np.arange(1, K))
    probs = np.sort(probs, axis=1)[:, ::-1]
    right = rng.random(rows) < probs[:, 0]
    first = np.where(right, labels, (labels + rng.integers(1, classes, size=rows)) % classes)
    others = (first[:, None] + np.arange(1, K)) % classes
    indices = np.concatenate([first[:, None], others], axis=1).astype(np.uint16)
    own = np.where(right, probs[:, 0], 1e-4)
    return TopKPredictions(
        classes,
        indices,
        np.log(probs).astype(np.float32),
        np.maximum(1 - probs.sum(axis=1), 1e-9).astype(np.float32),
        np.arange(rows),
        labels=labels,
        label_log_probs=np.log(own).astype(np.float32),
        data="made up",
    )


if __name__ == "__main__":
    main()
