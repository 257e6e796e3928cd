"""Predictions: what any model, soup, ensemble or cascade answered, row by row, as natural-log probabilities.

They are the common currency of the package: everything that answers yields them, everything that is scored is
scored from them. Stored as one safetensors file; needs numpy alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped
from numpy.typing import ArrayLike

from hf_soups.display import Displayed
from hf_soups.errors import PredictionsError
from hf_soups.files.label_names import same_labels
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, PROBLEM_TYPES, REGRESSION, ProblemType
from hf_soups.files.writing import write_file
from hf_soups.limits import cores
from hf_soups.predictions.given import (
    checked_labels,
    column_names,
    ids_of,
    in_order_of,
    label_probabilities_of,
    logits_of,
    named_labels,
    normalised,
    probabilities_of,
    rows_of,
)
from hf_soups.predictions.stored import (
    POSITIVE,
    check_kinds,
    check_probs,
    damage_named,
    id_tensor,
    mapped_tensors,
    read_tensors,
    stored_ids,
    stored_names,
)

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "hf_soups.predictions.v1"
HALF = np.log(np.float32(0.5))  # a label above it is more probable than not
ROWS_AT_ONCE, CHECKS_AT_ONCE = 4096, 4  # 16 MB each for 1,000 classes
SMALLEST = float(np.finfo(np.float32).tiny)  # probabilities of exactly 0 are kept as log(tiny), never -inf


def read_logits(z: Float64[np.ndarray, "rows classes"], of_type: ProblemType) -> Float64[np.ndarray, "rows classes"]:
    """What a model of this problem type answers by its logits: log-probabilities, or of a regression numbers."""
    if of_type == REGRESSION:
        return z
    if of_type == MULTI_LABEL:
        return np.asarray(np.maximum(-np.logaddexp(0.0, -z), np.log(SMALLEST)))
    z = z - z.max(axis=1, keepdims=True)
    z = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return np.asarray(np.maximum(z, np.log(SMALLEST)))


def logits_again(
    answers: Float64[np.ndarray, "*rows classes"], of_type: ProblemType
) -> Float64[np.ndarray, "*rows classes"]:
    """Logits that `read_logits` reads as these answers; of classes they are known up to a constant a row."""
    return answers - log_of_rest(answers) if of_type == MULTI_LABEL else answers


def log_of_rest(log_probs: Float64[np.ndarray, "*rows"]) -> Float64[np.ndarray, "*rows"]:
    """log(1 - p) of log(p), exact where p is near 1."""
    return np.asarray(np.log(np.maximum(-np.expm1(np.minimum(log_probs, 0.0)), SMALLEST)))


def answers_of(logits: ArrayLike, of_type: ProblemType) -> Float32[np.ndarray, "rows classes"]:
    """The `log_probs` of `Predictions.from_logits`, where nothing else of the rows is wanted.

    Raises:
        PredictionsError: if a logit is NaN or infinite, or they are no table.
    """
    z = logits_of(logits) if of_type == CLASSIFICATION else rows_of(logits)
    if not np.isfinite(z).all():
        bad = int(np.flatnonzero(~np.isfinite(z).all(axis=1))[0])
        raise PredictionsError(f"row {bad} holds a NaN or infinite logit: the model that made it is broken.")
    return read_logits(z, of_type).astype(np.float32)


def at_temperature(
    answers: Float32[np.ndarray, "rows classes"], temperature: float, of_type: ProblemType
) -> Float32[np.ndarray, "rows classes"]:
    """Answers with their logits divided by a temperature.

    Raises:
        PredictionsError: if it is no number above 0, or the answers are numbers.
    """
    if temperature == 1:
        return answers
    if not (temperature > 0 and np.isfinite(temperature)):
        raise PredictionsError(f"a temperature of {temperature}; expected a number above 0.")
    if of_type == REGRESSION:
        raise PredictionsError(f"a temperature of {temperature}, but the numbers of a regression have none.")
    z = logits_again(answers.astype(np.float64), of_type) / temperature
    return read_logits(z, of_type).astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Displayed):
    """Natural-log probabilities of one answerer on some rows.

    `row_ids` are unique integers or strings; `labels` are class indices or None for unlabelled rows. `data` and
    `model` are fingerprints: what the rows are and what answered.

    Of a multi-label problem the probabilities are each label's own, and `labels` are 0 and 1 (examples, labels). Of a
    regression `log_probs` hold one number a row, the answer itself, and `labels` are numbers.
    """

    log_probs: Float32[np.ndarray, "examples classes"]
    row_ids: np.ndarray  # (examples,) int64 or str
    labels: Shaped[np.ndarray, "examples ..."] | None = None  # int64; of a regression float64
    label_names: tuple[str, ...] | None = None
    data: str = ""
    model: str = ""
    problem_type: ProblemType = CLASSIFICATION

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
        probs = in_order_of(names, probs)
        if about.get("problem_type") == MULTI_LABEL:
            p = label_probabilities_of(probs)
        else:
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
        about = {**about, "label_names": about.get("label_names") or column_names(log_probs)}
        log_probs = in_order_of(about["label_names"], log_probs)
        with np.errstate(over="ignore"):
            probs = np.exp(np.asarray(log_probs, dtype=np.float64))
        return cls.from_probs(probs, labels=labels, row_ids=row_ids, **about)

    @classmethod
    def from_logits(
        cls, logits: ArrayLike, *, labels: ArrayLike | None = None, row_ids: ArrayLike | None = None, **about: Any
    ) -> Predictions:
        """Predictions from logits (examples, classes) by a log-softmax in float64, stored as float32.

        One number a row is the logit of the second of two classes, by a sigmoid; labels and names as `from_probs`. With
        `problem_type="multi-label"` by a log-sigmoid; with "regression" the number of each row is its answer.
        """
        names, of_type = about.get("label_names") or column_names(logits), _known(about.get("problem_type"))
        answers = answers_of(in_order_of(names, logits), of_type)
        return cls._checked(answers, labels, row_ids, {**about, "label_names": names})

    @classmethod
    def _checked(
        cls, log_probs: np.ndarray, labels: ArrayLike | None, row_ids: ArrayLike | None, about: dict[str, Any]
    ) -> Predictions:
        n, classes = log_probs.shape
        if not classes or log_probs.dtype.kind != "f":
            raise PredictionsError(
                f"log-probabilities of {classes} classes in {log_probs.dtype}; expected floats of 1 or more."
            )
        of_type = _known(about.get("problem_type"))
        if of_type == REGRESSION and classes != 1:
            raise PredictionsError(f"{classes} numbers a row; expected one, as a regression has.")
        ids = np.arange(n, dtype=np.int64) if row_ids is None else ids_of(row_ids)
        if ids.shape != (n,):
            raise PredictionsError(f"{ids.size} row ids for {n} rows.")
        if len(np.unique(ids)) != n:
            values, counts = np.unique(ids, return_counts=True)
            raise PredictionsError(f"row id {values[counts > 1][0]!r} occurs more than once; ids must be unique.")
        if of_type == CLASSIFICATION:
            labels, about["label_names"] = named_labels(labels, about.get("label_names"), classes)
        y = None if labels is None else checked_labels(labels, (n, classes), of_type)
        names = about.get("label_names")
        if names is not None and len(names) != classes:
            raise PredictionsError(f"{len(names)} label names for {classes} classes.")
        about = {**about, "label_names": None if names is None else tuple(names), "problem_type": of_type}
        return cls(log_probs.astype(np.float32, copy=False), ids, y, **about)

    def __len__(self) -> int:
        return int(self.log_probs.shape[0])

    def in_short(self) -> str:
        """How many rows and classes, and what answered."""
        of = {CLASSIFICATION: f"{self.classes} classes", MULTI_LABEL: f"{self.classes} labels"}
        known = "labelled" if self.labels is not None else "no labels"
        return f"{len(self)} rows, {of.get(self.problem_type, 'numbers')}, {known}" + (
            f", of {self.model}" if self.model else ""
        )

    def to_pandas(self) -> pd.DataFrame:
        """Row id, label, answer and the probability of each class (of a regression number and label) of each row."""
        import pandas as pd

        names = self.label_names or tuple(map(str, range(self.classes)))
        named = dict(enumerate(names))
        table: dict[str, Any] = {"row_id": self.row_ids}
        if self.problem_type == CLASSIFICATION:
            if self.labels is not None:
                table["label"] = [named.get(i, i) for i in self.labels.tolist()]
            table["answer"] = [named[i] for i in self.answers.tolist()]
        elif self.labels is not None:
            table |= {f"label {n}": c for n, c in zip(names, self.labels.reshape(len(self), -1).T, strict=True)}
        numbers = self.answers[:, None] if self.problem_type == REGRESSION else self.probs
        return pd.DataFrame({**table, **dict(zip(names, numbers.T, strict=True))})

    @property
    def fingerprint(self) -> str:
        """A digest of rows, labels and answers, the same in any file: 32 hexadecimal digits (XXH3, 128 bits)."""
        return fingerprint_of(self.row_ids, self.labels, [self.log_probs])

    @property
    def classes(self) -> int:
        """Number of classes; of labels in a multi-label problem, and 1 of a regression."""
        return int(self.log_probs.shape[1])

    @property
    def probs(self) -> Float32[np.ndarray, "examples classes"]:
        """Probabilities (examples, classes), float32.

        Raises:
            PredictionsError: if they are a regression's, which has none.
        """
        if self.problem_type == REGRESSION:
            raise PredictionsError(
                f"the predictions {self.model or ''} are numbers of a regression, not probabilities."
            )
        return np.asarray(np.exp(self.log_probs), dtype=np.float32)

    @property
    def answers(self) -> Shaped[np.ndarray, "examples ..."]:
        """The most probable class of each row; the lowest index wins a tie.

        Of a multi-label problem 1 for each label that is more probable than not (examples, labels); of a regression
        the numbers, float64.
        """
        if self.problem_type == REGRESSION:
            return self.log_probs[:, 0].astype(np.float64)
        if self.problem_type == MULTI_LABEL:
            return np.asarray(self.log_probs > HALF, dtype=np.int64)
        return np.asarray(self.log_probs.argmax(axis=1), dtype=np.int64)

    @property
    def hits(self) -> Bool[np.ndarray, " examples"]:
        """Whether each row's answer is its label; of a multi-label problem whether all of its labels are right.

        Raises:
            PredictionsError: if there are no labels, or they are numbers, which no answer meets exactly.
        """
        if self.problem_type == REGRESSION:
            raise PredictionsError(f"the predictions {self.model or ''} are numbers, which are not right or wrong.")
        equal = self.answers == self.needs_labels()
        return np.asarray(equal.all(axis=1) if equal.ndim == 2 else equal)

    @property
    def decisions(self) -> Predictions:
        """A multi-label problem as two classes, no and yes: each label of each row is a row, row by row.

        Raises:
            PredictionsError: if they are of another problem type.
        """
        if self.problem_type != MULTI_LABEL:
            raise PredictionsError(f"predictions of problem type {self.problem_type!r} are not of many labels a row.")
        yes = self.log_probs.reshape(-1).astype(np.float64)
        both = np.stack([log_of_rest(yes), yes], axis=1).astype(np.float32)
        return Predictions(both, np.arange(len(both)), None if self.labels is None else self.labels.reshape(-1))

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
        return replace(self, log_probs=at_temperature(self.log_probs, temperature, self.problem_type))

    def needs_labels(self) -> Shaped[np.ndarray, "examples ..."]:
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
        if self.problem_type != other.problem_type:
            raise PredictionsError(
                f"the predictions of {self.model or 'A'} are of problem type {self.problem_type!r}, those of "
                f"{other.model or 'B'} of {other.problem_type!r}: they cannot be joined."
            )
        if self.classes != other.classes or (
            self.problem_type != REGRESSION  # one number, whatever it is called
            and self.label_names
            and other.label_names
            and not same_labels(self.label_names, other.label_names)
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
        """Itself, if the labels of the rows are those of `other`, whose rows are in the same order."""
        if self.labels is not None and other.labels is not None and not np.array_equal(self.labels, other.labels):
            row = int(np.argwhere(self.labels != other.labels)[0][0])
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

        tensors = {"log_probs": np.ascontiguousarray(self.log_probs), **dict([id_tensor(self.row_ids)])}
        if self.labels is not None:
            tensors["labels"] = np.ascontiguousarray(self.labels)
        write_file(Path(path), lambda partial: save_file(tensors, partial, metadata=self.metadata))

    @property
    def metadata(self) -> dict[str, str]:
        """What its file says of it; without a problem type, as older files are, it is classification."""
        about = {"format": FORMAT, "label_names": json.dumps(self.label_names), "data": self.data, "model": self.model}
        return about if self.problem_type == CLASSIFICATION else {**about, "problem_type": self.problem_type}

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
        about, tensors = mapped_tensors(path) if mapped else read_tensors(path)
        if about.get("format") != FORMAT:
            raise PredictionsError(
                f"{path}: a safetensors file, but not of predictions (format {about.get('format')!r})."
            )
        found = cls._from_tensors(path, about, tensors)
        with ThreadPoolExecutor(min(cores(), CHECKS_AT_ONCE), thread_name_prefix="check") as pool:
            list(pool.map(lambda start: found._check_rows(path, start), range(0, len(found), ROWS_AT_ONCE)))
        return found

    @classmethod
    def _from_tensors(
        cls, path: str | os.PathLike[str], about: Mapping[str, str], tensors: Mapping[str, np.ndarray]
    ) -> Predictions:
        with damage_named(path):
            of_type = _known(about.get("problem_type"))
            check_kinds(tensors, log_probs="f4", labels="f8" if of_type == REGRESSION else "i8")
            about_them = {"label_names": stored_names(about), "data": about["data"], "model": about["model"]}
            about_them["problem_type"] = of_type
            return cls._checked(tensors["log_probs"], tensors.get("labels"), stored_ids(tensors), about_them)

    def _check_rows(self, path: str | os.PathLike[str], start: int) -> None:
        """Whether some rows of a file are what its problem type says."""
        rows = np.asarray(self.log_probs[start : start + ROWS_AT_ONCE])
        if self.problem_type == CLASSIFICATION:
            check_probs(path, start, rows)
            return
        good = np.isfinite(rows) & ((rows <= POSITIVE) | (self.problem_type == REGRESSION))
        if not good.all():
            row, column = np.argwhere(~good)[0]
            raise PredictionsError(
                f"{path}: damaged predictions: row {start + row} holds {rows[row, column]:.4g}, which no answer of "
                f"problem type {self.problem_type!r} can be. Predict again."
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


def _known(problem_type: Any) -> ProblemType:
    if problem_type not in (None, *PROBLEM_TYPES):
        raise PredictionsError(f"problem type {problem_type!r}; expected one of {', '.join(PROBLEM_TYPES)}.")
    return problem_type or CLASSIFICATION
