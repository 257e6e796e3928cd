"""The command that answers requests over HTTP: serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_soups.cli.app import app, printed
from hf_soups.cli.cascades import by_member
from hf_soups.errors import InputError

if TYPE_CHECKING:
    from hf_soups.serving.settings import OnCluster


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
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster that answers: auto, HOST:PORT of its head, or local. Default: no cluster."),
    ] = None,
    split_members: Annotated[
        bool, typer.Option("--split-members", help="--address: replicas of each member of a cascade, not of the whole.")
    ] = False,
    replicas: Annotated[
        str | None, typer.Option(help="--address: default 1. With --split-members also small=4,large=2.")
    ] = None,
    cpus_per_replica: Annotated[
        str | None, typer.Option(help="--address: default 1; a share, such as 0.5, or by member too.")
    ] = None,
    gpus_per_replica: Annotated[
        str | None,
        typer.Option(help="--address: default those of the cluster, shared out; a share, or by member: large=1."),
    ] = None,
) -> None:  # fmt: skip
    """Answer requests over HTTP in the Hub's format, many rows in one batch, with /health and /metrics."""
    amounts = {"replicas": replicas, "cpus_per_replica": cpus_per_replica, "gpus_per_replica": gpus_per_replica}
    on = _on_cluster(address, split_members, amounts)
    from hf_soups.serving import serve as answer_requests

    printed(f"[dim]loading {model}[/dim]")
    answer_requests(
        model, host=host, port=port, budget=budget, pair=pair, dtype=dtype and by_member(dtype),
        device=device and by_member(device), max_batch=max_batch, wait_ms=wait_ms, max_body=max_body,
        max_inputs=max_inputs, max_pixels=max_pixels, max_waiting=max_waiting, **({} if on is None else {"on": on}),
    )  # fmt: skip


def _on_cluster(address: str | None, split: bool, amounts: dict[str, str | None]) -> OnCluster | None:
    """What the options of a cluster say; None: none is meant."""
    given = {name: value for name, value in amounts.items() if value is not None}
    if address is None:
        if names := [f"--{name.replace('_', '-')}" for name in (*(["split_members"] if split else []), *given)]:
            raise InputError(f"{', '.join(names)}: of a cluster; give --address too, or leave it out.")
        return None
    from hf_soups.serving.settings import OnCluster

    return OnCluster(address, split, **{name: _amount(name, value) for name, value in given.items()})


def _amount(name: str, text: str) -> Any:
    """A number, or numbers by member."""
    kind = int if name == "replicas" else float
    given = by_member(text)
    try:
        return {member: kind(n) for member, n in given.items()} if isinstance(given, dict) else kind(given)
    except ValueError:
        what = "a number" if kind is float else "a whole number"
        raise InputError(
            f"--{name.replace('_', '-')} {text}: expected {what}, or by member, such as small=2,large=1."
        ) from None
