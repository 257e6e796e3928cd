"""CLIP and SigLIP: a head made of texts answers as the whole model does, and what is saved is an ordinary folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipModel,
    SiglipVisionModel,
)

from hf_soups.data import load_splits
from hf_soups.errors import CheckpointError, InputError, RecipeError
from hf_soups.finetune.start import START_FILE, make_start, start_key
from hf_soups.models.clip import Clip, ZeroShot, text_head
from hf_soups.models.clip_model import CLIPVisionForImageClassification, SiglipVisionForImageClassification
from hf_soups.models.layers import final_linear, frozen_features
from hf_soups.recipe import Recipe, recipe_from
from tests.makers.small_task import image_recipe, write_images
from tests.makers.tiny import IMAGE_SIZE, tiny_clip, tiny_clip_tower, tiny_siglip, tiny_vit
from tests.models.conftest import NAMES, rows_of

TEMPLATES = ("a photo of a {}.", "the {}!")
LABELS = ("top", "middle", "bottom")  # of the small task
BUILDS = {"clip": tiny_clip, "siglip": tiny_siglip}
CLASSES = {"clip": CLIPVisionForImageClassification, "siglip": SiglipVisionForImageClassification}
ZERO_SHOT = {"init": "zero-shot", "templates": list(TEMPLATES)}


@pytest.fixture(scope="module", params=BUILDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds of models, and the images of the small task."""
    made = tmp_path_factory.mktemp("clip")
    for name, build in BUILDS.items():
        build(made / name)
    write_images(made / "data")
    return made


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(5, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


def started(recipe: Recipe, out: Path) -> Path:
    return make_start(recipe, load_splits(recipe.task, recipe.data), out)


@torch.no_grad()
def whole_models_logits(folder: Path, texts: list[list[str]], pixels: torch.Tensor) -> np.ndarray:
    """What the whole model, asked by transformers' own forward, gives for texts that are averaged over each class."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    embedded = []
    for of_class in texts:
        tokens = tokenizer(of_class, padding="max_length", max_length=32, return_tensors="pt")["input_ids"]
        told = model(input_ids=tokens, pixel_values=pixels)
        mean = told.text_embeds.mean(dim=0)
        embedded.append(mean / mean.norm())
    bias = getattr(model, "logit_bias", torch.zeros(1))
    return np.asarray(told.image_embeds @ torch.stack(embedded).T * model.logit_scale.exp() + bias)


def test_a_zero_shot_start_answers_as_the_whole_model(
    folder: Path, kind: str, pixels: torch.Tensor, tmp_path: Path
) -> None:
    head = {**ZERO_SHOT, "class_texts": {"middle": "bright band"}}
    start = started(image_recipe(folder / "data", folder / kind, head=head), tmp_path / "start")
    texts = [[t.format(name) for t in TEMPLATES] for name in ("top", "bright band", "bottom")]
    model = Clip().load(start)
    assert type(model) is CLASSES[kind]
    with torch.no_grad():
        got = Clip().logits(model, {"pixel_values": pixels})
    wanted = whole_models_logits(folder / kind, texts, pixels)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert np.ptp(wanted, axis=1).min() > 1e-3, "all classes get one logit: this model cannot show a difference"
    about = json.loads((start / START_FILE).read_text())
    assert about["head_init"] == "zero-shot"
    assert about["head_parameters"] == ["classifier.weight", "classifier.bias"]


def test_a_single_text_of_one_template_gives_the_models_own_logits(folder: Path, kind: str, pixels: Any) -> None:
    model = {"clip": CLIPModel, "siglip": SiglipModel}[kind].from_pretrained(folder / kind).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / kind)
    texts = [f"a {name}." for name in LABELS]
    tokens = tokenizer(texts, padding="max_length", max_length=32, return_tensors="pt")["input_ids"]
    zero_shot = ZeroShot(label_names=LABELS, templates=("a {}.",)).load(folder / kind)
    with torch.no_grad():
        wanted = model(input_ids=tokens, pixel_values=pixels).logits_per_image
        np.testing.assert_allclose(zero_shot(pixel_values=pixels).logits, wanted, atol=1e-4)


def test_transformers_loads_the_tower_without_us_and_the_pipeline_all_of_it(
    folder: Path, kind: str, pixels: torch.Tensor, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageClassification, pipeline

    start = started(image_recipe(folder / "data", folder / kind, head=ZERO_SHOT), tmp_path / "start")
    whole = AutoModel.from_pretrained(folder / kind).eval()
    with torch.no_grad():
        wanted = whole.get_image_features(pixel_values=pixels).pooler_output
        if kind == "clip":
            got = CLIPVisionModelWithProjection.from_pretrained(start).eval()(pixels).image_embeds
        else:
            got = SiglipVisionModel.from_pretrained(start).eval()(pixels).pooler_output
    assert torch.equal(got, wanted)
    assert type(AutoModelForImageClassification.from_pretrained(start)) is CLASSES[kind]
    image = rows_of("image")["image"][0]
    scores = {told["label"]: told["score"] for told in pipeline("image-classification", model=str(start))(image)}
    assert set(scores) == set(LABELS)
    assert sum(scores.values()) == pytest.approx(1)


def test_the_head_reads_embeddings_of_length_one(folder: Path, kind: str, pixels: torch.Tensor) -> None:
    model = Clip().load_with_new_head(folder / kind, label_names=NAMES).model
    features = frozen_features(model, lambda: Clip().logits(model, {"pixel_values": pixels}))
    np.testing.assert_allclose(features.norm(dim=1), 1, atol=1e-5)


def test_a_linear_probe_on_them_tells_the_classes_apart(folder: Path, kind: str, tmp_path: Path) -> None:
    recipe = image_recipe(folder / "data", folder / kind, head={"init": "linear-probe"})
    model = Clip().load(started(recipe, tmp_path / "start"))
    train = load_splits(recipe.task, recipe.data).train
    encoded = Clip().encode(train, Clip().processor(folder / kind), recipe.task, recipe.data)
    with torch.no_grad():
        answers = Clip().logits(model, encoded.batch(np.arange(len(encoded)))).argmax(dim=1).numpy()
    assert (answers == train.labels).mean() > 0.6  # a third by chance; 110 rows: five standard errors


def test_logits_are_not_rounded_by_autocast(folder: Path, kind: str) -> None:
    layer = final_linear(ZeroShot(label_names=LABELS, templates=TEMPLATES).load(folder / kind))
    with torch.no_grad():
        unit = torch.nn.functional.normalize(torch.randn(4, layer.in_features), dim=1)
        wanted = torch.nn.functional.linear(unit, layer.weight, layer.bias)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(unit), wanted)
            assert not torch.equal(torch.nn.functional.linear(unit, layer.weight, layer.bias).float(), wanted)


def test_loss_comes_with_labels(folder: Path, kind: str, pixels: torch.Tensor) -> None:
    model = Clip().load_with_new_head(folder / kind, label_names=NAMES).model
    labels = torch.tensor([0, 1, 2, 3, 0])
    told = model(pixel_values=pixels, labels=labels)
    assert torch.isclose(told.loss, torch.nn.functional.cross_entropy(told.logits, labels))


class TestImageSizes:
    def test_positions_are_interpolated_as_the_model_itself_does(self, folder: Path, kind: str) -> None:
        plain = Clip().load_with_new_head(folder / kind, label_names=NAMES).model
        larger = Clip().load_with_new_head(folder / kind, label_names=NAMES, image_size=48).model
        assert larger.config.image_size == 48
        large = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = plain(pixel_values=large, interpolate_pos_encoding=True).logits
            np.testing.assert_allclose(larger(pixel_values=large).logits, wanted, atol=1e-5)

    def test_a_start_of_another_size_is_saved_so(self, folder: Path, kind: str, tmp_path: Path) -> None:
        recipe = image_recipe(folder / "data", folder / kind, head=ZERO_SHOT, data={"image_size": 48})
        start = started(recipe, tmp_path / "start")
        assert Clip().load(start).config.image_size == 48
        image = Clip().processor(start)([rows_of("image")["image"][0]])["pixel_values"][0]
        assert np.asarray(image).shape == (3, 48, 48)

    def test_a_size_that_patches_do_not_divide_is_refused(self, folder: Path, kind: str) -> None:
        with pytest.raises(CheckpointError, match=r"cannot be set to images of 36 pixels \(its patches are of 8"):
            Clip().load_with_new_head(folder / kind, label_names=NAMES, image_size=36)


class TestRefuses:
    def test_a_tower_without_texts(self, folder: Path, tmp_path: Path) -> None:
        tower = tiny_clip_tower(tmp_path / "tower")
        assert Clip().load_with_new_head(tower, label_names=NAMES).model.config.num_labels == len(NAMES)
        with pytest.raises(CheckpointError, match=r"tower: .*text tower, which is missing.*'clip_vision_model'.*whole"):
            started(image_recipe(folder / "data", tower, head=ZERO_SHOT), tmp_path / "start")
        assert not (tmp_path / "start").exists()

    def test_a_whole_clip_whose_text_tower_was_cut_out(self, folder: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        cut = shutil.copytree(folder / "clip", tmp_path / "cut")
        kept = {name: t for name, t in load_file(cut / "model.safetensors").items() if "text" not in name}
        save_file(kept, cut / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="the text tower, which is missing here"):
            text_head(cut, LABELS, TEMPLATES)

    def test_a_model_that_never_had_one(self, folder: Path, tmp_path: Path) -> None:
        recipe = image_recipe(folder / "data", tiny_vit(tmp_path / "vit"), head=ZERO_SHOT)
        with pytest.raises(CheckpointError, match=r"a CLIP or SigLIP with its text tower is needed; .* type 'vit'"):
            started(recipe, tmp_path / "start")

    def test_texts_without_a_tokenizer(self, folder: Path, tmp_path: Path) -> None:
        bare = shutil.copytree(
            folder / "clip", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "vocab*")
        )
        with pytest.raises(CheckpointError, match=r"bare: no tokenizer there; expected .*tokenizer\.json"):
            text_head(bare, LABELS, TEMPLATES)

    def test_a_tower_without_its_projection(self, folder: Path, tmp_path: Path) -> None:
        CLIPVisionModel.from_pretrained(folder / "clip").save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"visual_projection.weight is missing.*CLIPVisionModelWithProj"):
            Clip().load_with_new_head(tmp_path, label_names=NAMES)

    def test_a_whole_clip_where_a_head_is_needed(self, folder: Path, kind: str) -> None:
        with pytest.raises(CheckpointError, match=r"no head of its own.*head.init: zero-shot or linear-probe"):
            Clip().load(folder / kind)

    def test_a_text_that_the_tower_cannot_read_whole(self, folder: Path) -> None:
        with pytest.raises(InputError, match=r"reads 32 tokens, but 'a x{40}\.' has \d+\. Shorten the template"):
            text_head(folder / "clip", LABELS, ("a {}.",), {"top": "x" * 40})

    @pytest.mark.parametrize(
        ("class_texts", "says"),
        [
            ({"tip": "tip"}, r"class_texts speak of 'tip', but .* theirs are 'top', 'middle', 'bottom'"),
            ({"top": " "}, r"class_texts are empty for 'top'"),
            ({"top": "Bottom"}, r"the classes 'top', 'bottom' are called 'bottom', .*cannot tell them apart"),
        ],
    )
    def test_class_texts_that_do_not_fit(self, folder: Path, class_texts: dict[str, str], says: str) -> None:
        with pytest.raises(InputError, match=says):
            text_head(folder / "clip", LABELS, TEMPLATES, class_texts)

    def test_classes_that_are_numbers(self, folder: Path, tmp_path: Path) -> None:
        write_images(tmp_path, train=100)
        for name in ("train", "validation"):
            rows = datasets.Dataset.from_parquet(str(tmp_path / f"{name}.parquet"), cache_dir=str(tmp_path / "cache"))
            rows.cast_column("label", datasets.Value("int64")).to_parquet(tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match=r"numbers say little to a text tower\. Write .* head.class_texts"):
            started(image_recipe(tmp_path, folder / "clip", head=ZERO_SHOT), tmp_path / "start")
        told = {**ZERO_SHOT, "class_texts": {"0": "top", "1": "middle", "2": "bottom"}}
        assert started(image_recipe(tmp_path, folder / "clip", head=told), tmp_path / "start").is_dir()

    @pytest.mark.parametrize(
        ("head", "says"),
        [
            (
                {"init": "zero-shot", "templates": ["a cat"]},
                r"`head.templates`: every template .* 'a cat' has 0 places",
            ),
            ({"init": "zero-shot", "templates": ["{} {}"]}, r"'\{\} \{\}' has 2 places"),
            ({"init": "zero-shot", "templates": []}, "there is none"),
        ],
    )
    def test_heads_that_make_no_sense(self, head: dict[str, Any], says: str) -> None:
        with pytest.raises(RecipeError, match=says):
            recipe_from({"task": "glue/rte", "model": "m", "head": head})


def test_templates_and_texts_decide_what_the_start_is(folder: Path) -> None:
    def key(**head: Any) -> str:
        recipe = image_recipe(folder / "data", folder / "clip", head={"init": "zero-shot"} | head)
        return start_key(recipe, load_splits(recipe.task, recipe.data))

    keys = [key(), key(templates=["my {}"]), key(class_texts={"top": "a"}), key(class_texts={"middle": "a"})]
    assert len(set(keys)) == 4
    # a linear probe reads none of them, so --set head.init=linear-probe is all that it takes
    assert key(init="linear-probe") == key(init="linear-probe", templates=["my {}"]) != key()


def test_a_zero_shot_model_in_half_precision_is_the_saved_one_loaded_so(
    folder: Path, kind: str, tmp_path: Path
) -> None:
    from hf_soups.models.clip import write_zero_shot

    write_zero_shot(folder / kind, LABELS, TEMPLATES, tmp_path)
    asked = ZeroShot(label_names=LABELS, templates=TEMPLATES).load(folder / kind, dtype=torch.bfloat16)
    stored = Clip().load(tmp_path, dtype=torch.bfloat16)
    other = stored.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in asked.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import hf_soups; from transformers import T5ForConditionalGeneration",
        "import hf_soups; from transformers import CLIPModel",
        "import hf_soups; from transformers import SiglipModel",
        "from transformers import CLIPModel; import hf_soups",
        "from hf_soups.models.clip_model import CLIPVisionForImageClassification",
    ],
)
def test_towers_are_registered_whatever_is_imported_first(first: str) -> None:
    """transformers' modelling code imports its auto classes half-way, so registering at once would be a circle."""
    code = f"{first}\nfrom transformers import AutoModelForImageClassification as A, CLIPVisionConfig as C\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print(A._model_mapping[C].__name__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("CLIPVisionForImageClassification", "")
