"""Masked language models answering with label words: the label whose word fits best where the mask stands.

Source: Gao et al. 2021, arXiv:2012.15723 (prompt-based fine-tuning).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64

from hf_soups.models.encoder import check_ids
from hf_soups.models.family import Batch
from hf_soups.models.label_words import LabelWords

_AT: ContextVar[torch.Tensor | None] = ContextVar("places of the masks", default=None)
_HOOKED = "_hf_soups_keeps_masks"


@dataclass(frozen=True)
class MaskedWords(LabelWords):
    """AutoModelForMaskedLM on one text or a pair in a prompt with a mask."""

    name: str = "masked-words"
    masked: bool = True

    def auto(self) -> Any:
        """See `LabelWords.auto`."""
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def takes(self, config: Mapping[str, Any]) -> bool:
        """Encoders that transformers fills masks with."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as KNOWN

        return config.get("model_type") in KNOWN and not config.get("is_encoder_decoder")

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """Log-probability of each label's word among all words at the mask."""
        inputs = {name: value for name, value in batch.items() if name not in ("label_ids", "mask_at")}
        check_ids(model, batch["input_ids"])
        with _masks_alone(getattr(model, "module", model), batch["mask_at"]):
            logits = model(**inputs).logits
        if logits.shape[1] > 1:
            logits = _kept(logits, batch["mask_at"])
        words: torch.Tensor = logits[:, 0].float().log_softmax(dim=-1)
        return words.gather(1, batch["label_ids"][:, :, 0])


@contextmanager
def _masks_alone(model: Any, at: Int64[torch.Tensor, " batch"]) -> Iterator[None]:
    """Give the layer that tells words the masks alone.

    For all tokens it adds a quarter to BERT-base's multiply-adds, and a vocabulary of floats for each token.
    The hook stays on the model and does nothing but in this block of this thread.
    """
    body = model.base_model
    if body is not model and not hasattr(body, _HOOKED):
        body.register_forward_hook(_keep_masks)
        setattr(body, _HOOKED, True)
    token = _AT.set(at)
    try:
        yield
    finally:
        _AT.reset(token)


def _keep_masks(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
    at = _AT.get()
    if at is None or "last_hidden_state" not in output:
        return None
    output["last_hidden_state"] = _kept(output["last_hidden_state"], at)
    return output


def _kept(
    values: Float[torch.Tensor, "batch tokens width"], at: Int64[torch.Tensor, " batch"]
) -> Float[torch.Tensor, "batch 1 width"]:
    return values[torch.arange(len(at), device=at.device), at][:, None]
