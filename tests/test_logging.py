"""What hf_soups says from Python, and its bars."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator

import pytest

import hf_soups.logging as ours
from hf_soups.errors import DataWarning, as_a_command
from hf_soups.progress import Meter, search_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    level = ours.get_verbosity()
    yield
    ours.set_verbosity(level)
    ours.enable_progress_bars()


def ran(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stderr


SAYS = """
import logging, hf_soups
log = logging.getLogger("hf_soups.hub.pushing")
for level in ("info", "warning", "error"):
    for _ in range(2):
        getattr(log, level)("a %s", level)
"""


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("", ["warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("error", ["error"]),
        ("nonsense", ["warning", "error"]),
    ],
)
def test_messages_are_printed_once_from_a_level_on(level: str, said: list[str]) -> None:
    lines = ran(SAYS, HF_SOUPS_VERBOSITY=level).splitlines()
    assert lines == [f"hf_soups.hub.pushing: {word.upper()}: a {word}" for word in said]


def test_handlers_of_the_program_are_not_doubled() -> None:
    lines = ran("import logging; logging.basicConfig(format='mine %(message)s')\n" + SAYS).splitlines()
    assert [line for line in lines if "a error" in line] == ["mine a error"] * 2


def test_warnings_name_arguments_in_python_and_options_in_commands() -> None:
    message = "Give the rows (--data), or --overwrite."
    with pytest.warns(DataWarning, match=r"Give the rows \(`data`\), or `overwrite=True`\."):
        warnings.warn(message, DataWarning, stacklevel=1)
    with as_a_command(), pytest.warns(DataWarning, match=re.escape(message)):
        warnings.warn(message, DataWarning, stacklevel=1)


def test_the_level_is_set_and_read() -> None:
    for name, level in (("debug", 10), ("info", 20), ("warning", 30), ("error", 40)):
        getattr(ours, f"set_verbosity_{name}")()
        assert ours.get_verbosity() == level
        assert logging.getLogger("hf_soups.soups").isEnabledFor(level)


def test_a_terminal_gets_a_bar_and_lines_above_it() -> None:
    stream = Terminal()
    with Meter("mix", 4, stream=stream) as meter:
        meter(1, "loss 0.5")
        meter.line("a line [b]")
        meter(4)
    shown = stream.getvalue()
    assert "mix: 100%" in shown
    assert "4/4" in shown
    assert "a line [b]\n" in shown
    assert "mix: 4 of 4" not in shown


def test_bars_are_turned_off_as_those_of_the_hub() -> None:
    ours.disable_progress_bars()
    stream = Terminal()
    with Meter("mix", 4, stream=stream) as meter:
        meter(4)
        meter.line("done")
    assert stream.getvalue() == "done\n"


def test_bars_are_turned_off_by_the_hubs_variable() -> None:
    program = """
import io, sys
from hf_soups.progress import Meter
class Terminal(io.StringIO):
    def isatty(self): return True
stream = Terminal()
with Meter("mix", 4, stream=stream) as meter:
    meter(4)
print(repr(stream.getvalue()), file=sys.stderr)
"""
    assert ran(program, HF_HUB_DISABLE_PROGRESS_BARS="1").splitlines()[-1] == "''"
    assert "4/4" in ran(program, HF_HUB_DISABLE_PROGRESS_BARS="0")


def test_a_notebook_gets_a_bar_though_it_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    with Meter("mix", 4) as meter:
        meter(4)
    shown = capsys.readouterr()
    assert "4/4" in shown.err
    assert "4 of 4" not in shown.out


def test_a_search_shows_its_share_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with search_progress() as nothing:
        assert nothing is None
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with search_progress() as show:
        assert show is not None
        show(0.5, "grid")
        show(1.0, "polish")
    assert "polish" in stream.getvalue()
