"""BatchNorm over the batch of all processes, on any device: what one process would compute.

torch's own SyncBatchNorm does the same on GPUs only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def synchronised_batchnorm(model: nn.Module, processes: int) -> Iterator[None]:
    """While the block runs, the model's BatchNorm layers in train mode see the rows of all processes."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)] if processes > 1 else []
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    if not layer.training:
        return type(layer).forward(layer, x)
    x, kind = x.float(), x.dtype  # sums over a batch in half precision would overflow
    dims = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1, *([1] * (x.ndim - 2))]
    count = _sum_over_processes(x.new_full((1,), x.numel() / x.shape[1]))
    mean = _sum_over_processes(x.sum(dims)) / count
    centred = x - mean.view(shape)
    variance = _sum_over_processes(centred.square().sum(dims)) / count
    if layer.track_running_stats:
        _update_running(layer, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    y = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        y = y * layer.weight.view(shape) + layer.bias.view(shape)
    return y.to(kind)


@torch.no_grad()
def _update_running(layer: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    momentum = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean, momentum)
    layer.running_var.lerp_(variance, momentum)


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    summed: torch.Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """The sum over processes; each process's loss depends on it, so the gradients are summed in turn."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed
