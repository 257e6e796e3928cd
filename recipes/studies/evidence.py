"""The evidence: what the papers report, what was seen, with interval and p-value, and what the design could show.

    python recipes/studies/evidence.py soups RUNS --study soups-on-images --data "..." [--name "linear-probe head"]
    python recipes/studies/evidence.py heads FITTED RANDOM --study soups-on-images --data "..."
    python recipes/studies/evidence.py cascades POOL --study cascades --data "..." [--name "..."] [--seed 0]
    python recipes/studies/evidence.py plan      # writes recipes/studies/PLAN.md
    python recipes/studies/evidence.py page      # writes docs/evidence.md

The first three take figures from a sweep's or a pool's own predictions and keep them in the study's figures.json; the
last two write pages from those files alone, so that anybody can make them again without the runs. All differences are
of accuracy x 100 on rows that nothing was chosen on.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from power import LEVEL, POWER, rows_for, smallest_effect

STUDIES = Path(__file__).parent
AT_LESS_COST = ("cascade-cost", "streeter", "greedy-ensemble")  # claims about the same score at less cost
PAGE, PLAN = STUDIES.parents[1] / "docs" / "evidence.md", STUDIES / "PLAN.md"
FIGURES = "figures.json"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a paper says.

    Attributes:
        key: names it in figures.json.
        text: the claim.
        reported: what the paper reports for it; empty where no figure of it was read at first hand.
        source: the paper.
    """

    key: str
    text: str
    reported: str
    source: str


