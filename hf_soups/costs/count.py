"""Counting what an answer costs: multiply-adds per example and parameters, counted rather than estimated.

Papers' "FLOPs" of vision and language models are mostly multiply-adds (MACs); one is two floating-point operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from hf_soups.families.family import Batch, Encoded


def count_macs(model: torch.nn.Module, batch: Batch, answer: Callable[[], object] | None = None) -> int:
    """Multiply-adds per example of one forward pass over `batch`, padding included.

    Matrix products and convolutions are counted; adding, normalising and activating are not. Attention is switched to
    the eager one meanwhile: the counter sees nothing inside the fused one on a CPU.

    `answer` runs the pass where a model is asked in another way than `model(**batch)`.
    """
    from torch.utils.flop_counter import FlopCounterMode

    training, rows = model.training, len(next(iter(batch.values())))
    counter = FlopCounterMode(display=False)
    model.eval()
    try:
        with torch.no_grad(), eager_attention(model), counter:
            model(**batch) if answer is None else answer()
    finally:
        model.train(training)
    return round(counter.get_total_flops() / 2 / rows)


def count_parameters(model: torch.nn.Module) -> int:
    """Elements of all parameters; tied ones count once, buffers do not."""
    return sum(parameter.numel() for parameter in model.parameters())


def median_row(encoded: Encoded) -> int:
    """The index of a row of median length: its cost stands for the split's."""
    return int(np.argsort(encoded.lengths, kind="stable")[(len(encoded.lengths) - 1) // 2])


@contextlib.contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Attention as plain matrix products, and afterwards as it was. Nothing to do for models without attention."""
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if before in (None, "eager") or not hasattr(model, "set_attn_implementation"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
