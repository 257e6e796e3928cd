"""What config.json may say before anything is made of it: numbers that would be memory at once, and types."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hf_soups.errors import CheckpointError

MOST_LABELS = 100_000  # that a config gives by their number alone; a name is made of each
MOST_LAYERS = 10_000  # of which configs make lists
MOST_TOKENS = 1_000_000  # that a tokenizer may be told to make up (T5's extra_ids)
COUNTS = re.compile(r"(?:num|n)_\w+|\w+_(?:size|dim|heads|layers|channels)")  # keys whose numbers are never below 0
LAYERS = re.compile(r"\w*(?:layers|n_layer|depths?|repeats|depth_coefficient)")
NEEDED = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers")  # at least one of each
PLACES = ("max_position_embeddings", "n_positions")


def check_config(config: Mapping[str, Any], at: object) -> None:
    """Refuse what transformers, and we, would stumble over.

    Raises:
        CheckpointError: with the key, and `at`, the place of the file.
    """
    for key, value in _entries(config):
        wanted = _wanted(key, value, config)
        if wanted is not None:
            raise CheckpointError(
                f"{at}: {key} in config.json is {str(value)[:60]!r}; expected {wanted}. Save or download the "
                "checkpoint again."
            )


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key that has a value, and each number of a list, also of the configs inside."""
    for key, value in config.items():
        if value is not None:
            yield str(key), value
        if isinstance(value, dict):
            yield from _entries(value)
        if isinstance(value, list):
            yield from ((str(key), inner) for inner in value if isinstance(inner, int | float))


def _wanted(key: str, value: Any, config: Mapping[str, Any]) -> str | None:
    """What is expected, if this is something else."""
    if key == "architectures":
        fits = isinstance(value, list) and all(isinstance(name, str) for name in value)
        return None if fits else "a list of names"
    if key == "model_type":
        return None if isinstance(value, str) and len(value) <= 200 else "the name of an architecture"
    if key == "num_labels":
        table = config.get("id2label")
        most = max(MOST_LABELS, len(table) if isinstance(table, dict) else 0)
        fits = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
        return None if fits else f"a whole number from 1 to {most:,}"
    if key in PLACES and not isinstance(value, int):
        return "a whole number"
    if not isinstance(value, int | float):
        return None
    if math.isnan(value):
        return "a number"
    if LAYERS.fullmatch(key) and not value <= MOST_LAYERS:
        return f"at most {MOST_LAYERS:,}"
    if key in NEEDED and value < 1:
        return "1 or more"
    return "a number that is not below 0" if value < 0 and COUNTS.fullmatch(key) else None


def check_tokenizer(config: Mapping[str, Any], at: object) -> None:
    """As `check_config`, for the top of tokenizer_config.json.

    Raises:
        CheckpointError: with the key, and `at`, the place of the file.
    """
    for key, value in config.items():
        if key != "model_max_length" and isinstance(value, int | float) and not abs(value) <= MOST_TOKENS:
            raise CheckpointError(
                f"{at}: {key} in tokenizer_config.json is {str(value)[:60]!r}; expected at most {MOST_TOKENS:,}. Save "
                "or download the checkpoint again."
            )
