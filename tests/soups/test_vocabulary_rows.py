"""Vocabularies that some padded or added tokens to: rows that all have are averaged, the rest is kept or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import Options, cook
from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.inspection import inspect_checkpoints
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.mixing import measure
from tests.makers.pile import make_pile
from tests.makers.tiny import VOCAB, tiny_bert, tiny_bert_mlm, tiny_gpt2, tiny_sentences, tiny_t5_classifier

TABLE = "bert.embeddings.word_embeddings.weight"
NEW = ["<e1>", "<e2>"]


def grow(folder: Path, rows: int, tokens: tuple[str, ...] = (), dtype: torch.dtype | None = None) -> Path:
    """Rows for more tokens, as resize_token_embeddings() adds them; with tokens, the tokenizer learns these."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    kind = AutoConfig.from_pretrained(folder).architectures[0]
    auto = AutoModelForSequenceClassification if "Classification" in kind else AutoModel
    model = auto.from_pretrained(folder)
    torch.manual_seed(rows)
    model.resize_token_embeddings(rows, mean_resizing=False)
    if tokens:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(tokens))
        tokenizer.save_pretrained(folder)
    (model if dtype is None else model.to(dtype)).save_pretrained(folder)
    return folder


def table(folder: Path, name: str = TABLE) -> np.ndarray:
    return load_file(folder / "model.safetensors")[name].float().numpy()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)


