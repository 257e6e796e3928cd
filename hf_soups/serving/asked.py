"""What a request asks for: the Hub's format, {"inputs": ..., "parameters": {...}}, or the bytes of one image.

Everything is checked here, before a row waits for the model, and every refusal has a status and a sentence.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from hf_soups.models.readers import Pair

TOP_K = 5  # labels of an answer, unless "top_k" says otherwise
PARAMETERS = ("top_k", "return_exits", "budget")
IMAGES = (  # media types of the kinds that `data.images.FORMATS` has
    "image/jpeg", "image/jpg", "image/png", "image/webp", "image/bmp", "image/gif", "image/tiff", "image/avif",
    "image/jp2", "image/x-portable-anymap", "image/x-portable-bitmap", "image/x-portable-graymap",
    "image/x-portable-pixmap",
)  # fmt: skip
UNNAMED = ("", "application/octet-stream")  # how the Hub's client sends bytes of an image


class Refused(Exception):
    """A request that is not answered: its status, and why in one sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why

    def __reduce__(self) -> tuple[type[Refused], tuple[int, str]]:
        """From a replica it comes whole."""
        return type(self), (self.status, self.why)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was read."""

    rows: tuple[Pair | bytes, ...]  # texts, pairs of texts, or encoded images
    several: bool  # a list was given, so a list is answered
    top_k: int = TOP_K
    return_exits: bool = False
    budget: float | None = None


def read_request(body: bytes, media_type: str, kind: str, most: int) -> Asked:
    """A request.

    Args:
        body: all of it.
        media_type: what its Content-Type says, with or without further parts.
        kind: of the rows that the model takes: image, text or text-pair.
        most: inputs.
    Raises:
        Refused: if it is none, with what was expected.
    """
    media = media_type.partition(";")[0].strip().lower()
    if media == "application/json":
        return _of_json(_parsed(body), kind, most)
    takes_bytes = kind == "image" and media in (*IMAGES, *UNNAMED)
    if not takes_bytes:
        also = ", or the bytes of an image with its media type, such as image/jpeg" if kind == "image" else ""
        raise Refused(415, f"Content-Type is {media[:80] or 'missing'!r}; send JSON as application/json{also}.")
    if not body:
        raise Refused(400, "an empty body; send the bytes of an image.")
    return Asked((body,), several=False)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise Refused(400, "the body's JSON is nested too deeply.") from None
    except ValueError as error:  # of its encoding too
        why = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise Refused(400, f'the body is no JSON ({why[:120]}); expected {{"inputs": ...}}.') from None


def _no_number(name: str) -> NoReturn:
    raise Refused(400, f"{name} is no number that JSON has.")


def _of_json(given: Any, kind: str, most: int) -> Asked:
    if not isinstance(given, Mapping) or "inputs" not in given:
        raise Refused(400, f'expected {{"inputs": ...}}, got {_called(given)}.')
    if surplus := sorted(set(given) - {"inputs", "parameters"}):
        raise Refused(400, f'{_quoted(surplus)}: unknown; a request has "inputs" and "parameters".')
    inputs = given["inputs"]
    several = isinstance(inputs, list)
    values = inputs if several else [inputs]
    if not values:
        raise Refused(400, '"inputs" is an empty list; give one input at least.')
    if len(values) > most:
        raise Refused(413, f"{len(values)} inputs; at most {most} are answered at once. Send several requests.")
    read = _image if kind == "image" else _texts
    rows = tuple(read(value, f"input {i}" if several else "the input", kind) for i, value in enumerate(values))
    return Asked(rows, several, **_parameters(given.get("parameters")))


def _parameters(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise Refused(400, f'"parameters" is {_called(given)}; expected an object.')
    if surplus := sorted(set(given) - set(PARAMETERS)):
        raise Refused(400, f"unknown parameters: {_quoted(surplus)}; there are {', '.join(PARAMETERS)}.")
    known = {name: value for name, value in given.items() if value is not None}
    checks = {"top_k": (_is_count, "a whole number from 1 on"), "return_exits": (_is_switch, "true or false"),
              "budget": (_is_share, "a number above 0: a share of the most expensive member's cost")}  # fmt: skip
    for name, value in known.items():
        fits, expected = checks[name]
        if not fits(value):
            raise Refused(400, f'"{name}" is {_called(value)}; expected {expected}.')
    return known


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _texts(value: Any, where: str, kind: str) -> Pair:
    if kind == "text-pair":
        if not isinstance(value, Mapping) or set(value) != {"text", "text_pair"}:
            wanted = 'pairs: {"text": ..., "text_pair": ...}'
            raise Refused(400, f"{where} is {_called(value)}, but this model takes {wanted}.")
        return _text(value["text"], f'"text" of {where}'), _text(value["text_pair"], f'"text_pair" of {where}')
    if isinstance(value, Mapping):
        if set(value) != {"text"}:
            raise Refused(400, f"{where} is {_called(value)}, but this model takes single texts.")
        value = value["text"]
    return _text(value, where), None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Refused(400, f"{where} is {_called(value)}; expected a text.")
    if not value.strip():
        raise Refused(400, f"{where} is empty; nothing to classify.")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character, which JSON can write
        raise Refused(400, f"{where} is no text that UTF-8 can hold: it has half of a character.") from None
    return value


def _image(value: Any, where: str, _: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(400, f"{where} is {_called(value)}; expected an image as base64 text or as a data URL.")
    if value[:8].lower().startswith(("http://", "https://")):
        raise Refused(400, f"{where} is a URL, which this service does not fetch; send the image as base64 text.")
    if value[:5].lower() == "data:":
        head, _, value = value.partition(",")
        media, _, coding = head[5:].lower().partition(";")
        if media not in IMAGES or coding != "base64":
            raise Refused(415, f"{where} is a data URL of {head[5:85]!r}; expected an image's, with ;base64.")
    try:
        decoded = base64.b64decode("".join(value.split()), validate=True)
    except ValueError:  # of texts outside ASCII too
        raise Refused(400, f"{where} is no base64 text; send an image's bytes so encoded.") from None
    if not decoded:
        raise Refused(400, f"{where} is empty; nothing to classify.")
    return decoded


def _called(value: Any) -> str:
    """A value in a message, in a few words."""
    if isinstance(value, Mapping):
        return f"an object of {_quoted(sorted(map(str, value))) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _quoted(names: list[str]) -> str:
    shown = ", ".join(json.dumps(name if len(name) <= 40 else f"{name[:40]}...") for name in names[:5])
    return f"{shown}, ..." if len(names) > 5 else shown
