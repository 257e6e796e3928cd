"""Cook: from a pool of checkpoints to soup folders, with every step tried, its score, and what came of it in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.checkpoint import Checkpoint, sources_of
from hf_soups.cooking.one_soup import CookRequest, SoupToCook, Tell
from hf_soups.display import Displayed
from hf_soups.errors import HfSoupsError, InputError, SelectionOnReport, memory_told
from hf_soups.files.weights import json_object
from hf_soups.files.writing import refuse_existing, write_text
from hf_soups.recipe import Recipe
from hf_soups.recipe.origin import RECIPE_FILE, recipe_text
from hf_soups.soups.ahead import Workers
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.head_starts import heads_apart
from hf_soups.soups.ingredients import Ingredients, doubt_in_words, gather
from hf_soups.soups.journal import digest
from hf_soups.soups.model_input import KINDS, ExtraRows, InputFiles, with_all_rows
from hf_soups.soups.options import DEFAULTS, METHODS, OUT, Options
from hf_soups.soups.registry import Method, chosen
from hf_soups.soups.soup import size_in_bytes, stored_dtype
from hf_soups.soups.soup_record import MAYBE_TRAINED_ON, SOUP_FILE, SoupRecord, read_soup
from hf_soups.soups.whole_start import RECORD, whole_start
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    import pandas as pd

    from hf_soups.soups.methods.learned.team import Team
    from hf_soups.soups.scoring import SoupScorer

OpenWorkers = Callable[[Sequence[Checkpoint], Recipe, Mapping[str, Any]], Workers]  # as `open_scorer` takes them
SHOWN = 12  # ingredients at most whose coefficients are printed
SMALLER = (
    "Score fewer rows at once (train.eval_batch_size in the recipe, --set train.eval_batch_size=16); soups that were "
    "finished are kept, and nothing half-written was left."
)


@dataclass(frozen=True, slots=True)
class Cooked:
    """One soup in its folder."""

    method: str
    folder: Path
    record: SoupRecord
    already: bool = False  # it was there before, made from the same

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Names of the ingredients."""
        return tuple(i.name for i in self.record.ingredients)

    @property
    def score(self) -> float | None:
        """Score on the rows that it was chosen on; None when nothing was scored."""
        return self.record.score

    def words(self) -> list[str]:
        """What came out, line by line."""
        record = self.record
        kept = " (cooked before from the same, and kept)" if self.already else ""
        lines = [f"{self.method} soup of {len(record.models)} of {len(record.pool)}: {self.folder}{kept}"]
        if record.score is not None and record.metric is not None:
            score, best = score_in_words(record.score, record.metric), record.best_single
            line = f"{record.metric} {score} on {record.select_rows} {record.selected_on} rows"
            if best is not None:
                line += f"; best single: {best.name} {score_in_words(best.score, record.metric)}"
            lines.append(line)
        if self.method == "greedy":
            lines.append(f"ingredients: {', '.join(self.ingredients)}")
        elif len(self.ingredients) <= SHOWN:
            lines.append("coefficients: " + ", ".join(f"{i.name} {i.coefficient:.3f}" for i in record.ingredients))
        lines += record.whys
        if record.optimistic:
            lines.append("optimistic: it was chosen on the report rows, so its report score is too good.")
        if record.select_optimistic:
            lines.append(f"select_optimistic: {MAYBE_TRAINED_ON}.")
        return lines


@dataclass(frozen=True, slots=True, repr=False)
class CookResult(Displayed):
    """All soups of one call, and what was left out of the pool."""

    soups: tuple[Cooked, ...]
    left_out: Mapping[str, str]  # name -> reason
    warnings: tuple[str, ...] = ()

    def in_short(self) -> str:
        """Each soup with its ingredients and its folder."""
        said = [f"{s.method} of {len(s.record.models)} of {len(s.record.pool)} in {s.folder}" for s in self.soups]
        return "; ".join([*said, *([f"{len(self.left_out)} checkpoints left out"] if self.left_out else [])])

    def to_pandas(self) -> pd.DataFrame:
        """The soups, a row each."""
        import pandas as pd

        rows = [(s.method, str(s.folder), s.score, " + ".join(s.ingredients), s.already) for s in self.soups]
        return pd.DataFrame(rows, columns=["method", "folder", "select_score", "ingredients", "already"])


