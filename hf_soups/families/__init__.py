"""The table of families: a new kind of model is one file and one row here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_soups.errors import CheckpointError
from hf_soups.families.encoder import Encoders
from hf_soups.families.family import Augment, Batch, Encoded, Family, Loaded
from hf_soups.families.vision import Vision

__all__ = ["FAMILIES", "Augment", "Batch", "Encoded", "Family", "Loaded", "family_for"]

FAMILIES: tuple[Family, ...] = (Encoders(), Vision())


def family_for(config: Any, kind: str) -> Family:
    """The first family that takes tasks of this kind and models of this config (config.json or config object).

    Raises:
        CheckpointError: if no family takes both.

    >>> family_for({"model_type": "bert"}, "text-pair").name
    'encoder'
    """
    about: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    for family in FAMILIES:
        if kind in family.kinds and family.accepts(about):
            return family
    takes = ", ".join(f"{family.name} ({' / '.join(family.kinds)})" for family in FAMILIES)
    raise CheckpointError(
        f"a model of type {about.get('model_type')!r} cannot be fine-tuned on a task of kind {kind!r} here. "
        f"Families: {takes}. Choose a BERT-like encoder for texts, or a ViT or CNN classifier for images."
    )
