"""A real headless Chromium for tests that click: the system's own browser, driven through playwright.

    with browser_page(viewport=PHONE, color_scheme="dark") as visit:
        visit.page.goto(url)
        assert visit.elsewhere() == []

A machine without the browser fails these tests, saying what to install: they must not pass by being skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE = (390, 844)  # CSS pixels, width and height
DESKTOP = (1280, 900)
LOCAL = ("127.0.0.1", "localhost")
INSIDE = ("data", "blob", "file", "about", "chrome", "chrome-error")  # schemes that reach no network


class BrowserMissing(AssertionError):
    """There is no Chromium, or nothing to drive it with."""


@dataclass
class Visit:
    """A page of the browser, with every address it asked for and every error it met."""

    page: Any
    requested: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # uncaught exceptions, and what the console calls errors
    said: list[str] = field(default_factory=list)  # everything on the console

    def elsewhere(self) -> list[str]:
        """Addresses asked for that lie on another machine."""
        asked = [(url, urlsplit(url)) for url in self.requested]
        return [url for url, parts in asked if parts.scheme not in INSIDE and parts.hostname not in LOCAL]


def chromium() -> str:
    """Path of the system's Chromium.

    Raises:
        BrowserMissing: if there is none, naming what to install.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise BrowserMissing(
            f"no Chromium: looked on the PATH for {', '.join(NAMES)}. These tests click in a real browser; install it "
            "(Debian and Ubuntu: apt-get install chromium)."
        )
    return found


@contextmanager
def browser_page(
    viewport: tuple[int, int] = DESKTOP,
    color_scheme: Literal["light", "dark"] = "light",
    offline: bool = False,
) -> Iterator[Visit]:
    """A new page in a new browser, closed at the end.

    Args:
        viewport: width and height in CSS pixels; as narrow as a phone, it has a touch screen as well.
        color_scheme: what the page is told that the user prefers.
        offline: no network at all, for pages opened from a file.
    Raises:
        BrowserMissing: if Chromium or playwright is missing.
    """
    path = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise BrowserMissing('playwright is not installed: pip install "hf_soups[test]"') from error
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            context = browser.new_context(
                viewport={"width": viewport[0], "height": viewport[1]},
                color_scheme=color_scheme,
                offline=offline,
                has_touch=viewport[0] < 600,
            )
            visit = Visit(context.new_page())
            _listen(visit)
            yield visit
        finally:
            browser.close()


def artifacts(otherwise: Path) -> Path:
    """The folder where pictures of pages are kept: HF_SOUPS_ARTIFACTS if set (`make slow` does), else `otherwise`."""
    folder = Path(os.environ.get("HF_SOUPS_ARTIFACTS") or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def screenshot(visit: Visit, name: str) -> None:
    """Keep a picture of the whole page as NAME.png, where HF_SOUPS_ARTIFACTS names a folder."""
    if "HF_SOUPS_ARTIFACTS" in os.environ:
        visit.page.screenshot(path=artifacts(Path()) / f"{name}.png", full_page=True)


def pale_texts(visit: Visit, least: float = 4.5) -> list[str]:
    """Visible texts whose contrast to what is behind them is below WCAG 2.2's level AA, with their contrast."""
    found: list[str] = visit.page.evaluate(CONTRAST, least)
    return found


CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


def _listen(visit: Visit) -> None:
    visit.page.on("request", lambda request: visit.requested.append(request.url))
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.on("console", lambda said: visit.said.append(said.text))
    visit.page.on("console", lambda said: visit.errors.append(said.text) if said.type == "error" else None)