def _say(line: str) -> None:
    print(line, flush=True)


def cook(
    sources: Sequence[str | Path] | str | Path,
    methods: Sequence[str] | str = METHODS,
    out: str | Path = OUT,
    *,
    recipe: Recipe | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: Options | None = None,
    dtype: str | None = None,
    max_shard_size: int | str | None = None,
    align_labels: bool = False,
    final_models: bool = False,
    processor: str | Path | None = None,
    force: bool = False,
    extra_rows: ExtraRows = "keep",
    select_on: Literal["select", "report"] | None = None,
    allow_selection_on_report: bool = False,
    overwrite: bool = False,
    cache: Path | None = None,
    device: str | None = None,
    threads: int = 2,
    tell: Tell | None = _say,
    workers: OpenWorkers | None = None,
    team: Team | None = None,
) -> CookResult:
    """Average checkpoints into soups, each an ordinary checkpoint folder with `soup.json`.

    Killed at any moment, the same call goes on: finished soups are kept and measured scores are not measured again.

    Args:
        sources: one sweep's folder, or at least two checkpoints (folders, run folders, Hub repos). An output folder of
            transformers' Trainer means its `checkpoint-<step>` folders and its final model, once.
        methods: a name in the table of `methods`, or several.
        out: the soup's folder for one method over plain checkpoints, else the folder of `<method>/` folders.
        recipe: task and data to choose on; default: the sweep's, or for greedy what all run folders share.
        overrides: values of the recipe to change.
        options: of the methods; default: those of `Options`.
        dtype: cast the soups, e.g. "bfloat16"; default: the ingredients'.
        max_shard_size: bytes of one weight file at most, or text such as "5GB"; default: one file.
        align_labels: permute heads whose label names are in another order than the first's.
        final_models: of Trainers' output folders take the final models alone.
        processor: whose tokenizer or image processor the soup takes although they differ: "FIRST", or a folder or
            Hub repo.
        force: go on with the first's where tokenizers, image processors or configs differ; soup.json says so.
        extra_rows: of vocabularies that are longer in some ingredients: "keep" them, or "refuse".
        select_on: the rows to choose on; default: select, or report when that is allowed.
        allow_selection_on_report: let report rows choose; the soups are then marked optimistic.
        overwrite: replace soups in `out`.
        cache: folder of encoded rows; default: the sweep's.
        device: where soups are scored; default: the GPU when there is one.
        threads: that read and mix weights.
        tell: called with a line of progress; default: it is printed; None: silence.
        workers: who scores greedy's mixtures, several at once, such as `hf_soups.remote.scores.ray_workers` gives;
            default: this process, one after another. The soup is the same.
        team: processes that learn coefficients with this one, see `hf_soups.soups.methods.learned.team`.
    Raises:
        InputError: if the sources, options or `out` cannot be used; nothing is written then.
        OutOfMemory: if the rows or models do not fit.
    """
    wanted = chosen([methods] if isinstance(methods, str) else methods)
    request = CookRequest(
        options or DEFAULTS,
        None if dtype is None else stored_dtype(dtype),
        None if max_shard_size is None else size_in_bytes(max_shard_size),
        _rows_to_choose_on(select_on, allow_selection_on_report),
        overwrite,
        threads,
        tell or (lambda line: None),
    )
    least = min(method.least for method in wanted)
    pool = gather(
        sources_of(sources), recipe=recipe, overrides=overrides, start=request.options.start, least=least,
        final_models=final_models,
    )  # fmt: skip
    if not any(method.needs_score for method in wanted) and recipe is None and pool.sweep is None:
        pool = replace(pool, recipe=None)  # nothing is chosen: neither data nor torch are needed
    _check_needs(wanted, pool)
    folders = _folders(Path(out), [method.name for method in wanted], pool)
    how = {"align_labels": align_labels, "processor": processor, "force": force, "extra_rows": extra_rows}
    pool, warnings = _compatible(pool, how, threads)
    for warning in warnings:
        request.tell(f"warning: {warning}")
    if pool.start is not None and any(method.needs_start for method in wanted):
        pool = _with_whole_start(pool, pool.start, request)
    soups = [SoupToCook(m, pool, request, folders[m.name], partial(_key, m, pool, request)) for m in wanted]
    there = [None if overwrite else _already(soup) for soup in soups]
    for soup, record in zip(soups, there, strict=True):
        if record is None:
            refuse_existing(soup.folder, overwrite=overwrite, marker=SOUP_FILE)
    with memory_told(SMALLER):
        scorer = _scorer(pool, request, cache, device, workers, team) if None in there else None
        if scorer is not None and scorer.maybe_trained_on:
            warnings = (*warnings, doubt_in_words(scorer.maybe_trained_on))
            request.tell(f"warning: {warnings[-1]}")
        cooked = _cook_all(soups, there, scorer)
    _keep_recipe(pool, cooked)
    _keep_board(pool, cooked, request.tell)
    return CookResult(tuple(cooked), {left.name: left.reason for left in pool.left_out}, warnings)


