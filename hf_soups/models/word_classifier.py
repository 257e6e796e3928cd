"""Classifying texts with a label-word checkpoint in two lines: the stock text-classification pipeline loads none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_soups.errors import CheckpointError, InputError
from hf_soups.models.label_words import LabelWords
from hf_soups.models.loading import config_of, place
from hf_soups.models.prompted import PromptedTokenizer
from hf_soups.models.registry import LABEL_WORDS

Row = str | tuple[str, str]
Answer = list[dict[str, Any]]  # {"label": ..., "score": ...}, the likeliest first


@dataclass(frozen=True, eq=False)
class WordClassifier:
    """A loaded label-word model that takes raw texts.

    classify = WordClassifier.load("me/my-soup")
    classify(["A text.", "Another one."])
    """

    family: LabelWords
    model: Any
    processor: PromptedTokenizer
    label_names: tuple[str, ...]

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
    ) -> WordClassifier:
        """Load a folder or Hub repo.

        Args:
            source: with label words and prompt in its config.json, as hf_soups writes them.
            revision: of the repo.
            subfolder: inside it.
            dtype: float32 or bfloat16; a T5 in float16 is refused.
            device: default: the GPU where there is one.
        Raises:
            CheckpointError: if it holds no label-word model.
        """
        config = config_of(source, revision=revision, subfolder=subfolder)
        about = config.to_dict()
        family = next((family.bound(about) for family in LABEL_WORDS if family.accepts(about)), None)
        if family is None:
            raise CheckpointError(
                f"{place(source, subfolder)}: no model with label words; its config.json has none. Load a classifier "
                'with a head by pipeline("text-classification").'
            )
        model = family.load(source, revision=revision, subfolder=subfolder, dtype=dtype)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        processor = family.processor(source, revision=revision, subfolder=subfolder)
        names: dict[Any, str] = dict(config.id2label or {})
        return cls(family, model, processor, tuple(names[i] for i in range(len(names))))

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row], *, max_length: int | None = None) -> list[Answer]:
        """Every label with its probability, for each text or pair of texts.

        Args:
            rows: texts, or pairs (text, text) where the prompt takes two; one batch.
            max_length: tokens of a row; default: as many as the tokenizer allows.
        Raises:
            InputError: if a row is no text, or no pair where the model takes pairs.
        """
        if isinstance(rows, str):
            raise InputError("give a list of texts, or of pairs of texts; got one text.")
        if not rows:
            return []
        texts = [(row,) if isinstance(row, str) else tuple(row) for row in rows]
        batch = self.processor.read(texts, max_length).batch(np.arange(len(texts)))
        logits = self.family.logits(self.model, {k: v.to(self.model.device) for k, v in batch.items()})
        return [self._in_order(scores) for scores in logits.softmax(dim=-1).tolist()]

    def _in_order(self, scores: list[float]) -> Answer:
        told = [{"label": n, "score": s} for n, s in zip(self.label_names, scores, strict=True)]
        return sorted(told, key=lambda one: -float(one["score"]))
