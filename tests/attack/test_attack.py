"""The attack with a fixed seed, as CI runs it; thousands by hand: `python -m tests.attack --help`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.attack.judge import judge, listing
from tests.attack.mutations import Mutation, mutate
from tests.attack.worker import Ended

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_changed_files_and_sudden_deaths_end_as_they_must(tmp_path: Path) -> None:
    how = ["--cases", "140", "--kills", "28", "--pairs", "6", "--seed", "13", "--jobs", "2"]
    command = [sys.executable, "-m", "tests.attack", *how, "--failures", str(tmp_path / "failures.jsonl")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"


def test_a_case_is_the_same_whenever_its_seed_is(tmp_path: Path) -> None:
    for seed in range(40):
        found = []
        for place in ("a", "b"):
            path = tmp_path / place / "record.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"name": "x", "scores": [0.5, 1.0], "inner": {"n": 3}}))
            mutation = mutate(path, Random(seed), None)
            found.append((mutation, path.read_bytes() if path.is_file() and not path.is_symlink() else None))
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("status", "complained", "answer", "end"),
    [
        (2, "hf-soups: a/run.json: damaged.", "", "refused"),
        (2, "hf-soups: something is damaged.", "", "error without the name"),
        (1, "hf-soups: a/run.json: damaged.", "", "status 1"),
        (1, "hf-soups: unexpected KeyError: 'a/run.json'.", "", "crash"),
        (1, "Traceback (most recent call last):", "", "crash"),
        (0, "", "accuracy 0.50", "same answer"),
        (0, "", "accuracy 0.70", "silently another answer"),
        (0, "", "accuracy 0.70\nrun.json is damaged and left out", "named"),
        (-9, "", "", "hang"),
    ],
)
def test_the_judge_lets_nothing_pass_that_must_not(
    tmp_path: Path, status: int, complained: str, answer: str, end: str
) -> None:
    (tmp_path / "run.json").write_text("{}")
    ended, here = Ended(status, "", complained, 1.0, hung=False), listing(tmp_path)
    usual, found = {"stdout": "accuracy 0.50"}, {"stdout": answer}
    assert judge(Mutation("a change"), ["run.json"], ended, here, here, (), usual, found).end == end


def test_the_judge_sees_what_is_written_outside_and_code_that_was_run(tmp_path: Path) -> None:
    ended, here = Ended(0, "", "", 1.0, hung=False), listing(tmp_path)
    for name, end in (("code-was-run", "code was run"), ("stray", "written outside")):
        (tmp_path / name).write_text("")
        assert judge(Mutation("a change"), ["x"], ended, here, listing(tmp_path), ("out",), {}, {}).end == end
        (tmp_path / name).unlink()
