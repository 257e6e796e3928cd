"""Where the page is served, what it needs, and the files of a Space; no server is started here."""

from __future__ import annotations

import ast
import importlib.util
import json
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from hf_soups.cascades.plan import Plan
from hf_soups.cli.app import app
from hf_soups.demo import build_page, serving, space_files
from hf_soups.demo.serving import free_port
from hf_soups.errors import InputError, MissingExtra
from tests.makers.browser import BrowserMissing, chromium


def a_cascade(folder: Path, *, repo: str | None = None, kind: str = "text") -> Path:
    """The config of one; its members need not be there."""
    from hf_soups.cascades.plan import plan_values

    place: dict[str, Any] = {"repo": repo, "revision": "a" * 40} if repo else {"subfolder": "member_0"}
    told = {
        "model_type": "cascade", "kind": kind, "plan": plan_values(Plan(("small",), (), (1.0,))),
        "members": [{"name": "small", **place}], "id2label": {"0": "no", "1": "yes"},
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def test_a_taken_port_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} on 127.0.0.1 cannot be used"):
            free_port(port=port)
        done = CliRunner().invoke(app, ["demo", str(tmp_path / "nowhere"), "--port", str(port)])
        assert isinstance(done.exception, InputError)
        assert "Name another with --port" in str(done.exception)
    assert free_port(port=port) == port


def test_without_a_port_the_first_free_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        monkeypatch.setattr(serving, "PORT", first)
        found = free_port()
        assert first < found < first + serving.PORTS
        monkeypatch.setattr(serving, "PORTS", 1)
        with pytest.raises(InputError, match=f"ports {first} to {first} on 127.0.0.1 cannot be used"):
            free_port()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match=r"on 192\.0\.2\.1 cannot be used"):
        free_port("192.0.2.1", 7860)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else found(name, *a))
    with pytest.raises(MissingExtra, match=r'pip install "hf_soups\[demo\]"'):
        build_page(tmp_path)


def test_a_space_is_three_files_of_which_the_page_is_a_few_lines(tmp_path: Path) -> None:
    from importlib.metadata import version

    files = space_files(a_cascade(tmp_path / "my-cascade"))
    assert sorted(files) == ["README.md", "app.py", "requirements.txt"]
    call = ast.parse(files["app.py"]).body[-1]
    assert ast.unparse(call) == "serve('model', title='my-cascade', host='0.0.0.0', port=7860)"
    needed = dict(line.split("==") for line in files["requirements.txt"].splitlines())
    assert next(iter(needed)) == "hf_soups"
    assert {"torch", "transformers", "huggingface-hub", "numpy", "pillow"} <= set(needed)
    assert {name: version(name).partition("+")[0] for name in needed} == needed
    about = yaml.safe_load(files["README.md"].split("---")[1])
    assert (about["sdk"], about["sdk_version"], about["app_file"]) == ("gradio", version("gradio"), "app.py")
    assert about["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert len(about["short_description"]) <= 60  # more the Hub refuses
    assert "models" not in about
    pinned = space_files(a_cascade(tmp_path / "pinned", repo="org/small"))
    assert yaml.safe_load(pinned["README.md"].split("---")[1])["models"] == ["org/small"]


def test_a_space_has_the_examples_and_the_wheel_that_are_named(tmp_path: Path) -> None:
    from PIL import Image

    folder = a_cascade(tmp_path / "my-cascade", kind="image")
    (tmp_path / "photos").mkdir()
    for name in ("a cat.PNG", "dog.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name, format="PNG")
    wheel = tmp_path / "hf_soups-9.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hf_soups/__init__.py", "")
    files = space_files(folder, examples=tmp_path / "photos", wheel=wheel)
    assert sorted(files) == [
        "README.md", "app.py", "examples/00.png", "examples/01.png", wheel.name, "requirements.txt",
    ]  # fmt: skip
    call = ast.parse(str(files["app.py"])).body[-1]
    assert ast.unparse(call) == ("serve('model', title='my-cascade', examples='examples', host='0.0.0.0', port=7860)")
    assert f'ZipFile("{wheel.name}")' in str(files["app.py"])
    assert "hf_soups" not in str(files["requirements.txt"])  # the wheel is it
    assert files[wheel.name] == wheel


def test_examples_of_texts_are_written_again_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("one\ttwo\n\nthree ||| four\n")
    files = space_files(a_cascade(tmp_path / "c", kind="text-pair"), examples=tmp_path / "pairs.txt")
    assert files["examples.txt"] == "one ||| two\nthree ||| four\n"
    assert 'examples="examples.txt"' in str(files["app.py"])


def test_what_is_no_wheel_or_no_example_is_refused(tmp_path: Path) -> None:
    folder = a_cascade(tmp_path / "c")
    with pytest.raises(InputError, match=r"gone\.whl: no such file\. Build it"):
        space_files(folder, wheel=tmp_path / "gone.whl")
    (tmp_path / "torch-2.0-py3-none-any.whl").write_bytes(b"PK")
    with pytest.raises(InputError, match="not a wheel of hf_soups; expected one such as"):
        space_files(folder, wheel=tmp_path / "torch-2.0-py3-none-any.whl")
    with pytest.raises(InputError, match="no such folder or file of examples"):
        space_files(folder, examples=tmp_path / "gone")


def test_a_space_shows_cascades_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="no cascade, but a model of type 'bert'"):
        space_files(tmp_path)


def test_a_missing_browser_is_no_reason_to_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrowserMissing, match="apt-get install chromium"):
        chromium()
