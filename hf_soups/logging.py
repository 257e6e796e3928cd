"""How much hf_soups says from Python: warnings by default, each once; and its progress bars."""

from __future__ import annotations

import logging
import os
import sys
from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING
from typing import TextIO

from hf_soups.progress import NAME

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "INFO",
    "WARNING",
    "disable_progress_bars",
    "enable_progress_bars",
    "get_logger",
    "get_verbosity",
    "set_verbosity",
    "set_verbosity_debug",
    "set_verbosity_error",
    "set_verbosity_info",
    "set_verbosity_warning",
]

LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}
VARIABLE = "HF_SOUPS_VERBOSITY"  # of the environment, one of `LEVELS`


class _Once(logging.Filter):
    """Lets each message through once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[int, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it was not said yet."""
        said = record.levelno, record.getMessage()
        known = said in self._said
        self._said.add(said)
        return not known


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the moment, unless the program has handlers of its own, which get it too."""

    def emit(self, record: logging.LogRecord) -> None:
        """As its base."""
        if not logging.getLogger().handlers:
            self.stream = sys.stderr
            super().emit(record)


def get_logger(name: str = NAME) -> logging.Logger:
    """The library's logger, or one below it."""
    return logging.getLogger(name)


def get_verbosity() -> int:
    """The level from which messages are shown, one of `logging`'s."""
    return get_logger().getEffectiveLevel()


def set_verbosity(level: int) -> None:
    """Show messages from this level on, one of `logging`'s."""
    get_logger().setLevel(level)


def set_verbosity_debug() -> None:
    """Show everything."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Show what is done, warnings and errors."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Show warnings and errors: the default."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Show errors alone."""
    set_verbosity(ERROR)


def disable_progress_bars() -> None:
    """Show no bars of hf_soups."""
    from huggingface_hub.utils.tqdm import disable_progress_bars as disable

    disable(NAME)


def enable_progress_bars() -> None:
    """Show bars again, unless HF_HUB_DISABLE_PROGRESS_BARS is set."""
    from huggingface_hub.utils.tqdm import enable_progress_bars as enable

    enable(NAME)


def begin() -> None:
    """Print messages from the level of HF_SOUPS_VERBOSITY on to standard error, each once; called by the import."""
    logger = logging.getLogger(NAME)
    if logger.handlers:
        return
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))
    handler.addFilter(_Once())
    logger.addHandler(handler)
    logger.setLevel(LEVELS.get(os.environ.get(VARIABLE, "").lower(), WARNING))
