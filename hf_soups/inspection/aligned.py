"""Aligned: checkpoints whose labels stand in another order, written with the order of the first."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.writing import write_text, written_whole
from hf_soups.inspection.look import Inspection
from hf_soups.soups.soup import Soup, display_names
from hf_soups.weights.files import json_object

CONFIG = "config.json"


def write_aligned(inspection: Inspection, out: str | Path, *, threads: int = 2) -> tuple[Path, ...]:
    """Write every checkpoint whose labels were put in the order of the first as an ordinary checkpoint in `out`.

    Weights are streamed; config.json tells the labels in their new order; tokenizer or image processor are carried.
    Records of a run and cached predictions are not, since they hold the old order.

    Args:
        inspection: made with `align_labels`.
        out: holds one folder for each, by name; each appears whole or not at all.
        threads: that read and write side by side.
    Returns:
        The folders; none where all labels stand in one order.
    Raises:
        InputError: if one of the folders is there already.
        CheckpointError: if weights cannot be read, or hold NaN or infinity.
        HfSoupsError: if the place cannot be written.
    """
    places = _places(inspection.checkpoints, Path(out))
    for folder in places.values():
        if os.path.lexists(folder):
            raise InputError(f"{folder} exists already. Choose another folder with --out, or remove it.")
    for checkpoint, folder in places.items():
        with written_whole(folder, marker=CONFIG) as partial:
            Soup((checkpoint,), (1.0,)).write_model(partial, threads=threads)
            _rename_labels(partial / CONFIG, checkpoint.label_names)
    return tuple(places.values())


def _places(checkpoints: Sequence[Checkpoint], out: Path) -> dict[Checkpoint, Path]:
    names = display_names(checkpoints)
    return {c: out / _folder_name(name) for c, name in zip(checkpoints, names, strict=True) if c.label_order}


def _folder_name(name: str) -> str:
    """A name as one folder's: "org/model" and paths hold slashes.

    >>> _folder_name("org/model@main"), _folder_name("../runs/run_01")
    ('org_model_main', 'runs_run_01')
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "checkpoint"


def _rename_labels(path: Path, names: Sequence[str] | None) -> None:
    if names is None:
        raise CheckpointError(f"{path}: no label names to write.")
    config = json_object(path)
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")  # as transformers wrote it
