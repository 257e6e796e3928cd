"""Cook: from a pool of checkpoints to soup folders, with every step tried, its score, and what came of it in words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.cook.one_soup import CookRequest, Tell, cook_one
from hf_soups.errors import InputError, SelectionOnReport, memory_told
from hf_soups.files.writing import refuse_existing, write_json, write_text
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.recipe import Recipe
from hf_soups.recipe.origin import RECIPE_FILE, recipe_text
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.ingredients import Ingredients, gather
from hf_soups.soups.journal import digest
from hf_soups.soups.registry import Method, Options, chosen
from hf_soups.soups.soup import size_in_bytes, stored_dtype
from hf_soups.soups.soup_record import SOUP_FILE, from_pool, read_soup
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from hf_soups.soups.scoring import Tasting

SHOWN = 12  # ingredients at most whose coefficients are printed
SMALLER = (
    "Score fewer rows at once (train.eval_batch_size in the recipe, --set train.eval_batch_size=16); soups that were "
    "finished are kept, and nothing half-written was left."
)
METHODS = ("uniform", "greedy")  # cooked when none is named


@dataclass(frozen=True, slots=True)
class Cooked:
    """One soup that lies in its folder."""

    method: str
    folder: Path
    record: Mapping[str, Any]  # soup.json
    already: bool = False  # it lay there before, made from the same

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Names of the ingredients."""
        return tuple(i["name"] for i in self.record["ingredients"])

    @property
    def score(self) -> float | None:
        """Score on the rows that it was chosen on; None when nothing was scored."""
        role = self.record.get("selected_on")
        return None if role is None else self.record["scores"][role][self.record["metric"]]

    def words(self) -> list[str]:
        """What came out, line by line."""
        record = self.record
        n = len(from_pool(record))  # the start may be mixed in as well
        kept = " (cooked before from the same, and kept)" if self.already else ""
        lines = [f"{self.method} soup of {n} of {len(record['pool'])}: {self.folder}{kept}"]
        if self.score is not None:
            metric, best = record["metric"], record.get("best_single")
            line = (
                f"{metric} {score_in_words(self.score, metric)} on {record['select_rows']} {record['selected_on']} rows"
            )
            if best is not None:
                line += f"; best single: {best['name']} {score_in_words(best['score'], metric)}"
            lines.append(line)
        if self.method == "greedy":
            lines.append(f"ingredients: {', '.join(self.ingredients)}")
        if len(self.ingredients) <= SHOWN and self.method != "greedy":
            told = zip(self.ingredients, (i["coefficient"] for i in record["ingredients"]), strict=True)
            lines.append("coefficients: " + ", ".join(f"{name} {value:.3f}" for name, value in told))
        why = [record.get("why"), record.get("learned", {}).get("why"), record.get("batchnorm_why")]
        lines += [str(told) for told in why if told]
        if record.get("optimistic"):
            lines.append("optimistic: it was chosen on the report rows, so its report score is too good.")
        return lines


@dataclass(frozen=True, slots=True)
class CookResult:
    """All soups of one call, and what was left out of the pool."""

    soups: tuple[Cooked, ...]
    left_out: Mapping[str, str]  # name -> reason
    warnings: tuple[str, ...] = ()


def _say(line: str) -> None:
    print(line, flush=True)


def cook(
    sources: Sequence[str | Path],
    methods: Sequence[str] = METHODS,
    out: str | Path = "soup",
    *,
    recipe: Recipe | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: Options | None = None,
    dtype: str | None = None,
    max_shard_size: int | str | None = None,
    align_labels: bool = False,
    select_on: Literal["select", "report"] | None = None,
    allow_selection_on_report: bool = False,
    overwrite: bool = False,
    cache: Path | None = None,
    device: str | None = None,
    threads: int = 2,
    tell: Tell | None = _say,
) -> CookResult:
    """Average checkpoints into soups, each an ordinary checkpoint folder with `soup.json`.

    Killed at any moment, the same call goes on: finished soups are kept and measured scores are not measured again.

    Args:
        sources: one sweep's folder, or at least two checkpoints (folders, run folders, Hub repos).
        methods: names in the table of `methods`.
        out: the soup's folder for one method over plain checkpoints, else the folder of <method>/ folders.
        recipe: task and data to choose on; default: the sweep's, or for greedy what all run folders share.
        overrides: values of the recipe to change.
        options: of the methods; see `Options`.
        dtype: cast the soups, e.g. "bfloat16"; default: the ingredients'.
        max_shard_size: bytes of one weight file at most, or text such as "5GB"; default: one file.
        align_labels: permute heads whose label names stand in another order than the first's.
        select_on: the rows to choose on; default: select, or report when that is allowed.
        allow_selection_on_report: let report rows choose; the soups are then marked optimistic.
        overwrite: replace soups that lie in `out`.
        cache: folder of encoded rows; default: the sweep's.
        device: where soups are scored; default: the GPU when there is one.
        threads: that read and mix weights.
        tell: called with a line of progress; default: it is printed; None: silence.
    Raises:
        InputError: if the sources, options or `out` cannot be used; nothing is written then.
        OutOfMemory: if the rows or models do not fit.
    """
    wanted = chosen(list(methods))
    order = _checked(
        options or Options(), dtype, max_shard_size, select_on, allow_selection_on_report, overwrite, threads, tell
    )
    least = min(method.least for method in wanted)
    pool = gather(sources, recipe=recipe, overrides=overrides, start=order.options.start, least=least)
    if not any(method.needs_score for method in wanted) and recipe is None and not pool.is_sweep:
        pool = replace(pool, recipe=None)  # nothing is chosen: neither data nor torch are needed
    _check_needs(wanted, pool)
    folders = _folders(Path(out), [method.name for method in wanted], pool)
    pool, warnings = _compatible(pool, align_labels, threads)
    for warning in warnings:
        order.tell(f"warning: {warning}")
    keys = {m.name: _key(m, pool, order) for m in wanted}
    done = {m: None if overwrite else _already(folders[m], key) for m, key in keys.items()}
    for name, record in done.items():
        if record is None:
            refuse_existing(folders[name], overwrite=overwrite, marker=SOUP_FILE)
    cooked: list[Cooked] = []
    with memory_told(SMALLER):
        tasting = _tasting(pool, order, cache, device) if None in done.values() else None
        for method in wanted:
            name = method.name
            record = done[name] or cook_one(method, pool, order, tasting, folders[name], keys[name], _marks(cooked))
            cooked.append(Cooked(name, folders[name], record, already=done[name] is not None))
            _register(pool, cooked[-1])
    _keep_recipe(pool, cooked)
    _keep_board(pool, cooked, order.tell)
    return CookResult(tuple(cooked), {left.name: left.reason for left in pool.left_out}, warnings)


