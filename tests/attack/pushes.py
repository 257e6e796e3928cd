"""Pushes that are killed: the Hub holds nothing of them or all, and the same command again ends as undisturbed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.attack.cases import copy
from tests.hub.clients import knowing
from tests.hub.repos import Hub
from tests.hub.server import running

CODE = """
import sys
from hf_soups.hub import models, push, pushing
pushing.WAITS = (0.0, 0.0, 0.0)
models.run_snippet = lambda *_, **__: None  # minutes of loading, which writes nothing
print("ready", flush=True)
push("soups/greedy", "me/soup", force=True)
"""


def pushes(world: Path, place: Path, *, seed: int, count: int) -> int:
    """Kill so many pushes at random moments, print the counts; how many failed."""
    usual, seconds = _undisturbed(world, place / "usual")
    ends: Counter[str] = Counter()
    for number in range(count):
        ends[_killed(world, place / str(number), Random(f"{seed}:{number}").uniform(0, seconds), usual)] += 1
    print("push:", ", ".join(f"{end} {n}" for end, n in ends.items()))
    return count - ends["same answer"]


def _undisturbed(world: Path, folder: Path) -> tuple[str, float]:
    copy(world, folder / "world")
    with running() as hub:
        process = _started(hub, folder)
        began = time.monotonic()
        if process.wait(300):
            raise SystemExit("push fails undisturbed")
        return _held(hub), time.monotonic() - began


def _killed(world: Path, folder: Path, after: float, usual: str) -> str:
    copy(world, folder / "world")
    with running() as hub:
        process = _started(hub, folder)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        half = _held(hub)
        if half not in ("", usual):
            return "half a push"
        if _started(hub, folder).wait(300):
            return "fails when repeated"
        left = [p.name for p in (folder / "temporary").iterdir() if p.name.startswith("hf_soups")]
        found = "same answer" if _held(hub) == usual else "another result"
    shutil.rmtree(folder)
    return f"leftovers: {left[0]}" if left else found


def _started(hub: Hub, folder: Path) -> subprocess.Popen[str]:
    (folder / "temporary").mkdir(exist_ok=True)
    env = {**knowing(hub, folder / "home", "hf_write"), "TMPDIR": str(folder / "temporary")}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], cwd=folder / "world", env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _held(hub: Hub) -> str:
    """All files of the repo with their hashes; empty where nothing was pushed yet."""
    commit = next((found for repo in hub.repos.values() if (found := repo.at("main"))), None)
    files = {} if commit is None else {path: blob.oid for path, blob in commit.files.items()}
    return json.dumps(files, sort_keys=True) if set(files) - {".gitattributes"} else ""
