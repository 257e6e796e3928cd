"""Checkpoint folders of given tensors, written by the safetensors library: an independent writer for our reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CONFIG = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "BOOL": torch.bool,
}  # fmt: skip


def folder_of(
    path: Path, tensors: Mapping[str, torch.Tensor], *, shards: int = 1, config: Mapping[str, Any] = CONFIG
) -> Path:
    """A folder with config.json and these tensors, in one file or dealt out over shards with an index."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    own = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(own, path / "model.safetensors", metadata={"format": "pt"})
        return path
    placed = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(sorted(own))}
    for file in set(placed.values()):
        save_file({n: t for n, t in own.items() if placed[n] == file}, path / file, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in own.values())
    index = {"metadata": {"total_size": size}, "weight_map": placed}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def names_below(path: Path) -> set[str]:
    """Every file and folder below a path, hidden ones too."""
    return {str(entry.relative_to(path)) for entry in path.rglob("*")}


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def change_json(file: Path, *keys: Any, to: Any) -> None:
    """Change one value of a JSON file; `keys` lead to it."""
    record = json.loads(file.read_text())
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    file.write_text(json.dumps(record))
