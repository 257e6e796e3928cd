"""What a checkpoint's files say that does not fit its weights is refused before it is allocated, in one line."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.configs import check_config
from hf_soups.models.encoder import Encoders
from hf_soups.models.loading import load_own_head
from hf_soups.models.pixels import resized_processor
from hf_soups.models.readers import ImageReader, text_reader
from hf_soups.models.registry import family_for
from hf_soups.models.vision import Vision, for_image_size
from tests.makers import tiny

Made = Callable[[str], Path]
DEEP = '{"architectures":' + "[" * 3000 + "]" * 3000 + "}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return functools.cache(lambda name: getattr(tiny, f"tiny_{name}")(tmp_path_factory.mktemp(name)))


@pytest.fixture
def changed(sources: Made, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model with one value of one of its JSON files changed, or all of the file."""

    def change(name: str, file: str, *keys: Any, to: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(sources(name), folder)
        content = json.loads((folder / file).read_text())
        if not keys:
            (folder / file).write_text(to)
            return folder
        inner = functools.reduce(lambda at, key: at[key], keys[:-1], content)
        inner[keys[-1]] = to
        (folder / file).write_text(json.dumps(content))
        return folder

    return change


def answered(folder: Path) -> torch.Tensor:
    checkpoint = Checkpoint(folder)
    kind = "image" if (folder / "preprocessor_config.json").is_file() else "text"
    family = family_for(checkpoint.config, kind, checkpoint)
    model, processor = family.load(folder), family.processor(folder)
    reader: Any = ImageReader(processor) if kind == "image" else text_reader(processor, 16)
    rows: Any = [Image.new("RGB", (40, 30))] if kind == "image" else [("the cat runs", None)]
    return family.logits(model, reader.read(rows).batch([0]))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("bert", "num_labels", 10**9),
        ("bert", "num_labels", "two"),
        ("bert", "num_labels", 0),
        ("bert", "num_labels", True),
        ("bert", "hidden_size", 10**9),
        ("bert", "hidden_size", 0),
        ("bert", "hidden_size", -32),
        ("bert", "hidden_size", "large"),
        ("bert", "vocab_size", 10**12),
        ("bert", "vocab_size", 10**30),
        ("bert", "intermediate_size", 10**15),
        ("bert", "max_position_embeddings", 10**12),
        ("bert", "num_hidden_layers", 10**6),
        ("bert", "num_hidden_layers", 9000),
        ("bert", "num_hidden_layers", 3),
        ("bert", "num_hidden_layers", 1),
        ("bert", "num_hidden_layers", 0),
        ("bert", "num_attention_heads", -1),
        ("bert", "hidden_dropout_prob", float("nan")),
        ("bert", "architectures", 3),
        ("bert", "model_type", []),
        ("bert", "model_type", "x" * 10_000),
        ("distilbert", "max_position_embeddings", 10**9),
        ("distilbert", "n_layers", 10**9),
        ("t5_classifier", "d_model", 10**9),
        ("t5_classifier", "num_layers", 10**12),
        ("t5_classifier", "num_layers", 1),
        ("t5_classifier", "eos_token_id", 10**9),
        ("t5_classifier", "decoder_start_token_id", "two"),
        ("bart", "encoder_layers", 10**9),
        ("vit", "image_size", 10**9),
        ("vit", "patch_size", 0),
        ("vit", "num_channels", 10**9),
        ("vit", "num_hidden_layers", 10**6),
        ("swin", "depths", [10**9, 1]),
        ("swin", "embed_dim", 10**9),
        ("resnet", "hidden_sizes", [10**9, 16]),
        ("resnet", "depths", [10**6, 1]),
        ("efficientnet", "depth_coefficient", 1e9),
        ("efficientnet", "width_coefficient", 1e9),
        ("mobilenet_v2", "depth_multiplier", 1e9),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    changed: Callable[..., Path], name: str, key: str, value: Any
) -> None:
    folder = changed(name, "config.json", key, to=value)
    with pytest.raises(CheckpointError, match=rf"^{folder}") as caught:
        answered(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"a": ', DEEP], ids=lambda text: text[:20])
@pytest.mark.parametrize(
    ("name", "file"),
    [("bert", "config.json"), ("bert", "tokenizer.json"), ("vit", "config.json"), ("vit", "preprocessor_config.json")],
)
def test_a_file_that_holds_something_else_is_refused(
    changed: Callable[..., Path], name: str, file: str, text: str
) -> None:
    folder = changed(name, file, to=text)
    with pytest.raises(CheckpointError, match=rf"^{folder}") as caught:
        answered(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("size", {"height": 10**9, "width": 10**9}, "size has '1000000000'; expected pixels, 1 to 4,096"),
        ("size", {"height": 0, "width": 32}, "size has '0'"),
        ("size", {"height": -5, "width": 32}, "size has '-5'"),
        ("size", {"height": "two", "width": 32}, "size has 'two'"),
        ("size", {"shortest_edge": True}, "size has 'True'"),
        ("crop_size", {"height": 10**12, "width": 32}, "crop_size has '1000000000000'"),
        ("image_mean", [0.5, 0.5], "mean must have 3 elements"),
        ("image_mean", ["a", "b", "c"], "could not convert"),
        ("image_std", [0.0, 0.5, 0.5], "not finite"),
        ("resample", 99, "Unknown resampling filter"),
        ("rescale_factor", "two", "multiply"),
    ],
)
def test_an_image_processor_that_cannot_work_is_refused_by_name(
    changed: Callable[..., Path], key: str, value: Any, why: str
) -> None:
    folder = changed("vit", "preprocessor_config.json", key, to=value)
    with pytest.raises(CheckpointError, match=rf"^{folder}/preprocessor_config.json: cannot be loaded \(.*{why}"):
        Vision().processor(folder)


