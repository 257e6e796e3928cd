"""Texts in prompts as token ids: what does not fit is cut from the texts, never from the prompt around them."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64

from hf_soups.errors import CheckpointError
from hf_soups.models.family import Augment, Batch
from hf_soups.models.row_cache import cache_key, cached_folder
from hf_soups.models.tokens import (
    ROWS_AT_ONCE,
    EncodedTexts,
    check_texts,
    flat_texts,
    opened,
    tokenizer_identity,
    write_flat,
)
from hf_soups.recipe.prompts import Wording

if TYPE_CHECKING:
    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

NO_TOKEN = -100  # fills up the ids of short words


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Rows of token ids with the words that answer them."""

    texts: EncodedTexts
    words: Int64[np.ndarray, "labels tokens"]  # ids of each label's word; `NO_TOKEN` behind short ones
    marks: Int64[np.ndarray, " rows"] | None  # where the mask stands in each row; None without masks

    @property
    def row_ids(self) -> np.ndarray:
        """Of the split, in its order."""
        return self.texts.row_ids

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row."""
        return self.texts.lengths

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """As `EncodedTexts.batch`, with `label_ids` (batch, labels, tokens) and where there are masks `mask_at`."""
        batch = self.texts.batch(indices, augment=augment)
        rows, longest = batch["input_ids"].shape
        batch["label_ids"] = torch.from_numpy(np.tile(self.words, (rows, 1, 1)))
        if self.marks is not None:
            at = np.asarray(indices, dtype=np.int64)
            shift = longest - self.lengths[at] if self.texts.pad_left else 0
            batch["mask_at"] = torch.from_numpy(np.asarray(self.marks[at] + shift, dtype=np.int64))
        return batch


@dataclass(frozen=True, eq=False)
class PromptedTokenizer:
    """A tokenizer with the prompt that texts are put into and the labels' words as token ids."""

    tokenizer: Any
    wording: Wording
    word_ids: tuple[tuple[int, ...], ...]  # in the order of the labels

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the tokenizer; prompt and words stand in the model's config.json."""
        self.tokenizer.save_pretrained(folder)

    @cached_property
    def reads(self) -> str:
        """Equal for those that give equal token ids."""
        return cache_key(tokenizer_identity(self.tokenizer), self.wording.prompt)

    @property
    def identity(self) -> str:
        """Equal for those that give equal batches."""
        return f"{self.reads} {self.word_ids} {self.tokenizer.padding_side}"

    @property
    def words(self) -> Int64[np.ndarray, "labels tokens"]:
        """The words' ids as one array."""
        table = np.full((len(self.word_ids), max(map(len, self.word_ids))), NO_TOKEN, dtype=np.int64)
        for row, ids in zip(table, self.word_ids, strict=True):
            row[: len(ids)] = ids
        return table

    def encode(self, split: Split, task: Task, data: Data, cache: Path | None) -> EncodedPrompts:
        """Tokenise a split, or read what was tokenised before."""
        self._check_count(len(task.columns))
        longest = min(data.max_length, self.tokenizer.model_max_length)
        key = cache_key("prompt", split.fingerprint, len(split), task.kind, task.columns, longest, self.reads)
        folder = cached_folder(cache, key, lambda into: self._write(split, task, longest, into))
        marks = folder / "marks.npy"
        encoded = EncodedPrompts(
            opened(folder, split.row_ids, self.tokenizer), self.words, np.load(marks) if marks.exists() else None
        )
        if cache is None:
            weakref.finalize(encoded, shutil.rmtree, folder, ignore_errors=True)
        return encoded

    def read(self, texts: Sequence[Sequence[str]], longest: int | None = None) -> EncodedPrompts:
        """Rows of one text or two, cut to `longest` tokens; their row ids are their numbers."""
        for row in texts:
            self._check_count(len(row))
        told, marks = self._tokenised(
            texts, min(longest or self.tokenizer.model_max_length, self.tokenizer.model_max_length)
        )
        flat = flat_texts(np.arange(len(texts)), told, self.tokenizer)
        return EncodedPrompts(flat, self.words, np.asarray(marks, dtype=np.int64) if self._mask else None)

    def _write(self, split: Split, task: Task, longest: int, into: Path) -> None:
        all_told: dict[str, list[Any]] = {}
        all_marks: list[int] = []
        for start in range(0, len(split), ROWS_AT_ONCE):
            rows = split.rows[start : start + ROWS_AT_ONCE]
            columns = [rows[name] for name in task.columns]
            for name, texts in zip(task.columns, columns, strict=True):
                check_texts(texts, name, split, start)
            told, marks = self._tokenised(list(zip(*columns, strict=True)), longest)
            for name, values in told.items():
                all_told.setdefault(name, []).extend(values)
            all_marks += marks
        write_flat(into, all_told)
        if self._mask:
            np.save(into / "marks.npy", np.asarray(all_marks, dtype=np.int64))

    @property
    def _mask(self) -> str:
        """The mask's text where the prompt has one, else empty."""
        return str(self.tokenizer.mask_token) if "{mask}" in self.wording.prompt else ""

    def _check_count(self, texts: int) -> None:
        if texts != self.wording.texts:
            takes = {1: "one text", 2: "a pair of texts"}
            raise CheckpointError(
                f"a row is {takes[texts]}, but the model's prompt {self.wording.prompt!r} takes "
                f"{takes[self.wording.texts]}. Give rows of its task, or another model."
            )

    def _tokenised(self, rows: Sequence[Sequence[str]], longest: int) -> tuple[dict[str, list[list[int]]], list[int]]:
        """Token ids (and types) of every row, and where the masks stand."""
        filled = [self.wording.filled(row, self._mask) for row in rows]
        told = self._called([text for text, _ in filled])
        ends = [end for _, end in filled]
        for i, ids in enumerate(told["input_ids"]):
            if len(ids) > longest:
                text, ends[i] = self._fitted(rows[i], longest)
                for name, (values,) in self._called([text]).items():
                    told[name][i] = values
        spans = told.pop("offset_mapping")
        marks = [self._mark(ids, span, end) for ids, span, end in zip(told["input_ids"], spans, ends, strict=True)]
        return told, marks

    def _called(self, texts: list[str], **how: Any) -> dict[str, list[Any]]:
        if not texts:
            return {"input_ids": [], "offset_mapping": []}
        # not verbose: it would warn of rows that are longer than the model takes, which are cut right after
        told: Mapping[str, Any] = self.tokenizer(
            texts, return_attention_mask=False, return_offsets_mapping=True, verbose=False, **how
        )
        return dict(told)

    def _mark(self, ids: list[int], spans: list[tuple[int, int]], end: int) -> int:
        """The prompt's own mask: a text may hold the mask's characters too."""
        if not self._mask:
            return 0
        mask = self.tokenizer.mask_token_id
        return next(
            i for i, (token, span) in enumerate(zip(ids, spans, strict=True)) if (token, span[1]) == (mask, end)
        )

    def _fitted(self, row: Sequence[str], longest: int) -> tuple[str, int]:
        """The prompt with texts cut, the longest of them first, until all is `longest` tokens."""
        texts = list(row)
        while True:
            text, end = self.wording.filled(texts, self._mask)
            surplus = len(self._called([text])["input_ids"][0]) - longest
            if surplus <= 0:
                return text, end
            if not any(texts):
                raise CheckpointError(
                    f"the prompt {self.wording.prompt!r} alone takes {longest + surplus} tokens, but rows are cut to "
                    f"{longest}. Set data.max_length to {longest + surplus + 1} at least."
                )
            texts = self._cut(texts, surplus)

    def _cut(self, texts: list[str], surplus: int) -> list[str]:
        spans = self._called(texts, add_special_tokens=False)["offset_mapping"]
        keep = [len(of_text) for of_text in spans]
        for _ in range(min(surplus, sum(keep))):
            keep[max(range(len(keep)), key=lambda i: (keep[i], i))] -= 1
        return [
            text if kept == len(of_text) else _shorter(text, of_text[kept - 1][1] if kept else 0)
            for text, of_text, kept in zip(texts, spans, keep, strict=True)
        ]


