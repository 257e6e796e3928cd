"""Family: what differs between kinds of models, and Encoded: the rows of a split as a model reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from hf_soups.errors import InputError
from hf_soups.models.loading import (
    HowLoaded,
    InRepo,
    Loaded,
    answering,
    config_of,
    in_repo,
    knows,
    load_new_head,
    load_own_head,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

Batch = dict[str, torch.Tensor]
Image = UInt8[np.ndarray, "height width channels"]
Augment = Callable[[Image, int], Image]  # an image and its row id


class Encoded(Protocol):
    """The rows of a split, encoded once; batches are gathered from memory-mapped files."""

    @property
    def row_ids(self) -> np.ndarray:
        """Of the split, in its order."""

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row; 1 for images."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """The rows at `indices`, padded to the longest of them; `augment` changes images, and only them."""


@dataclass(frozen=True)  # no slots: they break super() in the families
class Family(ABC):
    """What differs between kinds of models: how they are loaded, fed and read.

    The defaults are those of a classifier that one of transformers' AutoModelFor... classes loads. `Encoders` adds how
    texts are read, `Vision` how images are: a new family starts from one of these and overrides what differs.
    """

    name: str  # in run.json and errors
    kinds: tuple[str, ...]  # of tasks that it takes

    @abstractmethod
    def auto(self) -> Any:
        """The AutoModelFor... class that loads it."""

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of this config.json belongs to this family: what `auto` loads, registered classes too."""
        return knows(self.auto(), config.get("model_type"))

    def bound(self, config: Mapping[str, Any]) -> Self:
        """This family for one model, where that model's config.json says how it is read."""
        return self

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """The model with its own head, in eval mode.

        Raises:
            CheckpointError: if it cannot be loaded, or has no head.
        """
        return load_own_head(self.auto(), source, **how)

    def load_with_new_head(
        self,
        source: str | Path,
        *,
        label_names: Sequence[str],
        seed: int = 0,
        image_size: int | None = None,
        **how: Unpack[HowLoaded],
    ) -> Loaded:
        """The model with a new random head, the same for the same `seed` in any process; in eval mode.

        `image_size` (pixels, images only) fits the model to other images than it was trained on.
        """
        check_no_image_size(image_size)
        config = self.start_config(source, **in_repo(how))
        return load_new_head(self.auto(), source, label_names=label_names, seed=seed, config=config, **how)

    def start_config(self, source: str | Path, **at: Unpack[InRepo]) -> PreTrainedConfig:
        """The config of the classifier that is made of a checkpoint.

        Raises:
            CheckpointError: if none can be made of it.
        """
        return config_of(source, **at)

    @abstractmethod
    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The tokenizer, or the image processor set to `image_size`."""

    @abstractmethod
    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """The rows as the model reads them, made once and kept in `cache` for all processes.

        Raises:
            DataError: naming the row that cannot be read.
        """

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """The logits in float32, whatever the model's precision."""
        with answering(model, next(iter(batch.values()))):
            logits: torch.Tensor = model(**batch).logits
        return logits.float()


def check_no_image_size(image_size: int | None) -> None:
    """Refuse a size of images for a model of texts."""
    if image_size is not None:
        raise InputError("data.image_size is for images; this task's rows are texts. Leave it out.")
