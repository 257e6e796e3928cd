"""Doctor: what this machine gives a fine-tune. It looks, starts two small processes, and changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.limits import cores

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = (
    "hf_soups", "torch", "transformers", "datasets", "evaluate", "accelerate", "safetensors", "huggingface_hub",
    "scikit-learn", "pydantic", "typer", "rich", "matplotlib",
)  # fmt: skip
# extra -> what it installs, by the name that is imported
EXTRAS = {
    "trackio": "trackio", "wandb": "wandb", "peft": "peft", "report": "altair vl_convert", "demo": "gradio",
    "serve": "fastapi uvicorn", "ray": "ray", "onnx": "onnx onnxruntime onnxscript",
}  # fmt: skip
LEAST_FREE_BYTES = 2 * 10**9
SECONDS = 30  # for two processes to start and meet
TORCHRUN = ("torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc_per_node=2", "--no-python")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes=2", "--no_python")
COUNT = "from accelerate import Accelerator; a = Accelerator(); print(f'processes={a.num_processes}', flush=True)"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `ok` is False where something will not work."""

    name: str
    value: str
    ok: bool = True


def doctor() -> list[Check]:
    """Versions, devices, processes really launched, cache and offline state; never raises."""
    rows = [Check("python", platform.python_version(), sys.version_info >= (3, 11)), *_versions()]
    for look in (_devices, _processes, _cache, _offline, _extras):
        try:
            rows += look()
        except Exception as error:  # a broken installation is what the doctor is for
            rows.append(Check(look.__name__.removeprefix("_"), f"{type(error).__name__}: {error}", False))
    return rows


def doctor_table(rows: list[Check]) -> Table:
    """The rows for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    for row in rows:
        table.add_row(row.name, Text(row.value), "[green]ok[/green]" if row.ok else "[red]look here[/red]")
    return table


def _versions() -> list[Check]:
    found = []
    for package in PACKAGES:
        try:
            found.append(Check(package, version(package)))
        except PackageNotFoundError:
            found.append(Check(package, "not installed: pip install hf_soups", False))
    return found


def _devices() -> list[Check]:
    import torch

    rows = [Check("cores", f"{cores()} usable of {os.cpu_count()}; torch uses {torch.get_num_threads()} threads")]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*rows, Check("gpus", ", ".join(gpus) or "none")]


def _processes() -> list[Check]:
    """Two processes are asked for in both ways that users know, on CPUs, and counted by accelerate in each of them."""
    by_torch = _launched(TORCHRUN, ACCELERATE_USE_CPU="true")
    by_accelerate = _launched(ACCELERATE)  # at the same time: most of it is waiting for imports
    met, said = _met(by_torch)
    how = "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2"
    value = f"2 of 2 started by {how}" if met == 2 else f"2 asked for by {how}, {met} met: {said}"
    rows = [Check("processes", value, met == 2)]
    met, said = _met(by_accelerate)
    value = f"--cpu --num_processes 2 starts {met}" if met else f"--cpu --num_processes 2 fails: {said}"
    # known and not the machine's fault: it says what to type, not that something is broken
    return [
        *rows,
        Check("accelerate launch", value if met == 2 else f"{value}; on CPUs start them with torchrun as above"),
    ]


def _launched(launcher: tuple[str, ...], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, sys.executable, "-c", COUNT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
    )


def _met(launched: subprocess.Popen[str]) -> tuple[int, str]:
    """How many processes ran together, and the last words of the launcher."""
    try:
        out, err = launched.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        launched.terminate()  # the launcher ends what it started
        return 0, f"not ready after {SECONDS} s"
    counted = [int(number) for number in re.findall(r"processes=(\d+)", out)]
    # two that each believe to be alone are not two that met
    met = max((n for n in counted if counted.count(n) >= n), default=0)
    return met, next(reversed(err.strip().splitlines()), "no message")


def _cache() -> list[Check]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    value = f"{folder}, {free / 1e9:.1f} GB free" + ("" if writable else ", not writable")
    return [Check("cache", value, writable and free > LEAST_FREE_BYTES)]


def _offline() -> list[Check]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return [Check("hub", "offline (HF_HUB_OFFLINE): local folders and what is cached can be used")]
    return [Check("hub", f"online: {constants.ENDPOINT}")]


def _extras() -> list[Check]:
    here = {
        extra: all(importlib.util.find_spec(module) is not None for module in modules.split())
        for extra, modules in EXTRAS.items()
    }
    return [
        Check(f"extra {name}", "installed" if there else f'not installed: pip install "hf_soups[{name}]"')
        for name, there in here.items()
    ]
