"""Every soup and ensemble against the best fine-tune on select, and the greedy soups of two heads against each other.

    python recipes/studies/soups-on-images/figures.py LEARNT/runs RANDOM/runs [--figures FILE] [--recipe R --set K=V]

Differences of accuracy on the report rows, paired by row; p is McNemar's, by Holm's rule for all of one head. With the
recipe, each head's start answers the report rows too: what it scores before any fine-tuning.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from hf_soups import predict_pool
from hf_soups.leaderboard.compare import holm
from hf_soups.leaderboard.rows import ScoredModel, read_scored_models

sys.path.insert(0, str(Path(__file__).parents[1]))
from effects import Finding, finding, record

NAMES = ("learnt head", "shared random head")


def of_head(folder: Path) -> tuple[list[Finding], dict[str, ScoredModel], int]:
    """What averages give over the best fine-tune, and what there is by name."""
    found = read_scored_models(folder)
    best = found.runs[0]
    averages = [*found.soups, *found.ensembles]
    drawn = [finding(one.row.name, one.report, best.row.name, best.report) for one in averages]
    corrected = holm([one.p for one in drawn])
    findings = [replace(one, p=p, tests=len(drawn)) for one, p in zip(drawn, corrected, strict=True)]
    return findings, {one.row.name: one for one in (*averages, best)} | {"best": best}, len(found.runs)


def from_start(folder: Path, recipe: Path, changes: dict[str, str], best: ScoredModel) -> Finding:
    """The best fine-tune on select against the start, which is a fitted classifier or one with a random head."""
    with tempfile.TemporaryDirectory() as place:
        start = {"models": [f"start={folder / 'start'}"], "out": place, "split": "report", "progress": False}
        answered = predict_pool(recipe=recipe, overrides=changes, **start).pool.predictions["start"]
    return finding(best.row.name, best.report, "the start", answered)


def seconds(folder: Path) -> float:
    """Mean training seconds of a finished run."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("run_*/run.json"))]
    return sum(r["train_seconds"] for r in records) / len(records)


def line(one: Finding) -> str:
    """One finding as it is printed."""
    numbers = (100 * value for value in (one.effect, one.low, one.high))
    apart = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*numbers)
    return f"{one.what:26} against {one.against:20} {apart:>22}  p {one.p:<8.2g} could show {100 * one.could_show:.1f}"


def main() -> None:
    """Print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs=2)
    parser.add_argument("--figures", type=Path, help="a study's file of figures")
    parser.add_argument("--recipe", type=Path, help="of the sweeps, to score their starts")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the recipe to change"
    )
    given = parser.parse_args()
    known = []
    for name, folder in zip(NAMES, given.sweeps, strict=True):
        findings, models, runs = of_head(folder)
        known.append(models)
        print(f"{name}: {runs} fine-tunes, {findings[0].rows} report rows, accuracy x 100, p by Holm's rule")
        print("\n".join(line(one) for one in findings))
        if given.figures:
            record(given.figures, name, runs=runs, seconds_a_run=seconds(folder), findings=findings)
    if given.recipe:
        changes = dict(change.split("=", 1) for change in given.set)
        starts = [
            replace(from_start(folder, given.recipe, changes, models["best"]), what=f"best fine-tune, {name}")
            for name, folder, models in zip(NAMES, given.sweeps, known, strict=True)
        ]
        print("the best fine-tune against its start\n" + "\n".join(line(one) for one in starts))
        if given.figures:
            record(given.figures, "starts", findings=starts)
    learnt, random = known
    between = [
        finding(f"{name}, {NAMES[0]}", learnt[name].report, f"{name}, {NAMES[1]}", random[name].report)
        for name in ("best", "greedy soup", "uniform soup")
        if name in learnt and name in random
    ]
    print("one head against the other\n" + "\n".join(line(one) for one in between))
    if given.figures:
        record(given.figures, "heads", findings=between)


if __name__ == "__main__":
    main()
