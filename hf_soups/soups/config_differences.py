"""What two config.json make a model compute differently: every value as transformers reads it, defaults filled in.

Whatever differs counts, but for a named list of keys that change no answer, and keys that the config's class ignores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY

# Said nowhere: where a config comes from, what is compared by itself (labels, architecture, rows of the vocabulary),
# and how tensors are stored.
UNSAID = frozenset({
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "id2label",
    "label2id", "num_labels", "_num_labels", "architectures", "model_type", "vocab_size", "tie_word_embeddings",
    "tokenizer_class", "processor_class", "finetuning_task", "problem_type", WORDS_KEY, PROMPT_KEY,
})  # fmt: skip
# Named in a warning: what only training, generating text or the form of an answer reads.
NEUTRAL = frozenset({
    "use_cache", "output_attentions", "output_hidden_states", "output_scores", "return_dict",
    "return_dict_in_generate", "torchscript", "use_bfloat16", "chunk_size_feed_forward", "gradient_checkpointing",
    "task_specific_params", "prefix", "auto_map", "attn_implementation", "_attn_implementation",
    "_attn_implementation_autoset", "_attn_implementation_internal", "initializer_range", "initializer_factor",
    "init_std", "init_xavier_std", "initializer_cutoff_factor", "layer_scale_init_value",
    "initializer_std", "embed_init_std", "layer_norm_init", "logit_scale_init_value", "router_aux_loss_coef",
    "router_z_loss_coef", "router_jitter_noise", "input_jitter_noise", "output_router_logits", "aux_loss_coef",
    "auxiliary_loss_weight", "semantic_loss_ignore_index", "use_mems_train", "label_smoothing",
    "apply_spec_augment", "mask_time_prob", "mask_feature_prob",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "bos_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
})  # fmt: skip
# Dropout of any kind (hidden_dropout_prob, attn_pdrop, drop_path_rate) is off when a model answers; switches such as
# ESM's token_dropout are not.
NEUTRAL_PART = "drop"
UNSET = frozenset({"pad_token_id", "eos_token_id"})  # one that is null says nothing against the other's
MOST = 6  # keys in a message


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """Keys whose values differ; those of nested configs as "text_config.hidden_act"."""

    function: Mapping[str, tuple[Any, Any]]  # key -> the first's value, the other's: the models compute other things
    ignored: tuple[str, ...]  # no answer depends on them, or the config's class does not know them

    @property
    def values(self) -> str:
        """What differs, the other's value first."""
        some = [f"{key} is {b!r}, but {a!r}" for key, (a, b) in list(self.function.items())[:MOST]]
        return "; ".join(some) + ("; ..." if len(self.function) > MOST else "")


def compare_configs(first: Mapping[str, Any], other: Mapping[str, Any]) -> ConfigDifference:
    """What two config.json of one model_type make a model compute differently."""
    if _said(first) == _said(other):
        return ConfigDifference({}, ())
    a, b, known = _effective(first, other)
    function: dict[str, tuple[Any, Any]] = {}
    ignored = []
    for key in sorted(a.keys() | b.keys()):
        last, values = key.rpartition(".")[2], (a.get(key), b.get(key))
        if values[0] == values[1] or last in UNSAID:
            continue
        rate = NEUTRAL_PART in last and not any(isinstance(value, bool) for value in values)
        harmless = last in NEUTRAL or rate or (last in UNSET and None in values)
        if harmless or (known is not None and key.partition(".")[0] not in known):
            ignored += [key] * any(values)  # one that is off, or not there, is no difference
        else:
            function[key] = values
    kinds = problem_kind(first), problem_kind(other)
    if kinds[0] != kinds[1]:
        function["problem_type"] = kinds
    return ConfigDifference(function, tuple(ignored))


def problem_kind(config: Mapping[str, Any]) -> str:
    """How a classifier's logits are read, also where config.json does not say it."""
    said = config.get("problem_type")
    if said:
        return str(said)
    labels = config.get("num_labels") or len(config.get("id2label") or {}) or 2
    return "regression" if labels == 1 else "single_label_classification"


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in UNSAID}
    return {**kept, "problem_type": problem_kind(config)}


def _effective(
    first: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], frozenset[str] | None]:
    """Both as transformers reads them, and the keys that it knows; as they are where it cannot read them."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from hf_soups.models.loading import quiet

    kind = str(first.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return dict(_entries(first)), dict(_entries(other)), None
    cls = CONFIG_MAPPING[kind]
    try:
        with quiet():
            a, b = (cls.from_dict(json.loads(json.dumps(dict(c)))).to_dict() for c in (first, other))
    except Exception:  # of a config's own checks, nearly anything
        return dict(_entries(first)), dict(_entries(other)), None
    try:
        with quiet():
            known = frozenset(cls().to_dict())
    except Exception:  # one that is made of others needs to be given them
        known = None
    return dict(_entries(a)), dict(_entries(b)), known


def _entries(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its key, those of inner objects as "rope_parameters.rope_theta"."""
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in UNSAID | NEUTRAL:
            yield from _entries(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", list(value) if isinstance(value, tuple) else value
