"""The training loop: a plain accelerate loop whose weights do not depend on the number of processes.

torch's own SyncBatchNorm does the same on GPUs only.

Each batch is that of all processes together. A process computes its share of it, and the loss is scaled so that the
averaged gradient is the mean over the rows of the whole step. Dropout is the one thing that differs.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float, Int64, Shaped
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_soups.data.split import problem_type_of_labels
from hf_soups.errors import RunFailed
from hf_soups.files.problem_types import MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.finetune.augment import Mixup, augmentation, draw_mixup, soft_targets
from hf_soups.finetune.batches import Schedule, Share, TrainStep, share_of, steps
from hf_soups.finetune.tracking import History
from hf_soups.limits import cores
from hf_soups.models.family import Augment, Batch, Encoded, Family
from hf_soups.models.inference import on_device, row_losses
from hf_soups.recipe import Train


@contextmanager
def synchronised_batchnorm(model: nn.Module, processes: int) -> Iterator[None]:
    """While the block runs, the model's BatchNorm layers in train mode see the rows of all processes."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)] if processes > 1 else []
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    if not layer.training:
        return type(layer).forward(layer, x)
    x, kind = x.float(), x.dtype  # sums over a batch in half precision would overflow
    dims = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1, *([1] * (x.ndim - 2))]
    count = _sum_over_processes(x.new_full((1,), x.numel() / x.shape[1]))
    mean = _sum_over_processes(x.sum(dims)) / count
    centred = x - mean.view(shape)
    variance = _sum_over_processes(centred.square().sum(dims)) / count
    if layer.track_running_stats:
        _update_running(layer, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    y = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        y = y * layer.weight.view(shape) + layer.bias.view(shape)
    return y.to(kind)


@torch.no_grad()
def _update_running(layer: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    momentum = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean, momentum)
    layer.running_var.lerp_(variance, momentum)


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    summed: torch.Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]  # torch's
    return summed


