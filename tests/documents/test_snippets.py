"""Every command and every piece of Python on the pages runs, in the order in which a reader meets them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents.pages import DOCS, PAGES, blocks, given
from tests.documents.playing import loaded_and_asked, opened_and_closed, play
from tests.documents.scene import GIVEN, build
from tests.hub.clients import knowing
from tests.hub.server import running

HUB = DOCS / "hub.md"
RUNNING = [page for page in PAGES if page.name not in ("commands.md", "recipe.md", "python-api.md", HUB.name)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = tmp_path_factory.mktemp("scene")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scene)
        build(scene)
    return scene


@pytest.fixture
def scene(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(built, tmp_path / "scene")
    monkeypatch.chdir(tmp_path / "scene")
    monkeypatch.setattr("hf_soups.demo.serve", opened_and_closed)
    monkeypatch.setattr("hf_soups.serving.serve", loaded_and_asked)
    monkeypatch.setattr("hf_soups.doctor._processes", list)  # tests/test_doctor.py waits for them
    return tmp_path / "scene"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda p: p.name)
def test_what_a_page_says_runs(page: Path, scene: Path) -> None:
    play(page)


@pytest.mark.slow
def test_what_the_page_of_the_hub_says_runs_against_a_hub(scene: Path, tmp_path: Path) -> None:
    with running() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "tests.documents.playing", str(HUB)],
            env=knowing(hub, tmp_path / "home", "hf_write"), capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    pushed = {"models": {"me/bert-mrpc-soup", "me/my-cascade", "me/soup-of-two"}, "spaces": {"me/my-cascade-demo"}}
    pushed["datasets"] = {"me/mrpc-leaderboard", "me/mrpc-predictions"}
    assert {kind: {name for k, name in hub.repos if k == kind} for kind in pushed} == pushed


def test_what_is_not_run_is_little_and_says_why() -> None:
    left_out = [block for page in PAGES for block in blocks(page) if block.not_run]
    assert len(left_out) <= 5  # two of them ask an endpoint
    for block in left_out:
        assert len(block.not_run.split()) >= 3, f"{block.page}: say why this is not run: {block.not_run!r}"
    for page in PAGES:
        assert set(given(page)) <= set(GIVEN)


def test_no_command_hides_outside_the_blocks_that_are_run() -> None:
    """Commands stand in blocks of sh; indented code would be shown and not run."""
    for page in PAGES:
        outside = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
        hidden = [line for line in outside.splitlines() if re.match(r"    (hf-soups|accelerate|pip) ", line)]
        assert not hidden, f"{page.name}: {hidden}"
        assert {block.language for block in blocks(page)} <= {
            "sh",
            "python",
            "yaml",
            "text",
            "json",
            "pycon",
            "mermaid",
        }, page.name
