"""The command that opens the demo page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_soups.cli.app import app, printed


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
