"""What replicas of a cluster hold, without a cluster: everything is pickled on its way, as Ray does it."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hf_soups.errors import DataError, ReplicasGone
from hf_soups.remote.cluster import Cluster, Node
from hf_soups.remote.deployments import Deployment
from hf_soups.serving import OnCluster, ServeSettings, build_app, make_app, on_ray
from hf_soups.serving.asked import Refused
from tests.demo.made import demo_of
from tests.serving.test_command import same

JSON, PNG = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}


class Here(Cluster):
    """Two nodes, of which one has GPUs."""

    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(str(i), f"10.0.0.{i}", {"CPU": 4.0, "GPU": 2.0 * i}) for i in range(2))

    def check_seen(self, folders: Sequence[Path]) -> None:
        assert all(folder.is_dir() for folder in folders)


@dataclass
class Near:
    """A replica in this process."""

    held: Any

    def call(self, method: str, *arguments: Any) -> Any:
        given = pickle.loads(pickle.dumps(arguments))
        return pickle.loads(pickle.dumps(getattr(self.held, method)(*given)))


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> list[Deployment]:
    """The deployments that are asked for."""
    asked: list[Deployment] = []

    @contextlib.contextmanager
    def deployed(cluster: Cluster, some: Sequence[Deployment]) -> Iterator[list[Near]]:
        asked[:] = some
        yield [Near(pickle.loads(pickle.dumps(one.make))()) for one in some]

    monkeypatch.setattr(on_ray, "connected", lambda address: contextlib.nullcontext(Here(None, address)))
    monkeypatch.setattr(on_ray, "deployed", deployed)
    monkeypatch.setattr(on_ray, "serve_module", lambda: None)
    monkeypatch.setattr(on_ray, "device_here", lambda: "cpu")
    return asked


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("kind", ["image", "text-pair"])
def test_the_answers_and_refusals_are_the_local_ones(
    kind: str, split: bool, wanted: list[Deployment], tmp_path: Path
) -> None:
    made = demo_of(kind, tmp_path / kind)
    requests = [one for value in made.inputs[:5] for one in requests_of(kind, value)]
    odd = [(b"no image", PNG), (b"{", JSON), (b'{"inputs": 3}', JSON), (made.inputs[0].read_bytes()[:200], PNG)] if (
        kind == "image"
    ) else [(b"{", JSON), (b'{"inputs": "a"}', JSON)]  # fmt: skip
    how = OnCluster(split_members=split, loading={"budget": 1, "dtype": "float32"})
    with on_ray.served_on(made.folder, how) as served:
        here = TestClient(build_app(made.folder, device="cpu", budget=1, dtype="float32"))
        there = TestClient(make_app(served, ServeSettings()))
        for body, headers in requests:
            own, other = (client.post("/", content=body, headers=headers) for client in (here, there))
            assert own.status_code == other.status_code == 200
            assert same(*([answer.json()] if kind == "image" else answer.json() for answer in (own, other)))
        for body, headers in odd:
            own, other = (client.post("/", content=body, headers=headers) for client in (here, there))
            assert (own.status_code, own.json()) == (other.status_code, other.json())
            assert 400 <= own.status_code < 500
        assert here.get("/health").json() == there.get("/health").json()
    names = list(made.pool.members) if split else ["the model"]
    assert [one.name for one in wanted] == names
    assert {tuple(one.each.items()) for one in wanted} == {(("CPU", 1.0), ("GPU", 0.5 if split else 1.0))}


def requests_of(kind: str, value: Any) -> list[tuple[bytes, dict[str, str]]]:
    if kind == "image":
        return [(value.read_bytes(), PNG)]
    pair = {"text": value[0], "text_pair": value[1]}
    bodies = [{"inputs": pair, "parameters": {"budget": budget, "top_k": 9}} for budget in (None, 0.3, 1)]
    return [(json.dumps(body).encode(), JSON) for body in bodies]


def test_members_have_the_replicas_and_processors_that_are_given_to_them(
    wanted: list[Deployment], tmp_path: Path
) -> None:
    first, second, third = (made := demo_of("text", tmp_path / "text")).pool.members
    how = OnCluster(
        split_members=True, replicas={first: 4}, cpus_per_replica=0.5, gpus_per_replica={second: 1, third: 0.5}
    )
    with on_ray.served_on(made.folder, how) as served:
        assert {name: worker.at_once for name, worker in served.workers.items()} == {first: 4, second: 1, third: 1}
    assert [dict(one.each) for one in wanted] == [{"CPU": 0.5, "GPU": gpu} for gpu in (0.0, 1, 0.5)]
    config = made.folder / "config.json"
    values = json.loads(config.read_text())
    values["members"][0]["device"] = "cpu"
    config.write_text(json.dumps(values))
    with on_ray.served_on(made.folder, OnCluster(split_members=True)):
        assert [one.each["GPU"] for one in wanted] == [0.0, 1.0, 1.0]


def test_errors_of_a_replica_come_with_their_place() -> None:
    class Odd(Exception):
        pass

    def failed(error: Exception) -> Exception:
        try:
            raise error
        except Exception as raised:
            return pickle.loads(pickle.dumps(on_ray._portable(raised)))

    for error, kind, words in (
        (Refused(413, "too much"), Refused, "too much"), (DataError("no image"), DataError, "no image"),
        (ValueError("7"), ValueError, "7"), (Odd("own"), RuntimeError, "Odd: own"),
    ):  # fmt: skip
        found = failed(error)
        assert (type(found), str(found)) == (kind, words)
        assert isinstance(found, Refused) or "in failed" in found.__notes__[0]


def test_without_a_replica_rows_are_to_come_again(caplog: pytest.LogCaptureFixture) -> None:
    from hf_soups.serving.answering import refusal

    why = refusal(ReplicasGone("small: no replica answered in 300 seconds."))
    assert (why.status, why.why) == (503, "no worker of this service's cluster answers now; come again.")
    assert "small: no replica answered in 300 seconds." in caplog.text
