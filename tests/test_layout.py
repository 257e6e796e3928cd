"""The direction of imports, held by import-linter on the floors of pyproject.toml, and what costs little to import."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_soups"
LIGHT = (
    "hf_soups",
    "hf_soups.cli",
    "hf_soups.recipe.recipe",
    "hf_soups.predictions.predictions",
    "hf_soups.checkpoint",
    "hf_soups.soups.mixing",
    "hf_soups.soups.compatibility",
    "hf_soups.metrics",
    "hf_soups.sweep.plan",
    "hf_soups.leaderboard.board",
    "hf_soups.soups",
    "hf_soups.demo.cascade",
)


def floors() -> list[str]:
    """Names on the floors of pyproject.toml, top to bottom."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["name"] == "floors")
    return [name.strip() for floor in layers for name in floor.replace("|", ":").split(":")]


def test_imports_go_down() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_has_a_floor() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(there - {"__init__", "__main__"}) == sorted(floors())


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "datasets", "evaluate", "sklearn", "matplotlib", "pandas", "accelerate")
    code = f"import {module}, sys; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
