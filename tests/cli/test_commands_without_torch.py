"""Commands that look at answers, not at models, start without torch and transformers: these take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_soups.pool_jobs import search_pool
from tests.makers.synthetic_sweep import write_finished_run, write_plan
from tests.pool_jobs.made_pool import made_pool

# All others may import torch: predict, cook, sweep, build, inspect, diagnose, answer, card, push, demo, ...
COMMANDS = (
    "cascade search preds --report 0.5",
    "cascade show preds/frontier.json",
    "cascade certify preds/frontier.json#{cascade} --max-loss 0.9",
    "cascade draw preds/frontier.json#{cascade} --out pictures --no-images",
    "ensemble preds --report 0.5",
    "leaderboard runs",
    "leaderboard runs --cascades",
    "compare runs run_00 run_01",
    "report runs preds --out report.html --overwrite",
)
RUN = """
import json, sys
from typer.testing import CliRunner
from hf_soups.cli import app

for command in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, (command, done.output, done.exception)
    heavy = {"torch", "transformers", "accelerate"} & set(sys.modules)
    assert not heavy, f"{command} imports {heavy}"
"""


@pytest.mark.slow
def test_what_looks_at_answers_alone_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    made_pool(tmp_path / "preds", 3, rows=60)
    sweep = write_plan(tmp_path / "runs", 2)
    for i, (select, report) in enumerate(((160, 220), (176, 240))):
        write_finished_run(sweep / f"run_0{i}", select, report, seed=i, macs=1_000_000 * (i + 1))
    frontier = search_pool(tmp_path / "preds", report="0.5", folds=0).frontier
    cascade = next(i for i, plan in enumerate(frontier.plans) if len(plan.members) > 1)
    commands = json.dumps([command.format(cascade=cascade) for command in COMMANDS])
    done = subprocess.run([sys.executable, "-c", RUN, commands], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
