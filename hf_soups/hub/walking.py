"""Which files of a model's folder are pushed: the model and its evidence, never the leavings of a run."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from hf_soups.errors import InputError
from hf_soups.hub.contents import LocalFile
from hf_soups.run_folder import PREDICTIONS

LEFT_OUT = {
    "a log": ("*.log", "*.out", "events.out.tfevents.*"),
    "a lock": ("*.lock", ".lock"),
    "a partial file": ("*.part", "*.partial", "*.tmp", "*.incomplete", "*~"),
    # whoever opens one runs what it says; weights are there as safetensors
    "a pickle": ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib"),
    "Python's cache": ("*.pyc",),
}
# The rows' labels need not be public; scores stand in soup.json.
FOLDERS_LEFT_OUT = {PREDICTIONS: "predictions of rows", "__pycache__": "Python's cache", "logs": "logs"}
SHOWN_HIDDEN = (".eval_results",)


def kept_files(folder: Path) -> tuple[list[LocalFile], list[tuple[str, str]]]:
    """The files that are pushed, and the paths of those that are not, each with the reason.

    Raises:
        InputError: if there is a link that leads out of the folder, to a folder, or nowhere.
    """
    files: list[LocalFile] = []
    left_out: list[tuple[str, str]] = []
    for path in _walk(folder):
        inside = path.relative_to(folder).as_posix()
        if why := _why_left_out(inside):
            left_out.append((inside, why))
        else:
            files.append(inside_file(folder, inside))
    return files, left_out


def inside_file(folder: Path, inside: str) -> LocalFile:
    """One file of a folder.

    Raises:
        InputError: if it is none, or a link that leads out of the folder.
    """
    path = folder / inside
    if not path.is_file():
        raise InputError(f"{path}: no file, or a link to one that is gone. Remove it.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path}: a link to {path.resolve()}, outside the folder that is pushed. Put a copy there, or remove it."
        )
    return LocalFile.at(inside, path)


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for at, folders, names in os.walk(folder):
        for name in folders:
            _refuse_link(Path(at) / name)
        found += [Path(at) / name for name in names]
    return sorted(found)


def _why_left_out(inside: str) -> str | None:
    *folders, name = inside.split("/")
    for folder in folders:
        if folder in FOLDERS_LEFT_OUT:
            return FOLDERS_LEFT_OUT[folder]
        if folder.startswith(".") and folder not in SHOWN_HIDDEN:
            return "hidden"
    for why, patterns in LEFT_OUT.items():
        if any(fnmatch(name.lower(), pattern) for pattern in patterns):
            return why
    return "hidden" if name.startswith(".") else None


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise InputError(f"{folder}: a link to a folder, which a repo cannot hold. Put a copy there, or remove it.")
