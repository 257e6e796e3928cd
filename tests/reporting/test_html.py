"""The file itself: it loads nothing, what strangers wrote stays text, and everyone can read it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import itertools
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.errors import InputError, MissingExtra
from hf_soups.reporting.page import html as rendering
from hf_soups.reporting.page import page_for, report
from hf_soups.reporting.page.charts import LOOKS
from hf_soups.reporting.page.html import Block, Cell, Fact, Page, Section, page_table, to_html
from tests.reporting.made import HOSTILE, write_sweep

HERE = Path(rendering.__file__).parent
EMPTY = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")


class Elements(HTMLParser):
    """All elements with their attributes, the text inside each script and style, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.unbalanced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            self.raw.append((self._open[-1], self.found[-1][1], data))
        else:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [about for name, about in self.found if name == tag]


@pytest.fixture(scope="module")
def elements(html: str) -> Elements:
    return Elements(html)


def test_there_is_one_h1_and_no_level_is_skipped(elements: Elements) -> None:
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_tags_are_balanced(elements: Elements) -> None:
    assert elements.unbalanced == []


def test_no_address_leads_out_of_the_file(elements: Elements) -> None:
    loading = ("src", "href", "action", "data", "poster", "srcset", "background", "formaction", "xlink:href")
    targets = [about[name] or "" for _, about in elements.found for name in loading if name in about]
    assert targets
    assert [t for t in targets if not t.startswith(("#", "data:image/"))] == []
    assert "@import" not in (HERE / "page.css").read_text()
    assert "url(" not in (HERE / "page.css").read_text()


