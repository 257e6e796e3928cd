"""A service on a port of this machine, until it is interrupted; what is open then is answered first."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.ending import promise
from hf_soups.errors import InputError
from hf_soups.serving.app import how_to_ask, make_app, require_extra
from hf_soups.serving.settings import OnCluster, ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST = "127.0.0.1"
PORT = 8000
IDLE_SECONDS = 30  # that a connection is kept without a request
BACKLOG = 1024


def build_app(
    model: str | Path,
    *,
    budget: float | None = None,
    pair: bool = False,
    dtype: str | Mapping[str, str] | None = None,
    device: str | Mapping[str, str] | None = None,
    **settings: Any,
) -> FastAPI:
    """A service as an ASGI app, for a server of your own such as uvicorn.

    Args:
        model: a cascade, a soup or another classifier: a folder, or a Hub repo ("owner/name", "owner/name@revision").
        budget: average cost in shares of the most expensive member's, for requests that name none.
        pair: a single text classifier takes pairs of texts.
        dtype: of the weights, of a cascade also by its members' names. Default: float32; each member's own.
        device: default: the GPU where there is one. Of a cascade also by its members' names.
        settings: fields of `hf_soups.serving.ServeSettings`: `max_batch`, `wait_ms`, `max_body`, ...
    Raises:
        MissingExtra: if FastAPI or uvicorn is not installed.
        InputError: if it is no cascade or classifier, or a setting is not allowed.
        CheckpointError, MemberError: if it cannot be loaded.
    """
    require_extra()
    chosen = ServeSettings(**settings)
    from hf_soups.serving.served import load_served  # torch and transformers, when it is known that they are needed

    return make_app(load_served(model, budget=budget, pair=pair, dtype=dtype, device=device), chosen)


def serve(model: str | Path, *, host: str = HOST, port: int = PORT, on: OnCluster | None = None, **how: Any) -> None:
    """Load a model and answer requests until SIGTERM or Ctrl-C.

    Args:
        model: as for `build_app`.
        host: address to listen at; the default is reached from this machine alone.
        port: 0 takes a free one.
        on: which replicas on a cluster answer; default: this process does.
        how: further arguments of `build_app`.
    Raises:
        InputError: if the port is taken or the address is not this machine's; and as `build_app` and `served_on`.
    """
    require_extra()
    if on is not None and how.pop("device", None) is not None:
        raise InputError("--device is of one machine: on a cluster give --gpus-per-replica, such as large=1.")
    with bound(host, port) as listening:  # said before models are loaded, which takes longest
        if on is None:
            _run(build_app(model, **how), listening)
            return
        from hf_soups.serving.on_ray import served_on

        loading: dict[str, Any] = {name: how.pop(name) for name in ("budget", "pair", "dtype") if name in how}
        settings = ServeSettings(**how)
        with served_on(model, replace(on, loading=loading, max_pixels=settings.max_pixels)) as served:
            _run(make_app(served, settings), listening)


def bound(host: str, port: int) -> socket.socket:
    """A socket that has its address, and does not listen yet.

    Raises:
        InputError: if the port is taken, or the address is not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
    except OSError as error:
        raise InputError(f"{host} is no address ({error}). Give one of this machine with --host.") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise InputError(
            f"port {port} on {host} cannot be used ({error}). Name another with --port, or stop what listens there."
        ) from error
    return made


def _run(app: FastAPI, listening: socket.socket) -> None:
    import uvicorn

    service = app.state.service
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"{service.served.name} answers at {url} (Ctrl-C ends it). To ask:", flush=True)
            print(how_to_ask(service.served.kind, url), flush=True)

    if not ipaddress.ip_address(host).is_loopback:
        print(
            f"hf-soups: warning: whoever reaches {host} can ask: there is no password. See docs/serving.md.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    promise("open requests were answered")
    # h11: it bounds a request's head
    config = uvicorn.Config(
        app, http="h11", ws="none", log_config=None, log_level="error", access_log=False, server_header=False,
        proxy_headers=False, backlog=BACKLOG, timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=round(service.settings.grace_seconds),
    )  # fmt: skip
    Server(config).run(sockets=[listening])
