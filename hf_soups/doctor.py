"""Doctor: what this machine gives a fine-tune. It looks, starts two small processes, and changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.executor import cores

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = (
    "hf_soups", "torch", "transformers", "datasets", "evaluate", "accelerate", "safetensors", "huggingface_hub",
    "scikit-learn", "pydantic", "typer", "rich", "matplotlib",
)  # fmt: skip
EXTRAS = ("trackio", "wandb")
LEAST_FREE_BYTES = 2 * 10**9
SECONDS = 60  # for two processes to start and meet
COUNT = "from accelerate import Accelerator; a = Accelerator(); print(f'processes={a.num_processes}', flush=True)"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at; `ok` is False where something will not work."""

    name: str
    value: str
    ok: bool = True


def doctor() -> list[Row]:
    """Versions, devices, processes really launched, cache and offline state; never raises."""
    rows = [Row("python", platform.python_version(), sys.version_info >= (3, 11)), *_versions()]
    for look in (_devices, _processes, _cache, _offline, _extras):
        try:
            rows += look()
        except Exception as error:  # a broken installation is what the doctor is for
            rows.append(Row(look.__name__.removeprefix("_"), f"{type(error).__name__}: {error}", False))
    return rows


def doctor_table(rows: list[Row]) -> Table:
    """The rows for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    for row in rows:
        table.add_row(row.name, Text(row.value), "[green]ok[/green]" if row.ok else "[red]look here[/red]")
    return table


def _versions() -> list[Row]:
    found = []
    for package in PACKAGES:
        try:
            found.append(Row(package, version(package)))
        except PackageNotFoundError:
            found.append(Row(package, "not installed: pip install hf_soups", False))
    return found


def _devices() -> list[Row]:
    import torch

    rows = [Row("cores", f"{cores()} usable of {os.cpu_count()}; torch uses {torch.get_num_threads()} threads")]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*rows, Row("gpus", ", ".join(gpus) or "none")]


def _processes() -> list[Row]:
    """Two processes are started as a sweep starts them, and counted by accelerate."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, "-c", COUNT],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    met = done.stdout.count("processes=2")
    if met == 2:
        how = "torchrun --nproc_per_node 2 (on CPUs with ACCELERATE_USE_CPU=true; accelerate launch --cpu starts one)"
        return [Row("processes", f"2 of 2 started by {how}")]
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return [Row("processes", f"2 asked for, {met} met: {last}", False)]


def _cache() -> list[Row]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    told = f"{folder}, {free / 1e9:.1f} GB free" + ("" if writable else ", not writable")
    return [Row("cache", told, writable and free > LEAST_FREE_BYTES)]


def _offline() -> list[Row]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return [Row("hub", "offline (HF_HUB_OFFLINE): local folders and what is cached can be used")]
    return [Row("hub", f"online: {constants.ENDPOINT}")]


def _extras() -> list[Row]:
    here = {name: importlib.util.find_spec(name) is not None for name in EXTRAS}
    return [
        Row(f"extra {name}", "installed" if there else f'not installed: pip install "hf_soups[{name}]"')
        for name, there in here.items()
    ]