class _Sum(torch.autograd.Function):
    """The sum over processes; each process's loss depends on it, so the gradients are summed in turn."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True, eq=False, slots=True)
class TrainRows:
    """The train split as the loop reads it."""

    encoded: Encoded
    labels: Shaped[np.ndarray, "rows ..."]
    classes: int

    @property
    def problem_type(self) -> ProblemType:
        """What the labels are."""
        return problem_type_of_labels(self.labels)

    def targets(self, rows: Int64[np.ndarray, " rows"], smoothing: float) -> Float[torch.Tensor, "rows classes"]:
        """What the model is to answer: probabilities of classes or labels, or numbers."""
        labels = torch.from_numpy(self.labels[rows])
        if self.problem_type == REGRESSION:
            return labels.float()[:, None]
        if self.problem_type == MULTI_LABEL:
            return labels.float() * (1 - smoothing) + smoothing / 2
        return soft_targets(labels, self.classes, smoothing)


@dataclass(frozen=True, slots=True)
class EpochSelection:
    """How the best epoch is chosen: by a score on select."""

    score: Callable[[], float]
    sign: int = 1  # -1: less is better

    def better(self, score: float, best: float | None) -> bool:
        """Whether `score` beats the best so far; the earlier epoch wins a tie."""
        return best is None or self.sign * score > self.sign * best


@dataclass(frozen=True, slots=True)
class Trained:
    """What the loop did."""

    steps: int
    seconds: float  # without scoring on select


def train_model(
    accelerator: Accelerator,
    model: torch.nn.Module,
    family: Family,
    examples: TrainRows,
    train: Train,
    history: History,
    *,
    selection: EpochSelection | None = None,
) -> Trained:
    """Fine-tune `model` in place; with `selection` it ends with the weights of its best epoch.

    All processes call it with the same values.

    Raises:
        RunFailed: with status "nan-loss" when the loss is NaN or infinite.
    """
    set_seed(train.seed, device_specific=True)
    schedule = Schedule.of(train, len(examples.labels))
    wrapped, optimizer, scheduler = _prepared(accelerator, model, family, examples, train, schedule.steps)
    kept = _BestWeights(model, selection)
    seconds, began = 0.0, time.perf_counter()
    model.train()
    with synchronised_batchnorm(model, accelerator.num_processes):
        for step, parts in _loaded_steps(accelerator, examples, train):
            rate = scheduler.get_last_lr()[0]
            clip, of_type = train.clip_norm, examples.problem_type
            loss = _update(accelerator, wrapped, family, optimizer, parts, clip, of_type)
            _check_loss(loss, step.number, schedule.steps, rate)
            if not accelerator.optimizer_step_was_skipped:  # fp16 overflowed: the scale was lowered, nothing learnt
                scheduler.step()
            history.add(step.number, step.number / schedule.steps_per_epoch, loss, rate)
            if selection is not None and (step.ends_epoch or step.number == schedule.steps):
                seconds += time.perf_counter() - began
                history.selected(step.number, kept.look())
                began = time.perf_counter()
    kept.put_back()
    return Trained(schedule.steps, seconds + time.perf_counter() - began)


def _prepared(
    accelerator: Accelerator, model: torch.nn.Module, family: Family, examples: TrainRows, train: Train, total: int
) -> tuple[torch.nn.Module, Any, Any]:
    from transformers import get_scheduler

    model.to(accelerator.device)
    if accelerator.num_processes > 1:
        _freeze_unused(model, family, on_device(examples.encoded.batch([0]), accelerator.device))
    optimizer = torch.optim.AdamW(decayed(model, train.weight_decay), lr=train.learning_rate, fused=True)
    warmup = math.ceil(train.warmup_ratio * total)
    scheduler = get_scheduler(SCHEDULES[train.schedule], optimizer, warmup, total)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    # accelerate makes the model itself answer in mixed precision. The loop below asks for that where it trains, so
    # that predictions are made in float32, as they will be by whoever loads the checkpoint.
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    return wrapped, optimizer, scheduler


def decayed(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for AdamW: vectors (biases, and the scales of LayerNorm and BatchNorm) do not decay."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _freeze_unused(model: torch.nn.Module, family: Family, batch: Batch) -> None:
    """Freeze what the answer does not depend on: several processes would wait for its gradient for ever."""
    model.eval()
    family.logits(model, batch).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None


@dataclass(frozen=True, slots=True)
class _Share:
    """This process's share of one batch, ready for the model."""

    inputs: Batch
    targets: Float[torch.Tensor, "batch classes"]
    weight: float  # of each row in the loss of the step
    last: bool  # of its step


def _update(
    accelerator: Accelerator,
    model: torch.nn.Module,
    family: Family,
    optimizer: Any,
    parts: list[_Share],
    clip: float,
    of_type: ProblemType,
) -> float:
    """One step of the optimizer; the mean loss over its rows, of all processes."""
    losses = []
    for part in parts:
        waiting: AbstractContextManager[Any] = nullcontext() if part.last else accelerator.no_sync(model)
        with waiting:
            with accelerator.autocast():
                logits = family.logits(model, part.inputs)
            loss = row_losses(logits.float(), part.targets, of_type).sum() * part.weight
            # gradients of several processes are averaged: times their number makes that a sum
            accelerator.backward(loss * accelerator.num_processes)
        losses.append(loss.detach())
    if clip:
        accelerator.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    total = torch.stack(losses).sum()
    return float(accelerator.reduce(total, "sum") if accelerator.num_processes > 1 else total)


def _check_loss(loss: float, step: int, total: int, rate: float) -> None:
    if not np.isfinite(loss):
        raise RunFailed(
            "nan-loss",
            f"the loss became {loss} at step {step} of {total}, with a learning rate of {rate:.3g}. "
            "Lower learning_rate, clip gradients (clip_norm: 1.0), warm up for longer, or use precision: bf16 or no.",
        )


