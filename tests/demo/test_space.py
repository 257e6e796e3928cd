"""A Space as the Hub has it starts where nothing of hf_soups is installed, and answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from hf_soups.demo import space_files
from hf_soups.hub.pushing import gathered
from tests.demo.made import demo_of
from tests.demo.test_page import a_port, answering
from tests.makers.bare import bare_environment, bare_python
from tests.makers.patience import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_folder_of_a_space_starts_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    made = demo_of("text", tmp_path / "made")
    texts = tmp_path / "some.txt"
    texts.write_text("\n".join(map(str, made.inputs[:3])))
    space = tmp_path / "space"
    with gathered(made.folder, "me/space", page=partial(space_files, examples=texts, wheel=wheel)) as contents:
        for file in contents.files:
            (space / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.source, space / file.path)
    port, app = a_port(), space / "app.py"  # the Hub's own machine has port 7860 free
    app.write_text(app.read_text().replace("port=7860", f"port={port}").replace("0.0.0.0", "127.0.0.1"))
    python, environment = bare_python(tmp_path / "fresh"), bare_environment(tmp_path / "home")
    known = subprocess.run([python, "-c", "import hf_soups"], capture_output=True, env=environment, cwd=tmp_path)
    assert b"No module named 'hf_soups'" in known.stderr
    process = subprocess.Popen([python, "app.py"], cwd=space, env=environment, text=True)
    try:
        assert answering(f"http://127.0.0.1:{port}/", process), f"app.py ended with {process.poll()}"
        from gradio_client import Client

        shown = urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=PATIENCE).read().decode()
        assert all(json.dumps(text) in shown for text in made.inputs[:3])  # as examples
        client = Client(f"http://127.0.0.1:{port}/", verbose=False)
        assert "Members asked" in client.predict(made.inputs[0], 1, api_name="/classify")
        assert (space / "package" / "hf_soups" / "__init__.py").is_file()  # of the wheel, not of this repository
    finally:
        process.terminate()
        process.wait(PATIENCE)
