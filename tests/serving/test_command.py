"""`hf-soups serve` as a user starts it: real sockets, large bodies, signals, a kill, and the Hub's own client."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hf_soups.cli.app import app
from hf_soups.errors import InputError, MissingExtra, as_a_command
from hf_soups.serving.server import bound
from tests.demo.made import Demo, demo_of
from tests.makers.patience import PATIENCE
from tests.makers.processes import gone

SLOW = """
import time
from hf_soups.cascades.running.model import CascadeModel

at_once = CascadeModel.answer

def answer(self, values, **how):
    while any("slowly" in text for text, _ in values) and not __import__("os").path.exists("go on"):
        time.sleep(0.01)
    return at_once(self, values, **how)

CascadeModel.answer = answer
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return demo_of("text", tmp_path_factory.mktemp("text"))


class Server:
    """A started command."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def ask(self, body: bytes, method: str = "POST", path: str = "/") -> tuple[int, Any]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            link.request(method, path, body, {"Content-Type": "application/json"})
            answer = link.getresponse()
            text = answer.read().decode()
            return answer.status, text if path == "/metrics" else json.loads(text)
        finally:
            link.close()

    def text(self, text: str) -> tuple[int, Any]:
        return self.ask(json.dumps({"inputs": text}).encode())

    def until_open(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while f"\nhf_soups_open_requests {count}\n" not in self.ask(b"", "GET", "/metrics")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def most_memory(self) -> int:
        """Bytes that it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


@contextmanager
def served(folder: Path, where: Path, *options: str, port: int = 0) -> Iterator[Server]:
    (where / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "hf_soups.cli", "--import", "slow.py", "serve", str(folder), "--port", str(port)]
    device = () if "--address" in options else ("--device", "cpu")
    process = subprocess.Popen(
        [*command, *device, *options], cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        while "answers at" not in said:
            said = process.stdout.readline()
            assert said, process.communicate()[1]
        yield Server(process, int(re.findall(r"http://127\.0\.0\.1:(\d+)/", said)[0]))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_service_is_killed_started_again_overrun_and_ended_in_order(demo: Demo, tmp_path: Path) -> None:
    with served(demo.folder, tmp_path) as server, ThreadPoolExecutor(1) as client:
        waiting = client.submit(server.text, "a book slowly")
        server.until_open(1)
        server.process.kill()
        with pytest.raises((http.client.HTTPException, OSError)):
            waiting.result()
        assert gone(server.process.pid)
    with served(demo.folder, tmp_path, "--max-waiting", "100", port=server.port) as again:
        assert again.port == server.port
        assert_many_clients_get_their_own_answers(again, demo.pool.inputs)
        assert_open_requests_are_answered_at_sigterm(again, tmp_path)


def assert_many_clients_get_their_own_answers(server: Server, texts: list[str]) -> None:
    alone = {text: server.text(text)[1] for text in texts}
    assert_the_hubs_client_works(server, texts[0], alone[texts[0]])
    before = server.most_memory
    assert_large_bodies_are_refused(server)
    with ThreadPoolExecutor(200) as clients:
        answers = list(clients.map(server.text, texts * 9))
    statuses = {status for status, _ in answers}
    assert 200 in statuses
    assert statuses <= {200, 503}
    for text, (status, answer) in zip(texts * 9, answers, strict=True):
        assert status == 503 or same(answer, alone[text])
    assert server.most_memory < before + 64 * 2**20


def same(one: Any, other: Any) -> bool:
    """Scores to rounding, whose batches were of other shapes."""
    first, second = ({each["label"]: each["score"] for each in own[0]} for own in (one, other))
    return first == pytest.approx(second, rel=0, abs=1e-6)


def assert_the_hubs_client_works(server: Server, text: str, wanted: Any) -> None:
    from huggingface_hub import InferenceClient, constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)  # it reaches this machine alone
        found = InferenceClient(model=f"http://127.0.0.1:{server.port}/").text_classification(text, top_k=2)
    assert [one.label for one in found] == [one["label"] for one in wanted[0][:2]]


def assert_large_bodies_are_refused(server: Server) -> None:
    status, answer = server.ask(b" " * 20 * 2**20)
    assert status == 413
    assert "more than 1,048,576 bytes" in answer["error"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as link:  # of a size that it hides
        link.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        part = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        for _ in range(2):
            link.sendall(part)
        assert link.recv(2**16).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as link:  # a head without an end
        link.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 2**17)
        assert link.recv(2**16).startswith(b"HTTP/1.1 400 ")


def assert_open_requests_are_answered_at_sigterm(server: Server, where: Path) -> None:
    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(server.text, f"a book {word}") for word in ("slowly", "slowly read", "here")]
        server.until_open(3)
        server.process.send_signal(signal.SIGTERM)
        (where / "go on").touch()
        assert [one.result()[0] for one in waiting] == [200] * 3
    _, said = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 128 + signal.SIGTERM
    assert said.splitlines() == ["hf-soups: ended by SIGTERM; open requests were answered."]


def test_a_taken_port_and_a_foreign_address_are_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", str(tmp_path / "nowhere"), "--port", str(port)])
        assert isinstance(done.exception, InputError)
        assert f"port {port} on 127.0.0.1 cannot be used" in str(done.exception)
    for host, why in (("192.0.2.1", r"on 192\.0\.2\.1 cannot be used"), ("no such host", "is no address")):
        with pytest.raises(InputError, match=why):
            bound(host, 0)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--split-members --replicas 2", "--split-members, --replicas: of a cluster; give --address too, or leave it"),
        ("--gpus-per-replica 0.5", "--gpus-per-replica: of a cluster; give --address too, or leave it out."),
        ("--address auto --replicas some", "--replicas some: expected a whole number, or by member, such as small=2"),
        ("--address auto --cpus-per-replica a=b", "--cpus-per-replica a=b: expected a number, or by member, such as"),
        ("--address auto --device cpu", "--device is of one machine: on a cluster give --gpus-per-replica, such as"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: str, why: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", "0", *options.split()])
    assert isinstance(done.exception, InputError)
    with as_a_command():
        assert why in str(done.exception)


def test_without_the_extra_the_command_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "fastapi" else found(name, *a))
    done = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert isinstance(done.exception, MissingExtra)
    assert 'pip install "hf_soups[serve]"' in str(done.exception)


def test_other_addresses_than_this_machines_own_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import uvicorn

    from hf_soups.serving import make_app, server
    from tests.serving.made import Lengths

    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    monkeypatch.setattr(server, "promise", lambda _: None)
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        with bound(host, 0) as listening:
            server._run(make_app(Lengths().served), listening)
        assert ("there is no password" in capsys.readouterr().err) == warned
