"""The doctor looks at the machine and never fails."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hf_soups import doctor as module
from hf_soups.doctor import Row, doctor, doctor_table


@pytest.mark.slow
def test_the_doctor_counts_the_processes_that_really_started() -> None:
    rows = {row.name: row for row in doctor()}
    assert rows["processes"].ok, rows["processes"].value
    assert rows["processes"].value.startswith("2 of 2")
    assert rows["torch"].ok
    assert {"python", "cores", "gpus", "cache", "hub"} <= set(rows)


def test_what_is_broken_is_a_row_and_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Row]:
        raise RuntimeError("no driver")

    broken.__name__ = "_devices"
    monkeypatch.setattr(module, "_devices", broken)
    monkeypatch.setattr(module, "_processes", list)
    row = next(row for row in doctor() if row.name == "devices")
    assert not row.ok
    assert row.value == "RuntimeError: no driver"


def test_the_table_shows_the_extras_name() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(doctor_table([Row("extra wandb", 'not installed: pip install "hf_soups[wandb]"')]))
    assert "hf_soups[wandb]" in console.export_text()
