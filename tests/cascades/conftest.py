"""The search of larger pools on the small ones of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hf_soups.cascades import pareto
from hf_soups.cascades.search import candidates


@pytest.fixture(scope="module")
def compiled_search() -> Iterator[None]:
    """Every pool is searched by machine code; test_small_pools.py holds that the plans are those without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "FEW_ROWS", 0)
        patch.setattr(pareto, "FEW_LEVELS", 0)
        yield
