"""A loaded model that answers rows: an ordinary classifier here; a cascade answers alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.problem_types import CLASSIFICATION, ProblemType, problem_type_of
from hf_soups.models.answers import Answers
from hf_soups.models.clip import TEMPLATES, ZeroShot, check_templates
from hf_soups.models.family import Batch, Family
from hf_soups.models.inference import evaluating, on_device
from hf_soups.models.readers import ImageReader, RawRows, Reader, text_reader
from hf_soups.models.registry import family_for
from hf_soups.models.vision import for_image_size
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    from hf_soups.checkpoint import Checkpoint

DTYPES = ("float32", "bfloat16", "float16")


def check_dtype(dtype: str) -> None:
    """Refuse a precision that no model answers in."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}.")


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """How models answer."""

    batch_size: int = 64
    dtype: str = "float32"
    device: str | None = None  # default: the GPU where there is one
    templates: tuple[str, ...] = TEMPLATES  # of zero-shot models
    assume_label_order: bool = False
    cache: Path | None = None  # folder for encoded rows, which models with equal processors then share

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.batch_size < 1:
            raise InputError(f"a batch of {self.batch_size} rows is not possible; give at least 1.")
        check_templates(self.templates)

    @property
    def torch_device(self) -> torch.device:
        """Where models run."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the weights."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


class Answerer(Protocol):
    """A loaded model that answers raw rows: a classifier or a cascade."""

    @property
    def kind(self) -> str:
        """What a row is: image, text or text-pair."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the classes, in the order of the answers."""

    @property
    def unit(self) -> str:
        """Of costs; empty where there are none."""

    @property
    def problem_type(self) -> ProblemType:
        """What its answers are: of one class, of any number of labels, or numbers."""

    @property
    def abstains(self) -> bool:
        """Whether some rows may be for a human."""

    def answer(self, values: Sequence[Any]) -> Answers:
        """The answers to a batch of images, or of pairs (text, text or None)."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """One classifier ready to answer; members of a cascade at two input sizes may share `model`."""

    family: Family
    model: Any
    processor: Any  # as stored, not set to another input size
    reader: Reader
    kind: str
    order: tuple[int, ...] = ()  # its logits, in the order of the caller's classes; empty: all of them as they are
    resizes: bool = False  # its position embeddings are fitted to the images while it runs
    unit: str = ""
    abstains: bool = False

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        family: Family,
        kind: str,
        *,
        dtype: torch.dtype = torch.float32,
        attention: str | None = None,
        image_size: int | None = None,
        device: torch.device | None = None,
    ) -> Classifier:
        """Load the model and its processor.

        Args:
            checkpoint: with its own head, or a CLIP whose head `family` makes of texts.
            family: see `answering_family`.
            kind: of the rows.
            dtype: of the weights.
            attention: how it is computed; default: the model's own choice.
            image_size: pixels; fits the model to images of this size for good.
            device: default: the CPU.
        Raises:
            CheckpointError: if it cannot be loaded.
        """
        if checkpoint.is_onnx:
            model: Any = _onnx(checkpoint, dtype, image_size)
        else:
            model = family.load(checkpoint.folder, dtype=dtype, attention=attention)
        if image_size is not None and not checkpoint.is_onnx:
            model = for_image_size(model, image_size, str(checkpoint))
        if device is not None:
            model.to(device)
        processor = family.processor(checkpoint.processor_folder)
        reader = ImageReader(processor) if kind == "image" else text_reader(processor)
        return cls(family, model, processor, reader, kind)

    def cut_at(self, max_length: int | None) -> Classifier:
        """Texts longer than `max_length` tokens, or than the model can read, are cut; images are not."""
        if self.kind == "image":
            return self
        return replace(self, reader=text_reader(self.processor, max_length))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of its classes, in the order of its logits."""
        numbered: dict[Any, str] = dict(self.model.config.id2label or {})
        return tuple(str(numbered[i]) for i in range(len(numbered)))

    @property
    def problem_type(self) -> ProblemType:
        """As its config.json says; a zero-shot model answers one of the classes that it is asked about."""
        return CLASSIFICATION if self.family.name == "zero-shot" else problem_type_of(self.model.config.to_dict())

    def logits(self, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """Logits in float32, in the order of the caller's classes."""
        if self.resizes:
            logits: torch.Tensor = self.model(**batch, interpolate_pos_encoding=True).logits.float()
        else:
            logits = self.family.logits(self.model, batch)
        classes = self.model.config.num_labels
        if logits.shape[1] != classes:
            raise CheckpointError(
                f"the model gives {logits.shape[1]} logits a row, but its config.json names {classes} labels. Correct "
                "id2label there."
            )
        return logits[:, list(self.order)] if self.order else logits

    def answer(self, values: Sequence[Any]) -> Answers:
        """See `Answerer.answer`; every row exits at the only stage."""
        rows, device = RawRows(values, len(values)), next(self.model.parameters()).device
        logits = np.empty((len(values), len(self.label_names)), dtype=np.float32)
        with evaluating(self.model):
            for piece, batch in rows.pieces(0, self.reader.read, np.arange(len(values))):
                logits[piece] = self.logits(on_device(batch, device)).cpu().numpy()
        answered = Predictions.from_logits(logits, problem_type=self.problem_type)
        return Answers(answered.log_probs, np.zeros(len(values), dtype=np.int64), None)


def _onnx(checkpoint: Checkpoint, dtype: torch.dtype, image_size: int | None) -> Any:
    from hf_soups.models.onnx_model import load_onnx

    if dtype != torch.float32:
        raise CheckpointError(
            f"{checkpoint}: exported to ONNX, so it answers in the precision that it was exported in, not {dtype}. "
            "Export it again (--int8), or leave the dtype out."
        )
    model = load_onnx(checkpoint.folder)
    if image_size is not None and image_size != model.record.image_size:
        raise CheckpointError(
            f"{checkpoint}: exported for images of {model.record.image_size} pixels, not {image_size}. Export the "
            f"model at that size: hf-soups export MODEL@{image_size}."
        )
    return model


def answering_family(
    checkpoint: Checkpoint, kind: str, classes: Sequence[str] = (), templates: tuple[str, ...] = TEMPLATES
) -> Family:
    """The family that answers: a zero-shot one where the model is a CLIP with both towers.

    Args:
        checkpoint: of the model.
        kind: of the rows.
        classes: that a zero-shot model is asked about.
        templates: of its prompts.
    Raises:
        CheckpointError: if no family takes both.
    """
    zero_shot = ZeroShot(label_names=tuple(classes), templates=templates)
    takes = kind in zero_shot.kinds and zero_shot.accepts(checkpoint.config)
    return zero_shot if takes else family_for(checkpoint.config, kind, checkpoint)
