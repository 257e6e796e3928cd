"""docs/python-api.md and the map of docs/how-it-hangs-together.md, written from docstrings and from pyproject.toml.

python docs/refresh.py     # writes them again; tests/documents/test_docs.py holds them to what the code says
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import hf_soups

ROOT = Path(__file__).parents[1]
MADE = "<!-- Written by `python docs/refresh.py` from the docstrings. Change those, not this page. -->"
HEAD = """# Python API

{made}

What the commands do, from Python. Names of all parts but the last come from the top, `from hf_soups import greedy`, and
are loaded when they are first used. Shapes are written as (rows, classes); scores are the metric's own, not x 100.
"""
GROUPS = {
    "Whole jobs": (
        "run_sweep", "cook", "CookResult", "Options", "build_leaderboard", "Leaderboard", "compare", "report",
    ),
    "Recipes and checkpoints": ("Recipe", "load_recipe", "Task", "named_task", "Checkpoint", "multiplied_out"),
    "Soups": (
        "Soup", "preflight", "uniform", "greedy", "learned", "model_stock", "wise_ft", "task_vectors",
        "run_checkpoints", "average_of_run", "SoupCallback",
    ),
    "Predictions and ensembles": (
        "Predictions", "fit_temperature", "calibrated", "ensemble", "select_ensemble", "predict_pool", "add_answers",
        "read_pool", "score", "Cost",
    ),
    "Cascades": (
        "Rule", "Plan", "Frontier", "search_cascades", "search_pool", "certify", "build_cascade", "build_from",
        "CascadeConfig", "CascadeForImageClassification", "CascadeForSequenceClassification",
    ),
    "What came of it": ("inspect_checkpoints", "diagnose", "WordClassifier", "build_page", "build_app"),
}  # fmt: skip
# Functions whose names are those of packages: they come from there.
WHOLE = ("hf_soups.finetune.finetune", "hf_soups.hub.push")
SECTION = re.compile(r"^(Args|Raises|Source|Returns|Example|Examples|Attributes):\s*(.*)$")
LISTED = ("Args", "Raises", "Attributes")


def python_page() -> str:
    """Every public name with its signature and its docstring."""
    parts = [HEAD.format(made=MADE)]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, getattr(hf_soups, name)) for name in names]
    parts.append("## From packages of their names\n")
    for whole in WHOLE:
        module, _, name = whole.rpartition(".")
        parts.append(_entry(whole, getattr(importlib.import_module(module), name)))
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    kind = "class " if inspect.isclass(value) else ""
    call = f"```text\n{kind}{_signature(name, value)}\n```\n"
    if inspect.isclass(value) and issubclass(value, BaseModel):
        call = "Its keys and their defaults are in [recipe.md](recipe.md).\n"
    lines = [f"### {name}\n", call, _markdown(inspect.getdoc(value) or "")]
    if inspect.isclass(value):
        lines += _methods(value)
    return "\n".join(lines).rstrip() + "\n"


def _methods(value: type) -> Iterator[str]:
    """A line for each public method and property that the class itself defines."""
    shown = []
    for name, member in vars(value).items():
        inside = getattr(member, "__func__", getattr(member, "fget", member))
        if not name.startswith("_") and inspect.isfunction(inside) and inspect.getdoc(inside):
            call = name if isinstance(member, property) else _signature(name, inside, short=True)
            shown.append(f"- `{call}`: {_sentence(inside)}")
    if shown:
        yield "\n".join(shown) + "\n"


def _signature(name: str, value: Any, *, short: bool = False) -> str:
    """The call as it is written, with types unless `short`."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    parameters = [p for p in signature.parameters.values() if p.name != "self" and not p.name.startswith("_")]
    if short:
        parameters = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
        return f"{name}{_plain(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))}"
    if inspect.isclass(value):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    text = f"{name}{_plain(signature.replace(parameters=parameters))}"
    if len(text) <= 110:
        return text
    inside = ",\n    ".join(_parameters(parameters))
    _, arrow, result = _plain(signature).rpartition(" -> ")
    return f"{name}(\n    {inside},\n){arrow}{result if arrow else ''}"


def _parameters(parameters: list[inspect.Parameter]) -> Iterator[str]:
    only = False
    for one in parameters:
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not only:
            only = True
            yield "*"
        yield _plain(one)


def _plain(what: object) -> str:
    """Without the quotes of annotations that are kept as text, and with addresses of defaults left out."""
    text = re.sub(r"<factory>|<[\w.]+ object at 0x\w+>|<function (\w+)[^>]*>", lambda m: m.group(1) or "...", str(what))
    return re.sub(r"(?<=: )'([^']*)'|(?<=-> )'([^']*)'", lambda m: m.group(1) or m.group(2), text)


def _sentence(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


def _markdown(text: str) -> str:
    """A docstring in Google's style as Markdown: its sections as lists, its examples as code."""
    found: list[str] = []
    section, code = "", False
    for line in text.splitlines():
        heading = SECTION.match(line)
        if code and not line.strip():
            found.append("```")
            code = False
        if heading:
            section = heading.group(1)
            found += ["", f"**{section}**" + (f" {heading.group(2)}" if heading.group(2) else "")]
            found += [""] if section in LISTED else []
        elif line.lstrip().startswith(">>>") and not code:
            found += ["", "```pycon", line.strip()]
            code = True
        elif section in LISTED and re.match(r"^ {4}\S", line):
            name, _, said = line.strip().partition(": ")
            found.append(f"- `{name}`: {said}" if said else f"- {name}")
        elif section in LISTED and line.startswith("     "):
            found.append(f"  {line.strip()}")
        else:
            section = section if not line or line.startswith(" ") else ""
            found.append(line.strip() if section else line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*found, *(["```"] if code else [])])).strip() + "\n"


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
