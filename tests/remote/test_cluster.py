"""A cluster is looked at before work begins: versions, the folder, and what a piece of work needs."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_soups.errors import HfSoupsError, InputError, MissingExtra, as_a_command
from hf_soups.files.writing import refuse_url
from hf_soups.remote import cluster as module
from hf_soups.remote.cluster import Cluster, Node, connected, environment, in_words, ray_module
from tests.remote.conftest import Nodes


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hf_soups\[ray\]'"):
        ray_module()


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a cluster; expected auto"):
        module._check_address(address)


def test_an_address_where_nobody_listens_is_reported_at_once_with_what_to_start() -> None:
    with as_a_command(), pytest.raises(InputError, match=r"127.0.0.2:1: no cluster .* ray start --head --port 1"):
        module._check_address("127.0.0.2:1")


@pytest.mark.parametrize("folder", ["s3://bucket/out", Path("s3://bucket/out"), "hf://datasets/me/x"])
def test_an_object_store_is_refused_in_words(folder: Path | str) -> None:
    with pytest.raises(
        InputError, match=r"not supported as `out`\. Give a folder, on a cluster one that all nodes share"
    ):
        refuse_url(folder)
    refuse_url(Path("/nfs/out"))
    refuse_url("C/out")


def test_what_fits_on_a_node_is_what_its_scarcest_resource_allows() -> None:
    node = Node("a", "10.0.0.1", {"CPU": 8, "GPU": 2, "node:10.0.0.1": 1, "memory": 1e9})
    assert [node.fit({"CPU": c, "GPU": g}) for c, g in ((1, 0), (1, 1), (3, 0.5), (9, 0), (1, 3))] == [8, 2, 2, 0, 0]
    assert node.fit({"CPU": 0.1}) == 80  # in binary fractions 79.99
    assert node.fit({"CPU": 1, "big": 1}) == 0
    assert in_words(node.resources) == "8 CPUs, 2 GPUs"
    assert in_words({"CPU": 1, "big": 2}) == "1 CPU, 2 'big'"


def test_what_decides_results_and_logins_goes_along_and_nothing_else() -> None:
    here = {
        "HF_HOME": "a",
        "OMP_NUM_THREADS": "2",
        "HF_SOUPS_IMPORT": "mine.py",
        "HOME": "/root",
        "CUDA_VISIBLE_DEVICES": "",
    }
    assert environment(here) == {"HF_HOME": "a", "OMP_NUM_THREADS": "2", "HF_SOUPS_IMPORT": "mine.py"}


def test_both_nodes_work_in_one_folder_and_nothing_is_left_in_it(cluster: Cluster, tmp_path: Path) -> None:
    assert sorted(node.address for node in cluster.nodes()) == ["127.0.0.2", "127.0.0.3"]
    assert cluster.room({"CPU": 1}) == 2
    cluster.check_folder(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file is a file\. Give another `out`"):
        cluster.check_folder(tmp_path / "file")


def test_a_node_that_does_not_see_the_folder_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = module._token_reader()

    def elsewhere() -> Any:
        def look(path: str, token: str, seconds: float) -> str:
            import ray

            there = "/nowhere" if ray.util.get_node_ip_address() == "127.0.0.3" else ""
            return reader(there + path, token, 0.5)

        return look

    monkeypatch.setattr(module, "_token_reader", elsewhere)
    with pytest.raises(
        InputError, match=r"not every node .* \(127.0.0.3 has no such folder\). Give one .* such as NFS"
    ):
        cluster.check_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_late_is_waited_for_and_a_missing_one_is_not_seen(tmp_path: Path) -> None:
    look = module._token_reader()
    assert look(str(tmp_path / "token"), "t", 0.2) == "does not see what is written there"
    (tmp_path / "token").write_text("another's")
    assert look(str(tmp_path / "token"), "t", 0.2) == "sees another file there"


def test_other_versions_on_a_node_are_named(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "torch" else version(name))
    with (
        pytest.raises(InputError, match=r"nodes differ: 127.0.0.2 has torch .*, but this process has 9.9; 127.0.0.3"),
        connected(nodes.address),
    ):
        pass


def test_what_no_node_has_is_said_at_once_and_not_waited_for(cluster: Cluster) -> None:
    with pytest.raises(InputError, match=r"a run needs 1 CPU, 4 GPUs, which no node has \(127.*: 1 CPU.* Give fewer"):
        cluster.check_room({"CPU": 1, "GPU": 4}, "a run", "Give fewer.")
    cluster.check_room({"CPU": 1, "second": 1}, "a run", "")


def test_a_node_that_cannot_work_is_named_with_the_reason(cluster: Cluster) -> None:
    def fails() -> None:
        import ray

        if ray.util.get_node_ip_address() == "127.0.0.3":
            raise OSError("the disk is gone")

    with pytest.raises(HfSoupsError, match=r"127.0.0.3: this node cannot work: .*the disk is gone"):
        cluster.on_every_node(fails)


def test_the_environment_goes_to_every_node(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.invalid")

    def look() -> Any:
        import os

        return os.environ.get("HF_ENDPOINT")

    with connected(nodes.address) as cluster:
        assert set(cluster.on_every_node(look).values()) == {"http://mirror.invalid"}
