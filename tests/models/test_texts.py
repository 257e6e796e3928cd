"""Texts: ids kept flat on disk come back as the tokenizer's own padded batches."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.errors import CheckpointError, DataError, InputError
from hf_soups.models.encoder import Encoders
from hf_soups.models.tokens import EncodedTexts, encode_texts, tokenizer_identity
from hf_soups.recipe import Data
from tests.makers.tiny import tiny_bert, tiny_gpt2, tiny_roberta, tiny_sentences, tiny_tokenizer
from tests.models.conftest import rows_of, split_of, task_of


@functools.cache
def encoded(tokenizer: str, kind: str, max_length: int = 128) -> EncodedTexts:
    return encode_texts(
        split_of(rows_of(kind, 30)), tiny_tokenizer(tokenizer), task_of(kind), Data(max_length=max_length), None
    )


@settings(deadline=None, max_examples=40)
@given(
    tokenizer=st.sampled_from(["bert", "distilbert", "roberta"]),
    kind=st.sampled_from(["text", "text-pair"]),
    indices=st.lists(st.integers(0, 29), min_size=1, max_size=9),
    max_length=st.sampled_from([5, 12, 128]),
)
def test_a_batch_is_what_the_tokenizer_pads(tokenizer: str, kind: str, indices: list[int], max_length: int) -> None:
    rows = rows_of(kind, 30)[indices]
    wanted = tiny_tokenizer(tokenizer)(
        *[rows[name] for name in task_of(kind).columns],
        truncation=True,
        max_length=min(max_length, 64),
        padding=True,
        return_tensors="pt",
    )
    got = encoded(tokenizer, kind, max_length).batch(indices)
    assert set(got) == set(wanted)
    for name, values in got.items():
        assert torch.equal(values, wanted[name]), name


def test_padding_on_the_left_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer("bert")
    monkeypatch.setattr(tokenizer, "padding_side", "left")
    rows = rows_of("text", 30)
    got = encode_texts(split_of(rows), tokenizer, task_of("text"), Data(), None).batch([3, 1, 4])
    wanted = tokenizer(rows[[3, 1, 4]]["one"], padding=True, return_tensors="pt")
    assert {name: values.tolist() for name, values in got.items()} == {k: v.tolist() for k, v in wanted.items()}


def test_no_row_is_longer_than_max_length() -> None:
    assert encoded("bert", "text-pair", 9).lengths.max() == 9


def test_rows_are_read_from_the_disk() -> None:
    assert isinstance(encoded("bert", "text").values, np.memmap)


def test_a_temporary_cache_goes_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = encode_texts(split_of(rows_of("text")), tiny_tokenizer(), task_of("text"), Data(), None)
    assert len(list(tmp_path.iterdir())) == 1
    del rows
    assert list(tmp_path.iterdir()) == []


def test_using_a_tokenizer_does_not_change_its_identity() -> None:
    tokenizer = tiny_tokenizer("bert")
    before = tokenizer_identity(tokenizer)
    tokenizer(["the cat"], truncation=True, max_length=7, padding=True)
    assert tokenizer_identity(tokenizer) == before
    assert tokenizer_identity(tiny_tokenizer("roberta")) != before


@pytest.mark.parametrize("changed", ["max_length", "columns", "tokenizer", "rows"])
def test_what_changes_the_ids_changes_the_cache(changed: str, tmp_path: Path) -> None:
    pair = split_of(rows_of("text-pair"))
    plain: dict[str, Any] = {"split": pair, "tokenizer": tiny_tokenizer(), "task": task_of("text"), "data": Data()}
    other = {
        "max_length": {"data": Data(max_length=6)},
        "columns": {"task": task_of("text-pair")},
        "tokenizer": {"tokenizer": tiny_tokenizer("roberta")},
        "rows": {"split": split_of(rows_of("text-pair", seed=5))},
    }[changed]
    for arguments in (plain, plain, {**plain, **other}):
        encode_texts(**arguments, cache=tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_a_missing_text_names_its_row() -> None:
    rows = datasets.Dataset.from_dict({"one": ["the cat", None, "a dog"]})
    with pytest.raises(DataError, match=r"row 8 of made here: column 'one' holds None, not text. Remove the row"):
        encode_texts(split_of(rows, [7, 8, 9]), tiny_tokenizer(), task_of("text"), Data(), None)


def test_a_max_length_without_room_for_words_is_refused() -> None:
    with pytest.raises(InputError, match=r"max_length is 3, but the tokenizer adds 3 special tokens .* Set it to 4"):
        encoded("bert", "text-pair", 3)


def test_a_decoder_without_padding_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no padding token.*GPT-2.*use an encoder \(BERT"):
        Encoders().processor(tiny_gpt2(tmp_path))


@pytest.mark.parametrize("build", [tiny_bert, tiny_roberta])
def test_more_tokens_than_positions_are_refused(build: Any, tmp_path: Path) -> None:
    model = Encoders().load(build(tmp_path))
    fits = {"input_ids": torch.full((1, 64), 5)}
    assert Encoders().logits(model, fits).shape == (1, 2)
    with pytest.raises(InputError, match=r"a row has 65 tokens, but .* takes 64. Set data.max_length: 64"):
        Encoders().logits(model, {"input_ids": torch.full((1, 65), 5)})


def test_an_image_size_is_refused_for_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.image_size is for images"):
        Encoders().load_with_new_head(tiny_bert(tmp_path), label_names=("a", "b"), image_size=64)


def test_thousands_of_rows_cross_the_blocks() -> None:
    texts = tiny_sentences(2500, longest=3)
    rows = split_of(datasets.Dataset.from_dict({"one": texts}))
    got = encode_texts(rows, tiny_tokenizer(), task_of("text"), Data(), None)
    for i in (0, 999, 1000, 2499):
        assert got.batch([i])["input_ids"][0].tolist() == tiny_tokenizer()(texts[i])["input_ids"]
