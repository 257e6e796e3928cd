"""The reference pages, docs/commands.md and docs/recipe.md, written from the program and the recipe's own fields.

python docs/refresh.py     # writes them again; tests/documents/test_docs.py holds them to what the code says
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hf_soups.recipe import Data, Distribution, Head, Recipe, Sweep, Train
from hf_soups.recipe.task import MetricByEvaluate, Shift, Task

MADE = "<!-- Written by `python docs/refresh.py` from {}. Change that, not this page. -->"

COMMANDS = """# Every command and its options

{made}

`hf-soups COMMAND --help` says the same. To read: [sweep](sweep.md), [soups](soups.md), [cascades](cascades.md),
[hub](hub.md). A recipe's keys stand in [recipe.md](recipe.md).

The exit status is 0; 1 for a failure, or where the answer is no; 2 for wrong input; 128 + n when
signal n ended it, so 130 for Ctrl-C.
"""

RECIPE = """# Every key of a recipe

{made}

A recipe is a YAML file with `task`, `model`, and whatever shall differ from the defaults here; [sweep.md](sweep.md) has
one to start from. Unknown keys are refused. `--set data.max_length=64` changes a value for `hf-soups sweep` and other
commands; one fine-tune takes `--data.max_length 64`, and values of `train` without a prefix: `--learning_rate 3e-5`.

A key given twice is an error, and yes, no, on and off are no numbers. A recipe has at most 2^20 bytes, 32 levels and,
aliases counted as often as they stand, 100,000 values (`hf_soups/files/plain_yaml.py`); a sweep has at most 10,000
runs, of a grid too, and 1,000 choices of a value (`hf_soups/recipe/recipe.py`).
"""

PARTS: dict[str, tuple[str, type[BaseModel]]] = {
    "The recipe": ("", Recipe),
    "task": ("task.", Task),
    "head": ("head.", Head),
    "data": ("data.", Data),
    "train": ("train.", Train),
    "sweep": ("sweep.", Sweep),
    "sweep.space": ("sweep.space.VALUE.", Distribution),
    "task.shifts": ("task.shifts.NAME.", Shift),
    "task.metric as a mapping": ("task.metric.", MetricByEvaluate),
}


def commands_page() -> str:
    """Every command with its arguments, options and their defaults."""
    from typer.main import get_command

    from hf_soups.cli import app
    from hf_soups.finetune.command import usage

    program = get_command(app)
    parts = [COMMANDS.format(made=MADE.format("`hf_soups/cli`"))]
    parts += ["## Before the command\n", f"`hf-soups [OPTIONS] COMMAND ...`\n\n{_table(program)}"]
    for name, command in _commands(program, "hf-soups"):
        usage_line = " ".join([name, *_arguments(command)])
        parts += [f"## {name}\n", f"{_help(command)}\n\n`{usage_line} [OPTIONS]`\n\n{_table(command)}".rstrip() + "\n"]
    parts += ["## accelerate launch -m hf_soups.finetune\n", f"```text\n{usage()}\n```\n"]
    return "\n".join(parts)


def recipe_page() -> str:
    """Every key with its default, the values it takes, and what it means."""
    parts = [RECIPE.format(made=MADE.format("`hf_soups/recipe/recipe.py` and `hf_soups/recipe/task.py`"))]
    for title, (prefix, model) in PARTS.items():
        rows = [
            (f"`{prefix}{name}`", _default(field), _values(field), field.description or "")
            for name, field in model.model_fields.items()
        ]
        parts += [f"## {title}\n", _rows(("key", "default", "values", ""), rows)]
    return "\n".join(parts)


def _commands(program: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, command in program.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def _arguments(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = (parameter.metavar or parameter.name.upper()).removesuffix("...")
            yield f"{shown if parameter.required else f'[{shown}]'}{'...' if parameter.nargs == -1 else ''}"


def _help(command: Any) -> str:
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _table(command: Any) -> str:
    rows, annotations = [], typing.get_type_hints(command.callback)
    for parameter in command.params:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        if parameter.param_type_name == "argument":
            name, default = f"`{(parameter.metavar or parameter.name.upper()).removesuffix('...')}`", ""
        else:
            name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            default = "needed" if parameter.required else _shown(parameter.default, flag=parameter.is_flag)
        rows.append((name, default, _taken(parameter, annotations[parameter.name]), parameter.help or ""))
    return _rows(("", "default", "values", ""), rows) if rows else ""


def _taken(parameter: Any, annotation: Any) -> str:
    """The values that a parameter takes: its choices, its kind and bounds, or what stands for it in --help."""
    if getattr(parameter, "is_flag", False):
        return ""
    kind = (
        "" if parameter.metavar and parameter.param_type_name == "argument" else parameter.metavar or _kind(annotation)
    )
    least, most = parameter.min, parameter.max
    bounds = "" if least is None else f"{least} to {most}" if most is not None else f"from {least}"
    return ", ".join(filter(None, (kind, bounds)))


def _values(field: FieldInfo) -> str:
    """The values that a key takes."""
    bounds = {type(m).__name__: next(iter(vars_of(m).values())) for m in field.metadata}
    words = {"Ge": "from {}", "Gt": "above {}", "Le": "to {}", "Lt": "below {}"}
    told = " ".join(words[name].format(bounds[name]) for name in words if name in bounds)
    return f"{_kind(field.annotation)}{f', {told}' if told else ''}"


def vars_of(bound: Any) -> dict[str, Any]:
    """The fields of one of annotated_types' bounds."""
    return {name: getattr(bound, name) for name in bound.__slots__}


def _kind(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_kind(inner[0])}s" if inner[-1] is Ellipsis else f"two {_kind(inner[0])}s"
    if origin is dict:
        return "mapping"
    if origin is list:
        return _kind(inner[0])
    if inner:
        return " or ".join(_kind(one) for one in inner if one is not NoneType)
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", Any: "value", Path: "path"}
    return names.get(annotation, "mapping")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed" if field.default_factory is None else ""
    return _shown(field.default)


def _shown(default: Any, *, flag: bool = False) -> str:
    if default is None or default == "" or default == () or (flag and default is False):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{list(default) if isinstance(default, tuple) else default}`"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without the columns that are empty in all rows."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [
        [header[i] for i in kept],
        ["---"] * len(kept),
        *([row[i].replace("|", "\\|") for i in kept] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
