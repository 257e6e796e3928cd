"""Tokenizers and image processors are compared as loaded: files that differ in form only are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.errors import CheckpointError, IncompatibleCheckpoints
from hf_soups.inspection import inspect_checkpoints
from hf_soups.models.readers import ImageReader, TextReader, numbered
from hf_soups.soups import model_input
from hf_soups.soups.compatibility import PreflightReport, preflight
from tests.makers.folders import change_json, edit_json
from tests.makers.tiny import (
    tiny_bert,
    tiny_clip,
    tiny_deit,
    tiny_distilbert,
    tiny_gpt2,
    tiny_roberta,
    tiny_t5_classifier,
    tiny_vit,
)

SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def report(*folders: Path, **how: Any) -> PreflightReport:
    return preflight([Checkpoint(folder) for folder in folders], check_duplicates=False, **how)


def found(first: Path, other: Path, **how: Any) -> tuple[list[str], list[str]]:
    """Messages on the processor: errors and warnings; the same whichever comes first."""
    both = report(first, other, **how), report(other, first, **how)
    assert [f.topic for f in both[0].errors] == [f.topic for f in both[1].errors]
    return [f.message for f in both[0].errors], [f.message for f in both[0].warnings]


def as_by_4_20(folder: Path) -> None:
    """What BertTokenizerFast of transformers 4.20 wrote: no added_tokens_decoder, a map of special tokens."""
    about = {
        **SPECIAL, "do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True,
        "model_max_length": 64, "name_or_path": "bert-base-uncased", "special_tokens_map_file": None,
        "tokenizer_class": "BertTokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    edit_json(folder / "tokenizer.json", _post_processor_of_bert)
    write_vocab(folder)


def _post_processor_of_bert(tokenizer: dict[str, Any]) -> None:
    vocab = tokenizer["model"]["vocab"]
    ends = {"sep": ["[SEP]", vocab["[SEP]"]], "cls": ["[CLS]", vocab["[CLS]"]]}
    tokenizer["post_processor"] = {"type": "BertProcessing", **ends}


def write_vocab(folder: Path) -> None:
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)) + "\n")


def as_by_4_45(folder: Path) -> None:
    """With added_tokens_decoder, and clean_up_tokenization_spaces written."""
    as_by_4_20(folder)
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    about = json.loads((folder / "tokenizer_config.json").read_text())
    more = {"added_tokens_decoder": decoder, "clean_up_tokenization_spaces": True, "extra_special_tokens": {}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, **more}))


def as_slow(folder: Path) -> None:
    """vocab.txt alone, as BertTokenizer wrote."""
    as_by_4_20(folder)
    (folder / "tokenizer.json").unlink()


def bert_of_a_longer_text(folder: Path) -> None:
    """No limit written: the model's own counts."""
    edit_json(folder / "tokenizer_config.json", lambda c: c.pop("model_max_length"))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)


@pytest.mark.parametrize("change", [as_by_4_20, as_by_4_45, as_slow, bert_of_a_longer_text])
def test_one_tokenizer_of_several_versions_is_the_same(change: Callable[[Path], None], pair: tuple[Path, Path]) -> None:
    change(pair[1])
    assert found(*pair) == ([], [])


def test_two_old_forms_are_the_same(pair: tuple[Path, Path]) -> None:
    as_slow(pair[0])
    as_by_4_45(pair[1])
    assert found(*pair) == ([], [])
    assert [row.processor for row in inspect_checkpoints(pair).rows] == ["same", "same"]


