"""Trajectory: the checkpoints that transformers' Trainer left along one run, and their mean or moving average."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_soups.checkpoint import Checkpoint, Source, checkpoints_of
from hf_soups.errors import CheckpointError, InputError, MissingExtra
from hf_soups.files.weights import ADAPTER_CONFIG, INDEX, SINGLE
from hf_soups.finetune.run_record import RUN_FILE
from hf_soups.soups.methods.uniform import uniform
from hf_soups.soups.registry import MethodInputs, soup_method
from hf_soups.soups.soup import Soup

STEP = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The usable checkpoints of one run, first step first, and why others of its folders are not."""

    checkpoints: tuple[Checkpoint, ...]
    left_out: Mapping[str, str]  # folder's name -> reason


def is_run_of_trainer(folder: str | Path) -> bool:
    """Whether a folder holds `checkpoint-<step>` folders, as a Trainer's output folder does, and no record of a run."""
    root = Path(folder).expanduser()
    if not root.is_dir() or (root / RUN_FILE).is_file():
        return False
    return any(STEP.fullmatch(path.name) and path.is_dir() for path in root.iterdir())


def run_checkpoints(folder: str | Path, *, last: int | None = None) -> Trajectory:
    """The `checkpoint-<step>` folders of a Trainer's output folder, sorted by the number of the step, and its model.

    What `save_model()` left in the output folder itself comes last; where it is one of the checkpoints again (the last
    one, or the best one) it counts once. A folder without whole safetensors weights and a config (the run was killed
    while it wrote them) is left out, with the reason. LoRA adapters are multiplied into their base. Optimizer and
    random states are pickles and are never opened.

    Args:
        folder: the Trainer's `output_dir`.
        last: take only this many, the latest usable ones.
    Raises:
        InputError: if there is no such folder, no usable checkpoint in it, or `last` < 1.
    """
    root = Path(folder).expanduser()
    if last is not None and last < 1:
        raise InputError(f"last is {last}; expected the number of checkpoints to take, 1 or more.")
    if not root.is_dir():
        raise InputError(f"{folder}: no such folder. Give the output_dir of a Trainer.")
    numbered = ((int(found[1]), path) for path in root.iterdir() if (found := STEP.fullmatch(path.name)))
    steps = [path for _, path in sorted((step, path) for step, path in numbered if path.is_dir())]
    usable: list[Checkpoint] = []
    left_out: dict[str, str] = {}
    for path in (*steps, *([root] if holds_a_model(root) else [])):
        try:
            checkpoint = whole(Checkpoint(path))
            _ = checkpoint.tensors
            if path is not root or all(checkpoint.digest() != earlier.digest() for earlier in usable):
                usable.append(checkpoint)
        except (CheckpointError, MissingExtra) as error:
            left_out[path.name] = str(error)
    if not usable:
        because = "".join(f" {reason}" for reason in left_out.values())
        raise InputError(
            f"{folder}: {len(steps)} folders named checkpoint-<step>, none usable.{because} Expected the output_dir "
            "of a Trainer that saved safetensors (save_strategy 'steps' or 'epoch')."
        )
    return Trajectory(tuple(usable[-last:] if last else usable), left_out)


def whole(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself; an adapter is multiplied into its base."""
    if not checkpoint.is_adapter:
        return checkpoint
    from hf_soups.models.adapters import multiplied_out  # torch and peft, for adapters alone

    return multiplied_out(checkpoint)


def holds_a_model(folder: str | Path) -> bool:
    """Whether an output folder itself holds a model or an adapter, beside its checkpoints."""
    root = Path(folder).expanduser()
    return any((root / name).is_file() for name in (SINGLE, INDEX, ADAPTER_CONFIG))


def average_of_run(checkpoints: Sequence[Source], *, decay: float | None = None) -> Soup:
    """The mean of one run's checkpoints, or their exponential moving average.

    With `decay` the result is what a running average m = decay x m + (1 - decay) x checkpoint holds after the last
    one, started at the first: weights decay^(n-1) for the first, (1 - decay) x decay^(n-1-i) for the others, summing
    to 1.

    Args:
        checkpoints: in the order of training, as `run_checkpoints` gives them.
        decay: in [0, 1); higher remembers more, 0 is the last checkpoint alone; None: equal weights.
    Raises:
        InputError: if there is no checkpoint, or `decay` is out of range.
    """
    members = checkpoints_of(checkpoints, "checkpoints")
    if not members:
        raise InputError("an average of a run needs at least one checkpoint, got none.")
    if decay is None:
        return replace(uniform(members), method="run-mean")
    if not 0 <= decay < 1:  # also false for NaN
        raise InputError(f"decay is {decay}; expected 0 (the last checkpoint alone) or more, and below 1.")
    n = len(members)
    weights = (decay ** (n - 1), *((1 - decay) * decay ** (n - 1 - i) for i in range(1, n)))
    return Soup(members, weights, method="run-ema", about={"decay": decay})


@soup_method("run-ema")
def _run_ema(inputs: MethodInputs, *, decay: float) -> Soup:
    return average_of_run(inputs.pool, decay=decay)