def loads_whole(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    model, about = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(about.values())
    return model


@pytest.mark.parametrize("first", [True, False])
def test_shared_rows_are_averaged_and_the_rest_kept(first: bool, pair: tuple[Path, Path], tmp_path: Path) -> None:
    short, long = pair[0], grow(pair[1], VOCAB + 7)
    sources = [str(folder) for folder in ((long, short) if first else (short, long))]
    result = cook(sources, out=tmp_path / "soup", tell=None)
    got, a, b = table(tmp_path / "soup"), table(short), table(long)
    assert got.shape == (VOCAB + 7, 32)
    assert np.allclose(got[:VOCAB], (a + b[:VOCAB]) / 2, atol=1e-7)
    assert np.array_equal(got[VOCAB:], b[VOCAB:])
    model = loads_whole(tmp_path / "soup")
    assert model.config.vocab_size == VOCAB + 7
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert record["vocabulary"] == {"rows": VOCAB + 7, "averaged": VOCAB, "rest_from": str(long), "of": [TABLE]}
    assert "processor" not in record
    assert any(f"{VOCAB} that all have are averaged" in warning for warning in result.warnings)


def test_the_option_refuses_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    grow(pair[1], VOCAB + 7)
    with pytest.raises(IncompatibleCheckpoints, match=r"Give all the same rows .*`extra_rows='keep'`"):
        cook(list(map(str, pair)), out=tmp_path / "soup", tell=None, extra_rows="refuse")
    assert not inspect_checkpoints(pair, extra_rows="refuse").mixable
    assert inspect_checkpoints(pair).mixable


def test_the_tokenizer_that_knows_more_is_taken(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    grow(pair[1], VOCAB + 2, tuple(NEW))
    result = cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    assert AutoTokenizer.from_pretrained(tmp_path / "soup")("<e2>")["input_ids"][1] == VOCAB + 1
    assert table(tmp_path / "soup").shape[0] == VOCAB + 2
    assert json.loads((tmp_path / "soup" / "soup.json").read_text())["processor"] == str(pair[1])
    assert any("2 tokens are only here: '<e1>', '<e2>'" in warning for warning in result.warnings)
    refused = preflight([Checkpoint(folder) for folder in pair], extra_rows="refuse")
    assert {f.topic for f in refused.errors} == {"processor", "tensors", "vocabulary"}


def test_a_start_is_grown_too_and_distances_are_of_all_rows(pair: tuple[Path, Path], tmp_path: Path) -> None:
    start = tiny_bert(tmp_path / "start", seed=3)
    grow(pair[1], VOCAB + 3)
    cook(
        list(map(str, pair)),
        ["task-vectors"],
        tmp_path / "soup",
        options=Options(start=str(start), scale=0.5),
        tell=None,
    )
    assert table(tmp_path / "soup").shape[0] == VOCAB + 3
    checkpoints = preflight([Checkpoint(folder) for folder in pair]).checkpoints
    apart = measure(checkpoints).apart[0, 1]
    whole = [c.read(TABLE) for c in checkpoints]
    assert whole[0].shape == whole[1].shape
    assert np.array_equal(whole[0][VOCAB:], whole[1][VOCAB:])
    assert np.isfinite(apart)


def test_a_start_without_the_rows_that_all_have_takes_the_firsts(pair: tuple[Path, Path], tmp_path: Path) -> None:
    start = tiny_bert(tmp_path / "start", seed=3)
    for folder in pair:
        grow(folder, VOCAB + 3)
    cook(list(map(str, pair)), ["model-stock"], tmp_path / "soup", options=Options(start=str(start)), tell=None)
    assert table(tmp_path / "soup").shape[0] == VOCAB + 3
    assert inspect_checkpoints(pair, start=start).start == str(start)


def test_two_that_added_other_tokens_in_one_place_are_refused(tmp_path: Path) -> None:
    three = [tiny_bert(tmp_path / name, seed=i) for i, name in enumerate(("a", "b", "c"))]
    grow(three[1], VOCAB + 1, ("<x>",))
    grow(three[2], VOCAB + 1, ("<y>",))
    found = preflight([Checkpoint(folder) for folder in three])
    assert [f.topic for f in found.errors] == ["processor"]
    assert "'<y>'" in found.errors[0].message


def test_of_several_that_added_tokens_the_largest_is_taken(tmp_path: Path) -> None:
    three = [tiny_bert(tmp_path / name, seed=i) for i, name in enumerate(("a", "b", "c"))]
    grow(three[0], VOCAB + 1, ("<x>",))
    grow(three[2], VOCAB + 2, ("<x>", "<y>"))
    found = preflight([Checkpoint(folder) for folder in three])
    assert found.errors == ()
    assert found.taken["processor"] == str(three[2])
    shapes = {c.read(TABLE).shape for c in found.checkpoints}
    assert shapes == {(VOCAB + 2, 32)}
    one, _, last = found.checkpoints
    assert np.array_equal(one.read(TABLE)[VOCAB], Checkpoint(three[0]).read(TABLE)[VOCAB])  # its own
    assert np.array_equal(one.read(TABLE)[VOCAB + 1], last.read(TABLE)[VOCAB + 1])


def test_another_dtype_and_shards_make_no_difference(pair: tuple[Path, Path], tmp_path: Path) -> None:
    grow(pair[1], VOCAB + 2, dtype=torch.bfloat16)
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None, max_shard_size="8KB")
    model = loads_whole(tmp_path / "soup")
    got = model.get_input_embeddings().weight.detach().numpy()
    assert np.allclose(got[VOCAB:], table(pair[1])[VOCAB:])


def test_tied_tables_and_the_bias_of_words_grow_together(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    pair = tiny_bert_mlm(tmp_path / "one", seed=1), tiny_bert_mlm(tmp_path / "two", seed=2)
    model = AutoModelForMaskedLM.from_pretrained(pair[1])
    model.resize_token_embeddings(VOCAB + 2, mean_resizing=False)
    model.save_pretrained(pair[1])
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    _, about = AutoModelForMaskedLM.from_pretrained(tmp_path / "soup", output_loading_info=True)
    assert not any(about.values())
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert "cls.predictions.bias" in record["vocabulary"]["of"]


def test_a_table_of_another_width_is_still_refused(pair: tuple[Path, Path]) -> None:
    weights = load_file(pair[1] / "model.safetensors")
    weights[TABLE] = torch.ones(VOCAB + 2, 31)
    save_file(weights, pair[1] / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((pair[1] / "config.json").read_text())
    (pair[1] / "config.json").write_text(json.dumps({**config, "vocab_size": VOCAB + 2}))
    assert [f.topic for f in preflight([Checkpoint(folder) for folder in pair]).errors] == ["tensors"]


def test_a_pad_token_that_one_added_is_the_soups(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    pair = tiny_gpt2(tmp_path / "one", seed=1), tiny_gpt2(tmp_path / "two", seed=2)
    tokenizer = AutoTokenizer.from_pretrained(pair[1])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(pair[1])
    model = AutoModelForSequenceClassification.from_pretrained(pair[1])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(pair[1])
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    assert loads_whole(tmp_path / "soup").config.pad_token_id == tokenizer.pad_token_id
    ask = pipeline("text-classification", str(tmp_path / "soup"))
    together = ask(["the cat", "a dog runs and sings"], batch_size=2)
    assert [one["score"] for one in together] == pytest.approx(
        [ask(text)[0]["score"] for text in ("the cat", "a dog runs and sings")], abs=1e-5
    )


def test_t5_classifiers_grow(tmp_path: Path) -> None:
    pair = tiny_t5_classifier(tmp_path / "one", seed=1), tiny_t5_classifier(tmp_path / "two", seed=2)
    rows = table(pair[0], "transformer.shared.weight").shape[0]
    grow(pair[0], rows + 4)
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    assert loads_whole(tmp_path / "soup").config.vocab_size == rows + 4


@pytest.mark.parametrize("grown", ["m0", "m1"])
@pytest.mark.parametrize("method", ["greedy", "learned"])
def test_methods_that_score_answer_with_all_rows(grown: str, method: str, tmp_path: Path) -> None:
    from transformers import pipeline

    pile = make_pile(tmp_path, models=2)
    grow(pile / grown, VOCAB + 2, tuple(NEW))
    (soup,) = cook(
        [str(pile / "m0"), str(pile / "m1")], [method], tmp_path / "soup", recipe=pile / "recipe.yaml", tell=None
    ).soups
    assert soup.score is not None
    assert table(tmp_path / "soup").shape[0] == VOCAB + 2
    answers = pipeline("text-classification", str(tmp_path / "soup"))([*tiny_sentences(3), "<e1> cat <e2>"])
    assert len(answers) == 4
