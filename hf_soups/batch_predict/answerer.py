"""One classifier or cascade, known from its config, as something that takes raw rows and gives log-probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from hf_soups.cascades.running.members import ImageReader, RawRows, Reader, text_reader
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.models.encoder import longest_row
from hf_soups.models.family import Family
from hf_soups.models.inference import evaluating, on_device
from hf_soups.pool.entries import asked_models
from hf_soups.pool.member_model import How, answering_family
from hf_soups.predictions import Predictions

CASCADE = "cascade"  # model_type in config.json


def one_model(model: str | Path) -> Checkpoint:
    """The checkpoint that the user names.

    Raises:
        InputError: if it is a whole sweep, or a model at another input size.
    """
    asked = asked_models([model])
    if len(asked) > 1 or asked[0].image_size is not None:
        raise InputError(f"{model}: rows are answered by one model or cascade as it is; name its folder or Hub repo.")
    return asked[0].checkpoint


def unit_of(checkpoint: Checkpoint) -> str:
    """Of a cascade's costs."""
    return str(checkpoint.config.get("plan", {}).get("unit", "")) if is_cascade(checkpoint) else ""


def is_cascade(checkpoint: Checkpoint) -> bool:
    """Whether a folder or Hub repo holds a cascade rather than one classifier."""
    return checkpoint.config.get("model_type") == CASCADE


def weights_of(checkpoint: Checkpoint) -> str:
    """What tells whether the model is still the same: weights, config and processor, of a cascade those of its members.

    Members in other repos are named by their commit, which the config holds.
    """
    found = hashlib.sha256(checkpoint.files_digest().encode())
    if not is_cascade(checkpoint):
        found.update(checkpoint.sha256().encode())
        return found.hexdigest()
    for subfolder in sorted({m["subfolder"] for m in _members(checkpoint) if m.get("subfolder") and not m.get("repo")}):
        member = Checkpoint(checkpoint.source, checkpoint.revision, subfolder)
        found.update(f"{subfolder} {member.sha256()} {member.files_digest()}".encode())
    return found.hexdigest()


