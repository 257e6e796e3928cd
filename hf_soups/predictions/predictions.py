"""Predictions: what any model, soup, ensemble or cascade answered, row by row, as natural-log probabilities.

They are the common currency of the package: everything that answers yields them, everything that is scored is
scored from them. Stored as one safetensors file; needs numpy alone.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import ArrayLike

from hf_soups.errors import HfSoupsError, PredictionsError
from hf_soups.files.label_names import same_labels
from hf_soups.files.reading import open_regular
from hf_soups.files.writing import write_file
from hf_soups.predictions.given import (
    SUM_TOLERANCE,
    class_indices_of,
    column_names,
    ids_of,
    logits_of,
    named_labels,
    normalised,
    probabilities_of,
)

FORMAT = "hf_soups.predictions.v1"
POSITIVE = 1e-6  # a log-probability above it is none: rounding to float32 lifts one of 0 by less
ROWS_AT_ONCE = 4096
SMALLEST = float(np.finfo(np.float32).tiny)  # probabilities of exactly 0 are kept as log(tiny), never -inf


@dataclass(frozen=True, eq=False)
class Predictions:
    """Natural-log probabilities of one answerer on some rows.

    `row_ids` are unique integers or strings; `labels` are class indices or None for unlabelled rows. `data` and
    `model` are fingerprints: what the rows are and what answered.
    """

    log_probs: Float32[np.ndarray, "examples classes"]
    row_ids: np.ndarray  # (examples,) int64 or str
    labels: Int64[np.ndarray, " examples"] | None = None
    label_names: tuple[str, ...] | None = None
    data: str = ""
    model: str = ""

    @classmethod
    def from_probs(
        cls,
        probs: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        row_ids: ArrayLike | None = None,
        normalise: bool = False,
        tolerance: float | None = None,
        **about: Any,
    ) -> Predictions:
        """Predictions from probabilities (examples, classes); each row must sum to 1 and is renormalised.

        Args:
            probs: or one number a row: the probability of the second of two classes. The columns of a table that are
                named name the classes.
            labels: class indices, or names of classes; a categorical column names the classes too.
            row_ids: unique integers or texts.
            normalise: allow rows of any sum above 0.
            tolerance: by how much sums may differ from 1; default: 1e-3, and where all numbers are rounded to at most
                four decimals what that explains, up to 0.05.
            about: `label_names`, `data` and `model`.
        Raises:
            PredictionsError: if a value is negative or NaN, a row does not sum to 1, or shapes do not agree.

        >>> Predictions.from_probs([[0.75, 0.25]], labels=[0]).probs.tolist()
        [[0.75, 0.25]]
        >>> Predictions.from_probs([0.25, 0.75], labels=["ham", "spam"], label_names=("ham", "spam")).labels.tolist()
        [0, 1]
        """
        names = about.get("label_names") or column_names(probs)
        p = normalised(probabilities_of(probs, names), normalise=normalise, tolerance=tolerance)
        return cls._checked(np.log(np.maximum(p, SMALLEST)), labels, row_ids, {**about, "label_names": names})

    @classmethod
    def from_log_probs(
        cls, log_probs: ArrayLike, *, labels: ArrayLike | None = None, row_ids: ArrayLike | None = None, **about: Any
    ) -> Predictions:
        """Predictions from natural-log probabilities; -inf is a probability of 0. Otherwise as `from_probs`.

        >>> Predictions.from_log_probs([[0.0, float("-inf")]]).answers.tolist()
        [0]
        """
        about = {"label_names": column_names(log_probs), **about}
        with np.errstate(over="ignore"):
            probs = np.exp(np.asarray(log_probs, dtype=np.float64))
        return cls.from_probs(probs, labels=labels, row_ids=row_ids, **about)

    @classmethod
    def from_logits(
        cls, logits: ArrayLike, *, labels: ArrayLike | None = None, row_ids: ArrayLike | None = None, **about: Any
    ) -> Predictions:
        """Predictions from logits (examples, classes) by a log-softmax in float64, stored as float32.

        One number a row is the logit of the second of two classes, by a sigmoid; labels and names as `from_probs`.
        """
        names = about.get("label_names") or column_names(logits)
        z = logits_of(logits)
        if not np.isfinite(z).all():
            bad = int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
            raise PredictionsError(f"row {bad} holds a NaN or infinite logit: the model that made it is broken.")
        z = z - z.max(axis=1, keepdims=True)
        z = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return cls._checked(np.maximum(z, np.log(SMALLEST)), labels, row_ids, {**about, "label_names": names})

    @classmethod
    def _checked(
        cls, log_probs: np.ndarray, labels: ArrayLike | None, row_ids: ArrayLike | None, about: dict[str, Any]
    ) -> Predictions:
        n, classes = log_probs.shape
        if not classes or log_probs.dtype.kind != "f":
            raise PredictionsError(
                f"log-probabilities of {classes} classes in {log_probs.dtype}; expected floats of 1 or more."
            )
        ids = np.arange(n, dtype=np.int64) if row_ids is None else ids_of(row_ids)
        if ids.shape != (n,):
            raise PredictionsError(f"{ids.size} row ids for {n} rows.")
        if len(np.unique(ids)) != n:
            values, counts = np.unique(ids, return_counts=True)
            raise PredictionsError(f"row id {values[counts > 1][0]!r} occurs more than once; ids must be unique.")
        labels, about["label_names"] = named_labels(labels, about.get("label_names"), classes)
        y = None if labels is None else class_indices_of(labels)
        if y is not None and y.shape != (n,):
            raise PredictionsError(f"{y.size} labels for {n} rows.")
        if y is not None and n and (y.min() < 0 or y.max() >= classes):
            raise PredictionsError(f"labels lie in {y.min()}..{y.max()}, but there are {classes} classes.")
        names = about.get("label_names")
        if names is not None and len(names) != classes:
            raise PredictionsError(f"{len(names)} label names for {classes} classes.")
        about = {**about, "label_names": None if names is None else tuple(names)}
        return cls(log_probs.astype(np.float32, copy=False), ids, y, **about)

    def __len__(self) -> int:
        return int(self.log_probs.shape[0])

    @property
    def fingerprint(self) -> str:
        """Stands for rows, labels and answers, whatever file they lie in: 32 hexadecimal digits (XXH3, 128 bits)."""
        return fingerprint_of(self.row_ids, self.labels, [self.log_probs])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.log_probs.shape[1])

    @property
    def probs(self) -> Float32[np.ndarray, "examples classes"]:
        """Probabilities (examples, classes), float32."""
        return np.asarray(np.exp(self.log_probs), dtype=np.float32)

    @property
    def answers(self) -> Int64[np.ndarray, " examples"]:
        """The most probable class of each row; the lowest index wins a tie."""
        return np.asarray(self.log_probs.argmax(axis=1), dtype=np.int64)

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "rows classes"]:
        """The log-probabilities of rows `start` to `stop`, all classes.

        Raises:
            PredictionsError: if a value is NaN or infinite: the file that the rows are mapped from is damaged.
        """
        rows = np.asarray(self.log_probs[start:stop])
        if not np.isfinite(rows.sum(dtype=np.float64)):  # one pass, and a sum of finite values cannot overflow
            raise PredictionsError(
                f"the predictions {self.model or ''} hold NaN or infinity among rows {start} to {start + len(rows)}: "
                "the file is damaged. Predict again."
            )
        return rows

    def at_temperature(self, temperature: float) -> Predictions:
        """The predictions with logits divided by `temperature`: above 1 less sure, below 1 surer; answers stay."""
        if temperature == 1:
            return self
        if not (temperature > 0 and np.isfinite(temperature)):
            raise PredictionsError(f"a temperature of {temperature}; expected a number above 0.")
        z = self.log_probs.astype(np.float64) / temperature
        z -= z.max(axis=1, keepdims=True)
        z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
        return replace(self, log_probs=np.maximum(z, np.log(SMALLEST)).astype(np.float32))

    def needs_labels(self) -> Int64[np.ndarray, " examples"]:
        """The labels, or an error that says which predictions lack them."""
        if self.labels is None:
            raise PredictionsError(f"the predictions {self.model or ''} hold no labels, so they cannot be scored.")
        return self.labels

    def aligned_to(self, other: Predictions) -> Predictions:
        """These predictions with their rows in the order of `other`'s.

        Raises:
            PredictionsError: if the two do not hold exactly the same row ids and labels of the same data.
        """
        both = f" of {self.model} and {other.model}" if self.model and other.model else ""
        if self.classes != other.classes or (
            self.label_names and other.label_names and not same_labels(self.label_names, other.label_names)
        ):
            raise PredictionsError(
                f"the predictions of {self.model or 'A'} and {other.model or 'B'} have other labels: "
                f"{self.label_names or self.classes} against {other.label_names or other.classes}."
            )
        if self.data and other.data and not same_rows(self.data, other.data):
            raise PredictionsError(f"predictions{both} on other data: {self.data} against {other.data}.")
        if self.row_ids.dtype.kind != other.row_ids.dtype.kind:
            raise PredictionsError(f"row ids{both}: text in one set, numbers in the other, which cannot be joined.")
        if np.array_equal(self.row_ids, other.row_ids):  # nothing is copied: the rows may be mapped from a large file
            return self._labelled_as(other)
        mine, theirs = np.argsort(self.row_ids, kind="stable"), np.argsort(other.row_ids, kind="stable")
        if len(self) != len(other) or not np.array_equal(self.row_ids[mine], other.row_ids[theirs]):
            missing = np.setdiff1d(other.row_ids, self.row_ids)
            extra = np.setdiff1d(self.row_ids, other.row_ids)
            raise PredictionsError(
                f"two sets of predictions{both} do not hold the same rows: {len(missing)} missing (first: "
                f"{missing[:3].tolist()}), {len(extra)} extra (first: {extra[:3].tolist()}). "
                "Predict again on one split."
            )
        order = np.empty(len(self), dtype=np.int64)
        order[theirs] = mine
        return self.take(order)._labelled_as(other)

    def _labelled_as(self, other: Predictions) -> Predictions:
        """Itself, if the labels of the rows are those of `other`, whose rows stand in the same order."""
        if self.labels is not None and other.labels is not None and not np.array_equal(self.labels, other.labels):
            row = int(np.flatnonzero(self.labels != other.labels)[0])
            mine, theirs = self.model or "one set", other.model or "the other"
            raise PredictionsError(
                f"row {self.row_ids[row]!r} has label {self.labels[row]} in the predictions of {mine} and "
                f"{other.labels[row]} in those of {theirs}: the data differ."
            )
        return self

    def take(self, rows: ArrayLike) -> Predictions:
        """The given rows (indices or a mask), in that order."""
        at = np.asarray(rows)
        if not at.size:
            at = at.astype(np.int64)  # NumPy takes an empty list for floats
        return replace(
            self,
            log_probs=self.log_probs[at],
            row_ids=self.row_ids[at],
            labels=None if self.labels is None else self.labels[at],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, through a temporary file and a rename."""
        from safetensors.numpy import save_file

        about = {"format": FORMAT, "label_names": json.dumps(self.label_names), "data": self.data, "model": self.model}
        tensors = {"log_probs": np.ascontiguousarray(self.log_probs), **dict([id_tensor(self.row_ids)])}
        if self.labels is not None:
            tensors["labels"] = np.ascontiguousarray(self.labels)
        write_file(Path(path), lambda partial: save_file(tensors, partial, metadata=about))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mapped: bool = False) -> Predictions:
        """Read what `save` wrote.

        Args:
            path: of the file.
            mapped: leave the log-probabilities in the file and read them where they are asked for; the whole may then
                be larger than memory.
        Raises:
            PredictionsError: if the file is missing, corrupt or not a file of predictions.
        """
        about, tensors = mapped_tensors(path) if mapped else _read_tensors(path)
        if about.get("format") != FORMAT:
            raise PredictionsError(
                f"{path}: a safetensors file, but not of predictions (format {about.get('format')!r})."
            )
        found = cls._from_tensors(path, about, tensors)
        for start in range(0, len(found), ROWS_AT_ONCE):
            check_probs(path, start, np.asarray(found.log_probs[start : start + ROWS_AT_ONCE]))
        return found

    @classmethod
    def _from_tensors(
        cls, path: str | os.PathLike[str], about: Mapping[str, str], tensors: Mapping[str, np.ndarray]
    ) -> Predictions:
        with damage_named(path):
            check_kinds(tensors, log_probs="f4", labels="i8")
            told = {"label_names": stored_names(about), "data": about["data"], "model": about["model"]}
            return cls._checked(tensors["log_probs"], tensors.get("labels"), stored_ids(tensors), told)


@contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what is wrong with the parts of a file of predictions into one error that names the file."""
    try:
        yield
    except (KeyError, ValueError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise PredictionsError(f"{path}: damaged predictions ({why}). Predict again.") from error


def check_kinds(tensors: Mapping[str, np.ndarray], **kinds: str) -> None:
    """Whether the tensors that are there have a NumPy type that they are written with.

    Raises:
        ValueError: naming one that has another.
    """
    for name, kind in {**kinds, "row_ids": "i8", "row_ids_json": "u1"}.items():
        if name in tensors and tensors[name].dtype.str[1:] not in kind.split():
            raise ValueError(f"{name} is stored as {tensors[name].dtype}")


def stored_names(about: Mapping[str, str]) -> tuple[str, ...] | None:
    """The label names in the metadata of a file of predictions.

    Raises:
        KeyError, ValueError: if there are none.
    """
    names = json.loads(about["label_names"])
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"label_names is {about['label_names']:.60}")
    return None if names is None else tuple(names)


def stored_ids(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The row ids as a file of predictions holds them: numbers, or texts as JSON.

    Raises:
        KeyError, ValueError: if there are none.
    """
    if "row_ids" in tensors:
        return np.array(tensors["row_ids"])
    return np.asarray(json.loads(tensors["row_ids_json"].tobytes().decode()))


