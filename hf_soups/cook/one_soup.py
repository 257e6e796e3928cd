"""Kitchen: one soup chosen, mixed, predicted with and written, whole or not at all."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.checkpoint import Checkpoint
from hf_soups.files.writing import writable, write_text, written_whole
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.recipe.origin import RECIPE_FILE, recipe_text
from hf_soups.soups import Soup
from hf_soups.soups.ingredients import Ingredients
from hf_soups.soups.journal import Journal
from hf_soups.soups.methods.greedy import Score
from hf_soups.soups.registry import Method, MethodInputs, Options, first
from hf_soups.soups.soup import Step, display_names, step_values
from hf_soups.soups.soup_record import SOUP_FILE, read_soup
from hf_soups.wording import loss_in_words, score_in_words

if TYPE_CHECKING:
    from hf_soups.soups.scoring import Tasting

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CookRequest:
    """What was asked for, checked."""

    options: Options
    dtype: str | None
    max_shard_size: int | None
    chosen_on: Literal["select", "report"]
    overwrite: bool
    threads: int
    tell: Tell

    @property
    def storage(self) -> dict[str, Any]:
        """How weights are written."""
        return {"dtype": self.dtype, "max_shard_size": self.max_shard_size, "threads": self.threads}


def cook_one(
    method: Method,
    pool: Ingredients,
    order: CookRequest,
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
    # beside the soup, not in it: what was measured or learned outlives a kill, and goes when the soup is there
    beside = [folder.with_name(f".{folder.name}.{kind}") for kind in ("scores.jsonl", f"state-{key[:12]}")]
    with writable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    if tasting is None:
        soup = method.make(_bench(method, pool, order, None, "averaged", beside))
        soup = _named(replace(soup, about={**soup.about, **about}), pool)
        soup.save_pretrained(folder, overwrite=order.overwrite, **order.storage)
        return read_soup(folder)
    soup, batchnorm = _chosen(method, pool, order, tasting, beside, key)
    with written_whole(folder, overwrite=order.overwrite, marker=SOUP_FILE) as staged:
        order.tell(f"{method.name}: writing {_counted(soup, pool)} ingredients")
        soup.write_model(staged, **order.storage)
        scores, measured = _answer(staged, soup, tasting, batchnorm.get("kept", "averaged"))
        about |= {"measured": measured} | _outcome(soup, pool, tasting, batchnorm)
        soup = _named(replace(soup, scores={**soup.scores, **scores}, about={**soup.about, **about}), pool)
        soup.write_record(staged)
        _write_steps(staged, soup, tasting, marks, len(pool.checkpoints))
        if pool.recipe is not None:
            write_text(staged / RECIPE_FILE, recipe_text(pool.recipe))
    for file in (beside[0], *folder.parent.glob(f".{folder.name}.state-*")):
        file.unlink(missing_ok=True)
    return read_soup(folder)


def _chosen(
    method: Method, pool: Ingredients, order: CookRequest, tasting: Tasting, beside: Sequence[Path], key: str
) -> tuple[Soup, dict[str, Any]]:
    """The method's soup; with BatchNorm, the better of the two ways to make its statistics."""
    found: dict[str, tuple[Soup, float]] = {}
    for variant in tasting.scorers:
        states = [beside[0], beside[1].with_name(f"{beside[1].name}-{variant}")]
        bench = _bench(method, pool, order, tasting, variant, states, key)
        soup = method.make(bench)
        value = soup.scores.get("score")
        if value is None:  # of a method that chose nothing by score
            value = first(bench.scored()(soup))
            bench.say(f"{_counted(soup, pool)}: {bench.in_words(value)}")
        found[variant] = soup, value
    kept = _better({variant: value for variant, (_, value) in found.items()})
    soup = _in_the_metrics_sign(found[kept][0], tasting.sign)
    if len(found) == 1:
        return soup, {}
    return soup, {"kept": kept, **{v: tasting.sign * value for v, (_, value) in found.items()}}


