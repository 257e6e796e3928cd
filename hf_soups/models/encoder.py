"""Text classifiers with a head: encoders (BERT and its like), and encoder-decoders (T5, BART), whose head reads the
decoder where the text ends."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float, Int64

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.models.family import Batch, Encoded, Family
from hf_soups.models.loading import (
    UNLIMITED,
    HowLoaded,
    InRepo,
    Loaded,
    config_of,
    load_tokenizer,
    named_model,
    place,
    readable,
)
from hf_soups.models.tokens import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

# RoBERTa and its like count positions from the padding index on, by this function: 514 places hold 512 tokens
FROM_PADDING = "create_position_ids_from_input_ids"
T5_TYPES = ("t5", "mt5", "umt5")
FLOAT16 = ("fp16", "float16")


@dataclass(frozen=True)
class Encoders(Family):
    """AutoModelForSequenceClassification on one text or a pair, but for models with an encoder and a decoder."""

    name: str = "encoder"
    kinds: tuple[str, ...] = ("text", "text-pair")

    def auto(self) -> Any:
        """See `Family.auto`."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """See `Family.accepts`."""
        return super().accepts(config) and not config.get("is_encoder_decoder")

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The tokenizer, which must know a padding token; it pads on the side on which answers do not change."""
        tokenizer = load_tokenizer(source, **at)
        with readable(source, at.get("subfolder"), "tokenizer.json"):
            tokenizer.model_max_length = _limit_of(tokenizer)
        if tokenizer.pad_token_id is None:
            raise CheckpointError(
                f"{place(source, **at)}: its tokenizer has no padding token, so rows of different length "
                "cannot be put in one batch. Decoders such as GPT-2 are published so: use an encoder (BERT, RoBERTa, "
                "DistilBERT, MiniLM), or save the checkpoint with a pad_token in tokenizer and config."
            )
        checkpoint = Checkpoint(source, at.get("revision"), at.get("subfolder"))
        if (checkpoint.folder / "config.json").is_file():  # not of a tokenizer alone
            _fit_to_model(tokenizer, self.auto(), config_of(source, **at))
        return tokenizer

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        return encode_texts(split, processor, task, data, cache)

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """See `Family.logits`."""
        check_ids(model, batch["input_ids"])
        return super().logits(model, batch)


def _limit_of(tokenizer: Any) -> int:
    """How many tokens a row may have by the tokenizer's own file; -1, 1e30 and infinity are no limits."""
    limit = tokenizer.model_max_length
    if limit == -1 or limit >= UNLIMITED:
        return UNLIMITED
    if not limit > 0 or limit % 1:
        raise ValueError(f"model_max_length is {limit}, not a number of tokens")
    return int(limit)


def _fit_to_model(tokenizer: Any, auto: Any, config: PreTrainedConfig) -> None:
    """Let the tokenizer cut rows at the length that the model reads, and pad where that changes no answer.

    A model that numbers positions counts from the left end of a batch, so padding there would shift the words. XLNet's
    and BLOOM's have no numbers, and XLNet's head reads the last place: they stay as their tokenizers pad.
    """
    made = auto._model_mapping[type(config)]
    if tokenizer.padding_side == "left" and "position_ids" in inspect.signature(made.forward).parameters:
        tokenizer.padding_side = "right"
    places = getattr(config, "max_position_embeddings", None) or 0
    module = sys.modules[made.__module__]
    if any(hasattr(part, FROM_PADDING) for part in (module, *vars(module).values())):
        places -= config.pad_token_id + 1
    if 0 < places < tokenizer.model_max_length:
        tokenizer.model_max_length = places


def longest_row(model: torch.nn.Module) -> int | None:
    """How many tokens a row may have; None where the model sets no limit."""
    config = getattr(model, "config", None)
    places = getattr(config, "max_position_embeddings", None)
    if places is None or places < 1:  # XLNet says -1
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


@dataclass(frozen=True)
class EncoderDecoders(Encoders):
    """AutoModelForSequenceClassification of an encoder with a decoder; a T5 in float16 is refused."""

    name: str = "encoder-decoder"

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """See `Family.accepts`."""
        return Family.accepts(self, config) and bool(config.get("is_encoder_decoder"))

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """See `Family.load`."""
        check_dtype(source, **how)
        return super().load(source, **how)

    def load_with_new_head(self, source: str | Path, **given: Any) -> Loaded:
        """See `Family.load_with_new_head`."""
        check_dtype(source, **given)
        return super().load_with_new_head(source, **given)

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The tokenizer, which must end every row with the token that the head reads."""
        tokenizer = super().processor(source, **at)
        if tokenizer("a")["input_ids"][-1:] != [tokenizer.eos_token_id]:
            raise CheckpointError(
                f"{place(source, **at)}: its tokenizer does not end rows with an end-of-sequence token, which "
                "the head of an encoder-decoder reads. Save the checkpoint with the tokenizer it was trained with."
            )
        _end_rows_once(tokenizer)
        return tokenizer


def _end_rows_once(tokenizer: Any) -> None:
    """Read "</s>" inside a text as a space: with one end more than others of its batch the model refuses the row."""
    from tokenizers import normalizers

    def ends(text: str) -> int:
        return int(tokenizer(text)["input_ids"].count(tokenizer.eos_token_id))

    tokenizer.split_special_tokens = True
    end = tokenizer.eos_token
    if ends(f"a {end} a") > ends("a a"):  # a vocabulary of unigrams holds it as an ordinary piece too
        own = tokenizer.backend_tokenizer.normalizer
        spaced = normalizers.Replace(end, " ")
        tokenizer.backend_tokenizer.normalizer = spaced if own is None else normalizers.Sequence([spaced, own])


def check_dtype(source: str | Path, *, dtype: torch.dtype | None = None, **how: Any) -> None:
    """`check_precision` for a checkpoint before it is loaded."""
    if dtype == torch.float16:
        at = {key: how.get(key) for key in ("revision", "subfolder")}
        check_precision(config_of(source, **at).to_dict(), "float16", place(source, **at))


def check_precision(config: Mapping[str, Any], precision: str, who: str) -> None:
    """Refuse a T5 in float16.

    Raises:
        CheckpointError: with the reason.
    """
    if config.get("model_type") in T5_TYPES and precision in FLOAT16:
        raise CheckpointError(
            f"{who}: a T5 in float16. It was trained in bfloat16, and activations of its feed-forward layers grow past "
            "65504, the largest float16, and become infinite. Use float32 or bfloat16 (train.precision: no or bf16; "
            "--dtype float32 or bfloat16)."
        )
