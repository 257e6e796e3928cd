"""CLIP and SigLIP as image classifiers: the image tower, and a head that reads the embedding at length one.

The start may be the whole model as published, with both towers, or an image tower alone; what is saved is the image
tower with its head (`clip_model`). A head made of texts needs the text tower, once: as soon as the classes are known,
the zero-shot classifier that they make is an ordinary image classifier.
Source: Radford et al. 2021, arXiv:2103.00020, section 3.1 (a template around the name, several templates averaged).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float
from torch import nn

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.label_names import index_by_label
from hf_soups.models.layers import final_linear
from hf_soups.models.loading import (
    HowLoaded,
    InRepo,
    Loaded,
    config_of,
    in_repo,
    load_own_head,
    load_tokenizer,
    place,
    quiet,
)
from hf_soups.models.vision import Vision

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

BOTH_TOWERS = ("clip", "siglip")
PROJECTION = "visual_projection.weight"  # in CLIP; SigLIP has none
IMAGE_TOWER = ("clip_vision_model", "siglip_vision_model")
TEXT_TOWER = "text_model."  # how the names of its tensors begin, in CLIP and in SigLIP
TEMPLATES = ("a photo of a {}.",)
TEXTS_AT_ONCE = 256


def has_both_towers(config: Mapping[str, Any]) -> bool:
    """Whether config.json is of a CLIP or SigLIP with an image and a text tower.

    Both towers' configs are also in that of transformers' own image classifiers, whose text tower is gone.
    """
    heads = [name for name in config.get("architectures") or () if name.endswith("ForImageClassification")]
    return config.get("model_type") in BOTH_TOWERS and not heads


@dataclass(frozen=True)
class Clip(Vision):
    """The image tower of CLIP or SigLIP with a linear head on the unit sphere; of a whole model the tower is taken."""

    name: str = "clip"

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Image towers, with a head or without, and whole models."""
        return config.get("model_type") in IMAGE_TOWER or has_both_towers(config)

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """See `Family.load`.

        Raises:
            CheckpointError: also for a whole CLIP, whose classes are texts that nobody named here.
        """
        if has_both_towers(config_of(source, **in_repo(how)).to_dict()):
            raise CheckpointError(
                f"{place(source, **how)}: a CLIP as published has no head of its own. Make one from "
                "texts or a linear probe (head.init: zero-shot or linear-probe), or ask it zero-shot in a pool "
                "(--template)."
            )
        return super().load(source, **how)

    def start_config(self, source: str | Path, **at: Unpack[InRepo]) -> PreTrainedConfig:
        """The image tower's.

        Raises:
            CheckpointError: also if what leads from the tower to the embedding is missing.
        """
        config = _tower_config(config_of(source, **at))
        if config.model_type == "clip_vision_model":
            _check_projection(Checkpoint(str(source), **at))
        return config


def _check_projection(checkpoint: Checkpoint) -> None:
    if PROJECTION not in checkpoint.tensors:
        raise CheckpointError(
            f"{checkpoint}: {PROJECTION} is missing, which leads from the image tower to the embedding. Save the tower "
            "with its projection (CLIPVisionModelWithProjection), or take the whole CLIPModel."
        )


def _tower_config(config: PreTrainedConfig) -> PreTrainedConfig:
    tower: Any = copy.deepcopy(getattr(config, "vision_config", config))
    if hasattr(config, "projection_dim"):  # CLIP: that of the whole model is the one its weights follow
        tower.projection_dim = config.projection_dim
    made: PreTrainedConfig = tower
    return made


