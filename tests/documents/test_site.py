"""The site of the documents: no warning, nothing loaded from other hosts, no dead link."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.documents.pages import ROOT

pytestmark = pytest.mark.slow
TAG = re.compile(r"<(\w+)\b([^>]*)>")
LEADS = re.compile(r'\b(?:href|src)="([^"]*)"')
ELSEWHERE = re.compile(r"(https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return out


def addresses(page: Path) -> Iterator[tuple[str, str]]:
    """Each address on a page with the element that has it."""
    for tag, rest in TAG.findall(page.read_text(encoding="utf-8")):
        yield from ((tag, unescape(address)) for address in LEADS.findall(rest))


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    """Links may lead there; of `link` elements none does either."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    loaded = {address for page in pages for tag, address in addresses(page) if tag != "a"}
    assert [address for address in loaded if ELSEWHERE.match(address)] == []
    # the theme would fetch Mermaid for elements of this class
    assert [page for page in pages if 'class="mermaid"' in page.read_text(encoding="utf-8")] == []
    assert [f for f in site.rglob("*.css") if re.search(r"url\(\W?(https?:)?//", f.read_text(encoding="utf-8"))] == []


def test_every_link_leads_to_a_file_of_the_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for _, address in addresses(page):
            path = unquote(address.partition("#")[0])
            if path and not re.match(r"\w+:|//", path):
                assert (page.parent / path).is_file(), f"{page.relative_to(site)} leads to {address}"


def test_the_page_of_the_python_api_has_signatures_sections_and_values_of_constants(site: Path) -> None:
    page = (site / "docs/python-api.html").read_text(encoding="utf-8")
    entry = page.partition('id="hf_soups.cook"')[2].partition('id="hf_soups.CookResult"')[0]
    words = " ".join(unescape(re.sub(r"<[^>]+>", " ", entry)).split())
    assert 'out : str | Path = "soup"' in words
    assert "checkpoint-<step> folders" in words
    assert "Raises: InputError" in words
    assert re.findall(r"<(step|method|shift|name|number|str|int)>", page) == [], "write words in <> as code"
