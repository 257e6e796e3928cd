"""Lines through the start: WiSE-FT between start and fine-tune, and the start plus a multiple of all task vectors.

Each is scored at some points and gives the best. Like greedy, they know nothing of data or devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from hf_soups.checkpoint import Checkpoint, Source, checkpoints_of
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.soups.methods.uniform import uniform
from hf_soups.soups.mixing import shared_names
from hf_soups.soups.mixing.geometry import NOT_LEARNED
from hf_soups.soups.options import Tie
from hf_soups.soups.registry import MethodInputs, soup_method
from hf_soups.soups.soup import HIGHER, Score, Signs, Soup, Step, rank_of, values_of
from hf_soups.soups.whole_start import whole_start

OnStep = Callable[[Step], None]

POINTS = tuple(i / 10 for i in range(11))  # 0.0, 0.1, ..., 1.0
SCALES = POINTS[1:]


def wise_ft(
    tuned: Source,
    start: Source,
    score: Callable[[Soup], Score],
    *,
    signs: Signs = HIGHER,
    points: Sequence[float] = POINTS,
    on_step: OnStep | None = None,
) -> Soup:
    """The best point alpha x tuned + (1 - alpha) x start of the line between a fine-tune and its start.

    Alpha 1 is the fine-tune and alpha 0 the start, bit for bit. Of equal scores the larger alpha is kept: a tie is no
    reason to leave what was fine-tuned.

    Args:
        tuned: gives config, labels and processor at every point but alpha 0.
        start: what it was fine-tuned from; without its head, the head stays the fine-tune's.
        score: NaN counts as the worst and is recorded. A tuple's later values break ties.
        signs: of each value of a score, as in `greedy`.
        points: the alphas to score, in [0, 1]; scored in ascending order.
        on_step: called after each point, for progress.
    Returns:
        A soup whose `steps` hold every point ("alpha 0.30") and `about["alpha"]` the one kept.
    Raises:
        InputError: if there are no points, or one lies outside [0, 1].
        IncompatibleCheckpoints: if the two are of different architectures.
        HfSoupsError: if no point has a score.
    Source: Wortsman et al. 2021, arXiv:2109.01903.
    """
    alphas = _distinct(points, "points")
    if not 0 <= alphas[0] <= alphas[-1] <= 1:
        raise InputError(f"points are {list(points)}; alphas lie between 0 (the start) and 1 (the fine-tune).")
    end = Checkpoint.of(tuned, "tuned")
    base = whole_start(Checkpoint.of(start, "start"), [end])
    shared_names([end, base])
    line = [(f"alpha {_short(alpha)}", _on_the_line(end, base, alpha)) for alpha in alphas]
    return _best(line, score, signs, ">=", on_step)


def task_vectors(
    ingredients: Sequence[Source],
    start: Source,
    score: Callable[[Soup], Score] | None = None,
    *,
    signs: Signs = HIGHER,
    scales: Sequence[float] = SCALES,
    on_step: OnStep | None = None,
) -> Soup:
    """The start plus scale x the sum of all task vectors: start + scale x sum(ingredient - start).

    Scale 1/k is the mean of the k ingredients; above it the soup lies beyond them. Of equal scores the smaller scale
    is kept: it extrapolates less. BatchNorm's measured statistics are averaged over the ingredients at every scale,
    because beyond the ingredients a variance could turn negative.

    Args:
        ingredients: one or more fine-tunes of `start`.
        start: what they were fine-tuned from; without their head, the heads are averaged. It is last in the soup, so
            that config, labels and processor are those of the first ingredient.
        score: NaN is the worst; without it there is nothing to choose by, and `scales` is one.
        signs: of each value of a score, as in `greedy`.
        scales: to score, in ascending order; negative ones move away from the tasks.
        on_step: called after each scale, for progress.
    Returns:
        A soup whose `steps` hold every scale that was scored ("scale 0.30") and `about["scale"]` the one kept.
    Raises:
        InputError: if there are no ingredients or scales, one is not finite, or there are several but no score.
        IncompatibleCheckpoints: if names or shapes differ.
        HfSoupsError: if no scale has a score.
    Source: Ilharco et al. 2022, arXiv:2212.04089.
    """
    tuned = checkpoints_of(ingredients)
    if not tuned:
        raise InputError("task_vectors needs at least one ingredient, got none.")
    tried = _distinct(scales, "scales")
    if score is None and len(tried) > 1:
        raise InputError(f"{len(tried)} scales but no score to choose by. Give a score, or one scale (scales=[0.3]).")
    base = whole_start(Checkpoint.of(start, "start"), tuned)
    names = shared_names([*tuned, base])
    line = [(f"scale {_short(scale)}", _summed(tuned, base, scale, names)) for scale in tried]
    return line[0][1] if score is None else _best(line, score, signs, ">", on_step)


@soup_method("wise-ft", needs_score=True, needs_start=True, breaks_ties=True, least=1)
def _wise_ft(inputs: MethodInputs) -> Soup:
    """From the start to the ingredient that is best alone; of equal ones the first."""
    start = inputs.from_start()
    singles = [inputs.rank(uniform([checkpoint])) for checkpoint in inputs.pool]
    best = inputs.pool[max(range(len(singles)), key=lambda i: (singles[i], -i))]
    inputs.say(f"the line from {start} to {best.name}, the best alone")
    return wise_ft(best, start, inputs.scored(), signs=inputs.signs, on_step=inputs.say_step)


@soup_method("task-vectors", needs_start=True, breaks_ties=True, least=1)
def _task_vectors(inputs: MethodInputs, *, scale: float | None) -> Soup:
    if inputs.score is None and scale is None:
        raise InputError("task-vectors without a task to score on needs a scale (--scale 0.3), or a recipe (--recipe).")
    scales = SCALES if scale is None else (scale,)
    return task_vectors(
        inputs.pool, inputs.from_start(), inputs.score, signs=inputs.signs, scales=scales, on_step=inputs.say_step
    )


def _on_the_line(tuned: Checkpoint, start: Checkpoint, alpha: float) -> Soup:
    about = {"alpha": alpha, "start": str(start)}
    if alpha in (0, 1):  # one checkpoint alone: with its own config, and its cached answers where it keeps some
        return Soup((tuned if alpha else start,), (1.0,), method="wise-ft", about=about)
    return Soup((tuned, start), (alpha, 1 - alpha), method="wise-ft", about=about)


def _summed(ingredients: Sequence[Checkpoint], start: Checkpoint, scale: float, names: Sequence[str]) -> Soup:
    k = len(ingredients)
    row = (*(scale,) * k, 1 - k * scale)
    soup = Soup((*ingredients, start), row, method="task-vectors", about={"scale": scale, "start": str(start)})
    if not any(name.endswith(NOT_LEARNED) for name in names):
        return soup
    mean = (*(1 / k,) * k, 0.0)
    return replace(soup, by_tensor={name: mean if name.endswith(NOT_LEARNED) else row for name in names})


def _best(
    line: Sequence[tuple[str, Soup]],
    score: Callable[[Soup], Score],
    signs: Signs,
    tie: Tie,
    on_step: OnStep | None,
) -> Soup:
    """The soup with the best score; of equals the last (">=") or the first (">")."""
    steps: list[Step] = []
    best: tuple[float, ...] = (math.nan,)
    kept = None
    for name, soup in line:
        value = values_of(score(soup))
        new, highest = rank_of(value, signs), rank_of(best, signs)
        accepted = not math.isnan(value[0]) and (kept is None or new > highest or (tie == ">=" and new == highest))
        if accepted:
            best, kept = value, soup
        steps.append(Step(name, value[0], best[0], accepted, len(soup.ingredients), False, *value[1:2]))
        if on_step is not None:
            on_step(steps[-1])
    if kept is None:
        raise HfSoupsError(f"none of the {len(line)} points has a score: all came out as NaN.")
    return replace(kept, steps=tuple(steps), scores={"score": best[0]})


def _distinct(values: Sequence[float], called: str) -> list[float]:
    if not values or not all(math.isfinite(value) for value in values):
        raise InputError(f"{called} are {list(values)}; expected one or more finite numbers.")
    return sorted({float(value) for value in values})


def _short(value: float) -> str:
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
