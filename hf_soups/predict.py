"""The one inference loop: rows sorted by length into batches, answers back in row order.

Batches are cut before they are shared out, so a row meets the same neighbours whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from hf_soups.errors import InputError, PredictionsError
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_soups.data import Split
    from hf_soups.families.family import Batch, Encoded, Family

Progress = Callable[[int, int], None]  # rows done, rows in all


class NonFiniteLogits(PredictionsError):
    """A model answered NaN or infinity: its weights are broken."""


def length_buckets(lengths: Int64[np.ndarray, " rows"], batch_size: int) -> list[Int64[np.ndarray, " batch"]]:
    """Row indices in batches of similar length, the longest first: what does not fit in memory shows at once.

    >>> [b.tolist() for b in length_buckets(np.array([3, 9, 4]), 2)]
    [[1, 2], [0]]
    """
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size} rows is not possible; give at least 1.")
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def predict_split(
    model: torch.nn.Module,
    family: Family,
    encoded: Encoded,
    split: Split,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    processes: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
    name: str = "",
) -> Predictions:
    """The model's log-probabilities for the rows of a split, in row order.

    Args:
        model: in any mode; it is put into eval mode and back.
        family: how the model is fed and read.
        encoded: the rows of `split` as the model reads them.
        split: labels, row ids and names that the predictions carry.
        batch_size: rows at once.
        device: where to run; default: where the model is.
        processes: (rank, count): with several processes each answers its own share of the batches.
        progress: called after every batch with rows done and rows in all.
        name: what answered, kept as `Predictions.model`.
    Raises:
        NonFiniteLogits: if the model answers NaN or infinity.
        PredictionsError: if `encoded` does not hold the rows of `split`.
    """
    rows, logits = _forward(model, family, encoded, split, batch_size, device, processes, progress, name)
    order = np.argsort(rows)
    return _predictions(logits[order], split, rows[order], name)


def predict_distributed(
    accelerator: Accelerator,
    model: torch.nn.Module,
    family: Family,
    encoded: Encoded,
    split: Split,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
    name: str = "",
) -> Predictions:
    """As `predict_split`, shared out among the accelerator's processes; each gets the predictions of all rows.

    All processes must call it. A model that answers NaN is an error in all of them.
    """
    share = (accelerator.process_index, accelerator.num_processes)
    finite, broken = True, ""
    try:
        rows, logits = _forward(
            model, family, encoded, split, batch_size, accelerator.device, share, progress, name
        )
    except NonFiniteLogits as error:
        if accelerator.num_processes == 1:
            raise
        # the others wait for our share: first say so together, then fail together
        finite, broken = False, str(error)
    if accelerator.num_processes > 1:
        rows, logits = _gathered(accelerator, rows, logits) if _all(accelerator, finite) else _fail(broken, name)
    order = np.argsort(rows)
    return _predictions(logits[order], split, rows[order], name)
