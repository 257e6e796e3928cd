"""Asking an endpoint for one row: within a time, tried again where that may help and never for ever, read with care."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub import InferenceClient, get_token
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # its modules are lazy

from hf_soups.errors import CheckpointError, EndpointFailed
from hf_soups.files.endpoint import HOSTS_VARIABLE, Endpoint, may_have_token, token_advice
from hf_soups.files.hub_refusals import PASSING, check_token, one_line, transport_errors

MOST_BYTES = 2**24  # of an answer: 100,000 labels are 10 MB
SHOWN = 160  # characters of what came instead
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between tries, doubled each time
LONGEST_ASKED = 120.0  # seconds that a server may ask us to wait (Retry-After)
EXPECTED = 'expected [{"label": "...", "score": 0.98}, ...], the Hub\'s answer to a row of a classifier'


class Spending:
    """What answers cost, kept below a limit: a try counts before it is sent, unless it is known to be free."""

    def __init__(self, limit: float | None = None, unit: str = "") -> None:
        self.limit, self.unit, self.spent = limit, unit, 0.0
        self._lock = threading.Lock()

    def take(self, cost: float) -> None:
        """Count one try.

        Raises:
            EndpointFailed: if it would pass the limit.
        """
        with self._lock:
            if self.limit is not None and self.spent + cost > self.limit * (1 + 1e-9):
                raise LimitReached(
                    f"the spend limit of {self.limit:g} {self.unit} is reached: {self.spent:.6g} {self.unit} were "
                    "spent by this call"
                )
            self.spent += cost

    def give_back(self, cost: float) -> None:
        """A try that was not answered costs nothing."""
        with self._lock:
            self.spent = max(0.0, self.spent - cost)


class LimitReached(EndpointFailed):
    """Another answer would cost more than the user allows."""


@dataclass(frozen=True, slots=True)
class Came:
    """What a server sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """The scores of one row by the endpoint's own names of the classes."""

    scores: dict[str, float]
    seconds: float  # of the try that was answered


class _Client(InferenceClient):
    """Asks as its base does, within a time and a size; reading is left to us, since servers nest answers differently.

    The token goes only where the user wants it to: the base would send it to every address.
    """

    came: Came | None = None

    def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
        headers = {n: v for n, v in request_parameters.headers.items() if n.lower() != "authorization"}
        headers |= {"authorization": f"Bearer {self.token}"} if self.token else {}
        what = {"json": request_parameters.json, "content": request_parameters.data, "headers": headers}
        self.came = _posted(request_parameters.url, float(self.timeout or 0), what)
        return b"[[]]"


def _posted(url: str, timeout: float, what: Mapping[str, Any]) -> Came:
    end, body = time.monotonic() + timeout, bytearray()
    with get_session().stream("POST", url, timeout=timeout, follow_redirects=False, **what) as answer:
        for part in answer.iter_bytes():
            body += part
            if len(body) > MOST_BYTES:
                raise CheckpointError(f"{url}: the answer has more than {MOST_BYTES:,} bytes; {EXPECTED}.")
            if time.monotonic() > end:  # a server that sends a byte now and then
                raise TimeoutError(f"no whole answer after {timeout:g} seconds")
        return Came(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, bytes(body))


def ask(endpoint: Endpoint, row: Any, classes: int, spending: Spending, stop: threading.Event) -> EndpointAnswer:
    """What the endpoint answers to one row.

    Args:
        endpoint: which, and how often and how long it is tried.
        row: a text, {"text": ..., "text_pair": ...}, or the bytes of an image.
        classes: so many labels are asked for.
        spending: where each try is counted.
        stop: once set, nothing is tried again.
    Raises:
        EndpointFailed: if it does not answer, or the limit is reached.
        CheckpointError: if it answers something else.
    """
    token = _token_for(endpoint)
    why = ""
    for attempt in range(1, endpoint.attempts + 1):
        came, why, pause = _try(endpoint, row, classes, token, spending)
        if came is not None:
            return came
        pause = (
            min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1)) if pause is None else pause
        )
        if pause > LONGEST_ASKED:
            raise EndpointFailed(
                f"{endpoint.url}: {why}, and is to be asked again in {pause:,.0f} seconds; at most {LONGEST_ASKED:g} "
                "are waited for. Try again later."
            )
        if attempt < endpoint.attempts and stop.wait(pause):
            break
    raise EndpointFailed(
        f"{endpoint.url}: no answer after {attempt} of {endpoint.attempts} tries; at the last {why}. Check that it "
        "runs, and try again."
    )


