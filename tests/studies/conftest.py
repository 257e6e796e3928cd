"""What the studies' scripts run: one warm program for all of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.makers.patience import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What stands for `hf-soups` in the scripts: the same program, forked from a process that has imported it."""
    socket = tmp_path_factory.mktemp("warm") / "socket"
    warm = [sys.executable, "-m", "tests.studies.warm"]
    server = subprocess.Popen(
        [*warm, "serve", str(socket)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    yield f"env PYTHONPATH={ROOT} {' '.join(warm)} {socket}"
    assert server.stdin is not None
    server.stdin.close()
    server.wait(timeout=PATIENCE)
