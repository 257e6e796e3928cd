"""What the stock image-classification pipeline loads beside a cascade: it hands images on as they are."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor


class CascadeImageProcessor(BaseImageProcessor):
    """Images for `CascadeForImageClassification`, whose members each read what reaches them by their own processor."""

    model_input_names = ["images"]  # noqa: RUF012  # a list, as in its base

    def __call__(self, images: Any, *_: Any, **__: Any) -> BatchFeature:  # type: ignore[override]  # takes no options
        """One image, or several, as the model takes them."""
        return BatchFeature({"images": list(images) if isinstance(images, list | tuple) else [images]})

    preprocess = __call__
