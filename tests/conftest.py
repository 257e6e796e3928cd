"""Tests are offline, and arrays' shapes are checked while they run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator
from typing import Any

import pytest
from jaxtyping import install_import_hook

# Modules whose annotations need no import made only for type checkers.
install_import_hook(
    [
        "hf_soups.predictions.predictions",
        "hf_soups.predictions.topk",
        "hf_soups.pool.label_order",
        "hf_soups.metrics",
        "hf_soups.data.split",
        "hf_soups.models.cost_counting",
        "hf_soups.models.layers",
        "hf_soups.ensembles",
        "hf_soups.finetune.augment",
        "hf_soups.cascades.simulate",
    ],
    "beartype.beartype",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one worker, which makes their fixtures once; numba compiles for those of cascades."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/cascades" if nodeid.startswith("tests/cascades/") else super()._split_scope(nodeid)

    return ByFile(config, log)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered of files never goes to the user's own cache."""
    os.environ["HF_SOUPS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_user_code() -> Iterator[None]:
    """What a test imports by --import, which is handed on by the environment, no later test's processes import."""
    from hf_soups.user_code import VARIABLE

    before = os.environ.get(VARIABLE)
    yield
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before
