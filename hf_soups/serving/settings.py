"""How a service gathers rows, and what it refuses so that its memory is bounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hf_soups.errors import InputError

BODY_OF_IMAGES = 10 * 2**20  # bytes: a photo of 7 MB as base64 text
BODY_OF_TEXTS = 2**20
HELD_BODIES = 16  # so many of the largest bodies are held at once


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a service answers; the limits are for each request but where they say otherwise."""

    max_batch: int = 32  # rows that the model answers at once
    wait_ms: float = 5.0  # that a row waits for others
    max_body: int | None = None  # bytes; default: 10 MiB for images, 1 MiB for texts
    max_inputs: int = 64
    max_pixels: int = 50_000_000  # of an image
    max_waiting: int = 256  # requests that are open at once; more are refused, to come again
    body_seconds: float = 30.0  # until its body has to be there
    grace_seconds: float = 25.0  # for what is open, after SIGTERM or Ctrl-C
    watch_rows: int = 1000  # after so many the shares of exits are held against the search's

    def __post_init__(self) -> None:
        for f in fields(self):
            value, least = getattr(self, f.name), 0 if f.type == "float" else 1
            if value is not None and not (math.isfinite(value) and value >= least):
                raise InputError(f"{f.name} is {value}; expected {least} or more.")

    def body_of(self, kind: str) -> int:
        """Bytes of the largest request, for rows of a kind."""
        return self.max_body or (BODY_OF_IMAGES if kind == "image" else BODY_OF_TEXTS)


Amount = float | Mapping[str, float] | None  # of each replica; of a split cascade also by its members' names


@dataclass(frozen=True, slots=True)
class OnCluster:
    """Where and how a service's replicas are started."""

    address: str = "auto"
    split_members: bool = False  # a deployment for each member of a cascade, instead of whole models
    replicas: int | Mapping[str, int] = 1
    cpus_per_replica: Amount = 1.0
    gpus_per_replica: Amount = None  # default: what the nodes have, in equal shares of at most one
    loading: Mapping[str, Any] = field(default_factory=dict)  # budget, pair and dtype, as for `load_served`
    max_pixels: int = 50_000_000
