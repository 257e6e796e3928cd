"""Ending: Ctrl-C, SIGTERM and a closed terminal end a program in one line, wherever it is, and leave nothing half.

Nothing is raised. An exception out of a signal handler gets lost in imports, destructors and callbacks, waits for
threads, or comes out as another error. The handler says its line, ends the processes that were started from here,
removes what is half-written and leaves. That is safe at any moment, as a kill is: files appear under their names when
they are whole.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 5.0  # between asking a process to end and killing it
POLL_SECONDS = 0.02
CALL_SECONDS = 30.0  # for what is to be done elsewhere before this process leaves
GOES_ON = "the same command goes on from here"
_HEARD = ("SIGINT", "SIGTERM", "SIGHUP")

_half_written: dict[Path, None] = {}
_to_call: list[Callable[[], object]] = []
_owner = 0  # the process whose signals are heard; a forked child is another
_by = 0  # the signal that ends it
_name, _promise = "", ""


def end_in_one_line(name: str, promise: str = GOES_ON) -> None:
    """Have signals end this process in one line, with exit status 128 + n (130 for Ctrl-C); a second one at once.

    A signal that is ignored here (SIGHUP under nohup, SIGINT of a background job) stays so.

    Args:
        name: of the program, before the line.
        promise: what the user can do then.
    """
    global _owner, _name, _promise
    _owner, _name, _promise = os.getpid(), name, promise
    with contextlib.suppress(ValueError):  # not in the main thread, where alone signals are heard
        for number in (getattr(signal, name) for name in _HEARD if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _end)


def promise(words: str) -> None:
    """From now on this is what the line says of what comes next; for programs that run until they are ended."""
    global _promise
    _promise = words


def program_name() -> str:
    """The program of hf_soups that this process was started as, while its first module is imported; "" for none."""
    first = sys.argv[0] if sys.argv else ""
    if first != "-m":  # so it is while Python looks for the module
        return "hf-soups" if Path(first).stem == "hf-soups" else ""
    given = sys.orig_argv
    module = given[given.index("-m") + 1] if "-m" in given[:-1] else ""
    if module.partition(".")[0] != "hf_soups":
        return ""
    return "hf-soups" if module == "hf_soups.cli" else module


@contextlib.contextmanager
def removed_at_end(path: Path) -> Iterator[None]:
    """While the block runs, `path` (a file or folder, there or not) is removed if a signal ends this process."""
    remove_at_end(path)
    try:
        yield
    finally:
        _half_written.pop(path, None)


def remove_at_end(path: Path) -> None:
    """From now on `path` is removed if a signal ends this process; called before it is made."""
    while _by and _owner == os.getpid():  # a thread beside the one that ends: nothing new
        time.sleep(1)
    _half_written[path] = None


@contextlib.contextmanager
def called_at_end(function: Callable[[], object]) -> Iterator[None]:
    """`function` is called once the block has ended, and also if a signal ends this process within it.

    For what lives on other machines and would outlive this process. In the latter case a thread calls it, since the
    interrupted one may hold a lock; a second signal does not wait for it.
    """
    _to_call.append(function)
    try:
        yield
    finally:
        _to_call.remove(function)
        function()


def leave(status: int) -> NoReturn:
    """End as Python does, but for taking its modules apart: with a thousand of them that takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # the interpreter's own wait for threads has no public name
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed by whoever started this
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _end(number: int, _: FrameType | None) -> None:
    global _by
    status = 128 + number
    if os.getpid() != _owner:  # forked, and not yet another program: its parent tidies up
        os._exit(status)
    if _by:
        _signal_children(signal.SIGKILL)
        os._exit(status)
    _by = number
    sys.unraisablehook = lambda _: None
    _say(number)
    _call()
    _end_children()
    _remove()
    os._exit(status)


def _say(number: int) -> None:
    if os.environ.get("RANK", "0") != "0":  # one process of a run speaks
        return
    what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    # a progress bar hides the cursor, and ^C stands in its line
    start = "\x1b[?25h\n" if os.isatty(2) and os.environ.get("TERM") != "dumb" else ""
    with contextlib.suppress(Exception):  # a reader that is gone, or a write that was under way
        if select.select((), (1,), (), 0)[1]:
            sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{_name}: {what}; {_promise}.\n".encode("utf-8", "replace"))


def _call() -> None:
    for function in reversed(_to_call):

        def quietly(function: Callable[[], object] = function) -> None:
            with contextlib.suppress(Exception):
                function()

        thread = threading.Thread(target=quietly, daemon=True)
        thread.start()
        thread.join(CALL_SECONDS)


def _remove() -> None:
    for _ in range(50):  # other threads may still write into a folder
        left = [path for path in list(_half_written) if os.path.lexists(path)]
        if not left:
            return
        import shutil  # imported long since where something is half-written

        for path in left:
            if path.is_dir() and not path.is_symlink():
                moved = path.with_name(f"{path.name}.ended")  # a thread that writes on does not find it by its name
                with contextlib.suppress(OSError):
                    path.rename(moved)
                for folder in (moved, path):
                    shutil.rmtree(folder, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
        time.sleep(POLL_SECONDS)


def _end_children() -> None:
    """Ask them, and kill those that do not listen. Without Popen: the interrupted thread may hold its lock."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    if getattr(tracker, "_pid", None):  # deaf, and it would speak of what it finds
        with contextlib.suppress(OSError):
            os.kill(tracker._pid, signal.SIGKILL)  # type: ignore[union-attr]
    asked = _signal_children(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(map(_runs, asked)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _signal_children(signal.SIGKILL)


def _signal_children(number: int) -> list[int]:
    """Send a signal to every child, and to the whole group of one that has its own; who was sent it."""
    sent = []
    for child, group in _children():
        with contextlib.suppress(OSError):
            if group == child:
                os.killpg(group, number)
            else:
                os.kill(child, number)
            sent.append(child)
    return sent


def _children() -> list[tuple[int, int]]:
    """Number and group of every process started from here that still runs."""
    me, found = os.getpid(), []
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 (numbers, not paths)
    except OSError:
        return _children_by_ps()
    for name in numbers:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            state, parent, group = file.read().rpartition(b")")[2].split()[:3]
            if int(parent) == me and state != b"Z":
                found.append((int(name), int(group)))
    return found


def _children_by_ps() -> list[tuple[int, int]]:
    """As `_children`, on systems without /proc."""
    import subprocess

    try:
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, check=False).stdout
    except OSError:
        return []
    rows = [line.split() for line in listing.splitlines()]
    me = os.getpid()
    return [(int(r[0]), int(r[2])) for r in rows if len(r) == 4 and int(r[1]) == me and r[3][:1] != b"Z"]


def _runs(child: int) -> bool:
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
