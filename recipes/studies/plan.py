"""What each claim needs: rows, the smallest effect that is shown with 80% power at 5%, machine hours.

    python recipes/studies/plan.py NAME=FOLDER ... > recipes/studies/PLAN.md

Each folder is a sweep or a pool that exists: its models' errors give the discordance, the share of rows that exactly
one of two models answers right (the middle of all pairs), and its runs the seconds of training. Names are those of
`DESIGNS`.
"""

import json
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from hf_soups import read_pool
from hf_soups.leaderboard.rows import read_scored_models

sys.path.insert(0, str(Path(__file__).parent))
from effects import LEVEL, POWER, smallest_effect


@dataclass(frozen=True, slots=True)
class Design:
    """One claim on one data set: how many models, and on how many rows they are compared."""

    claim: str
    data: str
    like: str  # the folder whose errors and seconds stand for it
    models: str
    rows: int
    metric: str = "accuracy"
    runs: int = 0  # that are trained
    longer: float = 1.0  # a run's steps against one of that folder


DESIGNS = (
    Design("soups, learnt head", "tiny_imagenet_20, 1,200 train rows", "learnt", "EfficientNet-Lite0", 1000, runs=32),
    Design("soups, random head", "tiny_imagenet_20, 1,200 train rows", "random", "EfficientNet-Lite0", 1000, runs=32),
    Design("soups, rates too high", "tiny_imagenet_20, 1,200 train rows", "learnt", "EfficientNet-Lite0", 1000,
           runs=32),
    Design("soups, learnt head", "CIFAR-10, 10,000 train rows", "learnt", "EfficientNet-Lite0", 10000, runs=32,
           longer=10_000 / 1_200 * (7 / 3) / 1.5),
    Design("soups, random head", "CIFAR-10, 10,000 train rows", "random", "EfficientNet-Lite0", 10000, runs=32,
           longer=10_000 / 1_200 * (7 / 3) / 1.5),
    Design("soups out of distribution", "shift of CIFAR-10", "learnt", "the same fine-tunes", 575),
    Design("cascades", "CIFAR-10, half of the test rows", "cifar", "ResNet-20 to 56", 5000),
    Design("cascades", "CIFAR-10, all test rows, chosen on train rows", "cifar", "ResNet-20 to 56", 10000),
    Design("cascades, self-cascades", "ImageNet, half of 1,000 images", "lite", "EfficientNet-Lite 0-2", 500),
    Design("cascades, self-cascades", "ImageNet, half of 50,000 images", "lite", "EfficientNet-Lite 0-2",
           25000),
    Design("copies against one net", "handwritten digits", "copies", "ViTs of 16 to 128 values", 497, runs=32),
)  # fmt: skip
HEAD = ("claim", "data", "pool", "report rows", "metric", "discordance", "smallest effect", "fine-tunes", "hours")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a folder says: how often two of its models differ, and what a run takes."""

    discordance: float
    seconds: float
    pairs: int


def read_seconds(run: Path) -> float:
    """That a run trained for."""
    return float(json.loads((run / "run.json").read_text(encoding="utf-8"))["train_seconds"])


def seen(folder: Path) -> Seen:
    """Read a sweep's or a pool's answers."""
    if (folder / "pool.json").exists():
        pool = read_pool(folder)
        hits = [pool.predictions[name].hits for name in pool.members]
        seconds = [
            read_seconds(Path(m.source)) for m in pool.members.values() if (Path(m.source) / "run.json").exists()
        ]
    else:
        hits = [run.report.hits for run in read_scored_models(folder).runs]
        seconds = [read_seconds(path.parent) for path in sorted(folder.glob("run_*/run.json"))]
    apart = [float((one != other).mean()) for one, other in combinations(hits, 2)]
    return Seen(float(np.median(apart)), float(np.mean(seconds)) if seconds else 0.0, len(apart))


def cells(design: Design, known: Seen) -> tuple[str, ...]:
    """One line of the table."""
    effect = smallest_effect(known.discordance, design.rows)
    hours = known.seconds * design.longer * design.runs / 3600
    trained = str(design.runs) if design.runs else "none"
    spent = f"{hours:.2f}" if design.runs else "no training"
    return (
        design.claim, design.data, design.models, f"{design.rows:,}", design.metric, f"{known.discordance:.3f}",
        f"{100 * effect:.1f} points", trained, spent,
    )  # fmt: skip


def page(folders: dict[str, Path]) -> str:
    """The plan, of the folders that were named."""
    found = {name: seen(folder) for name, folder in folders.items()}
    lines = [cells(design, found[design.like]) for design in DESIGNS if design.like in found]
    table = "\n".join("| " + " | ".join(line) + " |" for line in (HEAD, ("---",) * len(HEAD), *lines))
    about = "\n".join(
        f"- `{name}`: the middle of {one.pairs} pairs"
        + (f"; {one.seconds:.0f} s a run, one thread." if one.seconds else ".")
        for name, one in found.items()
    )
    return TEXT.format(table=table, about=about, power=f"{POWER:.0%}", level=f"{LEVEL:.0%}")


TEXT = """# The plan: what each claim needs

Written by `python recipes/studies/plan.py` from runs that exist; do not edit by hand.

Two models answer the same report rows. McNemar's test looks at the rows that exactly one of them answers right: their
share, the discordance, decides how small a difference of accuracy can be shown. The smallest effect here is what the
test shows at {level} with {power} power, by the normal approximation (Connor 1987; a test holds it against simulated
rows). A soup and its best ingredient differ on fewer rows than two fine-tunes do, so for soups the figure is on the
safe side; Holm's correction for several soups takes some of that back. Means over seeds or random halves need fewer
rows.

{table}

What the discordance and the seconds were read from:

{about}

Text (MiniLM on SST-2, CoLA and MRPC) and the small T5 are not in this plan: the answers of their earlier runs were not
kept, and a discordance cannot be read from a printed score. Sweeps made anew join by a line of `DESIGNS`.

Hours are of one thread on a machine shared with other jobs, so upper bounds, and of training alone; a longer run is
counted by its steps. Pools are answered once, without training. The rows of a design that has not run take the
discordance of the data beside it: better models differ on fewer rows, and then a smaller effect is shown.
"""


def main() -> None:
    """Print the page."""
    if not sys.argv[1:]:
        sys.exit(__doc__)
    print(page({name: Path(folder) for name, folder in (word.split("=", 1) for word in sys.argv[1:])}), end="")


if __name__ == "__main__":
    main()
