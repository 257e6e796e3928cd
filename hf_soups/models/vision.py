"""Image classifiers: ViT, DeiT, Swin, and the CNNs ResNet, EfficientNet and MobileNetV2 with their BatchNorm."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from hf_soups.errors import CheckpointError
from hf_soups.models.family import Encoded, Family
from hf_soups.models.loading import InRepo, Loaded, load_image_processor, place, quiet, readable
from hf_soups.models.pixels import check_processor, check_side, encode_images, resized_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task


@dataclass(frozen=True)
class Vision(Family):
    """AutoModelForImageClassification on RGB images."""

    name: str = "vision"
    kinds: tuple[str, ...] = ("image",)

    def auto(self) -> Any:
        """See `Family.auto`."""
        from transformers import AutoModelForImageClassification

        return AutoModelForImageClassification

    def load_with_new_head(self, source: str | Path, *, image_size: int | None = None, **given: Any) -> Loaded:
        """See `Family.load_with_new_head`; position embeddings are interpolated once, by the model's own rule."""
        loaded = super().load_with_new_head(source, **given)
        if image_size is None:
            return loaded
        return replace(loaded, model=for_image_size(loaded.model, image_size, place(source, **given)))

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The image processor that works with PIL, so that images do not depend on whether torchvision is there."""
        processor = load_image_processor(source, **at)
        with readable(source, at.get("subfolder"), "preprocessor_config.json"):
            check_processor(processor)
        return resized_processor(processor, image_size)

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        return encode_images(split, processor, task, data, cache)


def for_image_size(model: PreTrainedModel, size: int, at: str) -> PreTrainedModel:
    """The model for images of `size` pixels: other position embeddings where it has them, else as it is.

    Raises:
        CheckpointError: if it cannot be set to that size; `at` names it.
    """
    from transformers import AutoModelForImageClassification

    if answers_at(model, size):
        return model
    check_side(size)
    config = copy.deepcopy(model.config)
    _tower(config).image_size = size
    state = model.state_dict() | _positions(model, size, at)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            other = AutoModelForImageClassification.from_config(
                config, dtype=model.dtype, attn_implementation=model.config._attn_implementation
            )
        other.load_state_dict(state)
        other.eval()
        with torch.inference_mode():
            other(torch.zeros(1, _tower(config).num_channels, size, size, dtype=model.dtype))
    except (RuntimeError, ValueError) as error:
        raise _cannot_resize(model, size, at, str(error)) from error
    return other  # type: ignore[no-any-return]


def answers_at(model: torch.nn.Module, size: int) -> bool:
    """Whether the model takes images of `size` pixels as it is; models without a size of their own take any."""
    return getattr(_tower(model.config), "image_size", size) in (size, [size, size], (size, size))


def _tower(config: Any) -> Any:
    """The part of a config that speaks of images."""
    return getattr(config, "vision_config", None) or config


def _positions(model: torch.nn.Module, size: int, at: str) -> dict[str, torch.Tensor]:
    """Position embeddings for that size, under their names in the model's state."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(getattr(module, "position_embeddings", None), torch.nn.Parameter):  # ViT, DeiT
            table: Any = module.position_embeddings
            patches: Any = module.patch_embeddings
            found[f"{name}.position_embeddings"] = _interpolated(module, table, patches.num_patches, size, at)
        elif hasattr(module, "patch_embedding") and hasattr(module, "position_embedding"):  # CLIP, SigLIP
            rows: Any = module.position_embedding.weight
            count: Any = module.num_patches
            found[f"{name}.position_embedding.weight"] = _interpolated(module, rows[None], count, size, at)[0]
    return found


@torch.no_grad()
def _interpolated(embeddings: Any, table: torch.Tensor, patches: int, size: int, at: str) -> torch.Tensor:
    rule, patch = getattr(embeddings, "interpolate_pos_encoding", None), getattr(embeddings, "patch_size", None)
    if rule is None or not isinstance(patch, int) or size % patch:
        raise _cannot_resize(embeddings, size, at, f"its patches are of {patch} pixels")
    tokens = (size // patch) ** 2 + table.shape[1] - patches
    resized: torch.Tensor = rule(table.new_empty(1, tokens, table.shape[2]), size, size)
    return resized.clone()


def _cannot_resize(model: torch.nn.Module, size: int, at: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{at}: {type(model).__name__} cannot be set to images of {size} pixels ({why.strip()[:200]}). "
        "Choose another data.image_size, a multiple of the model's patch size, or leave it out."
    )
