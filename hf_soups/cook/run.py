"""Cook: from a pool of checkpoints to soup folders, with every step tried, its score, and what came of it in words."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.compatibility import preflight
from hf_soups.cook.kitchen import Order, Tell, cook_one, read_record
from hf_soups.cook.pool import Pool, gather
from hf_soups.errors import InputError, SelectionOnReport
from hf_soups.recipe import Recipe
from hf_soups.report.words import score_in_words
from hf_soups.run_folder import PREDICTIONS
from hf_soups.soups.folder import SOUP_FILE, refuse_existing, write_file
from hf_soups.soups.journal import digest, identity
from hf_soups.soups.soup import stored_dtype

if TYPE_CHECKING:
    from hf_soups.soups.tasting import Tasting

METHODS = ("uniform", "greedy")  # cooked in this order, so that greedy's plot can show the uniform soup


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
        record, n = self.record, len(self.ingredients)
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
        lines += [str(record[key]) for key in ("why", "batchnorm_why") if record.get(key)]
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
    tie: Literal[">=", ">"] = ">=",
    dtype: str | None = None,
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
        methods: of `METHODS`.
        out: the soup's folder for one method over plain checkpoints, else the folder of <method>/ folders.
        recipe: task and data to choose on; default: the sweep's, or for greedy what all run folders share.
        overrides: values of the recipe to change.
        tie: greedy keeps a candidate with an equal score (">=", the paper's) or not (">").
        dtype: cast the soups, e.g. "bfloat16"; default: the ingredients'.
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
    """
    order = _checked(methods, tie, dtype, select_on, allow_selection_on_report, overwrite, threads, tell)
    pool = gather(sources, recipe=recipe, overrides=overrides)
    wanted = [m for m in METHODS if m in methods]
    if wanted == ["uniform"] and recipe is None and not pool.is_sweep:
        pool = replace(pool, recipe=None)  # nothing is chosen: neither data nor torch are needed
    if "greedy" in wanted and pool.recipe is None:
        raise InputError(
            "greedy chooses by a score, so it needs a task and data: give a recipe (--recipe), a sweep, or run folders "
            "of one recipe. A uniform soup needs none (--method uniform)."
        )
    folders = _folders(Path(out), wanted, pool)
    pool, warnings = _compatible(pool, align_labels, threads)
    for warning in warnings:
        order.tell(f"warning: {warning}")
    keys = {method: _key(method, pool, order) for method in wanted}
    done = {m: _already(folders[m], keys[m]) for m in wanted} if not overwrite else dict.fromkeys(wanted)
    for method in wanted:
        if done[method] is None:
            refuse_existing(folders[method], overwrite=overwrite)
    tasting = _tasting(pool, order, cache, device) if None in done.values() else None
    cooked: list[Cooked] = []
    for method in wanted:
        record = done[method]
        if record is None:
            record = cook_one(method, pool, order, tasting, folders[method], keys[method], _marks(cooked))
        cooked.append(Cooked(method, folders[method], record, already=done[method] is not None))
        _register(pool, cooked[-1])
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


def _checked(
    methods: Sequence[str],
    tie: Literal[">=", ">"],
    dtype: str | None,
    select_on: Literal["select", "report"] | None,
    allowed: bool,
    overwrite: bool,
    threads: int,
    tell: Tell | None,
) -> Order:
    unknown = [m for m in methods if m not in METHODS]
    if unknown or not methods:
        raise InputError(f"unknown method {unknown[0]!r}; " * bool(unknown) + f"methods: {', '.join(METHODS)}.")
    if tie not in (">=", ">"):
        raise InputError(f"tie is {tie!r}; expected '>=' (an equal score joins, as in the paper) or '>'.")
    chosen_on = select_on or ("report" if allowed else "select")
    if chosen_on == "report" and not allowed:
        raise SelectionOnReport(
            "the report rows are for one look at the end; what is chosen on them looks better than it is. "
            "Choose on select, or say that you mean it (--allow-selection-on-report)."
        )
    stored = None if dtype is None else stored_dtype(dtype)
    return Order(tie, stored, chosen_on, overwrite, threads, tell or (lambda line: None))


def _folders(out: Path, methods: Sequence[str], pool: Pool) -> dict[str, Path]:
    if len(methods) == 1 and not pool.is_sweep:
        return {methods[0]: out}
    if (out / SOUP_FILE).exists():
        raise InputError(f"{out} is a soup itself, so soups are not put inside it. Choose another folder with --out.")
    return {method: out / method for method in methods}


def _compatible(pool: Pool, align_labels: bool, threads: int) -> tuple[Pool, tuple[str, ...]]:
    # what is only averaged is read by the mixing engine, which refuses NaN by itself: not twice
    scored = pool.recipe is not None
    report = preflight(pool.checkpoints, align_labels=align_labels, check_values=scored, threads=threads)
    report.raise_for_errors()
    told = tuple(finding.message for finding in report.warnings)
    return replace(pool, checkpoints=report.checkpoints), told


def _tasting(pool: Pool, order: Order, cache: Path | None, device: str | None) -> Tasting | None:
    if pool.recipe is None:
        return None
    from hf_soups.soups.tasting import open_tasting

    shared = pool.sweep / "cache" if pool.sweep is not None else None
    return open_tasting(pool.checkpoints, pool.recipe, chosen_on=order.chosen_on, cache=cache or shared, device=device)


def _marks(cooked: Sequence[Cooked]) -> dict[str, tuple[int, float]]:
    """Soups of all ingredients that were scored: name -> (ingredients, score)."""
    return {
        f"{c.method} of all": (len(c.ingredients), c.score)
        for c in cooked
        if c.score is not None and len(c.ingredients) == len(c.record["pool"])
    }


def _register(pool: Pool, cooked: Cooked) -> None:
    """Tell the sweep where the soup lies, so that its leaderboard shows it; relative, so that both can be moved."""
    if pool.sweep is None:
        return
    pointer = pool.sweep / "soups" / f"{cooked.method}.json"
    place = os.path.relpath(cooked.folder.resolve(), pointer.parent.resolve())
    text = json.dumps({"path": place, "method": cooked.method, "predictions": PREDICTIONS}, indent=2)
    write_file(pointer, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))


def _key(method: str, pool: Pool, order: Order) -> str:
    """A name for everything that decides what comes out."""
    recipe = None if pool.recipe is None else pool.recipe.model_dump(include={"task", "data"})
    ingredients = [[identity(c), list(c.label_order)] for c in pool.checkpoints]
    return digest([method, ingredients, order.tie, order.dtype, order.chosen_on, recipe])


def _already(folder: Path, key: str) -> Mapping[str, Any] | None:
    """The record of a soup that lies there and was made from the same."""
    try:
        record = read_record(folder)
    except (OSError, ValueError):
        return None
    return record if record.get("made_from") == key else None
