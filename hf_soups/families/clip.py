"""CLIP and SigLIP as image classifiers: the image tower, and a head that reads the embedding at length one.

The start may be the whole model as published, with both towers, or an image tower alone; what is saved is the image
tower with its head (`clip_model`). A head made of texts needs the text tower, once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError
from hf_soups.families.family import Batch, Encoded, HowLoaded, InRepo, Loaded, in_repo
from hf_soups.families.loading import config_of, load_new_head, place
from hf_soups.families.vision import Vision, for_image_size

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.tasks import Task

BOTH_TOWERS = ("clip", "siglip")
PROJECTION = "visual_projection.weight"  # in CLIP; SigLIP has none
IMAGE_TOWER = ("clip_vision_model", "siglip_vision_model")


def has_both_towers(config: Mapping[str, Any]) -> bool:
    """Whether config.json is of a CLIP or SigLIP with an image and a text tower.

    Both towers' configs also stand in that of transformers' own image classifiers, whose text tower is gone.
    """
    heads = [name for name in config.get("architectures") or () if name.endswith("ForImageClassification")]
    return config.get("model_type") in BOTH_TOWERS and not heads


@dataclass(frozen=True, slots=True)
class Clip:
    """The image tower of CLIP or SigLIP with a linear head on the unit sphere."""

    name: str = "clip"
    kinds: tuple[str, ...] = ("image",)

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
                f"{place(source, how.get('subfolder'))}: "
                "a CLIP as published has no head of its own. Make one from texts or a "
                "linear probe (head.init: zero-shot or linear-probe), or ask it zero-shot in a pool (--template)."
            )
        return Vision().load(source, **how)

    def load_with_new_head(
        self,
        source: str | Path,
        *,
        label_names: Sequence[str],
        seed: int = 0,
        image_size: int | None = None,
        **how: Unpack[HowLoaded],
    ) -> Loaded:
        """See `Family.load_with_new_head`; of a whole model the image tower is taken.

        Raises:
            CheckpointError: also if what leads from the tower to the embedding is missing.
        """
        from transformers import AutoModelForImageClassification

        config = _tower_config(config_of(source, **in_repo(how)))
        if config.model_type == "clip_vision_model":
            _check_projection(Checkpoint(str(source), **in_repo(how)))
        loaded = load_new_head(
            AutoModelForImageClassification, source, label_names=label_names, seed=seed, config=config,
            **how,
        )  # fmt: skip
        if image_size is None:
            return loaded
        return replace(loaded, model=for_image_size(loaded.model, image_size, place(source, how.get("subfolder"))))

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The image processor."""
        return Vision().processor(source, image_size=image_size, **at)

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        return Vision().encode(split, processor, task, data, cache)

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """See `Family.logits`."""
        return Vision().logits(model, batch)


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
    return tower  # type: ignore[no-any-return]
