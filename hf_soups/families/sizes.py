"""The size of the model that config.json asks for, held against its weights before anything is allocated.

transformers makes a model without memory first, and then a tensor for everything that its weights do not hold. So what
is counted while it is made, and refused when it is far from the weights, costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from hf_soups.checkpoint import TensorInfo
from hf_soups.errors import CheckpointError

TIMES = 8  # what the weights hold may be registered so often: tied tensors have many names, loading names them again
SLACK = (2**24, 10_000)  # numbers and tensors beyond that: heads and poolers that a checkpoint does not hold


@contextmanager
def within_weights(tensors: Mapping[str, TensorInfo], at: str) -> Iterator[None]:
    """Refuse a model, made in the block by this thread, that is far larger than the weights that it is made for.

    Raises:
        CheckpointError: naming `at`, as soon as too many numbers or tensors were registered.
    """
    from torch.nn.modules import module

    held = (sum(info.elements for info in tensors.values()), len(tensors))
    most = tuple(TIMES * count + slack for count, slack in zip(held, SLACK, strict=True))
    counts, mine = [0, 0], threading.get_ident()

    def registered(_module: Any, _name: str, what: Any) -> None:
        if threading.get_ident() != mine:
            return
        counts[0] += what.numel() if hasattr(what, "numel") else 0
        counts[1] += 1
        if counts[0] > most[0] or counts[1] > most[1]:
            raise CheckpointError(
                f"{at}: config.json asks for a model of more than {min(counts[0], most[0]):,} numbers in {counts[1]:,} "
                f"parts, but the weights beside it hold {held[0]:,} in {held[1]:,} tensors. They do not belong "
                "together: save or download the checkpoint again."
            )

    with ExitStack() as hooks:
        for hook in (
            module.register_module_parameter_registration_hook,
            module.register_module_buffer_registration_hook,
            module.register_module_module_registration_hook,
        ):
            hooks.callback(hook(registered).remove)
        yield