def id_tensor(row_ids: np.ndarray) -> tuple[str, np.ndarray]:
    """Row ids as a tensor with its name, as `stored_ids` reads them."""
    if row_ids.dtype.kind == "i":
        return "row_ids", np.ascontiguousarray(row_ids)
    text = json.dumps(row_ids.tolist(), ensure_ascii=False).encode()
    return "row_ids_json", np.frombuffer(text, dtype=np.uint8)


def mapped_tensors(path: str | os.PathLike[str]) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """The metadata of a safetensors file, and its tensors mapped from it, read-only; none is read yet.

    Raises:
        PredictionsError: if the file is missing, truncated or corrupt.
    """
    from hf_soups.files.dtypes import NATIVE
    from hf_soups.files.tensorfile import read_header

    if not Path(path).exists():
        raise PredictionsError(f"{path}: no such file of predictions.")
    try:
        header = read_header(Path(path))
    except HfSoupsError as error:
        raise PredictionsError(f"{path}: not a readable file of predictions ({error}). Predict again.") from error
    tensors: dict[str, np.ndarray] = {}
    whole = _mapped(Path(path))
    for name, info in header.tensors.items():
        dtype = NATIVE.get(info.dtype)
        if dtype is None:
            raise PredictionsError(f"{path}: {name} is stored as {info.dtype}, so this is no file of predictions.")
        tensors[name] = whole[info.offset : info.offset + info.nbytes].view(dtype).reshape(info.shape)
    return header.metadata, tensors


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, mapped; each map keeps the file open, and 1,000 are what a process may usually hold."""
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        if _more_open_files():
            return _mapped(path)
        raise PredictionsError(
            f"{path}: cannot be opened beside all the others, since this process may hold no more files open. Raise "
            "the limit (ulimit -n), or give fewer predictions at once."
        ) from error


def _more_open_files() -> bool:
    """Raise the number of files that this process may hold open to what the system allows; whether that is more."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True


