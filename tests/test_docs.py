"""The documents stay true: links lead somewhere, commands and options exist, recipes and snippets are valid."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import hf_soups

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def commands() -> list[tuple[str, str]]:
    """Every `hf-soups ...` line of the documents."""
    found = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            for command in re.findall(r"hf-soups (?!doctor`)([^#`]+)", line if "hf-soups" in line else ""):
                found.append((page.name, command.strip()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda c: c[:40])
def test_commands_and_options_exist(page: str, command: str) -> None:
    from typer.main import get_command

    from hf_soups.cli import app

    found, words = get_command(app), command.split()
    if words[0] == "--import":
        words = words[2:]
    while hasattr(found, "commands"):  # the program, or a group such as `cascade`
        name, *words = words
        assert name in found.commands, f"{page}: hf-soups {command}"
        found = found.commands[name]
    options = {o for p in found.params for o in (*p.opts, *p.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word in options, f"{page}: hf-soups {command} has no {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_and_yaml_parse(page: Path) -> None:
    from hf_soups.recipe import recipe_from

    for block in blocks(page, "python"):
        ast.parse(block)
    for block in blocks(page, "yaml"):
        recipe_from(yaml.safe_load(block), where=page.name)


def test_files_that_the_documents_name_are_written_by_the_package() -> None:
    """Names of results such as `steps.csv`, and not of examples such as `train.csv`."""
    source = "".join(path.read_text() for path in (ROOT / "hf_soups").rglob("*.py"))
    for page in (ROOT / "docs/soups.md", ROOT / "docs/sweep.md"):
        for name in re.findall(r"`([a-z_]+\.(?:png|csv|json|parquet))`", page.read_text()):
            assert name in source, f"{page.name} names {name}, which nothing writes"


def test_every_command_is_documented() -> None:
    from hf_soups.cli import app

    text = "".join(page.read_text() for page in PAGES)
    groups = [(f"{group.name} ", group.typer_instance) for group in app.registered_groups]
    for prefix, program in (("", app), *groups):
        assert program is not None
        for command in program.registered_commands:
            name = command.name or command.callback.__name__  # type: ignore[union-attr]
            if name != "version":
                assert f"hf-soups {prefix}{name}" in text


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.walk_packages(hf_soups.__path__, "hf_soups.")))
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
