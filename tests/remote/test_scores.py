"""Greedy on a cluster takes the decisions of greedy in one process, step for step."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hf_soups.cooking import Options, cook
from hf_soups.errors import InputError
from hf_soups.remote.scores import ray_workers
from tests.makers.patience import PATIENCE
from tests.makers.pile import make_pile
from tests.remote.conftest import Nodes


def said_and_soup(folder: Path, pile: Path, options: Options, **how: Any) -> tuple[list[str], dict[str, Any]]:
    said: list[str] = []
    sources = sorted(str(p) for p in pile.glob("m?"))
    cook(sources, ["greedy"], folder, recipe=pile / "recipe.yaml", options=options, tell=said.append, **how)
    return said, json.loads((folder / "soup.json").read_text())


def kill_one_that_scores(mark: str, killed: list[int]) -> None:
    """SIGKILL for the first worker that scores for the command with this mark in its environment."""
    deadline = time.monotonic() + PATIENCE
    while not killed and time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                title = (process / "cmdline").read_bytes().startswith(b"ray::score_here")
                if title and mark.encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
        time.sleep(0.01)


def test_the_soup_of_a_cluster_is_that_of_one_process_also_where_a_worker_is_killed(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MARK", str(tmp_path))  # goes along
    pile = make_pile(tmp_path / "pile", models=6)
    killed: list[int] = []
    with ray_workers(nodes.address) as workers:
        killer = Thread(target=kill_one_that_scores, args=(str(tmp_path), killed))
        killer.start()
        for name, how in {"early": Options(), "orders": Options(restarts=1, prune=True, tie_break=True)}.items():
            serial = said_and_soup(tmp_path / "serial" / name, pile, how)
            there = said_and_soup(tmp_path / "ray" / name, pile, how, workers=workers)
            assert there == serial
            assert not [p.name for p in (tmp_path / "ray").iterdir() if p.name.startswith(".")]
        killer.join()
    assert killed


def test_a_place_for_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"`speculate=0`: expected 1 or more"), ray_workers(speculate=0):
        pass
