"""Playing a page: its commands and its Python, in the order in which a reader meets them, in the working directory.

python -m tests.documents.playing PAGE   # in a process of its own, for a page that needs a Hub
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.documents.pages import Block, blocks, given
from tests.documents.scene import GIVEN

# Programs that other tests run (the Makefile's targets in CI, the quickstart in tests/quickstart), or that
# belong to somebody else.
OTHERS = ("make", "pip", "trackio", "hf", "curl", "docker")
MAY_SAY_NO = ("search", "certify", "defer", "watch", "inspect", "doctor")  # exit status 1 is an answer there


def opened_and_closed(*about: Any, **how: Any) -> None:
    """The demo's server, without waiting for somebody to interrupt it."""
    from hf_soups.demo.serving import serve

    serve(*about, **how, wait=False).close()


def loaded_and_asked(model: str, *, host: str = "", port: int = 0, **how: Any) -> None:
    """The service as an app, without a socket."""
    from fastapi.testclient import TestClient

    from hf_soups.serving import build_app

    with TestClient(build_app(model, **how)) as client:
        assert client.get("/health").json()["status"] == "ready"


def play(page: Path) -> None:
    """Run a page's blocks in the working directory."""
    for name in given(page):
        GIVEN[name]()
    for block in blocks(page):
        if block.not_run:
            continue
        if block.language == "python":
            exec(compile(block.text, page.name, "exec", dont_inherit=True), {"__name__": "page"})
        for command in block.commands:
            run(command, block)


def run(command: list[str], block: Block) -> None:
    program, *words = command
    if program in OTHERS:
        return
    if command[:4] == ["accelerate", "launch", "-m", "hf_soups.finetune"]:
        from hf_soups.finetune.command import main

        status, told = main(command[4:]), ""
    else:
        assert program == "hf-soups", f"{block.page}: {' '.join(command)}: which program is this?"
        status, told = hf_soups([with_a_number_that_is_there(word) for word in words])
    assert status == 0 or (status == 1 and any(word in MAY_SAY_NO for word in words[:2])), (
        f"{block.page}: {' '.join(command)} ended with status {status}: {told}"
    )


def hf_soups(words: list[str]) -> tuple[int, str]:
    """A command in this process: another one would first import torch for seconds."""
    from typer.testing import CliRunner

    from hf_soups.cli import app

    done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"hf-soups {' '.join(words)}: {done.exception}") from done.exception
    return done.exit_code, done.output


def with_a_number_that_is_there(word: str) -> str:
    """preds/frontier.json#3; where tiny models leave fewer plans the last one, if possible of several members."""
    path, hash_sign, number = word.partition("#")
    if not hash_sign or not number.isdigit() or not path.endswith(".json"):
        return word
    plans = json.loads(Path(path).read_text())["plans"]
    several = [i for i, plan in enumerate(plans) if len(plan["members"]) > 1]
    return f"{path}#{min(int(number), several[-1] if several else len(plans) - 1)}"


if __name__ == "__main__":
    # a card's code is run in processes of its own, as tests/hub/test_push_cards.py sees; here that would take a minute
    with patch("hf_soups.reporting.cards.card.run_code"):
        play(Path(sys.argv[1]))
