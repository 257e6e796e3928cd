"""T5 and its kin answering with label words: text in, and the label whose word the decoder finds likeliest.

The words lie behind one another in one decoder row, each seeing itself alone, so encoder and cross-attention run once
for all of them. That is exact because T5 knows positions only by their distance.
Source: Raffel et al. 2020, arXiv:1910.10683.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float, Int64

from hf_soups.errors import CheckpointError
from hf_soups.models.encoder import check_ids
from hf_soups.models.family import Batch, HowLoaded
from hf_soups.models.label_words import LabelWords
from hf_soups.models.loading import place
from hf_soups.models.prompted import NO_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T5_TYPES = ("t5", "mt5", "umt5")
FLOAT16 = ("fp16", "float16")


@dataclass(frozen=True)
class TextToText(LabelWords):
    """AutoModelForSeq2SeqLM of T5's kind: v1.0, v1.1, Flan, mT5 and umT5."""

    name: str = "text-to-text"

    def auto(self) -> Any:
        """See `LabelWords.auto`."""
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    def takes(self, config: Mapping[str, Any]) -> bool:
        """See `LabelWords.takes`."""
        return config.get("model_type") in T5_TYPES

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """See `Family.load`; float16 is refused."""
        check_precision(str(how.get("dtype")).removeprefix("torch."), place(source, how.get("subfolder")))
        return super().load(source, **how)

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """Each label's word's log-probability, the end of the sequence with it: one word may begin another."""
        check_ids(model, batch["input_ids"])
        words = batch["label_ids"]
        config: Any = getattr(model, "module", model).config
        start = config.pad_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        rows, labels, tokens = words.shape
        logits = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=_decoder_row(words, start, config.pad_token_id),
            decoder_attention_mask=_each_word_alone(labels, tokens, next(model.parameters())),
            use_cache=False,
        ).logits
        return word_scores(logits.view(rows, labels, tokens, -1), words)


def word_scores(
    logits: Float[torch.Tensor, "batch labels tokens vocabulary"], words: Int64[torch.Tensor, "batch labels tokens"]
) -> Float[torch.Tensor, "batch labels"]:
    """Log-probability of each word, the sum over its tokens, in float32."""
    logits, real = logits.float(), words != NO_TOKEN
    own = logits.gather(-1, words.clamp(min=0)[..., None])[..., 0]
    return ((own - logits.logsumexp(dim=-1)) * real).sum(dim=-1)


def _decoder_row(
    words: Int64[torch.Tensor, "batch labels tokens"], start: int, pad: int
) -> Int64[torch.Tensor, "batch all_tokens"]:
    """What the decoder reads: every word one place to the right, the start token before each."""
    shifted = torch.full_like(words, start)
    shifted[..., 1:] = words[..., :-1].masked_fill(words[..., :-1] == NO_TOKEN, pad)
    return shifted.flatten(1)


def _each_word_alone(labels: int, tokens: int, like: torch.Tensor) -> Float[torch.Tensor, "1 1 all all"]:
    """Added to the attention: 0 where a token looks back inside its own word, else the lowest number."""
    inside = torch.eye(labels).kron(torch.ones(tokens, tokens).tril())
    lowest = torch.finfo(like.dtype).min
    mask: torch.Tensor = ((1 - inside) * lowest).to(like)
    return mask[None, None]


def check_precision(precision: str, who: str) -> None:
    """Refuse float16.

    Raises:
        CheckpointError: with the reason.
    """
    if precision in FLOAT16:
        raise CheckpointError(
            f"{who}: a T5 in float16. It was trained in bfloat16, and activations of its feed-forward layers grow past "
            "65504, the largest float16, and become infinite. Use float32 or bfloat16 (train.precision: no or bf16; "
            "--dtype float32 or bfloat16)."
        )


def check_training_precision(config: Mapping[str, Any], precision: str, who: str) -> None:
    """Refuse to fine-tune a T5 in mixed float16.

    Raises:
        CheckpointError: with the reason.
    """
    if config.get("model_type") in T5_TYPES:
        check_precision(precision, who)
