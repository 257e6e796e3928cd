"""The pipeline `cascade-image-classification`: used as `image-classification` is, with the same answers."""

from __future__ import annotations

import base64
import os
from typing import Any

import numpy as np
import torch
import transformers

from hf_soups.data.pictures import picture
from hf_soups.errors import DataError
from hf_soups.pipelines.cascade import CascadePipeline

MOST_FETCHED = 2**28  # bytes of an image behind a URL
StockImages: Any = transformers.ImageClassificationPipeline  # its signatures are too narrow for what is inherited


class CascadeImageClassificationPipeline(CascadePipeline, StockImages):  # type: ignore[misc]
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
        """One RGB image, or a large one that is decoded when a member reads it.

        Raises:
            DataError: if it cannot be fetched or read.
        """
        where = f"the image {_told(image)}"
        try:
            return picture(_encoded(image, timeout) if isinstance(image, str) else _array(image), where)
        except DataError:
            raise
        except Exception as error:  # of the network, or of what was given
            raise DataError(f"{where} cannot be read ({str(error)[:200]}).") from error

    def postprocess(
        self,
        model_outputs: Any,
        function_to_apply: Any = None,
        top_k: int = 5,
        return_exits: bool = False,
    ) -> list[dict[str, Any]]:
        """The `top_k` best labels of one row."""
        return self.ranked(model_outputs, top_k, function_to_apply, return_exits)


def _encoded(image: str, timeout: float | None) -> str | bytes:
    """The path of a file, or what a URL or base64 text stands for: the texts that the stock pipeline takes."""
    if image.startswith(("http://", "https://")):
        return _fetched(image, timeout)
    if os.path.isfile(image):  # noqa: PTH113 (False for what is too long to be a path)
        return image
    text = image.split(",", 1)[1] if image.startswith("data:image/") else image
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise ValueError("no such file, no URL and no base64 text") from error


def _fetched(url: str, timeout: float | None) -> bytes:
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client's own, whichever package it is

    found = bytearray()
    with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as answer:
        answer.raise_for_status()
        for part in answer.iter_bytes():
            found += part
            if len(found) > MOST_FETCHED:
                raise ValueError(f"more than {MOST_FETCHED:,} bytes")
    return bytes(found)


def _array(image: Any) -> Any:
    """Arrays and tensors with their channels last; other things as they are."""
    if not isinstance(image, np.ndarray | torch.Tensor):
        return image
    values = np.asarray(image)
    if values.dtype != np.uint8:
        raise ValueError(f"an array of {values.dtype}; expected 8-bit values, 0 to 255")
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = values.transpose(1, 2, 0)
    return values


def _told(image: Any) -> str:
    if isinstance(image, str):
        return image if len(image) <= 200 else f"{image[:60]}... ({len(image)} characters)"
    return f"given as {type(image).__name__}"
