"""Processes: one alone, or several started by torchrun or accelerate that share out the shards between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from hf_soups.errors import HfSoupsError

DEVICE_HERE = ("cuda", "xpu", "npu")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the job."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None  # until all are here
    device: str | None = None  # this process's own GPU, where there are several processes

    @property
    def is_main(self) -> bool:
        """Whether this is the one that speaks and puts things together."""
        return self.rank == 0

    def mine(self, number: int) -> bool:
        """Whether a shard is this process's: by its number alone, so that nobody needs to agree on anything."""
        return number % self.count == self.rank


def processes() -> Processes:
    """The processes that a launcher started; accelerate is imported only where there are several.

    Raises:
        HfSoupsError: if several were started that do not find each other: each would do all the work.
    """
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked < 2:
        return Processes()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available() or bool(os.environ.get("ACCELERATE_USE_CPU")))
    if state.num_processes != asked:
        raise HfSoupsError(
            f"{asked} processes were asked for, but {state.num_processes} runs. On CPUs start them with "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N."
        )
    device = str(state.device) if state.device.type in DEVICE_HERE else None
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone, device)
