"""Scoring soups: the select rows, encoded once, and one live model that answers them with the weights of every soup."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import Split, load_splits
from hf_soups.errors import InputError, PredictionsError, SelectionOnReport
from hf_soups.files.label_names import order_of, same_labels
from hf_soups.files.problem_types import CLASSIFICATION, REGRESSION, ProblemType, check_problem_type, logits_of
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.metrics import Metric, loss_metric, metric_for_rows
from hf_soups.metrics.best_possible import BestPossible
from hf_soups.models.family import Encoded
from hf_soups.models.inference import NonFiniteLogits, on_device, predict_split
from hf_soups.models.layers import has_batchnorm
from hf_soups.models.registry import family_for
from hf_soups.predictions import Predictions, same_rows
from hf_soups.recipe import Recipe
from hf_soups.soups.batchnorm import recompute_batchnorm, write_batchnorm
from hf_soups.soups.compatibility import gives_one_answer
from hf_soups.soups.ingredients import without_proof
from hf_soups.soups.mixing.live import LiveMixer, slots_by_disk_name
from hf_soups.soups.soup import AtBest, Score, Signs, Soup, values_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.models.family import Batch, Family
    from hf_soups.soups.ahead import Workers
    from hf_soups.soups.methods.learned.team import Team

_log = logging.getLogger(__name__)

Role = Literal["select", "report"]
Variant = Literal["averaged", "recomputed"]  # how a mixture's BatchNorm statistics are made
CPU_ROWS = 32  # more rows at once fall out of a CPU's caches: 64 took a tenth longer for a 6-layer BERT
BATCHNORM_ROWS = 1024  # train rows whose activations are measured: seconds for each mixture, not minutes


@dataclass(frozen=True, eq=False)
class SoupScorer:
    """Rows that soups are chosen on, encoded once, and one live model that answers them with each soup's weights.

    Callable, as `greedy` wants it: NaN for a soup that answers NaN. Greedy's soups (members, then one
    candidate) cost one checkpoint's reading each, because the mixer keeps the members' running sum.
    """

    family: Family
    model: PreTrainedModel
    encoded: Encoded
    split: Split
    metric: Metric
    mixer: LiveMixer
    batch_size: int = 64
    tie_break: Metric | None = None  # decides where the metric's values are equal
    role: Role = "select"  # of the rows
    cached: Mapping[Checkpoint, Predictions] = field(default_factory=dict)  # what ingredients' folders answer on them
    by_role: Mapping[str, tuple[Split, Callable[[], Encoded]]] = field(default_factory=dict)  # all roles' rows
    # train batches for BatchNorm statistics of mixtures; None for models without BatchNorm
    batchnorm_batches: Callable[[], Iterable[Mapping[str, torch.Tensor]]] | None = None
    variant: Variant = "averaged"
    pool: frozenset[Checkpoint] = frozenset()  # one of these that answers one class whatever the row is has no score
    maybe_trained_on: tuple[str, ...] = ()  # names of those that may have been trained on the rows; see `without_proof`
    losses: dict[Checkpoint, np.ndarray] = field(default_factory=dict)  # of each row, by ingredients scored alone
    batches: tuple[np.ndarray, ...] | None = None  # of the rows; default: those of like length
    each: Callable[[Predictions], None] | None = None  # gets the answers of every batch
    workers: Workers | None = None  # that score greedy's mixtures in place of this process
    team: Team | None = None  # the processes that learn coefficients together

    @property
    def variants(self) -> dict[str, SoupScorer]:
        """This scorer with each way to make BatchNorm statistics; "recomputed" only for models that have some."""
        ways: list[Variant] = ["averaged", "recomputed"]
        return {way: replace(self, variant=way) for way in (ways if self.batchnorm_batches else ways[:1])}

    @property
    def rows(self) -> int:
        """Number of rows that soups are chosen on."""
        return len(self.split)

    def __call__(self, soup: Soup) -> Score:
        """The soup's score on the rows; a tuple where ties are broken.

        No forward pass for an ingredient whose answers are cached.
        """
        try:
            answers = self.cached[soup.ingredients[0]] if self.answered(soup) else self.predictions(soup)
        except NonFiniteLogits:  # the model answers NaN: what a diverged ingredient does
            return self.no_score
        if len(soup.ingredients) == 1:
            if soup.ingredients[0] in self.pool and gives_one_answer(answers):
                return self.no_score
            self.losses[soup.ingredients[0]] = losses_of(answers)
        return self._value(answers)

    def or_bound(self, soup: Soup, floor: Score | None) -> Score | AtBest:
        """As called, or what the score is at best as soon as that is surely worse than `floor`'s first value.

        Rows are answered in the same batches either way, so that not a bit of a score depends on `floor`.
        """
        if floor is None or not self.metric.bounded:
            return self(soup)
        best, least, left = self._best_possible.copy(), values_of(floor)[0], self.rows

        def check(answers: Predictions) -> None:
            nonlocal left
            if self.each is not None:
                self.each(answers)
            value, left = best.after(answers), left - len(answers)
            if left and best.is_below(value, least):
                raise _TooLow(value)

        try:
            return self._value(replace(self, each=check).predictions(soup))
        except NonFiniteLogits:
            return self.no_score
        except _TooLow as low:
            return AtBest(low.value)

    @functools.cached_property
    def _best_possible(self) -> BestPossible:
        classes = len(self.split.label_names)
        return BestPossible.of(self.metric, self.split.labels, classes=classes, problem_type=self.split.problem_type)

    @property
    def no_score(self) -> Score:
        """That of a model that answers NaN."""
        return math.nan if self.tie_break is None else (math.nan, math.nan)

    def _value(self, answers: Predictions) -> Score:
        value = self.metric.compute(answers)
        return value if self.tie_break is None else (value, self.tie_break.compute(answers))

    @property
    def signs(self) -> Signs:
        """Of each value of a score: -1 where lower is better."""
        return self.metric.sign, 1 if self.tie_break is None else self.tie_break.sign

    def answered(self, soup: Soup) -> bool:
        """Whether it is a single ingredient that keeps its answers on these rows."""
        return soup.coefficients == (1.0,) and not soup.by_tensor and soup.ingredients[0] in self.cached

    def predictions(self, soup: Soup) -> Predictions:
        """What the soup answers on the rows, by a forward pass."""
        self.load(soup)
        name, batches = soup.method or "soup", self.batches
        return self._answers(self.encoded, self.split, name, batches=batches, each=self.each)

    def load(self, soup: Soup) -> None:
        """Put the soup's weights into the live model."""
        if soup.is_uniform and len(soup.ingredients) > 1:  # a single one would drop the members' sum
            self.mixer.set_uniform(soup.ingredients[:-1], soup.ingredients[-1])
        else:
            self.mixer.load(soup.ingredients, soup.weights)
        if len(soup.ingredients) > 1:  # a single ingredient keeps its own
            self._recompute_batchnorm()

    def answer_all(self, checkpoint: Checkpoint, name: str) -> dict[str, Predictions]:
        """What a checkpoint, with its weights as they are, answers on select, report and the task's shifts."""
        self.mixer.load([checkpoint], [1.0])
        if self.variant == "recomputed":
            self._recompute_batchnorm()
            write_batchnorm(self.model, checkpoint.folder)
        return {role: self._answers(encoded(), split, name) for role, (split, encoded) in self.by_role.items()}

    def _recompute_batchnorm(self) -> None:
        if self.variant == "recomputed" and self.batchnorm_batches is not None:
            recompute_batchnorm(self.model, self.batchnorm_batches())

    def _answers(self, encoded: Encoded, split: Split, name: str, **how: Any) -> Predictions:
        """What the live model, as it is now, answers."""
        return predict_split(self.model, self.family, encoded, split, batch_size=self.batch_size, name=name, **how)


