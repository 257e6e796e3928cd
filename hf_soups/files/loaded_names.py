"""Names of tensors as transformers loads them: without what wrappers add, and in today's spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hf_soups.files.tensorfile import TensorInfo

# Segments that a wrapper adds to every name below it, and the model inside is saved with them unless it is unwrapped.
WRAPPERS = {
    "module": "DataParallel or DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
# What transformers renames when it loads weights of early versions, of any model ("legacy" in its conversion mapping).
EARLIER = {
    r"LayerNorm\.gamma": "LayerNorm.weight",
    r"LayerNorm\.beta": "LayerNorm.bias",
    r"\.weight_g$": ".parametrizations.weight.original0",
    r"\.weight_v$": ".parametrizations.weight.original1",
}
# Buffers that models make themselves: some versions stored them, others do not, and loading ignores what is stored.
SELF_MADE = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|original_inv_freq|relative_position_index|num_batches_tracked"
    r"|masked_bias|attn_mask|attn\.bias|attention\.bias|crossattention\.bias)$"
)

# The last linear layer of transformers' classifiers: classifier, classifier.1, classifier.out_proj, score, ...
HEAD = re.compile(
    r"(^|\.)(classifier|score|fc|head|(cls|distillation)_classifier|classification_head)"
    r"(\.\d+|\.out_proj|\.out)?\.(weight|bias)$"
)


def wrapper_of(names: Iterable[str]) -> str | None:
    """The wrapper's segment that every name starts with or, where it cannot be anything else, that some hold.

    >>> wrapper_of(["module.x", "module.y"]), wrapper_of(["bert._orig_mod.x"]), wrapper_of(["module.x", "x"])
    ('module', '_orig_mod', None)
    """
    split = [name.split(".") for name in names]
    if split and all(len(segments) > 1 and segments[0] == "module" for segments in split):
        return "module"
    inside = {segment for segments in split for segment in segments[:-1]}
    return next((w for w in WRAPPERS if w != "module" and w in inside), None)


def wrappers_of(names: Iterable[str]) -> tuple[str, ...]:
    """All wrappers around one model, in the order in which they are taken off."""
    found, left = [], list(names)
    while (wrapper := wrapper_of(left)) is not None:
        found.append(wrapper)
        left = [_unwrapped(name, wrapper) for name in left]
    return tuple(found)


def _unwrapped(name: str, wrapper: str) -> str:
    if wrapper == "module":
        return name.removeprefix("module.")
    return ".".join(segment for segment in name.split(".") if segment != wrapper)


def loaded_names(stored: Iterable[str]) -> dict[str, str]:
    """Stored name -> the name that it is loaded by.

    >>> loaded_names(["module.a.LayerNorm.gamma", "module.b"])
    {'module.a.LayerNorm.gamma': 'a.LayerNorm.weight', 'module.b': 'b'}
    """
    names = list(stored)
    wrappers = wrappers_of(names)
    renamed = {name: _renamed(name, wrappers) for name in names}
    return renamed if len(set(renamed.values())) == len(names) else {name: name for name in names}


def _renamed(name: str, wrappers: Iterable[str]) -> str:
    for wrapper in wrappers:
        name = _unwrapped(name, wrapper)
    for pattern, now in EARLIER.items():
        name = re.sub(pattern, now, name)
    return name


def key_mapping(stored: Iterable[str]) -> Mapping[str, str]:
    """What from_pretrained needs to be given to find tensors behind wrappers; empty for all others."""
    patterns = {}
    for wrapper in wrappers_of(stored):
        at_start = r"^module\." if wrapper == "module" else rf"(?<![^.]){wrapper}\."
        patterns[at_start] = ""
    return patterns


def loaded_aliases(aliases: Mapping[str, str], loaded_by: Mapping[str, str]) -> dict[str, str]:
    """A file's tied tensors (name -> the stored one it stands for) by the names that they are loaded by."""
    wrappers = wrappers_of(loaded_by)
    return {_renamed(name, wrappers): loaded_by.get(kept, kept) for name, kept in aliases.items()}


def vocabulary_rows(config: Mapping[str, Any]) -> int | None:
    """The rows of its tables of tokens, as config.json says."""
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) else None


def longer_rows(
    own: Mapping[str, TensorInfo],
    other: Mapping[str, TensorInfo],
    own_config: Mapping[str, Any],
    other_config: Mapping[str, Any],
) -> dict[str, int]:
    """Tensors with a row for each token that have more of them in the other checkpoint, and how many there."""
    sizes = vocabulary_rows(own_config), vocabulary_rows(other_config)
    if None in sizes or sizes[0] == sizes[1]:
        return {}
    found = {}
    for name in own.keys() & other.keys():
        a, b = own[name].shape, other[name].shape
        if a[:1] + b[:1] == sizes and a[1:] == b[1:] and b[0] > a[0] and not HEAD.search(name):
            found[name] = b[0]
    return found
