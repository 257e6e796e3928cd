"""Fine-tune once: from a recipe to a run folder with a checkpoint, run.json and cached predictions.

`accelerate launch -m hf_soups.finetune RECIPE.yaml`, or `python -m hf_soups.finetune` alike. `run` is the whole of
it, `loop` the training, `batches` which rows each step sees, `command` the command line.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_soups.recipe import Recipe

__all__ = ["default_out", "finetune"]


def finetune(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    start: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
    overwrite: bool = False,
    tracker: Any = None,
) -> Path:
    """Fine-tune once and write the run folder `out`; all processes of a distributed run call it alike.

    Args:
        recipe: the task, the model and how it is fine-tuned, or a file of it; its sweep plays no part here.
        out: the run folder to write.
        start: the shared start; default: made from the recipe, with the same head each time.
        cache: keeps encoded rows and the start for other runs; default: a temporary folder.
        progress: whether progress is shown.
        overwrite: replace an earlier run in `out`.
        tracker: one of accelerate's trackers, instead of the one that the recipe names.
    Raises:
        InputError: if the recipe, the data or the checkpoint cannot be used; nothing is written then.
        RunFailed: if no usable model came out; `out` then holds run.json with the reason, and no weights.
        HfSoupsError: if `out` cannot be written.
    """
    from hf_soups.finetune.run import FineTuneRequest, run_request
    from hf_soups.recipe import Recipe, load_recipe

    start, cache = (None if path is None else Path(path) for path in (start, cache))
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    run_request(FineTuneRequest(recipe, Path(out), start, cache, progress, overwrite, tracker))
    return Path(out)


def default_out(recipe: Recipe) -> Path:
    """runs/<name>/<name>-<hash of the values>: the same values give the same folder."""
    values = recipe.model_dump(mode="json", exclude={"sweep", "tracker"})
    name = recipe.name or "run"
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / name / f"{name}-{digest}"
