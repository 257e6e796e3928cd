"""Member: one model of a prediction pool, where its weights lie and what an answer of it costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.costs.unit import UNITS, Cost
from hf_soups.errors import InputError

MEASURED = ("seconds", "seconds_batch_1")  # these carry the hardware; the other units are counted


@dataclass(frozen=True, slots=True)
class Member:
    """A model in a pool, at one input size and in one precision.

    Costs are of one example: counted ones are the same everywhere, seconds belong to `hardware`. What was not counted
    or measured is None. How well it answers is not kept here: that follows from its predictions.
    """

    name: str
    source: str  # a folder's absolute path, or a Hub repo
    revision: str | None = None
    subfolder: str | None = None
    image_size: int | None = None  # pixels; None: the checkpoint's own
    dtype: str = "float32"  # that the model answered in
    templates: tuple[str, ...] = ()  # of a zero-shot model's prompts
    sha256: str = ""  # of its weight files
    parameters: int | None = None
    macs: int | None = None  # multiply-adds
    bytes: int | None = None  # of its weights and of the most activations alive at once, at batch 1
    seconds: float | None = None  # at `best_batch`
    seconds_batch_1: float | None = None
    best_batch: int | None = None  # the batch size with the fewest seconds per example
    hardware: str = ""  # that the seconds were measured on
    file: str = ""  # of its predictions, inside the pool's folder
    files: str = ""  # digest of its config, tokenizer and processor, see `Checkpoint.files_digest`
    notes: tuple[str, ...] = ()  # what a reader of its predictions should know

    @property
    def checkpoint(self) -> Checkpoint:
        """Its weights."""
        return Checkpoint(self.source, revision=self.revision, subfolder=self.subfolder)

    def cost(self, unit: str) -> Cost:
        """What one example costs.

        Raises:
            InputError: if the unit is unknown, or was not measured for this member.

        >>> Member("small", "models/small", macs=5).cost("macs")
        Cost(value=5.0, unit='macs', hardware='')
        """
        if unit not in UNITS:
            raise InputError(f"{unit!r} is no unit of costs; expected one of {', '.join(UNITS)}.")
        value = getattr(self, unit)
        if value is None:
            told = "Predict again with --measure-seconds" if unit in MEASURED else "Predict again"
            raise InputError(f"{self.name}: its {UNITS[unit]} were not measured. {told}, or choose another cost.")
        return Cost(float(value), unit, self.hardware if unit in MEASURED else "")

    def to_json(self) -> dict[str, Any]:
        """What pool.json holds of it; the name is the key there."""
        told = {key: value for key, value in asdict(self).items() if value not in (None, "", ())}
        del told["name"]
        return told
