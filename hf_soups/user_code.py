"""Python of the user's own, run because a flag names it: modules that register a model class with transformers.

Nothing that was downloaded is ever run by this: only what `--import` names, here and in processes started from here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from hf_soups.errors import InputError

VARIABLE = "HF_SOUPS_IMPORT"  # how processes that are started from here are told, os.pathsep between names


def import_user_code(name: str) -> None:
    """Import a module by name or a .py file by its path, here and in every process that this one starts.

    Raises:
        InputError: if there is no such file or module, or running it fails.
    """
    path = Path(name)
    try:
        if path.suffix == ".py":
            _run_file(path)
        else:
            importlib.import_module(name)
    except Exception as error:  # whatever the user's own code raises
        raise InputError(
            f"--import {name}: cannot be imported ({type(error).__name__}: {error}). Give a Python file of yours, or "
            "the name of an installed module."
        ) from error
    before = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    given = str(path.resolve()) if path.suffix == ".py" else name
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*before, given]))


def import_what_the_parent_did() -> None:
    """In a process that hf_soups started: the same imports as there."""
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        import_user_code(name)


def _run_file(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # classes find their own module by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
