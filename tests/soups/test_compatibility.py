"""Pre-flight finds what would spoil a soup, names it, and lets pass what would not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.predictions import Predictions
from hf_soups.soups.compatibility import PreflightReport, gives_one_answer, preflight
from hf_soups.soups.mixing import mix_to_folder
from tests.makers.folders import folder_of
from tests.makers.tiny import tiny_bert, tiny_distilbert, tiny_vit

NAMES = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tiny_bert(tmp_path / "one", seed=1, **NAMES), tiny_bert(tmp_path / "two", seed=2, **NAMES)


def report(*folders: Path, **how: Any) -> PreflightReport:
    return preflight([Checkpoint(folder) for folder in folders], **how)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def only_error(found: PreflightReport, topic: str) -> str:
    assert [finding.topic for finding in found.errors] == [topic]
    return found.errors[0].message


def only_warning(found: PreflightReport, topic: str) -> str:
    assert found.errors == ()
    assert [finding.topic for finding in found.warnings] == [topic]
    return found.warnings[0].message


@pytest.mark.parametrize("build", [tiny_bert, tiny_vit])
def test_fine_tunes_of_one_model_pass_without_a_word(build: Callable[..., Path], tmp_path: Path) -> None:
    found = report(build(tmp_path / "one", seed=1), build(tmp_path / "two", seed=2), build(tmp_path / "three", seed=3))
    assert (found.errors, found.warnings) == ((), ())
    assert found.label_permutations == {}
    found.raise_for_errors()


def test_another_architecture_is_an_error(tmp_path: Path) -> None:
    found = report(tiny_bert(tmp_path / "bert"), tiny_distilbert(tmp_path / "distilbert"))
    said = {finding.topic: finding.message for finding in found.errors}
    assert "distilbert: model_type is distilbert, but bert in" in said["architecture"]
    assert "lacks" in said["tensors"]


def test_another_number_of_classes_is_an_error_that_names_shapes(tmp_path: Path) -> None:
    found = report(tiny_bert(tmp_path / "two"), tiny_bert(tmp_path / "three", labels=3))
    messages = " ".join(finding.message for finding in found.errors)
    assert "has shape (3" in messages
    assert "fine-tune all ingredients from the same start" in messages


def test_other_label_names_are_an_error(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    edit_json(pair[1] / "config.json", lambda c: c.update(id2label={"0": "no", "1": "yes"}))
    assert "its labels are ['no', 'yes'], but ['neg', 'pos'] in" in only_error(report(*pair), "labels")


def test_labels_in_another_order_are_an_error_until_they_are_aligned(pair: tuple[Path, Path], tmp_path: Path) -> None:
    edit_json(pair[1] / "config.json", lambda c: c.update(id2label={"0": "pos", "1": "neg"}))
    said = only_error(report(*pair), "labels")
    assert "in the order ['pos', 'neg'], but ['neg', 'pos'] in" in said
    assert "--align-labels" in said
    found = report(*pair, align_labels=True)
    assert found.errors == ()
    assert found.label_permutations == {str(pair[1]): (1, 0)}
    mix_to_folder(found.checkpoints, (0.5, 0.5), tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    one, two = (Checkpoint(folder) for folder in pair)
    expected = (one.read("classifier.weight") + two.read("classifier.weight")[::-1]) / 2
    assert np.allclose(got["classifier.weight"].numpy(), expected, atol=1e-7)


def test_heads_from_different_starts_are_an_error(pair: tuple[Path, Path]) -> None:
    for folder, fingerprint in zip(pair, ("a" * 64, "b" * 64), strict=True):
        (folder / "run.json").write_text(json.dumps({"status": "finished", "head_fingerprint": fingerprint}))
    said = only_error(report(*pair), "head")
    assert "started from bbbbbbbbbbbb, but" in said
    assert "collapse" in said
    assert report(*pair, require_head=False).errors == ()
    (pair[1] / "run.json").unlink()
    assert "it is not recorded which start its head had" in only_warning(report(*pair), "head")


def test_a_run_that_failed_is_an_error_that_names_it(pair: tuple[Path, Path]) -> None:
    (pair[1] / "run.json").write_text(json.dumps({"status": "one-class", "reason": "all 200 rows: 'neg'"}))
    said = only_error(report(*pair), "run")
    assert said == f"{pair[1]}: its run ended as 'one-class' (all 200 rows: 'neg'). Leave it out of the soup."


def test_a_record_of_the_start_that_cannot_be_read_is_an_error_of_the_report(pair: tuple[Path, Path]) -> None:
    (pair[1] / "start.json").write_text("{")
    assert "start.json" in only_error(report(*pair), "run")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error_that_names_the_tensor(value: float, pair: tuple[Path, Path]) -> None:
    edit_weights(pair[1], lambda t: t["bert.pooler.dense.weight"][3, 4].fill_(value))
    assert "tensor 'bert.pooler.dense.weight' holds NaN or infinity" in only_error(report(*pair), "values")
    assert report(*pair, check_values=False).errors == ()


def test_the_first_checkpoint_is_looked_at_too(pair: tuple[Path, Path]) -> None:
    edit_weights(pair[0], lambda t: t["classifier.bias"].fill_(float("nan")))
    assert f"{pair[0]}" in only_error(report(*pair), "values")


def test_another_vocabulary_is_an_error(pair: tuple[Path, Path]) -> None:
    def swap(tokenizer: dict[str, Any]) -> None:
        vocab = tokenizer["model"]["vocab"]
        vocab["cat"], vocab["dog"] = vocab["dog"], vocab["cat"]

    edit_json(pair[1] / "tokenizer.json", swap)
    said = only_error(report(*pair), "processor")
    assert "tokenizer.json differs from that of" in said
    assert "in model, so the models read their input in different ways. Mix models of one vocabulary." in said


def test_cosmetics_of_a_tokenizer_are_a_warning(pair: tuple[Path, Path]) -> None:
    edit_json(pair[1] / "tokenizer_config.json", lambda c: c.update(model_max_length=77))
    assert "tokenizer_config.json differs" in only_warning(report(*pair), "processor")
    edit_json(pair[1] / "tokenizer_config.json", lambda c: c.update(model_max_length=64, transformers_version="5.0"))
    assert report(*pair).warnings == ()


def test_another_image_processing_is_an_error(tmp_path: Path) -> None:
    pair = tiny_vit(tmp_path / "one", seed=1), tiny_vit(tmp_path / "two", seed=2)
    edit_json(pair[1] / "preprocessor_config.json", lambda c: c.update(image_mean=[0.1, 0.2, 0.3]))
    assert "in image_mean, so the models read" in only_error(report(*pair), "processor")


def test_other_dtypes_are_a_warning(pair: tuple[Path, Path]) -> None:
    edit_weights(pair[1], lambda t: t.update({name: x.to(torch.bfloat16) for name, x in t.items()}))
    assert "are stored as BF16, but as F32 in" in only_warning(report(*pair), "dtype")


def test_duplicates_are_a_warning(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(pair[0], tmp_path / "copy")
    found = report(*pair, tmp_path / "copy")
    assert "copy: the same weights as" in only_warning(found, "duplicate")


def test_a_config_that_computes_otherwise_is_an_error(pair: tuple[Path, Path]) -> None:
    edit_json(pair[1] / "config.json", lambda c: c.update(hidden_act="relu"))
    said = only_error(report(*pair), "config")
    assert "config.json differs from" in said
    assert "hidden_act is 'relu', but 'gelu'" in said


def test_an_index_with_a_wrong_total_is_a_warning(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", {"x": torch.ones(3), "y": torch.ones(3)}, shards=2)
    edit_json(folder / "model.safetensors.index.json", lambda c: c["metadata"].update(total_size=1))
    assert "its index says 1 bytes of tensors, the shards hold 24" in only_warning(report(folder), "files")


def test_what_cannot_be_read_is_an_error_of_the_report_and_the_rest_is_compared(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (pair[1] / "model.safetensors").write_bytes(b"broken")
    third = tiny_bert(tmp_path / "three", labels=3)
    found = report(*pair, tmp_path / "nowhere", third)
    topics = [finding.topic for finding in found.errors]
    assert topics.count("files") == 2
    assert "tensors" in topics


def test_all_errors_are_raised_in_one_message(pair: tuple[Path, Path]) -> None:
    edit_json(pair[1] / "config.json", lambda c: c.update(id2label={"0": "no", "1": "yes"}))
    edit_weights(pair[1], lambda t: t["classifier.bias"].fill_(float("nan")))
    with pytest.raises(IncompatibleCheckpoints) as error:
        report(*pair).raise_for_errors()
    lines = str(error.value).splitlines()
    assert lines[0] == "these checkpoints cannot be mixed:"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("problem_type", "labels", "same", "others"),
    [
        ("classification", [0, 1, 1, 0], [[2.0, 0.0], [1.0, 0.0]] * 2, [[2.0, 0.0], [0.0, 1.0]] * 2),
        (
            "multi-label",
            [[0, 1], [1, 1], [0, 0]],
            [[-1.0, 2.0], [-1.0, 2.000001], [-1.0, 2.0]],
            [[-1.0, 2.0], [-3.0, 1.0], [-2.0, 1.0]],
        ),
        ("regression", [0.5, 1.5, 2.5], [[3.0], [3.000001], [3.0]], [[3.0], [3.1], [3.0]]),
    ],
)
def test_one_answer_to_all_rows_is_known_of_every_problem_type(
    problem_type: str, labels: Any, same: Any, others: Any
) -> None:
    for logits, expected in ((same, True), (others, False)):
        assert gives_one_answer(Predictions.from_logits(logits, labels=labels, problem_type=problem_type)) is expected
    unvaried = Predictions.from_logits(same, labels=labels[:1] * len(labels), problem_type=problem_type)
    assert gives_one_answer(unvaried) is None  # the labels do not differ either
