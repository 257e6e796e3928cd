"""Tasting: the rows that soups are chosen on, encoded once, and one live model that scores every soup on them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import Split, Splits, load_splits
from hf_soups.errors import InputError, PredictionsError, SelectionOnReport
from hf_soups.families import Encoded, family_for
from hf_soups.families.anatomy import has_batchnorm
from hf_soups.metrics import METRICS, Metric, metric_for
from hf_soups.mixing.live import LiveMixer, slots_by_disk_name
from hf_soups.predict import on_device
from hf_soups.predictions import Predictions, same_rows
from hf_soups.recipe import Recipe
from hf_soups.run_folder import PREDICTIONS
from hf_soups.soups.batchnorm import write_batchnorm
from hf_soups.soups.scorer import LiveScorer
from hf_soups.soups.search import Score
from hf_soups.soups.soup import Soup

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from hf_soups.families import Batch

Role = Literal["select", "report"]
Variant = Literal["averaged", "recomputed"]  # how a mixture's BatchNorm statistics are made
CPU_ROWS = 32  # more rows at once fall out of a CPU's caches: 64 took a tenth longer for a 6-layer BERT
BATCHNORM_ROWS = 1024  # train rows whose activations are measured: seconds for each mixture, not minutes


@dataclass(frozen=True, eq=False)
class Tasting:
    """Everything that scoring and answering needs, opened once for all soups of one pool."""

    splits: Splits
    encoded: Mapping[str, Encoded]  # select, report, shift-<name>; each made when it is first asked for
    chosen_on: Role
    metric: Metric
    scorers: Mapping[str, LiveScorer]  # by variant; "recomputed" only for models with BatchNorm
    cached: Mapping[Checkpoint, Predictions]  # what ingredients answered on the rows chosen on, from their folders

    @property
    def rows(self) -> int:
        """Number of rows that soups are chosen on."""
        return len(self.splits.select if self.chosen_on == "select" else self.splits.report)

    @property
    def sign(self) -> int:
        """-1 where a lower score is better, else 1."""
        return 1 if self.metric.greater_is_better else -1

    def score(self, soup: Soup, variant: str = "averaged") -> Score:
        """Score on the rows chosen on, higher is better; no forward pass for an ingredient whose answers are cached."""
        scorer = self.scorers[variant]
        return scorer.value_of(self.cached[soup.ingredients[0]]) if self.answered(soup) else scorer(soup)

    def answered(self, soup: Soup) -> bool:
        """Whether it is a single ingredient that keeps its answers on these rows."""
        return soup.coefficients == (1.0,) and not soup.by_tensor and soup.ingredients[0] in self.cached

    def take_over(self, checkpoint: Checkpoint) -> None:
        """Put the weights of a checkpoint into the live model as they are."""
        self.scorers["averaged"].mixer.load([checkpoint], [1.0])

    def recompute_batchnorm_of(self, folder: Path) -> None:
        """Recompute the live model's BatchNorm statistics and write them into the folder that it was loaded from."""
        scorer = self.scorers["recomputed"]
        scorer.recompute_batchnorm()
        write_batchnorm(scorer.model, folder)

    def answers(self, name: str) -> dict[str, Predictions]:
        """What the live model, as it is now, answers on select, report and the task's shifts."""
        scorer, splits = self.scorers["averaged"], self.splits.answered
        return {role: scorer.answers(self.encoded[role], split, name=name) for role, split in splits.items()}


class _EncodedOnDemand(dict[str, Encoded]):
    """The rows of each split, encoded when they are first asked for: choosing a soup needs one split of them."""

    def __init__(self, splits: Mapping[str, Split], encode: Callable[[Split], Encoded]) -> None:
        super().__init__()
        self._splits, self._encode = splits, encode

    def __missing__(self, role: str) -> Encoded:
        self[role] = self._encode(self._splits[role])
        return self[role]


