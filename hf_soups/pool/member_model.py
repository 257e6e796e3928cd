"""Opened: a member's model, loaded and asked about the data's classes in their order, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from hf_soups.errors import CheckpointError, InputError
from hf_soups.models.clip import TEMPLATES, ZeroShot
from hf_soups.models.cost_counting import (
    BATCHES,
    Seconds,
    count_bytes,
    count_macs,
    count_parameters,
    measure_seconds,
    median_row,
)
from hf_soups.models.family import Family
from hf_soups.models.inference import evaluating, on_device, predict_split
from hf_soups.models.registry import family_for
from hf_soups.models.vision import for_image_size
from hf_soups.pool.entries import PoolEntry
from hf_soups.pool.label_order import LabelMatch, match_labels
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.models.family import Batch, Encoded
    from hf_soups.models.inference import Progress
    from hf_soups.pool.data_rows import LabelledRows

TEXTS = 1000  # whose median length counts
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class How:
    """How members answer."""

    batch_size: int = 64
    dtype: str = "float32"
    device: str | None = None  # default: the GPU where there is one
    templates: tuple[str, ...] = TEMPLATES  # of zero-shot models
    assume_label_order: bool = False
    cache: Path | None = None  # folder for encoded rows, which members with equal processors then share

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}.")
        if self.batch_size < 1:
            raise InputError(f"a batch of {self.batch_size} rows is not possible; give at least 1.")

    @property
    def torch_device(self) -> torch.device:
        """Where models run."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True, eq=False)
class MemberModel:
    """A loaded model that answers rows with the data's classes."""

    asked: PoolEntry
    rows: LabelledRows
    how: How
    family: Family
    model: PreTrainedModel
    processor: Any
    labels: LabelMatch

    def encode(self, split: Split) -> Encoded:
        """Rows as the model reads them."""
        data = self.rows.data.model_copy(update={"image_size": self.asked.image_size or self.rows.data.image_size})
        return self.family.encode(split, self.processor, self.rows.task, data, self.how.cache)

    def answer(self, start: int, stop: int, progress: Progress | None = None) -> Predictions:
        """Log-probabilities of rows `start` to `stop` of the split, in the data's order of classes."""
        part = part_of(self.rows.split, start, stop)
        found = predict_split(
            self.model, cast(Family, _Aligned(self.family, self.labels)), self.encode(part), part,
            batch_size=self.how.batch_size, progress=progress, name=self.asked.name,
        )  # fmt: skip
        return replace(found, data=self.rows.split.fingerprint)

    def counted(self) -> tuple[int, int, int]:
        """Its parameters, and the multiply-adds and bytes of one row of median length among the first."""
        batch = self._some(1)

        def answer() -> object:
            return self.family.logits(self.model, batch)

        return count_parameters(self.model), count_macs(self.model, batch, answer), count_bytes(self.model, answer)

    def measured(self, limit: float = 60.0) -> Seconds:
        """Seconds of the forward pass alone, on rows that are ready on the device."""
        batches = {size: self._some(size) for size in BATCHES}
        with evaluating(self.model):
            return measure_seconds(
                lambda size: self.family.logits(self.model, batches[size]), self.how.torch_device, limit=limit
            )

    def _some(self, rows: int) -> Batch:
        """That many times the row of median length."""
        encoded = self._first_rows
        return on_device(encoded.batch([median_row(encoded)] * rows), self.how.torch_device)

    @cached_property
    def _first_rows(self) -> Encoded:
        enough = 1 if self.rows.task.kind == "image" else TEXTS  # images are all of one size
        return self.encode(part_of(self.rows.split, 0, min(enough, len(self.rows.split))))


def load_member(asked: PoolEntry, rows: LabelledRows, how: How) -> MemberModel:
    """Load a model and match its labels with the data's.

    Raises:
        CheckpointError: if it cannot be loaded, or is of no kind that answers such rows.
        IncompatibleCheckpoints: if its labels cannot be matched.
    """
    checkpoint, names = asked.checkpoint, rows.split.label_names
    family = answering_family(checkpoint.config, rows.task.kind, names, how.templates, checkpoint)
    named = checkpoint.label_names
    if named is not None and family.name != "zero-shot":  # before the weights are read
        labels = match_labels(
            named, names, classes=len(named), who=str(checkpoint), assume_order=how.assume_label_order
        )
    model = family.load(checkpoint.folder, dtype=getattr(torch, how.dtype))
    size = asked.image_size or rows.data.image_size
    if size is not None:
        model = for_image_size(model, size, str(checkpoint))
    if family.name == "zero-shot":
        labels = LabelMatch(tuple(range(len(names))), len(names))
    elif named is None:
        classes = model.config.num_labels or 0
        labels = match_labels(None, names, classes=classes, who=str(checkpoint), assume_order=how.assume_label_order)
    model.to(how.torch_device)  # type: ignore[arg-type]
    return MemberModel(asked, rows, how, family, model, family.processor(checkpoint.processor_folder), labels)


def answering_family(
    config: Any, kind: str, names: tuple[str, ...], templates: tuple[str, ...], at: object = ""
) -> Family:
    """The family that answers: a zero-shot one where the model is a CLIP with both towers."""
    zero_shot = ZeroShot(label_names=tuple(names), templates=templates)
    return zero_shot if kind in zero_shot.kinds and zero_shot.accepts(config) else family_for(config, kind, at)


def part_of(split: Split, start: int, stop: int) -> Split:
    """Consecutive rows of a split, with a fingerprint made of its own."""
    return replace(
        split,
        rows=split.rows.select(range(start, stop)),
        row_ids=split.row_ids[start:stop],
        labels=split.labels[start:stop],
        fingerprint=f"{split.fingerprint}[{start}:{stop}]",
    )


@dataclass(frozen=True, slots=True)
class _Aligned:
    """A family whose logits are those of the data's classes, in their order."""

    family: Family
    labels: LabelMatch

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        logits = self.family.logits(model, batch)
        if logits.shape[1] != self.labels.classes:
            raise CheckpointError(
                f"the model gives {logits.shape[1]} logits a row, but its config.json names {self.labels.classes} "
                "labels. Correct id2label there."
            )
        return logits if self.labels.is_identity else logits[:, list(self.labels.order)]
