"""LiveMixture: a live model that is a mixture of files, and the gradient of its loss by their coefficients.

For w = sum(c_i theta_i) the chain rule gives dL/dc_i = <dL/dw, theta_i>, one product for each tensor. So one backward
pass through the mixed model and one pass over the files do what autograd does with all models in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Float64

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import IncompatibleCheckpoints, InputError
from hf_soups.files.dtypes import FLOATS
from hf_soups.soups.mixing import mix_tensor, shared_names
from hf_soups.soups.mixing.blocks import BlockMixer, in_threads
from hf_soups.soups.mixing.live import slots_by_disk_name
from hf_soups.soups.mixing.spans import Span, plan_spans, self_made

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Elements of one float32 product: few enough for a relative error of about 1e-7, and for BLAS to stay in this thread.
PIECE = 4096
Row = Sequence[float]  # a coefficient for each ingredient


@dataclass(frozen=True, slots=True, eq=False)
class MixedTensor:
    """One floating-point tensor of the live model and what it is mixed from."""

    name: str  # on disk
    spans: tuple[Span, ...]  # of all ingredients, planned once: step for step only coefficients change
    slot: torch.Tensor  # the model's own memory
    parameter: torch.nn.Parameter | None  # None: a statistic, such as BatchNorm's
    flat: Float32[np.ndarray, " elements"]  # that memory itself where it is float32 on the CPU, else a copy
    direct: bool

    def gradient(self) -> Float32[np.ndarray, " elements"] | None:
        """On the CPU; None where no loss reached it."""
        grad = None if self.parameter is None else self.parameter.grad
        return None if grad is None else grad.detach().to("cpu", torch.float32).reshape(-1).numpy()


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Consecutive elements of a part, and where they lie in the files."""

    part: int  # its place in the list given
    span: Span
    start: int  # in the span
    at: int  # in the part
    weights: Float32[np.ndarray, " elements"]
    gradient: Float32[np.ndarray, " elements"] | None


