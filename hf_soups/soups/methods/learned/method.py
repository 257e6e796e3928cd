"""The learned soup as a method: coefficients in, a Soup out, never below the uniform soup on select."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from hf_soups.checkpoint import Checkpoint, Source, checkpoints_of
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.soups.journal import OWN_SCORES, digest
from hf_soups.soups.methods.learned.coefficients import (
    LEARNING_RATES,
    AdamW,
    LearnedOptions,
    LearnedStep,
    Per,
    Sign,
    State,
    load,
)
from hf_soups.soups.methods.uniform import uniform
from hf_soups.soups.soup import Soup, rank_of, values_of

if TYPE_CHECKING:  # they need torch
    from hf_soups.soups.methods.learned.steps import Learning
    from hf_soups.soups.scoring import SoupScorer


def learned(
    ingredients: Sequence[Source],
    scorer: SoupScorer,
    *,
    per: Per = "ingredient",
    sign: Sign = "softmax",
    epochs: int = 5,
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    batch_size: int = 256,
    rows_at_once: int = 32,
    models_at_once: int | None = None,
    holdout: float = 0.2,
    patience: int = 2,
    seed: int = 0,
    state: Path | None = None,
    on_step: Callable[[LearnedStep], object] | None = None,
    threads: int = 2,
) -> Soup:
    """The learned soup: coefficients by gradient descent on the cross-entropy of the scorer's rows.

    It starts at the uniform soup. The logits are multiplied by a learned factor too, which is recorded but is no part
    of the soup: it changes no answer. Memory is that of the live model and its gradient, and the files are read twice
    a step, however many ingredients there are. A model on a GPU keeps a copy of its weights in main memory. In the end
    the soup of the epoch with the lowest loss on the rows held out (without such rows: the last) is scored by the
    scorer's metric on all rows, as the uniform soup is; if it scores lower, the uniform soup is returned.

    BatchNorm's statistics are mixed like weights, with the mean of all coefficients, while coefficients are learned;
    the two final scores are taken as the scorer takes all scores.

    Args:
        ingredients: at least one.
        scorer: the live model, the rows and the metric.
        per: one coefficient for each ingredient, or for each tensor and ingredient.
        sign: "softmax" as in the paper, or "free": also negative and above 1, their sum 1. Free coefficients move
            along the offsets of the ingredients from the present soup.
        epochs: passes over the rows that are not held out.
        learning_rate: of AdamW; default: 0.05 for softmax, 0.01 for free.
        weight_decay: of AdamW, on raw coefficients and the logits' factor; for softmax only.
        batch_size: rows of one step at most.
        rows_at_once: rows in the model at once; their gradients add up to the batch's.
        models_at_once: with free signs, read at most so many ingredients in a step, in random rounds through all;
            all are read together at every tenth step and at the end of an epoch.
        holdout: share of the rows, from every class, that is not learned from; 0: none, and no early stop.
        patience: epochs without a lower held-out loss before it stops.
        seed: of the rows held out and of all orders.
        state: a file to go on from, written after every step (with `models_at_once`: every tenth); it stays
            when all is done, and then gives the same soup without a step.
        on_step: called after each step, when its state is saved.
        threads: that read files side by side.
    Raises:
        InputError: for wrong options, too few rows, or a `state` of other ingredients, rows or options.
        IncompatibleCheckpoints: if the ingredients cannot be mixed.
        CheckpointError: if one cannot be read, or changes meanwhile.
        HfSoupsError: if the uniform soup has no score to start from.
    Source: Wortsman et al. 2022, arXiv:2203.05482, recipe "learned soup"; free signs and batches of models after
        Li et al. 2024, "Learning Scalable Model Soup on a Single GPU" (MEHL-Soup).
    """
    members = checkpoints_of(ingredients)
    rate = LEARNING_RATES.get(sign, 0.05) if learning_rate is None else learning_rate
    options = LearnedOptions(
        per, sign, epochs, rate, weight_decay, batch_size, rows_at_once, models_at_once, holdout, patience, seed
    )
    if not members:
        raise InputError(f"{options.method} needs at least one ingredient, got none.")
    if threads < 1:
        raise InputError(f"threads is {threads}; expected 1 or more.")
    if len(members) == 1:
        return _alone(members, scorer, options)
    from hf_soups.soups.methods.learned.steps import Learning

    learning = Learning(members, scorer, options, threads=threads)
    key = "" if state is None else _key(members, scorer, options)
    now = _begun(members, scorer, options, learning.start, state, key)

    def save() -> None:
        if state is not None:
            now.save(state, key)

    learning.run(now, save=save, on_step=on_step or (lambda _: None))
    return _finished(members, scorer, options, learning, now)


def _begun(
    members: tuple[Checkpoint, ...],
    scorer: SoupScorer,
    options: LearnedOptions,
    start: Float64[np.ndarray, " numbers"],
    path: Path | None,
    key: str,
) -> State:
    """The state that was saved, or a new one with the uniform soup's score."""
    optimizer = AdamW.of(len(start), options.learning_rate, options.weight_decay)
    found = None if path is None else load(path, key, optimizer)
    return State(start, optimizer, uniform=_score(scorer, uniform(members))) if found is None else found


