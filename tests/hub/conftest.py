"""One Hub for all tests of a module, and clients of it that are started once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hub.clients import Client, client
from tests.hub.server import Blob, Hub, running

# Reads checkpoints without torch, and asks the Hub's own client; it does not wait before another try.
READER = """
import huggingface_hub
from huggingface_hub import constants
from hf_soups.checkpoint import Checkpoint
from hf_soups.files import downloads
downloads.WAITS = (0.0, 0.0)

def do(repo=None, revision=None, subfolder=None, api=None, offline=False, **how):
    constants.HF_HUB_OFFLINE = offline
    if api is not None:
        told = getattr(huggingface_hub.HfApi(), api)(**how)
        return told if isinstance(told, (dict, list)) else str(told)
    at = Checkpoint(repo, revision, subfolder)
    return {"sha256": at.sha256(), "folder": str(at.folder), "config": dict(at.config)}
"""


@pytest.fixture(scope="module")
def lasting_hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.fixture
def hub(lasting_hub: Hub) -> Hub:
    lasting_hub.forget()
    return lasting_hub


@pytest.fixture(scope="module")
def lasting_reader(lasting_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(lasting_hub, READER, tmp_path_factory.mktemp("home")) as process:
        yield process


@pytest.fixture
def reader(hub: Hub, lasting_reader: Client) -> Client:
    """Asks this test's Hub; what it pulls is `Checkpoint`'s."""
    return lasting_reader


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one tensor, 40 kB; enough for whatever does not run it."""
    at = tmp_path_factory.mktemp("small")
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    (at / "config.json").write_text(json.dumps(config))
    save_file({"classifier.weight": np.arange(10_000, dtype=np.float32)}, at / "model.safetensors")
    return at


def blobs_of(folder: Path) -> dict[str, Blob]:
    """The files of a folder as a repo holds them: weights by LFS."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        p.relative_to(folder).as_posix(): Blob(p.read_bytes(), p.suffix in (".safetensors", ".parquet")) for p in paths
    }
