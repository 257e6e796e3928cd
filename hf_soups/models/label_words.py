"""What label-word models share: the wording in their config, and texts that are read in a prompt. No head is new.

Fine-tuning takes the one training loop of all families: cross-entropy over the labels, whose scores are the words'
log-probabilities normalised over the labels. The T5 paper instead raises the probability of the right word among all
words; here only its lead over the other labels' words counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from jaxtyping import Float

from hf_soups.errors import CheckpointError, InputError
from hf_soups.models.encoder import Encoders
from hf_soups.models.family import Batch, Encoded, HowLoaded, InRepo, Loaded, in_repo
from hf_soups.models.loading import config_of, labelled, load_own_head, place
from hf_soups.models.prompted import PromptedTokenizer, word_ids_of
from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY, Wording, wording_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task


@dataclass(frozen=True)  # no slots: they break super() in the classes below it
class LabelWords(ABC):
    """A language model whose answer is the likeliest of the labels' words."""

    wording: Wording | None = None  # None: as in the checkpoint's config.json
    name: str = "label-words"
    kinds: tuple[str, ...] = ("text", "text-pair")
    masked: bool = False

    @abstractmethod
    def auto(self) -> Any:
        """The AutoModelFor... class that loads it."""

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
        return load_own_head(
            self.auto(),
            source,
            advice="Label words need a language model with the layer that gives words: take such a checkpoint, or a "
            "head of its own (head.init: shared-random).",
            **how,
        )

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
        if image_size is not None:
            raise InputError("data.image_size is for images; this task's rows are texts. Leave it out.")
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
        tokenizer = Encoders().processor(source, **at)
        wording = self._wording(source, at)
        ids = word_ids_of(tokenizer, wording.words, masked=self.masked, who=place(source, at.get("subfolder")))
        return PromptedTokenizer(tokenizer, wording, ids)

    def encode(self, split: Split, processor: Any, task: Task, data: Data, cache: Path | None = None) -> Encoded:
        """See `Family.encode`."""
        encoded: Encoded = processor.encode(split, task, data, cache)
        return encoded

    def _wording(self, source: str | Path, at: InRepo) -> Wording:
        config = {} if self.wording else config_of(source, **at).to_dict()
        wording = self.wording or wording_of(config)
        if wording is None:
            raise CheckpointError(
                f"{place(source, at.get('subfolder'))}: "
                f"its config.json holds no {WORDS_KEY} and {PROMPT_KEY}. Make a start "
                "with head.init: label-words."
            )
        return wording
