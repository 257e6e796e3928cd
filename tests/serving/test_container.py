"""The container file says what it promises. It is not built here: that needs a builder, and a network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from hf_soups.cli import app

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples/container/Dockerfile"
LINES = re.sub(r"\\\n", " ", FILE.read_text()).splitlines()


def last(word: str) -> str:
    return next(line for line in reversed(LINES) if line.startswith(f"{word} ")).removeprefix(f"{word} ")


def test_it_runs_as_a_user_without_rights_and_offline() -> None:
    assert last("USER") == "1000"
    assert LINES.index("USER 1000") < LINES.index(f"ENTRYPOINT {last('ENTRYPOINT')}")
    assert {"HF_HUB_OFFLINE=1", "HF_DATASETS_OFFLINE=1"} <= set(last("ENV").split())


def test_it_starts_a_command_that_exists_on_the_port_that_it_exposes() -> None:
    program, name, *options = json.loads(last("ENTRYPOINT"))
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert program == "hf-soups"
    assert {word for word in options if word.startswith("--")} <= known
    assert options[options.index("--port") + 1] == last("EXPOSE")
    assert f":{last('EXPOSE')}/health" in last("HEALTHCHECK")


def copied() -> list[str]:
    return [word for line in LINES if re.match("COPY (?!--from)", line) for word in line.split()[1:-1]]


def test_a_wheel_can_be_built_of_what_it_copies(tmp_path: Path) -> None:
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert list((tmp_path / "out").glob("hf_soups-*.whl"))


def test_what_it_copies_is_there_and_not_ignored() -> None:
    shown = FILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert copied()
    for name in copied():
        assert (ROOT / name).exists()
        assert f"!{name}" in shown


def test_it_names_no_place_of_a_registry() -> None:
    text = FILE.read_text()
    assert set(re.findall(r"https?://[^\s'\"]+", text)) == {f"http://127.0.0.1:{last('EXPOSE')}/health"}