def _bench(
    method: Method,
    pool: Ingredients,
    order: CookRequest,
    tasting: Tasting | None,
    variant: str,
    beside: Sequence[Path],
    key: str = "",
) -> MethodInputs:
    common = (pool.checkpoints, order.options, pool.start)
    if tasting is None:
        return MethodInputs(*common, None, None, beside[1], order.threads, order.tell, str)
    metric, sign = tasting.metric.name, tasting.sign
    note = method.name if len(tasting.scorers) == 1 else f"{method.name} ({variant} BatchNorm statistics)"
    journal = Journal(partial(tasting.score, variant=variant), beside[0], f"{key} {variant}")

    def score(soup: Soup) -> Score:
        value = journal(soup)
        if len(soup.ingredients) == 1 and not tasting.answered(soup):  # there may be many, a forward pass each
            order.tell(f"{note}: {soup.ingredients[0].name} alone {score_in_words(sign * first(value), metric)}")
        return value

    return MethodInputs(
        *common, score, tasting.scorers[variant], beside[1], order.threads,
        say=lambda line: order.tell(f"{note} {line}"),
        in_words=lambda value: score_in_words(sign * value, metric),
    )  # fmt: skip


def _answer(staged: Path, soup: Soup, tasting: Tasting, variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predictions of the weights as they were written; their scores, and by role the rows and the score's interval."""
    from hf_soups.metrics import expected_calibration_error, negative_log_likelihood, score

    # the weights as written, not the sum they came from: exact also where they were cast
    tasting.take_over(Checkpoint(staged))
    if variant == "recomputed" and len(soup.ingredients) > 1:
        tasting.recompute_batchnorm_of(staged)
    scores, measured = {}, {}
    for role, predictions in tasting.answers(f"{soup.method} soup").items():
        predictions.save(staged / PREDICTIONS / f"{role}.safetensors")
        found = score(predictions, tasting.metric)
        scores[role] = {
            tasting.metric.name: found.value,
            "nll": negative_log_likelihood(predictions),
            "ece": expected_calibration_error(predictions),
        }
        measured[role] = {"rows": len(predictions), "low": found.low, "high": found.high}
    return scores, measured


def _write_steps(staged: Path, soup: Soup, tasting: Tasting, marks: Mapping[str, tuple[int, float]], pool: int) -> None:
    from hf_soups.plots.canvas import TriedMixture, score_by_ingredients

    if not soup.steps:
        return
    rows = [step_values(step) for step in soup.steps]
    with (staged / "steps.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    if soup.method != "greedy":
        return
    kept = {(True, False): "kept", (True, True): "taken out"}
    score_by_ingredients(
        [
            TriedMixture(
                s.candidate, s.ingredients, s.score, s.best_so_far, kept.get((s.accepted, s.removes), "rejected")
            )
            for s in soup.steps
        ],
        staged / "score_by_ingredients.png",
        metric=tasting.metric.name,
        rows=tasting.rows,
        role=tasting.chosen_on,
        marks=marks,
        title=f"{soup.method}: {len(soup.ingredients)} of {pool} ingredients joined",
    )


def _about(pool: Ingredients, order: CookRequest, key: str) -> dict[str, Any]:
    return {
        "pool": list(display_names(pool.checkpoints)),
        "left_out": [{"name": left.name, "reason": left.reason} for left in pool.left_out],
        "dtype": order.dtype,
        "made_from": key,
    }


def _named(soup: Soup, pool: Ingredients) -> Soup:
    """The soup with its ingredients called as in the pool: a name that is unique among a few may not be among all."""
    called = dict(zip(pool.checkpoints, display_names(pool.checkpoints), strict=True))
    own = zip(soup.ingredients, display_names(soup.ingredients), strict=True)
    return replace(soup, names=tuple(called.get(checkpoint, name) for checkpoint, name in own))


def _outcome(soup: Soup, pool: Ingredients, tasting: Tasting, batchnorm: Mapping[str, Any]) -> dict[str, Any]:
    metric, singles = tasting.metric.name, _singles(soup, pool, tasting)
    told: dict[str, Any] = {
        "selected_on": tasting.chosen_on,
        "optimistic": tasting.chosen_on == "report",
        "metric": metric,
        "select_rows": tasting.rows,
    }
    if singles:
        best = max(singles, key=lambda name: -math.inf if math.isnan(singles[name]) else tasting.sign * singles[name])
        told["best_single"] = {"name": best, "score": singles[best]}
    if soup.method == "greedy":
        told["why"] = why_one(soup.steps, singles, metric, tasting.rows, sign=tasting.sign)
    if batchnorm:
        told["batchnorm"] = dict(batchnorm)
        told["batchnorm_why"] = (
            f"BatchNorm statistics: {batchnorm['kept']} kept "
            f"(averaged {score_in_words(batchnorm['averaged'], metric)}, "
            f"recomputed on train rows {score_in_words(batchnorm['recomputed'], metric)})."
        )
    return told


def _counted(soup: Soup, pool: Ingredients) -> str:
    """How many of the pool are in the soup; the start, if it is mixed in, is none of them."""
    return f"{sum(c in pool.checkpoints for c in soup.ingredients)} of {len(pool.checkpoints)}"


def _singles(soup: Soup, pool: Ingredients, tasting: Tasting) -> Mapping[str, float]:
    """Scores of the pool's models alone, as the metric gives them: what the method measured, or else cached answers."""
    if "singles" in soup.scores:
        return dict(soup.scores["singles"])
    if not all(checkpoint in tasting.cached for checkpoint in pool.checkpoints):
        return {}
    names = display_names(pool.checkpoints)
    return {n: tasting.metric.compute(tasting.cached[c]) for n, c in zip(names, pool.checkpoints, strict=True)}


def _in_the_metrics_sign(soup: Soup, sign: int) -> Soup:
    """Scores as the metric gives them: methods saw them turned where lower is better."""
    steps = tuple(
        replace(
            s, score=sign * s.score, best_so_far=sign * s.best_so_far,
            tie_break=None if s.tie_break is None else -s.tie_break,  # the loss itself
        )
        for s in soup.steps
    )  # fmt: skip
    scores = {key: value for key, value in soup.scores.items() if key != "score"}  # it is told by role and metric
    for key in ("uniform", "learned"):
        if key in scores:
            scores[key] *= sign
    if "singles" in scores:
        scores["singles"] = {name: sign * value for name, value in scores["singles"].items()}
    if "orders" in scores:
        scores["orders"] = [{**order, "score": sign * order["score"]} for order in scores["orders"]]
    return replace(soup, steps=steps, scores=scores)


def _better(scores: Mapping[str, float]) -> str:
    """The variant with the highest score; of equals the first: averaged statistics need no train rows."""
    return max(scores, key=lambda variant: -math.inf if math.isnan(scores[variant]) else scores[variant])


def why_one(steps: Sequence[Step], singles: Mapping[str, float], metric: str, rows: int, *, sign: int = 1) -> str:
    """Why greedy kept a single ingredient, with numbers; empty when it kept more.

    Args:
        steps: as greedy took them, with the metric's own values.
        singles: score of each ingredient alone, by name.
        metric: the score's name.
        rows: select rows.
        sign: -1 where a lower score is better.
    """
    tried = [s for s in steps[1:] if not math.isnan(s.score)]
    if not steps or any(s.accepted for s in steps[1:]):
        return ""
    best = steps[0]
    kept = f"greedy kept only {best.candidate} ({score_in_words(best.score, metric)})"
    if len(steps) == 1:
        return f"{kept}: there was nothing else to try."
    if not tried:
        return f"{kept}: every mixture with it answered NaN."
    closest = max(tried, key=lambda s: sign * s.score)
    lost = sign * (best.score - closest.score)
    if lost == 0:
        return f"{kept}: adding {closest.candidate} gave the same score, and with tie '>' an equal score does not join."
    words = f"{kept}. The closest was {closest.candidate}: adding it lost {loss_in_words(lost, metric, rows)}."
    alone = singles.get(closest.candidate, math.nan)
    if sign * alone > sign * closest.score:
        words += (
            f" Alone it scores {score_in_words(alone, metric)}, so the average of the two is worse than either: "
            "their weights lie too far apart (a large learning rate, long training, or other starts)."
        )
    return words
