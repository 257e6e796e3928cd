"""Mixing: coefficients x checkpoints, streamed into new weight files.

The plan lists spans of elements that are contiguous in every file; threads take blocks of them, and each block is
written at its final offset. One pass, a few megabytes of memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.digests import PieceDigests, known_digest, pieces_digest
from hf_soups.files.dtypes import FLOATS, ITEM_BYTES, NATIVE
from hf_soups.files.tensorfile import FileStamp, Layout, TensorInfo, TensorWriter, lay_out, refuse_writing
from hf_soups.files.weights import INDEX, SINGLE
from hf_soups.soups.mixing.blocks import BlockMixer, in_threads
from hf_soups.soups.mixing.spans import COUNTER, Accumulate, Span, check_same, plan_spans, shared_names

Coefficients = Sequence[float] | Mapping[str, Sequence[float]]
NOT_PARAMETERS = ("running_mean", "running_var", COUNTER)


def mix_to_folder(
    checkpoints: Sequence[Checkpoint],
    coefficients: Coefficients,
    out: Path,
    *,
    dtype: str | None = None,
    accumulate: Accumulate | None = None,
    threads: int = 2,
    max_shard_size: int | None = None,
    digests: bool = False,
) -> str:
    """Write the weights of sum(coefficient x checkpoint) into a folder: one file, or shards with their index.

    Integers and bools must be equal in all ingredients and are copied. Ingredients whose coefficient is 0 are not
    read. Coefficients (1, 0) give ingredient one bit for bit.

    Args:
        checkpoints: models with the same tensor names and shapes; their float dtypes may differ.
        coefficients: one per checkpoint, or for every tensor's name one per checkpoint; may be negative.
        out: created if missing; must hold no weights yet.
        dtype: of all float tensors, such as "BF16"; default: that of the first checkpoint, tensor by tensor.
        accumulate: default: float64 where the output is F32 or F64, which puts the result within one unit in its last
            place of the exact sum; else float32, which has bits enough to do the same for narrower outputs. With
            float32 the error before rounding is at most (k + 1) x 2^-24 x sum(|coefficient x weight|).
        threads: that read, add and write side by side.
        max_shard_size: bytes of tensors in one file at most, unless one tensor alone is larger.
        digests: make those that are not known yet (`Checkpoint.digest`) of what is read and written.

    Returns:
        The digest of what was written, if asked for, else "".
    Raises:
        IncompatibleCheckpoints: if names, shapes or integers differ.
        CheckpointError: if an ingredient cannot be read, or holds NaN or infinity.
        InputError: for wrong coefficients, dtype or sizes, or a folder that holds weights already.
        HfSoupsError: if `out` cannot be written. Whatever fails, nothing is left behind.
    """
    if dtype is not None and dtype not in FLOATS:
        raise InputError(f"dtype {dtype!r}: expected one of {', '.join(sorted(FLOATS))}.")
    if threads < 1 or (max_shard_size is not None and max_shard_size < 1):
        raise InputError(f"threads is {threads}, max_shard_size is {max_shard_size}; both start at 1.")
    names = shared_names(checkpoints)
    by_tensor = coefficients_of(checkpoints, coefficients, names)
    wanted = {name: _out_info(checkpoints[0].tensors[name], dtype) for name in names}
    order = sorted(names, key=lambda name: -ITEM_BYTES[wanted[name][1]])  # stable; keeps every tensor aligned
    with _created(out):
        shards = _shards(out, order, wanted, max_shard_size)
        layouts = {
            path: lay_out((wanted[name] for name in inside), _metadata(checkpoints[0], inside))
            for path, inside in shards.items()
        }
        index = _index(checkpoints[0], shards, wanted) if len(shards) > 1 else None
        if index is not None:
            layouts[out / INDEX] = Layout(index, {}, len(index))
        places = [
            (name, wanted[name][1], path, layouts[path].offsets[name])
            for path, inside in shards.items()
            for name in inside
        ]
        spans = plan_spans(checkpoints, by_tensor, places, accumulate)
        starts = {path: len(layouts[path].header) for path in shards}
        watched = _without_digest(checkpoints) if digests else {}
        made = {p: PieceDigests(p, FileStamp(layouts[p].size, 0, 0), starts[p]) for p in shards if digests}
        with TensorWriter(layouts) as writer:

            def mix(mixer: BlockMixer, block: tuple[Span, int, int]) -> None:
                span, start, count = block
                data, offset = mixer.output(span, start, count), span.offset + start * ITEM_BYTES[span.dtype]
                writer.write(span.out, data, offset)
                if digests:
                    made[span.out].seen(offset, data)

            blocks = ((span, *block) for span in spans for block in span.aligned_blocks(starts[span.out]))
            in_threads(blocks, mix, threads, watched)
            _learn(checkpoints, watched, threads)
        for path, pieces in made.items():
            pieces.stamp = FileStamp.of(path.stat())
        return pieces_digest({path: pieces.stamp for path, pieces in made.items()}, made) if digests else ""


def _without_digest(checkpoints: Sequence[Checkpoint]) -> dict[Path, PieceDigests]:
    """The files of those checkpoints whose digest is not known."""
    found: dict[Path, PieceDigests] = {}
    for checkpoint in checkpoints:
        if known := known_digest(checkpoint.stamps):
            checkpoint.keep_digest(known)
            continue
        found.update((p, PieceDigests(p, stamp)) for p, stamp in checkpoint.stamps.items() if p not in found)
    return found


def _learn(checkpoints: Sequence[Checkpoint], watched: Mapping[Path, PieceDigests], threads: int) -> None:
    """Finish the digests: what was not read for the mixture, such as headers, is read now."""

    def learn(checkpoint: Checkpoint) -> None:
        checkpoint.keep_digest(pieces_digest(checkpoint.stamps, watched))

    unknown = [c for c in checkpoints if any(path in watched for path in c.stamps)]
    with ThreadPoolExecutor(threads, thread_name_prefix="digest") as pool:
        list(pool.map(learn, unknown))


def mix_tensor(
    mixer: BlockMixer,
    checkpoints: Sequence[Checkpoint],
    coefficients: Sequence[float],
    name: str,
    *,
    accumulate: Accumulate | None = None,
) -> np.ndarray:
    """One tensor of a mixture, dense: float32 (float64 if stored as F64) before it is rounded to the files' dtype.

    Integers and bools are checked and copied as by `mix_to_folder`. The buffers and open files are those of `mixer`.
    """
    for checkpoint in checkpoints:
        check_same(checkpoints[0], checkpoint, name)
    info = checkpoints[0].tensors[name]
    by_tensor = coefficients_of(checkpoints, coefficients, [name])
    spans = plan_spans(checkpoints, by_tensor, [(name, info.dtype, Path(), 0)], accumulate)
    kind = NATIVE[info.dtype] if info.dtype not in FLOATS or info.dtype == "F64" else np.dtype(np.float32)
    out, at = np.empty(info.elements, dtype=kind), 0
    for span in spans:
        for start, count in span.blocks():
            if info.dtype in FLOATS:
                out[at : at + count] = mixer.accumulated(span, start, count)
            else:
                out[at : at + count] = mixer.output(span, start, count).view(kind)
            at += count
    return out.reshape(info.shape)


def coefficients_of(
    checkpoints: Sequence[Checkpoint], coefficients: Coefficients, names: Sequence[str]
) -> Callable[[str], tuple[float, ...]]:
    """The checked coefficients of each tensor, by its name.

    Raises:
        InputError: if there are too few, too many, only zeros, or one is not finite.
    """
    if not isinstance(coefficients, Mapping):
        same = _checked(coefficients, len(checkpoints), "")
        return lambda _: same
    lacking, unknown = sorted(set(names) - set(coefficients)), sorted(set(coefficients) - set(names))
    if lacking or unknown:
        raise InputError(
            f"coefficients by tensor: {len(lacking)} tensors have none (first: {lacking[:1]}), {len(unknown)} names "
            f"are unknown (first: {unknown[:1]}). Give one row for each of the {len(names)} tensors."
        )
    rows = {name: _checked(coefficients[name], len(checkpoints), f" of {name!r}") for name in names}
    return rows.__getitem__


def _checked(coefficients: Sequence[float], k: int, whose: str) -> tuple[float, ...]:
    values = tuple(float(c) for c in coefficients)
    if len(values) != k:
        raise InputError(f"{len(values)} coefficients{whose} for {k} checkpoints; expected one for each.")
    if not all(math.isfinite(c) for c in values) or not math.isfinite(sum(values)):
        raise InputError(f"the coefficients{whose} are {list(values)}; they and their sum must be finite.")
    if not any(values):
        raise InputError(f"all coefficients{whose} are 0: nothing would be left of the model.")
    return values


def _out_info(info: TensorInfo, dtype: str | None) -> tuple[str, str, tuple[int, ...]]:
    return info.name, info.dtype if dtype is None or info.dtype not in FLOATS else dtype, info.shape


# The output's files.


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """The folder, created if needed, and removed again if the work in the block fails."""
    there = next((name for name in (SINGLE, INDEX) if (folder / name).exists()), None)
    if there is not None:
        raise InputError(f"{folder}: holds {there} already. Choose another folder, or remove that one first.")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse_writing(folder, error)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: someone else writes there too
            for path in made:
                path.rmdir()
        raise


def _shards(
    out: Path, order: Sequence[str], wanted: Mapping[str, tuple[str, str, tuple[int, ...]]], largest: int | None
) -> dict[Path, list[str]]:
    groups: list[list[str]] = [[]]
    room = math.inf if largest is None else largest
    used = 0
    for name in order:
        size = math.prod(wanted[name][2]) * ITEM_BYTES[wanted[name][1]]
        if groups[-1] and used + size > room:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    if len(groups) == 1:
        return {out / SINGLE: groups[0]}
    return {out / f"model-{i:05d}-of-{len(groups):05d}.safetensors": g for i, g in enumerate(groups, start=1)}


def _metadata(first: Checkpoint, inside: Sequence[str]) -> dict[str, str]:
    """What transformers expects, and the names of tied tensors as the first ingredient gives them."""
    return {"format": "pt"} | {alias: kept for alias, kept in first.aliases.items() if kept in inside}


def _index(
    first: Checkpoint, shards: Mapping[Path, list[str]], wanted: Mapping[str, tuple[str, str, tuple[int, ...]]]
) -> bytes:
    sizes = {name: math.prod(shape) for name, _, shape in wanted.values()}
    counted = sum(size for name, size in sizes.items() if not name.endswith(NOT_PARAMETERS))
    about = {
        "total_parameters": first.index_metadata.get("total_parameters", counted),
        "total_size": sum(sizes[name] * ITEM_BYTES[dtype] for name, dtype, _ in wanted.values()),
    }
    placed = {name: path.name for path, inside in shards.items() for name in inside}
    return (json.dumps({"metadata": about, "weight_map": placed}, indent=2, sort_keys=True) + "\n").encode()
