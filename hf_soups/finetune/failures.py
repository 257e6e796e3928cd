"""What went wrong with a run, in one word and one sentence that says what to do."""

from __future__ import annotations

import numpy as np
import torch

from hf_soups.errors import HfSoupsError, RunFailed, is_short_of_memory
from hf_soups.limits import limit_reached
from hf_soups.predict import NonFiniteLogits
from hf_soups.predictions import Predictions


def failure_of(error: Exception) -> RunFailed | None:
    """The failed run that an exception stands for; None for wrong input and for a place that cannot be written."""
    if isinstance(error, RunFailed):
        return error
    if isinstance(error, NonFiniteLogits):
        return RunFailed("nan-loss", f"the weights were unusable after training: {error}")
    if isinstance(error, HfSoupsError):
        return None
    if lost_a_process(error):
        return RunFailed("error", "another process of this run ended: look at what it said, or for a lack of memory.")
    if limit := limit_reached(error):
        return RunFailed("error", limit)
    first = next(iter(str(error).strip().splitlines()), "")
    told = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if is_short_of_memory(error):
        return RunFailed(
            "out-of-memory",
            f"out of memory ({told}). Lower batch_size and raise gradient_accumulation by the same factor, lower "
            "eval_batch_size or data.max_length, or use precision: bf16.",
        )
    return RunFailed("error", told)


def lost_a_process(error: BaseException) -> bool:
    """Whether this process failed only because another one of its run is gone."""
    gone = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in gone)
    )


def raised_by_all(error: Exception) -> bool:
    """Whether every process of a run raises this error at the same place."""
    return isinstance(error, RunFailed | NonFiniteLogits)


def check_classes(select: Predictions) -> None:
    """A model that answers one class whatever the row is of no use in a soup.

    Raises:
        RunFailed: with status "one-class".
    """
    labels, answered = select.needs_labels(), np.unique(select.answers)
    if len(answered) > 1 or len(np.unique(labels)) < 2:
        return
    name = select.label_names[answered[0]] if select.label_names else str(answered[0])
    share = float((labels == answered[0]).mean())
    raise RunFailed(
        "one-class",
        f"the model answers {name!r} for all {len(select)} select rows, of which {share:.1%} are {name!r}. "
        "Lower learning_rate, or warm up or train for longer.",
    )