@pytest.mark.parametrize("build", [tiny_roberta, tiny_gpt2, tiny_t5_classifier])
def test_merges_as_text_and_steps_in_a_sequence_are_the_same(build: Callable[..., Path], tmp_path: Path) -> None:
    pair = build(tmp_path / "one", seed=1), build(tmp_path / "two", seed=2)

    def older(tokenizer: dict[str, Any]) -> None:
        if "merges" in tokenizer["model"]:
            tokenizer["model"]["merges"] = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
            tokenizer["model"].pop("ignore_merges")
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [tokenizer["pre_tokenizer"]]}
        tokenizer["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        tokenizer["padding"] = {
            "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip

    edit_json(pair[1] / "tokenizer.json", older)
    edit_json(pair[1] / "tokenizer_config.json", lambda c: c.update(added_tokens_decoder={}, chat_template="{{ x }}"))
    assert found(*pair) == ([], [])


def test_roberta_of_vocab_and_merges_alone_is_the_same(tmp_path: Path) -> None:
    pair = tiny_roberta(tmp_path / "one", seed=1), tiny_roberta(tmp_path / "two", seed=2)
    model = json.loads((pair[1] / "tokenizer.json").read_text())["model"]
    (pair[1] / "vocab.json").write_text(json.dumps(model["vocab"]))
    (pair[1] / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n")
    (pair[1] / "tokenizer.json").unlink()
    assert found(*pair) == ([], [])


def _class(name: str) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer_config.json", lambda c: c.update(tokenizer_class=name))


def _t5_by_4_20(folder: Path) -> None:
    sentinels = ["<extra_id_0>", "<extra_id_1>"]
    about = {
        "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 2, "sp_model_kwargs": {},
        "additional_special_tokens": sentinels, "model_max_length": 64, "tokenizer_class": "T5Tokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    edit_json(folder / "tokenizer.json", lambda t: [token.update(special=False) for token in t["added_tokens"]])


def _without_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (tiny_bert, _class("BertTokenizerFast")),
        (tiny_bert, _without_config),
        (tiny_distilbert, _class("BertTokenizer")),
        (tiny_roberta, _class("PreTrainedTokenizerFast")),
        (tiny_t5_classifier, _t5_by_4_20),
    ],
)
def test_other_classes_and_special_tokens_of_the_same_effect_are_the_same(
    build: Callable[..., Path], change: Callable[[Path], None], tmp_path: Path
) -> None:
    pair = build(tmp_path / "one", seed=1), build(tmp_path / "two", seed=2)
    change(pair[1])
    assert found(*pair) == ([], [])


def test_a_pair_without_token_types_is_read_otherwise_by_bert(pair: tuple[Path, Path]) -> None:
    _class("PreTrainedTokenizerFast")(pair[1])
    errors, _ = found(*pair)
    assert (
        "token types of a text and a pair: [[0, 0, 0], [0, 0, 0, 0, 0]], but [[0, 0, 0], [0, 0, 0, 1, 1]]" in errors[0]
    )


def swap(folder: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        vocab = tokenizer["model"]["vocab"]
        vocab["cat"], vocab["dog"] = vocab["dog"], vocab["cat"]

    edit_json(folder / "tokenizer.json", change)


def test_a_shuffled_vocabulary_is_refused_in_every_form(pair: tuple[Path, Path]) -> None:
    swap(pair[0])
    as_slow(pair[1])
    errors, _ = found(*pair)
    assert len(errors) == 1
    assert "vocabulary: 2 tokens have other ids: " in errors[0]
    assert "'The cat sat, the DOG ran!' becomes [" in errors[0]
    assert "--processor FIRST or a folder (--force" in errors[0]


def test_a_vocabulary_that_only_one_has_is_refused(pair: tuple[Path, Path]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (pair[1] / name).unlink()
    errors, _ = found(*pair)
    assert f"{pair[1]}: no tokenizer there, but {pair[0]} has one, so whether both read" in errors[0]
    assert inspect_checkpoints(pair).mixable is False


def _merges(folder: Path) -> None:
    edit_json(folder / "tokenizer.json", lambda t: t["model"]["merges"].reverse())


def _cased(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(do_lower_case=False))
    edit_json(folder / "tokenizer.json", lambda t: t["normalizer"].update(lowercase=False, strip_accents=False))


def _left(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(padding_side="left"))


def _cut_left(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(truncation_side="left"))


def _pad(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(pad_token="[UNK]"))


@pytest.mark.parametrize(
    ("build", "change", "says"),
    [
        (tiny_roberta, _merges, "merges: others"),
        (tiny_bert, _cased, "normaliser: "),
        (tiny_bert, _cased, "becomes"),
        (tiny_bert, _left, "padding side: left, but right"),
        (tiny_bert, _cut_left, "truncation side: left, but right"),
        (tiny_bert, _pad, "padding token: 1, but 0"),
    ],
)
def test_what_changes_the_ids_is_an_error_that_says_what(
    build: Callable[..., Path], change: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    pair = build(tmp_path / "one", seed=1), build(tmp_path / "two", seed=2)
    change(pair[1])
    errors, _ = found(*pair)
    assert len(errors) == 1
    assert says in errors[0]


def test_a_mask_that_takes_the_blank_before_it_is_another_one(tmp_path: Path) -> None:
    pair = tiny_roberta(tmp_path / "one", seed=1), tiny_roberta(tmp_path / "two", seed=2)
    edit_json(pair[1] / "tokenizer.json", lambda t: t["added_tokens"][-1].update(lstrip=True))
    errors, _ = found(*pair)
    assert "added tokens: <mask> " in errors[0]
    assert "'x <mask> y' becomes" in errors[0]


def test_another_maximal_length_is_a_warning(pair: tuple[Path, Path]) -> None:
    edit_json(pair[1] / "tokenizer_config.json", lambda c: c.update(model_max_length=32))
    errors, warnings = found(*pair)
    assert errors == []
    assert "model_max_length: 32 tokens, but 64 tokens; the soup takes" in warnings[0]


def test_a_tokenizer_that_cannot_be_loaded_is_named(pair: tuple[Path, Path]) -> None:
    (pair[1] / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "WordPiece"}}))
    errors, _ = found(*pair)
    assert f"{pair[1]}: its tokenizer cannot be compared with that of {pair[0]} (" in errors[0]


def test_equal_files_are_not_loaded(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    edit_json(pair[1] / "tokenizer_config.json", lambda c: c.update(transformers_version="4.1", chat_template="x"))
    monkeypatch.setattr(model_input, "_loaded", lambda *_: pytest.fail("loaded"))
    assert found(*pair) == ([], [])


# Image processors

VIT = {
    "do_resize": True,
    "size": 32,
    "resample": 2,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
FORMS = [
    {"feature_extractor_type": "ViTFeatureExtractor", **VIT},
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
    {"image_processor_type": "ViTImageProcessorFast", **VIT, "size": {"height": 32, "width": 32}, "device": None},
    {**VIT, "rescale_factor": 1 / 255 + 1e-12, "do_rescale": True, "crop_size": {"height": 9, "width": 9}},
    {"size": [32, 32]},
]


@pytest.mark.parametrize("form", FORMS)
def test_one_image_processor_in_several_forms_is_the_same(form: dict[str, Any], tmp_path: Path) -> None:
    pair = tiny_vit(tmp_path / "one", seed=1), tiny_vit(tmp_path / "two", seed=2)
    (pair[1] / "preprocessor_config.json").write_text(json.dumps(form))
    assert found(*pair) == ([], [])


def test_a_processor_inside_processor_config_is_the_same(tmp_path: Path) -> None:
    pair = tiny_vit(tmp_path / "one", seed=1), tiny_vit(tmp_path / "two", seed=2)
    inner = json.loads((pair[1] / "preprocessor_config.json").read_text())
    (pair[1] / "preprocessor_config.json").unlink()
    (pair[1] / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert found(*pair) == ([], [])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"size": {"height": 24, "width": 24}}, "size: {'height': 24, 'width': 24}, but {'height': 32, 'width': 32}"),
        ({"resample": 3}, "resample: 3, but 2"),
        ({"image_std": [0.2, 0.2, 0.2]}, "image_std: [0.2, 0.2, 0.2], but [0.5, 0.5, 0.5]"),
        ({"do_normalize": False}, "do_normalize: None, but True"),
        ({"do_center_crop": True, "crop_size": 16, "image_processor_type": "DeiTImageProcessor"}, "crop_size"),
    ],
)
def test_other_pixels_are_an_error_that_says_why(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    pair = tiny_vit(tmp_path / "one", seed=1), tiny_vit(tmp_path / "two", seed=2)
    edit_json(pair[1] / "preprocessor_config.json", lambda c: c.update(values))
    errors, _ = found(*pair)
    assert len(errors) == 1
    assert says in errors[0]


def test_two_classes_of_one_effect_are_the_same(tmp_path: Path) -> None:
    pair = tiny_vit(tmp_path / "one", seed=1), tiny_vit(tmp_path / "two", seed=2)
    form = {**VIT, "size": {"height": 32, "width": 32}, "image_processor_type": "DeiTImageProcessor"}
    (pair[1] / "preprocessor_config.json").write_text(json.dumps({**form, "do_center_crop": False}))
    assert found(*pair) == ([], [])


def test_members_with_one_tokenizer_in_two_forms_share_a_reader(pair: tuple[Path, Path], tmp_path: Path) -> None:
    as_slow(pair[1])
    texts = [TextReader(model_input._loaded("tokenizer", str(folder), "")) for folder in pair]
    assert numbered(texts) == (0, 0)
    images = [tiny_vit(tmp_path / "v1"), tiny_vit(tmp_path / "v2"), tiny_deit(tmp_path / "v3")]
    (images[1] / "preprocessor_config.json").write_text(json.dumps(FORMS[0]))
    assert numbered([ImageReader(model_input._loaded("image processor", str(f), "")) for f in images]) == (0, 0, 2)


def test_what_the_model_does_not_read_is_a_warning(tmp_path: Path) -> None:
    pair = tiny_vit(tmp_path / "one", seed=1), tiny_vit(tmp_path / "two", seed=2)
    for file in tiny_clip(tmp_path / "clip").glob("tokenizer*"):
        shutil.copy(file, pair[1])
    errors, warnings = found(*pair)
    assert errors == []
    assert warnings == [f"{pair[0]}: no tokenizer there, but {pair[1]} has one."]


# Ways on


def test_cook_names_the_difference_and_the_ways_on(pair: tuple[Path, Path], tmp_path: Path) -> None:
    swap(pair[1])
    with pytest.raises(IncompatibleCheckpoints, match=r"2 tokens have other ids.*`processor='FIRST'`"):
        cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)


