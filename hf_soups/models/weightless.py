"""What stands in the place of a torch model and has no weights that torch knows."""

from __future__ import annotations

import torch


class Weightless(torch.nn.Module):
    """Answers batches on the CPU; callers ask a model's parameters for device and precision, so it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """Of what it is given and answers."""
        return torch.float32
