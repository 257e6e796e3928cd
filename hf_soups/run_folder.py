"""A run's folder: an ordinary checkpoint, run.json and cached predictions; written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_soups.errors import RUN_FAILURES, CheckpointError, HfSoupsError, InputError

RUN_FILE = "run.json"
FORMAT = "hf_soups.run.v1"
PREDICTIONS = "predictions"  # folder of select.safetensors, report.safetensors, shift-<name>.safetensors
STATUSES = ("finished", *RUN_FAILURES)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What run.json says about one fine-tune."""

    status: str  # one of STATUSES
    reason: str = ""  # why it failed, and what to do
    recipe: Mapping[str, Any] = field(default_factory=dict)  # resolved: every value that was used
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    head_fingerprint: str | None = None  # of the head's start
    start: str = ""
    label_names: tuple[str, ...] = ()
    family: str = ""
    metric: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by predictions file -> metric, nll, ece
    parameters: int | None = None
    macs: int | None = None  # multiply-adds per example
    device: str = ""
    processes: int = 1
    train_seconds: float | None = None
    steps: int = 0  # done
    train_rows: int = 0
    history: tuple[Mapping[str, Any], ...] = ()  # step, epoch, loss, learning_rate and, once an epoch, select
    started: str = ""  # UTC, ISO 8601
    finished: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r} is none of {', '.join(STATUSES)}")

    def to_json(self) -> str:
        """The text of run.json."""
        told = {"format": FORMAT, **{f.name: getattr(self, f.name) for f in fields(self)}}
        return json.dumps(finite(told), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def read_run(folder: str | Path) -> RunRecord:
    """What a run's folder says about itself.

    Raises:
        CheckpointError: if there is no run.json, or one that cannot be read.
    """
    path = Path(folder) / RUN_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {RUN_FILE} here, so this is no run's folder.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Repeat the run.") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected the record of a run ({FORMAT!r}). Repeat the run with this version.")
    # a later version may add keys: they are left out, not refused
    known = {f.name: told[f.name] for f in fields(RunRecord) if f.name in told}
    try:
        known["label_names"] = tuple(known.get("label_names", ()))
        known["history"] = tuple(known.get("history", ()))
        return RunRecord(**known)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a valid record of a run ({error}). Repeat the run.") from error


def write_run(folder: Path, record: RunRecord) -> None:
    """Write run.json through a temporary file and a rename."""
    partial = folder / f".{RUN_FILE}.{os.getpid()}"
    try:
        partial.write_text(record.to_json(), encoding="utf-8")
        partial.replace(folder / RUN_FILE)
    finally:
        partial.unlink(missing_ok=True)


def refuse_existing(out: Path, *, overwrite: bool = False, marker: str = RUN_FILE) -> None:
    """Check before any work that `out` may be written; only a folder that holds `marker` is ever replaced.

    Raises:
        InputError: if something is there that may not be replaced.
    """
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{out} exists already. Choose another folder with --out, or replace it with --overwrite.")
    if not (out / marker).is_file():
        raise InputError(
            f"{out} exists and holds no {marker}, so it was not made by this command and is not replaced. "
            "Choose another folder with --out."
        )


@contextlib.contextmanager
def written_whole(out: Path, *, overwrite: bool = False, marker: str = RUN_FILE) -> Iterator[Path]:
    """A partial folder beside `out`, renamed to `out` when the block ends well and removed when it does not.

    Raises:
        InputError: if `out` exists and may not be replaced.
        HfSoupsError: if the place cannot be written.
    """
    refuse_existing(out, overwrite=overwrite, marker=marker)
    partial = _partial_of(out)
    try:
        with writable(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(out)
            partial.mkdir()
            yield partial
            _put_in_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_place(out: Path, *, overwrite: bool = False) -> None:
    """Find out before hours of work whether `out` can be written afterwards.

    Raises:
        InputError: if `out` exists and may not be replaced.
        HfSoupsError: if the place cannot be written.
    """
    refuse_existing(out, overwrite=overwrite)
    with writable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.with_name(f".{out.name}.probe-{os.getpid()}")
        probe.mkdir()
        probe.rmdir()


def _partial_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial-{os.getpid()}")


def _remove_abandoned(out: Path) -> None:
    """Remove what processes that are gone (kill -9) left half-written."""
    mine = f".{out.name}.partial-"
    for entry in out.parent.iterdir():
        pid = entry.name.removeprefix(mine)
        if entry.name.startswith(mine) and pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(entry, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Turn what the system says about a full disk or a forbidden place into one clear error."""
    try:
        yield
    except HfSoupsError:
        raise
    except Exception as error:
        # safetensors has an error of its own for the system's errors; their text holds the number
        system = error if isinstance(error, OSError) else _system_error(error)
        if system is None:
            raise
        raise HfSoupsError(_told(out, system)) from error


def _system_error(error: Exception) -> OSError | None:
    if type(error).__name__ != "SafetensorError":
        return None
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO):
        if f"os error {number}" in str(error):
            return OSError(number, os.strerror(number))
    return None


def _told(out: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        told = "the disk is full. Free some space"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        told = f"no permission to write there ({error.strerror}). Choose another place with --out"
    else:
        told = f"{error}. Solve that"
    return f"{out}: could not be written: {told} and run the same command again; nothing half-written was left."


def _put_in_place(partial: Path, out: Path) -> None:
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        partial.replace(out)
        return
    old = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    out.replace(old)
    try:
        partial.replace(out)
    except OSError:
        old.replace(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
