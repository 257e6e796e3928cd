"""Leaving without taking modules apart does all that Python does before that."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import atexit, sys, threading, time, weakref
from hf_soups.ending import leave

class Held: pass

def work():
    time.sleep(0.1)
    print("thread done")

held = Held()
weakref.finalize(held, print, "finalised")
atexit.register(print, "at exit")
threading.Thread(target=work).start()
print("to stderr", file=sys.stderr, end="")
leave(3)
"""


def test_threads_end_exit_functions_run_and_all_is_written() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.split("\n") == ["thread done", "at exit", "finalised", ""]
    assert done.stderr == "to stderr"


def test_streams_that_are_closed_are_no_error() -> None:
    code = "from hf_soups.ending import leave; leave(0)"
    done = subprocess.run([f"'{sys.executable}' -c '{code}' >&-"], capture_output=True, text=True, shell=True)
    assert (done.returncode, done.stderr) == (0, "")
