"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


def hf_soups(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hf_soups.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600)


def test_help_names_every_command() -> None:
    said = hf_soups("--help").stdout
    for command in ("sweep", "cook", "leaderboard", "quickstart", "doctor"):
        assert command in said


@pytest.mark.parametrize("command", ["sweep", "cook", "leaderboard", "quickstart", "doctor"])
def test_every_command_explains_itself(command: str) -> None:
    done = hf_soups(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_the_package_itself_is_the_command_line_too() -> None:
    from hf_soups import __version__

    done = subprocess.run([sys.executable, "-m", "hf_soups", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_cook_refuses_several_processes_which_would_write_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = hf_soups("cook", "a", "b", "--method", "learned", "--method", "uniform", "--out", "soups", cwd=tmp_path)
    assert done.returncode == 2
    assert "cook works in one process, but a launcher started 2. Start it without torchrun" in done.stderr
    done = hf_soups("cook", "a", "b", "--method", "learned", "--out", "soups", cwd=tmp_path)
    assert done.returncode == 2
    assert "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT of a launcher's variables are not set" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['hf-soups', '--help']\n"
        "from hf_soups.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'sklearn', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_missing_recipe_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    done = hf_soups("sweep", "nowhere.yaml", "--out", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("hf-soups: nowhere.yaml: cannot read the recipe")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = hf_soups("--debug", "sweep", "nowhere.yaml", "--out", "x", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_an_unknown_recipe_key_is_named_with_a_suggestion(tmp_path: Path) -> None:
    done = hf_soups(
        "sweep", str(RECIPES / "glue/rte-minilm.yaml"), "--out", str(tmp_path / "x"), "--set", "train.lerning_rate=1"
    )
    assert done.returncode == 2
    assert "unknown key `train.lerning_rate`; did you mean `learning_rate`?" in done.stderr


def test_a_change_without_a_value_is_refused(tmp_path: Path) -> None:
    done = hf_soups(
        "sweep", str(RECIPES / "glue/rte-minilm.yaml"), "--out", str(tmp_path / "x"), "--set", "train.epochs"
    )
    assert done.returncode == 2
    assert "expected KEY=VALUE" in done.stderr


def test_an_unknown_option_is_exit_status_2() -> None:
    assert hf_soups("cook", "a", "--out", "b", "--metod", "uniform").returncode == 2


def test_missing_checkpoints_are_named(tmp_path: Path) -> None:
    done = hf_soups("cook", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "soup"))
    assert done.returncode == 2
    assert str(tmp_path / "a") in done.stderr
    assert not (tmp_path / "soup").exists()


def test_a_leaderboard_of_nothing_is_refused(tmp_path: Path) -> None:
    done = hf_soups("leaderboard", str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize("recipe", sorted(RECIPES.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_valid_and_planned(recipe: Path) -> None:
    from hf_soups.recipe import load_recipe
    from hf_soups.sweep.plan import make_plan

    loaded = load_recipe(recipe)
    assert len(make_plan(loaded)) == loaded.sweep.runs
