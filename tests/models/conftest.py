"""Rows, checkpoints and encoded splits that the tests of families share; everything is made here, offline."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from hf_soups.data import Split
from hf_soups.models.family import Family
from hf_soups.models.label_words import LabelWords, MaskedWords, TextToText
from hf_soups.models.registry import FAMILIES
from hf_soups.recipe.prompts import Wording
from hf_soups.recipe.task import Task
from tests.makers.tiny import (
    TINY_CLIP,
    TINY_ENCODER_DECODERS,
    TINY_IMAGE,
    TINY_MASKED,
    TINY_T5,
    TINY_TEXT,
    tiny_sentences,
)

ROWS = 12
NAMES = ("bad", "fine", "good", "great")


@dataclass(frozen=True)
class Case:
    """One architecture of the table with a kind of task it takes."""

    architecture: str
    build: Callable[..., Path]
    kind: str
    family: Family

    @property
    def task(self) -> Task:
        """A task of this kind; its columns fit `rows`."""
        return task_of(self.kind)

    def split(self, rows: int = ROWS) -> Split:
        """Labelled rows of this kind."""
        return split_of(rows_of(self.kind, rows))

    def __str__(self) -> str:
        return f"{self.architecture}-{self.kind}"


def task_of(kind: str) -> Task:
    """A task of this kind on the columns of `rows_of`."""
    columns: dict[str, Any] = {"text": {"text": ("one",)}, "text-pair": {"text": ("one", "two")}}
    return Task(kind=kind, path="made here", **columns.get(kind, {"image": "image"}))  # type: ignore[arg-type]


@functools.cache
def rows_of(kind: str, rows: int = ROWS, seed: int = 0) -> datasets.Dataset:
    if kind != "image":
        return datasets.Dataset.from_dict(
            {"one": tiny_sentences(rows, seed), "two": tiny_sentences(rows, seed + 1, longest=9)}
        )
    from PIL import Image

    random = np.random.default_rng(seed)
    shapes = random.integers(20, 60, (rows, 2))
    images = [Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes.tolist()]
    return datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())


def split_of(rows: datasets.Dataset, row_ids: Sequence[int] | None = None, names: tuple[str, ...] = NAMES) -> Split:
    ids = np.arange(100, 100 + len(rows)) if row_ids is None else np.asarray(row_ids)
    labels = np.arange(len(rows), dtype=np.int64) % len(names)
    return Split(
        role="select", rows=rows, row_ids=ids.astype(np.int64), labels=labels, label_names=names, source="made here",
        fingerprint=rows._fingerprint,
    )  # fmt: skip


PROMPTS = {"text": "it was {text}", "text-pair": "one: {text} two: {text_pair}"}
MASKED_PROMPTS = {"text": "{text} it was {mask} .", "text-pair": "{text} ? {mask} , {text_pair}"}
WORDS = ("bad", "the", "sad", "and")  # one token each for all tokenizers here


def worded(kind: str, *, masked: bool, words: tuple[str, ...] = WORDS) -> LabelWords:
    """The family of a label-word model for tasks of this kind."""
    wording = Wording((MASKED_PROMPTS if masked else PROMPTS)[kind], words)
    return MaskedWords(wording=wording) if masked else TextToText(wording=wording)


ENCODER, ENCODER_DECODER, VISION, CLIP = (
    next(f for f in FAMILIES if f.name == name) for name in ("encoder", "encoder-decoder", "vision", "clip")
)
TEXT_KINDS = ("text", "text-pair")


def turns(table: dict[str, Callable[..., Path]]) -> list[tuple[tuple[str, Callable[..., Path]], str]]:
    """The architectures of a table with a kind for each in turn: all with all kinds would take twice as long."""
    return list(zip(table.items(), itertools.cycle(TEXT_KINDS), strict=False))


CASES = [
    *[Case(name, build, kind, ENCODER_DECODER) for (name, build), kind in turns(TINY_ENCODER_DECODERS)],
    *[Case(name, build, kind, ENCODER) for name, build in TINY_TEXT.items() for kind in ("text", "text-pair")],
    *[Case(name, build, "image", VISION) for name, build in TINY_IMAGE.items()],
    *[Case(name, build, "image", CLIP) for name, build in TINY_CLIP.items()],
]


WITH_WORDS = [
    *[Case(name, build, kind, worded(kind, masked=False)) for (name, build), kind in turns(TINY_T5)],
    *[Case(name, build, kind, worded(kind, masked=True)) for (name, build), kind in turns(TINY_MASKED)],
]


@pytest.fixture(scope="session", params=CASES, ids=str)
def headed(request: pytest.FixtureRequest) -> Case:
    """Every architecture that answers with a head."""
    made: Case = request.param
    return made


@pytest.fixture(scope="session", params=WITH_WORDS, ids=str)
def with_words(request: pytest.FixtureRequest) -> Case:
    """Every architecture that answers with label words."""
    made: Case = request.param
    return made


@pytest.fixture(scope="session", params=[*CASES, *WITH_WORDS], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Every architecture with every kind of task it takes."""
    made: Case = request.param
    return made


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[..., Path]], Path]:
    """The folder of a tiny checkpoint, made once a session."""

    @functools.cache
    def made(build: Callable[..., Path]) -> Path:
        return build(tmp_path_factory.mktemp(build.__name__))

    return made
