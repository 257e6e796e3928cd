"""The command line in processes that start in no time: forked from one that has imported everything.

    python -m tests.studies.warm serve SOCKET         until its standard input ends
    python -m tests.studies.warm SOCKET ARGUMENTS...   as `hf-soups ARGUMENTS...`

A study's script runs a dozen commands, and importing torch and transformers for each takes longer than all they do.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import socket
import sys
import threading
from pathlib import Path

STREAMS = 3  # standard input, output and error go along with the words
WORDS = 1 << 16
IMPORTED = (
    "torch", "transformers.models.auto.modeling_auto", "datasets", "matplotlib.figure", "sklearn.linear_model",
    "hf_soups.cooking", "hf_soups.models.registry", "hf_soups.pool.job", "hf_soups.pool_jobs", "hf_soups.sweep.run",
    "hf_soups.cascades.search.exhaustive",
)  # fmt: skip


def ask(path: str, arguments: list[str]) -> int:
    """Have the server run one command on this process's own streams and folder; its exit status."""
    told = json.dumps({"arguments": arguments, "cwd": str(Path.cwd()), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(path)
        streams = array.array("i", range(STREAMS))
        server.sendmsg([len(told).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        server.sendall(told)
        return server.recv(1)[0]


def serve(path: str) -> None:
    """Import, say so on standard output, and answer until standard input ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(bytes([_forked(client)]))


def _forked(client: socket.socket) -> int:
    size, streams, *_ = socket.recv_fds(client, 8, STREAMS)
    told = b""
    while len(told) < int.from_bytes(size, "big"):
        told += client.recv(WORDS)
    child = os.fork()
    if child == 0:
        _run(json.loads(told), streams)
    for stream in streams:
        os.close(stream)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255


def _run(told: dict[str, object], streams: list[int]) -> None:
    for at, stream in enumerate(streams):
        os.dup2(stream, at)
    os.chdir(str(told["cwd"]))
    os.environ.clear()
    os.environ.update(told["environment"])  # type: ignore[call-overload]
    sys.argv = ["hf-soups", *told["arguments"]]  # type: ignore[misc]
    status = 1  # of whatever ends it otherwise than by leaving
    try:
        from hf_soups.cli import main

        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
