"""How cost grows: seconds and memory against ingredients, tensors' bytes, rows, classes and models of a pool.

    python benchmarks/scaling.py           the two smallest sizes of each: checks that the benchmark itself works
    python benchmarks/scaling.py --full    all sizes, as a page in Markdown: benchmarks/results/scaling.md

Every size runs in a process of its own, in which the same work at its smallest size went before, so that nothing is
imported or compiled under the clock; of repeated runs the median counts. Weights and predictions are made up, files
lie in the page cache. Memory is what the work adds to its process at most: anonymous pages, and pages of files apart.

The exponent e is that of seconds ~ size^e: 1 is linear. `e` of the page is fitted by least squares to all sizes that
take over 50 ms, so that fixed costs do not pass for good scaling; `step` is that from one size to the next.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from memory import Memory

LONG_ENOUGH = 0.05  # seconds; what takes less is mostly fixed costs
LINEAR = 1.2  # steps above this are more than linear, whatever the noise
ONCE = 2.0  # seconds from which one run is enough
LIMIT = 600  # seconds of one size
MEGABYTE = 1 << 20
Work = Callable[[], object]


@dataclass(frozen=True)
class Sweep:
    """One kind of work along one axis."""

    what: str
    axis: str
    sizes: Sequence[int]
    make: Callable[[Path, int], Work]
    fixed: str

    def few(self) -> Sequence[int]:
        """The sizes of the small form."""
        return self.sizes[:2]


def main() -> None:
    options = arguments()
    if options.sweep is not None:
        print(json.dumps(measured(SWEEPS[options.sweep], options.size)))
        return
    print(f"# How cost grows\n\n`python benchmarks/scaling.py{' --full' if options.full else ''}`, {machine()}.")
    print(__doc__.split("\n\n", 2)[2].rstrip())
    for number, sweep in enumerate(SWEEPS):
        if options.only is None or options.only in f"{sweep.what} against {sweep.axis}":
            sizes = sweep.sizes if options.full else sweep.few()
            report(sweep, [(size, command(number, size)) for size in sizes])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", help="part of the title of a table")
    parser.add_argument("--sweep", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{datetime.date.today()}, {len(names)} cores of {names[0] if names else 'an unknown CPU'}, no GPU"


def command(number: int, size: int) -> dict[str, float] | str:
    """What a size took, or why there is no figure."""
    asked = [sys.executable, __file__, "--sweep", str(number), "--size", str(size)]
    try:
        done = subprocess.run(
            asked, capture_output=True, text=True, check=False, timeout=LIMIT, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    except subprocess.TimeoutExpired:
        return f"more than {LIMIT} s"
    if done.returncode:
        raise SystemExit(f"{SWEEPS[number].what}, {size} {SWEEPS[number].axis} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def report(sweep: Sweep, rows: list[tuple[int, dict[str, float] | str]]) -> None:
    print(f"\n## {sweep.what} against {sweep.axis}\n\n{sweep.fixed}.\n")
    print(f"| {sweep.axis} | seconds | step | anonymous MB | file MB |\n|---|---|---|---|---|")
    known: list[tuple[int, float]] = []
    steps: list[tuple[int, float]] = []
    for size, figures in rows:
        if isinstance(figures, str):
            print(f"| {size:,} | {figures} | | | |")
            continue
        step = ""
        if known:
            last, seconds = known[-1]
            steps.append((last, exponent([(last, seconds), (size, figures["seconds"])])))
            step = f"{steps[-1][1]:.2f}"
        known.append((size, figures["seconds"]))
        print(
            f"| {size:,} | {figures['seconds']:.3g} | {step} | {figures['anonymous'] / 1e6:.0f} "
            f"| {figures['file'] / 1e6:.0f} |"
        )
    print(f"\n{verdict(known, steps)}")


def verdict(known: list[tuple[int, float]], steps: list[tuple[int, float]]) -> str:
    long = [point for point in known if point[1] >= LONG_ENOUGH]
    fitted = f"e = {exponent(long):.2f} over {len(long)} sizes" if len(long) > 1 else "too short for a fitted exponent"
    after = {size: seconds for (size, _), (_, seconds) in itertools.pairwise(known)}
    steep = [size for size, step in steps if step > LINEAR and after[size] >= LONG_ENOUGH]
    return f"{fitted}; " + (f"more than linear from {steep[0]:,} on." if steep else "linear or less throughout.")


def exponent(points: list[tuple[int, float]]) -> float:
    """Of seconds ~ size^e, by least squares on logarithms."""
    sizes, seconds = np.log(np.array(points, dtype=np.float64)).T
    return float(np.polyfit(sizes, seconds, 1)[0])


# One size, in its own process.


def measured(sweep: Sweep, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="scaling-") as place:
        sweep.make(Path(place) / "first", sweep.sizes[0])()
        work = sweep.make(Path(place) / "work", size)
        seconds: list[float] = []
        with Memory() as memory:
            while len(seconds) < 3 and (not seconds or seconds[0] < ONCE):
                began = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), **memory.figures()}


def soup_of(place: Path, ingredients: int, megabytes: int) -> Work:
    """A uniform soup, mixed and written; at most 8 files are different, used in turn."""
    import torch
    from safetensors.torch import save_file

    from hf_soups.checkpoint import Checkpoint
    from hf_soups.soups.mixing import mix_to_folder

    place.mkdir()
    config = json.dumps({"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
    folders = [place / str(i) for i in range(min(ingredients, 8))]
    for i, folder in enumerate(folders):
        folder.mkdir()
        (folder / "config.json").write_text(config)
        parts = torch.randn(8, megabytes * MEGABYTE // 32, generator=torch.Generator().manual_seed(i))
        save_file(
            {f"layer.{n}.weight": part.clone() for n, part in enumerate(parts)},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
    given = [Checkpoint(folders[i % 8]) for i in range(ingredients)]
    turn = iter(range(1000))
    return lambda: mix_to_folder(given, [1 / ingredients] * ingredients, place / f"out-{next(turn)}", threads=2)


def pool_of(models: int, rows: int, classes: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Predictions in memory, of models that are better the more they cost."""
    from hf_soups.predictions import Predictions

    common = np.random.default_rng(0)
    labels = common.integers(classes, size=rows)
    hardness = common.normal(0, 2.0, size=rows).astype(np.float32)
    pool, costs = {}, {}
    for m in range(models):
        own = np.random.default_rng([1, m])
        logits = own.standard_normal((rows, classes), dtype=np.float32)
        logits[np.arange(rows), labels] += 2 + np.log2(1 + m / models) * 2 + hardness
        pool[f"m{m}"] = Predictions.from_logits(logits, labels=labels)
        costs[f"m{m}"] = float(np.exp(3 * m / models))
    return pool, costs


