"""How mkdocstrings reads docstrings: sections need no empty lines between them, examples are code."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"(?<=\S)\n(?=(?:Args|Raises|Source|Returns|Example|Attributes):)")
EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


class Docstrings(griffe.Extension):
    """Named in mkdocs.yml."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put what the parser needs into the docstring of an object that was just read."""
        if obj.docstring is not None:
            apart = SECTION.sub("\n\n", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", apart)

    def on_function(self, *, func: griffe.Function, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Defaults that are names of constants become their values."""
        for parameter in func.parameters:
            if isinstance(parameter.default, griffe.ExprName):
                parameter.default = value_of(parameter.default, loader)


def value_of(name: griffe.ExprName, loader: griffe.GriffeLoader) -> str | griffe.Expr:
    """What a constant of the package is set to; the name of anything else."""
    try:
        constant = loader.modules_collection[name.canonical_path]
        return constant.value if constant.is_attribute and constant.value else name
    except (KeyError, griffe.GriffeError):
        return name
