"""Real data and weights lie beside the repository, in ../shared; where they do not, these tests are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

PLACE = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data/, models/ and tools/."""
    if not (PLACE / "data").is_dir():
        pytest.skip(f"no real data: {PLACE}/data is not there")
    return PLACE