def prompts(
    label_names: Sequence[str], templates: Sequence[str], class_texts: Mapping[str, str] | None = None
) -> list[list[str]]:
    """The texts of each class: its name in every template, underscores as spaces and the first of its synonyms.

    Two classes whose first synonyms are the same keep all of theirs.

    Args:
        label_names: in the order of the classes.
        templates: each with one {} where the class goes.
        class_texts: what to call a class instead of its name, for any of them.
    Raises:
        InputError: if there is no template, one has no place for the class or several, a class text belongs to no
            class, or two classes get the same texts.

    >>> prompts(["tabby, tabby_cat", "dog"], ["a {}."])
    [['a tabby.'], ['a dog.']]
    >>> prompts(["n02", "n01"], ["a {}."], {"n01": "goldfish", "n02": "bird"})
    [['a bird.'], ['a goldfish.']]
    """
    check_templates(templates)
    place = index_by_label(label_names)
    places = {name: place(name) for name in class_texts or {}}
    given = {
        name if (at := places[name]) is None else label_names[at]: text for name, text in (class_texts or {}).items()
    }
    _check_known(given, label_names)
    called = {name: text for name, text in zip(label_names, _called(label_names), strict=True)} | dict(given)
    _check_apart(called)
    return [[template.replace("{}", called[name]) for template in templates] for name in label_names]


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates that do not say where the class goes.

    Raises:
        InputError: if there is none, or one has not exactly one {}.
    """
    if not templates:
        raise InputError('a zero-shot model needs at least one template, such as "a photo of a {}."')
    for template in templates:
        if template.count("{}") != 1:
            places = template.count("{}")
            raise InputError(
                f"the template {template!r} has {'no place' if not places else f'{places} places'} for the class. "
                'Put one {} in it, as in "a photo of a {}."'
            )


def _called(label_names: Sequence[str]) -> list[str]:
    whole = [name.replace("_", " ").strip() for name in label_names]
    short = [name.split(",")[0].strip() for name in whole]
    return [all_ if short.count(first) > 1 else first for all_, first in zip(whole, short, strict=True)]


def _check_known(given: Mapping[str, str], label_names: Sequence[str]) -> None:
    unknown = sorted(set(given) - set(label_names))
    if unknown:
        raise InputError(
            f"class_texts speak of {_some(unknown)}, but the data have no such class; theirs are {_some(label_names)}. "
            "Write each class as the data do."
        )
    empty = sorted(name for name, text in given.items() if not text.strip())
    if empty:
        raise InputError(f"class_texts are empty for {_some(empty)}. Write what such an image shows, or leave it out.")


def _check_apart(called: Mapping[str, str]) -> None:
    """Classes with one text get one logit: no image could ever be told apart."""
    owners: dict[str, list[str]] = {}
    for name, text in called.items():
        owners.setdefault(text.casefold(), []).append(name)
    for text, names in owners.items():
        if len(names) > 1:
            raise InputError(
                f"the classes {_some(names)} are called {text!r}, so a text tower cannot tell them apart. "
                "Give them different class_texts or names."
            )


def _some(names: Sequence[str], most: int = 6) -> str:
    first = ", ".join(repr(name) for name in names[:most])
    return first + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True, eq=False, slots=True)
class TextHead:
    """The last layer of a zero-shot classifier, in float32, for image embeddings of length one."""

    weight: Float[torch.Tensor, "classes width"]
    bias: Float[torch.Tensor, " classes"]

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Copy it into the model's last linear layer.

        Raises:
            CheckpointError: if that layer is of another shape.
        """
        layer = final_linear(model)
        if layer.weight.shape != self.weight.shape:
            raise CheckpointError(
                f"the text tower gives {tuple(self.weight.shape)} for classes and width, the image tower's head is "
                f"{tuple(layer.weight.shape)}: the two were not trained together. Take another checkpoint."
            )
        layer.weight.copy_(self.weight)
        layer.bias.copy_(self.bias)


def text_head(
    source: str | Path,
    label_names: Sequence[str],
    templates: Sequence[str],
    class_texts: Mapping[str, str] | None = None,
    **at: Unpack[InRepo],
) -> TextHead:
    """The head whose logits are those of the whole CLIP or SigLIP asked about the classes' texts.

    Each class's unit embeddings are averaged and put on the unit sphere again. The rows of the weight are that, times
    the model's own scale: exp(logit_scale). The bias is 0 for CLIP and logit_bias for SigLIP.

    Args:
        source: a checkpoint with both towers and a tokenizer.
        label_names: in the order of the logits.
        templates: each with one {} for the class.
        class_texts: what to call a class instead of its name.
    Raises:
        InputError: if the texts do not fit the classes, or are longer than the text tower reads.
        CheckpointError: if there is no text tower or no tokenizer.
    """
    from transformers import AutoModelForZeroShotImageClassification

    texts, checkpoint = prompts(label_names, templates, class_texts), Checkpoint(source, **at)
    _check_text_tower(checkpoint)
    model: Any = load_own_head(AutoModelForZeroShotImageClassification, source, **at)
    unit = _class_directions(model, load_tokenizer(checkpoint.processor_folder), texts, checkpoint)
    with torch.no_grad():
        scale, bias = model.logit_scale.exp(), getattr(model, "logit_bias", torch.zeros(1))
        return TextHead(scale * unit, bias.reshape(1).repeat(len(unit)))


