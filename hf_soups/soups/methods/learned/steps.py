"""The loop: batches of select rows, a step of the coefficients for each, and a look at the held-out rows each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped

from hf_soups.checkpoint import Checkpoint
from hf_soups.data.split import strata, stratified_rows
from hf_soups.errors import InputError
from hf_soups.files.problem_types import CLASSIFICATION, REGRESSION, ProblemType
from hf_soups.models.inference import length_buckets, on_device, row_losses
from hf_soups.soups.methods.learned import coefficients as descent
from hf_soups.soups.methods.learned.coefficients import LearnedOptions, LearnedStep, State
from hf_soups.soups.methods.learned.mixture import LiveMixture
from hf_soups.soups.scoring import SoupScorer

# Streams of one seed: the held-out rows, the order of rows in each epoch, the order of models in each round.
HELD_OUT, ROWS, MODELS = 101, 102, 103
# Steps between two full passes over the files where each step reads a few models only: a mixture that is moved
# 10 times is off by at most 10 x 3 roundings of float32.
REBUILD = 10


class Learning:
    """Steps a `State` through the rows; what the model holds always is the mixture of the state's values."""

    def __init__(
        self, ingredients: Sequence[Checkpoint], scorer: SoupScorer, options: LearnedOptions, *, threads: int
    ) -> None:
        self._scorer, self._options, self._team, self._threads = scorer, options, scorer.team, threads
        self._members = tuple(ingredients)
        self._k = len(ingredients)
        self._train, self._held_out = _split_rows(scorer.split.labels, options)
        self._per_epoch = math.ceil(len(self._train) / options.batch_size)
        self._device = next(scorer.model.parameters()).device
        self.mixture = LiveMixture(scorer.model, ingredients, threads=threads)
        self.rows = self.mixture.tensors if options.per == "tensor" else 1
        batch = options.models_at_once
        self._rounds = 1 if batch is None else math.ceil(self._k / batch)

    @property
    def start(self) -> Float64[np.ndarray, " numbers"]:
        """The uniform soup, logits as they are."""
        return np.concatenate([[1.0], descent.start(self._options.sign, self.rows, self._k).ravel()])

    @property
    def held_out_rows(self) -> int:
        """How many rows are not learned from."""
        return len(self._held_out)

    def coefficients(self, values: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, "rows k"]:
        """What the ingredients are multiplied by."""
        return descent.coefficients(self._options.sign, self._raw(values))

    def run(self, state: State, *, save: Callable[[], object], on_step: Callable[[LearnedStep], object]) -> None:
        """Go on until the state says why it stopped. `save` is called where learning can be taken up again."""
        if state.stopped:
            return
        with self.mixture.with_gradients(), self._with_others():
            self._fill(state.values)
            if not state.epochs:
                self._end_epoch(state)
            while not state.stopped:
                done, whole = self._step(state)
                if whole:
                    save()
                on_step(done)

    # Several processes.

    @contextmanager
    def _with_others(self) -> Iterator[None]:
        self._say("learn", self._members, self._options, self._threads)
        yield
        self._say("learned")

    def _say(self, *message: object) -> None:
        if self._team is not None:
            self._team.say(message)

    def _sum(self, numbers: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, " numbers"]:
        return numbers if self._team is None else self._team.sum(numbers)

    def follow(self) -> None:
        """In another process than the first: do as it says, until it has learned."""
        team = self._team
        does: dict[str, Callable[..., None]] = {"fill": self._filled, "move": self.mixture.move}
        sums: dict[str, Callable[..., Any]] = {"gradient": self._own_numbers, "held out": self._own_held_out_loss}
        assert team is not None
        with self.mixture.with_gradients():
            while (message := team.hear())[0] != "learned":
                what, *given = message
                if what in does:
                    does[what](*given)
                else:
                    team.sum(sums[what](*given))

    # One step.

    def _step(self, state: State) -> tuple[LearnedStep, bool]:
        """Also whether the model was mixed anew, so that it can be mixed the same from the values alone."""
        epoch, number = divmod(state.step, self._per_epoch)
        rows = np.array_split(self._train[_order(len(self._train), self._options.seed, ROWS, epoch)], self._per_epoch)
        models = self._models(state.step)
        loss, gradient = self._gradient(state.values, rows[number], models)
        state.step += 1
        state.losses.append(loss)
        ends = number == self._per_epoch - 1
        whole = self._rounds == 1 or ends or state.step % REBUILD == 0
        if gradient is None:
            state.losses.pop()
            state.stopped = f"the loss or its gradient was not finite at step {state.step}"
            whole = True
        else:
            self._update(state, gradient, models, whole)
            if ends:
                self._end_epoch(state)
        held_out = state.epochs[-1]["held_out_nll"] if ends and gradient is not None else None
        mean = tuple(map(float, self.coefficients(state.values).mean(axis=0)))
        steps = self._options.epochs * self._per_epoch
        return LearnedStep(state.step, steps, epoch + 1, loss, held_out, float(state.values[0]), mean), whole

    def _update(
        self,
        state: State,
        gradient: Float64[np.ndarray, " numbers"],
        models: Int64[np.ndarray, " m"] | None,
        whole: bool,
    ) -> None:
        used = self._used(models)
        state.optimizer, change = state.optimizer.step(state.values, gradient, used)
        by_model = change[1:].reshape(self.rows, self._k)
        raw = descent.moved(self._options.sign, self._raw(state.values), by_model)
        state.values = np.concatenate([[state.values[0] + change[0]], raw.ravel()])
        if whole:
            self._fill(state.values)
        else:
            self._say("move", by_model, raw)
            self.mixture.move(by_model, raw)

    def _fill(self, values: Float64[np.ndarray, " numbers"]) -> None:
        self._say("fill", values)
        self._filled(values)

    def _filled(self, values: Float64[np.ndarray, " numbers"]) -> None:
        self.mixture.fill(self.coefficients(values))

    def _gradient(
        self,
        values: Float64[np.ndarray, " numbers"],
        rows: Int64[np.ndarray, " batch"],
        models: Int64[np.ndarray, " m"] | None,
    ) -> tuple[float, Float64[np.ndarray, " numbers"] | None]:
        """The batch's loss and its gradient by the values; None if either is not finite."""
        self._say("gradient", values, rows, models)
        numbers = self._sum(self._own_numbers(values, rows, models))
        loss, products = float(numbers[0]), numbers[2:].reshape(self.mixture.tensors, self._k)
        if not (math.isfinite(loss) and np.isfinite(products).all()):
            return loss, None
        by_raw = descent.gradient(self._options.sign, self._raw(values), products)
        return loss, np.concatenate([numbers[1:2], by_raw.ravel()])

    def _own_numbers(
        self,
        values: Float64[np.ndarray, " numbers"],
        rows: Int64[np.ndarray, " batch"],
        models: Int64[np.ndarray, " m"] | None,
    ) -> Float64[np.ndarray, " numbers"]:
        """Of this process's rows: the loss, its gradient by the logits' factor, and the products."""
        scale = torch.tensor(values[0], dtype=torch.float32, device=self._device, requires_grad=True)
        loss, products = 0.0, np.zeros((self.mixture.tensors, self._k))
        for share in self._shares_of_loss(rows, scale):
            share.backward()
            loss += share.item()
        if math.isfinite(loss):
            products = self.mixture.products(None if models is None else models.tolist())
        self._scorer.model.zero_grad(set_to_none=True)
        by_scale = 0.0 if scale.grad is None else scale.grad.item()  # without rows there is none
        return np.concatenate([[loss, by_scale], products.ravel()])

    def _shares_of_loss(
        self, rows: Int64[np.ndarray, " batch"], scale: Float[torch.Tensor, ""]
    ) -> Iterator[Float[torch.Tensor, ""]]:
        """The rows' mean loss, that of a fine-tune, in parts that add up to it; of this process's rows alone."""
        scorer, team, at_once = self._scorer, self._team, self._options.rows_at_once
        number, count = (0, 1) if team is None else (team.number, team.count)
        buckets = length_buckets(scorer.encoded.lengths[rows], min(at_once, math.ceil(len(rows) / count)))
        for places in buckets[number::count]:
            at = rows[places]
            logits = scorer.family.logits(scorer.model, on_device(scorer.encoded.batch(at), self._device))
            labels = torch.from_numpy(scorer.split.labels[at]).to(self._device)
            yield _loss(scale * logits, labels, scorer.split.problem_type) / len(rows)

    # Epochs.

    def _end_epoch(self, state: State) -> None:
        """Record the epoch, keep the best values so far, and decide whether this is the end."""
        epoch, options = len(state.epochs), self._options
        held_out = self._held_out_loss(float(state.values[0])) if len(self._held_out) else None
        loss = float(np.mean(state.losses)) if state.losses else None
        finite = held_out is None or math.isfinite(held_out)
        noted = {"epoch": epoch, "loss": loss, "held_out_nll": held_out if finite else None}
        state.epochs.append({**noted, "logit_scale": float(state.values[0])})
        state.losses = []
        if not finite:
            state.stopped = f"the held-out loss was not finite after epoch {epoch}"
        elif held_out is None or state.best is None or held_out < state.epochs[state.best_epoch]["held_out_nll"]:
            state.best, state.best_epoch = state.values, epoch
        elif epoch - state.best_epoch >= options.patience:
            state.stopped = f"the held-out loss has not fallen since epoch {state.best_epoch}"
        if epoch == options.epochs and not state.stopped:
            state.stopped = "all epochs are done"

    def _held_out_loss(self, scale: float) -> float:
        self._say("held out", scale)
        return float(self._sum(self._own_held_out_loss(scale))[0])

    def _own_held_out_loss(self, scale: float) -> Float64[np.ndarray, " 1"]:
        with torch.inference_mode():
            shares = self._shares_of_loss(self._held_out, torch.tensor(scale, device=self._device))
            return np.array([sum(share.item() for share in shares)], dtype=np.float64)

    # What a step looks at.

    def _raw(self, values: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, "rows k"]:
        return values[1:].reshape(self.rows, self._k)

    def _models(self, step: int) -> Int64[np.ndarray, " m"] | None:
        """The ingredients that a step reads, None for all: every round goes once through all in random order."""
        if self._rounds == 1:
            return None
        turn, number = divmod(step, self._rounds)
        return np.sort(np.array_split(_order(self._k, self._options.seed, MODELS, turn), self._rounds)[number])

    def _used(self, models: Int64[np.ndarray, " m"] | None) -> Bool[np.ndarray, " numbers"]:
        """Which values have a gradient: the factor of the logits, and the coefficients of the models read."""
        read = np.ones(self._k, dtype=bool)
        if models is not None:
            read = np.isin(np.arange(self._k), models)
        # a factor of a regression's numbers would be learned for what the soup itself must get right
        return np.concatenate([[self._scorer.split.problem_type != REGRESSION], np.tile(read, self.rows)])


