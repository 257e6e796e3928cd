"""Readers: how a model reads raw rows, images or texts, one batch at a time and without a data set.

The arithmetic is that of whole splits (`models.pixels`, `models.tokens`): a model gets the same values here and there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from hf_soups.data.images import DECODERS, Picture
from hf_soups.errors import InputError
from hf_soups.models.family import Augment, Batch, Encoded
from hf_soups.models.loading import UNLIMITED
from hf_soups.models.pixels import EncodedImages, affine_of, moved, normalised, processed, stacked_images
from hf_soups.models.same_input import image_parts, kind_of
from hf_soups.models.tokens import (
    EncodedPrompts,
    EncodedTexts,
    PromptedTokenizer,
    flat_texts,
    rows_cut,
    tokenizer_identity,
)

Pair = tuple[str, str | None]  # a text, and the second one of a pair


@dataclass(frozen=True, eq=False)
class ImageReader:
    """One image processor: 8-bit pixels now, scaled and shifted batch by batch."""

    processor: Any

    @cached_property
    def identity(self) -> str:
        """Equal for processors that give equal pixels."""
        return json.dumps([kind_of(self.processor), image_parts(self.processor)], sort_keys=True)

    @cached_property
    def affine(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Scale and shift of 8-bit values; None where the processor does something else with values."""
        return affine_of(self.processor)

    def prepare(self) -> None:
        """Find out now what else the first batch would: processes started from here on need not."""
        _ = self.affine

    def read(self, images: Sequence[Any]) -> EncodedImages:
        """RGB images (PIL, or arrays of 8-bit values), and pictures not decoded yet, resized and cropped.

        Raises:
            DataError: if one is damaged.
            CheckpointError: if they come out at different sizes, which cannot be put in one batch.
        """
        threads = min(len(images), DECODERS) if any(isinstance(image, Picture) for image in images) else 1
        step = normalised if self.affine is None else moved
        pixels = processed(step, self.processor, images, threads=threads)
        scale, shift = (None, None) if self.affine is None else self.affine
        return EncodedImages(np.arange(len(images)), stacked_images(pixels), scale, shift)


@dataclass(frozen=True, eq=False)
class TextReader:
    """One tokenizer; rows are cut after `max_length` tokens, or at its own limit."""

    tokenizer: Any
    max_length: int | None = None

    @cached_property
    def identity(self) -> str:
        """Equal for tokenizers that give equal ids."""
        return f"{tokenizer_identity(self.tokenizer)} {self.tokenizer.padding_side} {self.max_length}"

    def prepare(self) -> None:
        """Nothing is worked out beforehand."""

    def read(self, texts: Sequence[Pair]) -> EncodedTexts:
        """Texts, or pairs of them, as token ids; not padded yet."""
        firsts, seconds = [text for text, _ in texts], [other for _, other in texts if other is not None]
        if seconds and len(seconds) != len(firsts):
            raise InputError("single texts and pairs stand in one batch. Give pairs only, or single texts only.")
        longest = min(self.max_length or self.tokenizer.model_max_length, self.tokenizer.model_max_length)
        columns = [firsts, seconds] if seconds else [firsts]
        cut = {"truncation": True, "max_length": longest} if longest < UNLIMITED else {}
        made = self.tokenizer(*columns, **cut, return_attention_mask=False)
        if rows_cut(made) and self.max_length != longest:  # Python says the same words once
            warnings.warn(f"texts longer than the {longest} tokens that the model reads are cut there", stacklevel=2)
        return flat_texts(np.arange(len(firsts)), made, self.tokenizer)


@dataclass(frozen=True, eq=False)
class PromptReader:
    """A tokenizer that puts texts into a prompt; of rows longer than `max_length` the texts are cut."""

    processor: PromptedTokenizer
    max_length: int | None = None

    @cached_property
    def identity(self) -> str:
        """Equal for processors that give equal batches."""
        return f"{self.processor.identity} {self.max_length}"

    def prepare(self) -> None:
        """Nothing is worked out beforehand."""

    def read(self, texts: Sequence[Pair]) -> EncodedPrompts:
        """Texts, or pairs of them, in the prompt as token ids; not padded yet."""
        return self.processor.read([[text for text in row if text is not None] for row in texts], self.max_length)


def text_reader(processor: Any, max_length: int | None = None) -> TextReader | PromptReader:
    """The reader that a family's text processor asks for."""
    if isinstance(processor, PromptedTokenizer):
        return PromptReader(processor, max_length)
    return TextReader(processor, max_length)


@dataclass(frozen=True, eq=False)
class GivenPixels:
    """Pixels that the caller made: (rows, channels, height, width)."""

    pixels: torch.Tensor

    @property
    def row_ids(self) -> Int64[np.ndarray, " rows"]:
        """The numbers of the rows."""
        return np.arange(len(self))

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """1 for each image: all cost the same."""
        return np.ones(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """The rows at `indices`; they are not changed by `augment`."""
        at = np.asarray(indices, dtype=np.int64)
        if np.array_equal(at, np.arange(len(self))):
            return {"pixel_values": self.pixels}
        return {"pixel_values": self.pixels[torch.from_numpy(at).to(self.pixels.device)]}


Reader = ImageReader | TextReader | PromptReader


@dataclass(eq=False)
class RawRows:
    """The rows of one batch as the members read them.

    A reader runs once, on the rows that first reach one of its members: later members of it meet some of these.
    """

    values: Sequence[Any]  # images or texts; may be empty where everything was read before
    count: int
    read: dict[int, tuple[Int64[np.ndarray, " rows"], Encoded]] = field(default_factory=dict)  # by number of the reader

    def pieces(
        self, number: int, reader: Callable[[Sequence[Any]], Encoded], at: Int64[np.ndarray, " rows"]
    ) -> Iterator[tuple[Int64[np.ndarray, " some"], Batch]]:
        """Batches of the rows `at`, each with its positions in `at`; rows of one batch are of like length."""
        if number not in self.read:
            self.read[number] = (at, reader([self.values[i] for i in at]))
        rows, encoded = self.read[number]
        own = np.searchsorted(rows, at)
        if len(own) == 1:  # at batch 1 always so: there is nothing to sort
            yield np.zeros(1, dtype=np.int64), encoded.batch(own)
            return
        for piece in like_lengths(np.asarray(encoded.lengths)[own]):
            yield piece, encoded.batch(own[piece])


def like_lengths(lengths: Int64[np.ndarray, " rows"]) -> list[Int64[np.ndarray, " piece"]]:
    """Positions in pieces whose lengths differ by less than a factor of two, the longest first.

    So less than half of what a model reads is padding, and there are few pieces: one for each doubling.

    >>> [piece.tolist() for piece in like_lengths(np.array([3, 40, 24, 5]))]
    [[1, 2], [3, 0]]
    """
    lengths = np.maximum(lengths, 1)
    order = np.argsort(-lengths, kind="stable")
    if not len(order):
        return []
    pieces, start, ordered = [], 0, lengths[order]
    if ordered[-1] * 2 > ordered[0]:
        return [np.arange(len(order))]  # one piece needs no order
    while start < len(order):
        stop = int(np.searchsorted(-ordered, -ordered[start] / 2))  # the first of half the length or less
        pieces.append(order[start:stop])
        start = stop
    return pieces


def numbered(readers: Sequence[Reader]) -> tuple[int, ...]:
    """The number of each member's reader: members with equal processors have the first one's.

    Processors are compared by what they do, so two copies of one file are one reader.
    """
    first: dict[str, int] = {}
    return tuple(first.setdefault(reader.identity, i) for i, reader in enumerate(readers))
