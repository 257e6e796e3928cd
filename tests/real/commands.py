"""What the real tests share: the command line in a process, and models that packages carry."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def hf_soups(*arguments: str) -> str:
    """Run one command from the repository's root; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "hf_soups.cli", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package_model(package: str) -> Path:
    """The folder of the model inside an installed package, found without importing the package."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed: pip install -e '.[test]'")
    return Path(found.submodule_search_locations[0]) / "model"