def _members(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    told = checkpoint.config.get("members")
    return [m for m in told if isinstance(m, dict)] if isinstance(told, list) else []


def names_a_cascade(models: Sequence[str | Path]) -> bool:
    """Whether the only model that the user names is a cascade, which answers rows rather than joins a pool.

    Raises:
        InputError: if a cascade stands among other models.
    """
    cascades = [m for m in models if _is_folder_of_cascade(m) or (len(models) == 1 and _is_cascade_anywhere(m))]
    if cascades and len(models) > 1:
        raise InputError(f"{cascades[0]} is a cascade, which answers rows by itself: name it alone.")
    return bool(cascades)


def _is_folder_of_cascade(model: str | Path) -> bool:
    path = Path(model).expanduser() / "config.json"
    return path.is_file() and is_cascade(Checkpoint(path.parent))


def _is_cascade_anywhere(model: str | Path) -> bool:
    asked = asked_models([model])
    return len(asked) == 1 and is_cascade(asked[0].checkpoint)


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered on some rows, and what each of them took."""

    log_probs: Float32[np.ndarray, "rows classes"]
    exits: Int64[np.ndarray, " rows"]  # the stage that answered; 0 is the first member
    costs: Float64[np.ndarray, " rows"] | None  # in the answerer's unit


class Answerer(Protocol):
    """A classifier or a cascade, loaded."""

    @property
    def kind(self) -> str:
        """What a row is: image, text or text-pair."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the classes, in order."""

    @property
    def unit(self) -> str:
        """Of costs; empty where there are none."""

    def answer(self, values: Sequence[Any]) -> Answers:
        """The answers to a batch of images, or of pairs (text, text or None)."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """One ordinary classifier; every row leaves at its only stage."""

    family: Family
    model: Any
    reader: Reader
    label_names: tuple[str, ...]
    kind: str
    device: torch.device
    unit: str = ""

    @classmethod
    def load(cls, checkpoint: Checkpoint, kind: str, how: How, classes: Sequence[str], max_length: int) -> Classifier:
        """Load it; `classes` are those that a zero-shot model is asked about."""
        family = answering_family(checkpoint.config, kind, tuple(classes), how.templates, checkpoint)
        if family.name == "zero-shot" and not classes:
            raise InputError(f"{checkpoint}: a zero-shot model needs the names of the classes (--label-names).")
        model = family.load(checkpoint.folder, dtype=getattr(torch, how.dtype))
        model.to(how.torch_device)  # type: ignore[arg-type]
        processor = family.processor(checkpoint.processor_folder)
        longest = min(max_length, longest_row(model) or max_length)
        reader = ImageReader(processor) if kind == "image" else text_reader(processor, longest)
        numbered: dict[Any, str] = dict(model.config.id2label or {})
        names = classes if family.name == "zero-shot" else [str(numbered[i]) for i in range(len(numbered))]
        return cls(family, model, reader, tuple(names), kind, how.torch_device)

    def answer(self, values: Sequence[Any]) -> Answers:
        """See `Answerer.answer`."""
        rows = RawRows(values, len(values))
        logits = np.empty((len(values), len(self.label_names)), dtype=np.float32)
        with evaluating(self.model):
            for piece, batch in rows.pieces(0, self.reader.read, np.arange(len(values))):
                logits[piece] = self.family.logits(self.model, on_device(batch, self.device)).cpu().numpy()
        log_probs = Predictions.from_logits(logits).log_probs
        return Answers(log_probs, np.zeros(len(values), dtype=np.int64), None)


@dataclass(frozen=True, eq=False)
class Cascade:
    """A cascade's model; rows leave where its plan says."""

    model: Any
    label_names: tuple[str, ...]
    kind: str
    unit: str

    @classmethod
    def load(cls, checkpoint: Checkpoint, how: How, budget: float | None) -> Cascade:
        """Load all its members; each answers in the precision that its predictions were made in."""
        from hf_soups.cascades.running.model import CascadeForImageClassification, CascadeForSequenceClassification

        image = checkpoint.config.get("kind") == "image"
        auto = CascadeForImageClassification if image else CascadeForSequenceClassification
        hub = {} if checkpoint.revision is None else {"revision": checkpoint.revision}
        model: Any = auto.from_pretrained(checkpoint.source, **hub)  # type: ignore[arg-type]
        model.to(how.torch_device)
        model.budget = budget
        return cls(model, model.config.label_names, model.config.kind, model.plan.unit)

    def answer(self, values: Sequence[Any]) -> Answers:
        """See `Answerer.answer`."""
        done = self.model.run(RawRows(values, len(values)))
        return Answers(done.logits.numpy(), done.exits.numpy(), done.costs.numpy())


def load_answerer(
    checkpoint: Checkpoint,
    how: How,
    *,
    kind: str,
    classes: Sequence[str] = (),
    max_length: int = 128,
    budget: float | None = None,
) -> Answerer:
    """What answers rows of a kind.

    Args:
        checkpoint: a classifier's or a cascade's.
        how: device, precision, templates.
        kind: of the rows; a cascade must be of it.
        classes: of a zero-shot model.
        max_length: tokens of a text, for a single classifier.
        budget: of a cascade, see `CascadeModel.budget`.
    Raises:
        CheckpointError, MemberError: if it cannot be loaded.
        InputError: if it does not take such rows.
    """
    if not is_cascade(checkpoint):
        if budget is not None:
            raise InputError(f"{checkpoint}: a budget is for cascades; this is a single classifier.")
        return Classifier.load(checkpoint, kind, how, classes, max_length)
    of = str(checkpoint.config.get("kind"))
    if of != kind:
        raise InputError(f"{checkpoint}: a cascade of kind {of!r}, but the rows are of kind {kind!r}.")
    return Cascade.load(checkpoint, how, budget)
