"""What replicas of Ray Serve hold in tests: it needs nothing but the standard library."""

from __future__ import annotations

import os
import sys
import time

from hf_soups.errors import CheckpointError

DRIVER = """
import sys
from functools import partial
from hf_soups.ending import end_in_one_line
from hf_soups.remote.cluster import connected
from hf_soups.remote.deployments import Deployment, deployed
from tests.makers.fake_replicas import Echo
end_in_one_line("driver", "nothing is left")
with connected(sys.argv[1]) as cluster, deployed(cluster, [Deployment("echo", Echo)]) as (echo,):
    print("ready", *echo.call("answer", "here"), flush=True)
    sys.stdin.read()
"""


class Echo:
    """Answers what it is given, and in which process."""

    def answer(self, what: str, seconds: float = 0.0) -> tuple[str, int]:
        time.sleep(seconds)
        return what, os.getpid()

    def fails(self) -> None:
        raise KeyError("a defect")


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        print("made", file=sys.stderr)
        raise CheckpointError("the model: no weights are there.")