def _loaded_steps(
    accelerator: Accelerator, examples: TrainRows, train: Train
) -> Iterator[tuple[TrainStep, list[_Share]]]:
    """All steps with their batches on the device; for a GPU the next ones are made while it computes.

    On a CPU they are made in between: its cores are those that train.
    """
    load = partial(_parts, accelerator, examples, train)
    planned = steps(examples.encoded.lengths, train)
    if accelerator.device.type == "cpu":
        return ((step, load(step)) for step in planned)
    return loaded_ahead(planned, load, LOADERS if augmentation(train, 0) else 1)


Planned = TypeVar("Planned")
Loaded = TypeVar("Loaded")
LOADERS = max(1, min(8, cores() // 2))  # threads that augment images: Pillow releases the interpreter's lock


def loaded_ahead(
    planned: Iterable[Planned], load: Callable[[Planned], Loaded], threads: int
) -> Iterator[tuple[Planned, Loaded]]:
    """Each of `planned` with what `load` makes of it, in order; so many threads are ahead of who reads."""
    with ThreadPoolExecutor(threads) as ahead:
        loading: deque[tuple[Planned, Future[Loaded]]] = deque()
        try:
            for step in planned:
                loading.append((step, ahead.submit(load, step)))
                if len(loading) > threads:
                    ready, made = loading.popleft()
                    yield ready, made.result()
            yield from ((step, made.result()) for step, made in loading)
        finally:  # whoever reads has stopped: what has not begun is not made
            ahead.shutdown(cancel_futures=True)


def _parts(accelerator: Accelerator, examples: TrainRows, train: Train, step: TrainStep) -> list[_Share]:
    augment = augmentation(train, step.epoch)
    made = []
    for i, batch in enumerate(step.batches):
        share = share_of(len(batch), accelerator.process_index, accelerator.num_processes)
        mixup = None
        if train.mixup:
            # 1: another stream than the order of the epoch, which is drawn from (seed, epoch)
            random = np.random.default_rng([train.seed, step.epoch, step.first_batch + i, 1])
            mixup = draw_mixup(len(batch), train.mixup, random)
        inputs, targets = _mixed(examples, batch, share, train.label_smoothing, augment, mixup)
        device = accelerator.device
        weight, last = share.weight / step.rows, i + 1 == len(step.batches)
        made.append(_Share(on_device(inputs, device), targets.to(device, non_blocking=True), weight, last))
    return made


def _mixed(
    examples: TrainRows,
    batch: Int64[np.ndarray, " rows"],
    share: Share,
    smoothing: float,
    augment: Augment | None,
    mixup: Mixup | None,
) -> tuple[Batch, Float[torch.Tensor, "share classes"]]:
    """Inputs and targets of a share; with mixup each row is mixed with its partner, whoever has that in its share."""

    def targets(rows: Int64[np.ndarray, " rows"]) -> Float[torch.Tensor, "rows classes"]:
        return examples.targets(rows, smoothing)

    own = batch[share.positions]
    if mixup is None:
        return examples.encoded.batch(own, augment=augment), targets(own)
    partners = batch[mixup.partners[share.positions]]
    # each image is read and augmented once, though it may be in the share and partner of another
    rows, at = np.unique(np.concatenate([own, partners]), return_inverse=True)
    inputs = examples.encoded.batch(rows, augment=augment)
    mine, theirs = torch.from_numpy(at[: len(own)]), torch.from_numpy(at[len(own) :])
    mixed = {name: mixup.mixed(values[mine], values[theirs]) for name, values in inputs.items()}
    return mixed, mixup.mixed(targets(own), targets(partners))


class _BestWeights:
    """A copy of the weights of the best epoch, in the CPU's memory."""

    def __init__(self, model: torch.nn.Module, selection: EpochSelection | None) -> None:
        self._model, self._selection = model, selection
        self._best: float | None = None
        self._weights: dict[str, torch.Tensor] | None = None

    def look(self) -> float:
        """Score the model as it is, and keep its weights if it is the best so far."""
        assert self._selection is not None
        score = self._selection.score()
        if self._selection.better(score, self._best):
            self._best = score
            self._weights = {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}
        return score

    def put_back(self) -> None:
        if self._weights is not None:
            self._model.load_state_dict(self._weights)