def _shorter(text: str, characters: int) -> str:
    """Less of a text; where tokens without characters were cut, one character less."""
    return text[: min(characters, len(text) - 1)]


def word_ids_of(tokenizer: Any, words: Sequence[str], *, masked: bool, who: str) -> tuple[tuple[int, ...], ...]:
    """Token ids of the labels' words: with the end of the sequence for text to text, one token for a mask.

    Raises:
        CheckpointError: if the tokenizer is unfit for prompts, or a word is none of its own, is several tokens for one
            mask, or is another's equal.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"{who}: its tokenizer cannot say which characters a token stands for, so prompts cannot be cut to "
            "length. Save the checkpoint with a fast tokenizer (tokenizer.json)."
        )
    end = tokenizer.mask_token_id if masked else tokenizer.eos_token_id
    if end is None:
        raise CheckpointError(f"{who}: its tokenizer has no {'mask' if masked else 'end-of-sequence'} token.")
    # as inside a sentence: byte-level and SentencePiece tokenizers write a word after a space in another way
    found = [tokenizer(f" {word}" if masked else word, add_special_tokens=not masked)["input_ids"] for word in words]
    ids = [tuple(map(int, tokens if masked or tokens[-1:] == [end] else [*tokens, end])) for tokens in found]
    _check_ids(tokenizer, words, ids, masked, who)
    return tuple(ids)


def _check_ids(tokenizer: Any, words: Sequence[str], ids: Sequence[tuple[int, ...]], masked: bool, who: str) -> None:
    for i, (word, tokens) in enumerate(zip(words, ids, strict=True)):
        pieces = tokenizer.convert_ids_to_tokens(list(tokens))
        if masked and len(tokens) != 1:
            raise CheckpointError(
                f"head.words: {word!r} is {len(tokens)} tokens of {who} ({', '.join(pieces)}), but one mask stands "
                "for one token. Choose a word that its vocabulary holds whole."
            )
        if tokenizer.unk_token_id in tokens:
            raise CheckpointError(
                f"head.words: {word!r} holds characters that the tokenizer of {who} does not know. Choose another word."
            )
        if tokens in ids[:i]:
            raise CheckpointError(
                f"head.words: {words[ids.index(tokens)]!r} and {word!r} are the same tokens for {who} "
                f"({', '.join(pieces)}), so their labels could not be told apart. Choose other words."
            )
