"""The report in a real browser, opened from its file without a network: sorting, phones, dark, charts, keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from hf_soups.predictions import Predictions
from hf_soups.reporting.page.classes import class_section
from hf_soups.reporting.page.html import Page, to_html
from hf_soups.reporting.page.verdict import Choice
from tests.makers.browser import DESKTOP, artifacts, browser_page

pytestmark = pytest.mark.slow

NARROW = (320, 640)  # the width that WCAG 1.4.10 names


def opened(visit: Any, file: Path) -> Any:
    """The page with all of its charts drawn."""
    visit.page.goto(file.as_uri())
    visit.page.wait_for_function(
        "[...document.querySelectorAll('.chart')].every((c) => c.querySelector('svg') || c.matches('.chart-failed'))"
    )
    return visit.page


def quiet(visit: Any, file: Path) -> None:
    """Nothing was asked for but the file, and the console is empty: no error, as of the policy, no warning of Vega."""
    assert visit.requested == [file.as_uri()]
    assert visit.errors == []
    assert visit.said == []


@pytest.mark.parametrize(
    ("name", "viewport", "scheme"),
    [("desktop", DESKTOP, "light"), ("desktop-dark", DESKTOP, "dark"), ("phone", NARROW, "light")],
)
def test_it_opens_offline_with_every_chart_and_fits_the_screen(
    file: Path, tmp_path: Path, name: str, viewport: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    with browser_page(viewport, scheme, offline=True) as visit:
        page = opened(visit, file)
        assert page.title() != "taken"
        assert page.locator(".chart svg").count() == 13
        assert page.locator(".chart-failed").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        wide = "[...document.querySelectorAll('.chart svg')].filter((s) => s.clientWidth > s.parentElement.clientWidth)"
        assert page.evaluate(f"{wide}.length") == 0
        picture = artifacts(tmp_path) / f"report-{name}.png"
        page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 10_000
        quiet(visit, file)


def test_the_leaderboard_is_sorted_by_keyboard_and_says_so(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        table = page.locator("#leaderboard-table")
        report = table.locator("button.sort", has_text="report")

        def column() -> list[float]:
            cells = "(t) => [...t.tBodies[0].rows].map((r) => Number(r.cells[2].dataset.value))"
            values: list[float] = table.evaluate(cells)
            return values

        before = column()
        assert before != sorted(before, reverse=True)
        report.focus()
        page.keyboard.press("Enter")
        assert column() == sorted(before, reverse=True)
        heading = report.locator("xpath=ancestor::th")
        assert heading.get_attribute("aria-sort") == "descending"
        assert page.locator("#said").inner_text() == "Sorted by report, descending."
        page.keyboard.press("Space")
        assert column() == sorted(before)
        assert heading.get_attribute("aria-sort") == "ascending"
        assert table.locator('[aria-sort="none"]').count() == table.locator("thead th").count() - 1
        name = table.locator("button.sort", has_text="model")
        name.click()
        names = table.evaluate("(t) => [...t.tBodies[0].rows].map((r) => r.cells[0].dataset.value)")
        assert names == sorted(names)
        quiet(visit, file)


def test_the_first_click_on_a_loss_or_a_cost_brings_the_lowest_to_the_top(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        table = page.locator("#leaderboard-table")
        for title in ("NLL", "ECE", "MACs"):
            button = table.locator("button.sort", has_text=title)
            button.click()
            assert button.locator("xpath=ancestor::th").get_attribute("aria-sort") == "ascending"
        assert page.locator("#said").inner_text() == "Sorted by MACs, ascending."


def tip_of(page: Any) -> str:
    """What the tooltip says; nothing while it is hidden."""
    tip = page.locator("#tip")
    return str(tip.inner_text()) if tip.is_visible() else ""


def test_a_term_is_explained_under_the_pointer_and_by_keyboard(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        term = page.locator("#chosen button.term", has_text="select").first
        words = page.locator("#term-select").inner_text()
        assert term.get_attribute("aria-describedby") == "term-select"  # a screen reader says it too
        term.hover()
        assert tip_of(page) == words
        page.mouse.move(1, 1)
        assert tip_of(page) == ""
        page.locator("#theme").focus()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('.term')"):
                break
        focused = page.evaluate("document.getElementById(document.activeElement.dataset.term).textContent")
        assert tip_of(page) == focused
        page.keyboard.press("Escape")
        assert tip_of(page) == ""
        page.locator("#leaderboard-table button.sort", has_text="ECE").hover()
        assert tip_of(page).startswith("Expected calibration error")
        box = page.locator("#tip").bounding_box()
        assert box["x"] + box["width"] <= DESKTOP[0]
        quiet(visit, file)


def test_a_finger_explains_a_term_on_a_phone_and_hides_it_elsewhere(file: Path) -> None:
    with browser_page(NARROW, offline=True) as visit:
        page = opened(visit, file)
        page.locator("#chosen button.term", has_text="MACs").first.tap()
        assert tip_of(page) == page.locator("#term-MACs").inner_text()
        box = page.locator("#tip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW[0]
        page.locator("#chosen-title").tap()
        assert tip_of(page) == ""


def test_a_candidate_that_was_scored_no_further_can_be_seen(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        mark = page.locator('#soup-1-steps path[aria-label*="at most 91.5"]')
        assert mark.count() == 1
        box = mark.bounding_box()
        assert box["width"] * box["height"] > 30  # pixels: filled, and not a stroke without a width


def test_on_paper_no_heading_or_caption_is_left_without_what_it_is_of(file: Path, tmp_path: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        page.emulate_media(media="print")
        of = "(names) => names.map(([at, key]) => getComputedStyle(document.querySelector(at))[key])"
        after = ["h2", "h3", "figcaption", "caption", "thead", "#leaderboard p", "#leaderboard-table tbody tr"]
        assert page.evaluate(of, [[at, "breakAfter"] for at in after]) == ["avoid"] * len(after)
        inside = ["figure", "#leaderboard-table tbody tr", ".facts > div"]
        assert page.evaluate(of, [[at, "breakInside"] for at in inside]) == ["avoid"] * len(inside)
        gone = ["nav", "#theme", "summary"]
        assert page.evaluate(of, [[at, "display"] for at in gone]) == ["none"] * len(gone)
        page.set_viewport_size({"width": 720, "height": 1000})  # A4 less its margins
        wide = (
            "[...document.querySelectorAll('.chart svg, table')].filter((s) => s.getBoundingClientRect().right > 721)"
        )
        assert page.evaluate(f"{wide}.map((s) => s.id || s.parentElement.parentElement.id)") == []
        paper = artifacts(tmp_path) / "report.pdf"
        page.pdf(path=paper, format="A4")
        assert paper.read_bytes().startswith(b"%PDF")


def test_what_is_not_known_stays_last_both_ways(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        table = page.locator("#leaderboard-table")
        gain = table.locator("button.sort", has_text="gain")
        for _ in range(2):
            gain.click()
            last = table.evaluate("(t) => [...t.tBodies[0].rows].at(-1).cells[3].dataset.value")
            assert last == ""


def test_the_button_turns_dark_and_back_and_charts_follow(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        button = page.get_by_role("button", name="Dark")
        look = (
            "() => [getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('#intervals .mark-symbol path')).fill]"
        )
        light = page.evaluate(look)
        assert light[0] == "rgb(255, 255, 255)"
        assert button.get_attribute("aria-pressed") == "false"
        button.press("Enter")
        dark = page.evaluate(look)
        assert button.get_attribute("aria-pressed") == "true"
        assert dark[0] == "rgb(21, 24, 29)"
        assert dark[1] != light[1]
        button.press("Enter")
        assert page.evaluate(look) == light
        quiet(visit, file)


def test_a_point_tells_the_pointer_and_the_screen_reader_what_it_is(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        chart = page.locator("#cost-1")
        inside = chart.locator("[role=graphics-document], [role=graphics-object]").first
        assert inside.count() == 1
        points = chart.locator("path[aria-label]")
        told = [points.nth(i).get_attribute("aria-label") for i in range(points.count())]
        assert sorted(t.split(",")[1].strip() for t in told) == ["cascade"] * 3 + ["ensemble"] + ["single"] * 2
        points.nth(1).scroll_into_view_if_needed()
        points.nth(1).hover()
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert told[1].split(",")[0] in tooltip.inner_text()
        box = tooltip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= DESKTOP[0]
        quiet(visit, file)


def test_a_curve_under_the_pointer_tells_its_run(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        chart = page.locator("#curves-loss")
        chart.scroll_into_view_if_needed()
        chart.locator('path[opacity="0"], path[style*="opacity: 0"]').last.hover(force=True)
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert "run_0" in tooltip.inner_text()
        assert "undefined" not in tooltip.inner_text()
        quiet(visit, file)


def test_the_first_stop_of_the_keyboard_skips_to_the_content_and_focus_is_seen(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        page.keyboard.press("Tab")
        focused = "() => document.activeElement.textContent.trim()"
        assert page.evaluate(focused) == "Skip to the content"
        assert page.locator(".skip").bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Tab")
        style = "() => getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(style) == "solid"


def test_charts_follow_a_window_that_becomes_narrow(file: Path) -> None:
    with browser_page(offline=True) as visit:
        page = opened(visit, file)
        page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
        page.wait_for_function("document.querySelector('#intervals svg').clientWidth <= 320")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_javascript_the_tables_are_still_there(file: Path) -> None:
    from playwright.sync_api import sync_playwright

    from tests.makers.browser import chromium

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(java_script_enabled=False)
        page.goto(file.as_uri())
        assert page.locator("#leaderboard-table tbody tr").count() == 9
        assert "Charts and sorting need JavaScript" in page.locator("main").inner_text()
        browser.close()


def test_a_matrix_of_twenty_classes_scrolls_on_a_phone_and_can_be_read(tmp_path: Path) -> None:
    labels = np.arange(60) % 20
    answers = Predictions.from_probs(np.eye(20)[labels] * 0.9 + 0.005, labels=labels)
    made = class_section(Choice((), "soup", answers, "report", "run_0", answers))
    assert made is not None
    file = tmp_path / "classes.html"
    file.write_text(to_html(Page("Classes", "", (made,))))
    with browser_page(NARROW, offline=True) as visit:
        page = opened(visit, file)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("(() => { const s = document.querySelector('.sideways'); return s.scrollWidth > 500; })()")
        assert page.locator("#confusion svg").bounding_box()["width"] > 500  # 20 columns of more than 15 pixels
        quiet(visit, file)
