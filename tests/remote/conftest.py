"""A cluster of two nodes on this machine: 127.0.0.2 and 127.0.0.3, a core each. Ray finds a lost node in a second."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_soups.remote.cluster import Cluster, connected, ray_module

ROOT = Path(__file__).parents[2]
STARTS = 3  # on a busy machine Ray now and then gives up starting
STORE_BYTES = 80_000_000  # Ray's least is 75 MB
SYSTEM = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder that starts a cluster is of the stage `ray`."""
    missing = importlib.util.find_spec("ray") is None
    for item in items:
        if Path(__file__).parent in item.path.parents and {"nodes", "cluster"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.ray)
            if missing:
                item.add_marker(pytest.mark.skip(reason="ray is not installed: pip install 'hf_soups[ray]'"))


class Nodes:
    """The machines: the head and one more, which a test may end and start again."""

    def __init__(self) -> None:
        self._cluster = started(self._head)
        self._second = self._added()

    @staticmethod
    def _head() -> Any:
        from ray.cluster_utils import Cluster as LocalCluster

        head = {"node_ip_address": "127.0.0.2", "include_dashboard": False, "_system_config": SYSTEM}
        return LocalCluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES, **head}
        )

    def _added(self) -> Any:
        return started(
            lambda: self._cluster.add_node(
                num_cpus=1, node_ip_address="127.0.0.3", object_store_memory=STORE_BYTES, resources={"second": 1}
            )
        )

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def end_second(self) -> None:
        """As a machine that loses its power."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def start_second(self) -> None:
        self._second = self._added()

    def close(self) -> None:
        self._cluster.shutdown()


def started(start: Callable[[], Any]) -> Any:
    for attempt in range(STARTS):
        try:
            return start()
        except Exception:  # whatever Ray gives up with
            if attempt == STARTS - 1:
                raise


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    # workers find hf_soups and tests by it, wherever they are started
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ray_module()
    try:
        made = Nodes()
    except Exception as error:  # a machine that Ray cannot be started on says nothing of this package
        pytest.skip(f"Ray starts no cluster of two nodes here: {type(error).__name__}: {error!s:.300}")
    with contextlib.closing(made) as found:
        yield found


@pytest.fixture
def cluster(nodes: Nodes) -> Iterator[Cluster]:
    """Connected to from this process."""
    with connected(nodes.address) as found:
        yield found