def scoring(_: Path, rows: int, classes: int) -> Work:
    from hf_soups.metrics import score

    pool, _costs = pool_of(1, rows, classes)
    return lambda: [score(pool["m0"], metric) for metric in ("accuracy", "nll", "ece")]


def stored(place: Path, rows: int, classes: int) -> Work:
    from hf_soups.predictions import Predictions

    place.mkdir()
    pool, _ = pool_of(1, rows, classes)
    pool["m0"].save(place / "m0.safetensors")
    return lambda: Predictions.load(place / "m0.safetensors").answers


def selecting(_: Path, models: int, rows: int, classes: int) -> Work:
    from hf_soups.ensembles import select_ensemble

    pool, _costs = pool_of(models, rows, classes)
    return lambda: select_ensemble(pool)


def searching(_: Path, models: int, rows: int, classes: int) -> Work:
    from hf_soups.cascades.search.exhaustive import search_cascades

    search_cascades(*pool_of(5, 50, 4))  # compiles what only larger pools need
    pool, costs = pool_of(models, rows, classes)
    return lambda: search_cascades(pool, costs, threads=2)


def beaming(_: Path, models: int, rows: int, classes: int) -> Work:
    from hf_soups.cascades.search.beam import beam

    pool, costs = pool_of(models, rows, classes)
    return lambda: beam(pool, costs, threads=2)


def streeting(_: Path, models: int, rows: int, classes: int) -> Work:
    from hf_soups.cascades.search.streeter import streeter

    pool, costs = pool_of(models, rows, classes)
    return lambda: streeter(pool, costs, threads=2)


ROWS, CLASSES, MODELS = (1_000, 10_000, 100_000, 1_000_000), (2, 10, 100, 1_000, 10_000), (2, 10, 100, 1_000)
SOUP, SCORES, ENSEMBLE, SEARCH = (
    "A uniform soup",
    "Scores with intervals",
    "Choosing an ensemble",
    "The exhaustive search",
)
SAME = "2,000 rows, 10 classes"
SWEEPS = (
    Sweep(SOUP, "ingredients", (2, 4, 8, 16, 32, 72), lambda p, n: soup_of(p, n, 64), "64 MB each, float32"),
    Sweep(SOUP, "MB of weights", (4, 16, 64, 256, 1024), lambda p, n: soup_of(p, 4, n), "4 ingredients"),
    Sweep("Reading predictions", "rows", ROWS, lambda p, n: stored(p, n, 10), "10 classes, float32"),
    Sweep(SCORES, "rows", ROWS, lambda p, n: scoring(p, n, 10), "10 classes; accuracy, NLL and ECE"),
    Sweep(SCORES, "classes", CLASSES, lambda p, n: scoring(p, 2_000, n), "2,000 rows; accuracy, NLL and ECE"),
    Sweep(ENSEMBLE, "rows", ROWS, lambda p, n: selecting(p, 4, n, 10), "4 models, 10 classes, accuracy"),
    Sweep(ENSEMBLE, "models", MODELS, lambda p, n: selecting(p, n, 2_000, 10), f"{SAME}, accuracy"),
    Sweep(SEARCH, "rows", ROWS, lambda p, n: searching(p, 3, n, 10), "3 models, 10 classes"),
    Sweep(SEARCH, "classes", CLASSES, lambda p, n: searching(p, 3, 2_000, n), "3 models, 2,000 rows"),
    Sweep(SEARCH, "models", (2, 3, 4, 8, 16, 30), lambda p, n: searching(p, n, 2_000, 10), f"{SAME}, up to 4 members"),
    Sweep("The beam", "models", (8, 16, 32, 64, 128, 256), lambda p, n: beaming(p, n, 2_000, 10), f"{SAME}, width 64"),
    Sweep("Streeter's greedy", "models", MODELS, lambda p, n: streeting(p, n, 2_000, 10), SAME),
)


if __name__ == "__main__":
    main()
