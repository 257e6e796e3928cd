"""What visitors can try where no examples are named: those in the model's folder, or rows of the data beside it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_soups.demo.cascade import examples_of
from hf_soups.errors import HfSoupsError

FOLDER, FILE = "examples", "examples.txt"  # in the model's folder: images, or texts line by line
COUNT = 12
LARGEST = 1024  # pixels of the longer side of an example


def default_examples(model: str | Path, kind: str) -> Sequence[Any]:
    """Inputs to try, as `examples_of` gives them; none where nothing is at hand.

    Args:
        model: a folder. Of a Hub repo there are none: its data would have to be fetched.
        kind: what an input is: "image", "text" or "text-pair".
    """
    folder = Path(model)
    own = folder / (FOLDER if kind == "image" else FILE)
    try:
        return examples_of(own, kind) if own.exists() else _of_its_data(folder.resolve(), kind)
    except (HfSoupsError, OSError):  # a page without examples is better than none
        return ()


def _of_its_data(folder: Path, kind: str) -> Sequence[Any]:
    """Report rows of the data that evidence.json names, where they are beside the folder."""
    from hf_soups.cascades.evidence import read_evidence

    recipe = read_evidence(folder).recipe
    path = str(recipe.get("task", {}).get("path", ""))
    if not path.startswith("./") or not (folder.parent / path).exists():
        return ()
    return _rows_of(recipe, folder.parent / path, kind)


def _rows_of(recipe: Mapping[str, Any], path: Path, kind: str) -> Sequence[Any]:
    from hf_soups.data import load_dataset_split
    from hf_soups.data.images import cells
    from hf_soups.recipe.task import Task

    task = Task.model_validate({**recipe["task"], "path": str(path)})
    rows = load_dataset_split(task, task.report)
    shown = rows.select(range(0, len(rows), max(1, len(rows) // COUNT))[:COUNT])
    columns = [cells(shown, name, 0, len(shown)) for name in task.columns]
    if kind == "image":
        return _written(columns[0])
    return list(columns[0]) if kind == "text" else list(zip(*columns, strict=True))


def _written(images: Sequence[Any]) -> Sequence[Path]:
    from hf_soups.data.images import Picture, picture

    folder = Path(tempfile.mkdtemp(prefix="hf-soups-examples-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for i, value in enumerate(images):
        image = picture(value, "it")
        whole = image.decoded(LARGEST) if isinstance(image, Picture) else image
        whole.convert("RGB").save(folder / f"example-{i + 1:02d}.png")
    return sorted(folder.iterdir())
