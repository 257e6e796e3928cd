"""Fork server: a process that has imported everything a fine-tune needs, and forks a child for each run.

Imports take several times as long as a small fine-tune, and are the same for all. The server runs no thread and starts
no device (a CUDA context does not survive a fork), so a fork of it is a process of its own: what a run does, also
running out of memory or dying, stays with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# elsewhere libraries of the system do not bear a fork
IS_POSSIBLE = sys.platform == "linux"
SERVE = "from hf_soups.sweep.fork_server import main; main()"
IMPORT = "import"  # argument of a server that imports before it is asked
POLL_SECONDS = 0.02
GRACE_SECONDS = 5.0  # between asking runs to end and leaving
LARGEST = 1 << 20  # bytes of a request
LOST = -signal.SIGKILL  # the status of a run whose server is gone: as of one that was killed, it starts again


class ForkedRun:
    """A run's process, as `subprocess.Popen` has it; its parent is the server."""

    def __init__(self, pid: int, server: ForkServer) -> None:
        self.pid, self._server = pid, server

    def poll(self) -> int | None:
        """The exit status, -n after signal n; None while it runs."""
        return self._server.status_of(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(f"run {self.pid}", timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return status


class ForkServer:
    """The server, seen by the sweep that started it: by `begin`, or with the first run."""

    def __init__(self, start: Path | None, environment: Mapping[str, str]) -> None:
        """A server for runs from a start, whose kind of model is imported too; None: it imports nothing beforehand.

        The start need not be there before the first run.
        """
        self._start, self._environment = start, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None
        self._said = b""
        self._forked: deque[int] = deque()
        self._ended: dict[int, int] = {}

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> None:
        """Start the server, which imports while others still prepare what it will fork for."""
        with contextlib.suppress(OSError):  # the first run says it, or is started otherwise
            self._connected()

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], log: int, keep: Sequence[int]) -> ForkedRun:
        """Fork a run.

        Args:
            arguments: of `hf_soups.finetune`.
            environment: of the run.
            log: descriptor of the file that it prints to.
            keep: descriptors that it holds open as long as it runs, such as its lock.
        Raises:
            OSError: if the server cannot be started or is gone.
        """
        ours = self._connected()
        start = None if self._start is None else str(self._start)
        wanted = {"start": start, "arguments": list(arguments), "environment": dict(environment)}
        request = json.dumps(wanted).encode() + b"\n"
        socket.send_fds(ours, [request[:1]], [log, *keep])
        ours.sendall(request[1:])
        while not self._forked:
            if not self._listen(1.0):
                raise OSError("the server of the sweep's runs has ended")
        return ForkedRun(self._forked.popleft(), self)

    def status_of(self, pid: int) -> int | None:
        """The exit status of a run; None while it runs."""
        if pid not in self._ended and not self._listen(0.0) and not _is_there(pid):
            self._ended.setdefault(pid, LOST)
        return self._ended.get(pid)

    def wait(self, seconds: float) -> None:
        """Until a run has ended, or for `seconds`."""
        if not self._listen(seconds):
            time.sleep(seconds)

    def close(self) -> None:
        """End the server, at once: it keeps nothing. Runs that are still there go on."""
        if self._ours is not None:
            self._ours.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._ours = None

    def _connected(self) -> socket.socket:
        if self._ours is not None and self._process is not None and self._process.poll() is None:
            return self._ours
        self.close()
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(theirs.fileno()), *([IMPORT] if self._start else [])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what is wrong each run says in its log
                env=self._environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        return self._ours

    def _listen(self, seconds: float) -> bool:
        """Take in what the server says; False where it is gone."""
        if self._ours is None:
            return False
        while select.select([self._ours], [], [], seconds)[0]:
            try:
                part = self._ours.recv(LARGEST)
            except OSError:
                part = b""
            if not part:
                return False
            *lines, self._said = (self._said + part).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "forked" in said:
                    self._forked.append(said["forked"])
                else:
                    self._ended[said["ended"]] = said["status"]
            seconds = 0.0
        return True


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# The server's own side.