def _loss(
    logits: Float[torch.Tensor, "batch classes"], labels: Shaped[torch.Tensor, "batch ..."], of_type: ProblemType
) -> Float[torch.Tensor, ""]:
    if of_type == CLASSIFICATION:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return row_losses(logits, labels.to(logits.dtype).reshape(logits.shape), of_type).sum()


def _split_rows(
    labels: Shaped[np.ndarray, "rows ..."], options: LearnedOptions
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " held_out"]]:
    wanted = math.ceil(options.holdout * len(labels))
    held_out = stratified_rows(strata(labels), wanted, options.seed, stream=HELD_OUT, leave_one=True)
    train = np.setdiff1d(np.arange(len(labels)), held_out)
    if len(train) == 0 or (options.holdout and len(held_out) == 0):
        raise InputError(
            f"{len(labels)} rows to learn from, of which a share of {options.holdout} is held out: too few. Give more "
            "rows, or holdout=0."
        )
    return train, held_out


def _order(count: int, seed: int, stream: int, number: int) -> Int64[np.ndarray, " count"]:
    # The raw output of PCG64 is fixed for ever, so a job that is taken up elsewhere sees the same order.
    random = np.random.PCG64(np.random.SeedSequence([seed, stream, number]))
    return np.argsort(random.random_raw(count), kind="stable")
