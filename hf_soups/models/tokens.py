"""Texts as token ids: tokenised once, alone or in a prompt, kept flat and memory-mapped, padded batch by batch.

Of a row in a prompt that is too long the texts are cut, never the prompt around them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64

from hf_soups.errors import CheckpointError, DataError, DataWarning, InputError
from hf_soups.models.row_cache import cache_key, cached_rows, damaged, read_rows
from hf_soups.models.same_input import tokenizer_parts
from hf_soups.recipe.prompts import Wording

if TYPE_CHECKING:
    from hf_soups.data import Split
    from hf_soups.models.family import Augment, Batch
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

ROWS_AT_ONCE = 1000
NO_TOKEN = -100  # fills up the ids of short words


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Token ids of all rows behind one another; row i is values[offsets[i]:offsets[i + 1]]."""

    row_ids: np.ndarray
    values: np.ndarray
    offsets: Int64[np.ndarray, " rows_plus_one"]
    types: np.ndarray | None  # token types, where the tokenizer gives them
    pad: int
    pad_type: int
    pad_left: bool

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row, special ones included."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """Token ids (batch, longest) and their mask; `augment` is for images and is refused here."""
        if augment is not None:
            raise ValueError("texts are not augmented")
        at = np.asarray(indices, dtype=np.int64)
        if len(at) == 1:
            return self._alone(int(at[0]))
        starts, lengths = self.offsets[at], self.offsets[at + 1] - self.offsets[at]
        longest = int(lengths.max())
        position = np.arange(longest)
        if self.pad_left:
            position = position - (longest - lengths[:, None])
        else:
            position = np.broadcast_to(position, (len(at), longest))
        real = (position >= 0) & (position < lengths[:, None])
        places = np.where(real, starts[:, None] + position, starts[:, None])
        batch = {
            "input_ids": _tensor(np.where(real, self.values[places], self.pad)),
            "attention_mask": _tensor(real),
        }
        if self.types is not None:
            batch["token_type_ids"] = _tensor(np.where(real, self.types[places], self.pad_type))
        return batch

    def _alone(self, row: int) -> Batch:
        """One row: nothing is padded."""
        span = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        ids = _tensor(self.values[None, span])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return batch if self.types is None else {**batch, "token_type_ids": _tensor(self.types[None, span])}


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))


def encode_texts(split: Split, tokenizer: Any, task: Task, data: Data, cache: Path | None) -> EncodedTexts:
    """Tokenise a split, or read what was tokenised before."""
    longest = min(data.max_length, tokenizer.model_max_length)
    special = tokenizer.num_special_tokens_to_add(pair=len(task.columns) == 2)
    if longest <= special:  # the tokenizer would quietly cut nothing, or leave no words
        raise InputError(
            f"data.max_length is {longest}, but the tokenizer adds {special} special tokens to each row. "
            f"Set it to {special + 1} at least."
        )

    cut: list[int] = []  # rows that were, of each block

    def tokenised(columns: list[list[str]]) -> Mapping[str, Any]:
        made = tokenizer(*columns, truncation=True, max_length=longest, return_attention_mask=False)
        cut.append(rows_cut(made))
        return dict(made)

    key = cache_key(
        "text", split.fingerprint, len(split), task.kind, task.columns, longest, tokenizer_identity(tokenizer)
    )
    encoded = cached_rows(
        cache,
        key,
        lambda into: _write_flat(into, _of_all_rows(split, task, tokenised)),
        lambda folder: _read_flat(folder, split.row_ids, tokenizer),
    )
    if sum(cut) and longest < data.max_length:
        part = split.fingerprint.endswith("]")  # of a pool, which is answered part by part: said once, without a count
        rows = "some rows" if part else f"{sum(cut)} of {len(split)} rows"
        warnings.warn(
            f"{split.source}: {rows} are longer than the {longest} tokens that the model reads; they are cut there",
            DataWarning,
            stacklevel=2,
        )
    return encoded


def rows_cut(made: Any) -> int:
    """How many rows a call of a tokenizer cut; 0 where it does not say (those written in Python)."""
    return sum(bool(row.overflowing) for row in made.encodings or ())


def _of_all_rows(
    split: Split, task: Task, tokenised: Callable[[list[list[str]]], Mapping[str, Any]]
) -> dict[str, list[np.ndarray]]:
    """What a function gives for each row's texts, which come to it column by column, many rows at once."""
    made: dict[str, list[np.ndarray]] = {"input_ids": []}
    for start in range(0, len(split), ROWS_AT_ONCE):
        rows = split.rows[start : start + ROWS_AT_ONCE]
        columns = [rows[name] for name in task.columns]
        for name, texts in zip(task.columns, columns, strict=True):
            _check_texts(texts, name, split, start)
        for name, values in tokenised(columns).items():
            made.setdefault(name, []).extend(np.asarray(of_row, dtype=np.int32) for of_row in values)
    return made


def _check_texts(texts: list[Any], column: str, split: Split, start: int) -> None:
    for i, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise DataError(
                f"row {split.row_ids[i]} of {split.source}: column {column!r} holds {text!r:.60}, not text. "
                "Remove the row or fill in the text."
            )


def flat_texts(row_ids: np.ndarray, made: Mapping[str, Sequence[Any]], tokenizer: Any) -> EncodedTexts:
    """What a tokenizer makes of a list of rows (`input_ids`, and `token_type_ids` where it has them), flat."""
    return _padded_by(tokenizer, row_ids, **_flat(made))


def _flat(made: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    ids, types = made["input_ids"], made.get("token_type_ids")
    return {
        "values": np.concatenate([np.empty(0, np.int32), *ids]).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64),
        "types": np.concatenate(types).astype(np.uint8) if types else None,
    }


