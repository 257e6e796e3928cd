"""What a fine-tune tells while it runs: about 200 points for run.json, a progress bar, and a tracker if asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hf_soups.finetune.progress import Meter

POINTS = 200

Log = Callable[[Mapping[str, float], int], None]  # values, step


class History:
    """Collects the loss step by step; each point is the mean since the one before."""

    def __init__(self, total: int, meter: Meter, log: Log | None = None) -> None:
        self._total, self._meter, self._log = total, meter, log
        self._every = math.ceil(total / POINTS)
        self._losses: list[float] = []
        self._points: list[dict[str, Any]] = []
        self.steps = 0  # done; a step whose loss is NaN is not

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """Step, epoch, loss and learning rate, and select where that was scored."""
        return tuple(self._points)

    def add(self, step: int, epoch: float, loss: float, learning_rate: float) -> None:
        """A step was taken, with this loss and this learning rate."""
        self.steps = step
        self._losses.append(loss)
        self._meter(step, f"loss {loss:.4f}  learning rate {learning_rate:.2e}")
        if step % self._every == 0 or step in (1, self._total):
            mean = sum(self._losses) / len(self._losses)
            self._losses = []
            values = {"epoch": round(epoch, 4), "loss": mean, "learning_rate": learning_rate}
            self._points.append({"step": step, **values})
            self._tell(values, step)

    def selected(self, step: int, score: float) -> None:
        """The model was scored on select after this step."""
        if not self._points or self._points[-1]["step"] != step:
            self._points.append({"step": step})
        self._points[-1]["select"] = score
        self._meter.line(f"  select after step {step}: {score:.4f}")
        self._tell({"select": score}, step)

    def _tell(self, values: Mapping[str, float], step: int) -> None:
        if self._log is not None:
            self._log(values, step)
