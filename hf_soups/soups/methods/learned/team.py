"""Processes that learn one soup together: each has a model and a share of a step's rows, and the sums are everybody's.

The first process cooks. The others hear what it does and do the same to their mixtures. What travels is small: values,
the numbers of rows, and inner products of all tensors and ingredients; no weights and no gradients of weights.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64

from hf_soups.errors import HfSoupsError

PATIENCE = timedelta(days=30)  # the others wait while the first one scores, mixes and writes
Message = tuple[Any, ...]


class Team(Protocol):
    """The processes, as one of them sees the others."""

    number: int  # of this one; 0 cooks
    count: int

    def say(self, message: Message) -> None:
        """In the first one: let all others hear something."""

    def hear(self) -> Message:
        """In the others: what the first one says next."""

    def sum(self, numbers: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, " numbers"]:
        """What all of them bring, added up; each calls it."""


class Launched:
    """The processes that torchrun or accelerate launch has started. They speak by gloo, also with models on GPUs."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        dist.init_process_group("gloo", timeout=PATIENCE)
        self.number, self.count = dist.get_rank(), dist.get_world_size()

    def say(self, message: Message) -> None:
        """See `Team`."""
        with self._together():
            self._dist.broadcast_object_list([message])

    def hear(self) -> Message:
        """See `Team`."""
        heard: list[Any] = [None]
        with self._together():
            self._dist.broadcast_object_list(heard)
        message: Message = heard[0]
        return message

    def sum(self, numbers: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, " numbers"]:
        """See `Team`."""
        import torch

        total = torch.from_numpy(numbers.copy())
        with self._together():
            self._dist.all_reduce(total)
        return total.numpy()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo's, when a connection closes
            raise HfSoupsError("another process of this command has ended, so this one does too.") from error


@contextlib.contextmanager
def launched() -> Iterator[Launched]:
    """The processes of a launcher, which part at the end."""
    team = Launched()
    try:
        yield team
    finally:
        team._dist.destroy_process_group()


def own_device() -> str | None:
    """The GPU of this process among those of its machine; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def help_cooking(team: Team, device: str | None) -> None:
    """In another process than the first: open what it opens, and learn with it until it is done."""
    from hf_soups.soups.methods.learned.steps import Learning
    from hf_soups.soups.scoring import open_scorer

    scorer = None
    while True:
        what, *given = team.hear()
        if what == "done":
            return
        if what == "open":
            pool, recipe, how = given
            scorer = replace(open_scorer(pool, recipe, device=device, **how), team=team)
        elif what == "learn":
            members, options, threads = given
            assert scorer is not None
            Learning(members, scorer, options, threads=threads).follow()
