"""The documents stay true: links lead somewhere, commands and options exist, recipes and snippets are valid."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import hf_soups
from hf_soups.recipe import Train
from tests.documents.pages import PAGES, blocks

ROOT = Path(__file__).parents[2]
REFERENCE = {
    "commands.md": ("reference", "commands_page"),
    "recipe.md": ("reference", "recipe_page"),
}
GUIDES = [page for page in PAGES if page.name not in REFERENCE]
MINUTES, WORDS_A_MINUTE = 3, 240  # of somebody who reads English prose; tables and code are looked at, not read


def texts(page: Path, language: str) -> list[str]:
    return [block.text for block in blocks(page) if block.language == language]


def commands() -> list[tuple[str, str]]:
    """Every `hf-soups ...` line of the documents."""
    found = []
    for page in GUIDES:
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

    for block in texts(page, "python"):
        ast.parse(block)
    for block in texts(page, "yaml"):
        recipe_from(yaml.safe_load(block), where=page.name)


def test_files_that_the_documents_name_are_written_by_the_package() -> None:
    """Names of results such as `steps.csv`, and not of examples such as `train.csv`."""
    source = "".join(path.read_text() for path in (ROOT / "hf_soups").rglob("*.py"))
    for page in (ROOT / "docs/soups.md", ROOT / "docs/sweep.md"):
        for name in re.findall(r"`([a-z_]+\.(?:png|csv|json|parquet))`", page.read_text()):
            assert name in source, f"{page.name} names {name}, which nothing writes"


def programs() -> dict[str, Any]:
    """Every command by its whole name."""
    from typer.main import get_command

    from hf_soups.cli import app

    found, waiting = {}, [("", get_command(app))]
    while waiting:
        prefix, program = waiting.pop()
        for name, command in program.commands.items():
            if hasattr(command, "commands"):
                waiting.append((f"{prefix}{name} ", command))
            else:
                found[f"{prefix}{name}"] = command
    return found


def test_every_command_stands_in_a_guide() -> None:
    text = "".join(page.read_text() for page in GUIDES)
    assert [name for name in programs() if f"hf-soups {name}" not in text and name != "version"] == []


def script(name: str = "reference") -> Any:
    """One of the scripts in docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", REFERENCE)
def test_the_reference_is_what_the_program_says(page: str) -> None:
    module, function = REFERENCE[page]
    made = getattr(script(module), function)()
    assert made == (ROOT / "docs" / page).read_text(), "run python docs/refresh.py"


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    """`make docs` puts signature and docstring there, and fails where there is no such name."""
    shown = re.findall(r"^::: hf_soups\.(\w+)$", (ROOT / "docs/python-api.md").read_text(), re.M)
    assert sorted(shown) == sorted(hf_soups.__all__)


def test_the_map_of_the_floors_is_the_contract() -> None:
    """Packages, floors and what they say of themselves; sizes are those of the day when the page was written."""
    page = (ROOT / "docs/how-it-hangs-together.md").read_text()
    shown = page.split("<!-- floors: begin -->\n")[1].split("\n<!-- floors: end -->")[0]
    without_sizes = re.compile(r"(\| `\w+`) \| \d+ \| [\d,]+ \|")
    made = script("floors").map_of_floors()
    assert without_sizes.sub(r"\1", shown) == without_sizes.sub(r"\1", made), "run python docs/refresh.py"


def test_the_drawing_of_the_floors_has_every_package_once_from_the_top_down() -> None:
    drawing = (ROOT / "docs/how-it-hangs-together.md").read_text().split("```mermaid\n")[1].split("```")[0]
    drawn = [re.findall(r"\w+", line) for line in drawing.splitlines() if "~~~" in line]
    storey = {name: number for number, names in enumerate(drawn) for name in names}
    floors = script("floors").floors()
    assert sorted(name for names in drawn for name in names) == sorted(name for floor in floors for name in floor)
    order = [storey[name] for floor in floors for name in floor]
    assert order == sorted(order)


def test_the_way_of_one_row_names_what_exists() -> None:
    """Dotted names on the page and in its drawing are modules, functions and classes of the package."""
    page = (ROOT / "docs/how-it-hangs-together.md").read_text().partition("## The way of one row")[2]
    named = set(re.findall(r"`([a-z_]+(?:\.\w+)+)`", page)) | set(re.findall(r'\["([a-z_]+(?:\.\w+)+)<br>', page))
    assert len(named) > 15
    for name in named - {"pyproject.toml"}:
        pkgutil.resolve_name(f"hf_soups.{name}")
    for path in re.findall(r"`(hf_soups/[\w/.]+)`", page):
        assert (ROOT / path).exists(), path


def test_every_option_stands_near_its_command_with_words() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    for name, command in programs().items():
        section = text.partition(f"## hf-soups {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            options = [o for o in (*parameter.opts, *parameter.secondary_opts) if o.startswith("--")]
            for option in set(options) - {"--help"}:
                assert re.search(rf"^\| .*`{option}`.* \| .*\w.* \|$", section, re.M), f"hf-soups {name} {option}"


def test_every_option_of_a_fine_tune_stands_in_its_help() -> None:
    from hf_soups.finetune.command import FLAGS, PATHS, usage

    section = (ROOT / "docs/commands.md").read_text().partition("## accelerate launch -m hf_soups.finetune\n")[2]
    assert usage() in section
    for option in {*PATHS, *FLAGS, *Train.model_fields} - {"help"}:
        assert re.search(rf"^  --{option} .*\w", section, re.M), option


def test_every_key_of_a_recipe_stands_on_its_page_with_words() -> None:
    text = (ROOT / "docs/recipe.md").read_text()
    for prefix, model in script().PARTS.values():
        for name, field in model.model_fields.items():
            assert field.description, f"{prefix}{name}"
            assert f"| `{prefix}{name}` |" in text


def test_the_readme_is_read_in_three_minutes() -> None:
    prose = re.sub(
        r"^```.*?^```|^\|.*?$|<!--.*?-->|\]\([^)]*\)", "", (ROOT / "README.md").read_text(), flags=re.S | re.M
    )
    assert len(prose.split()) <= MINUTES * WORDS_A_MINUTE


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.walk_packages(hf_soups.__path__, "hf_soups.")))
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
