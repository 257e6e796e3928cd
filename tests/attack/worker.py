"""The worker: a process that has imported everything once, and forks a child for each command that is run."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CPU, WALL = 30, 45  # seconds; a usual command takes one
MEMORY = 2 << 30  # bytes of address space beyond what the imports take; a usual command needs 0.2
MODULES = (
    "datasets", "matplotlib.pyplot", "pandas", "pyarrow.parquet", "pyarrow.csv", "sklearn.linear_model", "peft",
    "transformers.models.bert.modeling_bert", "transformers.models.vit.modeling_vit", "transformers.pipelines",
    "transformers.models.auto.modeling_auto", "scipy.stats", "huggingface_hub.hf_api", "gradio",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a child ended: by `status`, or a signal where that is negative."""

    status: int
    said: str  # on stdout
    complained: str  # on stderr
    seconds: float  # of CPU
    hung: bool  # still there after `WALL` seconds


def warm() -> None:
    """Import all that commands import while they run, so that no child has to."""
    import hf_soups

    for module in pkgutil.walk_packages(hf_soups.__path__, "hf_soups."):
        if "__main__" not in module.name and "handler" not in module.name:
            importlib.import_module(module.name)
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child's collector would copy every page that holds an object


def start(run: Callable[[], object], folder: Path, said: Path, *, memory: int = MEMORY) -> int:
    """The process id of a child that does `run` in `folder`, writing to said.out and said.err."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        limits(memory)
        os._exit(_status(run))
    finally:
        os._exit(99)


def limits(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 5))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def _status(run: Callable[[], object]) -> int:
    from hf_soups.errors import HfSoupsError

    status = 0
    try:
        found = run()
        if found is not None:
            print(found)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except HfSoupsError as error:  # as the command line says it, from Python
        print(f"hf-soups: {error}", file=sys.stderr)
        status = error.exit_status
    except (ValueError, OSError) as error:
        if "/transformers/" not in traceback.format_tb(error.__traceback__)[-1]:
            traceback.print_exc()
        print(f"hf-soups: {type(error).__name__}: {error}", file=sys.stderr)  # transformers says it in its own words
        status = 2
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def run_all(jobs: int, tasks: Iterator[tuple[int, Callable[[], int], Path]]) -> Iterator[tuple[int, Ended]]:
    """Run tasks, `jobs` at once; each as (number, what starts a child, where it writes). Yields them as they end."""
    running: dict[int, tuple[int, float, Path]] = {}
    waiting = iter(tasks)
    more = True
    while more or running:
        while more and len(running) < jobs:
            task = next(waiting, None)
            if task is None:
                more = False
                break
            number, begin, said = task
            running[begin()] = (number, time.monotonic(), said)
        for pid in list(running):
            number, began, said = running[pid]
            done, status, usage = os.wait4(pid, os.WNOHANG)
            late = not done and time.monotonic() - began > WALL
            if late:
                kill(pid)
                done, status, usage = os.wait4(pid, 0)
            if done:
                del running[pid]
                kill(pid)  # whatever it started
                code = os.waitstatus_to_exitcode(status)
                yield number, Ended(code, _text(said, "out"), _text(said, "err"), usage.ru_utime + usage.ru_stime, late)
        time.sleep(0.005)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _text(said: Path, name: str) -> str:
    try:
        return Path(f"{said}.{name}").read_text(encoding="utf-8", errors="backslashreplace")
    except FileNotFoundError:
        return ""