def _padded_by(tokenizer: Any, row_ids: np.ndarray, **flat: Any) -> EncodedTexts:
    left = tokenizer.padding_side == "left"
    return EncodedTexts(
        row_ids=row_ids, pad=tokenizer.pad_token_id, pad_type=tokenizer.pad_token_type_id, pad_left=left, **flat
    )


def _write_flat(into: Path, made: Mapping[str, Sequence[Any]]) -> None:
    for name, values in _flat(made).items():
        if values is not None:
            np.save(into / f"{name}.npy", values)


def _read_flat(folder: Path, row_ids: np.ndarray, tokenizer: Any) -> EncodedTexts:
    """What `_write_flat` wrote, memory-mapped.

    Raises:
        InputError: if a file is gone or damaged.
    """
    values, offsets = read_rows(folder / "values.npy", np.int32), read_rows(folder / "offsets.npy", np.int64)
    types = read_rows(folder / "types.npy", np.uint8) if os.path.lexists(folder / "types.npy") else None
    if offsets.shape != (len(row_ids) + 1,) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise damaged(folder / "offsets.npy", f"they are not the ends of {len(row_ids)} rows")
    last = max(tokenizer.get_vocab().values())
    if values.shape != (offsets[-1],) or (len(values) and not 0 <= values.min() <= values.max() <= last):
        raise damaged(folder / "values.npy", f"they are not {offsets[-1]} tokens")
    if types is not None and types.shape != values.shape:
        raise damaged(folder / "types.npy", f"they are not {offsets[-1]} types of tokens")
    return _padded_by(tokenizer, row_ids, values=values, offsets=np.array(offsets), types=types)


def tokenizer_identity(tokenizer: Any) -> str:
    """A text that is equal for tokenizers that give equal ids."""
    return cache_key(tokenizer_parts(tokenizer))


@dataclass(frozen=True, eq=False)
class EncodedPrompts(EncodedTexts):
    """Rows of token ids with the words that answer them."""

    words: Int64[np.ndarray, "labels tokens"]  # ids of each label's word; `NO_TOKEN` behind short ones
    marks: Int64[np.ndarray, " rows"] | None  # position of the mask in each row; None without masks

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """As `EncodedTexts.batch`, with `label_ids` (batch, labels, tokens) and where there are masks `mask_at`."""
        batch = super().batch(indices, augment=augment)
        rows, longest = batch["input_ids"].shape
        batch["label_ids"] = torch.from_numpy(np.tile(self.words, (rows, 1, 1)))
        if self.marks is not None:
            at = np.asarray(indices, dtype=np.int64)
            shift = longest - self.lengths[at] if self.pad_left else 0
            batch["mask_at"] = _tensor(self.marks[at] + shift)
        return batch


@dataclass(frozen=True, eq=False)
class PromptedTokenizer:
    """A tokenizer with the prompt that texts are put into and the labels' words as token ids."""

    tokenizer: Any
    wording: Wording
    word_ids: tuple[tuple[int, ...], ...]  # in the order of the labels

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the tokenizer; prompt and words are in the model's config.json."""
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
        longest = self._longest(data.max_length)

        def write(into: Path) -> None:
            made = _of_all_rows(split, task, lambda columns: self._tokenised(list(zip(*columns, strict=True)), longest))
            marks = np.asarray(made.pop("marks", []), dtype=np.int64)
            _write_flat(into, made)
            if self._mask:
                np.save(into / "marks.npy", marks)

        def read(folder: Path) -> EncodedPrompts:
            marks = folder / "marks.npy"
            texts = _read_flat(folder, split.row_ids, self.tokenizer)
            return self._with_words(texts, np.load(marks) if marks.exists() else None)

        key = cache_key("prompt", split.fingerprint, len(split), task.kind, task.columns, longest, self.reads)
        return cached_rows(cache, key, write, read)

    def read(self, texts: Sequence[Sequence[str]], longest: int | None = None) -> EncodedPrompts:
        """Rows of one text or two, cut to `longest` tokens; their row ids are their numbers."""
        for row in texts:
            self._check_count(len(row))
        made = self._tokenised(texts, self._longest(longest))
        flat = flat_texts(np.arange(len(texts)), made, self.tokenizer)
        return self._with_words(flat, np.asarray(made["marks"], dtype=np.int64) if self._mask else None)

    def _with_words(self, texts: EncodedTexts, marks: Int64[np.ndarray, " rows"] | None) -> EncodedPrompts:
        return EncodedPrompts(**vars(texts), words=self.words, marks=marks)

    def _longest(self, wanted: int | None) -> int:
        allowed: int = self.tokenizer.model_max_length
        return min(wanted or allowed, allowed)

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

    def _tokenised(self, rows: Sequence[Sequence[str]], longest: int) -> dict[str, list[Any]]:
        """Token ids (and types) of every row, and as `marks` the positions of the masks."""
        filled = [self.wording.filled(row, self._mask) for row in rows]
        made = self._called([text for text, _ in filled])
        ends = [end for _, end in filled]
        for i, ids in enumerate(made["input_ids"]):
            if len(ids) > longest:
                text, ends[i] = self._fitted(rows[i], longest)
                for name, (values,) in self._called([text]).items():
                    made[name][i] = values
        spans = made.pop("offset_mapping")
        made["marks"] = [self._mark(*row) for row in zip(made["input_ids"], spans, ends, strict=True)]
        return made

    def _called(self, texts: list[str], **how: Any) -> dict[str, list[Any]]:
        if not texts:
            return {"input_ids": [], "offset_mapping": []}
        # not verbose: it would warn of rows that are longer than the model takes, which are cut right after
        made: Mapping[str, Any] = self.tokenizer(
            texts, return_attention_mask=False, return_offsets_mapping=True, verbose=False, **how
        )
        return dict(made)

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
