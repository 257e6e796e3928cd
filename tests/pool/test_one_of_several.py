"""One model that cannot be loaded, asked or measured is named with the reason, and the others answer."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_soups.errors import CheckpointError, DataError, HfSoupsError
from hf_soups.models.loading import NotAnswered, one_of_several
from hf_soups.pool.predict import PoolResult, predict_pool
from tests.makers.tiny import tiny_bert, tiny_gpt2, tiny_sentences, tiny_vit


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    with (tmp_path / "data/test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((t, i % 2) for i, t in enumerate(tiny_sentences(6)))])
    return tmp_path / "data"


def edited(file: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        at = folder / file
        at.write_text(json.dumps({**json.loads(at.read_text()), **values}))

    return edit


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def asked(bad: Path, rows: Path, **how: Any) -> PoolResult:
    good = tiny_bert(rows.parent / "good")
    return predict_pool(
        [bad, good], names=["bad", "good"], out=rows.parent / "pool", data=str(rows), split="test", progress=False,
        assume_label_order=True, **how,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (edited("config.json", hidden_size="32"), "config.json: cannot be loaded .*hidden_size"),  # strict configs
        (edited("config.json", hidden_act="none"), "cannot be loaded .*none"),
        (edited("config.json", chunk_size_feed_forward=3), "it cannot read rows of shape"),
        (edited("config.json", return_dict=False), "it cannot read rows of shape"),
        (edited("tokenizer_config.json", model_max_length=2), "the tokenizer adds 2 special tokens to each row"),
        (edited("tokenizer_config.json", sep_token={"content": 5}), "tokenizer.json: cannot be loaded"),
        (without_tokenizer, "no tokenizer there; expected tokenizer.json or vocab.txt"),
    ],
    ids=["strict", "activation", "chunks", "tuples", "no room", "odd token", "no tokenizer"],
)
def test_it_is_named_with_the_reason_and_the_others_answer(spoil: Any, why: str, rows: Path) -> None:
    bad = tiny_bert(rows.parent / "bad")
    spoil(bad)
    result = asked(bad, rows)
    assert (result.answered, list(result.failed)) == (("good",), ["bad"])
    with pytest.raises(HfSoupsError, match=why):
        raise HfSoupsError(result.failed["bad"])


def test_a_decoder_without_any_padding_token_is_named(rows: Path) -> None:
    assert "its tokenizer has no padding token" in asked(tiny_gpt2(rows.parent / "bad"), rows).failed["bad"]


def test_what_a_model_raises_when_it_is_counted_does_not_end_the_call(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_soups.pool.job import MemberModel

    counts = MemberModel.with_counts

    def odd(self: Any, member: Any) -> Any:
        if self.entry.name == "bad":
            raise RuntimeError("an operator that nobody counts")
        return counts(self, member)

    monkeypatch.setattr(MemberModel, "with_counts", odd)
    result = asked(tiny_bert(rows.parent / "bad"), rows)
    assert result.failed == {"bad": "bad: it cannot be loaded or asked (an operator that nobody counts)."}
    assert list(result.pool.members) == ["good"]


def test_a_member_that_cannot_be_measured_keeps_its_answers(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_soups.pool.job import MemberModel

    bad, measured = tiny_bert(rows.parent / "bad"), MemberModel.with_seconds
    assert asked(bad, rows).failed == {}

    def odd(self: Any, member: Any) -> Any:
        if self.entry.name == "bad":
            raise RuntimeError("no clock")
        return measured(self, member)

    monkeypatch.setattr(MemberModel, "with_seconds", odd)
    result = asked(bad, rows, measure_seconds=True)
    assert result.failed == {"bad": "not measured: bad: it cannot be loaded or asked (no clock)."}
    assert result.pool.members["good"].seconds is not None
    assert list(result.pool.members) == ["bad", "good"]


def test_what_concerns_all_models_goes_through() -> None:
    for error in (DataError("row 3"), OSError(28, "No space left on device"), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error)), one_of_several("small"):
            raise error
    with (
        pytest.raises(NotAnswered, match=r"small: it cannot be loaded or asked .KeyError: 'x'"),
        one_of_several("small"),
    ):
        raise KeyError("x")
    with pytest.raises(NotAnswered, match=r"^no config.json there$"), one_of_several("small"):
        raise CheckpointError("no config.json there")


def test_a_broken_image_is_named_by_its_file(tmp_path: Path) -> None:
    for at in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / "images/test" / at).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "images/test" / at)
    broken = tmp_path / "images/test/b/1.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"row 3 of .* cannot be read \({broken}: cannot identify image file\)"):
        predict_pool(
            [tiny_vit(tmp_path / "vit", labels=2)], out=tmp_path / "pool", data=str(tmp_path / "images"), split="test",
            progress=False, assume_label_order=True,
        )  # fmt: skip
