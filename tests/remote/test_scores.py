"""Greedy on a cluster takes the decisions of greedy in one process, step for step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_soups.cooking import Options, cook
from hf_soups.errors import InputError
from hf_soups.remote.scores import ray_workers
from tests.makers.pile import make_pile
from tests.remote.conftest import Nodes


def said_and_soup(folder: Path, pile: Path, options: Options, **how: Any) -> tuple[list[str], dict[str, Any]]:
    said: list[str] = []
    sources = sorted(str(p) for p in pile.glob("m?"))
    cook(sources, ["greedy"], folder, recipe=pile / "recipe.yaml", options=options, tell=said.append, **how)
    return said, json.loads((folder / "soup.json").read_text())


def test_the_soup_of_a_cluster_is_that_of_one_process(nodes: Nodes, tmp_path: Path) -> None:
    pile = make_pile(tmp_path / "pile", models=6)
    options = {"early": Options(), "orders": Options(restarts=1, prune=True, tie_break=True)}
    with ray_workers(nodes.address) as workers:
        for name, how in options.items():
            serial = said_and_soup(tmp_path / "serial" / name, pile, how)
            there = said_and_soup(tmp_path / "ray" / name, pile, how, workers=workers)
            assert there == serial
            assert not [p.name for p in (tmp_path / "ray").iterdir() if p.name.startswith(".")]


def test_a_place_for_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"`speculate=0`: expected 1 or more"), ray_workers(speculate=0):
        pass
