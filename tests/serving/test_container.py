"""The container file says what it promises. It is not built here: that needs a builder, and a network."""

from __future__ import annotations

import json
import re
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


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = [word for line in LINES if re.match("COPY (?!--from)", line) for word in line.split()[1:-1]]
    shown = FILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in shown


def test_it_names_no_place_of_a_registry() -> None:
    text = FILE.read_text()
    assert set(re.findall(r"https?://[^\s'\"]+", text)) == {f"http://127.0.0.1:{last('EXPOSE')}/health"}
