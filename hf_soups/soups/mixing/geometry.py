"""Geometry: inner products of how far each checkpoint lies from a common origin, tensor by tensor, streamed.

Distances, angles, Model Stock's ratio: all follow from these products, so the weights are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from jaxtyping import Float64

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError
from hf_soups.files.dtypes import FLOATS
from hf_soups.soups.mixing.blocks import BlockMixer, in_threads
from hf_soups.soups.mixing.spans import Span, shared_names, spans_of

PIECE = 16 * 1024  # elements of each checkpoint in one product: float32 sums of so few stay exact to about 1e-6
NOT_LEARNED = ("running_mean", "running_var")  # BatchNorm's statistics are measured, not learned: no part of a distance


@dataclass(frozen=True, eq=False)
class Geometry:
    """Inner products <theta_i - origin, theta_j - origin> of k checkpoints, for each learned tensor."""

    products: Mapping[str, Float64[np.ndarray, "k k"]]

    @property
    def total(self) -> Float64[np.ndarray, "k k"]:
        """The products over all tensors together."""
        return np.asarray(np.sum(list(self.products.values()), axis=0), dtype=np.float64)

    @property
    def from_origin(self) -> Float64[np.ndarray, " k"]:
        """Euclidean distance of each checkpoint from the origin."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.total), 0)))

    @property
    def apart(self) -> Float64[np.ndarray, "k k"]:
        """Euclidean distance of each pair."""
        return distances(self.total)

    @property
    def angles(self) -> Float64[np.ndarray, "k k"]:
        """Angle at the origin between each pair, in degrees; NaN for a checkpoint that lies at the origin."""
        return np.asarray(np.degrees(np.arccos(cosines(self.total))))


def distances(products: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k k"]:
    """Pairwise distances from inner products.

    >>> distances(np.array([[9.0, 0.0], [0.0, 16.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    squares = np.diag(products)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)))


def cosines(products: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k k"]:
    """Pairwise cosines from inner products, in [-1, 1]; NaN where a length is 0.

    >>> cosines(np.array([[4.0, 2.0], [2.0, 1.0]])).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    lengths = np.sqrt(np.maximum(np.diag(products), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(products / np.outer(lengths, lengths), -1, 1))


def measure(checkpoints: Sequence[Checkpoint], origin: Checkpoint | None = None, *, threads: int = 2) -> Geometry:
    """The inner products of the checkpoints' offsets from `origin`, in one pass over the files.

    Offsets are taken in float32 and multiplied in float32, summed up in float64: a relative error of about 1e-6.

    Args:
        checkpoints: models with the same tensor names and shapes; label orders are respected.
        origin: what distances are measured from; None: zero.
        threads: that read and multiply side by side.
    Raises:
        IncompatibleCheckpoints: if names or shapes differ.
        CheckpointError: if one cannot be read, or holds NaN or infinity.
    """
    everything = [*([] if origin is None else [origin]), *checkpoints]
    names = [
        name
        for name in shared_names(everything)
        if everything[0].tensors[name].dtype in FLOATS and not name.endswith(NOT_LEARNED)
    ]
    k = len(checkpoints)
    sums, lock = {name: np.zeros((k, k)) for name in names}, Lock()

    def multiply(mixer: BlockMixer, item: tuple[str, Span, int, int]) -> None:
        name, span, start, count = item
        rows = np.empty((len(span.sources), count), dtype=np.float32)
        for source, row in zip(span.sources, rows, strict=True):
            mixer.fill(source, start, row)
        with np.errstate(all="ignore"):
            offsets = rows if origin is None else rows[1:] - rows[0]
            product = offsets @ offsets.T
        if not np.isfinite(product).all():
            largest = np.abs(rows).max(axis=1)  # NaN where a row holds one, which argmax takes for the largest
            bad = span.sources[int(np.argmax(largest))]
            raise CheckpointError(
                f"{bad.file}: tensor {name!r} holds NaN or infinity, or values too large to multiply. Leave it out."
            )
        with lock:
            sums[name] += product

    blocks = ((name, span, *b) for name in names for span in spans_of(everything, name) for b in span.blocks(PIECE))
    in_threads(blocks, multiply, threads)
    return Geometry(sums)
