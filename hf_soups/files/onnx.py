"""The files of a classifier that was exported to ONNX, and the record of what it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_soups.errors import CheckpointError
from hf_soups.files.reading import read_record

GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
MANIFEST = "export.json"  # of transformers' exporter
RECORD = "onnx.json"  # of hf_soups
FORMAT = "hf_soups.onnx.v1"
AGAIN = "Export it again: hf-soups export."
NEEDED = ("onnx", "onnxruntime")  # packages, to run it
FILES = (GRAPH, WEIGHTS, MANIFEST, RECORD)
Int8 = Literal["dynamic", "static"]


@dataclass(frozen=True, slots=True)
class OnnxRecord:
    """What an exported classifier was made of."""

    parameters: int  # of the model that was exported
    sha256: str  # of its weights
    source: str = ""  # its folder's or repo's name
    int8: Int8 | None = None  # how weights were quantised; None: they were not
    calibrated_on: int = 0  # rows, of static quantisation
    difference: float = 0.0  # the largest of the logits of a trial batch
    image_size: int | None = None  # pixels that it takes; None: texts


def is_onnx(folder: Path) -> bool:
    """Whether a folder holds a graph and no weights that torch loads."""
    return (folder / GRAPH).is_file() and not any(folder.glob("*.safetensors"))


def onnx_files(folder: Path) -> tuple[Path, ...]:
    """Graph and weights, in order of name.

    Raises:
        CheckpointError: if the weights are missing.
    """
    files = (folder / GRAPH, folder / WEIGHTS)
    if not files[1].is_file():
        raise CheckpointError(f"{folder}: {GRAPH} is there and {WEIGHTS} is not. {AGAIN}")
    return files


def read_onnx_record(folder: Path) -> OnnxRecord:
    """What the export was made of.

    Raises:
        CheckpointError: if it is missing or cannot be read.
    """
    if not (folder / RECORD).is_file():
        raise CheckpointError(f"{folder}: {GRAPH} is there, but no {RECORD}, so nobody knows what it holds. {AGAIN}")
    return read_record(
        folder / RECORD, OnnxRecord, what="the record of an export", format=FORMAT, again=AGAIN, error=CheckpointError
    )