def _cook_all(
    soups: Sequence[SoupToCook], there: Sequence[SoupRecord | None], scorer: SoupScorer | None
) -> list[Cooked]:
    """Cook what is not there yet, one after another, and let the sweep know where each soup is."""
    cooked: list[Cooked] = []
    for soup, record in zip(soups, there, strict=True):
        made = record or soup.cook(scorer, _marks(cooked))
        cooked.append(Cooked(soup.method.name, soup.folder, made, already=record is not None))
        if soup.pool.sweep is not None:
            soup.pool.sweep.point_to(soup.method.name, soup.folder)
    return cooked


def print_result(result: CookResult) -> None:
    """Print what came out; warnings were printed as they came up."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    for name, reason in result.left_out.items():
        console.print(f"left out: {name}: {reason}", style="dim")
    for soup in result.soups:
        first, *rest = soup.words()
        console.print(first, style="bold")
        for line in rest:
            console.print(f"  {line}")


def _check_needs(wanted: Sequence[Method], pool: Ingredients) -> None:
    """Refuse methods that lack what they choose by or start from."""
    for method in wanted:
        if method.needs_score and pool.recipe is None:
            raise InputError(
                f"{method.name} chooses by a score, so it needs a task and data: give a recipe (--recipe), a sweep, or "
                "run folders of one recipe. A uniform soup needs none (--method uniform)."
            )
        if method.needs_start and pool.start is None:
            raise InputError(
                f"{method.name} needs what the ingredients were fine-tuned from, with their head: give it with --start "
                "(a sweep's folder holds it in start/)."
            )
        if len(pool.checkpoints) < method.least:
            raise InputError(f"{method.name} needs {method.least} checkpoints or more, got {len(pool.checkpoints)}.")


def _rows_to_choose_on(select_on: Literal["select", "report"] | None, allowed: bool) -> Literal["select", "report"]:
    chosen_on = select_on or ("report" if allowed else "select")
    if chosen_on == "report" and not allowed:
        raise SelectionOnReport(
            "the report rows are for one look at the end; what is chosen on them looks better than it is. "
            "Choose on select, or say that you mean it (--allow-selection-on-report)."
        )
    return chosen_on


def _folders(out: Path, methods: Sequence[str], pool: Ingredients) -> dict[str, Path]:
    if len(methods) == 1 and pool.sweep is None:
        return {methods[0]: out}
    if (out / SOUP_FILE).exists():
        raise InputError(f"{out} is a soup itself, so soups are not put inside it. Choose another folder with --out.")
    return {method: out / method for method in methods}


def _compatible(pool: Ingredients, how: Mapping[str, Any], threads: int) -> tuple[Ingredients, tuple[str, ...]]:
    # what is only averaged is read by the mixing engine, which refuses NaN by itself: not twice
    scored = pool.recipe is not None
    report = preflight(pool.checkpoints, check_values=scored, threads=threads, **how)
    report.raise_for_errors()
    messages = tuple(finding.message for finding in (*report.warnings, *heads_apart(report.checkpoints, pool.start)))
    start = None if pool.start is None else with_all_rows(pool.start, report.checkpoints)
    return replace(pool, checkpoints=report.checkpoints, start=start, taken=report.taken), messages


def _with_whole_start(pool: Ingredients, start: Checkpoint, request: CookRequest) -> Ingredients:
    """The pool with a start that has the ingredients' head: of a pretrained base, the mean of theirs."""
    whole = whole_start(start, pool.checkpoints, threads=request.threads)
    if whole is start:
        return pool
    averaged = json_object(whole.folder / RECORD)["averaged"]
    request.tell(f"{start} lacks {len(averaged)} tensors of the ingredients (their heads): these are averaged")
    return replace(pool, start=whole, taken={**pool.taken, "base": {"start": str(start), "averaged": averaged}})


