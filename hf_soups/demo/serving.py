"""Serving the page, by default to this machine only; or the files of a Space, which the Hub serves."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import HfSoupsError, InputError, MissingExtra
from hf_soups.pool.entries import is_cascade, one_model

if TYPE_CHECKING:
    import gradio


HOST = "127.0.0.1"
PORT = 7860  # gradio's own first choice
PORTS = 100  # tried from there on, where none is named
LARGEST_FILE = "20mb"
MODEL = "model"  # the Space's folder that holds the cascade
SPACE_PORT = 7860  # where the Hub looks for the page
APP = '''"""The demo of a cascade; the page itself is part of hf_soups."""

from hf_soups.demo import serve

serve({model}, title={title}, host="0.0.0.0", port={port})
'''


def space_files(cascade: str | Path) -> dict[str, str]:
    """What a Space needs beside the cascade, which is in its folder "model".

    Args:
        cascade: its folder, or a Hub repo.
    Returns:
        Texts by file name: app.py, requirements.txt and README.md with the Space's metadata.
    Raises:
        InputError: if it is no cascade.
        MissingExtra: if gradio is not installed, whose version the Space is to have.
    """
    checkpoint = one_model(cascade)
    if not is_cascade(checkpoint):
        raise InputError(
            f"{checkpoint}: no cascade, but a model of type {checkpoint.config.get('model_type')!r}. A Space shows a "
            "cascade; build one with hf-soups cascade build."
        )
    name = checkpoint.name.rpartition("/")[2]
    return {
        "app.py": APP.format(model=json.dumps(MODEL), title=json.dumps(name), port=SPACE_PORT),
        "requirements.txt": f"hf_soups[demo]>={version('hf_soups')}\n",
        "README.md": _readme(name, checkpoint.config),
    }


def _readme(name: str, config: Any) -> str:
    import yaml

    members = [str(member["name"]) for member in config["members"]]
    repos = sorted({str(member["repo"]) for member in config["members"] if member.get("repo")})
    about: dict[str, Any] = {
        "title": name,
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": _gradio(),
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Models asked one after another until one is sure",
        "tags": ["hf_soups", "cascade"],
    }
    if repos:
        about["models"] = repos
    return (
        f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n\n"
        f"A cascade of {', '.join(members)}: each is asked only where those before it were not sure enough. The page "
        "shows each answer, the member that gave it, what every member said, and what was saved.\n\n"
        f"The cascade is in `{MODEL}/`; to open the same page elsewhere, run `hf-soups demo {MODEL}/`.\n"
    )


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise MissingExtra(
            "a Space names the version of gradio that its page was tried with, but gradio is not installed. Run: "
            'pip install "hf_soups[demo]".'
        ) from None


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
    require_gradio()
    from hf_soups.demo.cascade import examples_of, load_demo_cascade
    from hf_soups.demo.examples import default_examples

    loaded = load_demo_cascade(cascade, name=title, frontier=frontier, pair=pair, device=device)
    shown = default_examples(cascade, loaded.kind) if examples is None else examples_of(examples, loaded.kind)
    from hf_soups.demo.page import page_of  # imports gradio, which takes seconds

    return page_of(loaded, shown)


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
    """Build the page and serve it.

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
    free_port(host, port)  # said before models are loaded, which takes longest
    page = build_page(cascade, title=title, examples=examples, frontier=frontier, pair=pair, device=device)
    return launched(page, host, free_port(host, port), wait=wait, open_browser=open_browser)


def launched(
    page: gradio.Blocks, host: str, port: int, *, wait: bool = True, open_browser: bool = False
) -> gradio.Blocks:
    """Serve a page that is built; see `serve`."""
    try:
        with _loopback_direct():
            page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, inbrowser=open_browser,
                show_error=True, max_file_size=LARGEST_FILE, enable_monitoring=False,
            )  # fmt: skip
    except OSError as error:
        raise HfSoupsError(f"the page cannot be served at {host}:{port} ({error}). Try another --port.") from error
    print(f"The page is at {page.local_url} (Ctrl-C ends it).", flush=True)
    if wait:
        page.block_thread()
    return page


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
