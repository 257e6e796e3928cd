"""Commands that show and share: card, push, report, demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hf_soups.cli.app import Overwrite, app, printed
from hf_soups.errors import InputError


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="The folder of a soup or cascade.")],
    name: Annotated[
        str | None, typer.Option(help="OWNER/NAME that users will load it by. Default: the folder's name.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe that names task and data, for a soup whose folder has none.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="The Hub's name of the license, such as apache-2.0. Default: that of the present card."),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="Language code of the texts, such as en (repeatable).")
    ] = None,
    data_set: Annotated[str | None, typer.Option(help="OWNER/NAME on the Hub that local data are a copy of.")] = None,
    base_model: Annotated[
        list[str] | None, typer.Option(help="OWNER/NAME on the Hub that local models come from (repeatable).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder it is written into. Default: the soup's or cascade's own.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: compare the card's figures with the files.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the model card (README.md) of a soup or cascade, every figure taken from its files."""
    from hf_soups.recipe import load_recipe
    from hf_soups.reporting.cards.card import CardDetails, check_card, write_card

    if check:
        check_card(folder)
        printed(f"{folder}: the card's figures are those of the files.")
        return
    known = None if recipe is None else load_recipe(recipe)
    details = CardDetails(license or "", tuple(language or ()), data_set or "", tuple(base_model or ()))
    path = write_card(folder, name=name, recipe=known, details=details, out=out, overwrite=overwrite)
    printed(f"wrote {path}")


@app.command()
def push(
    folder: Annotated[
        Path,
        typer.Argument(help="The folder of a soup, a cascade, a sweep with its leaderboard, or a pool of predictions."),
    ],
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repo, created if needed: a model or a data set.")
    ],
    space: Annotated[bool, typer.Option("--space", help="Make a Space with the demo page of a cascade.")] = False,
    examples: Annotated[
        Path | None,
        typer.Option(help="With --space, inputs to try, which are sent too: as for hf-soups demo."),
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="With --space, a wheel of hf_soups to copy into it. Default: the registry's.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Visibility of a new repo. Default: as set on the Hub.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch. Default: main.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
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
    """Push a folder to the Hub in one commit; unchanged content makes no commit. Needs HF_TOKEN or `hf auth login`.

    Files that hf_soups wrote are sent, others only if --include names them; both are listed first. Soups and cascades
    become models, with a card whose figures are checked and whose code is run; leaderboards and pools of predictions
    become data sets; with --space a cascade becomes a Space with its demo page.
    """
    from hf_soups.hub import push as push_folder

    if not space and (examples or wheel):
        raise InputError("--examples and --wheel are of a Space's page: give --space too.")
    done = push_folder(
        folder, repo, private=private, revision=revision, create_pr=create_pr, message=message, dry_run=dry_run,
        force=force, include=include or (), space=_page(examples, wheel) if space else None,
        confirm=_confirm if sys.stdin.isatty() else None,
        tell=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    # not by rich: cards hold square brackets, and a long URL must stay in one piece
    for line in done.words():
        typer.echo(line)


def _page(examples: Path | None, wheel: Path | None) -> Callable[[Path], Mapping[str, str | Path]]:
    from hf_soups.demo import space_files

    return partial(space_files, examples=examples, wheel=wheel) if examples or wheel else space_files


def _confirm(question: str) -> bool:
    return typer.confirm(question, err=True)


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER",
            help="A sweep, pools of predictions, cascades, their answers to new rows, or a folder that holds them.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Title of the page. Default: the sweep's task.")] = None,
    examples: Annotated[
        int,
        typer.Option(min=0, help="Examples shown for each exit of a cascade; with 0 the file holds no data."),
    ] = 6,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of each interval.")] = 1000,
    overwrite: Overwrite = False,
) -> None:
    """Write a report as one HTML file that opens offline: leaderboard, costs, learning curves, soups, exits."""
    from hf_soups.reporting.page import report as write

    path = write(folders, out, title=title, examples=examples, resamples=resamples, overwrite=overwrite)
    printed(f"wrote {path}")


@app.command()
def demo(
    cascade: Annotated[str, typer.Argument(metavar="FOLDER|REPO", help="A cascade, a soup or a single classifier.")],
    title: Annotated[str | None, typer.Option(help="Heading. Default: the name of the folder or repo.")] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Examples to pick from: a folder of images, or a file with one text, or pair (a ||| b), on a line. "
            "Default: examples/ or examples.txt in the folder, or rows of its data beside it."
        ),
    ] = None,
    frontier: Annotated[
        Path | None,
        typer.Option(help="Plans for the slider, such as preds/frontier.json. Default: those that the cascade stores."),
    ] = None,
    pair: Annotated[bool, typer.Option("--pair", help="The single classifier takes pairs of texts.")] = False,
    device: Annotated[str | None, typer.Option(help="Default: the GPU if there is one.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at. The default can be reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page to try a cascade: its answers, the members asked, the cost saved, a slider over its plans."""
    from hf_soups.demo import serve

    if Path(cascade).expanduser().exists() or not cascade.startswith((".", "/", "~")):  # else that is said first
        printed(f"[dim]loading {cascade}[/dim]")
    serve(
        cascade, title=title, examples=examples, frontier=frontier, pair=pair, device=device, host=host, port=port,
        open_browser=open_browser,
    )  # fmt: skip