@pytest.mark.parametrize("way", [{"processor": "FIRST"}, {"processor": "first"}, {"force": True}])
def test_the_first_models_tokenizer_is_taken_where_the_user_says_so(
    way: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    swap(pair[1])
    result = cook(list(map(str, pair)), out=tmp_path / "soup", tell=None, **way)
    assert any("2 tokens have other ids" in warning for warning in result.warnings)
    assert (tmp_path / "soup" / "tokenizer.json").read_bytes() == (pair[0] / "tokenizer.json").read_bytes()
    record = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert record["processor"] == str(pair[0])
    assert "2 tokens have other ids" in record["forced"][0]
    assert inspect_checkpoints(pair, **way).mixable


def test_another_folders_tokenizer_is_taken_where_it_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    third = shutil.copytree(pair[0], tmp_path / "third")
    swap(third)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (pair[0] / name).unlink()
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None, processor=third)
    assert (tmp_path / "soup" / "tokenizer.json").read_bytes() == (third / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "soup" / "soup.json").read_text())["processor"] == str(third)


def test_a_folder_without_a_tokenizer_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no tokenizer in .*empty. Name a folder"):
        report(*pair, processor=tmp_path / "empty")


def test_a_folder_of_another_kind_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        report(*pair, processor=tiny_vit(tmp_path / "vit"))


def test_without_a_difference_soup_json_says_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    change_json(pair[1] / "tokenizer_config.json", "chat_template", to="x")
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    assert not {"processor", "forced", "vocabulary"} & json.loads((tmp_path / "soup" / "soup.json").read_text()).keys()


def test_the_commands_take_the_ways_on(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hf_soups.cli import app

    swap(pair[1])
    models = list(map(str, pair))
    run = CliRunner().invoke
    assert run(app, ["inspect", *models]).exit_code == 1
    assert run(app, ["inspect", *models, "--processor", "FIRST"]).exit_code == 0
    assert isinstance(run(app, ["cook", *models, "--out", str(tmp_path / "no")]).exception, IncompatibleCheckpoints)
    for name, way in (("a", ["--force"]), ("b", ["--processor", str(pair[1])]), ("c", ["--processor", "FIRST"])):
        assert run(app, ["cook", *models, "--out", str(tmp_path / name), *way]).exit_code == 0
    taken = [(tmp_path / name / "tokenizer.json").read_bytes() for name in "abc"]
    assert taken[0] == taken[2] == (pair[0] / "tokenizer.json").read_bytes()
    assert taken[1] == (pair[1] / "tokenizer.json").read_bytes()
