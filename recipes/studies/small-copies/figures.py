"""Copies of a small net against one of the next width: error bars over draws of members, cost at equal accuracy.

    python recipes/studies/small-copies/figures.py PREDS/report [--draws 2000] [--figures FILE]

In each draw the copies of the narrow net come in a random order, the wide one is one of its seeds, and the rows are
drawn with replacement: intervals are over seeds and rows together, of what one who trains each once would see.
`gain`: as many copies as cost no more than one wide net, against it. `cost`: of the fewest copies that reach the wide
net's accuracy, in shares of its cost; `inf` where all copies together do not. Copies are combined by geometric mean.
"""

import argparse
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from hf_soups import read_pool

sys.path.insert(0, str(Path(__file__).parents[1]))
from effects import Finding, record


@dataclass(frozen=True, slots=True)
class Width:
    """All seeds of one width on the report rows."""

    name: str
    log_probs: np.ndarray  # seeds x rows x classes
    cost: float

    def hits(self, seeds: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which rows the first 1, 2, ... of these seeds answer right: numbers x rows."""
        return np.asarray(self.log_probs[seeds].cumsum(axis=0).argmax(axis=2) == labels)


def read_widths(folder: Path) -> tuple[list[Width], np.ndarray]:
    """The pool's members by what stands before their number, the cheapest first."""
    pool = read_pool(folder)
    names: dict[str, list[str]] = {}
    for name in pool.members:
        names.setdefault(name.rsplit("-", 1)[0], []).append(name)
    costs = {name: float(member.macs or 0) for name, member in pool.members.items()}
    widths = [
        Width(name, np.stack([np.log(pool.predictions[one].probs + 1e-12) for one in some]), costs[some[0]])
        for name, some in names.items()
    ]
    return sorted(widths, key=lambda width: width.cost), pool.predictions[next(iter(pool.members))].needs_labels()


def draw(narrow: Width, wide: Width, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Accuracy of 1, 2, ... copies, and of one wide net, in one draw."""
    rows = rng.integers(len(labels), size=len(labels))
    copies = narrow.hits(rng.permutation(len(narrow.log_probs)), labels)[:, rows].mean(axis=1)
    return copies, float(wide.hits(rng.integers(len(wide.log_probs), size=1), labels)[0, rows].mean())


def compared(narrow: Width, wide: Width, labels: np.ndarray, draws: int) -> tuple[Finding, dict[str, list[float]]]:
    """The gain at no more cost, and the accuracy of each number of copies and the cost at equal accuracy."""
    rng = np.random.default_rng(0)
    copies, single = (np.array(x) for x in zip(*(draw(narrow, wide, labels, rng) for _ in range(draws)), strict=True))
    afford = min(int(wide.cost // narrow.cost), copies.shape[1])
    gains = copies[:, afford - 1] - single
    p = min(1.0, 2 * (min(int((gains <= 0).sum()), int((gains >= 0).sum())) + 1) / (draws + 1))
    share = afford * narrow.cost / wide.cost
    found = Finding(
        f"{afford} x {narrow.name}", f"1 x {wide.name}", len(labels), float(gains.mean()),
        *map(float, np.quantile(gains, [0.025, 0.975])), p, 2.802 * float(gains.std()), share,
    )  # fmt: skip
    reach = copies >= single[:, None]
    least = np.where(reach.any(axis=1), (reach.argmax(axis=1) + 1) * narrow.cost / wide.cost, np.inf)
    low, middle, high = np.quantile(np.sort(least), [0.025, 0.5, 0.975], method="nearest")
    curve = {
        f"{narrow.name} x {n}": [float(column.mean()), *map(float, np.quantile(column, [0.025, 0.975]))]
        for n, column in enumerate(copies.T, start=1)
    }
    return found, {**curve, "cost": [float(middle), float(low), float(high)]}


def main() -> None:
    """Print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--figures", type=Path, help="a study's file of figures")
    given = parser.parse_args()
    widths, labels = read_widths(given.pool)
    findings, curves = [], {}
    for narrow, wide in pairwise(widths):
        found, more = compared(narrow, wide, labels, given.draws)
        findings.append(found)
        print(
            f"{found.what} against {found.against} at {found.cost:.2f}x its cost: {100 * found.effect:+.1f} "
            f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}], p = {found.p:.2g}; could show "
            f"{100 * found.could_show:.1f}; cost at equal accuracy "
            "{:.2f}x [{:.2f}, {:.2f}]".format(*more.pop("cost"))
        )
        curves |= more
    print("\n".join("{:14} {:.1f} [{:.1f}, {:.1f}]".format(n, *(100 * x for x in v)) for n, v in curves.items()))
    if given.figures:
        record(given.figures, "copies", draws=given.draws, accuracy=curves, findings=findings)


if __name__ == "__main__":
    main()
