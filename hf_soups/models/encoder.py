"""Text encoders with a classification head: BERT, DistilBERT, RoBERTa, MiniLM and their like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float, Int64

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.configs import check_tokenizer
from hf_soups.models.family import Batch, Encoded, HowLoaded, InRepo, Loaded, in_repo
from hf_soups.models.loading import (
    answering,
    config_of,
    load_new_head,
    load_own_head,
    named_model,
    place,
    quiet,
    readable,
    registered,
    where,
)
from hf_soups.models.tokens import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task


@dataclass(frozen=True)  # no slots: they break super() in EncoderDecoders
class Encoders:
    """AutoModelForSequenceClassification on one text or a pair."""

    name: str = "encoder"
    kinds: tuple[str, ...] = ("text", "text-pair")

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Every architecture that transformers classifies texts with, but those with an encoder and a decoder."""
        from transformers import AutoModelForSequenceClassification
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

        model_type = config.get("model_type")
        known = model_type in KNOWN or registered(AutoModelForSequenceClassification, model_type)
        return known and not config.get("is_encoder_decoder")

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """See `Family.load`."""
        from transformers import AutoModelForSequenceClassification

        return load_own_head(AutoModelForSequenceClassification, source, **how)

    def load_with_new_head(
        self,
        source: str | Path,
        *,
        label_names: Sequence[str],
        seed: int = 0,
        image_size: int | None = None,
        **how: Unpack[HowLoaded],
    ) -> Loaded:
        """See `Family.load_with_new_head`."""
        from transformers import AutoModelForSequenceClassification

        if image_size is not None:
            raise InputError("data.image_size is for images; this task's rows are texts. Leave it out.")
        config = config_of(source, **in_repo(how))
        return load_new_head(
            AutoModelForSequenceClassification, source, label_names=label_names, seed=seed, config=config, **how
        )

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The tokenizer, which must know a padding token."""
        from transformers import AutoTokenizer
        from transformers.models.auto.tokenization_auto import get_tokenizer_config

        with readable(source, at.get("subfolder"), "tokenizer.json"), quiet():
            check_tokenizer(get_tokenizer_config(str(source), **where(**at)), place(source, at.get("subfolder")))
            tokenizer = AutoTokenizer.from_pretrained(str(source), **where(**at))
            if not 0 < tokenizer.model_max_length < math.inf or tokenizer.model_max_length % 1:
                raise ValueError(f"model_max_length is {tokenizer.model_max_length}, not a number of tokens")
        if tokenizer.pad_token_id is None:
            raise CheckpointError(
                f"{place(source, at.get('subfolder'))}: "
                "its tokenizer has no padding token, so rows of different length "
                "cannot be put in one batch. Decoders such as GPT-2 are published so: use an encoder (BERT, RoBERTa, "
                "DistilBERT, MiniLM), or save the checkpoint with a pad_token in tokenizer and config."
            )
        return tokenizer

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        return encode_texts(split, processor, task, data, cache)

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """See `Family.logits`."""
        check_ids(model, batch["input_ids"])
        with answering(model, batch["input_ids"]):
            logits: torch.Tensor = model(**batch).logits
        return logits.float()


def longest_row(model: torch.nn.Module) -> int | None:
    """How many tokens a row may have; None where the model sets no limit."""
    config = getattr(model, "config", None)
    places = getattr(config, "max_position_embeddings", None)
    if places is None:
        return None
    # RoBERTa and its like count positions from the padding index on: 514 places hold 512 tokens
    embeddings = getattr(getattr(model, "base_model", None), "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    offset = getattr(table, "padding_idx", None)
    return int(places if offset is None else places - offset - 1)


def check_ids(model: torch.nn.Module, ids: Int64[torch.Tensor, "batch tokens"]) -> None:
    """Refuse rows longer than the model takes, and tokens that it has no embedding of.

    Raises:
        InputError: with the length to set.
        CheckpointError: if tokenizer and weights do not belong together.
    """
    longest, tokens = longest_row(model), ids.shape[1]
    if longest is not None and tokens > longest:
        raise InputError(
            f"a row has {tokens} tokens, but {type(model).__name__} takes {longest}. Set data.max_length: {longest}."
        )
    get: Any = getattr(model, "get_input_embeddings", None)
    words = None if get is None else getattr(get(), "num_embeddings", None)
    if words is not None and ids.numel() and not ids.is_cuda and int(ids.max()) >= words:
        raise CheckpointError(
            f"{named_model(model)}: its tokenizer gives the token {int(ids.max())}, but it has embeddings of {words}; "
            "they do not belong together. Save the checkpoint with the tokenizer that it was trained with."
        )
