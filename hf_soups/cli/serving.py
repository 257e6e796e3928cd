"""The command that answers requests over HTTP: serve."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_soups.cli.app import app, printed
from hf_soups.cli.cascades import by_member


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="FOLDER|REPO", help="A cascade, a soup or a single classifier.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at. The default can be reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, help="Rows that are answered at once.")] = 32,
    wait_ms: Annotated[float, typer.Option(min=0, help="Milliseconds that a row waits for others.")] = 5.0,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Of a cascade: average cost in shares of its most expensive member's, for requests that name none."
        ),
    ] = None,
    pair: Annotated[bool, typer.Option("--pair", help="The single classifier takes pairs of texts.")] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the weights: float32 (default), bfloat16 or float16. Of a cascade also by member, "
            "small=float32,big=bfloat16; default: each member's own."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Default: the GPU where there is one. Of a cascade also by member: small=cpu,big=cuda."),
    ] = None,
    max_body: Annotated[
        int | None, typer.Option(min=1, help="Bytes of a request. Default: 10 MiB of images, 1 MiB of texts.")
    ] = None,
    max_inputs: Annotated[int, typer.Option(min=1, help="Inputs of a request.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = 50_000_000,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests that are open at once; more get status 503, to come again.")
    ] = 256,
) -> None:  # fmt: skip
    """Answer requests over HTTP in the Hub's format, many rows in one batch, with /health and /metrics."""
    from hf_soups.serving import serve as answer_requests

    printed(f"[dim]loading {model}[/dim]")
    answer_requests(
        model, host=host, port=port, budget=budget, pair=pair, dtype=dtype and by_member(dtype),
        device=device and by_member(device), max_batch=max_batch, wait_ms=wait_ms, max_body=max_body,
        max_inputs=max_inputs, max_pixels=max_pixels, max_waiting=max_waiting,
    )  # fmt: skip
