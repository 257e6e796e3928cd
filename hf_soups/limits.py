"""Limits of the system that a job can meet: cores, open files, threads and processes."""

from __future__ import annotations

import errno
import os
import threading

from hf_soups.errors import HfSoupsError

MOST_THREADS = 128  # that are tried
LIBRARIES = 4  # numpy's, scipy's, torch's and pyarrow's each start as many as there are cores, pyarrow's a few more
MORE_THREADS = 8


def limit_reached(error: BaseException | None) -> str:
    """The limit of the system that an exception, or what caused it, tells of, and what to do about it; "" for none.

    >>> limit_reached(RuntimeError("can't start new thread"))[:41]
    'no further thread or process can start: t'
    """
    while error is not None:
        number, text = getattr(error, "errno", None), str(error)
        if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
            return "too many open files: the limit is reached (ulimit -n). Raise it and run the same command again."
        if number == errno.EAGAIN or "can't start new thread" in text or "Resource temporarily unavailable" in text:
            return (
                "no further thread or process can start: the limit is reached (ulimit -u, or the container's). "
                "Raise it and run the same command again."
            )
        if "No usable temporary directory" in text:
            return "temporary files have no place, or none that can be written. Set TMPDIR to a folder that can."
        error = error.__cause__ or error.__context__
    return ""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads() -> None:
    """Try whether so many threads can start as numpy, scipy, torch and pyarrow will start when they are loaded.

    Where they cannot, OpenBLAS prints four lines and sends this process SIGINT, and OpenMP ends it.

    Raises:
        HfSoupsError: naming the limit.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    count = int(given) if given.isdigit() else os.cpu_count() or 1
    enough, started = threading.Event(), []
    try:
        for _ in range(min(LIBRARIES * count + MORE_THREADS, MOST_THREADS)):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise HfSoupsError(limit_reached(error)) from error
    finally:
        enough.set()
        for thread in started:
            thread.join()
