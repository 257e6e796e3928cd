"""Run: one diagnosis from what the user names to pictures, numbers and words; killed at any moment, it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.checkpoint import Checkpoint, sources_of
from hf_soups.diagnosis.files import ANSWERS, JOURNAL, refuse_other_folders, write_all
from hf_soups.diagnosis.findings import Absent, Findings
from hf_soups.diagnosis.measure import (
    Effort,
    MeasuredRuns,
    answers_of,
    checked,
    cooked_soups,
    is_uniform_of,
    measured,
    settings_of,
    with_fewer_rows,
    written_down,
)
from hf_soups.diagnosis.words import in_words
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.writing import writable
from hf_soups.progress import Meter
from hf_soups.recipe import Recipe
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.ingredients import Ingredients, gather
from hf_soups.soups.journal import digest
from hf_soups.soups.mixing import measure as geometry_of
from hf_soups.soups.model_input import with_all_rows
from hf_soups.soups.soup import Soup, display_names
from hf_soups.soups.whole_start import whole_start

if TYPE_CHECKING:
    from hf_soups.data import Split
    from hf_soups.predictions import Predictions
    from hf_soups.soups.scoring import SoupScorer

NO_START = "No start is known (--start names it), so the angles between the runs at it are left out."
BatchNorm = Literal["averaged", "recomputed"]
BATCHNORM = {  # what must be said beside scores of networks with BatchNorm
    "averaged": (
        "BatchNorm statistics of mixtures are the average of the ingredients'; a barrier may be theirs and not the "
        "weights' (--batchnorm recomputed measures them anew on train rows for each mixture)."
    ),
    "recomputed": "BatchNorm statistics of mixtures are recomputed on train rows.",
}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and the folder of its files."""

    facts: Findings
    words: tuple[str, ...]
    folder: Path
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        return f"Diagnosis({len(self.words)} findings in words; {len(self.files)} files in {self.folder})"


def _say(line: str) -> None:
    print(line, flush=True)


def diagnose(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path | None = None,
    *,
    recipe: Recipe | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
    pairs: int = 12,
    points: int = 3,
    grid: int = 7,
    rows: int | None = None,
    batchnorm: BatchNorm = "averaged",
    align_labels: bool = False,
    device: str | None = None,
    threads: int = 2,
    tell: Tell | None = _say,
) -> Diagnosis:
    """Measure why averaging these runs pays or does not: on select rows alone, never on report.

    Scores along lines between pairs (barriers), angles at the start against the gain of averaging, the plane through
    three runs, soups against ensembles; as PNG with CSV, and in words.

    Args:
        sources: one sweep's folder, or at least two checkpoints (folders, run folders, Hub repos).
        out: folder of the results; default: diagnosis/ in the sweep, else in the working folder. Scores that are
            there are not measured again.
        recipe: task and data; default: the sweep's, or the one that all run folders share.
        overrides: values of the recipe to change.
        start: the checkpoint that the runs started from; default: start/ in the sweep. Without one no angles.
        pairs: how many pairs at most: the best run with each other first, then pairs by lot.
        points: between the ends of each line; the middle is always one.
        grid: points along each side of the plane; 0: no plane.
        rows: score on a stratified subset of select of this size; default: all of it.
        batchnorm: how mixtures of BatchNorm networks get their statistics: "averaged", or "recomputed" on train rows.
        align_labels: permute heads whose label names stand in another order than the first's.
        device: where mixtures are scored; default: the GPU when there is one.
        threads: that read weights.
        tell: called with a line of progress; default: it is printed, with a bar on a terminal; None: silence.
    Raises:
        InputError: if the sources, options or `out` cannot be used; nothing is written then.
    Source: Frankle et al. 2020, arXiv:1912.05671 (barriers); Wortsman et al. 2022, arXiv:2203.05482 (the pictures).
    """
    named = sources_of(sources)
    effort = checked(Effort(pairs, points, grid))
    if rows is not None and rows < 2:
        raise InputError(f"{rows} rows; give at least 2, or leave --rows out for all of select.")
    say = tell or (lambda line: None)
    pool, origin = _opened(named, recipe, overrides, start, align_labels, threads)
    folder = Path(out) if out is not None else (pool.sweep.path if pool.sweep else Path()) / "diagnosis"
    refuse_other_folders(folder)
    scorer, whole, notes = _scorer(pool, rows, batchnorm, device)
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    bench = _bench(pool, origin, scorer, _journal(pool, scorer, folder), folder, say, threads)
    cooked, lost = cooked_soups(pool.sweep, bench.runs, whole.fingerprint) if pool.sweep else ((), ())
    bench.notes.extend([*notes, *lost, *([] if origin else [NO_START])])
    count = effort.mixtures(len(bench.order)) + (not any(is_uniform_of(soup, bench.order) for soup in cooked))
    with Meter("mixtures", count, visible=tell is not None) as meter:
        bench = replace(bench, mixture=_counted(bench.mixture, meter))
        facts = measured(bench, effort, cooked, _absent(pool), scorer, len(whole))
    words = in_words(facts)
    settings = {"sources": [str(s) for s in named], "start": origin and str(origin), **asdict(effort)}
    settings["batchnorm"] = batchnorm if len(scorer.variants) > 1 else None
    title = f"Diagnosis of {pool.sweep or ', '.join(bench.runs)}"
    return Diagnosis(facts, words, folder, tuple(write_all(folder, facts, words, title, settings)))


