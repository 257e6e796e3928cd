"""Kitchen: one soup chosen, mixed, predicted with and written, whole or not at all."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.checkpoint import Checkpoint
from hf_soups.cook.pool import Pool
from hf_soups.report.words import score_in_words, why_one
from hf_soups.run_folder import PREDICTIONS, writable
from hf_soups.soups import Soup, Step, greedy, uniform
from hf_soups.soups.folder import SOUP_FILE, soup_folder
from hf_soups.soups.journal import Journal
from hf_soups.soups.soup import display_names, step_values

if TYPE_CHECKING:
    from hf_soups.soups.tasting import Tasting

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, checked."""

    tie: Literal[">=", ">"]
    dtype: str | None
    chosen_on: Literal["select", "report"]
    overwrite: bool
    threads: int
    tell: Tell


def cook_one(
    method: str,
    pool: Pool,
    order: Order,
    tasting: Tasting | None,
    folder: Path,
    key: str,
    marks: Mapping[str, tuple[int, float]],
) -> Mapping[str, Any]:
    """Choose, mix, predict and write one soup; what its soup.json holds.

    Args:
        method: of the soup.
        pool: what to choose from.
        order: how.
        tasting: the rows to choose on; None: nothing is scored.
        folder: where the soup will lie.
        key: stands for everything that decides what comes out; kept in soup.json.
        marks: other mixtures that were measured, for greedy's plot: name -> (ingredients, score).
    """
    about = _about(pool, order, key)
    if tasting is None:
        soup = replace(uniform(pool.checkpoints), about=about)
        soup.save_pretrained(folder, dtype=order.dtype, overwrite=order.overwrite, threads=order.threads)
        return read_record(folder)
    # beside the soup, not in it: it outlives a kill and goes when the soup is there
    journal = folder.with_name(f".{folder.name}.scores.jsonl")
    with writable(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
    soup, batchnorm = _chosen(method, pool, order, tasting, journal, key)
    with soup_folder(folder, overwrite=order.overwrite) as staged:
        order.tell(f"{method}: writing {len(soup.ingredients)} of {len(pool.checkpoints)} ingredients")
        soup.write_model(staged, dtype=order.dtype, threads=order.threads)
        scores = _answer(staged, soup, tasting, batchnorm.get("kept", "averaged"))
        about |= _outcome(soup, tasting, batchnorm)
        soup = replace(soup, scores={**scores, "singles": soup.scores.get("singles", {})}, about=about)
        soup.write_record(staged)
        _write_steps(staged, soup, tasting, marks, len(pool.checkpoints))
    journal.unlink(missing_ok=True)
    return read_record(folder)


def _chosen(
    method: str, pool: Pool, order: Order, tasting: Tasting, journal: Path, key: str
) -> tuple[Soup, dict[str, Any]]:
    """The method's soup; with BatchNorm, the better of the two ways to make its statistics."""
    found: dict[str, tuple[Soup, float]] = {}
    for variant in tasting.scorers:
        score = Journal(partial(tasting.score, variant=variant), journal, f"{key} {variant}")
        found[variant] = _searched(method, pool, order, tasting, score, variant)
    kept = _better({variant: value for variant, (_, value) in found.items()})
    soup = _in_the_metrics_sign(found[kept][0], tasting.sign)
    if len(found) == 1:
        return soup, {}
    return soup, {"kept": kept, **{v: tasting.sign * value for v, (_, value) in found.items()}}


def _searched(
    method: str,
    pool: Pool,
    order: Order,
    tasting: Tasting,
    score: Callable[[Soup], float],
    variant: str,
) -> tuple[Soup, float]:
    note = "" if len(tasting.scorers) == 1 else f" ({variant} BatchNorm statistics)"
    n = len(pool.checkpoints)

    def in_words(value: float) -> str:
        return score_in_words(tasting.sign * value, tasting.metric.name)

    if method == "uniform":
        soup = uniform(pool.checkpoints)
        value = score(soup)
        order.tell(f"uniform{note}: {n} of {n} {in_words(value)}")
        return soup, value
    tried = iter(range(1, n + 1))

    def single(soup: Soup) -> float:
        value = score(soup)
        if len(soup.ingredients) == 1 and not tasting.answered(soup):
            order.tell(f"greedy{note}: {soup.ingredients[0].name} alone {in_words(value)}")
        return value

    def on_step(step: Step) -> None:
        word = "joins" if step.accepted else "left out"
        order.tell(f"greedy{note} {next(tried)}/{n}: with {step.candidate} {in_words(step.score)}, {word}")

    soup = greedy(pool.checkpoints, single, tie=order.tie, on_step=on_step)
    return soup, soup.scores["score"]


def _answer(staged: Path, soup: Soup, tasting: Tasting, variant: str) -> dict[str, dict[str, float]]:
    """Predictions of the weights as they were written, and their scores."""
    from hf_soups.metrics import expected_calibration_error, negative_log_likelihood

    # the weights as written, not the sum they came from: exact also where they were cast
    tasting.take_over(Checkpoint(staged))
    if variant == "recomputed" and len(soup.ingredients) > 1:
        tasting.recompute_batchnorm_of(staged)
    scores = {}
    for role, predictions in tasting.answers(f"{soup.method} soup").items():
        predictions.save(staged / PREDICTIONS / f"{role}.safetensors")
        scores[role] = {
            tasting.metric.name: tasting.metric.compute(predictions),
            "nll": negative_log_likelihood(predictions),
            "ece": expected_calibration_error(predictions),
        }
    return scores


def _write_steps(staged: Path, soup: Soup, tasting: Tasting, marks: Mapping[str, tuple[int, float]], pool: int) -> None:
    from hf_soups.report.plots import score_by_ingredients

    if not soup.steps:
        return
    with (staged / "steps.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [step_values(step) for step in soup.steps]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    score_by_ingredients(
        soup.steps,
        staged / "score_by_ingredients.png",
        metric=tasting.metric.name,
        rows=tasting.rows,
        role=tasting.chosen_on,
        marks=marks,
        title=f"{soup.method}: {len(soup.ingredients)} of {pool} ingredients joined",
    )


def _about(pool: Pool, order: Order, key: str) -> dict[str, Any]:
    return {
        "pool": list(display_names(pool.checkpoints)),
        "left_out": [{"name": left.name, "reason": left.reason} for left in pool.left_out],
        "dtype": order.dtype,
        "made_from": key,
    }


def _outcome(soup: Soup, tasting: Tasting, batchnorm: Mapping[str, Any]) -> dict[str, Any]:
    metric, singles = tasting.metric.name, soup.scores.get("singles", {})
    told: dict[str, Any] = {
        "selected_on": tasting.chosen_on,
        "optimistic": tasting.chosen_on == "report",
        "metric": metric,
        "select_rows": tasting.rows,
    }
    if soup.steps:
        told["best_single"] = {"name": soup.steps[0].candidate, "score": soup.steps[0].score}
        told["why"] = why_one(soup.steps, singles, metric, tasting.rows, sign=tasting.sign)
    if batchnorm:
        told["batchnorm"] = dict(batchnorm)
        told["batchnorm_why"] = (
            f"BatchNorm statistics: {batchnorm['kept']} kept "
            f"(averaged {score_in_words(batchnorm['averaged'], metric)}, "
            f"recomputed on train rows {score_in_words(batchnorm['recomputed'], metric)})."
        )
    return told


def read_record(folder: Path) -> Mapping[str, Any]:
    """What a soup's soup.json holds."""
    record = json.loads((folder / SOUP_FILE).read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError(f"{folder / SOUP_FILE} is no soup's record")
    return record


def _in_the_metrics_sign(soup: Soup, sign: int) -> Soup:
    """Scores as the metric gives them: greedy saw them turned where lower is better."""
    if sign > 0:
        return soup
    steps = tuple(replace(s, score=-s.score, best_so_far=-s.best_so_far) for s in soup.steps)
    singles = {name: -value for name, value in soup.scores.get("singles", {}).items()}
    return replace(soup, steps=steps, scores={"singles": singles} if singles else {})


def _better(scores: Mapping[str, float]) -> str:
    """The variant with the highest score; of equals the first: averaged statistics need no train rows."""
    return max(scores, key=lambda variant: -math.inf if math.isnan(scores[variant]) else scores[variant])