def _finished(
    members: tuple[Checkpoint, ...], scorer: SoupScorer, options: LearnedOptions, learning: Learning, state: State
) -> Soup:
    """The learned soup, or the uniform one where that scores higher."""
    values = state.values if state.best is None else state.best
    plain = replace(uniform(members), method=options.method)
    moved = not np.array_equal(values, learning.start)
    soup = _soup(members, learning, values, options) if moved else plain
    score = _score(scorer, soup) if moved else state.uniform
    wins = moved and rank_of(score, scorer.signs) >= rank_of(state.uniform, scorer.signs)  # False for NaN
    about = {
        **asdict(options),
        "kept": "learned" if wins else "uniform",
        "why": _why(scorer, score, state, moved=moved, wins=wins),
        "stopped": state.stopped,
        "steps": state.step,
        "epochs_run": len(state.epochs) - 1,
        "best_epoch": state.best_epoch,
        "logit_scale": float(values[0]),
        "rows": len(scorer.split) - learning.held_out_rows,
        "held_out_rows": learning.held_out_rows,
        "history": state.epochs,
    }
    kept = score if wins else state.uniform
    scores = {"score": kept[0], "uniform": state.uniform[0], "learned": score[0]}
    return replace(soup if wins else plain, scores=scores, about={"learned": about})


def _soup(
    members: tuple[Checkpoint, ...],
    learning: Learning,
    values: Float64[np.ndarray, " numbers"],
    options: LearnedOptions,
) -> Soup:
    rows = learning.coefficients(values)
    if options.per == "tensor":
        return Soup.mixed_by_tensor(members, learning.mixture.by_name(rows), method=options.method)
    return Soup(members, tuple(map(float, rows[0])), method=options.method)


def _why(scorer: SoupScorer, score: tuple[float, ...], state: State, *, moved: bool, wins: bool) -> str:
    name, uniform_score = scorer.metric.name, f"{state.uniform[0]:.4f}"
    if not moved:
        why = "no epoch lowered its held-out loss" if len(state.epochs) > 1 else state.stopped
        return f"the uniform soup is kept ({name} {uniform_score}): {why}"
    scored = f"{name} {score[0]:.4f}, uniform {uniform_score}"
    return f"learned kept: {scored}" if wins else f"learned fell back to uniform: {scored}"


def _alone(members: tuple[Checkpoint, ...], scorer: SoupScorer, options: LearnedOptions) -> Soup:
    score = _score(scorer, uniform(members))
    about = {**asdict(options), "kept": "uniform", "why": "one ingredient: there is nothing to learn"}
    scores = {"score": score[0], "uniform": score[0]}
    return replace(uniform(members), method=options.method, scores=scores, about={"learned": about})


def _score(scorer: SoupScorer, soup: Soup) -> tuple[float, ...]:
    """Later values break ties of the earlier ones."""
    score = values_of(scorer(soup))
    scorer.mixer.forget()  # its sum of the members would be a third model in memory
    if soup.is_uniform and math.isnan(score[0]):
        raise HfSoupsError(
            f"the uniform soup of {len(soup.ingredients)} ingredients has no score: its answers are NaN, so there is "
            "nothing to start from. Leave out the ingredients that diverged."
        )
    return score


def _key(members: Sequence[Checkpoint], scorer: SoupScorer, options: LearnedOptions) -> str:
    """Stands for everything that decides the steps, so that a state is never taken up by another job."""
    scored_by = [m.name for m in (scorer.metric, scorer.tie_break) if m is not None]
    return digest(
        [
            [[c.digest(), c.label_order] for c in members],
            [scorer.split.fingerprint, scorer.family.name, scored_by, scorer.variant == "averaged"],
            asdict(options),
            OWN_SCORES,
        ]
    )
