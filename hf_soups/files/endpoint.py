"""An endpoint that answers rows over HTTP: the file that names it, without a secret, and who may get the token."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from hf_soups.costs import UNITS
from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.reading import as_record, read_json

ENDPOINT_FILE = "endpoint.json"
MODEL_TYPE = "endpoint"  # in the place of a config.json's
EXAMPLE = '{"url": "https://...", "task": "text-classification", "cost_per_1000": 0.5, "unit": "dollars"}'
AGAIN = f"Expected something like {EXAMPLE}."
HOSTS_VARIABLE = "HF_SOUPS_ENDPOINT_HOSTS"  # hosts that may get the token, and be asked by a cascade from the Hub
HOSTED = ".endpoints.huggingface.cloud"  # of the Hub's Inference Endpoints
TOKEN = re.compile(r"hf_[A-Za-z0-9]{12,}")
UNIT = re.compile(r"[^\W\d][\w./-]{0,39}")
MOST = {"timeout": 3600, "attempts": 20, "concurrency": 64}

TaskName = Literal["text-classification", "image-classification"]
Fallback = Literal["error", "last"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where rows are sent, and how long an answer is waited for. A token is no part of it."""

    url: str
    task: TaskName
    labels: dict[str, str] = field(default_factory=dict)  # what it calls a class -> the data's name; {}: the same
    cost_per_1000: float | None = None  # answers
    unit: str = "dollars"  # of the cost
    timeout: float = 30.0  # seconds, of one try
    attempts: int = 5  # of one row
    concurrency: int = 4  # rows asked at once

    def __post_init__(self) -> None:
        check_endpoint_url(self.url)
        if not UNIT.fullmatch(self.unit) or self.unit in UNITS:
            raise InputError(f"unit is {self.unit!r}; expected a word of your own, such as dollars")
        if self.cost_per_1000 is not None and not 0 <= self.cost_per_1000 < float("inf"):
            raise InputError(f"cost_per_1000 is {self.cost_per_1000}; expected a number of 0 or more")
        for name, most in MOST.items():
            if not 0 < getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)}; expected a number above 0, {most:,} at most")
        if len(set(self.labels.values())) < len(self.labels):
            raise InputError(f"labels gives two names to one class: {self.labels}")

    @property
    def cost(self) -> float | None:
        """Of one answer."""
        return None if self.cost_per_1000 is None else self.cost_per_1000 / 1000

    @property
    def host(self) -> str:
        """The name of the machine."""
        return urlsplit(self.url).hostname or ""

    def takes(self, kind: str) -> bool:
        """Whether it answers rows of a kind: image, text or text-pair."""
        return (kind == "image") == (self.task == "image-classification")

    def sha256(self) -> str:
        """Of what its answers depend on, as far as that is known here: how long it is waited for changes nothing."""
        said = json.dumps([self.url, self.task, sorted(self.labels.items())])
        return hashlib.sha256(said.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What a cascade keeps of it: all but costs, which its plans have, and what is as usual."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("cost_per_1000", "unit")}
        usual = {one.name: one.default for one in fields(self)}
        return {name: value for name, value in kept.items() if value != usual[name] and value != {}}


def is_endpoint(folder: Path) -> bool:
    """Whether a folder names an endpoint, and holds no model."""
    return (folder / ENDPOINT_FILE).is_file() and not (folder / "config.json").is_file()


def read_endpoint(folder: Path) -> Endpoint:
    """The endpoint that a folder names.

    Raises:
        CheckpointError: if its file cannot be used, or holds what could be a secret; that is not shown.
    """
    path = folder / ENDPOINT_FILE
    raw = read_json(path, what="an endpoint", again=AGAIN, error=CheckpointError)
    if TOKEN.search(json.dumps(raw)):
        raise CheckpointError(f"{path}: a token is in it. Remove it: {token_advice()}")
    unknown = sorted(set(raw) - {one.name for one in fields(Endpoint)})
    if unknown:
        raise CheckpointError(
            f"{path}: {unknown[0]!r} is no key of it; there are {', '.join(one.name for one in fields(Endpoint))}. "
            f"A token does not go into a file: {token_advice()}"
        )
    try:
        check_endpoint_url(raw.get("url"))
    except InputError as error:  # before anything that would show it
        raise CheckpointError(f"{path}: {error}") from None
    return as_record(raw, Endpoint, path, what="an endpoint", again=AGAIN, error=CheckpointError)


def endpoint_of(values: Mapping[str, Any], where: str) -> Endpoint:
    """The endpoint that a cascade's config names.

    Raises:
        InputError: if it cannot be used.
    """
    check_endpoint_url(values.get("url"))
    return as_record(values, Endpoint, where, what="an endpoint", again="Build the cascade again.")


def token_advice() -> str:
    """How a token reaches an endpoint."""
    return "it is read from HF_TOKEN, or from the login (hf auth login), when the endpoint is asked."


def is_address(text: str) -> bool:
    """Whether a user's word is an address rather than a folder or a repo."""
    return bool(re.match(r"https?://", text, re.IGNORECASE))


def refuse_address(text: str) -> None:
    """Say how an endpoint is named, where its address was given.

    Raises:
        InputError: always; what could be a secret is not shown.
    """
    check_endpoint_url(text)
    raise InputError(
        f"{text}: an endpoint is named by a folder with a file {ENDPOINT_FILE} in it, such as "
        f"{EXAMPLE.replace('https://...', text)}. Write that, and give the folder instead of the address."
    )


def check_endpoint_url(url: object) -> None:
    """Refuse what is no address, or could hold a secret: addresses are written into files, and shown.

    Raises:
        InputError: without what could be a secret.
    """
    if not isinstance(url, str) or not is_address(url):
        raise InputError("url is no address; expected https://HOST/PATH, such as an Inference Endpoint's.")
    parts = _split(url)
    if parts is None or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError("url is no address that can be asked; expected https://HOST/PATH.")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"the url at {parts.hostname} has a user name or a password. Leave it out: {token_advice()}")
    if parts.query or parts.fragment or "?" in url or "#" in url or TOKEN.search(url):
        raise InputError(
            f"the url at {parts.hostname} has a query (?...), a fragment (#...) or a token in it, which would be "
            f"written into files. Leave it out: {token_advice()}"
        )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def named_hosts() -> frozenset[str]:
    """The hosts that the user trusts beside the Hub's own."""
    named = os.environ.get(HOSTS_VARIABLE, "").split(",")
    return frozenset(host.strip().lower() for host in named if host.strip())


def may_have_token(url: str) -> bool:
    """Whether the user's token may be sent: to the Hub's Inference Endpoints and hosts that the user named, encrypted.

    >>> may_have_token("https://abc.us-east-1.aws.endpoints.huggingface.cloud"), may_have_token("https://example.org")
    (True, False)
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    safe = parts.scheme.lower() == "https" or is_loopback(host)
    return safe and (host.endswith(HOSTED) or host in named_hosts())


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
