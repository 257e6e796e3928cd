"""Language models that answer with label words: text in a prompt, and the label whose word the model finds likeliest.

No head is new. Fine-tuning takes the one training loop of all families: cross-entropy over the labels, whose scores are
the words' log-probabilities normalised over the labels. The T5 paper instead raises the probability of the right word
among all words; here only its lead over the other labels' words counts.
Sources: Raffel et al. 2020, arXiv:1910.10683 (T5); Gao et al. 2021, arXiv:2012.15723 (masked models with prompts).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int64

from hf_soups.errors import CheckpointError, InputError
from hf_soups.models.encoder import T5_TYPES, Encoders, check_dtype, check_ids
from hf_soups.models.family import Batch, Encoded, check_no_image_size
from hf_soups.models.loading import HowLoaded, InRepo, Loaded, config_of, in_repo, labelled, load_own_head, place
from hf_soups.models.tokens import NO_TOKEN, PromptedTokenizer, word_ids_of
from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY, Wording, wording_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task


@dataclass(frozen=True)
class LabelWords(Encoders):
    """A language model whose answer is the likeliest of the labels' words."""

    name: str = "label-words"
    wording: Wording | None = None  # None: as in the checkpoint's config.json
    masked: bool = False

    @abstractmethod
    def takes(self, config: Mapping[str, Any]) -> bool:
        """Whether a base model of this config.json can be given label words."""

    @abstractmethod
    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """Log-probability of each label's word, in float32; normalised over the labels they are the answer."""

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """A model that was given label words, and no classifier that was made of one later."""
        later = any(str(a).endswith("ForSequenceClassification") for a in config.get("architectures") or ())
        return not later and self.takes(config) and wording_of(config) is not None

    def bound(self, config: Mapping[str, Any]) -> Self:
        """This family with the wording of one model's config."""
        return self if self.wording is not None else replace(self, wording=wording_of(config))

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """See `Family.load`."""
        advice = (
            "Label words need a language model with the layer that gives words: take such a checkpoint, or a head of "
            "its own (head.init: shared-random)."
        )
        return load_own_head(self.auto(), source, advice=advice, **how)

    def load_with_new_head(
        self,
        source: str | Path,
        *,
        label_names: Sequence[str],
        seed: int = 0,
        image_size: int | None = None,
        **how: Unpack[HowLoaded],
    ) -> Loaded:
        """The model as it is, with label names, words and prompt in its config; nothing is new, whatever the seed."""
        check_no_image_size(image_size)
        wording = self._wording(source, in_repo(how))
        if len(wording.words) != len(label_names):
            raise InputError(f"{len(wording.words)} label words {list(wording.words)} for {len(label_names)} labels.")
        model = self.load(source, **how)
        labelled(model.config, label_names)
        setattr(model.config, WORDS_KEY, list(wording.words))
        setattr(model.config, PROMPT_KEY, wording.prompt)
        return Loaded(model, ())

    def processor(self, source: str | Path, *, image_size: int | None = None, **at: Unpack[InRepo]) -> Any:
        """The tokenizer with prompt and words."""
        tokenizer = super().processor(source, **at)
        wording = self._wording(source, at)
        ids = word_ids_of(tokenizer, wording.words, masked=self.masked, who=place(source, **at))
        return PromptedTokenizer(tokenizer, wording, ids)

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        encoded: Encoded = processor.encode(split, task, data, cache)
        return encoded

    def _wording(self, source: str | Path, at: InRepo) -> Wording:
        wording = self.wording or wording_of(config_of(source, **at).to_dict())
        if wording is None:
            raise CheckpointError(
                f"{place(source, **at)}: its config.json holds no {WORDS_KEY} and {PROMPT_KEY}. Make a start with "
                "head.init: label-words."
            )
        return wording


@dataclass(frozen=True)
class TextToText(LabelWords):
    """AutoModelForSeq2SeqLM of T5's kind: v1.0, v1.1, Flan, mT5 and umT5; the decoder gives the words."""

    name: str = "text-to-text"

    def auto(self) -> Any:
        """See `Family.auto`."""
        from transformers import AutoModelForSeq2SeqLM

        return AutoModelForSeq2SeqLM

    def takes(self, config: Mapping[str, Any]) -> bool:
        """See `LabelWords.takes`."""
        return config.get("model_type") in T5_TYPES

    def load(self, source: str | Path, **how: Unpack[HowLoaded]) -> PreTrainedModel:
        """See `Family.load`; float16 is refused."""
        check_dtype(source, **how)
        return super().load(source, **how)

    def logits(self, model: torch.nn.Module, batch: Batch) -> Float[torch.Tensor, "batch classes"]:
        """Each label's word's log-probability, the end of the sequence with it: one word may begin another.

        The words lie behind one another in one decoder row, each seeing itself alone, so encoder and cross-attention
        run once for all of them. That is exact because T5 knows positions only by their distance.
        """
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


@dataclass(frozen=True)
class MaskedWords(LabelWords):
    """AutoModelForMaskedLM on one text or a pair in a prompt with a mask, which the words fill."""

    name: str = "masked-words"
    masked: bool = True

    def auto(self) -> Any:
        """See `Family.auto`."""
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM

    def takes(self, config: Mapping[str, Any]) -> bool:
        """Encoders that transformers fills masks with."""
        return Encoders.accepts(self, config)

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


_AT: ContextVar[torch.Tensor | None] = ContextVar("places of the masks", default=None)
_HOOKED = "_hf_soups_keeps_masks"


@contextmanager
def _masks_alone(model: Any, at: Int64[torch.Tensor, " batch"]) -> Iterator[None]:
    """Give the layer that scores words the masks alone.

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


LABEL_WORDS: tuple[LabelWords, ...] = (TextToText(), MaskedWords())

Row = str | tuple[str, str]
Answer = list[dict[str, Any]]  # {"label": ..., "score": ...}, the likeliest first


@dataclass(frozen=True, eq=False)
class WordClassifier:
    """A loaded label-word model that takes raw texts: the stock text-classification pipeline loads none.

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
        at: InRepo = {"revision": revision, "subfolder": subfolder}
        config = config_of(source, **at)
        about = config.to_dict()
        family = next((family.bound(about) for family in LABEL_WORDS if family.accepts(about)), None)
        if family is None:
            raise CheckpointError(
                f"{place(source, **at)}: no model with label words; its config.json has none. Load a classifier "
                'with a head by pipeline("text-classification").'
            )
        model = family.load(source, dtype=dtype, **at)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        names: dict[Any, str] = dict(config.id2label or {})
        return cls(family, model, family.processor(source, **at), tuple(names[i] for i in range(len(names))))

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
        answer = [{"label": name, "score": score} for name, score in zip(self.label_names, scores, strict=True)]
        return sorted(answer, key=lambda one: -float(one["score"]))
