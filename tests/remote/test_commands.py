"""The commands as they are typed, with real fine-tunes of a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_soups.finetune.run_record import read_run
from tests.makers.small_task import LEARNS, text_recipe
from tests.makers.tiny import tiny_bert
from tests.remote.conftest import ROOT, Nodes


def typed(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hf_soups.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_sweep_and_a_greedy_soup_of_it(nodes: Nodes, tmp_path: Path) -> None:
    values = text_recipe(tmp_path / "data", tiny_bert(tmp_path / "bert"), train=LEARNS).model_dump(mode="json")
    planned, out = tmp_path / "recipe.yaml", tmp_path / "sweep"
    planned.write_text(yaml.safe_dump({**values, "sweep": {"runs": 2}}))
    on = ("--executor", "ray", "--address", nodes.address)
    done = typed("sweep", str(planned), "--out", str(out), *on)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2" in done.stdout
    assert done.stderr == ""  # Ray has nothing to say
    attempts = [json.loads(p.read_text()) for p in sorted(out.glob("ledger/*.attempts.jsonl"))]
    assert all(set(attempt) == {"pid", "node", "started"} for attempt in attempts)
    two = ("--out", str(tmp_path / "two"), "--nodes-per-run", "2", "--set", "sweep.runs=1")
    done = typed("sweep", str(planned), *two, *on)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _files(tmp_path / "two/run_00") == _files(out / "run_00")
    assert read_run(tmp_path / "two/run_00").processes == 2
    assert "processes: 2" in (tmp_path / "two/logs/run_00.log").read_text()
    assert (tmp_path / "two/logs/run_00.machine-1.log").exists()
    done = typed("cook", str(out), "--method", "greedy", "--out", str(tmp_path / "soups"), *on, "--speculate", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "greedy soup of" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep RECIPE --out x --gpus-per-run 2", "--gpus-per-run: of a cluster; give --executor ray too"),
        ("sweep RECIPE --out x --nodes-per-run 2", "--nodes-per-run: of a cluster; give --executor ray too"),
        ("sweep RECIPE --out x --executor ray --slots 2", "--slots and --isolate are of one machine"),
        ("cook a b --method greedy --speculate 2", "--speculate: of a cluster; give --executor ray too"),
        ("cook a b --executor ray", "--executor ray scores greedy's candidates: give --method greedy"),
        ("sweep RECIPE --out s3://bucket/x --executor ray", "s3:/bucket/x: addresses of object stores"),
        ("sweep RECIPE --out x --executor ray --address head", "'head' is no address of a cluster; expected auto"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from hf_soups.cli import app

    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("{task: glue/rte, model: m, sweep: {runs: 2}}")
    done = CliRunner().invoke(app, words.replace("RECIPE", "recipe.yaml").split())
    assert message in str(done.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.yaml"]
