"""Texts as token ids: tokenised once, kept flat and memory-mapped, padded batch by batch."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64

from hf_soups.errors import DataError, InputError
from hf_soups.models.family import Augment, Batch
from hf_soups.models.row_cache import cache_key, cached_folder, damaged, read_rows

if TYPE_CHECKING:
    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

ROWS_AT_ONCE = 1000


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


def encode_texts(split: Split, tokenizer: Any, task: Task, data: Data, cache: Path | None) -> EncodedTexts:
    """Tokenise a split, or read what was tokenised before."""
    longest = min(data.max_length, tokenizer.model_max_length)
    special = tokenizer.num_special_tokens_to_add(pair=len(task.columns) == 2)
    if longest <= special:  # the tokenizer would quietly cut nothing, or leave no words
        raise InputError(
            f"data.max_length is {longest}, but the tokenizer adds {special} special tokens to each row. "
            f"Set it to {special + 1} at least."
        )
    key = cache_key(
        "text", split.fingerprint, len(split), task.kind, task.columns, longest, tokenizer_identity(tokenizer)
    )
    folder = cached_folder(cache, key, lambda into: _tokenise(split, tokenizer, task, longest, into))
    encoded = opened(folder, split.row_ids, tokenizer)
    if cache is None:
        weakref.finalize(encoded, shutil.rmtree, folder, ignore_errors=True)
    return encoded


def _tokenise(split: Split, tokenizer: Any, task: Task, longest: int, into: Path) -> None:
    all_told: dict[str, list[np.ndarray]] = {"input_ids": [], "token_type_ids": []}
    for start in range(0, len(split), ROWS_AT_ONCE):
        rows = split.rows[start : start + ROWS_AT_ONCE]
        columns = [rows[name] for name in task.columns]
        for name, texts in zip(task.columns, columns, strict=True):
            check_texts(texts, name, split, start)
        told = tokenizer(*columns, truncation=True, max_length=longest, return_attention_mask=False)
        for name, values in all_told.items():
            values += [np.asarray(ids, dtype=np.int32) for ids in told.get(name, ())]
    write_flat(into, all_told)


def flat_texts(row_ids: np.ndarray, told: Mapping[str, Sequence[Any]], tokenizer: Any) -> EncodedTexts:
    """What a tokenizer tells of a list of rows (`input_ids`, and `token_type_ids` where it has them), flat."""
    return _padded_by(tokenizer, row_ids, **_flat(told))


def write_flat(into: Path, told: Mapping[str, Sequence[Any]]) -> None:
    """Write what a tokenizer tells of all rows, flat."""
    for name, values in _flat(told).items():
        if values is not None:
            np.save(into / f"{name}.npy", values)


def opened(folder: Path, row_ids: np.ndarray, tokenizer: Any) -> EncodedTexts:
    """What `write_flat` wrote, memory-mapped.

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


def _flat(told: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    ids, types = told["input_ids"], told.get("token_type_ids")
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


def check_texts(texts: list[Any], column: str, split: Split, start: int) -> None:
    """Refuse what is no text, naming the row.

    Raises:
        DataError: as said.
    """
    for i, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise DataError(
                f"row {split.row_ids[i]} of {split.source}: column {column!r} holds {text!r:.60}, not text. "
                "Remove the row or fill in the text."
            )


def tokenizer_identity(tokenizer: Any) -> str:
    """A text that is equal for tokenizers that give equal ids."""
    about = [type(tokenizer).__name__, tokenizer.model_input_names, tokenizer.truncation_side]
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        # left behind by the last call, not part of the tokenizer
        state.pop("truncation", None)
        state.pop("padding", None)
        about.append(state)
    else:
        about += [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map]
    return cache_key(about)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))
