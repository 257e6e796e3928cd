"""What an answer costs: multiply-adds and parameters counted, seconds and bytes of memory measured.

Papers' "FLOPs" of vision and language models are mostly multiply-adds (MACs); one is two floating-point operations.
"""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from hf_soups.models.family import Batch, Encoded


def count_macs(model: torch.nn.Module, batch: Batch, answer: Callable[[], object] | None = None) -> int:
    """Multiply-adds per example of one forward pass over `batch`, padding included.

    Matrix products and convolutions are counted; adding, normalising and activating are not. Attention and experts are
    switched to the eager ones meanwhile: the counter sees nothing inside the fused ones on a CPU. Of a mixture of
    experts those count that the rows are sent to.

    `answer` runs the pass where a model is called otherwise than by `model(**batch)`.
    """
    from torch.utils.flop_counter import FlopCounterMode

    training, rows = model.training, len(next(iter(batch.values())))
    counter = FlopCounterMode(display=False)
    model.eval()
    try:
        with torch.no_grad(), eager_attention(model), eager_experts(model), counter:
            model(**batch) if answer is None else answer()
    finally:
        model.train(training)
    return round(counter.get_total_flops() / 2 / rows)


def count_parameters(model: torch.nn.Module) -> int:
    """Elements of all parameters; tied ones count once, buffers do not."""
    return sum(parameter.numel() for parameter in model.parameters())


def median_row(encoded: Encoded) -> int:
    """The index of a row of median length: its cost is taken for the split's."""
    return int(np.argsort(encoded.lengths, kind="stable")[(len(encoded.lengths) - 1) // 2])


@contextlib.contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Attention as plain matrix products, and afterwards as it was. Nothing to do for models without attention."""
    with _eager(model, "attn"):
        yield


@contextlib.contextmanager
def eager_experts(model: Any) -> Iterator[None]:
    """Each expert's layers as plain matrix products on the tokens sent to it, and afterwards as it was."""
    with _eager(model, "experts"):
        yield


@contextlib.contextmanager
def _eager(model: Any, part: Literal["attn", "experts"]) -> Iterator[None]:
    before = getattr(getattr(model, "config", None), f"_{part}_implementation", None)
    switch = getattr(model, f"set_{part}_implementation", None)
    if before in (None, "eager") or switch is None:
        yield
        return
    switch("eager")
    try:
        yield
    finally:
        switch(before)


BATCHES = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 5
WARM_UP = 2  # calls whose time does not count


@dataclass(frozen=True, slots=True)
class Seconds:
    """Medians of several repeats, per example; the machine did nothing else, or they are too high."""

    batch_1: float
    best: float  # at `best_batch`
    best_batch: int
    hardware: str


def measure_seconds(
    answer: Callable[[int], Any],
    device: torch.device,
    *,
    batches: Sequence[int] = BATCHES,
    repeats: int = REPEATS,
    limit: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Seconds per example at batch 1 and at the batch size with the fewest.

    Args:
        answer: answers a batch of that many examples that are ready on the device.
        device: where; a GPU is waited for before the clock is read.
        batches: sizes to try, the smallest first; 1 is always tried.
        repeats: of each size.
        limit: seconds for everything; larger sizes than fit in it are left out.
        clock: seconds that pass.
    """
    found: dict[int, float] = {}
    end = clock() + limit
    for size in sorted({1, *batches}):
        if found and clock() + _expected(found, size, repeats) > end:
            break
        try:
            found[size] = _median(answer, size, device, repeats, clock) / size
        except torch.OutOfMemoryError:
            if not found:
                raise
            break
    best = min(found, key=lambda size: (found[size], size))
    return Seconds(found[1], found[best], best, hardware_name(device))


def _expected(found: dict[int, float], size: int, repeats: int) -> float:
    return found[max(found)] * size * (repeats + WARM_UP)


def _median(
    answer: Callable[[int], Any], size: int, device: torch.device, repeats: int, clock: Callable[[], float]
) -> float:
    took = []
    with torch.inference_mode():
        for _ in range(WARM_UP + repeats):
            _wait_for(device)
            start = clock()
            answer(size)
            _wait_for(device)
            took.append(clock() - start)
    return statistics.median(took[WARM_UP:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def hardware_name(device: torch.device) -> str:
    """What seconds were measured on: "NVIDIA H100 80GB HBM3", or the CPU's name with the threads that were used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "CPU"


def count_bytes(model: torch.nn.Module, answer: Callable[[], Any]) -> int:
    """Bytes of the model's weights and buffers, and of the most activations that are alive at once in `answer()`.

    Counted from the tensors that operations return, so it is the same on every device; what one operation uses inside
    itself is not seen, and what `answer` was given does not count.
    """
    weights = {t.untyped_storage().data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    own = sum(t.untyped_storage().nbytes() for t in weights.values())
    with torch.no_grad(), _Alive(set(weights)) as alive:
        answer()
    return int(own + alive.peak)


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when they are freed."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._known = known  # addresses of storages that are counted already
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):  # what no operation here has made was given, and a view of it is too
                self._known.add(leaf.untyped_storage().data_ptr())
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self._known:
            return
        self._known.add(address)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._freed, address, size).atexit = False

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size
