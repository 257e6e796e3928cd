"""A sweep's seconds beyond its training: runs forked from one process, against a Python of its own for each.

    python benchmarks/sweep.py            the 10 fine-tunes of the quickstart, forked and with --isolate
    python benchmarks/sweep.py --small    4 fine-tunes of seconds: checks that the benchmark itself works

The data and the recipe are those of `hf-soups quickstart`; the start is its blank ViT, with a linear probe. Sweeps of
both kinds take turns, each in a process of its own, and medians are printed.

A run's overhead is all its wall seconds, from its start to the moment when the sweep notices its end, beyond
`train_seconds` in its run.json. So answering select and report, counting multiply-adds, writing and hashing the
checkpoint count as overhead. The first run of each slot pays for what its server still reads, and is left out of the
median.

The sweep's seconds are compared with training / slots, which is the least that they can be: "runs" from the start of
the first run to the end of the last, where slots that idle at the end count too, and "command" the whole of it, with
its imports, the data set and the linear probe, which one sweep pays once, however many runs it has.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("forked", "isolated")
OVERHEAD, RATIO = 1.0, 1.3  # bars
BEFORE = ("start-up", "rows", "start", "rest before training")
AFTER = ("answers", "written", "rest after training", "end noticed")
NAMES = {"_rows_of": "rows", "load_start": "start", "predict_split": "answers", "_write_run_folder": "written"}


def main() -> None:
    options = arguments()
    if options.way is not None:
        print(json.dumps(one_sweep(options)))
        return
    with tempfile.TemporaryDirectory(prefix="hf_soups-sweep-") as place:
        write_recipe(Path(place), options)
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for turn in range(options.repeats):
            for way in WAYS[turn % 2 :] + WAYS[: turn % 2]:
                found[way].append(command(way, Path(place) / f"{way}-{turn}", options))
    report(options, found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="4 runs of 2 epochs")
    parser.add_argument("--runs", type=int, help="default: 10, or 4 with --small")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_recipe(place: Path, options: argparse.Namespace) -> None:
    from datasets import disable_progress_bars
    from transformers.utils import logging

    from hf_soups.quickstart.digits import LARGE, write_digits, write_recipes

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    write_digits(place / "digits")
    _, recipe = write_recipes(place, place / "digits", LARGE)
    text = recipe.read_text().replace(str(place / "start"), str(place / "blank"))
    text = text.replace("runs: 10", f"runs: {options.runs or (4 if options.small else 10)}")
    if options.small:
        text = text.replace("choice: [10, 15, 20]", "choice: [2, 3]")
    recipe.write_text(text)


def command(way: str, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One sweep in a process of its own."""
    out.mkdir()
    stages = out / "stages"
    stages.mkdir()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "SWEEP_STAGES": str(stages),
        "HF_SOUPS_IMPORT": str(Path(__file__).with_name("stages.py").resolve()),
    }
    asked = ["--way", way, "--out", str(out / "runs"), "--slots", str(options.slots)]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *asked], capture_output=True, text=True, env=environment, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr}")
    marks = [json.loads(path.read_text()) for path in sorted(stages.glob("*.json"))]
    return {**json.loads(done.stdout.splitlines()[-1]), "command": seconds, "marks": marks}


def one_sweep(options: argparse.Namespace) -> dict[str, Any]:
    from hf_soups.recipe import load_recipe
    from hf_soups.sweep import run_sweep

    recipe = load_recipe(options.out.parent.parent / "digits.yaml")
    result = run_sweep(recipe, options.out, slots=options.slots, isolate=options.way == "isolated", progress=False)
    if result.exit_status:
        raise SystemExit(f"a run failed: {result.entries}")
    return {"wall": [run.seconds for run in result.ended], "training": [run.entry.seconds for run in result.ended]}


def report(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    sweeps = found["forked"]
    print(
        f"{len(sweeps[0]['wall'])} fine-tunes of the quickstart's size, {options.slots} slots on {os.cpu_count()} "
        f"cores, medians of {options.repeats} interleaved sweeps of each kind\n"
    )
    print(f"{'':10}{'training s':>12}{'overhead a run':>16}{'first run':>11}{'runs':>8}{'command':>9}")
    for way in WAYS:
        figures = [summary(sweep, options.slots) for sweep in found[way]]
        middle = {key: statistics.median(f[key] for f in figures) for key in figures[0]}
        print(
            f"{way:10}{middle['training']:12.1f}{middle['overhead']:14.2f} s{middle['first']:9.2f} s"
            f"{middle['runs']:7.2f}x{middle['command']:8.2f}x"
        )
    print(f"bars, forked:{'':9}{OVERHEAD:14.2f} s{'':11}{RATIO:7.2f}x")
    print("\nstages of a run's overhead, medians in seconds")
    print(f"{'':24}{'forked':>10}{'isolated':>10}")
    stages = {way: stages_of(found[way], options.slots) for way in WAYS}
    for name in (*BEFORE, *AFTER):
        print(f"{name:24}" + "".join(f"{stages[way][name]:10.3f}" for way in WAYS))
        if name == BEFORE[-1]:
            print(f"{'  ... training':24}")


def summary(sweep: dict[str, Any], slots: int) -> dict[str, float]:
    over = [wall - training for wall, training in zip(sweep["wall"], sweep["training"], strict=True)]
    least = sum(sweep["training"]) / slots
    began, ended = min(m[0][1] for m in sweep["marks"]), max(m[-1][2] for m in sweep["marks"])
    return {
        "training": sum(sweep["training"]),
        "overhead": statistics.median(over[slots:]),
        "first": max(over[:slots]),
        "runs": (ended - began) / least,
        "command": sweep["command"] / least,
    }


def stages_of(sweeps: list[dict[str, Any]], slots: int) -> dict[str, float]:
    """Medians over all runs but the first of each slot."""
    split = [one_run(marks) for sweep in sweeps for marks in sweep["marks"][slots:]]
    found = {name: statistics.median(run[name] for run in split) for name in split[0]}
    over = statistics.median(summary(sweep, slots)["overhead"] for sweep in sweeps)
    return {**found, "end noticed": over - sum(found.values())}


def one_run(marks: list[tuple[str, float, float]]) -> dict[str, float]:
    began, end = marks[0][1], marks[-1][2]
    train = next((start, stop) for name, start, stop in marks if name == "train_model")
    took = dict.fromkeys((*BEFORE, *AFTER[:-1]), 0.0)
    for name, start, stop in marks[:-1]:
        if name != "train_model":
            took[NAMES.get(name, name)] += stop - start
    took[BEFORE[-1]] = train[0] - began - sum(took[name] for name in BEFORE[:-1])
    took["rest after training"] = end - train[1] - took["answers"] - took["written"]
    return took


if __name__ == "__main__":
    main()
