"""Cascades as transformers models: one for images, one for texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_soups.cascades.running.pretrained import CascadeModel, CascadeOutput
from hf_soups.cascades.running.readers import GivenPixels, Pair, Rows
from hf_soups.errors import InputError

__all__ = ["CascadeForImageClassification", "CascadeForSequenceClassification", "CascadeModel", "CascadeOutput"]


class CascadeForImageClassification(CascadeModel):  # type: ignore[no-untyped-call]
    """A cascade of image classifiers."""

    main_input_name = "pixel_values"
    input_modalities = "image"
    kinds = ("image",)

    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        *,
        images: Sequence[Any] | None = None,
    ) -> CascadeOutput:
        """The answers on a batch, with each row's exit stage, cost and confidence.

        Args:
            pixel_values: (rows, channels, height, width) where all members read images alike, else one such tensor
                for each member.
            images: instead: RGB images, which each member's own processor reads when its turn comes.
        Raises:
            InputError: if neither or both are given, or one tensor is given to members that read images differently.
        """
        if (pixel_values is None) == (images is None):
            raise InputError("give pixel_values or images, one of them.")
        if images is not None:
            return self.run(Rows(images, len(images)))
        assert pixel_values is not None
        return self.run(self._given(pixel_values))

    def _given(self, pixels: torch.Tensor | Sequence[torch.Tensor]) -> Rows:
        if isinstance(pixels, torch.Tensor):
            if not self.reads_once:
                raise InputError(
                    "one tensor of pixel_values, but the members' image processors differ. Give a list of one tensor "
                    f"for each of the {len(self.loaded)} members, or the images themselves (images=...)."
                )
            pixels = [pixels] * len(self.loaded)
        if len(pixels) != len(self.loaded):
            raise InputError(f"{len(pixels)} tensors of pixel_values for {len(self.loaded)} members.")
        count = len(pixels[0])
        at = np.arange(count)
        read = {number: (at, GivenPixels(p)) for number, p in zip(self.reader_numbers, pixels, strict=True)}
        return Rows((), count, read)  # type: ignore[arg-type]  # GivenPixels is Encoded


class CascadeForSequenceClassification(CascadeModel):  # type: ignore[no-untyped-call]
    """A cascade of text classifiers, on single texts or pairs; each member has its own tokenizer."""

    main_input_name = "texts"
    input_modalities = "text"
    kinds = ("text", "text-pair")

    def forward(
        self, texts: Sequence[str | Pair] | None = None, *, input_ids: torch.Tensor | None = None
    ) -> CascadeOutput:
        """The answers on a batch of raw texts, or of pairs (text, text): each member tokenises what reaches it.

        Raises:
            InputError: if token ids are given instead, or what is given are no texts.
        """
        if texts is None or isinstance(texts, str):
            got = "one text" if isinstance(texts, str) else "none" if input_ids is None else "token ids"
            raise InputError(
                "a cascade takes a list of raw texts (texts=[...]), because each member has its own tokenizer; "
                f"got {got}."
            )
        pairs = [(text, None) if isinstance(text, str) else (text[0], text[1]) for text in texts]
        return self.run(Rows(pairs, len(pairs)))
