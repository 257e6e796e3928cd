"""The doctor looks at the machine and never fails."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from hf_soups import doctor as module
from hf_soups.doctor import Check, doctor, doctor_table


@pytest.mark.slow
def test_the_doctor_counts_the_processes_that_really_started() -> None:
    rows = {row.name: row for row in doctor()}
    assert rows["processes"].ok, rows["processes"].value
    assert rows["processes"].value.startswith("2 of 2")
    assert "--num_processes 2 starts 1; on CPUs start them with torchrun" in rows["accelerate launch"].value
    assert rows["torch"].ok
    assert {"python", "cores", "gpus", "cache", "hub"} <= set(rows)


def test_what_is_broken_is_a_row_and_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Check]:
        raise RuntimeError("no driver")

    broken.__name__ = "_devices"
    monkeypatch.setattr(module, "_devices", broken)
    monkeypatch.setattr(module, "_processes", list)
    row = next(row for row in doctor() if row.name == "devices")
    assert not row.ok
    assert row.value == "RuntimeError: no driver"


@pytest.mark.parametrize(
    ("printed", "met"),
    [("processes=2\nprocesses=2\n", 2), ("processes=1\nprocesses=1\n", 1), ("", 0), ("processes=2\n", 0)],
)
def test_two_processes_that_each_believe_to_be_alone_are_not_two(printed: str, met: int) -> None:
    code = f"import sys; sys.stdout.write({printed!r}); print('last words', file=sys.stderr)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as launched:
        assert module._met(launched) == (met, "last words")


def test_processes_that_never_meet_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    with subprocess.Popen(["sleep", "60"], stdout=-1, stderr=-1, text=True) as launched:
        assert module._met(launched) == (0, "not ready after 0.2 s")


def test_the_table_shows_the_extras_name() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(doctor_table([Check("extra wandb", 'not installed: pip install "hf_soups[wandb]"')]))
    assert "hf_soups[wandb]" in console.export_text()
