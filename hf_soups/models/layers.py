"""The parts of a classifier that soups ask for: its head, its last linear layer, its BatchNorm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from hf_soups.errors import CheckpointError
from hf_soups.recipe.prompts import wording_of


def final_linear(model: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits: the last one with as many outputs as there are labels.

    Raises:
        CheckpointError: if there is none.
    """
    config: Any = model.config
    classes = config.num_labels
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not linears:
        raise CheckpointError(
            f"{type(model).__name__} has no linear layer with {classes} outputs, so its head cannot be found."
        )
    return linears[-1]


def head_parameters(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters outside the pretrained body, in the model's order; none where label words answer."""
    if wording_of(vars(model.config)) is not None:
        return ()
    prefix = getattr(model, "base_model_prefix", "")
    names = [name for name, _ in model.named_parameters()]
    if prefix and any(name.startswith(f"{prefix}.") for name in names):
        return tuple(name for name in names if not name.startswith(f"{prefix}."))
    last = set(map(id, final_linear(model).parameters()))
    return tuple(name for name, parameter in model.named_parameters() if id(parameter) in last)


def head_fingerprint(model: nn.Module, names: Iterable[str]) -> str:
    """SHA-256 over the names and the float32 bytes of the parameters that were new at the start of a fine-tune."""
    parameters = dict(model.named_parameters())
    digest = hashlib.sha256()
    for name in sorted(names):
        tensor = parameters[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def frozen_features(
    model: nn.Module, logits: Callable[[], Float[torch.Tensor, "batch classes"]]
) -> Float[torch.Tensor, "batch features"]:
    """What the last linear layer reads while `logits()` runs, in float32.

    Raises:
        CheckpointError: if the layer's answer is not the logits: then the head is not one linear layer on features.
    """
    layer, seen = final_linear(model), []
    hook = layer.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output)))
    try:
        with torch.inference_mode():
            answer = logits()
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0][0].ndim != 2 or not torch.equal(seen[0][1].float(), answer.float()):
        raise CheckpointError(
            f"the logits of {type(model).__name__} are not the answer of its last linear layer alone, so no linear "
            "probe can be fitted. Use head.init: shared-random."
        )
    features: torch.Tensor = seen[0][0]
    return features.float()


def has_batchnorm(model: nn.Module) -> bool:
    """Whether running statistics of BatchNorm are part of the model."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats for m in model.modules())
