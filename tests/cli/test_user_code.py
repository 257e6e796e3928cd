"""`--import`: a model class of the user's own is known to every command that is told of its file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_soups.errors import InputError
from hf_soups.user_code import VARIABLE, import_user_code, import_what_the_parent_did

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_architecture.py"
ASK = """
import json
from hf_soups.user_code import import_user_code
from hf_soups.models.registry import family_for
try:
    family_for({"model_type": "cifar_resnet"}, "image")
except Exception as error:
    print(type(error).__name__)
import_user_code(%r)
print(family_for({"model_type": "cifar_resnet"}, "image").name)
"""


@pytest.fixture(autouse=True)
def _no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_a_registered_architecture_belongs_to_a_family_once_its_file_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", ASK % str(EXAMPLE)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["CheckpointError", "vision"]


def test_started_processes_import_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    code = tmp_path / "users_own.py"
    seen = tmp_path / "seen.json"
    code.write_text(f"from pathlib import Path\nPath({str(seen)!r}).write_text('1')\n")
    import_user_code(str(code))
    assert os.environ[VARIABLE] == str(code)
    seen.unlink()
    ask = "from hf_soups.user_code import import_what_the_parent_did as go; go()"
    subprocess.run([sys.executable, "-c", ask], check=True)
    assert json.loads(seen.read_text()) == 1


def test_without_the_flag_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    import_what_the_parent_did()
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["no_such_file.py", "no_such_module_of_anyone"])
def test_what_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"--import {name}: cannot be imported"):
        import_user_code(name)


def test_an_error_in_the_users_file_is_told_and_the_half_module_is_gone(tmp_path: Path) -> None:
    code = tmp_path / "breaks_half_way.py"
    code.write_text("1 / 0")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        import_user_code(str(code))
    assert "breaks_half_way" not in sys.modules


def test_the_command_line_takes_the_flag_before_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hf_soups.cli", "--import", str(tmp_path / "gone.py"), "version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "gone.py: cannot be imported" in done.stderr
