"""Which model answers: one classifier or one cascade, known from its config alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.pool.sources import asked_models

CASCADE = "cascade"  # model_type in config.json


def one_model(model: str | Path) -> Checkpoint:
    """The checkpoint that the user names.

    Raises:
        InputError: if it is a whole sweep, or a model at another input size.
    """
    asked = asked_models([model])
    if len(asked) > 1 or asked[0].image_size is not None:
        raise InputError(f"{model}: rows are answered by one model or cascade as it is; name its folder or Hub repo.")
    return asked[0].checkpoint


def unit_of(checkpoint: Checkpoint) -> str:
    """Of a cascade's costs."""
    return str(checkpoint.config.get("plan", {}).get("unit", "")) if is_cascade(checkpoint) else ""


def is_cascade(checkpoint: Checkpoint) -> bool:
    """Whether a folder or Hub repo holds a cascade rather than one classifier."""
    return checkpoint.config.get("model_type") == CASCADE


def weights_of(checkpoint: Checkpoint) -> str:
    """What tells whether the model is still the same: weights, config and processor, of a cascade those of its members.

    Members in other repos are named by their commit, which the config holds.
    """
    found = hashlib.sha256(checkpoint.files_digest().encode())
    if not is_cascade(checkpoint):
        found.update(checkpoint.sha256().encode())
        return found.hexdigest()
    for subfolder in sorted({m["subfolder"] for m in _members(checkpoint) if m.get("subfolder") and not m.get("repo")}):
        member = Checkpoint(checkpoint.source, checkpoint.revision, subfolder)
        found.update(f"{subfolder} {member.sha256()} {member.files_digest()}".encode())
    return found.hexdigest()


def _members(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    told = checkpoint.config.get("members")
    return [m for m in told if isinstance(m, dict)] if isinstance(told, list) else []


def names_a_cascade(models: Sequence[str | Path]) -> bool:
    """Whether the only model that the user names is a cascade, which answers rows rather than joins a pool.

    Raises:
        InputError: if a cascade stands among other models.
    """
    cascades = [m for m in models if _is_folder_of_cascade(m) or (len(models) == 1 and _is_cascade_anywhere(m))]
    if cascades and len(models) > 1:
        raise InputError(f"{cascades[0]} is a cascade, which answers rows by itself: name it alone.")
    return bool(cascades)


def _is_folder_of_cascade(model: str | Path) -> bool:
    path = Path(model).expanduser() / "config.json"
    return path.is_file() and is_cascade(Checkpoint(path.parent))


def _is_cascade_anywhere(model: str | Path) -> bool:
    asked = asked_models([model])
    return len(asked) == 1 and is_cascade(asked[0].checkpoint)
