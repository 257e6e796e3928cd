"""Zero-shot CLIP as an answerer: the classes are texts, and an image belongs to the text nearest to it.

Each class name is put into one or more templates; their embeddings are averaged on the unit sphere, and the logits are
the cosines times CLIP's own scale. The text tower works once, then only the image tower is kept.
Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import nn

from hf_soups.errors import CheckpointError, InputError
from hf_soups.families.family import Batch, Encoded, Loaded
from hf_soups.families.loading import load_own_head, place, quiet, readable, where
from hf_soups.families.vision import Vision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.tasks import Task

TEMPLATES = ("a photo of a {}.",)
TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """A CLIPModel asked about these classes."""

    label_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = TEMPLATES
    name: str = "zero-shot"
    kinds: tuple[str, ...] = ("image",)

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """CLIP with both towers; a CLIP that was fine-tuned with a head is an image classifier like others."""
        return config.get("model_type") == "clip" and "CLIPForImageClassification" not in (
            config.get("architectures") or ()
        )

    def load(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        dtype: torch.dtype = torch.float32,
        attention: str | None = None,
    ) -> PreTrainedModel:
        """The image tower with the classes' text embeddings as its head; in eval mode.

        Raises:
            CheckpointError: if it cannot be loaded, or there is no tokenizer beside it.
            InputError: if a template has no place for the class.
        """
        from transformers import AutoTokenizer, CLIPModel

        texts = prompts(self.label_names, self.templates)
        clip = load_own_head(
            CLIPModel, source, revision=revision, subfolder=subfolder, dtype=dtype, attention=attention
        )
        with readable(source, subfolder), quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(source), **where(revision, subfolder))
        return cast("PreTrainedModel", ZeroShotClassifier(clip, _text_head(clip, tokenizer, texts)).eval())

    def load_with_new_head(self, source: str | Path, **_: Any) -> Loaded:
        """Not for this family: its head is text."""
        raise CheckpointError(
            f"{place(source)}: a zero-shot CLIP has no head to fine-tune. Choose an image classifier."
        )

    def processor(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        image_size: int | None = None,
    ) -> Any:
        """The image processor."""
        return Vision().processor(source, revision=revision, subfolder=subfolder, image_size=image_size)

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        return Vision().encode(split, processor, task, data, cache)

    def logits(self, model: nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """See `Family.logits`."""
        logits: torch.Tensor = model(pixel_values=batch["pixel_values"]).logits
        return logits


class ZeroShotClassifier(nn.Module):
    """CLIP's image tower and a head of unit vectors, one for each class."""

    def __init__(self, clip: Any, head: Float[torch.Tensor, "classes width"]) -> None:
        super().__init__()
        self.config = clip.config
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().float().exp(), requires_grad=False)
        self.head = nn.Parameter(head, requires_grad=False)

    def forward(self, pixel_values: Float[torch.Tensor, "batch channels height width"]) -> SimpleNamespace:
        """`.logits` (batch, classes) in float32."""
        kind = self.visual_projection.weight.dtype
        image = self.visual_projection(self.vision_model(pixel_values=pixel_values.to(kind)).pooler_output)
        cosines = nn.functional.linear(nn.functional.normalize(image.float(), dim=-1), self.head)
        return SimpleNamespace(logits=self.logit_scale * cosines)

    def set_attn_implementation(self, name: str) -> None:
        """As transformers' models have it; MACs are counted with eager attention."""
        self.vision_model.set_attn_implementation(name)
        self.config._attn_implementation = name


def prompts(label_names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """The texts of each class: its name in every template, underscores as spaces and the first of its synonyms.

    Two classes whose first synonyms are the same keep all of theirs.

    Raises:
        InputError: if there is no template, or one has no place for the class or several.

    >>> prompts(["tabby, tabby_cat", "dog"], ["a {}."])
    [['a tabby.'], ['a dog.']]
    """
    if not templates:
        raise InputError('a zero-shot model needs at least one template, such as "a photo of a {}."')
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(
                f'the template {template!r} has no place for the class. Put one {{}} in it, as in "a photo of a {{}}."'
            )
    whole = [name.replace("_", " ").strip() for name in label_names]
    short = [name.split(",")[0].strip() for name in whole]
    called = [all_ if short.count(first) > 1 else first for all_, first in zip(whole, short, strict=True)]
    return [[template.replace("{}", name) for template in templates] for name in called]


@torch.no_grad()
def _text_head(clip: Any, tokenizer: Any, texts: Sequence[Sequence[str]]) -> Float[torch.Tensor, "classes width"]:
    """Unit embeddings of all texts, averaged over each class's and put on the unit sphere again."""
    flat = [text for of_class in texts for text in of_class]
    features = []
    for start in range(0, len(flat), TEXTS_AT_ONCE):
        longest = clip.config.text_config.max_position_embeddings
        tokens = tokenizer(
            flat[start : start + TEXTS_AT_ONCE], padding="max_length", truncation=True, max_length=longest,
            return_tensors="pt",
        )  # fmt: skip
        told = clip.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        features.append(nn.functional.normalize(told.pooler_output.float(), dim=-1))
    by_class = torch.cat(features).view(len(texts), -1, features[0].shape[-1])
    return nn.functional.normalize(by_class.mean(dim=1), dim=-1)