@pytest.mark.parametrize("size", [0, 4097, 10**9])
def test_no_model_is_set_to_images_of_any_size(sources: Made, size: int) -> None:
    folder = sources("vit")
    with pytest.raises(InputError, match=f"images of {size} pixels a side; expected 1 to 4,096"):
        resized_processor(Vision().processor(folder), size)
    with pytest.raises(InputError, match=f"images of {size} pixels a side"):
        for_image_size(Vision().load(folder), size, str(folder))


@pytest.mark.parametrize("value", [-2, 0, "two", [], 1.5, float("nan")])
def test_a_tokenizer_says_how_long_rows_may_be(changed: Callable[..., Path], value: Any) -> None:
    folder = changed("bert", "tokenizer_config.json", "model_max_length", to=value)
    with pytest.raises(CheckpointError, match=rf"^{folder}/tokenizer.json: cannot be loaded"):
        Encoders().processor(folder)


def test_a_tokenizer_makes_up_no_billion_tokens(changed: Callable[..., Path]) -> None:
    folder = changed("t5_classifier", "tokenizer_config.json", "extra_ids", to=10**9)
    with pytest.raises(CheckpointError, match=rf"^{folder}: extra_ids in tokenizer_config.json is '1000000000'"):
        answered(folder)


def test_a_token_without_an_embedding_is_told_and_not_looked_up(changed: Callable[..., Path]) -> None:
    folder = changed("bert", "tokenizer.json", "model", "vocab", "cat", to=10**9)
    with pytest.raises(CheckpointError, match=rf"^{folder}: its tokenizer gives the token 1000000000"):
        answered(folder)


def test_images_that_the_model_does_not_take_are_told_with_its_place(changed: Callable[..., Path]) -> None:
    folder = changed("vit", "preprocessor_config.json", "size", to={"height": 16, "width": 16})
    with pytest.raises(CheckpointError, match=rf"^{folder}: it cannot read rows of shape \(1, 3, 16, 16\)"):
        answered(folder)


def test_labels_may_be_as_many_as_are_named() -> None:
    names = {str(i): str(i) for i in range(150_000)}
    check_config({"num_labels": len(names), "id2label": names, "vision_config": {"num_labels": 2}}, "m")
    with pytest.raises(CheckpointError, match=r"^m: num_labels in config.json is '150001'"):
        check_config({"num_labels": len(names) + 1, "id2label": names}, "m")
    with pytest.raises(CheckpointError, match=r"num_labels in config.json is '1000000000'; .* from 1 to 100,000"):
        check_config({"text_config": {"num_labels": 10**9}}, "m")


def test_what_is_made_is_counted_in_the_thread_that_loads_alone(sources: Made) -> None:
    """Another thread makes what it likes, and nothing is counted once the model is loaded."""
    from concurrent.futures import ThreadPoolExecutor

    from hf_soups.models.loading import SLACK, within_weights

    def large() -> torch.nn.Module:
        return torch.nn.Linear(SLACK[0], 2, device="meta")

    tensors = Checkpoint(sources("bert")).tensors
    with within_weights(tensors, "it"), ThreadPoolExecutor(1) as other:
        other.submit(large).result()
    with (
        pytest.raises(CheckpointError, match=r"^it: config.json asks for a model of more than"),
        within_weights(tensors, "it"),
    ):
        large()
    large()


def test_the_auto_class_is_not_called_for_what_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed("bert", "config.json", "num_hidden_layers", to=10**6)
    with pytest.raises(
        CheckpointError, match=r"num_hidden_layers in config.json is '1000000'; expected at most 10,000"
    ):
        load_own_head(None, folder)