class _TooLow(Exception):
    """A soup cannot reach what it must any more."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.value = value


def losses_of(answers: Predictions) -> np.ndarray:
    """The loss of each row: how hard it is."""
    rows = loss_metric(answers.problem_type).row_statistics
    assert rows is not None
    return np.asarray(rows(answers)[:, 0], dtype=np.float64)


def open_scorer(
    checkpoints: Sequence[Checkpoint],
    recipe: Recipe,
    *,
    chosen_on: Role = "select",
    cache: Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    tie_break: bool = False,
) -> SoupScorer:
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
    check_problem_type(first.config, recipe.task.problem_type, first)
    check_labels(first, splits.label_names, recipe.task.problem_type)
    family = family_for(first.config, recipe.task.kind, first)
    processor = family.processor(first.processor_folder)
    loaded = first.longer or first  # with a row for every token
    model = family.load(loaded.source, revision=loaded.revision, subfolder=loaded.subfolder)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]

    def encode(split: Split) -> Encoded:
        return family.encode(split, processor, recipe.task, recipe.data, cache)

    # each split is encoded when it is first answered: choosing a soup needs one of them
    by_role = {
        role: (split, functools.cache(functools.partial(encode, split))) for role, split in splits.answered.items()
    }
    split, encoded = by_role[chosen_on]
    cached = _cached(checkpoints, chosen_on, split.fingerprint)
    batches = None
    if has_batchnorm(model) and slots_by_disk_name(model) is not None:
        rows = splits.train.take(_some(len(splits.train), recipe.data.seed))
        batches = _batches(encode(rows), recipe.train.eval_batch_size, model)
    metric = metric_for_rows(recipe.task, split.labels, splits.label_names)
    return SoupScorer(
        family, model, encoded(), split, metric, LiveMixer(model),
        batch_size or _rows_at_once(recipe, model), loss_metric(split.problem_type) if tie_break else None, chosen_on,
        cached, by_role, batches, pool=frozenset(checkpoints),
        maybe_trained_on=without_proof(checkpoints, recipe, cached) if chosen_on == "select" else (),
    )  # fmt: skip


def _refuse_one_split_for_both(recipe: Recipe, chosen_on: Role) -> None:
    if chosen_on == "select" and recipe.task.train == recipe.task.report:
        raise SelectionOnReport(
            f"the recipe's train and report are both the split {recipe.task.train!r}, so the rows chosen on would be "
            "report rows. Give task.report another split, or allow it (--allow-selection-on-report); the soup is then "
            "marked optimistic."
        )


def check_labels(checkpoint: Checkpoint, names: Sequence[str], of_type: ProblemType = CLASSIFICATION) -> None:
    """The data's classes must be in the order of the model's logits.

    Raises:
        InputError: if they do not.
    """
    if of_type == REGRESSION:  # one number, whatever it is called
        return
    mine, classes = checkpoint.label_names, logits_of(checkpoint.config)
    if len(names) != classes:
        raise InputError(f"{checkpoint} tells {classes} classes apart, but the data have {len(names)}: {list(names)}.")
    if mine is not None and not same_labels(mine, names) and order_of(mine, names) is not None:
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
        if checkpoint.label_order or checkpoint.input_from or not path.is_file():  # it answered as it is, not like this
            continue
        weights = (checkpoint.run or {}).get("weights")
        if weights and not checkpoint.has_weights(weights):  # the answers are other weights': they are made again
            _log.warning("%s: its weights changed since it answered; answering again", checkpoint)
            continue
        try:
            predictions = Predictions.load(path)
        except PredictionsError:
            continue  # corrupt: the answers are made again, by a forward pass
        if same_rows(predictions.data, fingerprint):
            found[checkpoint] = predictions
    return found
