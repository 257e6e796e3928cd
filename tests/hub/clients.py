"""Processes of their own that know only the Hub of the tests: the client reads its settings once, when imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hub.repos import Hub
from tests.makers.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def knowing(hub: Hub, home: Path, token: str | None = None) -> dict[str, str]:
    """The environment in which this Hub is the only one."""
    ours = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"no_proxy": "127.0.0.1,localhost", "PYTHONPATH": str(ROOT)}
    return env if token is None else env | {"HF_TOKEN": token}


def run(hub: Hub, code: str, *arguments: str, home: Path, token: str | None = "hf_write", typed: str = "") -> str:
    """What a fresh process prints last."""
    whole = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        whole, env=knowing(hub, home, token), input=typed, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


class Client:
    """A process that does one thing after the other: `code` defines `do(**what)`, whose result is JSON.

    Errors of hf_soups, and all others by their type, come back as {"error": message, "type": name, "status": number}.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, *, token: str | None = "hf_write", **what: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([token, what]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the client's process ended"
        return json.loads(line)


LOOP = """
def _serve():
    import json, os, sys
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        token, what = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        os.environ.update({} if token is None else {"HF_TOKEN": token})
        try:
            told = do(**what)
        except Exception as error:
            told = {"error": str(error), "type": type(error).__name__, "status": getattr(error, "exit_status", None)}
        print(json.dumps(told), file=answers, flush=True)

_serve()
"""


@contextmanager
def client(hub: Hub, code: str, home: Path) -> Iterator[Client]:
    whole = [sys.executable, "-c", code + LOOP]
    with subprocess.Popen(
        whole, env=knowing(hub, home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()
