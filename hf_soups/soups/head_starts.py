"""Heads that seem to come from another random start than the first's, where no record says it: by their angle.

Fine-tuning turns a head by less than random heads lie apart, which is about 90 degrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.files.dtypes import FLOATS
from hf_soups.files.loaded_names import HEAD
from hf_soups.soups.preflight_findings import Finding

APART = 60.0  # degrees
OPPOSITE = 120.0  # farther apart than random heads come to lie
FEWEST = 16  # values: the angle between shorter vectors says little


def heads_apart(checkpoints: Sequence[Checkpoint], start: Checkpoint | None = None) -> tuple[Finding, ...]:
    """A warning for each checkpoint whose head points elsewhere than the first's; recorded starts are not measured.

    Args:
        checkpoints: as they may be mixed, their labels aligned.
        start: what they were fine-tuned from, if known; with a head of its own, the first's is compared with it too.
    """
    if len({_recorded(c) for c in checkpoints} - {None}) == 1 and all(map(_recorded, checkpoints)):
        return ()
    pairs = [(checkpoints[0], other) for other in checkpoints[1:]]
    if start is not None:
        pairs.append((start, checkpoints[0]))
    return tuple(
        Finding(str(other), "head", _words(first, other, angle))
        for first, other in pairs
        if (angle := head_angle(first, other)) is not None and angle > APART
    )


def _recorded(checkpoint: Checkpoint) -> str | None:
    try:
        return checkpoint.head_fingerprint
    except HfSoupsError:
        return None


def _words(first: Checkpoint, other: Checkpoint, angle: float) -> str:
    order = " Or their classes are in another order." if angle > OPPOSITE else ""
    return (
        f"{other}: its head points elsewhere than {first}'s ({angle:.0f}° apart; random heads are about 90°, "
        "fine-tunes of one start far less). Averages of heads from different random starts collapse: fine-tune all "
        f"ingredients from one start with one head (hf-soups sweep does).{order}"
    )


def head_angle(first: Checkpoint, other: Checkpoint) -> float | None:
    """The angle between two heads' weights in degrees; None without a head, or where they have no direction."""
    try:
        vectors = [_direction(first, other), _direction(other, first)]
    except HfSoupsError:  # a recorded start that is not there any more
        return None
    lengths = [float(np.linalg.norm(vector)) for vector in vectors]
    if len(vectors[0]) < FEWEST or len(vectors[0]) != len(vectors[1]) or not all(0 < n < np.inf for n in lengths):
        return None
    cosine = float(vectors[0] @ vectors[1]) / (lengths[0] * lengths[1])
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _direction(checkpoint: Checkpoint, other: Checkpoint) -> Float64[np.ndarray, " elements"]:
    """The last layer's weights; without what all classes have in common, on which no answer depends."""
    rows = [checkpoint.read(name).astype(np.float64) for name in _head_weights(checkpoint, other)]
    centred = [(table - table.mean(axis=0) if len(table) > 1 else table).ravel() for table in rows]
    return np.concatenate([np.empty(0), *centred])


def _head_weights(checkpoint: Checkpoint, other: Checkpoint) -> Iterator[str]:
    for name, info in checkpoint.tensors.items():
        same = name in other.tensors and other.tensors[name].shape == info.shape
        if same and name.endswith(".weight") and len(info.shape) == 2 and info.dtype in FLOATS and HEAD.search(name):
            yield name