def open_tasting(
    checkpoints: Sequence[Checkpoint],
    recipe: Recipe,
    *,
    chosen_on: Role = "select",
    cache: Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    tie_break: bool = False,
) -> Tasting:
    """Load the rows, encode them, load one model and look for cached answers.

    Args:
        checkpoints: the pool; the first gives the processor and the live model.
        recipe: task and data.
        chosen_on: the role of the rows that soups are chosen on.
        cache: folder of encoded rows, shared with the fine-tunes.
        batch_size: rows at once; default: the recipe's `train.eval_batch_size`, on a CPU 32 at most.
        device: where the live model runs; default: the GPU when there is one.
        tie_break: where two soups' scores are equal, the lower negative log-likelihood decides.
    Raises:
        SelectionOnReport: if select would be cut from the report rows.
    """
    _refuse_one_split_for_both(recipe, chosen_on)
    first = checkpoints[0]
    splits = load_splits(recipe.task, recipe.data)
    check_labels(first, splits.label_names)
    family = family_for(first.config, recipe.task.kind, first)
    processor = family.processor(first.processor_folder)
    model = family.load(first.source, revision=first.revision, subfolder=first.subfolder)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]

    def encode(split: Split) -> Encoded:
        return family.encode(split, processor, recipe.task, recipe.data, cache)

    encoded = _EncodedOnDemand(splits.answered, encode)
    metric = metric_for(recipe.task)
    plain = LiveScorer(
        family, model, encoded[chosen_on], getattr(splits, chosen_on), metric, LiveMixer(model),
        batch_size or _rows_at_once(recipe, model), tie_break=METRICS["nll"] if tie_break else None,
    )  # fmt: skip
    scorers = {"averaged": plain}
    if has_batchnorm(model) and slots_by_disk_name(model) is not None:
        rows = splits.train.take(_some(len(splits.train), recipe.data.seed))
        scorers["recomputed"] = replace(
            plain, batchnorm_batches=_batches(encode(rows), recipe.train.eval_batch_size, model)
        )
    cached = _cached(checkpoints, chosen_on, getattr(splits, chosen_on).fingerprint)
    return Tasting(splits, encoded, chosen_on, metric, scorers, cached)


def _refuse_one_split_for_both(recipe: Recipe, chosen_on: Role) -> None:
    if chosen_on == "select" and recipe.task.train == recipe.task.report:
        raise SelectionOnReport(
            f"the recipe's train and report are both the split {recipe.task.train!r}, so the rows chosen on would be "
            "report rows. Give task.report another split, or allow it (--allow-selection-on-report); the soup is then "
            "marked optimistic."
        )


def check_labels(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    """The data's classes must stand in the order of the model's logits.

    Raises:
        InputError: if they do not.
    """
    mine = checkpoint.label_names
    classes = len(checkpoint.config.get("id2label") or {}) or 2  # config.json leaves two unnamed labels out
    if len(names) != classes:
        raise InputError(f"{checkpoint} tells {classes} classes apart, but the data have {len(names)}: {list(names)}.")
    if mine is not None and mine != tuple(names) and sorted(mine) == sorted(names):
        raise InputError(
            f"{checkpoint} has the labels {list(mine)} in this order, the data {list(names)}. "
            f"Give the data the model's order: --set 'task.label_names={json.dumps(mine)}'."
        )


def _rows_at_once(recipe: Recipe, model: torch.nn.Module) -> int:
    """The recipe's number of rows; on a CPU no more than its caches hold."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    return min(recipe.train.eval_batch_size, CPU_ROWS) if on_cpu else recipe.train.eval_batch_size


def _some(rows: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(order[:BATCHNORM_ROWS])


def _batches(encoded: Encoded, size: int, model: torch.nn.Module) -> Callable[[], Iterator[Batch]]:
    device = next(model.parameters()).device
    count = max(1, round(len(encoded) / size))  # even batches: each counts the same in the average

    def batches() -> Iterator[Batch]:
        for rows in np.array_split(np.random.default_rng(0).permutation(len(encoded)), count):
            yield on_device(encoded.batch(rows), device)

    return batches


def _cached(checkpoints: Sequence[Checkpoint], role: Role, fingerprint: str) -> dict[Checkpoint, Predictions]:
    """Answers that ingredients keep in their folders, if they are of exactly these rows."""
    found = {}
    for checkpoint in checkpoints:
        path = checkpoint.folder / PREDICTIONS / f"{role}.safetensors"
        if checkpoint.label_order or not path.is_file():  # read in another order of labels than it answered in
            continue
        weights = (checkpoint.run or {}).get("weights")
        if weights and weights != checkpoint.sha256():  # the answers are other weights': they are made again
            _log.warning("%s: its weights changed since it answered; answering again", checkpoint)
            continue
        try:
            predictions = Predictions.load(path)
        except PredictionsError:
            continue  # corrupt: the answers are made again, by a forward pass
        if same_rows(predictions.data, fingerprint):
            found[checkpoint] = predictions
    return found
