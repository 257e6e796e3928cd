"""The model of a pool's entry: it answers labelled rows, with the data's classes in their order, and has a cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Self, cast

from hf_soups.errors import CheckpointError
from hf_soups.files.problem_types import CLASSIFICATION, REGRESSION, check_problem_type
from hf_soups.models.classifier import Classifier, PredictSettings, answering_family
from hf_soups.models.cost_counting import (
    BATCHES,
    count_bytes,
    count_macs,
    count_parameters,
    measure_seconds,
    median_row,
)
from hf_soups.models.inference import evaluating, on_device, predict_split
from hf_soups.models.onnx_model import shadow_of
from hf_soups.pool.entries import PoolEntry
from hf_soups.pool.label_order import LabelMatch, match_labels
from hf_soups.pool.rows import LabelledRows
from hf_soups.pool.store import Member
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    from hf_soups.data import Split
    from hf_soups.models.endpoint_requests import Spending
    from hf_soups.models.family import Batch, Encoded, Family
    from hf_soups.pool.shards import Progress

TEXTS = 1000  # whose median length counts


@dataclass(frozen=True, eq=False)
class MemberModel:
    """An entry's classifier, which answers labelled rows with the data's classes in their order, and what it costs."""

    entry: PoolEntry
    rows: LabelledRows
    settings: PredictSettings
    classifier: Classifier
    labels: LabelMatch

    @classmethod
    def load(cls, entry: PoolEntry, rows: LabelledRows, settings: PredictSettings) -> Self:
        """Load a model and match its labels with the data's.

        Raises:
            CheckpointError: if it cannot be loaded, or is of no kind that answers such rows.
            IncompatibleCheckpoints: if its labels cannot be matched.
        """
        checkpoint, kind, names = entry.checkpoint, rows.task.kind, rows.split.label_names
        of_type = rows.split.problem_type
        family = answering_family(checkpoint, kind, names, settings.templates)

        def matched(own: Sequence[str] | None, classes: int) -> LabelMatch:
            order = settings.assume_label_order
            return match_labels(own, names, classes=classes, who=str(checkpoint), assume_order=order)

        if family.name == "zero-shot" and of_type != CLASSIFICATION:
            raise CheckpointError(
                f"{checkpoint}: a zero-shot model answers one of several classes, not {of_type!r} rows."
            )
        if family.name != "zero-shot":
            check_problem_type(checkpoint.config, of_type, checkpoint)
        known = family.name == "zero-shot" or of_type == REGRESSION  # one number, whatever it is called
        own = names if known else checkpoint.label_names
        labels = None if own is None else matched(own, len(own))  # before the weights are read
        size = entry.image_size or rows.data.image_size
        classifier = Classifier.load(
            checkpoint, family, kind, dtype=settings.torch_dtype, image_size=size, device=settings.torch_device
        )
        labels = labels or matched(None, classifier.model.config.num_labels or 0)
        order = () if labels.is_identity else labels.order
        return cls(entry, rows, settings, replace(classifier, order=order), labels)

    def encode(self, split: Split) -> Encoded:
        """Rows as the model reads them."""
        data = self.rows.data.model_copy(update={"image_size": self.entry.image_size or self.rows.data.image_size})
        processor = self.classifier.processor
        return self.classifier.family.encode(split, processor, self.rows.task, data, self.settings.cache)

    def answer(self, start: int, stop: int, progress: Progress | None = None) -> Predictions:
        """Log-probabilities of rows `start` to `stop` of the split, in the data's order of classes."""
        part = part_of(self.rows.split, start, stop)
        aligned = cast("Family", SimpleNamespace(logits=lambda _, batch: self.classifier.logits(batch)))
        answers = predict_split(
            self.classifier.model, aligned, self.encode(part), part, batch_size=self.settings.batch_size,
            progress=progress, name=self.entry.name,
        )  # fmt: skip
        return replace(answers, data=self.rows.split.fingerprint)

    def with_counts(self, member: Member) -> Member:
        """The member with its parameters, and the multiply-adds and bytes of one row of median length."""
        model, batch, family = self.classifier.model, self._some(1), self.classifier.family

        def answer() -> object:
            return family.logits(model, batch)

        macs, size = count_macs(model, batch, answer), count_bytes(model, answer)
        return replace(member, parameters=count_parameters(model), macs=macs, bytes=size)

    def with_seconds(self, member: Member) -> Member:
        """The member with the seconds of the forward pass alone, on rows that are ready on the device."""
        batches = {size: self._some(size) for size in BATCHES}
        family, model = self.classifier.family, self.classifier.model
        with evaluating(model):
            took = measure_seconds(lambda size: family.logits(model, batches[size]), self.settings.torch_device)
        return replace(
            member, seconds=took.best, seconds_batch_1=took.batch_1, best_batch=took.best_batch, hardware=took.hardware
        )

    def begin(self, pool: Path, spending: Spending) -> None:
        """Before it answers into a pool's folder: nothing, but for a model whose answers are paid for."""

    def end(self, pool: Path) -> None:
        """Once the pool has all of its answers."""

    def _some(self, rows: int) -> Batch:
        """That many times the row of median length."""
        encoded = self._first_rows
        return on_device(encoded.batch([median_row(encoded)] * rows), self.settings.torch_device)

    @cached_property
    def _first_rows(self) -> Encoded:
        enough = 1 if self.rows.task.kind == "image" else TEXTS  # images are all of one size
        return self.encode(part_of(self.rows.split, 0, min(enough, len(self.rows.split))))


class OnnxMember(MemberModel):
    """A model that was exported to ONNX."""

    def with_counts(self, member: Member) -> Member:
        """Counted on a torch model of the same shape; the weights are those of its own files."""
        checkpoint, classifier = self.entry.checkpoint, self.classifier
        shadow = shadow_of(classifier.model, classifier.family.auto())
        counted = MemberModel.with_counts(replace(self, classifier=replace(classifier, model=shadow)), member)
        weights = sum(p.untyped_storage().nbytes() for p in (*shadow.parameters(), *shadow.buffers()))
        own = sum(path.stat().st_size for path in checkpoint.weight_files)
        return replace(counted, parameters=checkpoint.parameters, bytes=(counted.bytes or 0) - weights + own)


def part_of(split: Split, start: int, stop: int) -> Split:
    """Consecutive rows of a split, with a fingerprint made of its own."""
    return replace(
        split,
        rows=split.rows.select(range(start, stop)),
        row_ids=split.row_ids[start:stop],
        labels=split.labels[start:stop],
        fingerprint=f"{split.fingerprint}[{start}:{stop}]",
    )