def _scorer(
    pool: Ingredients,
    request: CookRequest,
    cache: Path | None,
    device: str | None,
    workers: OpenWorkers | None,
    team: Team | None,
) -> SoupScorer | None:
    if pool.recipe is None:
        return None
    from hf_soups.soups.scoring import open_scorer

    shared = pool.sweep.cache if pool.sweep is not None else None
    how: dict[str, Any] = {
        "chosen_on": request.chosen_on,
        "cache": cache or shared,
        "tie_break": request.options.tie_break,
    }
    scorer = open_scorer(pool.checkpoints, pool.recipe, device=device, **how)
    if team is not None:
        team.say(("open", pool.checkpoints, pool.recipe, how))
        scorer = replace(scorer, team=team)
    return scorer if workers is None else replace(scorer, workers=workers(pool.checkpoints, pool.recipe, how))


def _marks(cooked: Sequence[Cooked]) -> dict[str, tuple[int, float]]:
    """Soups of all ingredients that were scored: name -> (ingredients, score)."""
    return {
        f"{c.method} of all": (len(c.ingredients), c.score)
        for c in cooked
        if c.score is not None and len(c.ingredients) == len(c.record.pool)
    }


def _keep_recipe(pool: Ingredients, cooked: Sequence[Cooked]) -> None:
    """Keep the recipe with soups that an earlier version cooked without it."""
    if pool.recipe is None:
        return
    text = recipe_text(pool.recipe)
    for soup in cooked:
        if not (soup.folder / RECIPE_FILE).is_file():
            write_text(soup.folder / RECIPE_FILE, text)


def _keep_board(pool: Ingredients, cooked: Sequence[Cooked], tell: Tell) -> None:
    """Keep the sweep's leaderboard of this moment with each new soup: its card says what it was compared with."""
    if pool.sweep is None:
        return
    from hf_soups.leaderboard import build_leaderboard
    from hf_soups.leaderboard.table import BOARD_FILE, keep_board

    new = [soup.folder for soup in cooked if not soup.already or not (soup.folder / BOARD_FILE).is_file()]
    try:
        if new:
            keep_board(build_leaderboard(pool.sweep.path), new)
    except HfSoupsError as error:  # the soups themselves are good
        tell(f"warning: the cards of these soups will lack the leaderboard: {error}")


def _key(
    method: Method, pool: Ingredients, request: CookRequest, of: Callable[[Checkpoint], str] = Checkpoint.digest
) -> str:
    """A name for everything that decides what comes out; of the ingredients their bytes count, not their place.

    `of` is the digest that names weights.
    """
    # without shifts: nothing is chosen on them, and `hf-soups answer` answers those that come later
    recipe = pool.recipe and pool.recipe.model_dump(include={"task", "data"}, exclude={"task": {"shifts"}})
    ingredients = [[c.name, of(c), list(c.label_order)] for c in pool.checkpoints]
    others = {other for c in pool.checkpoints for other in (c.input_from, c.longer) if other is not None}
    return digest(
        [
            method.key(request.options, pool.start, of),
            ingredients,
            request.dtype,
            request.max_shard_size,
            request.chosen_on,
            recipe,
            *sorted(InputFiles.of(other).digest(kind) for other in others for kind in KINDS),
        ]
    )


def _already(soup: SoupToCook) -> SoupRecord | None:
    """The record of a soup that is there and was made from the same."""
    try:
        record = read_soup(soup.folder)
    except (OSError, InputError):
        return None
    by_sha256 = not any(one.digest for one in record.ingredients)  # as 0.1.0 named weights
    key = soup.make_key(of=Checkpoint.sha256) if by_sha256 else soup.key
    return record if record.made_from == key else None