def print_result(result: CookResult) -> None:
    """Print what came out."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow")
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


def _checked(
    options: Options,
    dtype: str | None,
    max_shard_size: int | str | None,
    select_on: Literal["select", "report"] | None,
    allowed: bool,
    overwrite: bool,
    threads: int,
    tell: Tell | None,
) -> CookRequest:
    chosen_on = select_on or ("report" if allowed else "select")
    if chosen_on == "report" and not allowed:
        raise SelectionOnReport(
            "the report rows are for one look at the end; what is chosen on them looks better than it is. "
            "Choose on select, or say that you mean it (--allow-selection-on-report)."
        )
    stored = None if dtype is None else stored_dtype(dtype)
    largest = None if max_shard_size is None else size_in_bytes(max_shard_size)
    return CookRequest(options, stored, largest, chosen_on, overwrite, threads, tell or (lambda line: None))


def _folders(out: Path, methods: Sequence[str], pool: Ingredients) -> dict[str, Path]:
    if len(methods) == 1 and not pool.is_sweep:
        return {methods[0]: out}
    if (out / SOUP_FILE).exists():
        raise InputError(f"{out} is a soup itself, so soups are not put inside it. Choose another folder with --out.")
    return {method: out / method for method in methods}


def _compatible(pool: Ingredients, align_labels: bool, threads: int) -> tuple[Ingredients, tuple[str, ...]]:
    # what is only averaged is read by the mixing engine, which refuses NaN by itself: not twice
    scored = pool.recipe is not None
    report = preflight(pool.checkpoints, align_labels=align_labels, check_values=scored, threads=threads)
    report.raise_for_errors()
    told = tuple(finding.message for finding in report.warnings)
    return replace(pool, checkpoints=report.checkpoints), told


def _tasting(pool: Ingredients, order: CookRequest, cache: Path | None, device: str | None) -> Tasting | None:
    if pool.recipe is None:
        return None
    from hf_soups.soups.scoring import open_tasting

    shared = pool.sweep / "cache" if pool.sweep is not None else None
    return open_tasting(
        pool.checkpoints, pool.recipe, chosen_on=order.chosen_on, cache=cache or shared, device=device,
        tie_break=order.options.tie_break,
    )  # fmt: skip


def _marks(cooked: Sequence[Cooked]) -> dict[str, tuple[int, float]]:
    """Soups of all ingredients that were scored: name -> (ingredients, score)."""
    return {
        f"{c.method} of all": (len(c.ingredients), c.score)
        for c in cooked
        if c.score is not None and len(c.ingredients) == len(c.record["pool"])
    }


def _register(pool: Ingredients, cooked: Cooked) -> None:
    """Tell the sweep where the soup lies, so that its leaderboard shows it; relative, so that both can be moved."""
    if pool.sweep is None:
        return
    pointer = pool.sweep / "soups" / f"{cooked.method}.json"
    place = os.path.relpath(cooked.folder.resolve(), pointer.parent.resolve())
    write_json(pointer, {"path": place, "method": cooked.method, "predictions": PREDICTIONS})


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
            keep_board(build_leaderboard(pool.sweep), new)
    except InputError as error:  # the soups lie there and are good
        tell(f"warning: the cards of these soups will lack the leaderboard: {error}")


def _key(method: Method, pool: Ingredients, order: CookRequest) -> str:
    """A name for everything that decides what comes out; of the ingredients their bytes count, not their place."""
    # without shifts: nothing is chosen on them, and `hf-soups answer` answers those that come later
    recipe = pool.recipe and pool.recipe.model_dump(include={"task", "data"}, exclude={"task": {"shifts"}})
    ingredients = [[c.name, c.sha256(), list(c.label_order)] for c in pool.checkpoints]
    return digest(
        [method.key(order.options, pool.start), ingredients, order.dtype, order.max_shard_size, order.chosen_on, recipe]
    )


def _already(folder: Path, key: str) -> Mapping[str, Any] | None:
    """The record of a soup that lies there and was made from the same."""
    try:
        record = read_soup(folder)
    except (OSError, InputError):
        return None
    return record if record.get("made_from") == key else None
