"""Files that may not grow: every command says which one in one line, and leaves nothing half-written."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from tests.ending.commands import Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("full").resolve())


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 3_000])
@pytest.mark.parametrize("name", ["predict", "cook", "search", "report", "leaderboard", "sweep", "finetune"])
def test_a_limit_of_the_files_size_is_one_line_that_says_what_to_do(name: str, size: int, place: Place) -> None:
    done = place.run(place.command(name), preexec_fn=limited(size))
    where = f"{name}, {size} bytes: {done}"
    assert done.returncode in ((0, 1) if size else (1,)), where
    assert done.stderr.count("\n") == (1 if done.returncode and name != "sweep" else done.stderr.count("\n")), where
    assert "Traceback" not in done.stderr, where
    assert "unexpected" not in done.stderr, where
    assert (
        done.returncode == 0
        or name == "sweep"
        or any(
            word in done.stderr for word in ("could not be written", "larger than allowed", "Set TMPDIR", "No space")
        )
    ), where
    assert (place.left(), place.processes()) == ([], []), where


@pytest.mark.parametrize("error", ["ENOSPC", "EFBIG", "EROFS"])
def test_a_cache_of_data_sets_that_is_full_is_no_wrong_input(error: str) -> None:
    import errno
    import os

    from hf_soups.data.sources import _unreadable

    hidden = RuntimeError("An error occurred while generating the dataset")
    hidden.__cause__ = OSError(getattr(errno, error), os.strerror(getattr(errno, error)))
    told = _unreadable("data:train", [], hidden)
    assert told.exit_status == 1
    assert str(told).startswith("data:train: the rows could not be written: ")
    assert "HF_DATASETS_CACHE" in str(told)
