"""The map of docs/how-it-hangs-together.md, written from docstrings and from pyproject.toml.

python docs/refresh.py     # writes it again; tests/documents/test_docs.py holds it to what the code says
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def floors() -> list[list[str]]:
    """The packages of each floor, the top one first, as the contract in pyproject.toml lists them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["name"] == "floors")
    return [[name.strip() for name in re.split(r"[|:]", floor)] for floor in layers]


def map_of_floors() -> str:
    """A row for each floor, the top one first: its packages, how large each is, and its first sentence."""
    lines = ["| floor | package | modules | lines | |", "| ---: | --- | ---: | ---: | --- |"]
    for number, names in zip(range(len(floors()), 0, -1), floors(), strict=True):
        for name in names:
            files = _files(ROOT / "hf_soups" / name)
            size = sum(len(file.read_text().splitlines()) for file in files)
            lines.append(f"| {number} | `{name}` | {len(files)} | {size:,} | {_idea(files[0])} |")
    return "\n".join(lines)


def _files(place: Path) -> list[Path]:
    return (
        [place / "__init__.py", *(p for p in sorted(place.rglob("*.py")) if p != place / "__init__.py")]
        if (place.is_dir())
        else [place.with_suffix(".py")]
    )


def _idea(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0].replace("|", "\\|")
