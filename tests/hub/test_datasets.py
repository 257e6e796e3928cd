"""Data sets of the Hub: read by `datasets` and by a recipe's task, with refusals that say what to do.

How leaderboards and pools become data sets stands in test_push_data.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow
import pyarrow.parquet
import pytest

from tests.hub.clients import Client, client
from tests.hub.server import DROP, TORN, Altered, Blob, Hub

pytestmark = pytest.mark.slow  # a process that imports datasets

READS = """
import datasets
from hf_soups.data.sources import load_dataset_split
from hf_soups.recipe.task import Task

def do(op, path, config="reviews", revision=None, split="train"):
    datasets.disable_progress_bars()
    if op == "load":
        return datasets.load_dataset(path, config, split=split, revision=revision).to_list()
    task = Task(kind="text", text=("text",), path=path, config=config, revision=revision)
    return load_dataset_split(task, split).to_list()
"""
README = b"""---
configs:
- config_name: reviews
  data_files: [{split: train, path: data/train.parquet}, {split: validation, path: data/validation.parquet}]
- config_name: scores
  data_files: scores/*.parquet
---
# Reviews
"""
BOTH = pytest.mark.parametrize("op", ["load", "read"])


def tables(word: str = "good") -> dict[str, Blob]:
    """A data set of two configs."""
    rows: dict[str, list[dict[str, object]]] = {
        "data/train": [{"text": word, "label": 1}],
        "data/validation": [{"text": "bad", "label": 0}],
        "scores/all": [{"run": "run_00", "score": 0.5}],
    }
    return {
        "README.md": Blob(README),
        **{f"{at}.parquet": Blob(as_parquet(those), lfs=True) for at, those in rows.items()},
    }


def as_parquet(rows: list[dict[str, object]]) -> bytes:
    made = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), made)
    return made.getvalue()


@pytest.fixture(scope="module")
def lasting_reads(lasting_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with client(lasting_hub, READS, tmp_path_factory.mktemp("home")) as process:
        yield process


@pytest.fixture
def reads(hub: Hub, lasting_reads: Client) -> Client:
    """Loads what this test's Hub holds."""
    return lasting_reads


@BOTH
def test_configs_splits_and_revisions_are_read_by_their_names(hub: Hub, reads: Client, op: str) -> None:
    repo = hub.create("me/reviews", kind="datasets")
    repo.commit("main", "x", tables())
    repo.commit("old", "y", tables("fine"))
    known = {"op": op, "path": "me/reviews"}
    assert reads(**known) == [{"text": "good", "label": 1}]
    assert reads(**known, split="validation") == [{"text": "bad", "label": 0}]
    assert reads(**known, config="scores") == [{"run": "run_00", "score": 0.5}]
    assert reads(**known, revision="old") == [{"text": "fine", "label": 1}]


@BOTH
def test_a_private_data_set_is_read_with_a_token_that_reads(hub: Hub, reads: Client, op: str) -> None:
    hub.create(f"me/private-{op}", kind="datasets", private=True).commit("main", "x", tables())
    assert reads(op=op, path=f"me/private-{op}", token="hf_read") == [{"text": "good", "label": 1}]


@pytest.mark.parametrize(
    ("path", "revision", "token", "message"),
    [
        ("me/none", None, "hf_read", "the Hub has no data set 'me/none' that you may read"),
        ("me/secret", None, None, "for a private or gated one log in with `hf auth login`."),
        ("me/secret", None, "hf_other", "the Hub has no data set 'me/secret' that you may read"),
        ("me/secret", "v9", "hf_read", "Correct `path` and `revision`"),
        (
            "me/secret",
            None,
            "hf_gone",
            "the Hub answered 401: Invalid credentials in Authorization header. Check `path`",
        ),
    ],
)
def test_a_refusal_says_why_and_what_to_do(
    hub: Hub, reads: Client, path: str, revision: str | None, token: str | None, message: str
) -> None:
    hub.create("me/secret", kind="datasets", private=True).commit("main", "x", tables())
    told = reads(op="read", path=path, revision=revision, token=token)
    assert message in told["error"]
    assert told["error"].startswith(f"{path}:reviews:train: ")
    assert (told["type"], told["status"]) == ("DataError", 2)


@pytest.mark.parametrize(
    ("part", "how", "message", "status"),
    [
        ("/api/datasets", 503, "the Hub answered 503: as the test asked. Try again later.", 1),
        ("/api/datasets", 429, "the Hub answered 429: as the test asked. Try again later.", 1),
        ("/api/datasets", DROP, "the Hub cannot be reached (Server disconnected without sending a response.)", 2),
        ("/storage/", 503, "the Hub answered 503: as the test asked. Try again later.", 1),
        ("/storage/", Altered(lambda data: data[:-1]), "Consistency check failed: file should be of size", 2),
    ],
)
def test_after_a_fault_the_next_try_reads_the_rows(
    hub: Hub, reads: Client, tmp_path: Path, part: str, how: int | str | Altered, message: str, status: int
) -> None:
    path = f"me/{tmp_path.name}"  # one that no other test pulled: the client's cache lasts
    hub.create(path, kind="datasets").commit("main", "x", tables())
    hub.fail("GET", part, how)
    told = reads(op="read", path=path)
    assert message in told["error"]
    assert told["status"] == status
    assert reads(op="read", path=path) == [{"text": "good", "label": 1}]


def test_a_torn_download_goes_on_where_it_broke_off(hub: Hub, reads: Client) -> None:
    hub.create("me/torn", kind="datasets").commit("main", "x", tables())
    hub.fail("GET", "/storage/", TORN)
    assert reads(op="read", path="me/torn") == [{"text": "good", "label": 1}]
    assert hub.faults == []


def test_an_address_of_the_hub_names_a_data_set_or_files_of_it(hub: Hub, reads: Client) -> None:
    repo = hub.create("me/by-address", kind="datasets")
    repo.commit("main", "x", tables())
    repo.commit("old", "y", tables("fine"))
    at = "hf://datasets/me/by-address"
    assert reads(op="read", path=at) == [{"text": "good", "label": 1}]
    assert reads(op="read", path=f"{at}/data/train.parquet") == [{"text": "good", "label": 1}]
    assert reads(op="read", path=f"{at}@old/data/*.parquet")[-1] == {"text": "bad", "label": 0}
    told = reads(op="read", path="hf://datasets/me/none/data/x.parquet")
    assert "the Hub has no data set 'me/none' that you may read" in told["error"]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_parquet_file_of_a_web_server_is_read_by_its_address(reads: Client, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(as_parquet([{"text": "good", "label": 1}]))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        assert reads(op="read", path=f"{at}/x.parquet") == [{"text": "good", "label": 1}]
        told = reads(op="read", path=f"{at}/y.parquet")
        server.shutdown()
    assert "y.parquet:reviews:train: cannot be read there" in told["error"]
    assert (told["type"], told["status"]) == ("DataError", 2)
