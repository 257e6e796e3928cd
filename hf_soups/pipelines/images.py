"""The pipeline `cascade-image-classification`: used as `image-classification` is, with the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from transformers.image_utils import load_image

from hf_soups.errors import DataError
from hf_soups.pipelines.cascade import CascadePipeline

Stock: Any = transformers.ImageClassificationPipeline  # its signatures are too narrow for what is inherited


class CascadeImageClassificationPipeline(CascadePipeline, Stock):  # type: ignore[misc]
    """Image classification by a cascade.

    Takes URLs, paths, PIL images and arrays of 8-bit values, one or a list, generator or data set of them; `top_k`
    (default 5), `function_to_apply`, `timeout`, `batch_size` and `num_workers` are as in the stock pipeline.
    `return_exits=True` adds "exit" (stage), "members" (that the row met) and "cost" to each answer.
    """

    stock_task = "image-classification"

    def _sanitize_parameters(
        self, return_exits: bool | None = None, **parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        before, during, after = super()._sanitize_parameters(**parameters)
        return before, during, after if return_exits is None else {**after, "return_exits": return_exits}

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:
        """One RGB image.

        Raises:
            DataError: if it cannot be fetched or read.
        """
        try:
            return load_image(_from_array(image), timeout=timeout)
        except Exception as error:  # broken files make PIL's decoders raise nearly anything
            raise DataError(f"the image {_told(image)} cannot be read ({str(error)[:200]}).") from error

    def postprocess(
        self,
        model_outputs: Any,
        function_to_apply: Any = None,
        top_k: int = 5,
        return_exits: bool = False,
    ) -> list[dict[str, Any]]:
        """The `top_k` best labels of one row."""
        return self.ranked(model_outputs, top_k, function_to_apply, return_exits)


def _from_array(image: Any) -> Any:
    if not isinstance(image, np.ndarray | torch.Tensor):
        return image
    from PIL import Image

    values = np.asarray(image)
    if values.dtype != np.uint8:
        raise ValueError(f"an array of {values.dtype}; expected 8-bit values, 0 to 255")
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = values.transpose(1, 2, 0)
    return Image.fromarray(values)


def _told(image: Any) -> str:
    if isinstance(image, str):
        return image if len(image) <= 200 else f"{image[:60]}... ({len(image)} characters)"
    return f"given as {type(image).__name__}"
