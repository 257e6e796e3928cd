"""Models near one start, of a task with data, that several files score."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_soups.checkpoint import Checkpoint
from tests.makers.pile import make_pile


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pile(tmp_path_factory.mktemp("pile"))


@pytest.fixture
def pool(pile: Path) -> list[Checkpoint]:
    return [Checkpoint(pile / f"m{i}") for i in range(4)]
