"""A Hub that fails half-way: nothing is lost, the next try succeeds, and nothing torn or altered passes for good."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_soups.errors import CheckpointError
from hf_soups.files.downloads import spoilt
from tests.hub.clients import Client
from tests.hub.conftest import blobs_of
from tests.hub.server import DROP, LOSE, TORN, Altered, Hub


def flipped(data: bytes) -> bytes:
    """The same length, another last byte: what no check of sizes sees."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.fixture
def repo(hub: Hub, small: Path, request: pytest.FixtureRequest) -> str:
    """A repo that no other test pulled: the client's cache lasts."""
    name = f"me/{zlib.crc32(request.node.nodeid.encode())}"
    hub.create(name).commit("main", "x", blobs_of(small))
    return name


@pytest.fixture(scope="module")
def right(small: Path) -> str:
    """SHA-256 of the weights as the Hub has them."""
    return blobs_of(small)["model.safetensors"].sha256


@pytest.mark.parametrize(
    ("method", "part", "how"),
    [
        ("GET", "/api/models", 429),
        ("GET", "/api/models", 503),
        ("GET", "/api/models", DROP),
        ("GET", "/api/models", LOSE),
        ("HEAD", "/resolve/", DROP),
        ("GET", "/resolve/", 500),
        ("GET", "/storage/", 503),
        ("GET", "/storage/", Altered(lambda data: data[:-1])),
        # the client itself waits a second before it asks again
        pytest.param("GET", "/tree/", 503, marks=pytest.mark.slow),
        pytest.param("GET", "/storage/", 429, marks=pytest.mark.slow),
        pytest.param("GET", "/storage/", DROP, marks=pytest.mark.slow),
        pytest.param("GET", "/storage/", TORN, marks=pytest.mark.slow),
        pytest.param("GET", "/resolve/", TORN, marks=pytest.mark.slow),
    ],
)
def test_a_pull_that_meets_a_fault_is_tried_again(
    hub: Hub, reader: Client, repo: str, right: str, method: str, part: str, how: int | str | Altered
) -> None:
    hub.fail(method, part, how)
    assert reader(repo=repo)["sha256"] == right
    assert hub.faults == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (503, "the Hub answered 503: as the test asked. Try again later: what was downloaded is kept."),
        (429, "the Hub answered 429: as the test asked. Try again later: what was downloaded is kept."),
        (DROP, "broke off (Server disconnected without sending a response.). Try again: what was downloaded is kept."),
    ],
)
def test_a_hub_that_stays_broken_is_told_as_a_failure_and_the_next_pull_succeeds(
    hub: Hub, reader: Client, repo: str, right: str, how: int | str, message: str
) -> None:
    hub.fail("GET", "/api/models", how, times=3)
    told = reader(repo=repo)
    assert message in told["error"]
    assert told["error"].startswith(f"{repo}: ")
    assert (told["type"], told["status"]) == ("HubFailed", 1)
    assert reader(repo=repo)["sha256"] == right


def test_what_arrived_before_a_failure_is_not_sent_again(hub: Hub, reader: Client, repo: str, right: str) -> None:
    hub.fail("GET", "/storage/", 503, times=3)
    assert "the Hub answered 503" in reader(repo=repo)["error"]
    half = reader(repo=repo, offline=True)
    assert "only a part of it in the Hub's cache, and offline mode is on" in half["error"]
    before = hub.asked("GET", "/resolve/")
    assert reader(repo=repo)["sha256"] == right
    assert hub.asked("GET", "/resolve/") == before


@pytest.mark.parametrize("part", ["/storage/", "/resolve/"])
def test_bytes_with_another_hash_are_got_again(hub: Hub, reader: Client, repo: str, right: str, part: str) -> None:
    hub.fail("GET", part, Altered(flipped if part == "/storage/" else lambda data: data.replace(b"vit", b"bit")))
    told = reader(repo=repo)
    assert hub.faults == []
    assert (told["sha256"], told["config"]["model_type"]) == (right, "vit")


def test_bytes_that_stay_wrong_are_refused_and_the_next_pull_mends_them(
    hub: Hub, reader: Client, repo: str, right: str
) -> None:
    hub.fail("GET", "/storage/", Altered(flipped), times=2)
    told = reader(repo=repo)
    assert (
        f"{repo}: the copy in the Hub's cache is not what the Hub has: model.safetensors has the hash" in told["error"]
    )
    assert f"where the Hub has {right[:12]}" in told["error"]
    blob = Path(told["error"].split("Delete ")[1].split(", and try")[0])
    assert blob.is_file()
    assert blob.name == right
    assert told["status"] == 2

    before = len(hub.requests)
    assert reader(repo=repo, offline=True) == told  # nothing can be got now, and nothing is believed
    assert len(hub.requests) == before
    assert reader(repo=repo)["sha256"] == right
    assert reader(repo=repo, offline=True)["sha256"] == right


def test_a_file_that_was_cut_or_changed_in_the_cache_is_seen(tmp_path: Path, small: Path) -> None:
    """As the client lays it out: a link to a blob that is called as its content hashes."""
    snapshot = tmp_path / "snapshots" / ("0" * 40)
    (tmp_path / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for name, blob in blobs_of(small).items():
        (tmp_path / "blobs" / blob.etag.strip('"')).write_bytes(blob.data)
        (snapshot / name).symlink_to(os.path.relpath(tmp_path / "blobs" / blob.etag.strip('"'), snapshot))
    paths = sorted(snapshot.iterdir())
    assert spoilt(paths) == []
    spoil: list[Callable[[bytes], bytes]] = [flipped, lambda data: data[:-1], lambda data: data + b" "]
    for path in paths:
        good = path.read_bytes()
        for change in spoil:
            path.resolve().write_bytes(change(good))
            assert [one.path for one in spoilt(paths)] == [path]
        path.resolve().write_bytes(good)
    path.unlink()
    path.write_bytes(b"no link: no hash is known, and none is missed")
    assert spoilt([path]) == []
    paths[0].resolve().unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        spoilt(paths)
