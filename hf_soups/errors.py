"""Every error a user can cause or meet, with the exit status the command line gives it.

A message says what is wrong, where, what was got, what was expected and what to do next. It is written with the options
of the command line; of an error or a warning that no command raised, `str()` has Python's arguments in their place. A
traceback is shown only with `--debug`.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

_commands = 0  # that run in this process

# Options that are no argument of the same name, or that take no value.
_ARGUMENTS = {"method": "methods", "set": "overrides"}
_COMMANDS_OWN = {"debug", "dry_run", "help", "import", "json", "port"}
_SWITCHES = {
    "align_labels", "allow_selection_on_report", "assume_label_order", "create_pr", "drop_surplus", "force",
    "measure_seconds", "normalise", "overwrite", "prune", "retry_failed", "space", "tie_break",
}  # fmt: skip
_COMMAND = r"\b(?:hf-soups|torchrun|accelerate|trackio|ray) [^()\n;]*?(?=\. |\.?$|[)\n;])"
_VALUE = r"-?\d+(?:\.\d+)?|[\w-]+\.py|keep|refuse|averaged|recomputed|uniform|greedy|run-ema|float32|FIRST"
_SET = r"--set (?:'(?P<quoted>[^'=]+=[^']*)'|(?P<bare>[\w.]+=[^\s,;)]*[^\s,;).]))"
_OPTION = re.compile(
    rf"(?P<command>{_COMMAND})|{_SET}|(?<![\w-])--(?P<name>[a-z][a-z0-9-]+)(?: (?P<value>{_VALUE})\b)?"
)


@contextmanager
def as_a_command() -> Iterator[None]:
    """Errors that are made in the block name options as the command line has them."""
    global _commands
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1


def in_python(message: str) -> str:
    """A message with arguments of functions in place of options of commands; whole commands stay as they are.

    >>> in_python("x exists already. Choose another folder with --out, or replace it with --overwrite.")
    'x exists already. Choose another folder with `out`, or replace it with `overwrite=True`.'
    >>> in_python("give a scale (--scale 0.3), or: hf-soups cook X --method run-ema.")
    'give a scale (`scale=0.3`), or: hf-soups cook X --method run-ema.'
    >>> in_python("if it is your own, send it by --include handler.py.")
    "if it is your own, send it by `include='handler.py'`."
    >>> in_python("Give the data the model's order: --set 'task.label_names=[1]'.")
    "Give the data the model's order: `overrides={'task.label_names': [1]}`."
    """
    return _OPTION.sub(_as_argument, message)


def _as_argument(found: re.Match[str]) -> str:
    if found["command"]:
        return found["command"]
    if override := found["quoted"] or found["bare"]:
        import yaml

        key, _, text = override.partition("=")
        return f"`overrides={ {key: yaml.safe_load(text)} }`"
    name, value = found["name"].replace("-", "_"), found["value"]
    if name in _COMMANDS_OWN:
        return found[0]
    name = _ARGUMENTS.get(name, name)
    if value is not None:
        return f"`{name}={value if value[-1].isdigit() and value != 'float32' else repr(value)}`"
    return f"`{name}=True`" if name in _SWITCHES else f"`{name}`"


class _Message(Exception):
    """What names options where a command runs, and Python's arguments elsewhere."""

    _by_command: bool

    def __new__(cls, *_: object) -> Self:
        """Remember who is told."""
        made = super().__new__(cls, *_)
        made._by_command = _commands > 0
        return made

    def __str__(self) -> str:
        message = super().__str__()
        return message if self._by_command else in_python(message)


class HfSoupsError(_Message):
    """Something failed while working: exit status 1."""

    exit_status = 1


class InputError(HfSoupsError, ValueError):
    """What the user gave cannot be used: exit status 2."""

    exit_status = 2


class RecipeError(InputError):
    """A recipe (or an override of one of its values) is not valid."""


class DataError(InputError):
    """A data set lacks a column, a split, rows, or has labels outside the names."""


class DataWarning(_Message, UserWarning):
    """Something about the rows that whoever uses them should know; the command line prints it in one line."""


class CheckpointError(InputError):
    """A checkpoint is missing, truncated, corrupt or of an unknown layout."""


class HubFailed(CheckpointError):
    """The Hub failed, or the way to it did: nothing is wrong with what was asked for, another try may succeed."""

    exit_status = 1


class EndpointFailed(CheckpointError):
    """An endpoint does not answer, or no more may be spent on it: another try may succeed."""

    exit_status = 1


class IncompatibleCheckpoints(InputError):
    """Checkpoints that cannot be mixed: other names, shapes, labels, processors or heads."""


class PredictionsError(InputError):
    """Predictions that are malformed, or that do not describe the same rows."""


class MemberError(HfSoupsError):
    """A member of a cascade cannot be loaded, or answers what it must not.

    No ValueError: transformers' `pipeline()` takes those for a wrong dtype, loads everything again, and buries the
    message under two tracebacks.
    """

    exit_status = 2


class SelectionOnReport(InputError):
    """Something would be chosen by looking at the rows kept for the report."""


class MissingExtra(InputError):
    """An optional package is needed; the message names the extra to install."""


class ReplicasGone(HfSoupsError):
    """None of the replicas on a cluster answers a call."""


class OutOfMemory(HfSoupsError):
    """The machine's or the device's memory did not suffice; what was finished before is kept."""


class RunFailed(HfSoupsError):
    """A fine-tune ended without a usable model; `status` is one of `RUN_FAILURES`."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def warn_in_one_line(program: str) -> None:
    """Print each warning once, in one line."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            print(f"{program}: warning: {message}", file=sys.stderr, flush=True)

    warnings.showwarning = show
    warnings.simplefilter("always", DataWarning)


RUN_FAILURES = ("nan-loss", "one-class", "out-of-memory", "error")
_SHORT_OF_MEMORY = ("not enough memory", "DefaultCPUAllocator", "out of memory")


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python's, numpy's or torch's (CPU or CUDA) tells of too little memory.

    >>> is_short_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    True
    """
    by_words = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SHORT_OF_MEMORY)
    return by_words or isinstance(error, MemoryError)


@contextmanager
def memory_told(advice: str) -> Iterator[None]:
    """Turn what the block raises for too little memory into `OutOfMemory`, with what to do about it."""
    try:
        yield
    except Exception as error:
        if not is_short_of_memory(error):
            raise
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise OutOfMemory(f"out of memory ({first}). {advice}") from error