SOUPS, COMMITTEES, COPIES, STREETER = (
    "Wortsman et al. 2022, arXiv:2203.05482", "Wang et al. 2022, arXiv:2012.01988",
    "Kondratyuk et al. 2020, arXiv:2005.00570", "Streeter 2018",
)  # fmt: skip
CLAIMS = tuple(
    Claim(*about)
    for about in (
        ("greedy-best", "A greedy soup scores more than the best single fine-tune", "90.94 for ViT-G/14", SOUPS),
        ("uniform-best", "A uniform soup is near the best single fine-tune", "", SOUPS),
        ("learned-best", "A learned soup scores more than the best single fine-tune", "", SOUPS),
        ("greedy-ensemble", "A greedy soup is near the ensemble of all fine-tunes, at the cost of one", "", SOUPS),
        ("head", "Fine-tunes from a fitted head gain more by averaging than those from a random head", "", SOUPS),
        ("cascade-cost", "A cascade has the best single model's accuracy at a fraction of its cost",
         "EfficientNet-B7's accuracy at 5.4x fewer FLOPs", COMMITTEES),
        ("cascade-score", "At the best single model's cost a cascade scores more", "86.0 for ViT-L-384's 85.0",
         COMMITTEES),
        ("copies", "Several small nets score more than one large net of the same cost", "", COPIES),
        ("streeter", "Streeter's greedy search keeps the reference's accuracy at a lower cost",
         "up to 2x fewer multiplications", STREETER),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """One claim on one set of rows.

    Attributes:
        claim: its key.
        name: what was compared with what.
        data: rows, models and where they came from.
        rows: on which the difference was taken.
        difference: of accuracy, x 100.
        low: of its 95% interval.
        high: of its 95% interval.
        p: of a two-sided test that the difference is none.
        discordant: share of rows that one of the two alone answers right.
        hours: of this machine, for all models of the study.
        cost: in shares of what it is held against; None where both cost the same.
        test: how interval and p were found.
        command: that printed it.
    """

    claim: str
    name: str
    data: str
    rows: int
    difference: float
    low: float
    high: float
    p: float
    discordant: float
    hours: float
    cost: float | None = None
    test: str = "McNemar's exact test, paired bootstrap"
    command: str = ""

    @property
    def could_show(self) -> float:
        """The smallest difference that this design shows with 80% power, x 100."""
        return 100 * smallest_effect(max(self.discordant, 1 / self.rows), self.rows)

    @property
    def verdict(self) -> str:
        """In words; about cost a claim is shown where the score did not fall by more than the interval allows."""
        if self.p < LEVEL:
            return "shown" if self.difference > 0 else "the opposite is shown"
        return f"not shown at this size (could have shown {self.could_show:.1f})"


@dataclass(frozen=True)
class Study:
    """The figures of a folder of recipes/studies."""

    name: str
    figures: list[Figure] = field(default_factory=list)

    @classmethod
    def read(cls, name: str) -> Study:
        """What is kept; nothing where nothing is."""
        file = STUDIES / name / FIGURES
        kept = json.loads(file.read_text()) if file.is_file() else []
        return cls(name, [Figure(**values) for values in kept])

    def keep(self, found: Iterable[Figure]) -> None:
        """Add figures, in place of those of the same claim and name."""
        new = {(one.claim, one.name): one for one in [*self.figures, *found]}
        text = json.dumps([_rounded(asdict(one)) for one in new.values()], indent=1)
        (STUDIES / self.name / FIGURES).write_text(f"{text}\n")


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}


def studies() -> Iterator[Study]:
    """All that have figures."""
    for file in sorted(STUDIES.glob(f"*/{FIGURES}")):
        yield Study.read(file.parent.name)


def from_soups(folder: Path, name: str, data: str, command: str) -> list[Figure]:
    """The soups of a sweep against its best single fine-tune on select, by report rows."""
    from hf_soups import compare
    from hf_soups.leaderboard.rows import read_scored_models

    found = read_scored_models(folder)
    hours = sum(run.row.train_seconds or 0 for run in found.runs) / 3600
    discordance, rows = {}, len(found.runs[0].report)

    def one(claim: str, method: str, other: str) -> Figure:
        told = compare(folder, [method, other])
        pair = told.pairs[0]
        discordance[claim] = (pair.only_a + pair.only_b) / rows
        between = f"{pair.a} {100 * pair.a_score:.1f} against {pair.b} {100 * pair.b_score:.1f}"
        return Figure(
            claim, f"{name}: {method} against {other}", f"{data}; {len(found.runs)} fine-tunes; {between}", rows,
            100 * (pair.a_score - pair.b_score), 100 * pair.low, 100 * pair.high, pair.mcnemar_p, discordance[claim],
            hours, command=command,
        )  # fmt: skip

    methods = [
        ("greedy-best", "greedy", "best"),
        ("uniform-best", "uniform", "best"),
        ("learned-best", "learned", "best"),
    ]
    made = {model.row.name for model in found.soups}
    figures = [one(*given) for given in methods if f"{given[1]} soup" in made]
    return [*figures, one("greedy-ensemble", "greedy", "ensemble")]


def from_heads(fitted: Path, random: Path, data: str, command: str) -> list[Figure]:
    """The gain of averaging from a fitted head less that from a random one, on the same report rows."""
    from hf_soups.leaderboard.rows import read_scored_models

    gains, hours, count = [], 0.0, 0
    for folder in (fitted, random):
        found = read_scored_models(folder)
        soup = next(model for model in found.soups if model.row.name == "uniform soup")
        gains.append(soup.report.hits.astype(int) - np.mean([run.report.hits for run in found.runs], axis=0))
        hours += sum(run.row.train_seconds or 0 for run in found.runs) / 3600
        count += len(found.runs)
    difference = gains[0] - gains[1]
    low, high, p = bootstrap(difference)
    means = [100 * gain.mean() for gain in gains]
    return [
        Figure(
            "head", "gain of the uniform soup over the mean fine-tune: linear-probe head less shared random head",
            f"{data}; {count} fine-tunes; gains {means[0]:+.1f} and {means[1]:+.1f}", len(difference),
            100 * difference.mean(), 100 * low, 100 * high, p, float(difference.var()), hours,
            test="paired bootstrap by row", command=command,
        )
    ]  # fmt: skip


def bootstrap(values: np.ndarray, resamples: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """The 95% interval of a mean by row, and the two-sided p-value that it is 0."""
    random, means = np.random.default_rng(seed), np.empty(resamples)
    for i in range(resamples):
        means[i] = values[random.integers(0, len(values), len(values))].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return float(low), float(high), float(min(1.0, 2 * (tail * resamples + 1) / (resamples + 1)))


def from_pool(folder: Path, name: str, data: str, command: str, seed: int) -> list[Figure]:
    """Cascades searched on a random half of a pool, against its best single model, by the other half."""
    from hf_soups import read_pool, search_cascades
    from hf_soups.cascades.search.streeter import streeter
    from hf_soups.metrics.significance import mcnemar
    from hf_soups.pool_jobs import select_and_report

    pool = read_pool(folder)
    parts = select_and_report(pool, "0.5", seed)
    assert parts.report is not None
    costs, report = pool.costs(pool.unit()), parts.report
    frontier = search_cascades(parts.select, costs, max_members=min(4, len(pool.members)))
    single = frontier.best_single
    alone = single.apply(report)
    chosen = {
        "cascade-cost": frontier.cheapest(min_score=single.score),
        "cascade-score": frontier.best(max_average_cost=single.average_cost),
        "streeter": next(iter(streeter(parts.select, costs, shares=(1.0,)).plans), None),
    }
    figures = []
    for claim, plan in chosen.items():
        if plan is None:
            continue
        answers = plan.apply(report)
        assert answers.costs is not None
        told, difference = mcnemar(answers, alone), answers.hits.astype(float) - alone.hits
        low, high, _ = bootstrap(difference)
        share, rows = float(answers.costs.mean()) / single.average_cost, len(difference)
        figures.append(
            Figure(
                claim, f"{name}: {' -> '.join(plan.members)} against {single.members[0]}",
                f"{data}; half of the rows to search on, half to report; accuracy {100 * answers.hits.mean():.1f} and "
                f"{100 * alone.hits.mean():.1f}",
                rows, 100 * difference.mean(), 100 * low, 100 * high, told.p_value, (told.only_a + told.only_b) / rows,
                0.0, cost=share, command=command,
            )
        )  # fmt: skip
    return figures


# Pages


def verdict(claim: Claim, figure: Figure) -> str:
    """In words. A claim about cost is shown where it fell, and the score fell by less than the design could show."""
    if claim.key not in AT_LESS_COST:
        return figure.verdict
    if figure.cost is None or figure.cost >= 1:
        return "not shown: it costs as much"
    if figure.p < LEVEL and figure.difference < 0:
        return f"not shown: the score falls, at {figure.cost:.2f}x the cost"
    return f"shown: {figure.cost:.2f}x the cost (a fall of the score by {figure.could_show:.1f} would have been seen)"


def p_in_words(p: float) -> str:
    """A p-value as a table needs it."""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}"


def _paragraph(*parts: str) -> str:
    return textwrap.fill(" ".join(parts), 140, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    """docs/evidence.md."""
    kept = [(study, figure) for study in studies() for figure in study.figures]
    lines = [
        "# The evidence: what the papers claim, and what was seen here",
        "",
        _paragraph(
            "Written by `python recipes/studies/evidence.py page` from the figures that each study's runs gave",
            "(`recipes/studies/*/figures.json`); do not edit. Differences are of accuracy x 100 on rows that",
            "nothing was chosen on, with 95% intervals by paired bootstrap of rows; p is McNemar's exact test's",
            "where both sides are single answers. 'Could have shown' is the smallest difference that so many",
            f"rows, with so many disagreements, show with {POWER:.0%} power at the {LEVEL:.0%} level. Intervals",
            "are of the rows alone: other seeds, data and models are other draws. A claim that was not shown here",
            "is not refuted, unless its size is above what could have been shown.",
        ),
        "",
    ]
    for claim in CLAIMS:
        lines += [f"## {claim.text}", ""]
        told = f" It reports: {claim.reported}." if claim.reported else ""
        lines += [f"{claim.source}.{told}", ""]
        own = [(study, figure) for study, figure in kept if figure.claim == claim.key]
        if not own:
            lines += ["**Not run** at a size that says anything.", ""]
            continue
        lines += ["| Compared | Difference | 95% | p | Verdict | Study |", "| --- | ---: | --- | ---: | --- | --- |"]
        for study, figure in own:
            where = f"[{study.name}](../recipes/studies/{study.name}/README.md)"
            ends, p = f"{figure.low:+.1f} to {figure.high:+.1f}", p_in_words(figure.p)
            lines.append(
                f"| {figure.name} | {figure.difference:+.1f} | {ends} | {p} | **{verdict(claim, figure)}** | {where} |"
            )
        lines += ["", *[f"- {figure.name}: {figure.data}; {figure.rows:,} report rows." for _, figure in own], ""]
    return "\n".join(lines)


def plan() -> str:
    """recipes/studies/PLAN.md."""
    lines = [
        "# What the studies can show",
        "",
        _paragraph(
            "Written by `python recipes/studies/evidence.py plan` from the figures of runs that exist; do not",
            "edit. For two models that answer the same rows, the share of rows that one alone answers right says",
            f"how small a difference the rows show ([power.py](power.py), Connor 1987), here with {POWER:.0%}",
            f"power at the {LEVEL:.0%} level: for the rows there are, and the rows that a difference of one point,",
            "or half a point, takes. Hours are of training on two cores, of all models that the comparison needs.",
        ),
        "",
        "| Claim | Compared | Rows | Disagree | Shown from | Rows for 1.0 | Rows for 0.5 | Hours |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for study in studies():
        for figure in study.figures:
            share = max(figure.discordant, 1 / figure.rows)
            needed = [f"{rows_for(effect, share):,}" if effect**2 < share else "-" for effect in (0.01, 0.005)]
            hours = f"{figure.hours:.1f}" if figure.hours else "-"
            cells = (
                figure.claim, figure.name, f"{figure.rows:,}", f"{figure.discordant:.1%}", f"{figure.could_show:.1f}",
                *needed, hours,
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    missing = [claim.key for claim in CLAIMS if not any(f.claim == claim.key for s in studies() for f in s.figures)]
    if missing:
        lines += ["", f"Without runs so far: {', '.join(missing)}."]
    return "\n".join([*lines, ""])


def main() -> None:
    """Keep figures, or write a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("soups", "heads", "cascades"):
        one = kinds.add_parser(kind)
        one.add_argument("folder", type=Path, nargs=2 if kind == "heads" else 1)
        one.add_argument("--study", required=True)
        one.add_argument("--data", required=True, help="What the rows and models are, in a few words.")
        one.add_argument("--name", default="", help="Of these models, where a study has several.")
        one.add_argument("--seed", type=int, default=0, help="Of the half that is searched on.")
    for kind in ("plan", "page"):
        kinds.add_parser(kind)
    given = parser.parse_args()
    if given.kind in ("plan", "page"):
        path, text = (PLAN, plan()) if given.kind == "plan" else (PAGE, page())
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.name}")
        return
    named = " ".join(path.name for path in given.folder)
    command = f"python recipes/studies/evidence.py {given.kind} {named} --study {given.study}"
    if given.kind == "heads":
        figures = from_heads(*given.folder, given.data, command)
    elif given.kind == "soups":
        figures = from_soups(given.folder[0], given.name, given.data, command)
    else:
        figures = from_pool(given.folder[0], given.name, given.data, command, given.seed)
    Study.read(given.study).keep(figures)
    for one in figures:
        ends = f"[{one.low:+.2f}, {one.high:+.2f}]"
        print(f"{one.name}: {one.difference:+.2f} {ends}, p {p_in_words(one.p)}, {one.verdict}")


if __name__ == "__main__":
    main()