def _read_tensors(path: str | os.PathLike[str]) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """The metadata and all tensors of a safetensors file, in memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(Path(path)), safe_open(path, framework="np") as f:
            return f.metadata() or {}, {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise PredictionsError(f"{path}: no such file of predictions.") from None
    except (SafetensorError, OSError) as error:
        raise PredictionsError(f"{path}: not a readable file of predictions ({error}). Predict again.") from error


def check_probs(
    path: str | os.PathLike[str],
    start: int,
    log_probs: Float32[np.ndarray, "rows classes"],
    rest: Float32[np.ndarray, " rows"] | float = 0.0,
) -> None:
    """Refuse rows that are no log-probabilities; `rest` is the probability of classes that are not among them."""
    with np.errstate(all="ignore"):
        sums = np.exp(log_probs).sum(axis=1) + rest
        good = (np.abs(sums - 1) <= SUM_TOLERANCE) & (log_probs <= POSITIVE).all(axis=1)  # NaN is neither
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise PredictionsError(
            f"{path}: damaged predictions: row {start + row} holds no log-probabilities (their exponentials sum to "
            f"{sums[row]:.4g}, the largest is {log_probs[row].max():.4g}). Predict again."
        )


def fingerprint_of(row_ids: np.ndarray, labels: np.ndarray | None, answers: Sequence[np.ndarray]) -> str:
    """See `Predictions.fingerprint`; `answers` are all arrays that hold them."""
    from hf_soups.files.digests import fast_digest

    name, ids = id_tensor(row_ids)
    about = f"{name} {[(a.dtype.str, a.shape) for a in answers]}".encode()
    arrays = (ids, *(() if labels is None else (labels,)), *answers)
    return fast_digest([[about], *map(_in_parts, arrays)])


def _in_parts(array: np.ndarray) -> Iterator[Any]:
    """Its bytes, some rows at a time: an array that is mapped from its file may be larger than memory."""
    for start in range(0, len(array), ROWS_AT_ONCE):
        yield np.ascontiguousarray(array[start : start + ROWS_AT_ONCE]).view(np.uint8).data


def same_rows(a: str, b: str) -> bool:
    """Whether two fingerprints of data stand for the same rows.

    Those of many images have two parts: 0.1.0 wrote the first alone, which looks at a sample of them; it is compared
    with the first part of a whole one.

    >>> same_rows("12ab+77", "12ab"), same_rows("12ab+77", "12ab+78")
    (True, False)
    """
    return a == b or (("+" in a) != ("+" in b) and a.partition("+")[0] == b.partition("+")[0])
