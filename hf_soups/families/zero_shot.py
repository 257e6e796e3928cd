"""Zero-shot CLIP as an answerer: the classes are texts, and an image belongs to the text nearest to it.

It is made into an ordinary image classifier (`clip_model`) as soon as the classes are known: the text tower works once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from hf_soups.errors import CheckpointError
from hf_soups.families.class_texts import TEMPLATES
from hf_soups.families.clip import Clip, has_both_towers
from hf_soups.families.family import HowLoaded, InRepo, Loaded, in_repo
from hf_soups.families.loading import place, quiet
from hf_soups.families.text_head import text_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ZeroShot(Clip):
    """A CLIP or SigLIP with both towers, asked about these classes."""

    name: str = "zero-shot"
    label_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = TEMPLATES

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Both towers; one that was fine-tuned with a head is an image classifier like others."""
        return has_both_towers(config)

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """The image tower with the classes' texts as its head; in eval mode.

        The texts are read in float32 whatever `dtype` is, so that a saved classifier loaded in it is the same.

        Raises:
            CheckpointError: if it cannot be loaded, or there is no text tower or no tokenizer.
            InputError: if the templates do not fit.
        """
        head = text_head(source, self.label_names, self.templates, **in_repo(how))
        dtype = how.pop("dtype", torch.float32)
        loaded = Clip().load_with_new_head(source, label_names=self.label_names, **how)
        head.put_into(loaded.model)
        loaded.model.to(dtype)  # type: ignore[arg-type]
        return loaded.model

    def load_with_new_head(self, source: str | Path, **_: Any) -> Loaded:
        """Not for this family: its head is text."""
        raise CheckpointError(
            f"{place(source)}: asked zero-shot, a CLIP has no head to fine-tune. Start with head.init: zero-shot."
        )


def write_zero_shot(
    source: str | Path,
    label_names: Sequence[str],
    templates: Sequence[str],
    out: Path,
    **at: Unpack[InRepo],
) -> None:
    """Write a zero-shot classifier as an ordinary checkpoint with its image processor, in float32, into `out`.

    Raises:
        CheckpointError: if the source is no CLIP or SigLIP with both towers and a tokenizer.
        InputError: if the templates do not fit.
    """
    family = ZeroShot(label_names=tuple(label_names), templates=tuple(templates))
    with quiet():
        family.load(source, **at).save_pretrained(out)
        family.processor(source, **at).save_pretrained(out)
