"""Files of predictions: tensors in memory or mapped, row ids and names as they are stored, and what is damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from hf_soups.errors import HfSoupsError, PredictionsError
from hf_soups.files.reading import open_regular
from hf_soups.predictions.given import SUM_TOLERANCE

POSITIVE = 1e-6  # a log-probability above it is none: rounding to float32 lifts one of 0 by less


@contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what is wrong with the parts of a file of predictions into one error that names the file."""
    try:
        yield
    except (KeyError, ValueError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise PredictionsError(f"{path}: damaged predictions ({why}). Predict again.") from error


def check_kinds(tensors: Mapping[str, np.ndarray], **kinds: str) -> None:
    """Whether the tensors that are there have a NumPy type that they are written with.

    Raises:
        ValueError: naming one that has another.
    """
    for name, kind in {**kinds, "row_ids": "i8", "row_ids_json": "u1"}.items():
        if name in tensors and tensors[name].dtype.str[1:] not in kind.split():
            raise ValueError(f"{name} is stored as {tensors[name].dtype}")


def stored_names(about: Mapping[str, str]) -> tuple[str, ...] | None:
    """The label names in the metadata of a file of predictions.

    Raises:
        KeyError, ValueError: if there are none.
    """
    names = json.loads(about["label_names"])
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"label_names is {about['label_names']:.60}")
    return None if names is None else tuple(names)


def stored_ids(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The row ids as a file of predictions holds them: numbers, or texts as JSON.

    Raises:
        KeyError, ValueError: if there are none.
    """
    if "row_ids" in tensors:
        return np.array(tensors["row_ids"])
    return np.asarray(json.loads(tensors["row_ids_json"].tobytes().decode()))


def id_tensor(row_ids: np.ndarray) -> tuple[str, np.ndarray]:
    """Row ids as a tensor with its name, as `stored_ids` reads them."""
    if row_ids.dtype.kind == "i":
        return "row_ids", np.ascontiguousarray(row_ids)
    text = json.dumps(row_ids.tolist(), ensure_ascii=False).encode()
    return "row_ids_json", np.frombuffer(text, dtype=np.uint8)


def mapped_tensors(path: str | os.PathLike[str]) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """The metadata of a safetensors file, and its tensors mapped from it, read-only; none is read yet.

    Raises:
        PredictionsError: if the file is missing, truncated or corrupt.
    """
    from hf_soups.files.dtypes import NATIVE
    from hf_soups.files.tensorfile import read_header

    if not Path(path).exists():
        raise PredictionsError(f"{path}: no such file of predictions.")
    try:
        header = read_header(Path(path))
    except HfSoupsError as error:
        raise PredictionsError(f"{path}: not a readable file of predictions ({error}). Predict again.") from error
    tensors: dict[str, np.ndarray] = {}
    whole = _mapped(Path(path))
    for name, info in header.tensors.items():
        dtype = NATIVE.get(info.dtype)
        if dtype is None:
            raise PredictionsError(f"{path}: {name} is stored as {info.dtype}, so this is no file of predictions.")
        tensors[name] = whole[info.offset : info.offset + info.nbytes].view(dtype).reshape(info.shape)
    return header.metadata, tensors


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, mapped; each map keeps the file open, and 1,000 are what a process may usually hold."""
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        if _more_open_files():
            return _mapped(path)
        raise PredictionsError(
            f"{path}: cannot be opened beside all the others, since this process may hold no more files open. Raise "
            "the limit (ulimit -n), or give fewer predictions at once."
        ) from error


def _more_open_files() -> bool:
    """Raise the number of files that this process may hold open to what the system allows; whether that is more."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True


def read_tensors(path: str | os.PathLike[str]) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """The metadata and all tensors of a safetensors file, in memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(Path(path)), safe_open(path, framework="np") as f:
            return f.metadata() or {}, {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise PredictionsError(f"{path}: no such file of predictions.") from None
    except (SafetensorError, OSError) as error:
        raise PredictionsError(f"{path}: not a readable file of predictions ({error}). Predict again.") from error


def check_probs(
    path: str | os.PathLike[str],
    start: int,
    log_probs: Float32[np.ndarray, "rows classes"],
    rest: Float32[np.ndarray, " rows"] | float = 0.0,
) -> None:
    """Refuse rows that are no log-probabilities; `rest` is the probability of classes that are not among them."""
    with np.errstate(all="ignore"):
        sums = np.exp(log_probs).sum(axis=1) + rest
        good = (np.abs(sums - 1) <= SUM_TOLERANCE) & (log_probs <= POSITIVE).all(axis=1)  # NaN is neither
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise PredictionsError(
            f"{path}: damaged predictions: row {start + row} holds no log-probabilities (their exponentials sum to "
            f"{sums[row]:.4g}, the largest is {log_probs[row].max():.4g}). Predict again."
        )
