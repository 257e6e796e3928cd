"""Padding changes no answer: rows of a batch are answered as each alone, on whichever side the tokenizer pads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer, XLNetConfig, XLNetForSequenceClassification, pipeline

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import DataWarning
from hf_soups.models.classifier import Classifier, answering_family
from hf_soups.models.encoder import Encoders, longest_row
from hf_soups.models.tokens import encode_texts
from hf_soups.recipe import Data
from tests.makers.tiny import tiny_bert, tiny_gpt2, tiny_roberta, tiny_tokenizer
from tests.models.conftest import split_of, task_of

TEXTS = ["ab", "a dog and a cat and a dog", "the cat saw", "the cat saw a dog run", "b", "the dog", "a b c d e f g h i"]


def with_left_padding(folder: Path, pad_token: str | None = None) -> Path:
    named = {} if pad_token is None else {"pad_token": pad_token}
    AutoTokenizer.from_pretrained(folder, padding_side="left", **named).save_pretrained(folder)
    return folder


def answers(folder: Path) -> tuple[np.ndarray, str]:
    """Probabilities of the texts in one batch, and the side on which they were padded."""
    checkpoint = Checkpoint(str(folder))
    classifier = Classifier.load(checkpoint, answering_family(checkpoint, "text"), "text")
    return np.exp(classifier.answer([(text, None) for text in TEXTS]).log_probs), classifier.processor.padding_side


def one_by_one(folder: Path) -> np.ndarray:
    """What the stock pipeline answers to each text alone."""
    stock = pipeline("text-classification", model=str(folder), top_k=None)
    return np.array([[s["score"] for s in sorted(stock([t])[0], key=lambda s: str(s["label"]))] for t in TEXTS])


@pytest.mark.parametrize("build", [tiny_bert, tiny_roberta, tiny_gpt2])
def test_a_batch_is_answered_as_each_row_alone_with_a_tokenizer_that_pads_left(
    build: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Positions were numbered from the left end of the batch: answers of GPT-2 moved by up to 0.118."""
    folder = build(tmp_path)
    with_left_padding(folder, "</s>" if build is tiny_gpt2 else None)
    if build is tiny_gpt2:
        config = json.loads((folder / "config.json").read_text())
        eos = AutoTokenizer.from_pretrained(folder).pad_token_id
        (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": eos}))
    found, side = answers(folder)
    assert side == "right"
    np.testing.assert_allclose(found, one_by_one(folder), atol=1e-5)


def test_a_padding_token_that_only_the_tokenizer_knows_is_given_to_the_model(tmp_path: Path) -> None:
    folder = with_left_padding(tiny_gpt2(tmp_path), "</s>")
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] is None
    np.testing.assert_allclose(answers(folder)[0], one_by_one(folder), atol=1e-5)


def test_a_model_without_numbered_positions_stays_as_its_tokenizer_pads(tmp_path: Path) -> None:
    """XLNet's head reads the last place, which must be a word."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=32, num_labels=2)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path)
    assert answers(with_left_padding(tmp_path))[1] == "left"


class TestLongRows:
    """A tokenizer that names no limit (-1, 1e30) is cut at the model's own; a batch of longer rows ended the job."""

    LONG = "the cat saw a dog " * 40

    @pytest.fixture(params=[-1, int(1e30)])
    def unlimited(self, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Path], Path]], Path]:
        def made(build: Callable[[Path], Path]) -> Path:
            at = build(tmp_path / build.__name__) / "tokenizer_config.json"
            at.write_text(json.dumps({**json.loads(at.read_text()), "model_max_length": request.param}))
            return at.parent

        return made

    @pytest.mark.parametrize("build", [tiny_bert, tiny_roberta])
    def test_they_are_cut_where_the_model_ends(self, build: Any, unlimited: Any) -> None:
        folder = unlimited(build)
        processor = Encoders().processor(folder)
        assert processor.model_max_length == longest_row(Encoders().load(folder))
        checkpoint = Checkpoint(str(folder))
        classifier = Classifier.load(checkpoint, answering_family(checkpoint, "text"), "text")
        with pytest.warns(UserWarning, match="texts longer than the 64 tokens that the model reads are cut there"):
            found = classifier.answer([(self.LONG, None)]).log_probs
        stock = pipeline("text-classification", model=str(folder), top_k=None)(
            [self.LONG], truncation=True, max_length=64
        )[0]
        np.testing.assert_allclose(
            np.exp(found[0]), [s["score"] for s in sorted(stock, key=lambda s: str(s["label"]))], atol=1e-5
        )

    def test_one_warning_counts_them(self, unlimited: Any, recwarn: pytest.WarningsRecorder) -> None:
        processor = Encoders().processor(unlimited(tiny_bert))
        split = split_of(datasets.Dataset.from_dict({"one": [self.LONG, "the cat", self.LONG]}), [0, 1, 2])
        encoded = encode_texts(split, processor, task_of("text"), Data(max_length=128), None)
        assert encoded.lengths.tolist()[::2] == [64, 64]
        encode_texts(split, processor, task_of("text"), Data(max_length=32), None)  # the recipe itself says where
        part = replace(split, fingerprint=f"{split.fingerprint}[0:3]")
        encode_texts(part, processor, task_of("text"), Data(max_length=128), None)  # of a pool's many: no count
        cut = "are longer than the 64 tokens that the model reads; they are cut there"
        said = [str(w.message) for w in recwarn if issubclass(w.category, DataWarning)]
        assert said == [f"made here: 2 of 3 rows {cut}", f"made here: some rows {cut}"]

    def test_a_model_without_a_limit_is_not_cut(self, tmp_path: Path) -> None:
        """XLNet's max_position_embeddings is -1: rows were refused as longer than -1 tokens."""
        tokenizer = tiny_tokenizer()
        tokenizer.save_pretrained(tmp_path)
        config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=32, num_labels=2)
        XLNetForSequenceClassification(config).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tmp_path, model_max_length=int(1e30)).save_pretrained(tmp_path)
        checkpoint = Checkpoint(str(tmp_path))
        classifier = Classifier.load(checkpoint, answering_family(checkpoint, "text"), "text")
        assert classifier.answer([(self.LONG, None)]).log_probs.shape == (1, 2)
