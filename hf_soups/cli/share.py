"""Commands that show and share: card, push, report, demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
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
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe of a soup that keeps none: it names the task and its data.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="The Hub's word for it, such as apache-2.0. Default: as in the card that is there."),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="Code of the texts' language, such as en (repeatable).")
    ] = None,
    data_set: Annotated[str | None, typer.Option(help="OWNER/NAME on the Hub that local data are a copy of.")] = None,
    base_model: Annotated[
        list[str] | None, typer.Option(help="OWNER/NAME on the Hub that local models come from (repeatable).")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only compare the card's figures with the files.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the model card (README.md) of a soup or cascade, every figure taken from its files."""
    from hf_soups.recipe import load_recipe
    from hf_soups.report.cards.card import CardDetails, check_card, write_card

    if check:
        check_card(folder)
        printed(f"{folder}: the card says what the files say.")
        return
    known = None if recipe is None else load_recipe(recipe)
    details = CardDetails(license or "", tuple(language or ()), data_set or "", tuple(base_model or ()))
    printed(f"wrote {write_card(folder, name=name, recipe=known, details=details, overwrite=overwrite)}")


@app.command()
def push(
    folder: Annotated[
        Path,
        typer.Argument(help="Of a soup, a cascade, a sweep with its leaderboard, or a pool of predictions."),
    ],
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repo; made where there is none, as a model or a data set.")
    ],
    space: Annotated[bool, typer.Option("--space", help="Make a Space of a cascade: its demo page.")] = False,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repo. Default: as your settings on the Hub say.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch. Default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes and the card; send nothing, run nothing.")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Also send files that are not part of it: notes.txt, '*.csv', data/ (repeatable)."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what the repo holds, without asking.")
    ] = False,
) -> None:  # fmt: skip
    """Push to the Hub in one commit; the same content again makes none. HF_TOKEN or `hf auth login`.

    What hf_soups wrote is sent; other files stay here unless --include names them. The list is shown first.
    Soups and cascades go as models, with a card whose figures were checked and whose code was run; leaderboards and
    pools of predictions as data sets; with --space a cascade goes with its demo page.
    """
    from hf_soups.hub import push as push_folder

    done = push_folder(
        folder, repo, private=private, revision=revision, create_pr=create_pr, message=message, dry_run=dry_run,
        force=force, include=include or (), space=_page() if space else None,
        confirm=_confirm if sys.stdin.isatty() else None,
        tell=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    # not by rich: cards hold square brackets, and a long URL must stay in one piece
    for line in done.words():
        typer.echo(line)


def _page() -> Callable[[Path], Mapping[str, str]]:
    from hf_soups.demo import space_files

    return space_files


def _confirm(question: str) -> bool:
    return typer.confirm(question, err=True)


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="A sweep, pools of predictions, cascades, or a folder that holds them."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Of the page. Default: after the sweep's task.")] = None,
    examples: Annotated[
        int,
        typer.Option(
            min=0, help="Rows of the data that the file shows of each exit of a cascade; 0 keeps data out of it."
        ),
    ] = 6,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of each interval.")] = 1000,
    overwrite: Overwrite = False,
) -> None:
    """One HTML file to read and to send: leaderboard, costs, learning curves, soups, exits; opens offline."""
    from hf_soups.report.page import write_report

    path = write_report(folders, out, title=title, examples=examples, resamples=resamples, overwrite=overwrite)
    printed(f"wrote {path}")


@app.command()
def demo(
    cascade: Annotated[str, typer.Argument(metavar="FOLDER|REPO", help="A cascade; or a soup or single classifier.")],
    title: Annotated[str | None, typer.Option(help="Heading. Default: the name of the folder or repo.")] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="Folder of images; for texts a file with one text, or pair (a ||| b), on a line."),
    ] = None,
    frontier: Annotated[
        Path | None, typer.Option(help="Plans for the slider, such as preds/frontier.json. Default: the stored ones.")
    ] = None,
    pair: Annotated[bool, typer.Option("--pair", help="A single text classifier takes pairs of texts.")] = False,
    device: Annotated[str | None, typer.Option(help="Default: the GPU where there is one.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; the default is reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page where a cascade is tried: answers, members asked, cost saved, a slider over its plans."""
    from hf_soups.demo import serve

    printed(f"[dim]loading {cascade}[/dim]")
    serve(
        cascade, title=title, examples=examples, frontier=frontier, pair=pair, device=device, host=host, port=port,
        open_browser=open_browser,
    )  # fmt: skip
