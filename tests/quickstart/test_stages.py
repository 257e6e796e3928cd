"""What the quickstart shows of its stages, and the model that is trained beside the others."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from hf_soups.errors import HfSoupsError
from hf_soups.quickstart.small import LOG, trained_beside
from hf_soups.quickstart.stages import Stages

TITLES = ("the data", "a long stage", "the table")


def test_on_a_terminal_a_list_says_what_runs_what_it_said_last_and_how_long_the_others_took() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    stages = Stages(TITLES, console)
    with stages.live():
        with stages.stage(Path("job/data")):
            pass
        with stages.stage(Path("job/runs")):
            print("run 3 of 10\nrun 4 of 10\n")
            shown = Console(file=io.StringIO(), width=80)
            shown.print(stages)
    lines = [line.split() for line in shown.file.getvalue().splitlines()]
    assert lines[0] == ["✓", "1", "the", "data", "0", "s"]
    assert lines[1][1:] == ["2", "a", "long", "stage", "0", "s"]
    assert lines[2] == ["run", "4", "of", "10"]
    assert lines[3] == ["3", "the", "table"]


def test_elsewhere_each_stage_is_a_line_with_its_folder_and_what_is_printed_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stages = Stages(TITLES, Console(file=sys.stdout, width=80))
    with stages.live(), stages.stage(Path("job/data")):
        print("1,797 digits")
        stages.show("a table")
    assert capsys.readouterr().out == "\n1/3 the data  (job/data)\n1,797 digits\na table\n1/3 took 0 s\n"


def instead_of_python(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_smaller_model_that_cannot_be_trained_ends_the_job_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_python(tmp_path, monkeypatch, "echo beginning; echo 'no rows left'; exit 1")
    said = rf"the smaller ViT was not trained: no rows left\. See .*{LOG}"
    with pytest.raises(HfSoupsError, match=said), trained_beside(tmp_path):
        pass


def test_what_trains_beside_ends_with_the_block_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of_python(tmp_path, monkeypatch, "exec sleep 60")
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="the other"), trained_beside(tmp_path):
        raise RuntimeError("the other")
    assert time.monotonic() - began < 30
