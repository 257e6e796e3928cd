"""The service as an ASGI app: POST / answers, GET / says how to ask, /health and /metrics say how it goes."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_soups.errors import InputError, MissingExtra
from hf_soups.serving.answering import Answering, RowAnswer, as_json, refusal
from hf_soups.serving.asked import Asked, Refused, read_request
from hf_soups.serving.batching import Batcher, Worker
from hf_soups.serving.by_member import ByMember
from hf_soups.serving.counters import MEDIA_TYPE, Counters
from hf_soups.serving.exit_watch import ExitWatch
from hf_soups.serving.settings import HELD_BODIES, ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

    from hf_soups.serving.served import Served

LOG = logging.getLogger("hf_soups.serving")
GONE = 499  # the status that is counted where nobody waits for an answer any more
AGAIN_AFTER = "1"  # seconds
INPUTS = {
    "text": '"a text", or a list of them',
    "text-pair": '{"text": "a text", "text_pair": "another one"}, or a list of them',
    "image": "an image as base64 text or as a data URL, or a list of them; or an image's bytes with their media type",
}
CURL = {
    "text": """curl {url} -H 'Content-Type: application/json' -d '{{"inputs": "a text"}}'""",
    "text-pair": """curl {url} -H 'Content-Type: application/json' """
    """-d '{{"inputs": {{"text": "a text", "text_pair": "another one"}}}}'""",
    "image": "curl {url} -H 'Content-Type: image/jpeg' --data-binary @photo.jpg",
}


def how_to_ask(kind: str, url: str) -> str:
    """A command that asks a service for rows of a kind."""
    return CURL[kind].format(url=url)


def require_extra() -> None:
    """Refuse to go on without the extra.

    Raises:
        MissingExtra: if FastAPI or uvicorn is not installed.
    """
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"a service is made with FastAPI and uvicorn, but {' and '.join(missing)} cannot be imported. Run: "
            'pip install "hf_soups[serve]".'
        )


def make_app(served: Served, settings: ServeSettings | None = None) -> FastAPI:
    """The service of a loaded model.

    Args:
        served: see `load_served`.
        settings: batches and limits.
    Raises:
        MissingExtra: see `require_extra`.
    """
    require_extra()
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse, PlainTextResponse
    from starlette.exceptions import HTTPException

    service = Service(served, settings or ServeSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # no pages of FastAPI's own: they load code from elsewhere
    app = FastAPI(title=served.name, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service

    async def ask(request: Request) -> Response:
        status, answer = await service.status_and_answer(request)
        return JSONResponse(answer, status, headers={"Retry-After": AGAIN_AFTER} if status == 503 else None)

    async def home(request: Request) -> Response:
        return PlainTextResponse(service.home(str(request.base_url)))

    async def health(_: Request) -> Response:
        return JSONResponse(service.health(), 503 if service.closed else 200)

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(service.metrics(), media_type=MEDIA_TYPE)

    async def otherwise(_: Request, error: Any) -> Response:
        why = f"{error.detail}; there are POST / (answers), GET /, /health and /metrics."
        return JSONResponse({"error": why}, error.status_code, headers=error.headers)

    app.add_route("/", ask, methods=["POST"])
    for path, page in (("/", home), ("/health", health), ("/metrics", metrics)):
        app.add_route(path, page, methods=["GET"])
    app.add_exception_handler(HTTPException, otherwise)
    return app


class Service:
    """What the pages share: the batches, what is counted, and how much waits."""

    def __init__(self, served: Served, settings: ServeSettings) -> None:
        self.served, self.settings, self.closed = served, settings, False
        self.max_body = settings.body_of(served.kind)
        self.open, self.held = 0, 0  # requests, and bytes of their bodies
        self.counters = Counters(served.plans, [ExitWatch(plan, settings.watch_rows) for plan in served.plans])
        self.batcher = self._batcher()

    def _batcher(self) -> Batcher[Any, int, RowAnswer] | ByMember:
        served, settings = self.served, self.settings
        how: dict[str, Any] = {"max_batch": settings.max_batch, "wait_seconds": settings.wait_ms / 1000}
        if not served.workers or "" in served.workers:
            worker = served.workers.get("") or Worker(Answering(served, settings.max_pixels))
            return Batcher(worker.answer, at_once=worker.at_once, answered=self._answered, **how)
        batchers: dict[str, Batcher[Any, int, Any]] = {
            name: Batcher(
                worker.answer, at_once=worker.at_once, answered=partial(self._answered_by, name), **how
            ) for name, worker in served.workers.items()
        }  # fmt: skip
        return ByMember(served.plans, batchers, lambda number, exit: self._watch(number, [exit]))

    def close(self) -> None:
        """Answer nothing more."""
        self.closed = True
        self.batcher.close()

    def home(self, url: str) -> str:
        """How to ask."""
        kind = self.served.kind
        return (
            f"{self.served.name}: {' -> '.join(self.served.members)}; {len(self.served.label_names)} labels.\n\n"
            f"{how_to_ask(kind, url)}\n\n"
            f'POST / takes {{"inputs": ..., "parameters": {{"top_k": 5, "return_exits": false, "budget": null}}}}. '
            f"Inputs are {INPUTS[kind]}.\nGET /health and GET /metrics say how it goes.\n"
        )

    def health(self) -> dict[str, Any]:
        """Whether it answers, and with what."""
        status = "stopping" if self.closed else "ready"
        about = {"model": self.served.name, "kind": self.served.kind, "members": list(self.served.members)}
        return {"status": status, **about}

    def metrics(self) -> str:
        """The counters, for Prometheus."""
        waiting = {"open_requests": self.open, "waiting_rows": len(self.batcher), "held_bytes": self.held}
        return self.counters.text(waiting)

    async def status_and_answer(self, request: Request) -> tuple[int, Any]:
        """The answer to a request, or {"error": ...}."""
        from starlette.requests import ClientDisconnect

        start = time.perf_counter()
        try:
            answer: Any = await self._answer(request)
            status = 200
        except Refused as refused:
            status, answer = refused.status, {"error": refused.why}
        except ClientDisconnect:
            status, answer = GONE, None
        except Exception as error:  # a defect: whoever asked gets a sentence, the log the place
            LOG.exception("unexpected %s", type(error).__name__)
            status, answer = 500, {"error": f"unexpected {type(error).__name__}; the service's log says where."}
        self.counters.requests[status] += 1
        self.counters.seconds.add(time.perf_counter() - start)
        return status, answer

    async def _answer(self, request: Request) -> list[Any]:
        if self.open >= self.settings.max_waiting:
            raise Refused(503, f"{self.open} requests are open already; come again.")
        self.open, held = self.open + 1, _Held(self)
        try:
            asked = await self._asked(request, held)
            try:
                number = self.served.number_of(asked.budget)
            except InputError as error:
                raise Refused(400, str(error)) from error
            answers = await self._answers(request, asked, number)
            return as_json(self.served, asked, self.served.plans[number], answers)
        finally:
            self.open -= 1
            held.free()

    async def _asked(self, request: Request, held: _Held) -> Asked:
        if (coding := request.headers.get("content-encoding", "identity")) != "identity":
            raise Refused(415, f"Content-Encoding is {coding[:40]!r}; send the body as it is.")
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                body = await self._body(request, held)
        except TimeoutError:
            raise Refused(408, f"no whole body after {self.settings.body_seconds:g} seconds.") from None
        media = request.headers.get("content-type", "")
        if request.url.query and not media.startswith("application/json"):
            raise Refused(400, 'parameters are not read from the URL; send them as "parameters" of a JSON body.')
        return read_request(body, media, self.served.kind, self.settings.max_inputs)

    async def _body(self, request: Request, held: _Held) -> bytes:
        most = self.max_body
        declared = request.headers.get("content-length", "")
        parts, size = [], int(declared) if declared.isdecimal() and len(declared) < 19 else 0
        too_large = Refused(413, f"the body has more than {most:,} bytes; send less at once (or a smaller image).")
        if size > most:
            raise too_large
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_large
            held.take(len(part))
            parts.append(part)
        return b"".join(parts)

    async def _answers(self, request: Request, asked: Asked, number: int) -> list[RowAnswer]:
        """The answers to all rows, or why there are none.

        Raises:
            Refused: if a row has none; of several bad ones the first is named.
            ClientDisconnect: if whoever asked has gone.
        """
        from starlette.requests import ClientDisconnect

        waiting = self.batcher.put(asked.rows, number)
        gone, answered = asyncio.ensure_future(_gone(request)), asyncio.ensure_future(_all(waiting))
        try:
            await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ClientDisconnect
            return _good(answered.result(), asked.several)
        finally:
            gone.cancel()
            answered.cancel()
            for row in waiting:  # those that still wait are left out of their batches
                row.cancel()

    def _answered(self, number: int, answers: Sequence[RowAnswer | Exception]) -> None:
        exits = [answer.exit for answer in answers if isinstance(answer, RowAnswer)]
        self.counters.batch(number, exits, len(answers) - len(exits))
        self._watch(number, exits)

    def _answered_by(self, member: str, number: int, answers: Sequence[Any]) -> None:
        exits = [answer.exit for answer in answers if isinstance(answer, RowAnswer)]
        failed = sum(isinstance(answer, Exception) for answer in answers)
        self.counters.member_batch(member, len(answers) - failed)
        self.counters.rows(number, exits, failed)

    def _watch(self, number: int, exits: Sequence[int]) -> None:
        if warning := self.counters.watches[number].add(exits):
            LOG.warning(warning)


class _Held:
    """The bytes of one request's body, within what the service holds of all."""

    def __init__(self, service: Service) -> None:
        self._service, self._most, self._bytes = service, HELD_BODIES * service.max_body, 0

    def take(self, count: int) -> None:
        if self._service.held + count > self._most:
            raise Refused(503, f"bodies of {self._service.held:,} bytes wait already; come again.")
        self._service.held += count
        self._bytes += count

    def free(self) -> None:
        self._service.held -= self._bytes
        self._bytes = 0


async def _all(waiting: Sequence[asyncio.Future[RowAnswer | Exception]]) -> list[RowAnswer | Exception]:
    return [await one for one in waiting]


async def _gone(request: Request) -> None:
    """Wait until whoever asked has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _good(answers: Sequence[RowAnswer | Exception], several: bool) -> list[RowAnswer]:
    good = []
    for i, answer in enumerate(answers):
        if isinstance(answer, Exception):
            why = refusal(answer)
            raise Refused(why.status, f"input {i}: {why.why}" if several else why.why)
        good.append(answer)
    return good
