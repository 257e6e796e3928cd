"""A head made of texts: the text tower of a CLIP or SigLIP says where each class lies, once, and is then not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.families.anatomy import final_linear
from hf_soups.families.class_texts import prompts
from hf_soups.families.loading import load_own_head, place, quiet, readable, where

TEXTS_AT_ONCE = 256
TOWER = "text_model."  # how the names of a text tower's tensors begin, in CLIP and in SigLIP
TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


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
    *,
    revision: str | None = None,
    subfolder: str | None = None,
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
    texts = prompts(label_names, templates, class_texts)
    _check_text_tower(source, revision, subfolder)
    model = _both_towers(source, revision, subfolder)
    tokenizer = _tokenizer(source, revision, subfolder)
    unit = _class_directions(model, tokenizer, texts, place(source, subfolder))
    with torch.no_grad():
        scale, bias = model.logit_scale.exp(), getattr(model, "logit_bias", torch.zeros(1))
        return TextHead(scale * unit, bias.reshape(1).repeat(len(unit)))


def _check_text_tower(source: str | Path, revision: str | None, subfolder: str | None) -> None:
    at = Checkpoint(str(source), revision=revision, subfolder=subfolder)
    kind = at.config.get("model_type")
    if kind not in ("clip", "siglip") or not any(name.startswith(TOWER) for name in at.tensors):
        raise CheckpointError(
            f"{place(source, subfolder)}: a zero-shot head is made by the text tower, which is missing here (the "
            f"config's model_type is {kind!r}). Give the whole CLIP or SigLIP, as its authors published it, or another "
            "head.init: linear-probe or shared-random."
        )


def _both_towers(source: str | Path, revision: str | None, subfolder: str | None) -> Any:
    from transformers import AutoModelForZeroShotImageClassification

    return load_own_head(
        AutoModelForZeroShotImageClassification, source, revision=revision, subfolder=subfolder, dtype=torch.float32
    )


def _tokenizer(source: str | Path, revision: str | None, subfolder: str | None) -> Any:
    from transformers import AutoTokenizer

    folder = Checkpoint(str(source), revision=revision, subfolder=subfolder).processor_folder
    # without these files transformers makes a tokenizer that knows no words, and says nothing
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(
            f"{place(source, subfolder)}: there is no tokenizer beside the text tower (looked for "
            f"{', '.join(TOKENIZERS)}). Save the tokenizer of the model that it comes from into the folder."
        )
    with readable(source, subfolder), quiet():
        return AutoTokenizer.from_pretrained(str(folder), **where(None, None))


@torch.no_grad()
def _class_directions(
    model: Any, tokenizer: Any, texts: Sequence[Sequence[str]], at: str
) -> Float[torch.Tensor, "classes width"]:
    flat = [text for of_class in texts for text in of_class]
    longest = model.config.text_config.max_position_embeddings
    features = []
    for start in range(0, len(flat), TEXTS_AT_ONCE):
        # SigLIP pools the last place, padding or not, so all texts are of full length; CLIP does not mind
        tokens = tokenizer(flat[start : start + TEXTS_AT_ONCE], padding="max_length", max_length=longest)["input_ids"]
        _check_length(tokens, flat[start:], longest, at)
        told = model.get_text_features(input_ids=torch.tensor(tokens)).pooler_output
        features.append(nn.functional.normalize(told.float(), dim=-1))
    by_class = torch.cat(features).view(len(texts), -1, features[0].shape[-1])
    return nn.functional.normalize(by_class.mean(dim=1), dim=-1)


def _check_length(tokens: Sequence[Sequence[int]], texts: Sequence[str], longest: int, at: str) -> None:
    for row, text in zip(tokens, texts, strict=False):
        if len(row) > longest:
            raise InputError(
                f"{at}: its text tower reads {longest} tokens, but {text!r} has {len(row)}. Shorten the template, or "
                "give the class a shorter text (class_texts)."
            )
