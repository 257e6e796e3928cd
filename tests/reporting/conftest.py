"""One made-up folder with everything, and the report about it, for all tests that only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_soups.reporting.page import page_for
from hf_soups.reporting.page.html import Page, to_html
from tests.reporting.made import write_everything


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_everything(tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="session")
def page(everything: Path) -> Page:
    return page_for([everything], resamples=100)


@pytest.fixture(scope="session")
def html(page: Page) -> str:
    return to_html(page)


@pytest.fixture(scope="session")
def file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path
