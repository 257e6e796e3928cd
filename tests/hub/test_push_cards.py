"""The command as a user runs it: the card's code is run against the folder before anything is sent."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hf_soups.checkpoint import Checkpoint
from hf_soups.cli import app
from hf_soups.soups import uniform
from tests.hub.clients import knowing
from tests.hub.server import Blob, Hub
from tests.makers.patience import PATIENCE
from tests.makers.tiny import tiny_vit

REPO = "me/vit-soup"


@pytest.fixture(scope="module")
def soup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("soup")
    ingredients = [Checkpoint(tiny_vit(at / f"run_{seed}", seed=seed)) for seed in (0, 1)]
    return uniform(ingredients).save_pretrained(at / "soup")


def push(hub: Hub, home: Path, *arguments: str, stdin: Any = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hf_soups.cli", "push", *arguments]
    env = knowing(hub, home, "hf_write")
    return subprocess.run(command, env=env, stdin=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.slow
def test_a_push_whose_cards_code_fails_is_refused_and_makes_no_repo(hub: Hub, soup: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(soup, tmp_path / "broken"))
    (broken / "preprocessor_config.json").unlink()
    told = push(hub, tmp_path, str(broken), REPO)
    assert told.returncode == 2
    assert "broken: the code of its card fails (" in told.stderr
    assert hub.repos == {}
    done = push(hub, tmp_path, str(soup), REPO)
    assert done.returncode == 0, done.stderr
    assert "running the card's code against the folder" in done.stderr
    assert "as one commit to" in done.stdout
    assert done.stdout.endswith(f'Next: transformers.pipeline("image-classification", model="{REPO}")\n')
    again = push(hub, tmp_path, str(soup), REPO)
    assert "no commit was made" in again.stdout
    assert "running" not in again.stderr


@pytest.mark.slow
def test_at_a_terminal_the_user_is_asked_before_other_content_is_replaced(hub: Hub, soup: Path, tmp_path: Path) -> None:
    hub.create(REPO).commit("main", "other", {"config.json": Blob(b"{}")})
    told = push(hub, tmp_path, str(soup), REPO)
    assert told.returncode == 2
    assert "holds other content: config.json. Replace it with --force" in told.stderr
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"n\n")
        told = push(hub, tmp_path, str(soup), REPO, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert told.returncode == 2
    assert "Replace it? [y/N]" in told.stderr
    assert f"{REPO}: left as it is, nothing was sent." in told.stderr
    assert hub.repo(REPO).titles == ["other"]


def test_a_dry_run_prints_files_and_card_and_runs_no_code(soup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_soups.hub.models.run_snippet", lambda *_, **__: pytest.fail("it was run"))
    told = CliRunner().invoke(app, ["push", str(soup), REPO, "--dry-run"])
    assert told.exit_code == 0, told.output
    assert f"{(soup / 'model.safetensors').stat().st_size:,} bytes  model.safetensors" in told.stdout
    assert "the card's code was not run: a push runs it against the folder first" in told.stdout
    assert f'model="{REPO}"' in told.stdout


def test_a_space_is_made_with_the_demos_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the options the command passes on what the user said, and the demo's own page."""
    import hf_soups.demo

    seen: dict[str, Any] = {}

    def pushed(folder: Path, repo: str, **options: Any) -> Any:
        seen.update(folder=folder, repo=repo, **options)
        raise SystemExit(0)

    monkeypatch.setattr("hf_soups.hub.push", pushed)
    CliRunner().invoke(app, ["push", str(tmp_path), "me/space", "--space", "--private", "--revision", "v2"])
    assert (seen["folder"], seen["repo"], seen["space"]) == (tmp_path, "me/space", hf_soups.demo.space_files)
    assert (seen["private"], seen["revision"], seen["force"], seen["confirm"]) == (True, "v2", False, None)
