"""BatchNorm statistics of a soup: the average of the ingredients' does not describe the averaged network's activations.

So they can be measured anew, on train rows, for the weights at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.files.dtypes import encode
from hf_soups.files.writing import writable
from hf_soups.soups.mixing.live import slots_by_disk_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STATISTICS = ("running_mean", "running_var")


def recompute_batchnorm(model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]]) -> int:
    """Replace the running statistics by the plain mean over `batches`; everything else stays in eval mode.

    Args:
        model: changed in place; its mode (train or eval) is as before afterwards.
        batches: inputs of the model's forward, without labels; their order does not matter.
    Returns:
        The number of batches seen.
    Raises:
        HfSoupsError: if there is no batch, or a statistic is not finite.
    Source: Izmailov et al. 2018, arXiv:1803.05407, section 3.2.
    """
    layers = _layers(model)
    modes = {module: module.training for module in model.modules()}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    seen = 0
    try:
        model.eval()  # no dropout, no stochastic depth: only the BatchNorm layers see train mode
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None  # the cumulative average: every batch counts the same
            layer.train()
        with torch.inference_mode():
            for batch in batches:
                model(**batch)
                seen += 1
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
        for module, training in modes.items():
            module.training = training
    _check(layers, seen)
    return seen


def write_batchnorm(model: PreTrainedModel, folder: Path) -> int:
    """Write the model's running means and variances over those in a saved folder, in place; how many tensors.

    Only for a folder that nobody reads yet.

    Raises:
        HfSoupsError: if the saved names are not the model's.
    """
    live = slots_by_disk_name(model)
    stored = Checkpoint(folder).tensors
    names = [name for name in stored if name.endswith(STATISTICS)]
    if live is None or not names or not set(names) <= set(live):
        raise HfSoupsError(f"{folder}: the BatchNorm statistics there are not those of {type(model).__name__}.")
    for name in names:
        info = stored[name]
        raw = encode(live[name].detach().to("cpu", torch.float32).reshape(-1).numpy(), info.dtype)
        with writable(folder), info.file.open("r+b") as file:
            file.seek(info.offset)
            file.write(raw.tobytes())
    return len(names)


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None
    }


def _check(layers: Mapping[str, _BatchNorm], seen: int) -> None:
    if not seen:
        raise HfSoupsError("BatchNorm statistics cannot be recomputed: there was no batch of train rows.")
    for name, layer in layers.items():
        for which in STATISTICS:
            statistic = getattr(layer, which)
            if not torch.isfinite(statistic).all():
                raise HfSoupsError(f"{name}.{which} is not finite after recomputing it on train rows.")
