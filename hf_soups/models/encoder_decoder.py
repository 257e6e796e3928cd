"""Encoder-decoders with a new classification head, which reads the decoder where the text ends: T5, BART."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from hf_soups.errors import CheckpointError
from hf_soups.models.encoder import Encoders
from hf_soups.models.family import HowLoaded, InRepo, Loaded
from hf_soups.models.loading import config_of, place
from hf_soups.models.t5 import check_training_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class EncoderDecoders(Encoders):
    """AutoModelForSequenceClassification of an encoder with a decoder."""

    name: str = "encoder-decoder"

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Every encoder-decoder that transformers classifies texts with."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

        return config.get("model_type") in KNOWN and bool(config.get("is_encoder_decoder"))

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """See `Family.load`; a T5 in float16 is refused."""
        _check_dtype(source, how)
        return super().load(source, **how)

    def load_with_new_head(self, source: str | Path, **given: Any) -> Loaded:
        """See `Family.load_with_new_head`; a T5 in float16 is refused."""
        _check_dtype(source, given)
        return super().load_with_new_head(source, **given)

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The tokenizer, which must end every row with the token that the head reads."""
        tokenizer = super().processor(source, **at)
        if tokenizer("a")["input_ids"][-1:] != [tokenizer.eos_token_id]:
            raise CheckpointError(
                f"{place(source, at.get('subfolder'))}: "
                "its tokenizer does not end rows with an end-of-sequence token, which "
                "the head of an encoder-decoder reads. Save the checkpoint with the tokenizer it was trained with."
            )
        _end_rows_once(tokenizer)
        return tokenizer


def _end_rows_once(tokenizer: Any) -> None:
    """Read "</s>" inside a text as a space: with one end more than others of its batch the model refuses the row."""
    from tokenizers import normalizers

    tokenizer.split_special_tokens = True
    end = tokenizer.eos_token
    if tokenizer(f"a {end} a")["input_ids"].count(tokenizer.eos_token_id) > tokenizer("a a")["input_ids"].count(
        tokenizer.eos_token_id
    ):  # a vocabulary of unigrams holds it as an ordinary piece too
        own = tokenizer.backend_tokenizer.normalizer
        spaced = normalizers.Replace(end, " ")
        tokenizer.backend_tokenizer.normalizer = spaced if own is None else normalizers.Sequence([spaced, own])


def _check_dtype(source: str | Path, how: Mapping[str, Any]) -> None:
    if how.get("dtype") == torch.float16:
        config = config_of(source, revision=how.get("revision"), subfolder=how.get("subfolder")).to_dict()
        check_training_precision(config, "float16", place(source, how.get("subfolder")))
