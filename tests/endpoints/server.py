"""An endpoint on 127.0.0.1 in the Hub's format, which counts what it is asked and misbehaves on request."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.makers.patience import PATIENCE

TOKEN = "hf_ThisIsASecretOfTheTests0"


@dataclass(frozen=True)
class Said:
    """What the endpoint says instead of an answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # the connection, after half of the body
    wait: float = 0.0  # seconds between the bytes of the body


@dataclass
class Asked:
    """What a test sees and sets."""

    scores: Callable[[Any], dict[str, float]]
    flat: bool = False  # one list, as some servers nest it
    faults: list[Said] = field(default_factory=list)  # of the next requests, the first first
    always: Said | None = None
    held: threading.Event = field(default_factory=threading.Event)  # answers wait until it is set
    hold_after: int | None = None  # requests that are answered before
    rows: list[str] = field(default_factory=list)  # inputs that were answered, in their order
    requests: int = 0
    tokens: list[str | None] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    @property
    def most_asked(self) -> int:
        """How often the same row was answered."""
        return max(Counter(self.rows).values(), default=0)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    asked: Asked

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        asked = self.asked
        with asked.lock:
            asked.requests += 1
            number = asked.requests
            asked.tokens.append(self.headers.get("Authorization"))
            asked.bodies.append(body)
            said = asked.faults.pop(0) if asked.faults else asked.always
        if asked.hold_after is not None and number > asked.hold_after:
            asked.held.wait(PATIENCE)
        if said is None:
            said = self.answer(body)
        try:
            self.send(said)
        except OSError:
            self.close_connection = True

    def answer(self, body: dict[str, Any]) -> Said:
        scores = self.asked.scores(body["inputs"])
        listed = [{"label": label, "score": score} for label, score in scores.items()]
        with self.asked.lock:
            self.asked.rows.append(json.dumps(body["inputs"]))
        return Said(body=json.dumps(listed if self.asked.flat else [listed]).encode())

    def send(self, said: Said) -> None:
        self.send_response(said.status)
        for name, value in {"Content-Type": "application/json", **said.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        if said.wait:
            for byte in said.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(said.wait)
            return
        self.wfile.write(said.body[: len(said.body) // 2] if said.cut else said.body)
        if said.cut:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Nothing: a client that was killed, or waits no longer, has gone."""


@contextmanager
def endpoint(scores: Callable[[Any], dict[str, float]], **how: Any) -> Iterator[Asked]:
    """An endpoint that answers inputs with these scores."""
    asked = Asked(scores, **how)
    handler = type("Handler", (_Handler,), {"asked": asked})
    server = _Quiet(("127.0.0.1", 0), handler)
    asked.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        asked.held.set()
        server.shutdown()
        server.server_close()


def by_length(text: Any) -> dict[str, float]:
    """Scores that depend on the text alone, with the labels in no order of ours."""
    said = text if isinstance(text, str) else json.dumps(text)
    sure = round(0.5 + (sum(map(ord, said)) % 97) / 200, 6)
    return {"pos": sure, "neg": 1 - sure}
