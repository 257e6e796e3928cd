"""Commands of what goes to the Hub: card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_soups.cli.app import Overwrite, app, printed


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="A soup's or a cascade's folder.")],
    name: Annotated[
        str | None, typer.Option(help="OWNER/NAME that users will load it by. Default: the folder's name.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe that names the task's data.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare the card's figures with the files.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the model card (README.md) of a soup or cascade, every figure taken from its files."""
    from hf_soups.recipe import load_recipe
    from hf_soups.report.card import check_card, write_card

    if check:
        check_card(folder)
        printed(f"{folder}: the card says what the files say.")
        return
    known = None if recipe is None else load_recipe(recipe)
    printed(f"wrote {write_card(folder, name=name, recipe=known, overwrite=overwrite)}")
