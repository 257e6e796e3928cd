"""Standard input, output and error, as whoever started the program left them: closed, full, or of another encoding."""

from __future__ import annotations

import contextlib
import os
import sys


def made_safe() -> None:
    """Open what is closed, and write what the encoding lacks as an escape, so that a name never ends a command.

    A file that took the number of a closed stream would get what is printed into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 (for good)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError):  # a stream that was put in another's place and cannot seek
                stream.reconfigure(errors="backslashreplace")


def written_out(status: int) -> tuple[int, str]:
    """Write out what is still to be printed; the exit status, and why it could not be written."""
    why = ""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            status = status or 1
            why = "" if isinstance(error, BrokenPipeError) else f"standard output: {error}."
            with contextlib.suppress(OSError, ValueError):  # Python tries once more at its end, and would say so
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status, why
