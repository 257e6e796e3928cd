"""Commands of what goes to the Hub: card and push."""

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


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A soup's or a cascade's folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model repo; made where there is none.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repo. Default: as your settings on the Hub say.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch. Default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and sizes; send nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what another folder left in the repo.")] = False,
) -> None:
    """Push a soup or cascade in one commit; the same content again makes none. HF_TOKEN or `hf auth login`."""
    from hf_soups.hub import push as push_folder

    done = push_folder(
        folder, repo, private=private, revision=revision, create_pr=create_pr, message=message, dry_run=dry_run,
        force=force,
    )  # fmt: skip
    for line in done.words():
        printed(line)
