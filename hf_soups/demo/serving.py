"""Serving the page, by default to this machine only."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.ending import promise
from hf_soups.errors import HfSoupsError, InputError, MissingExtra

if TYPE_CHECKING:
    import gradio

    from hf_soups.demo.cascade import DemoCascade

HOST = "127.0.0.1"
PORT = 7860  # gradio's own first choice
PORTS = 100  # tried from there on, where none is named
LARGEST_FILE = "20mb"


def build_page(
    cascade: str | Path,
    *,
    title: str | None = None,
    examples: str | Path | None = None,
    frontier: str | Path | None = None,
    pair: bool = False,
    device: str | None = None,
) -> gradio.Blocks:
    """The page of a cascade, or of a single classifier as a cascade of one; `launch()` opens it.

    Args:
        cascade: a folder, or a Hub repo ("owner/name", "owner/name@revision").
        title: heading of the page; default: the name of the folder or repo.
        examples: a folder of images; for texts a file with one text, or pair (a ||| b), on a line. Default: examples/
            or examples.txt in the cascade's folder, or a dozen report rows of its data where these are beside it.
        frontier: a file of plans for the slider, instead of those that the cascade stores.
        pair: a single text classifier takes pairs of texts.
        device: where the members run; default: the GPU where there is one.
    Raises:
        MissingExtra: if gradio is not installed.
        InputError: if it is no cascade or classifier, or examples or frontier do not fit it.
        CheckpointError, MemberError: if it cannot be loaded.
    """
    shown, page = _page(cascade, title, examples, frontier, pair, device)
    _ = shown.model  # loaded now
    return page


def _page(
    model: str | Path,
    title: str | None,
    examples: str | Path | None,
    frontier: str | Path | None,
    pair: bool,
    device: str | None,
) -> tuple[DemoCascade, gradio.Blocks]:
    """A cascade whose members are not loaded yet, and its page."""
    require_gradio()
    from hf_soups.demo.cascade import examples_of, load_demo_cascade
    from hf_soups.demo.examples import default_examples

    shown = load_demo_cascade(model, name=title, frontier=frontier, pair=pair, device=device)
    offered = default_examples(model, shown.kind) if examples is None else examples_of(examples, shown.kind)
    from hf_soups.demo.page import page_of  # imports gradio, which takes seconds

    return shown, page_of(shown, offered)


def serve(
    cascade: str | Path,
    *,
    title: str | None = None,
    examples: str | Path | None = None,
    frontier: str | Path | None = None,
    pair: bool = False,
    device: str | None = None,
    host: str = HOST,
    port: int | None = None,
    wait: bool = True,
    open_browser: bool = False,
) -> gradio.Blocks:
    """Build the page and serve it; the members are loaded once it is there, and first questions wait for them.

    Args:
        cascade: as for `build_page`, like the five that follow.
        title: see there.
        examples: see there.
        frontier: see there.
        pair: see there.
        device: see there.
        host: address to listen at; the default is reached from this machine alone.
        port: default: the first free one from 7860 on.
        wait: until interrupted; otherwise return at once, and `close()` the page later.
        open_browser: open the page in the browser.
    Returns:
        The page; its address is `local_url`.
    Raises:
        InputError: if the port is taken or the address is not this machine's; and as `build_page`.
    """
    require_gradio()
    free_port(host, port)  # said before gradio is imported
    shown, page = _page(cascade, title, examples, frontier, pair, device)
    _launch(page, host, free_port(host, port), open_browser)
    try:
        _ = shown.model  # loaded now
    except BaseException:
        page.close(verbose=False)
        raise
    if wait:
        promise("the page is closed")
        page.block_thread()
    return page


def _launch(page: gradio.Blocks, host: str, port: int, open_browser: bool) -> None:
    try:
        with _loopback_direct():
            page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, inbrowser=open_browser,
                show_error=True, max_file_size=LARGEST_FILE, enable_monitoring=False,
            )  # fmt: skip
    except OSError as error:
        raise HfSoupsError(f"the page cannot be served at {host}:{port} ({error}). Try another --port.") from error
    print(f"The page is at {page.local_url} (Ctrl-C ends it).", flush=True)


def require_gradio() -> None:
    """Refuse to go on without the extra.

    Raises:
        MissingExtra: if gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra(
            'the demo page is made with gradio, which is not installed. Run: pip install "hf_soups[demo]".'
        )


def free_port(host: str = HOST, port: int | None = None) -> int:
    """The port if it is free, or the first free one from 7860 on.

    Raises:
        InputError: if it is taken, or the address is not this machine's.
    """
    wanted = range(PORT, PORT + PORTS) if port is None else (port,)
    error: OSError | None = None
    for number in wanted:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return number
        except OSError as failed:
            error = failed
    ports = f"port {port}" if port is not None else f"ports {PORT} to {PORT + PORTS - 1}"
    raise InputError(
        f"{ports} on {host} cannot be used ({error}). Name another with --port, or stop what listens there."
    )


@contextmanager
def _loopback_direct() -> Iterator[None]:
    """Gradio asks its own server once whether it runs; a proxy in the environment must not get that request."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    for name, value in before.items():
        os.environ[name] = ",".join(filter(None, (value, HOST, "localhost", "0.0.0.0")))  # noqa: S104
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