class LiveMixture:
    """Fills `model` with mixtures in place. Coefficients are (1, k), for all tensors, or (tensors, k)."""

    def __init__(self, model: PreTrainedModel, checkpoints: Sequence[Checkpoint], *, threads: int = 2) -> None:
        """Nothing but integers is put into the model yet.

        Raises:
            IncompatibleCheckpoints: if names or shapes differ between the checkpoints or from the model's.
            InputError: if transformers changes weights while loading them, so that no file holds the model's own.
        """
        self.model, self.checkpoints, self._threads = model, tuple(checkpoints), threads
        self._names = shared_names(checkpoints)
        slots = _own_slots(model, checkpoints[0], self._names)
        owners = {_place(parameter): parameter for parameter in model.parameters()}
        firsts: dict[tuple[int, tuple[int, ...]], str] = {}  # tied weights under two names are learned once
        live = [name for name in self._names if name in slots]  # not buffers that are stored, and not loaded
        self._same_as = {name: firsts.setdefault(_place(slots[name]), name) for name in live}
        floats = [n for n in firsts.values() if checkpoints[0].tensors[n].dtype in FLOATS]
        parts = [_part(self.checkpoints, n, slots[n], owners.get(_place(slots[n]))) for n in floats]
        self.learned = [part for part in parts if part.parameter is not None]
        self._statistics = [part for part in parts if part.parameter is None]
        self._put_integers(slots)

    @property
    def tensors(self) -> int:
        """How many have a gradient."""
        return len(self.learned)

    def by_name(self, coefficients: Float64[np.ndarray, "rows k"]) -> dict[str, tuple[float, ...]]:
        """A row for each tensor on disk; statistics and integers take the mean over all learned parameters."""
        rows = np.broadcast_to(coefficients, (self.tensors, len(self.checkpoints)))
        sizes = np.array([part.flat.size for part in self.learned], dtype=np.float64)
        mean = tuple(coefficients[0] if len(coefficients) == 1 else sizes @ rows / sizes.sum())
        own = {part.name: tuple(row) for part, row in zip(self.learned, rows, strict=True)}
        return {name: tuple(map(float, own.get(self._same_as.get(name, name), mean))) for name in self._names}

    @contextmanager
    def with_gradients(self) -> Iterator[None]:
        """Eval mode (no dropout) with gradients of all learned tensors; everything is put back, gradients dropped."""
        training, wanted_before = self.model.training, {p: p.requires_grad for p in self.model.parameters()}
        self.model.eval()
        for part in self.learned:
            assert part.parameter is not None
            part.parameter.requires_grad_(True)
        try:
            yield
        finally:
            self.model.zero_grad(set_to_none=True)
            for parameter, wanted in wanted_before.items():
                parameter.requires_grad_(wanted)
            self.model.train(training)

    # Weights.

    def fill(self, coefficients: Float64[np.ndarray, "rows k"]) -> None:
        """Put sum(coefficient x ingredient) into the model, in float32, in one pass over the files.

        Raises:
            CheckpointError: if an ingredient cannot be read, changed since its header was read, or holds NaN.
        """
        self._fill([*self.learned, *self._statistics], self.by_name(coefficients))

    def move(self, change: Float64[np.ndarray, "rows k"], coefficients: Float64[np.ndarray, "rows k"]) -> None:
        """Add sum(change_i x (ingredient_i - the model)) to it; only ingredients with a change are read.

        `coefficients` are those after the change, for the statistics.
        """
        changes = np.broadcast_to(change, (self.tensors, len(self.checkpoints)))
        moved = [(part, tuple(row)) for part, row in zip(self.learned, changes, strict=True) if row.any()]
        kept = [np.float32(1 - sum(row)) for _, row in moved]

        def add(mixer: BlockMixer, block: _Block) -> None:
            total = mixer.accumulated(block.span, block.start, block.weights.size)
            np.multiply(block.weights, kept[block.part], out=block.weights)
            np.add(block.weights, total, out=block.weights)

        in_threads(self._blocks(moved), add, self._threads)
        _settle(part for part, _ in moved)
        self._fill(self._statistics, self.by_name(coefficients))

    def _fill(self, parts: Sequence[MixedTensor], rows: Mapping[str, Row]) -> None:
        def put(mixer: BlockMixer, block: _Block) -> None:
            block.weights[:] = mixer.accumulated(block.span, block.start, block.weights.size)

        in_threads(self._blocks([(part, rows[part.name]) for part in parts]), put, self._threads)
        _settle(parts)

    def _put_integers(self, slots: Mapping[str, torch.Tensor]) -> None:
        with BlockMixer() as mixer, torch.no_grad():
            for name in self._same_as:
                if self.checkpoints[0].tensors[name].dtype not in FLOATS:
                    ones = [1.0] * len(self.checkpoints)
                    slots[name].copy_(torch.from_numpy(mix_tensor(mixer, self.checkpoints, ones, name)))

    # Gradients.

    def products(self, only: Sequence[int] | None = None) -> Float64[np.ndarray, "tensors k"]:
        """<gradient, ingredient - model> of each learned tensor and ingredient, after a backward pass.

        The model is subtracted before multiplying: fine-tunes differ by thousandths, and of products with whole
        weights only rounding errors would be left where coefficients sum to 1.

        Args:
            only: ingredients to read; the products of the others stay 0.
        """
        k = len(self.checkpoints)
        row = tuple(1.0 if only is None or i in only else 0.0 for i in range(k))
        found: dict[tuple[int, int], Float64[np.ndarray, " k"]] = {}

        def multiply(mixer: BlockMixer, block: _Block) -> None:
            assert block.gradient is not None
            sums = np.zeros(k)
            for source in block.span.sources:
                offset = mixer.values(source, block.start, block.weights.size)
                np.subtract(offset, block.weights, out=offset)
                sums[source.ingredient] = _inner(offset, block.gradient)
            found[block.part, block.at] = sums

        with np.errstate(all="ignore"):  # what overflows is seen in the products
            in_threads(self._blocks([(part, row) for part in self.learned], gradients=True), multiply, self._threads)
        total = np.zeros((self.tensors, k))
        for part, at in sorted(found):  # whichever thread was first: the same bits in every run
            total[part] += found[part, at]
        return total

    def _blocks(self, parts: Sequence[tuple[MixedTensor, Row]], *, gradients: bool = False) -> Iterator[_Block]:
        """Blocks of parts that are mixed with these coefficients; of parts with a gradient alone if one is needed."""
        for number, (part, row) in enumerate(parts):
            gradient, at = part.gradient() if gradients else None, 0
            if gradients and gradient is None:
                continue
            for span in _weighted(part.spans, row):
                for start, count in span.blocks():
                    own = slice(at, at + count)
                    own_gradient = None if gradient is None else gradient[own]
                    yield _Block(number, span, start, at, part.flat[own], own_gradient)
                    at += count


