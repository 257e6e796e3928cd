"""The weight files of a checkpoint's folder: found, their index verified, and read without surprises."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_soups.errors import CheckpointError
from hf_soups.files.reading import read_json, read_text
from hf_soups.files.tensorfile import AGAIN, FileStamp, TensorHeader, read_header, refuse_reading

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODULES = "modules.json"  # of sentence-transformers
NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")  # what training leaves beside the model
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MERGE_ADAPTER = (
    "Multiply it into its base first: hf-soups cook does so by itself, hf_soups.multiplied_out() from Python, both "
    'with pip install "hf_soups[peft]".'
)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter (LoRA and its like) and no whole model."""
    whole = (folder / SINGLE).is_file() or (folder / INDEX).is_file()
    return (folder / ADAPTER_CONFIG).is_file() and not whole


def read_headers(folder: Path) -> tuple[TensorHeader, ...]:
    """The header of the single file, or of every shard; the single file comes first, as in transformers.

    Raises:
        CheckpointError: if weights are missing, corrupt, in another format, or not what the index says.
    """
    if (folder / SINGLE).is_file():
        headers: tuple[TensorHeader, ...] = (read_header(folder / SINGLE),)
    elif (folder / INDEX).is_file():
        headers = _sharded(folder / INDEX)
    else:
        raise CheckpointError(f"{folder}: {_without_weights(folder)}")
    if not any(header.tensors for header in headers):
        raise CheckpointError(f"{folder}: its weight files hold no tensors. {AGAIN}")
    return headers


def module_entries(folder: Path) -> list[dict[str, Any]]:
    """What modules.json of sentence-transformers lists, each with a "type" and a "path"; empty where there is none.

    Raises:
        CheckpointError: if it cannot be read, or a path leads out of the folder.
    """
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        told = json.loads(read_text(path, error=CheckpointError, again=AGAIN))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: no valid JSON ({error}). {AGAIN}") from error
    entries = told if isinstance(told, list) else [told]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise CheckpointError(
                f"{path}: expected a list of modules with a path each, got {str(entry)[:60]}. {AGAIN}"
            )
        if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
            raise CheckpointError(f"{path}: names {entry['path']!r}, which leads out of the folder.")
    return entries


@contextmanager
def opened(path: Path, stamp: FileStamp) -> Iterator[int]:
    """A descriptor of a weight file for the length of a block; see `open_unchanged`."""
    file = open_unchanged(path, stamp)
    try:
        yield file
    finally:
        os.close(file)


def open_unchanged(path: Path, stamp: FileStamp) -> int:
    """Open a weight file for reading.

    Raises:
        CheckpointError: if it is gone, or is not the file any more whose header was read.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        refuse_reading(path, error)
    if FileStamp.of(os.fstat(file)) != stamp:
        os.close(file)
        raise CheckpointError(f"{path}: changed while it was in use. Start again with the checkpoint as it is now.")
    return file


def read_exactly(file: int, into: memoryview, offset: int, path: Path) -> None:
    """Fill a buffer from a file.

    Raises:
        CheckpointError: if the file ends before, or cannot be read.
    """
    try:
        while len(into):
            got = os.preadv(file, [into], offset)
            if got == 0:
                raise CheckpointError(f"{path}: truncated: it ends at byte {offset:,}. Save or download it again.")
            into, offset = into[got:], offset + got
    except OSError as error:
        refuse_reading(path, error)


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        CheckpointError: if it cannot be read, or holds something else.
    """
    try:
        return read_json(path, error=CheckpointError, again=AGAIN)
    except FileNotFoundError as error:
        refuse_reading(path, error)


def _sharded(index: Path) -> tuple[TensorHeader, ...]:
    """The headers of all shards, each tensor found where the index says."""
    placed = json_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index}: no weight_map in it. Save or download the checkpoint again.")
    for name, file in placed.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index}: tensor {name!r} is placed in {file!r}; expected a shard beside the index.")
    headers = []
    for file in sorted(set(placed.values())):
        if not (index.parent / file).is_file():
            raise CheckpointError(
                f"{index.parent / file}: this shard is missing, but the index names it. Get it again."
            )
        headers.append(read_header(index.parent / file))
    for header in headers:
        listed = {name for name, file in placed.items() if file == header.path.name}
        if listed != set(header.tensors):
            name = min(listed ^ set(header.tensors))
            how = "lacks" if name in listed else "holds"
            said = f"in {placed[name]}" if name in placed else "nowhere"
            raise CheckpointError(
                f"{header.path}: {how} tensor {name!r}, which {index.name} places {said}: index and shards do not "
                "belong together. Save or download the checkpoint again."
            )
    return tuple(headers)


def pickled_weights(folder: Path) -> list[str]:
    """Names of weight files in formats that can run code, or that only TensorFlow reads."""
    return sorted(p.name for pattern in ("*.bin", "*.h5") for p in folder.glob(pattern) if p.name not in NO_WEIGHTS)


def _without_weights(folder: Path) -> str:
    if is_adapter(folder):
        return f"an adapter, not a whole model. {MERGE_ADAPTER}"
    pickled = pickled_weights(folder)
    if pickled:
        return (
            f"only {pickled[0]}, which hf_soups does not open because such files can run code. Convert it: hf-soups "
            f"convert {folder} --out NEW-FOLDER reads its tensors alone, head and all, and writes safetensors."
        )
    return (
        f"no {SINGLE} and no {INDEX} there. Expected a folder written by save_pretrained(); of a Hub repo with pickled "
        "weights (.bin) alone, hf-soups convert makes one."
    )
