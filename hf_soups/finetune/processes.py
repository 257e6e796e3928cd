"""The processes of one run: how many there are, where they compute, and the folder they share."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from hf_soups.errors import RecipeError
from hf_soups.files.writing import make_temporary
from hf_soups.finetune.tracking import check_tracker
from hf_soups.limits import cores
from hf_soups.recipe import Recipe

PACKAGES = ("hf_soups", "torch", "transformers", "datasets", "accelerate", "numpy")


def accelerator_for(recipe: Recipe, tracker: Any = None) -> Accelerator:
    """The accelerator of a run; `tracker`, one of accelerate's, goes before the one that the recipe names.

    Raises:
        MissingExtra: if the tracker's package is not installed.
        RecipeError: if the device cannot compute in the recipe's precision.
    """
    check_tracker(recipe.tracker if tracker is None else None)
    precision = recipe.train.precision
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # left by an earlier run in this process
    accelerator = Accelerator(mixed_precision=precision, log_with=tracker or recipe.tracker)
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise RecipeError("train.precision is fp16, which needs a GPU. Use bf16 or no on a CPU.")
    return accelerator


def lost_processes(started: int) -> str | None:
    """A warning if more processes were asked for than run: `accelerate launch --cpu` starts one and says nothing."""
    asked = os.environ.get("WORLD_SIZE")
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if asked is None and started == 1 and by_accelerate and "MASTER_ADDR" in os.environ:
        asked = "several"  # it sets an address to meet at, and then starts one
    if asked is None or asked == str(started):
        return None
    return (
        f"warning: {asked} processes were asked for, but {started} runs. On CPUs start them with "
        "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m hf_soups.finetune RECIPE"
    )


def idle_cores(device: str) -> str | None:
    """A warning if `accelerate launch` left cores idle: on a CPU it sets one thread where the user sets none."""
    here = cores()
    used = torch.get_num_threads() * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device != "cpu" or used >= here or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return None
    return (
        f"warning: {used} of {here} cores train: `accelerate launch` sets OMP_NUM_THREADS=1 where it is not set. "
        f"OMP_NUM_THREADS={here} before the command uses all."
    )


@contextmanager
def workspace(accelerator: Accelerator, cache: Path | None) -> Iterator[Path]:
    """The cache, or a temporary folder that all processes share and that is removed afterwards."""
    if cache is not None:
        yield Path(cache)
        return
    made = [str(make_temporary("encoded")) if accelerator.is_main_process else ""]
    folder = Path(broadcast_object_list(made)[0])
    folder.mkdir(parents=True, exist_ok=True)  # on the other machines of a run
    try:
        yield folder
    finally:
        if accelerator.is_local_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def device_name(accelerator: Accelerator) -> str:
    """Where a run's seconds were measured: "cpu, 2 threads" or "2 x NVIDIA H200"."""
    if accelerator.device.type == "cuda":
        name = torch.cuda.get_device_name(accelerator.device)
    else:
        threads = torch.get_num_threads()
        name = f"{accelerator.device.type}, {threads} thread{'s' if threads > 1 else ''}"
    return name if accelerator.num_processes == 1 else f"{accelerator.num_processes} x {name}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what comes out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
