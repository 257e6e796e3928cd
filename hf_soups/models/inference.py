"""The one inference loop: rows sorted by length into batches, answers back in row order.

Batches are cut before they are shared out, so a row meets the same neighbours whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_soups.data import Split
    from hf_soups.models.family import Batch, Encoded, Family

NOTHING = float(np.finfo(np.float32).min)  # finite: infinities mean a broken model

Progress = Callable[[int, int], None]  # rows done, rows to do


class NonFiniteLogits(PredictionsError):
    """A model answered NaN or infinity: its weights are broken."""


def length_buckets(lengths: Int64[np.ndarray, " rows"], batch_size: int) -> list[Int64[np.ndarray, " batch"]]:
    """Row indices in batches of similar length, the longest first: what does not fit in memory shows at once.

    >>> [batch.tolist() for batch in length_buckets(np.array([3, 9, 4]), 2)]
    [[1, 2], [0]]
    """
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size} rows is not possible; give at least 1.")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def predict_split(
    model: torch.nn.Module,
    family: Family,
    encoded: Encoded,
    split: Split,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
    name: str = "",
    batches: Sequence[Int64[np.ndarray, " batch"]] | None = None,
    each: Callable[[Predictions], None] | None = None,
) -> Predictions:
    """The model's log-probabilities for the rows of a split, in row order.

    Args:
        model: in any mode; it answers in eval mode and is left in the mode it had.
        family: how the model is fed and read.
        encoded: the rows of `split` as the model reads them.
        split: labels, row ids and label names that the predictions carry.
        batch_size: rows at once.
        device: where to run; default: where the accelerator is, or the model.
        accelerator: shares the rows out among its processes, each of which must call this and gets all rows; a model
            that answers NaN is then an error in all of them.
        progress: called after every batch with the rows done and the rows to do.
        name: what answered, kept as `Predictions.model`.
        batches: the rows of each batch, every row in one of them; default: rows of like length, the longest first.
        each: called with the answers of every batch; what it raises ends the loop.
    Raises:
        NonFiniteLogits: if the model answers NaN or infinity.
        PredictionsError: if `encoded` does not hold the rows of `split`.
    """
    if len(encoded) != len(split) or not np.array_equal(encoded.row_ids, split.row_ids):
        raise PredictionsError(
            f"{len(encoded)} encoded rows, {len(split)} rows of {split.role}: they are not the same rows. "
            "Encode this split again."
        )
    batches, several = batches or length_buckets(encoded.lengths, batch_size), False
    if accelerator is not None:
        batches = batches[accelerator.process_index :: accelerator.num_processes]
        device, several = device or accelerator.device, accelerator.num_processes > 1
    target = torch.device(device or next(model.parameters()).device)
    rows = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    # one tensor on the device, fetched once: a copy a batch would make the device wait for us
    answers = torch.empty(len(rows), len(split.label_names), device=target)
    done = 0
    with evaluating(model):
        for batch in batches:
            answers[done : done + len(batch)] = _logits(model, family, encoded.batch(batch), target, answers.shape[1])
            done += len(batch)
            if each is not None:
                each(_predictions(batch, answers[done - len(batch) : done].cpu().numpy(), split, name))
            if progress is not None:
                progress(done, len(rows))
    logits = answers.cpu().numpy()
    if accelerator is not None and several:
        rows, logits = _gathered(accelerator, rows, logits)
    return _predictions(rows, logits, split, name)


def _logits(
    model: torch.nn.Module, family: Family, batch: Batch, device: torch.device, classes: int
) -> Float[torch.Tensor, "batch classes"]:
    logits = family.logits(model, on_device(batch, device)).float()
    if logits.shape[1] != classes:
        raise PredictionsError(
            f"the model gives {logits.shape[1]} logits a row, but the task has {classes} labels. "
            "Give a model fine-tuned on this task."
        )
    return logits


def row_losses(
    logits: Float[torch.Tensor, "batch classes"], targets: Float[torch.Tensor, "batch classes"], of_type: ProblemType
) -> Float[torch.Tensor, " batch"]:
    """Each row's loss, as transformers has it: cross-entropy, the labels' mean binary one, or the squared error."""
    if of_type == REGRESSION:
        return (logits - targets).square().mean(dim=1)
    if of_type == MULTI_LABEL:
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return each.mean(dim=1)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _gathered(
    accelerator: Accelerator, rows: Int64[np.ndarray, " mine"], logits: Float32[np.ndarray, "mine classes"]
) -> tuple[Int64[np.ndarray, " rows"], Float32[np.ndarray, "rows classes"]]:
    """The rows and logits of all processes; shares differ in size, so they are padded with row -1 on the way."""
    at = torch.from_numpy(rows).to(accelerator.device)
    answers = torch.from_numpy(logits).to(accelerator.device)
    at = accelerator.gather(accelerator.pad_across_processes(at, dim=0, pad_index=-1))
    answers = accelerator.gather(accelerator.pad_across_processes(answers, dim=0))
    real = at >= 0
    return at[real].cpu().numpy(), answers[real].cpu().numpy()


def _predictions(
    rows: Int64[np.ndarray, " rows"], logits: Float32[np.ndarray, "rows classes"], split: Split, name: str
) -> Predictions:
    order = np.argsort(rows)
    rows, logits = rows[order], logits[order]
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        first = int(np.flatnonzero(broken)[0])
        raise NonFiniteLogits(
            f"{name or 'the model'} answers {int(broken.sum())} of {len(rows)} rows of {split.role} with NaN or "
            f"infinity (first: row {split.row_ids[rows[first]]}): its weights are broken. Fine-tune it again with a "
            "lower learning rate, or leave it out."
        )
    if split.answerable is not None:
        logits = _among(logits, split.answerable)
    return Predictions.from_logits(
        logits,
        labels=split.labels[rows],
        row_ids=split.row_ids[rows],
        label_names=split.label_names,
        data=split.fingerprint,
        model=name,
        problem_type=split.problem_type,
    )


def _among(
    logits: Float32[np.ndarray, "rows classes"], answerable: Sequence[int]
) -> Float32[np.ndarray, "rows classes"]:
    """The logits with those of all other classes so low that their probability is nothing."""
    others = np.ones(logits.shape[1], dtype=bool)
    others[list(answerable)] = False
    return np.where(others, NOTHING, logits).astype(np.float32)
