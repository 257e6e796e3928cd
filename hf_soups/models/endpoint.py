"""An endpoint in the place of a model: it reads the bytes that are sent, and gives the logarithms of its scores.

So it goes wherever a classifier goes: into a pool, and into a cascade beside models on this machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from hf_soups.data.images import Picture, cells, open_image
from hf_soups.errors import CheckpointError, DataError, DataWarning, EndpointFailed
from hf_soups.files.endpoint import Endpoint, read_endpoint
from hf_soups.files.label_names import index_by_label
from hf_soups.files.reading import read_bytes
from hf_soups.models.endpoint_requests import EndpointAnswer, LimitReached, Spending, ask
from hf_soups.models.family import Augment, Batch, Encoded, Family
from hf_soups.models.weightless import Weightless

if TYPE_CHECKING:
    from hf_soups.data import Split
    from hf_soups.models.classifier import Classifier
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

NAME = "endpoint"  # of the family
RESTS = 30.0  # seconds for which an endpoint that did not answer is not asked again: other rows need not wait for it
SUM = 0.02  # that the scores of a row may be away from 1: servers round
SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class SentRows:
    """Rows as an endpoint is sent them: JSON of texts, PNG of images, made when they are needed."""

    row_ids: np.ndarray
    made: Callable[[int], bytes]

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """1 for each: they are sent one by one."""
        return np.ones(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.row_ids)

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """The bytes of the rows at `indices`, padded, and how many of each are its own."""
        rows = [np.frombuffer(self.made(int(i)), dtype=np.uint8) for i in indices]
        sizes = np.array([len(row) for row in rows], dtype=np.int64)
        padded = np.zeros((len(rows), int(sizes.max(initial=0))), dtype=np.uint8)
        for own, row in zip(padded, rows, strict=True):
            own[: len(row)] = row
        return {"sent": torch.from_numpy(padded), "sizes": torch.from_numpy(sizes)}


@dataclass(frozen=True, eq=False)
class EndpointReader:
    """Turns raw rows into what is sent."""

    kind: str

    @property
    def identity(self) -> str:
        """Equal for endpoints of one kind of rows."""
        return f"{NAME} {self.kind}"

    def prepare(self) -> None:
        """Nothing is worked out beforehand."""

    def read(self, values: Sequence[Any]) -> SentRows:
        """Images, or pairs (text, text or None)."""
        return SentRows(np.arange(len(values)), lambda i: _sent(values[i], self.kind))

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """It has no files."""


def _sent(value: Any, kind: str) -> bytes:
    if kind == "image":
        return _encoded_image(value)
    first, second = value
    said = first if second is None else {"text": first, "text_pair": second}
    return json.dumps(said, ensure_ascii=False).encode()


def _encoded_image(value: Any) -> bytes:
    """A file of a large image as it is, a small one as PNG: the pixels stay."""
    if isinstance(value, Picture) and value.jpeg:
        return read_bytes(Path(value.source)) if isinstance(value.source, str | Path) else bytes(value.source)
    from PIL.Image import fromarray

    image = value.decoded(None) if isinstance(value, Picture) else value
    image, held = fromarray(image) if isinstance(image, np.ndarray) else image, io.BytesIO()
    image.save(held, "PNG", compress_level=1)
    return held.getvalue()


@dataclass(frozen=True)
class EndpointFamily(Family):
    """How rows of a split are sent; nothing is loaded."""

    name: str = NAME
    kinds: tuple[str, ...] = ("text", "text-pair", "image")

    def auto(self) -> Any:
        """None of transformers' classes."""
        raise CheckpointError("an endpoint has no weights here: it answers rows, and cannot be trained or mixed.")

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Any) -> Any:
        """None: the endpoint reads rows itself."""

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        columns = task.columns

        def made(i: int) -> bytes:
            row = split.row_ids[i]
            if task.kind == "image":
                (cell,) = cells(split.rows, columns[0], i, i + 1)
                return _encoded_image(open_image(cell, f"{row} of {split.source}", columns[0]))
            texts = [split.rows[i][name] for name in columns]
            if not all(isinstance(text, str) for text in texts):
                raise DataError(f"row {row} of {split.source}: {texts!r:.80} is not text. Remove the row.")
            return _sent((*texts, None)[:2], task.kind)

        return SentRows(np.asarray(split.row_ids), made)