def _weighted(spans: Sequence[Span], row: Row) -> Iterator[Span]:
    """The spans with these coefficients; ingredients whose coefficient is 0 are not read."""
    for span in spans:
        used = (replace(s, coefficient=row[s.ingredient]) for s in span.sources if row[s.ingredient])
        yield replace(span, sources=tuple(used))


def _inner(a: Float32[np.ndarray, " elements"], b: Float32[np.ndarray, " elements"]) -> float:
    whole = a.size - a.size % PIECE
    pieces = np.matmul(a[:whole].reshape(-1, 1, PIECE), b[:whole].reshape(-1, PIECE, 1))
    return float(pieces.sum(dtype=np.float64)) + float(np.dot(a[whole:], b[whole:]))


def _own_slots(model: PreTrainedModel, first: Checkpoint, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The model's tensors by their names on disk, each of its parameters among them."""
    slots, kind = slots_by_disk_name(model), type(model).__name__
    if slots is None:
        raise InputError(
            f"{kind}: transformers joins or splits its weights while it loads them, so its gradients have no "
            "counterpart in the files and its soup cannot be learned. Use greedy or uniform."
        )
    unknown = [name for name in names if name not in slots and not self_made(first, name)]
    covered = {_place(slots[name]) for name in names if name in slots}
    lacking = [name for name, p in model.named_parameters() if _place(p) not in covered]
    if unknown or lacking:
        raise IncompatibleCheckpoints(
            f"{first}: {len(unknown)} of its tensors are unknown to {kind} {unknown[:2]}, and it lacks {len(lacking)} "
            f"of the model's parameters {lacking[:2]}. Load the model from one of the ingredients."
        )
    for name in names:
        if name in slots and first.tensors[name].shape != tuple(slots[name].shape):
            raise IncompatibleCheckpoints(
                f"{first}: {name!r} has shape {first.tensors[name].shape}, but the model's has "
                f"{tuple(slots[name].shape)}. Load the model from one of the ingredients."
            )
    return slots


def _part(
    checkpoints: Sequence[Checkpoint], name: str, slot: torch.Tensor, parameter: torch.nn.Parameter | None
) -> MixedTensor:
    # F32 whatever the files hold: while they are learned, mixtures are not rounded to the files' dtype
    places, ones = [(name, "F32", Path(), 0)], (1.0,) * len(checkpoints)
    spans = plan_spans(checkpoints, lambda _: ones, places, "float32")
    direct = slot.device.type == "cpu" and slot.dtype == torch.float32 and slot.is_contiguous()
    flat = slot.detach().view(-1).numpy() if direct else np.empty(slot.numel(), dtype=np.float32)
    return MixedTensor(name, tuple(spans), slot, parameter, flat, direct)


def _settle(parts: Iterator[MixedTensor] | Sequence[MixedTensor]) -> None:
    """Bring what was mixed beside the model into it: models on a GPU, or not in float32."""
    with torch.no_grad():
        for part in parts:
            if not part.direct:
                part.slot.copy_(torch.from_numpy(part.flat).view(part.slot.shape))


def _place(tensor: torch.Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)
