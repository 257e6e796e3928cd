"""CLIP and SigLIP as image classifiers: the image tower, and a head that reads the embedding at length one.

The start may be the whole model as published, with both towers, or an image tower alone; what is saved is the image
tower with its head (`clip_model`). A head made of texts needs the text tower, once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError
from hf_soups.models.family import HowLoaded, InRepo, in_repo
from hf_soups.models.loading import config_of, place
from hf_soups.models.vision import Vision

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

BOTH_TOWERS = ("clip", "siglip")
PROJECTION = "visual_projection.weight"  # in CLIP; SigLIP has none
IMAGE_TOWER = ("clip_vision_model", "siglip_vision_model")


def has_both_towers(config: Mapping[str, Any]) -> bool:
    """Whether config.json is of a CLIP or SigLIP with an image and a text tower.

    Both towers' configs also stand in that of transformers' own image classifiers, whose text tower is gone.
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
                f"{place(source, how.get('subfolder'))}: a CLIP as published has no head of its own. Make one from "
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
