"""What is published: the files of the wheel and of the source distribution, and what they say of themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

from hf_soups import __version__

ROOT = Path(__file__).parents[1]
DATA = (
    "hf_soups/py.typed", "hf_soups/demo/look.css", "hf_soups/reporting/cards/card.md",
    "hf_soups/reporting/cards/citations.bib", "hf_soups/reporting/page/page.html", "hf_soups/reporting/page/page.css",
    "hf_soups/reporting/page/page.js",
)  # fmt: skip
TOP = {
    "hf_soups", "recipes", "examples", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff",
    "LICENSE", "hatch_build.py", "pyproject.toml", "PKG-INFO", ".gitignore",
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, check=True, capture_output=True
    )
    return out


def tracked() -> set[str]:
    """Source files below hf_soups/; without git, those that are there."""
    return {str(p.relative_to(ROOT)) for p in (ROOT / "hf_soups").rglob("*.py")}


def test_the_wheel_holds_the_package_alone_with_its_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
        (scripts,) = (archive.read(n).decode() for n in names if n.endswith("entry_points.txt"))
    own = {n for n in names if ".dist-info/" not in n}
    assert {n for n in own if n.endswith(".py")} == tracked()
    assert own - tracked() == set(DATA)
    said = message_from_string(metadata)
    assert (said["Name"], said["Version"], said["License-Expression"]) == ("hf_soups", __version__, "Apache-2.0")
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_all("Project-URL") is None
    assert said.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert "hf-soups = hf_soups.cli:main" in scripts


def test_an_address_makes_the_pictures_and_links_of_the_package_page_whole(tmp_path: Path) -> None:
    address = "https://example.org/hf_soups"
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "metadata"], cwd=ROOT, check=True, capture_output=True, text=True,
        env={**os.environ, "PROJECT_URL": f"{address}/"},
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["urls"] == {"Repository": f"{address}/"}
    readme = said["readme"]["text"]
    assert f"]({address}/raw/HEAD/docs/quickstart.png)" in readme
    assert f"]({address}/blob/HEAD/docs/soups.md#the-leaderboard)" in readme
    assert re.findall(r"\]\((?!https?://)[^)]*\)", readme) == []
    assert readme.replace(f"{address}/raw/HEAD/", "").replace(f"{address}/blob/HEAD/", "") == (
        ROOT / "README.md"
    ).read_text(encoding="utf-8")


def test_the_source_distribution_holds_what_its_readme_points_to_and_no_tests(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name.partition("/")[0] for name in names if name} == TOP
    assert [name for name in names if "__pycache__" in name or name.endswith(".safetensors")] == []
    assert {"docs/quickstart.png", "docs/soups.md", "docs/decisions/0001-levels.md", *DATA} <= names


def test_the_citation_is_of_this_version() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (said["cff-version"], said["version"], said["license"]) == ("1.2.0", __version__, "Apache-2.0")
    assert [r["notes"] for r in said["references"] if "notes" in r] == [
        f"arXiv:{number}" for number in ("2203.05482", "2012.01988", "2005.00570")
    ]
