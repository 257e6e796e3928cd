"""model_cards/: each card is made again from the records beside it, and nothing there belongs to one machine."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.reporting.cards.card import check_card

CARDS = Path(__file__).parents[2] / "model_cards"
FOLDERS = sorted(path.parent.name for path in CARDS.glob("*/README.md"))
COMMAND = re.compile(r"^hf-soups (card model_cards/(\S+).*)$", re.MULTILINE)
COMMANDS = {name: shlex.split(words) for words, name in COMMAND.findall((CARDS / "README.md").read_text())}
A_MACHINES = re.compile(r"(?<![\w.])(/(home|tmp|root|work|Users|mnt|var)/|[A-Z]:\\|\.\./)")


def texts(folder: Path) -> dict[str, bytes]:
    found = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".png"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_every_card_has_its_command_and_its_place_in_the_table() -> None:
    assert sorted(COMMANDS) == FOLDERS
    linked = re.findall(r"\]\(([^)]+)/README.md\)", (CARDS / "README.md").read_text())
    assert sorted(linked) == FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_the_command_makes_the_card_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = tmp_path / "model_cards" / name
    shutil.copytree(CARDS / name, again)
    for made in (again / "README.md", again / ".eval_results", again / "leaderboard.png"):
        shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, COMMANDS[name], catch_exceptions=False)
    assert done.exit_code == 0
    assert texts(again) == texts(CARDS / name)
    assert {p.name for p in again.iterdir()} == {p.name for p in (CARDS / name).iterdir()}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_card_is_true_and_its_pictures_are_there(name: str) -> None:
    check_card(CARDS / name)
    text = (CARDS / name / "README.md").read_text()
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    assert [p for p in pictures if not (CARDS / name / p).is_file()] == []


@pytest.mark.parametrize("name", FOLDERS)
def test_no_weights_and_no_place_of_a_machine_are_kept(name: str) -> None:
    assert list((CARDS / name).rglob("*.safetensors")) == []
    for file, content in texts(CARDS / name).items():
        assert A_MACHINES.findall(content.decode()) == [], file
