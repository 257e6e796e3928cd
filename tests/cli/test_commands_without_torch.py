"""Each command imports what it uses: help and tables start without the libraries that take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_soups.pool_jobs import search_pool
from tests.makers.synthetic_sweep import write_finished_run, write_plan
from tests.pool_jobs.made_pool import made_pool
from tests.reporting.made import write_cascade

# All others may import torch: predict, cook, sweep, build, inspect, diagnose, answer, card, push, demo, ...
FIRST = "leaderboard runs"  # which needs no scipy either
COMMANDS = (
    FIRST,
    "cascade search preds --report 0.5",
    "cascade show preds/frontier.json",
    "cascade certify preds/frontier.json#{cascade} --max-loss 0.9",
    "cascade draw preds/frontier.json#{cascade} --out pictures --no-images",
    "ensemble preds --report 0.5",
    "leaderboard runs --cascades",
    "compare runs run_00 run_01",
    "report runs preds cascade --out report.html --overwrite --examples 0",  # their rows are read by datasets
)
# scikit-learn imports scipy.stats and pandas, and so does pyarrow when it makes a column of a list
HEAVY = (
    "torch", "transformers", "accelerate", "datasets", "sklearn", "scipy.stats", "scipy.optimize", "pandas", "numba",
)  # fmt: skip
HELP = (
    "--help",
    *(f"{name} --help" for name in ("leaderboard", "cook", "predict", "cascade search", "report", "push")),
)
OF_HELP = (
    "hf_soups", "hf_soups.cli", "hf_soups.ending", "hf_soups.errors", "hf_soups.files", "hf_soups.files.publishing",
    "hf_soups.limits", "hf_soups.logging", "hf_soups.progress", "hf_soups.registration", "hf_soups.soups",
    "hf_soups.soups.options",
)  # fmt: skip
RUN = """
import json, sys
from typer.testing import CliRunner
from hf_soups.cli import app

for command in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, (command, done.output, done.exception)
    heavy = {*json.loads(sys.argv[2]), *(["scipy"] if command == sys.argv[3] else [])} & set(sys.modules)
    assert not heavy, f"{command} imports {heavy}"
"""
NAMES = """
import sys
sys.argv = ["hf-soups", *sys.argv[1:]]
from hf_soups.cli import main
try:
    main()
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("command", HELP)
def test_help_imports_what_draws_it_alone(command: str) -> None:
    done = subprocess.run([sys.executable, "-c", NAMES, *command.split()], capture_output=True, text=True)
    imported = set(done.stderr.split())
    assert "hf_soups.cli" in imported
    assert not {"numpy", "yaml", "PIL", "matplotlib", "huggingface_hub", *HEAVY} & imported
    ours = {name for name in imported if name.startswith("hf_soups") and not name.startswith("hf_soups.cli.")}
    assert ours <= set(OF_HELP)


@pytest.mark.slow
def test_what_looks_at_answers_alone_imports_no_library_of_models_and_no_scikit_learn(tmp_path: Path) -> None:
    made_pool(tmp_path / "preds", 3, rows=60)
    sweep = write_plan(tmp_path / "runs", 2)
    for i, (select, report) in enumerate(((160, 220), (176, 240))):
        write_finished_run(sweep / f"run_0{i}", select, report, seed=i, macs=1_000_000 * (i + 1))
    frontier = search_pool(tmp_path / "preds", report="0.5", folds=0).frontier
    cascade = next(i for i, plan in enumerate(frontier.plans) if len(plan.members) > 1)
    write_cascade(tmp_path / "cascade", frontier.plans[cascade])
    commands = json.dumps([command.format(cascade=cascade) for command in COMMANDS])
    done = subprocess.run(
        [sys.executable, "-c", RUN, commands, json.dumps(HEAVY), FIRST],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
