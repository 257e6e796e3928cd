"""The exhaustive search for cascades, from stored predictions: seconds and memory.

    python benchmarks/cascade_search.py           6 models, 3,000 rows, 100 classes: checks that the benchmark works
    python benchmarks/cascade_search.py --full    50,000 rows, 1,000 classes, cascades of up to 4 members; the bars:
                                                  8 models 15 s, 30 models 5 minutes, 30 that answer alone 60 s, 4 GB

Predictions are files as `hf-soups predict` writes them, mapped: 200 MB for each model, 6 GB in all with --full; with
--folder they are kept there for the next time. They are made up: rows differ in how plainly they show their class and
in what all models confuse it with, models in how much of that they see; costs grow as exp(3 x skill), 20-fold from the
first to the last, give or take a quarter.

Each search runs in its own process, the page cache being warm, and the whole is timed: opening the files, reading them,
all subsets, all ordered choices of members at every threshold of the default grid, polish, counting. What is compiled
was compiled or loaded by a first search of two small models, whose seconds are told apart. Memory is what the search
adds to the process: anonymous pages, and pages of files apart. In the end some plans, evenly spread over the frontier,
are run on the stored predictions by the exact rule and must reach the same score, cost and exits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import Memory

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.search.exhaustive import search_cascades
from hf_soups.predictions import Predictions

LARGEST = 30
CASES = {  # models, combine, bar in seconds
    "8 models, averaged": (8, "mean", 15),
    "30 models, averaged": (LARGEST, "mean", 300),
    "30 models, the last alone": (LARGEST, "last", 60),
}
CHECKED = 5  # plans run by the exact rule


def main() -> None:
    options = arguments()
    if options.case:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory(prefix="search-") as temporary:
        place = Path(options.folder or temporary)
        made = command(options, place, "make")
        print(
            f"{made['models']} models, {made['rows']} rows, {made['classes']} classes; accuracies {made['accuracies']}"
        )
        for case, (_, _, bar) in CASES.items():
            if options.only is None or options.only in case:
                report(case, bar if options.full else None, command(options, place, case))
        if options.only is None:
            first_searches(place)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="for the files, which are kept; 6 GB with --full")
    parser.add_argument("--only", help="part of the name of a case: " + "; ".join(CASES))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def command(options: argparse.Namespace, place: Path, case: str) -> dict:
    asked = [sys.executable, __file__, "--case", case, "--place", str(place), "--threads", str(options.threads)]
    done = subprocess.run(
        [*asked, *(["--full"] if options.full else [])], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def report(case: str, bar: int | None, told: dict) -> None:
    print(f"\n{case} ({told['models']} here): {told['tuples']:,} ordered choices of members")
    goal = f"; the bar is {bar} s" if bar else ""
    print(
        f"  {told['seconds']:.1f} s in all, {told['cpu']:.1f} s of CPU{goal}; compiled before in {told['first']:.1f} s"
    )
    print("  " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in told["parts"].items()))
    print(f"  memory: {told['anonymous'] / 1e9:.2f} GB anonymous, {told['file'] / 1e9:.2f} GB of files")
    print(f"  {told['plans']:,} plans that none beats, {told['flat']:,} of them whatever the worst cost")
    print(f"  best single {told['single']:.4f}; best plan {told['best']:.4f}; at the single's score {told['saved']}")
    print(f"  {told['checked']} plans by the exact rule: the same score, cost and exits")


# One run, in its own process.


def measured(options: argparse.Namespace) -> dict:
    if options.case == "make":
        return make(options.place, *((LARGEST, 50_000, 1000) if options.full else (6, 3_000, 100)))
    models, combine, _ = CASES[options.case]
    first = compiling(combine)
    names = sorted(path.stem for path in options.place.glob("model_*.safetensors"))
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(models, len(names))).round().astype(int)]
    skill = {name: names.index(name) / (len(names) - 1) for name in names}
    spread = np.random.default_rng(3).uniform(0.75, 1.25, len(names))
    costs = {name: float(np.exp(3 * skill[name]) * spread[names.index(name)]) for name in chosen}
    began: dict[str, float] = {}
    with Memory() as memory:
        start, cpu = time.perf_counter(), time.process_time()
        pool = {name: Predictions.load(options.place / f"{name}.safetensors", mapped=True) for name in chosen}
        frontier = search_cascades(
            pool, costs, combine=combine, threads=options.threads,
            progress=lambda _, part: began.setdefault(part, time.perf_counter()) and None,
        )  # fmt: skip
        done, cpu = time.perf_counter(), time.process_time() - cpu
    return {
        "seconds": done - start, "cpu": cpu, "first": first, **memory.figures(), **about(frontier, len(chosen)),
        "parts": durations(began, start, done), "checked": checked(frontier, pool),
    }  # fmt: skip


def durations(began: dict[str, float], start: float, done: float) -> dict[str, float]:
    """Seconds from one part's first word to the next one's; the first begins at the start."""
    edges = [start, *list(began.values())[1:], done]
    return {part: edges[i + 1] - edges[i] for i, part in enumerate(began)}


def about(frontier: Frontier, models: int) -> dict:
    single, plan, best = frontier.best_single, frontier.cheapest(), frontier.best()
    assert plan is not None
    assert best is not None
    tuples = [int(np.prod(np.arange(models, models - size, -1))) for size in range(1, 5)]
    return {
        "plans": len(frontier), "flat": len(frontier.pareto()), "single": single.score, "best": best.score,
        "saved": f"{plan.average_cost / single.average_cost:.2f}x its cost, {len(plan.members)} members",
        "models": models, "tuples": sum(tuples),
    }  # fmt: skip


def checked(frontier: Frontier, pool: dict[str, Predictions]) -> int:
    for at in np.linspace(0, len(frontier) - 1, CHECKED).astype(int):
        plan = frontier.plans[at]
        done = plan.apply(pool)
        shares = np.bincount(done.exits, minlength=len(plan.members)) / len(done)
        score = float((done.answers == done.labels).mean())
        if (
            score != plan.score
            or tuple(shares) != plan.exit_shares
            or abs(done.costs.mean() - plan.average_cost) > 1e-9
        ):
            raise SystemExit(f"{plan} scores {score} by the exact rule, exits {shares}")
    return CHECKED


def compiling(combine: str) -> float:
    """Seconds of a first search, of five small models: of four or fewer nothing is compiled."""
    rng, start = np.random.default_rng(0), time.perf_counter()
    labels = rng.integers(4, size=60)
    logits = [rng.normal(size=(60, 4)) + m * np.eye(4)[labels] for m in range(5)]
    pool = {str(m): Predictions.from_logits(z, labels=labels) for m, z in enumerate(logits)}
    search_cascades(pool, {name: 1.0 + i for i, name in enumerate(pool)}, combine=combine, threads=2)
    return time.perf_counter() - start


SMALL = """
import sys, time
import numpy as np
from hf_soups.cascades.search.exhaustive import search_cascades
from hf_soups.predictions import Predictions
rng, (models, rows) = np.random.default_rng(0), map(int, sys.argv[1:])
labels, common = rng.integers(10, size=rows), rng.normal(size=(rows, 10))
logits = [common + rng.normal(size=(rows, 10)) + (1 + m) * np.eye(10)[labels] for m in range(models)]
pool = {str(m): Predictions.from_logits(z, labels=labels) for m, z in enumerate(logits)}
start = time.perf_counter()
search_cascades(pool, {name: 2.0**i for i, name in enumerate(pool)}, threads=2)
print(time.perf_counter() - start)
"""


def first_searches(place: Path) -> None:
    """Small pools in a new environment, where no machine code is kept, and once more."""
    print("\na first search in a new environment, and the second:")
    for models, rows in ((2, 300), (4, 300), (4, 10_000)):
        kept = {**os.environ, "NUMBA_CACHE_DIR": str(place / f"machine-code-{models}-{rows}")}
        took = [
            float(
                subprocess.run(
                    [sys.executable, "-c", SMALL, str(models), str(rows)], env=kept, capture_output=True, check=True
                ).stdout
            )
            for _ in range(2)
        ]
        print(f"  {models} models, {rows} rows: {took[0]:.2f} s, {took[1]:.2f} s; the bar is 2 s more")


def make(place: Path, models: int, rows: int, classes: int) -> dict:
    place.mkdir(parents=True, exist_ok=True)
    accuracies = []
    for m in range(models):
        path = place / f"model_{m:02}.safetensors"
        if not path.exists():
            made_up(m / (models - 1), rows, classes).save(path)
        told = Predictions.load(path, mapped=True)
        accuracies.append(float((told.answers == told.labels).mean()))
    between = f"{min(accuracies):.3f} to {max(accuracies):.3f}"
    return {"models": models, "rows": rows, "classes": classes, "accuracies": between}


def made_up(skill: float, rows: int, classes: int) -> Predictions:
    """A model's answers; what is drawn of the rows is the same for all models."""
    common, own = np.random.default_rng(0), np.random.default_rng([1, round(1000 * skill)])
    labels = common.integers(classes, size=rows)
    plain = common.normal(7.6, 2.6, size=rows).astype(np.float32)
    confused = common.integers(classes, size=(rows, 4))
    pull = common.normal(2.0, 2.2, size=(rows, 4)).astype(np.float32)
    log_probs = np.empty((rows, classes), np.float32)
    for start in range(0, rows, 2000):
        at = slice(start, min(start + 2000, rows))
        here = np.arange(at.stop - start)
        z = own.standard_normal((len(here), classes), dtype=np.float32) * np.float32(1.45 - 0.35 * skill)
        for j in range(4):
            z[here, confused[at, j]] += pull[at, j] + own.normal(0, 0.7, len(here)).astype(np.float32)
        seen = plain[at] * np.float32(0.83 + 0.2 * skill) + own.normal(0, 0.8, len(here)).astype(np.float32)
        z[here, labels[at]] += seen
        z *= np.float32(1.35)
        z -= z.max(axis=1, keepdims=True)
        log_probs[at] = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return Predictions(log_probs, np.arange(rows), labels, None, "made up", f"skill {skill:.2f}")


if __name__ == "__main__":
    main()