def _check_text_tower(checkpoint: Checkpoint) -> None:
    kind = checkpoint.config.get("model_type")
    if kind not in BOTH_TOWERS or not any(name.startswith(TEXT_TOWER) for name in checkpoint.tensors):
        raise CheckpointError(
            f"{checkpoint}: a zero-shot head is made by the text tower, which is missing here (the "
            f"config's model_type is {kind!r}). Give the whole CLIP or SigLIP, as its authors published it, or another "
            "head.init: linear-probe or shared-random."
        )


@torch.no_grad()
def _class_directions(
    model: Any, tokenizer: Any, texts: Sequence[Sequence[str]], checkpoint: Checkpoint
) -> Float[torch.Tensor, "classes width"]:
    flat = [text for of_class in texts for text in of_class]
    longest = model.config.text_config.max_position_embeddings
    features = []
    for start in range(0, len(flat), TEXTS_AT_ONCE):
        # SigLIP pools the last place, padding or not, so all texts are of full length; CLIP does not mind
        tokens = tokenizer(flat[start : start + TEXTS_AT_ONCE], padding="max_length", max_length=longest)["input_ids"]
        _check_length(tokens, flat[start:], longest, checkpoint)
        embeddings = model.get_text_features(input_ids=torch.tensor(tokens)).pooler_output
        features.append(nn.functional.normalize(embeddings.float(), dim=-1))
    by_class = torch.cat(features).view(len(texts), -1, features[0].shape[-1])
    return nn.functional.normalize(by_class.mean(dim=1), dim=-1)


def _check_length(tokens: Sequence[Sequence[int]], texts: Sequence[str], longest: int, checkpoint: Checkpoint) -> None:
    for row, text in zip(tokens, texts, strict=False):
        if len(row) > longest:
            raise InputError(
                f"{checkpoint}: its text tower reads {longest} tokens, but {text!r} has {len(row)}. Shorten the "
                "template, or give the class a shorter text (class_texts)."
            )


@dataclass(frozen=True)
class ZeroShot(Clip):
    """A CLIP or SigLIP with both towers, asked about these classes."""

    name: str = "zero-shot"
    label_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = TEMPLATES

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Both towers; one that was fine-tuned with a head is an image classifier like others."""
        return has_both_towers(config)

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """The image tower with the classes' texts as its head; in eval mode.

        The texts are read in float32 whatever `dtype` is, so that a saved classifier loaded in it is the same.

        Raises:
            CheckpointError: if it cannot be loaded, or there is no text tower or no tokenizer.
            InputError: if the templates do not fit.
        """
        head = text_head(source, self.label_names, self.templates, **in_repo(how))
        dtype = how.pop("dtype", torch.float32)
        loaded = Clip().load_with_new_head(source, label_names=self.label_names, **how)
        head.put_into(loaded.model)
        loaded.model.to(dtype)  # type: ignore[arg-type]
        return loaded.model

    def load_with_new_head(self, source: str | Path, **_: Any) -> Loaded:
        """Not for this family: its head is text."""
        raise CheckpointError(
            f"{place(source)}: asked zero-shot, a CLIP has no head to fine-tune. Start with head.init: zero-shot."
        )


def write_zero_shot(
    source: str | Path,
    label_names: Sequence[str],
    templates: Sequence[str],
    out: Path,
    **at: Unpack[InRepo],
) -> None:
    """Write a zero-shot classifier as an ordinary checkpoint with its image processor, in float32, into `out`.

    Raises:
        CheckpointError: if the source is no CLIP or SigLIP with both towers and a tokenizer.
        InputError: if the templates do not fit.
    """
    family = ZeroShot(label_names=tuple(label_names), templates=tuple(templates))
    with quiet():
        family.load(source, **at).save_pretrained(out)
        family.processor(source, **at).save_pretrained(out)