class _Server:
    """Takes requests from a socket, forks, and says which runs ended how."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self._running: set[int] = set()
        self._shared: set[str | None] = {None}  # starts
        self._ending = 0

    def serve(self) -> list[str] | None:
        """In each child the arguments of its run; None in the server, when nobody asks any more."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        waiting = b""
        descriptors: list[int] = []
        while not self._ending:
            self._tell_ended()
            if not select.select([self._ours], [], [], POLL_SECONDS)[0]:
                continue
            part, fds, _, _ = socket.recv_fds(self._ours, LARGEST, 16)
            if not part:
                return None
            waiting, descriptors = waiting + part, [*descriptors, *fds]
            if not waiting.endswith(b"\n"):
                continue
            request, waiting = json.loads(waiting), b""
            self._share(request["start"], request["arguments"])
            if self._fork(descriptors):
                return _become(request, descriptors)
            descriptors = []
        self._end_runs()
        return None

    def _fork(self, descriptors: Sequence[int]) -> bool:
        """True in the child."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            self._ours.close()
            return True
        for descriptor in descriptors:
            os.close(descriptor)
        self._running.add(pid)
        while os.getsid(pid) != pid and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(POLL_SECONDS / 10)  # until it is a group of its own, which signals are sent to
        self._say(forked=pid)
        return False

    def _share(self, start: str | None, arguments: Sequence[str]) -> None:
        if start in self._shared:
            return
        self._shared.add(start)
        with contextlib.suppress(Exception):  # the run itself says what is wrong with it
            _import_for(str(start))
            _read_for(arguments[0])
        # what is there now no collection of a run looks at: looking would copy all of it
        gc.collect()
        gc.freeze()

    def _tell_ended(self) -> None:
        for pid in list(self._running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._running.discard(pid)
                self._say(ended=pid, status=os.waitstatus_to_exitcode(status))

    def _say(self, **what: int) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            self._ours.sendall(json.dumps(what).encode() + b"\n")

    def _end(self, number: int, _: FrameType | None) -> None:
        self._ending = number

    def _end_runs(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._running:
                with contextlib.suppress(OSError):
                    os.killpg(pid, number)
            deadline = time.monotonic() + GRACE_SECONDS
            while self._running and time.monotonic() < deadline:
                self._tell_ended()
                time.sleep(POLL_SECONDS)


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> list[str]:
    """Make this child what a process of its own would be; its arguments."""
    from hf_soups.ending import end_in_one_line

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, descriptors[0]), (2, descriptors[0])):
        os.dup2(source, target)
    os.close(nothing)
    os.close(descriptors[0])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments: list[str] = request["arguments"]
    sys.argv = ["hf_soups.finetune", *arguments]
    end_in_one_line("hf_soups.finetune", "nothing was written")
    return arguments


def _import_all() -> None:
    """Everything that any fine-tune imports, which the first run would have to wait for."""
    import accelerate
    import datasets
    import sklearn.metrics
    import torch.utils.data
    import transformers.optimization  # and with it peft, where it is installed

    from hf_soups.finetune import loop, run

    _ = accelerate, datasets, sklearn.metrics, torch.utils.data, transformers, loop, run


def _import_for(start: str) -> None:
    """What fine-tunes from this start import and compute beyond that."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from hf_soups.models.loading import config_of
    from hf_soups.models.registry import FAMILIES

    config = config_of(start)
    for family in FAMILIES:
        if family.accepts(config.to_dict()):
            _ = family.auto()._model_mapping[type(config)]
    # a table of a thousand patterns, compiled once
    compiled: Any = get_checkpoint_conversion_mapping  # without annotations
    compiled(config.model_type)


def _read_for(recipe: str) -> None:
    """The rows of all runs; encoded ones are mapped from files, and a start in memory would be a model more of it."""
    from tqdm import tqdm

    from hf_soups.finetune.run import share_rows
    from hf_soups.recipe import load_recipe

    # bars of libraries: no thread, and no lock that forks share, which a run that is killed would keep from the others
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    share_rows(load_recipe(recipe))


def main() -> NoReturn:
    """Serve on the descriptor that is the first argument; in a child, fine-tune."""
    from hf_soups.ending import leave
    from hf_soups.finetune import command

    with socket.socket(fileno=int(sys.argv[1])) as ours:
        if IMPORT in sys.argv[2:]:
            _import_all()
        arguments = _Server(ours).serve()
    leave(0 if arguments is None else command.main(arguments))
