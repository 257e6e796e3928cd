"""What a soup's folder says of itself: soup.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.reading import as_record, read_json

SOUP_FILE = "soup.json"  # only a folder that holds one is ever replaced
FORMAT = "hf_soups.soup.v1"
AGAIN = "Cook it again."


@dataclass(frozen=True, slots=True)
class _Ingredient:
    name: str
    coefficient: float
    sha256: str = ""
    source: str = ""
    revision: str | None = None
    subfolder: str | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    candidate: str
    ingredients: int
    accepted: bool
    score: float | None = None
    best_so_far: float | None = None
    removes: bool = False
    tie_break: float | None = None


@dataclass(frozen=True, slots=True)
class _Single:
    name: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    rows: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class _LeftOut:
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _SoupTypes:
    """The types of the values in soup.json that somebody reads."""

    ingredients: tuple[_Ingredient, ...]
    method: str = ""
    coefficients_by_tensor: Mapping[str, tuple[float, ...]] | None = None
    steps: tuple[_Step, ...] = ()
    scores: Mapping[str, Any] | None = None
    measured: Mapping[str, _Measured] | None = None
    head_fingerprint: str | None = None
    label_names: tuple[str, ...] | None = None
    versions: Mapping[str, str] | None = None
    pool: tuple[str, ...] = ()
    left_out: tuple[_LeftOut, ...] = ()
    dtype: str | None = None
    made_from: str = ""
    weights: str = ""  # SHA-256 of the soup's own weight files, which its scores are of
    selected_on: str = ""
    optimistic: bool = False
    metric: str = ""
    select_rows: int = 0
    best_single: _Single | None = None
    why: str = ""
    batchnorm: Mapping[str, str | float | None] | None = None
    batchnorm_why: str = ""


def read_soup(folder: Path) -> dict[str, Any]:
    """What a soup's soup.json holds, every value of the type that it was written with.

    Raises:
        FileNotFoundError: if there is none.
        InputError: if it cannot be read, or is no soup's record.
    """
    path = folder / SOUP_FILE
    told = read_json(path, what="the record of a soup", format=FORMAT, again=AGAIN)
    as_record(told, _SoupTypes, path, what="the record of a soup", again=AGAIN)
    return told


def check_weights(folder: Path, record: Mapping[str, Any]) -> None:
    """The weights beside a soup's record must be those that it tells of.

    Raises:
        InputError: if they are not. Soups of 0.1.0 do not say what they were.
    """
    if record.get("weights") and Checkpoint(str(folder)).sha256() != record["weights"]:
        raise InputError(
            f"{folder}: its weights are not those that {SOUP_FILE} tells of, so the scores there are not theirs. Cook "
            "the soup again, or remove the record."
        )


def from_pool(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a soup's ingredients, without the start, which Model Stock and its like mix in: it is none of the pool.

    >>> from_pool({"pool": ["a", "b"], "ingredients": [{"name": "start"}, {"name": "b"}]})
    ('b',)
    """
    pool = record.get("pool") or []
    return tuple(i["name"] for i in record["ingredients"] if not pool or i["name"] in pool)