class KeptAnswers:
    """Answers that were paid for, by what was sent: each a line of a file, so a kill loses those in flight alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._kept: dict[str, EndpointAnswer] = {}
        if path is not None and path.is_file():
            self._read(path)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __getitem__(self, key: str) -> EndpointAnswer:
        return self._kept[key]

    def keep(self, key: str, answer: EndpointAnswer) -> None:
        """Remember an answer."""
        with self._lock:
            self._kept[key] = answer
            if self._path is not None:
                line = json.dumps({"sent": key, "scores": answer.scores, "seconds": round(answer.seconds, 6)})
                self._append(f"{line}\n".encode())

    @property
    def seconds(self) -> float | None:
        """That an answer was waited for, of most rows at least."""
        took = [answer.seconds for answer in self._kept.values()]
        return statistics.median(took) if took else None

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        for line in data.splitlines():
            try:
                said = json.loads(line)
                self._kept[said["sent"]] = EndpointAnswer(dict(said["scores"]), float(said["seconds"]))
            except (ValueError, KeyError, TypeError):  # the last one, where a kill cut it off
                continue
        if data and not data.endswith(b"\n"):
            self._append(b"\n")

    def _append(self, line: bytes) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)


@dataclass
class _Rest:
    """An endpoint that did not answer is left alone for a while."""

    until: float = 0.0
    why: str = ""

    def check(self) -> None:
        if time.monotonic() < self.until:
            raise EndpointFailed(self.why)

    def begin(self, error: EndpointFailed) -> None:
        if not isinstance(error, LimitReached) and time.monotonic() >= self.until:
            self.until, self.why = time.monotonic() + RESTS, str(error)


class EndpointModel(Weightless):
    """Answers batches of `SentRows` by asking an endpoint, several rows at once; it has no weights.

    Attributes:
        config: with the names of the classes.
        endpoint: that is asked.
        lenient: rows that it does not answer are NaN, instead of an error.
        spending: what its answers cost so far.
    """

    def __init__(self, endpoint: Endpoint, label_names: Sequence[str], *, lenient: bool = False) -> None:
        super().__init__()
        from transformers import PreTrainedConfig

        self.endpoint, self.label_names, self.lenient = endpoint, tuple(label_names), lenient
        self.config = PreTrainedConfig(id2label=dict(enumerate(self.label_names)))
        self.kept, self.rows, self.spending, self._rest = KeptAnswers(), 0, Spending(), _Rest()

    def keep_answers(self, path: Path, rows: int, spending: Spending) -> None:
        """Keep every answer in a file, begin with those that are there, and count what the others cost."""
        self.kept, self.rows, self.spending = KeptAnswers(path), rows, spending

    def forward(self, *, sent: torch.Tensor | None = None, sizes: torch.Tensor | None = None, **_: Any) -> Any:
        """The logarithms of the scores, on the CPU.

        Raises:
            EndpointFailed: if the endpoint does not answer.
            CheckpointError: if it answers something else, or is given pixels or token ids.
        """
        if sent is None or sizes is None:
            raise CheckpointError(
                f"{self.endpoint.url}: an endpoint is sent texts and images, not token ids or pixels. Give the rows "
                "themselves (images=..., or texts=...)."
            )
        rows = [
            row[:size].tobytes() for row, size in zip(sent.cpu().numpy(), sizes.cpu().numpy().tolist(), strict=True)
        ]
        return SimpleNamespace(logits=torch.from_numpy(self._answers(rows)))

    def _answers(self, rows: Sequence[bytes]) -> Float32[np.ndarray, "rows classes"]:
        keys = [hashlib.sha256(row).hexdigest() for row in rows]
        kept = self.kept if self.rows else KeptAnswers()  # nothing is remembered where nothing is counted
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in kept}
        failed: set[str] = set()
        try:
            if new and not self.lenient and not len(kept):  # one row shows whether its labels fit
                first = next(iter(new))
                self._ask_all({first: new.pop(first)}, kept, failed)
                self._joined(kept[first])
            self._ask_all(new, kept, failed)
        except LimitReached as error:  # what was in flight has come meanwhile
            there = f"{len(kept):,} of {self.rows:,} rows are there, and kept"
            raise LimitReached(f"{error}; {there}. Raise --spend-limit to go on.") from None
        nothing = np.full(len(self.label_names), np.nan, dtype=np.float32)
        return np.stack([nothing if key in failed else self._joined(kept[key]) for key in keys])

    def _ask_all(self, rows: Mapping[str, bytes], kept: KeptAnswers, failed: set[str]) -> None:
        stop = threading.Event()

        def one(key: str, row: bytes) -> None:
            try:
                kept.keep(key, self._asked(row, stop))
            except EndpointFailed as error:
                self._rest.begin(error)
                if not self.lenient:
                    raise
                failed.add(key)
                warnings.warn(f"{error} Rows keep the answer of the members before it.", DataWarning, stacklevel=2)

        if len(rows) == 1:
            one(*next(iter(rows.items())))
            return
        with ThreadPoolExecutor(max(1, min(self.endpoint.concurrency, len(rows))), "hf_soups-ask") as pool:
            asked = [pool.submit(one, key, row) for key, row in rows.items()]
            try:
                for done in as_completed(asked):
                    done.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)  # what is in flight is paid, and kept
                raise

    def _asked(self, row: bytes, stop: threading.Event) -> EndpointAnswer:
        self._rest.check()
        value = row if self.endpoint.task == "image-classification" else json.loads(row)
        return ask(self.endpoint, value, len(self.label_names), self.spending, stop)

    def _joined(self, answer: EndpointAnswer) -> Float32[np.ndarray, " classes"]:
        """Scores by our names as log-probabilities in our order.

        Raises:
            CheckpointError: if its labels are others, or the scores no probabilities.
        """
        place, scores = index_by_label(self.label_names), np.full(len(self.label_names), np.nan)
        names = {label: self.endpoint.labels.get(label, label) for label in answer.scores}
        for label, score in answer.scores.items():
            at = place(names[label])
            if at is None or not np.isnan(scores[at]):
                raise self._other_labels(answer)
            scores[at] = score
        if np.isnan(scores).any():
            raise self._other_labels(answer)
        if abs(scores.sum() - 1) > SUM:
            raise CheckpointError(
                f"{self.endpoint.url}: the scores of a row sum to {scores.sum():.4g}; expected 1, the probabilities of "
                "one class of several. A model of any number of labels a row cannot be asked."
            )
        logs = np.log(np.maximum(scores, SMALLEST))
        return np.asarray(logs - np.log(scores.sum()), dtype=np.float32)

    def _other_labels(self, answer: EndpointAnswer) -> CheckpointError:
        came, wanted = sorted(answer.scores), self.label_names
        example = json.dumps({"labels": {came[0]: wanted[0]}})
        why = (
            " It leaves labels out: it does not heed top_k, or knows fewer."
            if len(came) < len(wanted)
            else f" If it calls them otherwise, say so in endpoint.json: {example}."
        )
        return CheckpointError(
            f"{self.endpoint.url}: it answers {len(came)} labels ({_some(came)}), but the rows have {len(wanted)} "
            f"({_some(wanted)}).{why}"
        )


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(repr(name[:60]) for name in names[:most]) + (", ..." if len(names) > most else "")


def endpoint_classifier(
    endpoint: Endpoint, label_names: Sequence[str], kind: str, *, lenient: bool = False
) -> Classifier:
    """An endpoint as a classifier of rows.

    Args:
        endpoint: that is asked.
        label_names: of the classes, in the order that is wanted.
        kind: of the rows.
        lenient: rows that it does not answer are NaN, instead of an error.
    Raises:
        CheckpointError: if it answers rows of another kind.
    """
    from hf_soups.models.classifier import Classifier

    if not endpoint.takes(kind):
        raise CheckpointError(f"{endpoint.url}: an endpoint for {endpoint.task}, but the rows are of kind {kind!r}.")
    reader: Any = EndpointReader(kind)
    return Classifier(EndpointFamily(), EndpointModel(endpoint, label_names, lenient=lenient), reader, reader, kind)


def endpoint_at(folder: Path, label_names: Sequence[str], kind: str) -> Classifier:
    """The endpoint that a folder names, as a classifier; see `endpoint_classifier`."""
    return endpoint_classifier(read_endpoint(folder), label_names, kind)