def print_diagnosis(result: Diagnosis) -> None:
    """Print the words, and where the pictures are."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    first, *rest = result.words
    console.print(first, style="bold")
    for words in rest:
        console.print(f"- {words}")
    names = ", ".join(path.name for path in result.files)
    console.print(f"wrote {result.folder}: {names}", style="dim")


def _opened(
    sources: Sequence[str | Path],
    recipe: Recipe | str | Path | None,
    overrides: Mapping[str, Any] | None,
    start: str | Path | None,
    align_labels: bool,
    threads: int,
) -> tuple[Ingredients, Checkpoint | None]:
    """The runs, checked, and what they started from."""
    pool = gather(sources, recipe=recipe, overrides=overrides)
    if pool.recipe is None:
        raise InputError(
            "a diagnosis scores mixtures, so it needs a task and data: give a recipe (--recipe), a sweep, or run "
            "folders of one recipe."
        )
    report = preflight(pool.checkpoints, align_labels=align_labels, threads=threads)
    report.raise_for_errors()
    origin = None
    if start is not None:
        origin = Checkpoint.named(start)
        _ = origin.tensors  # a wrong name is an error now, not after the first scores
    elif pool.sweep is not None and (pool.sweep.start / "config.json").is_file():
        origin = Checkpoint(str(pool.sweep.start))
    if origin is not None:
        origin = whole_start(with_all_rows(origin, report.checkpoints), report.checkpoints, threads=threads)
    return replace(pool, checkpoints=report.checkpoints), origin


def _scorer(
    pool: Ingredients, rows: int | None, batchnorm: str, device: str | None
) -> tuple[SoupScorer, Split, list[str]]:
    """The rows to score on, all of select, and what must be said about them."""
    from hf_soups.soups.scoring import open_scorer

    assert pool.recipe is not None
    cache = pool.sweep.cache if pool.sweep is not None else None
    scorer = open_scorer(pool.checkpoints, pool.recipe, cache=cache, device=device)
    whole = scorer.split
    notes = []
    if batchnorm not in BATCHNORM:
        raise InputError(f"batchnorm is {batchnorm!r}; expected one of {', '.join(BATCHNORM)}.")
    if len(scorer.variants) > 1:
        notes.append(BATCHNORM[batchnorm])
    elif batchnorm != "averaged":
        raise InputError("these models have no BatchNorm, so there are no statistics to recompute; leave it out.")
    if rows is not None:
        scorer = with_fewer_rows(scorer, rows, pool.recipe.data.seed)
    return scorer.variants[batchnorm], whole, notes


def _bench(
    pool: Ingredients,
    origin: Checkpoint | None,
    scorer: SoupScorer,
    score: Callable[[Soup], float],
    folder: Path,
    say: Tell,
    threads: int,
) -> MeasuredRuns:
    """The runs with what each answers alone, and the geometry of those that answer."""
    answers = _answers(pool, scorer, folder, say)
    runs = dict(zip(answers, pool.checkpoints, strict=True))
    able = [checkpoint for name, checkpoint in runs.items() if answers[name] is not None]
    say(f"reading the weights of {len(able)} runs" + (" and their start" if origin else ""))
    # distances need an origin near the runs: far from it float32 swallows the differences
    geometry = geometry_of(able, origin or able[0], threads=threads)
    return MeasuredRuns(runs, answers, score, scorer.metric, geometry, origin is not None)


def _answers(pool: Ingredients, scorer: SoupScorer, folder: Path, say: Tell) -> dict[str, Predictions | None]:
    """What each run answers alone, by name."""
    answers = {}
    for name, checkpoint in zip(display_names(pool.checkpoints), pool.checkpoints, strict=True):
        if checkpoint not in scorer.cached:
            say(f"{name} alone")
        answers[name] = answers_of(checkpoint, scorer, folder / ANSWERS)
    if all(answered is None for answered in answers.values()):
        raise HfSoupsError(f"all {len(answers)} runs answer NaN: fine-tune again with a lower learning rate.")
    return answers


def _journal(pool: Ingredients, scorer: SoupScorer, folder: Path) -> Callable[[Soup], float]:
    """The score of a mixture, written down; its context is everything that a score depends on beside the weights."""
    assert pool.recipe is not None
    recipe = pool.recipe.model_dump(include={"task", "data"})
    orders = [list(c.label_order) for c in pool.checkpoints]
    context = digest([recipe, scorer.split.fingerprint, scorer.variant, orders])
    return written_down(scorer, folder / JOURNAL, context)


def _counted(score: Callable[[Soup], float], meter: Meter) -> Callable[[Soup], float]:
    """The same score, which moves the bar."""
    done = 0

    def counted(soup: Soup) -> float:
        nonlocal done
        value = score(soup)
        done += 1
        meter(done)
        return value

    return counted


def _absent(pool: Ingredients) -> list[Absent]:
    """The runs that were left out, with their settings where a sweep knows them."""
    records = {} if pool.sweep is None else {run.name: run.record for run in pool.sweep.runs()}

    def settings(name: str) -> dict[str, float]:
        record = records.get(name)
        return settings_of(record.recipe if record else None)

    return [Absent(left.name, left.reason, settings(left.name)) for left in pool.left_out]
