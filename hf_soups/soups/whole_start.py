"""A start without the ingredients' head, such as the pretrained model itself: their backbone, with the mean of heads.

Methods that go out from a start then move the backbone alone, and the heads are averaged: the distances of the
ingredients' heads from their mean sum up to nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_soups.checkpoint import Checkpoint, Piece
from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.files.digests import place
from hf_soups.files.dtypes import ITEM_BYTES
from hf_soups.files.tensorfile import TensorWriter, lay_out
from hf_soups.files.weights import SINGLE
from hf_soups.files.writing import write_json, written_whole
from hf_soups.soups.mixing.blocks import BlockMixer, in_threads
from hf_soups.soups.mixing.spans import Span, plan_spans, self_made, shared_names
from hf_soups.soups.mixing.to_files import coefficients_of

RECORD = "whole_start.json"  # what a completed start was made from
FORMAT = "hf_soups.whole_start.v1"
LEAST = 0.5  # share of the ingredients' weights that a start holds at least


class _Renamed(Checkpoint):
    """A checkpoint whose tensors are found by the ingredients' names."""

    def pieces(self, name: str) -> tuple[Piece, ...]:
        names: Mapping[str, str] = self.__dict__["names"]
        return super().pieces(names[name])


def whole_start(start: Checkpoint, ingredients: Sequence[Checkpoint], *, threads: int = 2) -> Checkpoint:
    """The start itself, where it holds all that the ingredients hold; else one with the mean of what it lacks.

    A base with a language model's head or none, whose names may lack the prefix of the backbone, is completed in a
    folder of the cache: its backbone as it is, and of each tensor that it lacks the mean of the ingredients'. Config,
    tokenizer and labels are those of the first ingredient.

    Args:
        start: what the ingredients were fine-tuned from.
        ingredients: with the same tensor names and shapes.
        threads: that read and write.
    Raises:
        IncompatibleCheckpoints: if it holds less than half of their weights, or a tensor in another shape, such as a
            head of other classes.
    """
    names = shared_names(ingredients)
    held = held_by(start, ingredients[0], names)
    if len(held) == len(names) and all(own == name for name, own in held.items()):
        return start
    _check_backbone(start, ingredients[0], names, held)
    about = [FORMAT, start.digest(), held, [[c.digest(), list(c.label_order)] for c in ingredients]]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    out = place().parent / "starts" / key[:16] / start.name.rpartition("/")[2]
    if not (out / RECORD).is_file():
        with written_whole(out, overwrite=True, marker=RECORD) as staged:
            _write(staged, start, ingredients, names, held, threads)
            averaged = [name for name in names if name not in held]
            record = {"start": str(start), "start_digest": start.digest(), "averaged": averaged}
            write_json(staged / RECORD, {"format": FORMAT, **record})
    return Checkpoint(out)


def held_by(start: Checkpoint, first: Checkpoint, names: Sequence[str]) -> dict[str, str]:
    """Of the ingredients' tensors those that the start holds in the same shape: by its own name."""
    prefixes = {"", *(name.partition(".")[0] + "." for name in names)}

    def found(prefix: str) -> dict[str, str]:
        own = {name: name.removeprefix(prefix) for name in names}
        return {n: o for n, o in own.items() if o in start.tensors and start.tensors[o].shape == first.tensors[n].shape}

    return max(map(found, sorted(prefixes)), key=len)


def _check_backbone(start: Checkpoint, first: Checkpoint, names: Sequence[str], held: Mapping[str, str]) -> None:
    size = {name: first.tensors[name].elements for name in names}
    share = sum(size[name] for name in held) / max(sum(size.values()), 1)
    if share < LEAST:
        raise IncompatibleCheckpoints(
            f"{start}: holds {len(held)} of the {len(names)} tensors of {first} ({share:.0%} of the weights), so it is "
            "not what that was fine-tuned from. Name the base of the ingredients with --start."
        )
    other = [n for n in names if n not in held and n in start.tensors and not self_made(first, n)]
    if other:
        raise IncompatibleCheckpoints(
            f"{start}: {other[0]!r} has shape {start.tensors[other[0]].shape}, but {first} has "
            f"{first.tensors[other[0]].shape}. The start is to be what the ingredients were fine-tuned from."
        )


def _write(
    folder: Path,
    start: Checkpoint,
    ingredients: Sequence[Checkpoint],
    names: Sequence[str],
    held: Mapping[str, str],
    threads: int,
) -> None:
    first = ingredients[0]
    for source in first.carried_files():
        target = folder / (source.relative_to(first.folder) if source.is_relative_to(first.folder) else source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    order = sorted(names, key=lambda name: -ITEM_BYTES[first.tensors[name].dtype])
    aliases = {alias: kept for alias, kept in first.aliases.items() if kept in names}
    file = folder / SINGLE
    layout = lay_out(
        ((name, first.tensors[name].dtype, first.tensors[name].shape) for name in order), {"format": "pt", **aliases}
    )
    renamed = _Renamed(start.source, start.revision, start.subfolder)
    renamed.__dict__["names"] = held
    for view in ("label_order", "input_from", "longer"):  # how its files are read
        object.__setattr__(renamed, view, getattr(start, view))
    spans: list[Span] = []
    for name in order:
        at = [(name, first.tensors[name].dtype, file, layout.offsets[name])]
        sources = [renamed] if name in held else ingredients
        spans += plan_spans(sources, coefficients_of(sources, [1 / len(sources)] * len(sources), [name]), at, None)
    with TensorWriter({file: layout}) as writer:

        def mix(mixer: BlockMixer, block: tuple[Span, int, int]) -> None:
            span, begin, count = block
            writer.write(span.out, mixer.output(span, begin, count), span.offset + begin * ITEM_BYTES[span.dtype])

        in_threads(((span, *block) for span in spans for block in span.blocks()), mix, threads)
