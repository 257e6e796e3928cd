"""A client that speaks ASGI with an app: bodies in parts, clients that leave, and many at once, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = {"content-type": "application/json"}


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert list(self.json) == ["error"]
        return str(self.json["error"])


async def call(
    app: Any,
    body: bytes | Iterable[bytes] | AsyncIterator[bytes] = b"",
    headers: Mapping[str, str] = JSON,
    *,
    method: str = "POST",
    path: str = "/",
    leaves: asyncio.Event | None = None,
) -> Answer:
    """One request; a client that `leaves` does so when the event is set, else it waits."""
    answer, done = Answer(), asyncio.Event()
    parts = body if isinstance(body, AsyncIterator) else _in_turn([body] if isinstance(body, bytes) else list(body))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "server": ("here", 80),
        "client": ("there", 1), "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        try:
            return {"type": "http.request", "body": await anext(parts), "more_body": True}
        except StopAsyncIteration:
            pass
        if not receive_state["ended"]:
            receive_state["ended"] = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await (leaves or done).wait()
        return {"type": "http.disconnect"}

    receive_state = {"ended": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    done.set()
    return answer


async def _in_turn(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def post(app: Any, inputs: Any, **parameters: Any) -> Answer:
    """A request in the Hub's format."""
    return await call(app, json.dumps({"inputs": inputs, "parameters": parameters}).encode())


async def get(app: Any, path: str) -> Answer:
    return await call(app, method="GET", path=path, headers={})
