"""A small Hub on 127.0.0.1 that the unmodified client talks to: models, data sets and Spaces, pushed and pulled.

It answers what a push and a pull ask for, says no as the Hub does (statuses, X-Error-Code), and misbehaves on request:
see `Hub.fail`. Its state stands in repos.py, what it answers in answers.py.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.hub.answers import Request, answer_to
from tests.hub.repos import DROP, LOSE, TORN, Altered, Answer, Blob, Commit, Hub, Repo

__all__ = ["DROP", "LOSE", "TORN", "Altered", "Answer", "Blob", "Commit", "Hub", "Repo", "running"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, the second waits 40 ms for the first one's receipt
    hub: Hub

    def answer(self) -> None:
        parts = urlsplit(self.path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {parts.path}")
            fault = self.hub.take_fault(self.command, parts.path)
        if fault == DROP:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            return self.cut()
        request = Request(self.hub, self.command, parts.path, parse_qs(parts.query), self.headers, self.read())
        if isinstance(fault, int):
            fault = Answer.json({"error": "as the test asked"}, fault)
        if isinstance(fault, Answer):
            return self.send(fault)
        if callable(fault):
            fault()
        answer = answer_to(request)
        if isinstance(fault, Altered):
            answer = replace(answer, body=fault.change(answer.body))
        return self.cut() if fault == LOSE else self.send(answer, torn=fault == TORN)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, answer: Answer, torn: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if torn else answer.body)
        if torn:
            self.wfile.flush()
            self.cut()

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests read `hub.requests`."""


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that listens on a free port until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    port = server.server_address[1]
    # two names of one machine: the client takes them for two, as the Hub and its storage are
    hub.url, hub.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