def test_the_policy_allows_the_scripts_and_the_style_of_the_file_and_nothing_else(elements: Elements) -> None:
    (policy,) = [m["content"] for m in elements.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    told = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert told["default-src"] == ["'none'"]
    run = [text for tag, about, text in elements.raw if tag == "script" and about.get("type") != "application/json"]
    styles = [text for tag, _, text in elements.raw if tag == "style"]
    for name, texts in (("script-src", run), ("style-src", styles)):
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert told[name] == [f"'sha256-{found}'" for found in hashes]
    assert "unsafe" not in policy
    assert told["img-src"] == ["data:"]


def test_nothing_runs_or_is_styled_outside_of_the_policy(elements: Elements) -> None:
    inline = [name for _, about in elements.found for name in about if name.startswith("on") or name == "style"]
    assert inline == []


def test_ids_are_unique_and_every_reference_has_its_element(elements: Elements) -> None:
    ids = [about["id"] for _, about in elements.found if "id" in about]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    told = [about.get(name) for _, about in elements.found for name in ("aria-labelledby", "data-spec")]
    links = [(about["href"] or "#")[1:] for about in elements.all("a")]
    assert [name for name in [*filter(None, told), *links] if name not in ids] == []


def test_landmarks_and_the_skip_link_are_there(elements: Elements) -> None:
    assert [len(elements.all(tag)) for tag in ("main", "header", "footer", "nav")] == [1, 1, 1, 1]
    assert elements.all("nav")[0]["aria-label"]
    assert elements.all("a")[0]["href"] == "#main"
    assert elements.all("html")[0]["lang"] == "en"
    assert all(section["aria-labelledby"] for section in elements.all("section"))


def test_sorting_is_by_buttons_in_headings_that_say_their_state(elements: Elements) -> None:
    columns = [about for about in elements.all("th") if about.get("scope") == "col"]
    buttons = [b for b in elements.all("button") if b.get("class") == "sort"]
    assert len(columns) == len(buttons) > 0
    assert {about["aria-sort"] for about in columns} == {"none"}
    assert len(elements.all("caption")) == len(elements.all("table"))


def test_every_chart_has_words_and_a_table_of_its_numbers(page: Page, elements: Elements) -> None:
    specs = [json.loads(text) for _, about, text in elements.raw if about.get("type") == "application/json"]
    assert len(specs) == len(page.charts) == 13
    for chart, spec in zip(page.charts, specs, strict=True):
        assert spec["description"] == chart.text
        assert len(chart.text) > len(chart.title)
        assert chart.table.rows
    assert len(elements.all("figure")) == len(elements.all("figcaption")) == len(page.charts)


def test_images_have_alternatives() -> None:
    from hf_soups.reporting.page.html import Example, Examples

    shown = Example("row 3", "cat (99%)", "cat", True, image="data:image/png;base64,AA==", size=(8, 8))
    block = Block(examples=(Examples("Exit 1", "", (shown,)),))
    (image,) = Elements(to_html(Page("t", "", (Section("s", "S", (block,)),)))).all("img")
    assert image["alt"] == "The image of row 3"


def test_what_strangers_wrote_stays_text(html: str, elements: Elements) -> None:
    assert elements.all("img") == []
    assert HOSTILE not in html
    assert "</script><" not in re.sub(r"(?m)</script>$", "", html)
    shown = "".join(elements.words)
    assert f"the loss was NaN {HOSTILE}" in shown
    assert f": {HOSTILE}" in shown
    assert any(HOSTILE in json.dumps(json.loads(t)) for _, a, t in elements.raw if a.get("type") == "application/json")


@pytest.mark.parametrize("text", [HOSTILE, "{{ 7 * 7 }}", '" onmouseover="x', "&amp;", "a\u2028b", "<!-- --><b>"])
def test_any_text_in_any_place_is_shown_as_it_is(text: str) -> None:
    def made(text: str) -> Elements:
        table = page_table("t", text, (text, text), [[Cell.words(text), Cell.words(text)]])
        block = Block(text, words=(text,), facts=(Fact(text, text, text),), table=table, listed=(text,))
        return Elements(to_html(Page(text, text, (Section("s", text, (block,)),))))

    hostile, plain = made(text), made("x")
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert hostile.words.count(text) == plain.words.count("x")


def test_two_reports_of_the_same_files_are_the_same_bytes(everything: Path, html: str) -> None:
    assert to_html(page_for([everything], resamples=100)) == html


def test_a_page_without_charts_carries_no_chart_code(everything: Path) -> None:
    text = to_html(Page("t", "", (Section("s", "S", (Block(words=("nothing",)),)),)))
    assert len(text) < 50_000
    assert "vegaEmbed =" not in text


def test_what_is_not_known_sorts_as_nothing() -> None:
    table = page_table("t", "c", ("a", "b"), [[Cell("x", "x"), Cell("nan", float("nan"))], [Cell("-"), Cell("1", 1.0)]])
    made = Elements(to_html(Page("t", "", (Section("s", "S", (Block(table=table),)),))))
    told = [about["data-value"] for _, about in made.found if "data-value" in about]
    assert told == ["x", "", "", "1.0"]


def colours() -> dict[str, tuple[str, str]]:
    """The colours of page.css by name: for light and for dark."""
    css = (HERE / "page.css").read_text()
    return {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", css)}


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2 of two colours such as #0072b2, from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_marks_stand_out_from_what_is_behind_them(scheme: int) -> None:
    known = {name: both[scheme] for name, both in colours().items()}
    for behind in ("surface", "raised"):
        for text in ("ink", "soft", "link", "bad", "green"):
            assert contrast(known[text], known[behind]) >= 4.5, (text, behind)  # WCAG 1.4.3
    for mark in ("blue", "vermilion", "green", "purple", "grey"):
        assert contrast(known[mark], known["surface"]) >= 3, mark  # WCAG 1.4.11


def test_every_colour_of_a_chart_is_one_of_the_page(page: Page) -> None:
    used = set(re.findall(r"var\(--(\w+)\)", json.dumps([chart.spec for chart in page.charts])))
    assert used
    assert used <= set(colours())


def test_kinds_are_told_apart_without_colour() -> None:
    drawn_together = [
        ["run", "best on select"],  # of one shape, since the best is one of the runs; its name stands beside it
        ["single", "soup", "ensemble", "cascade"],
    ]
    assert len({LOOKS[kind][1] for kind in drawn_together[1]}) == 4
    assert LOOKS["run"][1] == LOOKS["best on select"][1]


def test_an_existing_file_is_not_replaced_unasked_and_never_if_it_is_no_report(
    everything: Path, tmp_path: Path
) -> None:
    folder, out = everything / "my-cascade", tmp_path / "report.html"
    report([folder], out)
    first = out.read_bytes()
    with pytest.raises(InputError, match=r"report\.html exists already.*`overwrite=True`"):
        report([folder], out)
    assert out.read_bytes() == first
    report([folder], out, title="Another", overwrite=True)
    assert b"<title>Another</title>" in out.read_bytes()
    other = tmp_path / "thesis.html"
    other.write_text("<html>")
    with pytest.raises(InputError, match="is no report of hf_soups, so it is not replaced"):
        report([folder], other, overwrite=True)
    with pytest.raises(InputError, match="is a folder"):
        report([folder], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "thesis.html"]


def test_without_the_extra_it_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name == "vl_convert" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(
        MissingExtra, match=r'vl_convert, which is not installed. Run: pip install "hf_soups\[report\]"'
    ):
        report([tmp_path / "not looked at"], tmp_path / "report.html")


def test_the_command_writes_the_report(tmp_path: Path) -> None:
    sweep, out = write_sweep(tmp_path / "runs"), tmp_path / "out" / "r.html"
    done = CliRunner().invoke(app, ["report", str(sweep), "--out", str(out), "--resamples", "10", "--title", "Mine"])
    assert done.exit_code == 0, done.output
    assert "wrote" in done.output
    assert "<title>Mine</title>" in out.read_text()
