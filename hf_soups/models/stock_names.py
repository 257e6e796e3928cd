"""The names that transformers gives a checkpoint's tensors when it loads them, asked of a model without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.models.loading import config_of, fitting


def stock_names(checkpoint: Checkpoint) -> Mapping[str, str] | None:
    """Each tensor's name -> its name in the model; those that transformers ignores are left out.

    None where that is not known: another library's class, weights that are joined or split while they are loaded, or
    parameters that the checkpoint lacks.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    model = _without_memory(checkpoint)
    if model is None:
        return None
    own = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters: list[Any] = [t for t in transforms if not isinstance(t, WeightRenaming)]
    named = {}
    for name in checkpoint.tensors:
        loaded, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, own)
        if converter is not None:
            return None
        if loaded in own:
            named[name] = loaded
    whole = len(set(named.values())) == len(named) and _covers(model, set(named.values()))
    return named if whole else None


def _covers(model: torch.nn.Module, loaded: set[str]) -> bool:
    """Whether each parameter is loaded, by one of its names where it is tied."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return all(names_of_one & loaded for names_of_one in names.values())


def _without_memory(checkpoint: Checkpoint) -> Any:
    """The model of its class on torch's meta device; None if there is none."""
    import transformers

    classes = checkpoint.config.get("architectures") or [""]
    cls = getattr(transformers, str(classes[0]), None)
    if not isinstance(cls, type) or not issubclass(cls, transformers.PreTrainedModel):
        return None
    try:
        with fitting(checkpoint), torch.device("meta"):
            return cls(config_of(checkpoint.folder))
    except HfSoupsError:
        return None
