"""Family: what differs between kinds of models, and Encoded: the rows of a split as a model reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

Batch = dict[str, torch.Tensor]
Image = UInt8[np.ndarray, "height width channels"]
Augment = Callable[[Image, int], Image]  # an image and its row id


class InRepo(TypedDict, total=False):
    """Where inside a repo a checkpoint lies: by default the newest commit's top folder."""

    revision: str | None
    subfolder: str | None


class HowLoaded(InRepo, total=False):
    """Where a model lies, and how it computes: by default in float32, with the attention that its class prefers."""

    dtype: torch.dtype
    attention: str | None


def in_repo(how: HowLoaded) -> InRepo:
    """The place alone."""
    return {"revision": how.get("revision"), "subfolder": how.get("subfolder")}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and the names of its parameters that do not come from the checkpoint."""

    model: PreTrainedModel
    new_parameters: tuple[str, ...]


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


class Family(Protocol):
    """What differs between kinds of models: how they are loaded, fed and read."""

    @property
    def name(self) -> str:
        """How run.json and errors call it."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of tasks it takes."""

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of this config.json belongs to this family."""

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """The model with its own head, in eval mode.

        Raises:
            CheckpointError: if it cannot be loaded, or has no head.
        """

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

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The tokenizer, or the image processor set to `image_size`."""

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """The rows as the model reads them, made once and kept in `cache` for all processes.

        Raises:
            DataError: naming the row that cannot be read.
        """

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """The logits in float32, whatever the model's precision."""
