"""Top-k predictions: the k most probable classes of each row, and how much what was left out could change.

Of the other classes only their mass together is kept. Each of them is at most as probable as the k-th class and at
most as probable as all of them together; from this follows, row by row, whether an ensemble's answer is certain.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from numpy.typing import ArrayLike

from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.predictions.predictions import (
    ROWS_AT_ONCE,
    SMALLEST,
    Predictions,
    fingerprint_of,
)
from hf_soups.predictions.stored import (
    check_kinds,
    check_probs,
    damage_named,
    id_tensor,
    mapped_tensors,
    stored_ids,
    stored_names,
)

FORMAT = "hf_soups.top-k-predictions.v1"
SLACK = 1e-6  # of a probability: what is stored was rounded to float32


class TopKPredictions(Predictions):
    """Predictions that hold each row's k most probable classes, and act as dense ones in which the rest is even.

    `block` and `log_probs` spread the mass left out evenly over the classes left out. The label's own log-probability
    is kept beside them, exact, whether or not it is among the k.
    """

    indices: Shaped[np.ndarray, "examples k"]  # uint16 or uint32; the most probable first, of equal ones the lower
    top: Float32[np.ndarray, "examples k"]  # their natural-log probabilities
    left: Float32[np.ndarray, " examples"]  # probability of all other classes together
    label_log_probs: Float32[np.ndarray, " examples"] | None
    _classes: int

    def __init__(
        self,
        classes: int,
        indices: np.ndarray,
        top: np.ndarray,
        left: np.ndarray,
        row_ids: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        label_log_probs: np.ndarray | None = None,
        label_names: tuple[str, ...] | None = None,
        data: str = "",
        model: str = "",
    ) -> None:
        given = {
            "_classes": classes, "indices": indices, "top": top, "left": left, "row_ids": row_ids,
            "labels": labels, "label_log_probs": label_log_probs, "label_names": label_names, "data": data,
            "model": model,
        }  # fmt: skip
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, dense: Predictions, k: int) -> TopKPredictions:
        """The k most probable classes of dense predictions.

        Raises:
            InputError: if k is below 1.
        """
        if k < 1:
            raise InputError(f"top_k is {k}; expected the number of classes to keep of each row, 1 or more.")
        if dense.problem_type != CLASSIFICATION:
            raise InputError(f"top-k keeps the likeliest of many classes, but the rows are of {dense.problem_type!r}.")
        k, n = min(k, dense.classes), len(dense)
        kind = np.uint16 if dense.classes <= 2**16 else np.uint32
        indices, top = np.empty((n, k), dtype=kind), np.empty((n, k), dtype=np.float32)
        left, own = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
        for start in range(0, n, ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, n))
            log_probs = dense.block(rows.start, rows.stop)
            # stable: of equal classes the lower stands first, as in `answers`
            at = np.argsort(-log_probs, axis=1, kind="stable")[:, :k]
            indices[rows], top[rows] = at, np.take_along_axis(log_probs, at, axis=1)
            probs = np.exp(log_probs.astype(np.float64))
            np.put_along_axis(probs, at, 0.0, axis=1)
            left[rows] = probs.sum(axis=1)
            if dense.labels is not None:
                own[rows] = np.take_along_axis(log_probs, dense.labels[rows, None], axis=1)[:, 0]
        return cls(
            dense.classes, indices, top, left, dense.row_ids, labels=dense.labels,
            label_log_probs=None if dense.labels is None else own, label_names=dense.label_names, data=dense.data,
            model=dense.model,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def fingerprint(self) -> str:
        """See `Predictions.fingerprint`; also of what is left of each row."""
        return fingerprint_of(self.row_ids, self.labels, [self.indices, self.top, self.left])

    @property
    def k(self) -> int:
        """Classes kept of each row."""
        return int(self.indices.shape[1])

    @property
    def classes(self) -> int:
        """Number of classes, those left out too."""
        return self._classes

    @property
    def answers(self) -> Int64[np.ndarray, " examples"]:
        """The most probable class of each row; the lowest index wins a tie."""
        return np.asarray(self.indices[:, 0], dtype=np.int64)

    @cached_property
    def log_probs(self) -> Float32[np.ndarray, "examples classes"]:  # a field there
        """All rows as `block` gives them, in memory."""
        return self.block(0, len(self))

    @property
    def bound(self) -> Float64[np.ndarray, " examples"]:
        """The most that the probability of one class left out can be: that of the k-th class, or all that is left."""
        return np.asarray(np.minimum(np.exp(self.top[:, -1].astype(np.float64)), self.left))

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "rows classes"]:
        """The log-probabilities of rows `start` to `stop`; of the classes left out, an even share of what is left."""
        at, top = np.asarray(self.indices[start:stop]).astype(np.int64), np.asarray(self.top[start:stop])
        if not np.isfinite(top.sum(dtype=np.float64)):
            raise PredictionsError(
                f"the predictions {self.model} hold NaN or infinity among rows {start} to {start + len(top)}: the file "
                "is damaged. Predict again."
            )
        out = np.repeat(self._log_share(start, stop)[:, None], self.classes, axis=1)
        np.put_along_axis(out, at, top, axis=1)
        return out

    def _log_share(self, start: int, stop: int) -> Float32[np.ndarray, " rows"]:
        """Log-probability of each class left out; rounding must not lift it above the k-th."""
        others = max(self.classes - self.k, 1)
        share = np.log(np.maximum(self.left[start:stop].astype(np.float64) / others, SMALLEST)).astype(np.float32)
        return np.asarray(np.minimum(share, self.top[start:stop, -1]))

    def at_temperature(self, temperature: float) -> TopKPredictions:
        """The predictions with logits divided by `temperature`, the classes left out being taken as even."""
        if temperature == 1:
            return self
        if not (temperature > 0 and np.isfinite(temperature)):
            raise PredictionsError(f"a temperature of {temperature}; expected a number above 0.")
        others = self.classes - self.k
        top = self.top.astype(np.float64) / temperature
        share = self._log_share(0, len(self)).astype(np.float64) / temperature
        rest = others * np.exp(share - top[:, 0])  # relative to the largest: no overflow
        total = top[:, 0] + np.log(np.exp(top - top[:, :1]).sum(axis=1) + rest)
        smallest = np.log(SMALLEST)
        own = self.label_log_probs
        return self._with(
            top=np.maximum(top - total[:, None], smallest).astype(np.float32),
            left=(others * np.exp(share - total)).astype(np.float32),
            label_log_probs=None if own is None else np.maximum(own / temperature - total, smallest).astype(np.float32),
        )

    def take(self, rows: ArrayLike) -> TopKPredictions:
        """The given rows (indices or a mask), in that order."""
        at = np.asarray(rows)
        at = at.astype(np.int64) if not at.size else at
        per_row = ("indices", "top", "left", "row_ids", "labels", "label_log_probs")
        return self._with(**{name: None if (v := getattr(self, name)) is None else v[at] for name in per_row})

    def _with(self, **changes: Any) -> TopKPredictions:
        same = {
            name: getattr(self, name)
            for name in ("indices", "top", "left", "row_ids", "labels", "label_log_probs", "label_names", "data",
                         "model")
        }  # fmt: skip
        return TopKPredictions(self.classes, **{**same, **changes})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, through a temporary file and a rename."""
        write_top_k(Path(path), [self])

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mapped: bool = True) -> TopKPredictions:
        """Read what `save` wrote; top-k predictions are small and mapped unless `mapped` is False.

        Raises:
            PredictionsError: if the file is missing, corrupt or holds no top-k predictions.
        """
        about, tensors = mapped_tensors(path)
        if about.get("format") != FORMAT:
            raise PredictionsError(f"{path}: not a file of top-k predictions (format {about.get('format')!r}).")
        with damage_named(path):
            check_kinds(tensors, indices="u2 u4", top="f4", left="f4", labels="i8", label_log_probs="f4")
            found = cls(
                int(about["classes"]), tensors["indices"], tensors["top"], tensors["left"], _unique(tensors),
                labels=_in_memory(tensors.get("labels")), label_log_probs=tensors.get("label_log_probs"),
                label_names=stored_names(about), data=about["data"], model=about["model"],
            )  # fmt: skip
            found._check_shapes()
        for start in range(0, len(found), ROWS_AT_ONCE):
            at = slice(start, start + ROWS_AT_ONCE)
            check_probs(path, start, found.top[at], found.left[at])
            found._check_indices(path, start, np.asarray(found.indices[at]))
        return found if mapped else found.take(np.arange(len(found)))

    def _check_shapes(self) -> None:
        """Whether all parts are of the same rows and classes.

        Raises:
            ValueError: saying which is not.
        """
        n, names = len(self.row_ids), len(self.label_names or ())
        if self.indices.ndim != 2 or {len(v) for v in self._parts()} != {n} or self.top.shape != self.indices.shape:
            raise ValueError("tensors of different lengths")
        if not 1 <= self.k <= self.classes <= np.iinfo(self.indices.dtype).max + 1 or names not in (0, self.classes):
            raise ValueError(f"{self.classes} classes, of which {self.k} are kept, with {names} names")
        labels = self.labels
        if labels is not None and n and not 0 <= labels.min() <= labels.max() < self.classes:
            raise ValueError(f"labels lie in {labels.min()}..{labels.max()}, but there are {self.classes} classes")
        if n and not self.left.min() >= 0:
            raise ValueError("a probability below 0 is left out")

    def _parts(self) -> list[np.ndarray]:
        own = (self.indices, self.top, self.left, self.row_ids, self.labels, self.label_log_probs)
        return [part for part in own if part is not None]

    def _check_indices(self, path: str | os.PathLike[str], start: int, indices: np.ndarray) -> None:
        ordered = np.sort(indices, axis=1)
        good = (ordered[:, -1] < self.classes) & (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
        if not good.all():
            row = start + int(np.flatnonzero(~good)[0])
            raise PredictionsError(f"{path}: damaged predictions (row {row} keeps a class twice, or one of none).")


def _unique(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    row_ids = stored_ids(tensors)
    if len(np.unique(row_ids)) != len(row_ids):
        raise ValueError("a row id occurs more than once")
    return row_ids


def load_predictions(path: str | os.PathLike[str], *, mapped: bool = True) -> Predictions:
    """Predictions of either form, dense or top-k, mapped from their file unless `mapped` is False.

    Raises:
        PredictionsError: if the file is missing, corrupt or not a file of predictions.
    """
    about, _ = mapped_tensors(path)
    kind = TopKPredictions if about.get("format") == FORMAT else Predictions
    return kind.load(path, mapped=mapped)


def write_top_k(path: Path, parts: Sequence[TopKPredictions]) -> None:
    """Write top-k predictions, given in parts of consecutive rows, as one file.

    Raises:
        HfSoupsError: if the place cannot be written.
    """
    from hf_soups.files.tensorfile import TensorWriter, lay_out

    first = parts[0]
    tensors = dict([id_tensor(np.concatenate([p.row_ids for p in parts]))])
    for name in ("labels", "label_log_probs", "top", "left", "indices"):
        if getattr(first, name) is not None:
            tensors[name] = np.ascontiguousarray(np.concatenate([getattr(p, name) for p in parts]))
    about = {
        "format": FORMAT, "classes": str(first.classes), "label_names": json.dumps(first.label_names),
        "data": first.data, "model": first.model,
    }  # fmt: skip
    # wider numbers first, so that each tensor starts at a multiple of its own width
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    layout = lay_out([(name, _dtype_name(a), a.shape) for name, a in ordered], about)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TensorWriter({path: layout}) as writer:
        for name, array in ordered:
            if array.size:
                writer.write(path, array.view(np.uint8).reshape(-1).data, layout.offsets[name])


def certain_rows(members: Sequence[TopKPredictions]) -> Bool[np.ndarray, " rows"]:
    """Rows at which the mean of the members' probabilities has the same answer, whatever the classes left out hold.

    Args:
        members: of the same rows in the same order.
    """
    rows = len(members[0])
    certain = np.empty(rows, dtype=bool)
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        certain[start:stop] = _certain([m.take(np.arange(start, stop)) for m in members])
    return certain


def _certain(members: Sequence[TopKPredictions]) -> Bool[np.ndarray, " rows"]:
    """A class is sure to win if the least it can have is above the most that any other can have."""
    rows, classes = len(members[0]), members[0].classes
    least, kept = np.zeros((rows, classes)), np.zeros((rows, classes))
    row = np.arange(rows)[:, None]
    for member in members:
        at = member.indices.astype(np.int64)
        least[row, at] += np.exp(member.top.astype(np.float64))
        kept[row, at] += member.bound[:, None]
    most = least + np.sum([m.bound for m in members], axis=0)[:, None] - kept
    best = least.argmax(axis=1)
    lowest = least[row[:, 0], best]
    most[row[:, 0], best] = -np.inf
    return np.asarray(lowest > most.max(axis=1) + SLACK * len(members)) if classes > 1 else np.ones(rows, dtype=bool)


def _in_memory(labels: np.ndarray | None) -> np.ndarray | None:
    return None if labels is None else np.array(labels)


def _dtype_name(array: np.ndarray) -> str:
    from hf_soups.files.dtypes import NATIVE

    return next(name for name, dtype in NATIVE.items() if dtype == array.dtype)