def _token_for(endpoint: Endpoint) -> str | None:
    if not may_have_token(endpoint.url):
        return None
    check_token()
    return get_token()


def _try(
    endpoint: Endpoint, row: Any, classes: int, token: str | None, spending: Spending
) -> tuple[EndpointAnswer | None, str, float | None]:
    """The answer; or why there is none, and after how many seconds the server wants to be asked again."""
    cost, began = endpoint.cost or 0.0, time.perf_counter()
    spending.take(cost)
    try:
        came = _sent(endpoint, row, classes, token)
    except transport_errors() as error:
        timed_out = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
        if type(error).__name__ == "OfflineModeIsEnabled":
            spending.give_back(cost)
            raise EndpointFailed(f"{endpoint.url}: not asked, as offline mode is on (HF_HUB_OFFLINE).") from None
        if timed_out:  # it may have been answered, and billed
            return None, f"there was no whole answer after {endpoint.timeout:g} seconds", None
        if "Connect" in type(error).__name__:
            spending.give_back(cost)
        return None, f"the connection failed ({_shown(error, token) or type(error).__name__})", None
    if came.status == 200:
        seconds = time.perf_counter() - began
        return EndpointAnswer(_scores(endpoint, came, token), seconds), "", None
    spending.give_back(cost)
    said = f"it answered {came.status} ({_shown(came.body, token)})"
    if came.status not in PASSING:
        raise EndpointFailed(f"{endpoint.url}: {said}. {_advice(endpoint, came, token)}")
    return None, said, _asked_pause(came.headers.get("retry-after", ""))


def _sent(endpoint: Endpoint, row: Any, classes: int, token: str | None) -> Came:
    client = _Client(model=endpoint.url, token=token, timeout=endpoint.timeout)
    asked = client.image_classification if endpoint.task == "image-classification" else client.text_classification
    asked(row, top_k=classes)
    if client.came is None:
        raise CheckpointError("this version of huggingface_hub asks in another way. Install the one that was tested.")
    return client.came


def _advice(endpoint: Endpoint, came: Came, token: str | None) -> str:
    if came.status in (401, 403):
        if token is not None:
            return "It does not accept the token: log in again (hf auth login), or set HF_TOKEN."
        if may_have_token(endpoint.url):
            return f"No token was sent: {token_advice()}"
        return (
            f"No token was sent: it goes to the Hub's Inference Endpoints alone, over https, unless you name the host: "
            f"{HOSTS_VARIABLE}={endpoint.host}."
        )
    if 300 <= came.status < 400:
        return "It sends on to another address, which is not followed: write that address."
    return "Check its address and task."


def _asked_pause(text: str) -> float | None:
    """Seconds, from a Retry-After header of seconds or of a date."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _shown(said: object, token: str | None) -> str:
    """The beginning of what came, on one line, without the token that a server may have sent back."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    text = text.replace(token, "[token]") if token else text
    text = "".join(c if c.isprintable() else " " for c in one_line(text[: 20 * SHOWN]))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _scores(endpoint: Endpoint, came: Came, token: str | None) -> dict[str, float]:
    """The scores by label.

    Raises:
        CheckpointError: if it is anything else.
    """
    shown = _shown(came.body, token) or "nothing"
    try:
        said = json.loads(came.body)
    except (ValueError, RecursionError):
        kind = came.headers.get("content-type", "").partition(";")[0][:40]
        raise CheckpointError(
            f"{endpoint.url}: it answered no JSON but {shown!r}{f' ({kind})' if kind else ''}; {EXPECTED}. Check its "
            "address and task."
        ) from None
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], list):
        said = said[0]
    scores: dict[str, float] = {}
    for one in said if isinstance(said, list) else ():
        label, score = (one.get("label"), one.get("score")) if isinstance(one, dict) else (None, None)
        if not isinstance(label, str) or isinstance(score, bool) or not isinstance(score, int | float):
            break
        if label in scores or not 0 <= score <= 1 + 1e-6:
            break
        scores[label] = float(score)
    else:
        if scores:
            return scores
    raise CheckpointError(f"{endpoint.url}: it answered {shown!r}; {EXPECTED}. Check its address and task.")
