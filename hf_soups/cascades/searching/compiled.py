"""Compiling the search's inner loops with numba, once: the machine code is kept where it can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function in machine code, which runs without Python's lock, so that threads share the work.

    The code is kept beside the module or in the user's cache; where neither can be written, it is compiled anew in
    each process.
    """
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba finds no folder that it may write to
        return cast(F, numba.njit(nogil=True)(function))
