"""The table of families: a new kind of model is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hf_soups.errors import CheckpointError
from hf_soups.models.clip import Clip
from hf_soups.models.encoder import EncoderDecoders, Encoders
from hf_soups.models.family import Family
from hf_soups.models.label_words import LABEL_WORDS, LabelWords
from hf_soups.models.vision import Vision
from hf_soups.recipe.prompts import Wording

FAMILIES: tuple[Family, ...] = (*LABEL_WORDS, Encoders(), EncoderDecoders(), Clip(), Vision())


def family_for(config: Any, kind: str, at: object = "") -> Family:
    """The first family that takes tasks of this kind and models of this config (config.json or config object).

    Args:
        config: of the model.
        kind: of the task.
        at: how errors call the model.
    Raises:
        CheckpointError: if no family takes both.

    >>> family_for({"model_type": "bert"}, "text-pair").name
    'encoder'
    """
    about = _as_mapping(config)
    for family in FAMILIES:
        if kind in family.kinds and family.accepts(about):
            return family.bound(about)
    takes = ", ".join(f"{family.name} ({' / '.join(family.kinds)})" for family in FAMILIES)
    raise CheckpointError(
        f"{f'{at}: ' if at else ''}a model of type {about.get('model_type')!r:.80} cannot be fine-tuned on a task of "
        f"kind {kind!r} here. "
        f"Families: {takes}. Choose a BERT-like encoder or a T5 for texts, or a ViT, CNN or CLIP for images."
    )


def label_words_family(config: Any, wording: Callable[[bool], Wording]) -> LabelWords:
    """The family that answers with label words, for a base model that has none yet.

    Args:
        config: its config.json or config object.
        wording: gives prompt and words, given whether the model is a masked one.
    Raises:
        CheckpointError: if the model fills in no words.
    """
    about = _as_mapping(config)
    for family in LABEL_WORDS:
        if family.takes(about):
            return replace(family, wording=wording(family.masked))
    raise CheckpointError(
        f"head.init: label-words, but a model of type {about.get('model_type')!r} fills in no words. Choose a T5 or a "
        "masked language model such as BERT, or a head of its own (head.init: shared-random)."
    )


def _as_mapping(config: Any) -> Mapping[str, Any]:
    content: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    return content
