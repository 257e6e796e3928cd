"""Label words: the scores are the language model's own, prompts are never cut, and what cannot work is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.errors import CheckpointError, InputError, RecipeError
from hf_soups.models.cost_counting import count_macs
from hf_soups.models.encoder import EncoderDecoders
from hf_soups.models.label_words import LabelWords, MaskedWords, TextToText, WordClassifier
from hf_soups.models.loading import config_of
from hf_soups.models.registry import family_for, label_words_family
from hf_soups.models.tokens import PromptedTokenizer, word_ids_of
from hf_soups.recipe import Data, recipe_from
from hf_soups.recipe.prompts import MASKED_PROMPTS, T5_PROMPTS, Wording, wording_for, wording_of
from hf_soups.recipe.task import NAMED
from tests.makers.tiny import (
    WORDS,
    tiny_bert,
    tiny_bert_mlm,
    tiny_gpt2,
    tiny_roberta,
    tiny_roberta_mlm,
    tiny_t5,
    tiny_t5_classifier,
    tiny_t5_v1_1,
    tiny_tokenizer,
)
from tests.models.conftest import NAMES, TEXT_KINDS, Case, rows_of, split_of, task_of, worded

Folder = Callable[[Callable[..., Path]], Path]
LONG_WORDS = ("bad", "bad film", "good", "great house zz")  # of one to five tokens; one begins another


def batch_of(family: LabelWords, folder: Path, kind: str, **data: Any) -> dict[str, torch.Tensor]:
    encoded = family.encode(split_of(rows_of(kind)), family.processor(folder), task_of(kind), Data(**data))
    return encoded.batch(np.arange(len(encoded)))


# --- scores


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [tiny_t5, tiny_t5_v1_1])
@torch.no_grad()
def test_a_words_score_is_what_the_decoder_gives_it_alone(
    build: Callable[..., Path], attention: str, checkpoint: Folder
) -> None:
    family = worded("text-pair", masked=False, words=LONG_WORDS)
    model = family.load_with_new_head(checkpoint(build), label_names=NAMES, attention=attention).model
    batch = batch_of(family, checkpoint(build), "text-pair")
    alone = []
    for word in LONG_WORDS:
        ids = torch.tensor([tiny_tokenizer("t5")(word).input_ids] * 12)
        told = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=ids).logits
        alone.append(told.log_softmax(-1).gather(-1, ids[..., None])[..., 0].sum(dim=1))
    np.testing.assert_allclose(family.logits(model, batch), torch.stack(alone, dim=1), atol=1e-4)


@pytest.mark.parametrize("build", [tiny_bert_mlm, tiny_roberta_mlm])
@torch.no_grad()
def test_a_masked_words_score_is_its_log_probability_at_the_mask(
    build: Callable[..., Path], checkpoint: Folder
) -> None:
    family = worded("text-pair", masked=True)
    model = family.load_with_new_head(checkpoint(build), label_names=NAMES).model
    batch = batch_of(family, checkpoint(build), "text-pair")
    whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    mask = family.processor(checkpoint(build)).tokenizer.mask_token_id
    at = (batch["input_ids"] == mask).int().argmax(dim=1)
    words = whole[torch.arange(12), at].log_softmax(-1)
    ids = [word[0] for word in family.processor(checkpoint(build)).word_ids]
    np.testing.assert_allclose(family.logits(model, batch), words[:, ids], atol=1e-5)
    # outside of `logits` the model is as it was: words at every token
    again = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.equal(again, whole)


def test_multiply_adds_count_the_encoder_once_and_the_decoder_by_word(checkpoint: Folder) -> None:
    width, inner, vocabulary, layers = 32, 64, len(tiny_tokenizer("t5")), 2
    family = worded("text", masked=False, words=LONG_WORDS)
    model = family.load_with_new_head(checkpoint(tiny_t5), label_names=NAMES).model
    batch = {name: value[:1] for name, value in batch_of(family, checkpoint(tiny_t5), "text").items()}
    n, q = batch["input_ids"].shape[1], batch["label_ids"][0].numel()
    encoder = layers * (4 * n * width**2 + 2 * n**2 * width + 2 * n * width * inner)
    own, across = 4 * q * width**2 + 2 * q**2 * width, 2 * (q + n) * width**2 + 2 * q * n * width
    decoder = layers * (own + across + 2 * q * width * inner)
    counted = count_macs(model, batch, lambda: family.logits(model, batch))
    assert counted == encoder + decoder + q * width * vocabulary


# --- on disk


def test_a_saved_model_is_an_ordinary_checkpoint_that_answers_the_same(
    with_words: Case, checkpoint: Folder, tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

    family: Any = with_words.family
    model = family.load_with_new_head(checkpoint(with_words.build), label_names=NAMES).model
    model.save_pretrained(tmp_path)
    family.processor(checkpoint(with_words.build)).save_pretrained(tmp_path)
    found = family_for(config_of(tmp_path), with_words.kind)
    split, task = with_words.split(), with_words.task
    with torch.no_grad():
        before = family.logits(model, batch_of(family, checkpoint(with_words.build), with_words.kind))
        rows = found.encode(split, found.processor(tmp_path), task, Data())
        after = found.logits(found.load(tmp_path), rows.batch(np.arange(len(rows))))
    assert torch.equal(before, after)
    stock = AutoModelForMaskedLM if family.masked else AutoModelForSeq2SeqLM
    config = stock.from_pretrained(tmp_path).config
    assert (config.label_words, config.prompt) == (list(family.wording.words), family.wording.prompt)
    assert config.id2label == dict(enumerate(NAMES))
    assert AutoTokenizer.from_pretrained(tmp_path)("a cat").input_ids


def test_ties_are_written_once(checkpoint: Folder, tmp_path: Path) -> None:
    from safetensors import safe_open

    tied = {"tiny_t5": {"shared.weight"}, "tiny_t5_v1_1": {"shared.weight", "lm_head.weight"}}
    for build in (tiny_t5, tiny_t5_v1_1):
        worded("text", masked=False).load(checkpoint(build)).save_pretrained(tmp_path / build.__name__)
        with safe_open(tmp_path / build.__name__ / "model.safetensors", "pt") as file:
            stored = file.keys()
        words = {name for name in stored if name.startswith(("shared", "lm_head")) or "embed_tokens" in name}
        assert words == tied[build.__name__]


def test_a_classifier_made_of_a_label_word_model_forgets_its_words(checkpoint: Folder, tmp_path: Path) -> None:
    started = worded("text", masked=False).load_with_new_head(checkpoint(tiny_t5), label_names=NAMES).model
    started.save_pretrained(tmp_path / "words")
    made = EncoderDecoders().load_with_new_head(tmp_path / "words", label_names=NAMES).model
    made.save_pretrained(tmp_path / "head")
    about = json.loads((tmp_path / "head" / "config.json").read_text())
    assert not {"label_words", "prompt"} & set(about)
    assert family_for(about, "text") == EncoderDecoders()


@pytest.mark.parametrize("words", [None, "good", ["good", 3]])
def test_a_broken_config_is_told(words: Any) -> None:
    with pytest.raises(CheckpointError, match=r"Expected a list of words in the order of the labels"):
        wording_of({"label_words": words, "prompt": "it is {text}"})


# --- prompts


TEXTS = st.lists(st.sampled_from([*WORDS, "zyx", "Qu'en"]), min_size=0, max_size=40).map(" ".join)


@pytest.mark.parametrize("masked", [False, True])
@given(one=TEXTS, two=TEXTS, longest=st.integers(18, 60))
@settings(max_examples=25)
def test_long_texts_are_cut_and_the_prompt_never(masked: bool, one: str, two: str, longest: int) -> None:
    tokenizer = tiny_tokenizer("bert" if masked else "t5")
    wording = Wording(
        "big: {text} ? {mask} , {text_pair} . end" if masked else "big: {text} two: {text_pair} end", WORDS_2
    )
    processor = PromptedTokenizer(tokenizer, wording, word_ids_of(tokenizer, WORDS_2, masked=masked, who="it"))
    encoded = processor.read([(one, two)], longest)
    assert encoded.lengths[0] <= longest
    batch = encoded.batch([0])
    ids = batch["input_ids"][0].tolist()
    assert ids[-1] == (tokenizer.sep_token_id if masked else tokenizer.eos_token_id)
    told = tokenizer.decode(ids, skip_special_tokens=not masked)
    assert told.removeprefix("[CLS] ").startswith("big")
    assert "end" in told.removesuffix(" [SEP]").replace(" ", "")[-3:]
    if masked:
        assert ids[int(batch["mask_at"][0])] == tokenizer.mask_token_id
    whole = processor.read([(one, two)], None if masked else 10**6).lengths[0]
    if whole > longest:
        assert encoded.lengths[0] >= longest - 6, "more was cut than had to be: a word of letters at most"


WORDS_2 = ("bad", "good")


def test_the_longest_text_is_cut_first() -> None:
    tokenizer = tiny_tokenizer("t5")
    processor = PromptedTokenizer(tokenizer, Wording("{text} two: {text_pair}", WORDS_2), ((1,), (2,)))
    short, long = "the cat", " ".join(["house"] * 40)
    told = tokenizer.decode(processor.read([(short, long)], 30).batch([0])["input_ids"][0], skip_special_tokens=True)
    assert told.startswith("the cat two: house house")
    told = tokenizer.decode(processor.read([(long, short)], 30).batch([0])["input_ids"][0], skip_special_tokens=True)
    assert told.endswith("two: the cat")


def test_a_text_that_holds_a_mask_does_not_move_the_prompts_own() -> None:
    tokenizer = tiny_tokenizer("bert")
    processor = PromptedTokenizer(tokenizer, Wording("{text} it was {mask} .", WORDS_2), ((1,), (2,)))
    batch = processor.read([("a [MASK] cat",), ("the dog sleeps",)]).batch([1, 0])
    assert batch["mask_at"].tolist() == [6, 6]
    assert (batch["input_ids"][[0, 1], batch["mask_at"]] == tokenizer.mask_token_id).all()


def test_padding_on_the_left_moves_the_mask() -> None:
    tokenizer = tiny_tokenizer("bert").__class__(
        vocab=tiny_tokenizer("bert").get_vocab(), model_max_length=64, padding_side="left"
    )
    processor = PromptedTokenizer(tokenizer, Wording("{text} it was {mask} .", WORDS_2), ((1,), (2,)))
    batch = processor.read([("a cat",), ("the old dog sleeps here",)]).batch([0, 1])
    assert (batch["input_ids"][[0, 1], batch["mask_at"]] == tokenizer.mask_token_id).all()


def test_a_prompt_longer_than_rows_may_be_is_told() -> None:
    tokenizer = tiny_tokenizer("t5")
    processor = PromptedTokenizer(tokenizer, Wording("the old house: {text}", WORDS_2), ((1,), (2,)))
    with pytest.raises(InputError, match=r"alone takes 5 tokens, but rows are cut to 4. Set data.max_length to 6"):
        processor.read([("a cat",)], 4)


@pytest.mark.parametrize(("rows", "got"), [([("a", "b")], "a pair of texts"), ([("a",)], "one text")])
def test_rows_must_be_as_many_texts_as_the_prompt_takes(rows: list[tuple[str, ...]], got: str) -> None:
    prompt = "{text}" if got == "a pair of texts" else "{text} {text_pair}"
    processor = PromptedTokenizer(tiny_tokenizer("t5"), Wording(prompt, WORDS_2), ((1,), (2,)))
    with pytest.raises(InputError, match=rf"a row is {got}, but the model's prompt"):
        processor.read(rows)


def test_braces_that_are_text_stay_text() -> None:
    wording = wording_for(
        {"a": "bad", "b": "good"}, "set {{x}}: {review}", task_of("text").model_copy(update={"text": ("review",)}),
        ("a", "b"), masked=False,
    )  # fmt: skip
    assert wording.filled(["it {is} fine"]) == ("set {x}: it {is} fine", 0)


# --- defaults and bad input


@pytest.mark.parametrize("name", sorted(n for n, task in NAMED.items() if task.problem_type == "classification"))
def test_glues_four_tasks_have_defaults(name: str) -> None:
    task = NAMED[name]
    labels = task.label_names or ()
    plain, masked = (wording_for(None, None, task, labels, masked=m) for m in (False, True))
    assert plain == Wording(T5_PROMPTS[name], labels)  # T5 was taught the label names themselves
    assert masked.prompt == MASKED_PROMPTS[name]
    for wording in (plain, masked):
        assert wording.texts == len(task.text)
        assert len(set(wording.words)) == 2
    assert name.removeprefix("glue/") in plain.prompt


def refused(task: Any = "glue/sst2", **head: Any) -> str:
    with pytest.raises(RecipeError) as told:
        recipe_from({"task": task, "model": "t5-small", "head": {"init": "label-words", **head}})
    return str(told.value)


OWN = {"kind": "text-pair", "path": "x.csv", "text": ["one", "two"]}


@pytest.mark.parametrize(
    ("task", "head", "message"),
    [
        (OWN, {}, "head.words and head.prompt are not given and only glue/mrpc"),
        (OWN, {"words": {"a": "x", "b": "y"}}, "head.prompt is not given"),
        (OWN, {"prompt": "{one} {two}"}, "Write a word for each label, such as words: {one label: ..., another: ...}"),
        ("glue/sst2", {"prompt": "no place"}, "has {sentence} 0 times. Put every column in once"),
        ("glue/mrpc", {"prompt": "{sentence1}"}, "has {sentence2} 0 times"),
        ("glue/sst2", {"prompt": "{sentence} {sentence}"}, "has {sentence} 2 times"),
        ("glue/sst2", {"prompt": "{text}"}, "{text} is no column of the task. Its columns are sentence"),
        ("glue/sst2", {"prompt": "{sentence"}, "expected '}' before end of string"),
        ("glue/sst2", {"prompt": "{sentence!r}"}, "has a placeholder that is no column's name"),
        ("glue/sst2", {"prompt": "{}"}, "has a placeholder that is no column's name"),
        ("glue/sst2", {"words": {"negative": "bad", "good": "x"}}, "'good' is no label of the task; 'positive' has no"),
        ("glue/sst2", {"words": {"negative": "bad", "positive": " "}}, "the word of 'positive' is empty"),
        ("glue/sst2", {"words": {"negative": "so", "positive": "so"}}, "'negative' and 'positive' have one word, 'so'"),
        ("glue/sst2", {"words": {"negative": False, "positive": True}}, "Put labels and words in quotes"),
        ({"kind": "image", "path": "x", "image": "image"}, {}, "is for texts, but the task's rows are images"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told(task: Any, head: dict[str, Any], message: str) -> None:
    assert message in refused(task, **head)


def test_words_without_label_words_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"head.words and head.prompt are for head.init: label-words, not keep"):
        recipe_from({"task": "glue/sst2", "model": "m", "head": {"init": "keep", "prompt": "{sentence}"}})


@pytest.mark.parametrize(
    ("prompt", "masked", "message"),
    [
        ("{one}", True, r"has \{mask\} 0 times, but a masked language model fills in one word"),
        ("{mask} {one} {mask}", True, r"has \{mask\} 2 times"),
        ("{one} {mask}", False, r"has \{mask\}, but a text-to-text model writes the word itself"),
    ],
)
def test_a_mask_goes_into_prompts_of_masked_models_alone(prompt: str, masked: bool, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        wording_for({"a": "x", "b": "y"}, prompt, task_of("text"), ("a", "b"), masked=masked)


def test_words_are_checked_against_the_datas_labels() -> None:
    with pytest.raises(RecipeError, match=r"'b' is no label of the task; 'c' has no word. The labels are a, c"):
        wording_for({"a": "x", "b": "y"}, "{one}", task_of("text"), ("a", "c"), masked=False)


@pytest.mark.parametrize(
    ("build", "words", "message"),
    [
        (tiny_bert_mlm, ("bad", "zyx"), r"'zyx' is 3 tokens of .*\(z, ##y, ##x\), but one mask stands for one token"),
        (tiny_bert_mlm, ("bad", "BAD"), r"'bad' and 'BAD' are the same tokens"),
        (tiny_t5, ("bad", "bad "), r"'bad' and 'bad ' are the same tokens"),
        (tiny_t5, ("bad", "%"), r"'%' holds characters that the tokenizer of .* does not know"),
    ],
)
def test_words_that_a_tokenizer_cannot_tell_are_refused(
    build: Callable[..., Path], words: tuple[str, ...], message: str, checkpoint: Folder
) -> None:
    family = worded("text", masked=build is tiny_bert_mlm, words=words)
    with pytest.raises(InputError, match=message):
        family.processor(checkpoint(build))


def test_models_that_fill_in_no_words_are_refused(checkpoint: Folder) -> None:
    wording = Wording("{text}", WORDS_2)
    with pytest.raises(CheckpointError, match=r"a model of type 'gpt2' fills in no words. Choose a T5 or a masked"):
        label_words_family(config_of(checkpoint(tiny_gpt2)), lambda _: wording)
    with pytest.raises(CheckpointError, match=r"BertForMaskedLM needs .*cls.predictions.*Label words need a language"):
        worded("text", masked=True).load_with_new_head(checkpoint(tiny_bert), label_names=NAMES)


def test_the_model_decides_who_fills_in_the_word(checkpoint: Folder) -> None:
    asked = []

    def wording(masked: bool) -> Wording:
        asked.append(masked)
        return Wording("{text}", WORDS_2)

    builds = (tiny_t5, tiny_t5_classifier, tiny_bert, tiny_roberta)
    found = [type(label_words_family(config_of(checkpoint(build)), wording)) for build in builds]
    assert found == [TextToText, TextToText, MaskedWords, MaskedWords]
    assert asked == [False, False, True, True]


@pytest.mark.parametrize("family", [worded("text", masked=False), EncoderDecoders()], ids=lambda f: f.name)
def test_a_t5_in_float16_is_refused_with_the_reason(family: Any, checkpoint: Folder) -> None:
    build = tiny_t5 if isinstance(family, TextToText) else tiny_t5_classifier
    with pytest.raises(InputError, match=r"a T5 in float16.*65504, the largest float16.*Use float32 or bfloat16"):
        family.load(checkpoint(build), dtype=torch.float16)
    with pytest.raises(InputError, match=r"a T5 in float16"):
        family.load_with_new_head(checkpoint(build), label_names=NAMES, dtype=torch.float16)


def test_a_text_with_an_end_of_sequence_in_it_is_a_text(checkpoint: Folder, tmp_path: Path) -> None:
    folder = checkpoint(tiny_t5_classifier)
    family = EncoderDecoders()
    model = family.load_with_new_head(folder, label_names=NAMES).model
    rows = split_of(datasets.Dataset.from_dict({"one": ["a </s> b", "a cat"]}))
    encoded = family.encode(rows, family.processor(folder), task_of("text"), Data())
    with torch.no_grad():
        together = family.logits(model, encoded.batch([0, 1]))
        np.testing.assert_allclose(together[0], family.logits(model, encoded.batch([0]))[0], atol=1e-5)
    family.processor(folder).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text().count("Replace") == 1
    family.processor(tmp_path).save_pretrained(tmp_path)  # added once, whoever saves again
    assert (tmp_path / "tokenizer.json").read_text().count("Replace") == 1


# --- raw texts


@pytest.mark.parametrize("kind", TEXT_KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_word_classifier_answers_as_the_family(kind: str, masked: bool, checkpoint: Folder, tmp_path: Path) -> None:
    family, build = worded(kind, masked=masked), tiny_bert_mlm if masked else tiny_t5
    model = family.load_with_new_head(checkpoint(build), label_names=NAMES).model
    model.save_pretrained(tmp_path)
    family.processor(checkpoint(build)).save_pretrained(tmp_path)
    rows = rows_of(kind)
    raw = list(rows["one"]) if kind == "text" else list(zip(rows["one"], rows["two"], strict=True))
    told = WordClassifier.load(tmp_path, device="cpu")(raw)
    with torch.no_grad():
        wanted = family.logits(model, batch_of(family, tmp_path, kind)).softmax(dim=-1)
    got = [[{a["label"]: a["score"] for a in answer}[name] for name in NAMES] for answer in told]
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert all(answer[0]["score"] == max(a["score"] for a in answer) for answer in told)


def test_a_word_classifier_wants_label_words_and_a_list(checkpoint: Folder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model with label words; its config.json has none"):
        WordClassifier.load(checkpoint(tiny_bert))
    family = worded("text", masked=False)
    family.load_with_new_head(checkpoint(tiny_t5), label_names=NAMES).model.save_pretrained(tmp_path)
    family.processor(checkpoint(tiny_t5)).save_pretrained(tmp_path)
    classify = WordClassifier.load(tmp_path, device="cpu")
    assert classify([]) == []
    with pytest.raises(InputError, match=r"give a list of texts"):
        classify("one text")
