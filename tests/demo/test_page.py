"""The page in a real browser: upload, read, slide, type, a whole batch; nothing is asked from another machine."""

from __future__ import annotations

import csv
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_soups.demo import serve, space_files
from tests.demo.made import Demo, demo_of
from tests.makers.browser import DESKTOP, PHONE, Visit, artifacts, browser_page, pale_texts, screenshot
from tests.makers.patience import PATIENCE

pytestmark = pytest.mark.slow
SECONDS = 20_000  # as playwright counts: milliseconds
REPOSITORY = Path(__file__).parents[2]
# what a control without a name would look like to a screen reader
NAMELESS = re.compile(r"^\s*- (button|slider|textbox|spinbutton|tab)\s*(:.*)?$", re.MULTILINE)

Served = tuple[Demo, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """The page of a tiny cascade of a kind, with its rows as examples."""
    pages: dict[str, tuple[Served, Any]] = {}

    def one(kind: str) -> Served:
        if kind not in pages:
            folder = tmp_path_factory.mktemp(kind)
            made = demo_of(kind, folder)
            CALLED.append("")  # from here on
            page = serve(made.folder, examples=examples_of(made, folder), port=a_port(), wait=False, device="cpu")
            pages[kind] = (made, str(page.local_url)), page
        return pages[kind][0]

    yield one
    for _, page in pages.values():
        page.close(verbose=False)


def a_port() -> int:
    """One that no test beside this one is about to take."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and CALLED and isinstance(arguments[1], tuple):
        CALLED.append(str(arguments[1][0]))


CALLED: list[str] = []  # addresses that this process connected to since the first page
sys.addaudithook(_listen)


def examples_of(made: Demo, folder: Path) -> Path:
    if made.pool.kind == "image":
        chosen = folder / "examples"
        chosen.mkdir()
        for path in made.inputs:
            (chosen / path.name).write_bytes(path.read_bytes())
        return chosen
    lines = [" ||| ".join(i) if isinstance(i, tuple) else i for i in made.inputs]
    (folder / "examples.txt").write_text("\n".join(lines))
    return folder / "examples.txt"


def text_of(visit: Visit, place: str) -> str:
    return re.sub(r"\s+", " ", visit.page.locator(place).inner_text())


def wait_for(visit: Visit, place: str, text: str) -> str:
    """What stands at a place once it has this text."""
    visit.page.locator(place).get_by_text(text).first.wait_for(timeout=SECONDS)
    return text_of(visit, place)


def told_of(made: Demo, at: int) -> list[tuple[str, int, float]]:
    """Answer, exit and cost of every row under a plan, from the stored predictions."""
    names = ("bad", "fine", "good", "great")
    done = made.plans[at].apply(made.pool.predictions)
    assert done.exits is not None
    assert done.costs is not None
    answers = done.log_probs.argmax(axis=1).tolist()
    return [(names[a], e, c) for a, e, c in zip(answers, done.exits.tolist(), done.costs.tolist(), strict=True)]


def slide(visit: Visit, key: str) -> None:
    slider = visit.page.get_by_label("range slider for Budget")
    slider.focus()
    slider.press(key)


def test_an_uploaded_image_is_answered_and_the_budget_changes_cost_and_exit(
    served: Callable[[str], Served], tmp_path: Path
) -> None:
    made, url = served("image")
    dear, cheap = told_of(made, len(made.plans) - 1), told_of(made, 0)
    row = next(i for i, (_, exit, _) in enumerate(dear) if exit == 2)
    with browser_page(DESKTOP) as visit:
        visit.page.goto(url)
        visit.page.locator("#image input[type=file]").set_input_files(made.inputs[row])
        assert text_of(visit, "#plan").startswith(
            f"Plan {len(made.plans) - 1} of {len(made.plans)}, the one it was built"
        )
        wait_for(visit, "#result", "Answer")
        slide(visit, "End")
        said = wait_for(visit, "#result", "other-vit (member 3 of 3)")
        assert f"Answer {dear[row][0]} " in said
        assert "Cost 21 MACs Against other-vit for every input 131%: 31% more" in said
        wait_for(visit, "#plan", f"Plan {len(made.plans)} of {len(made.plans)}")
        visit.page.screenshot(path=artifacts(tmp_path) / "demo-image.png", full_page=True)
        slide(visit, "Home")
        said = wait_for(visit, "#result", "vit (member 1 of 1)")
        assert f"Answer {cheap[row][0]} " in said
        assert "Cost 1 MACs Against other-vit for every input 6%: 94% saved" in said
        screenshot(visit, "demo-light")
        assert pale_texts(visit) == []
        assert "vit alone" in wait_for(visit, "#plan", "Plan 1 of")
        assert (visit.elsewhere(), visit.errors) == ([], [])


def test_a_batch_of_images_says_exits_and_cost_against_always_the_last(
    served: Callable[[str], Served], tmp_path: Path
) -> None:
    made, url = served("image")
    built = told_of(made, len(made.plans) - 2)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image at all")
    with browser_page(PHONE, "dark") as visit:
        visit.page.goto(url)
        visit.page.get_by_role("tab", name="Many inputs").click()
        visit.page.get_by_role("button", name="Classify all").click()
        wait_for(visit, "#batch", "nothing to classify: give at least one input.")
        visit.page.locator("#images input[type=file]").set_input_files([*made.inputs[:5], broken])
        visit.page.locator("#images").get_by_text("broken").wait_for(timeout=SECONDS)
        visit.page.get_by_role("button", name="Classify all").click()
        said = wait_for(visit, "#batch", "Answered")
        assert "Answered 5 of 6" in said
        assert "broken.png cannot be read as an image" in said
        rows = visit.page.locator("#batch tbody tr").all_inner_texts()[:5]
        for path, (answer, exit, cost), cells in zip(made.inputs[:5], built[:5], rows, strict=True):
            assert cells.split("\t")[:2] == [path.name, answer]
            assert cells.split("\t")[3].startswith(f"{exit + 1}. ")
            assert cells.split("\t")[4].startswith(f"{cost:g} (")
        average = sum(cost for _, _, cost in built[:5]) / 5
        assert f"{average:.3g} MACs per example, {100 * average / 16:.0f}% of asking other-vit" in said
        visit.page.get_by_role("button", name="Classify the 24 examples").click()
        said = wait_for(visit, "#batch", "24 of 24")
        assert all(f"{100 * [e for _, e, _ in built].count(stage) / 24:.1f}%" in said for stage in range(3))
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= PHONE[0], "the page must not scroll sideways on a phone"
        visit.page.screenshot(path=artifacts(tmp_path) / "demo-batch-phone-dark.png", full_page=True)
        screenshot(visit, "demo-phone-dark")
        assert pale_texts(visit) == []
        assert visit.elsewhere() == []


def test_answers_of_a_batch_are_marked_old_have_thumbnails_and_can_be_downloaded(
    served: Callable[[str], Served], tmp_path: Path
) -> None:
    made, url = served("image")
    with browser_page(PHONE) as visit:
        visit.page.goto(url)
        visit.page.get_by_role("tab", name="Many inputs").click()
        visit.page.get_by_role("button", name="Classify the 24 examples").click()
        wait_for(visit, "#batch", "24 of 24")
        assert text_of(visit, "#batch-old") == ""
        shown = "image => image.complete && image.naturalWidth > 0"
        assert [image.evaluate(shown) for image in visit.page.locator("#batch tbody img").all()] == [True] * 24
        slide(visit, "Home")
        said = wait_for(visit, "#batch-old", "These answers are of plan")
        assert said == f"These answers are of plan {len(made.plans) - 1}. For plan 1, press the button again."
        with visit.page.expect_download() as download:
            visit.page.get_by_text("Download as CSV").click()
        download.value.save_as(tmp_path / "answers.csv")
        rows = list(csv.DictReader((tmp_path / "answers.csv").open()))
        assert [row["input"] for row in rows] == [path.name for path in made.inputs]
        assert [row["answer"] for row in rows] == [answer for answer, _, _ in told_of(made, len(made.plans) - 2)]
        screenshot(visit, "demo-phone-light")
        assert pale_texts(visit) == []
        visit.page.get_by_role("button", name="Classify the 24 examples").click()
        visit.page.wait_for_function("document.querySelector('#batch-old').innerText.trim() === ''", timeout=SECONDS)


def test_what_is_too_large_is_said_at_once(served: Callable[[str], Served], tmp_path: Path) -> None:
    _, url = served("image")
    Image.new("L", (12_000, 9_000)).save(tmp_path / "map.png")
    (tmp_path / "scan.png").write_bytes(bytes(21 * 2**20))
    with browser_page(DESKTOP, "dark") as visit:
        visit.page.goto(url)
        visit.page.locator("#image input[type=file]").set_input_files(tmp_path / "map.png")
        assert "it has 12,000 x 9,000 pixels" in wait_for(visit, "#result", "map.png cannot be read")
        screenshot(visit, "demo-dark")
        assert pale_texts(visit) == []
        visit.page.reload()
        visit.page.locator("#image input[type=file]").set_input_files(tmp_path / "scan.png")
        visit.page.get_by_text("exceed the maximum allowed size of 20.0 Mb").first.wait_for(timeout=SECONDS)


def test_a_broken_image_is_said_on_the_page_and_the_next_one_is_answered(
    served: Callable[[str], Served], tmp_path: Path
) -> None:
    made, url = served("image")
    broken = tmp_path / "holiday.png"
    broken.write_bytes(made.inputs[0].read_bytes()[:60])
    with browser_page() as visit:
        visit.page.goto(url)
        visit.page.locator("#image input[type=file]").set_input_files(broken)
        said = wait_for(visit, "#result", "cannot be read as an image")
        assert said.startswith("holiday.png")
        visit.page.get_by_label("Clear").or_(visit.page.get_by_label("Remove Image")).first.click()
        wait_for(visit, "#result", "Upload an image")
        visit.page.locator("#image input[type=file]").set_input_files(made.inputs[0])
        wait_for(visit, "#result", "Members asked")


def test_a_typed_text_is_answered_by_keyboard_alone(served: Callable[[str], Served], tmp_path: Path) -> None:
    made, url = served("text")
    built = told_of(made, len(made.plans) - 2)
    with browser_page() as visit:
        visit.page.goto(url)
        visit.page.get_by_label("Text", exact=True).focus()
        for text in ("", "   "):
            visit.page.keyboard.type(text)
            visit.page.get_by_role("button", name="Classify", exact=True).press("Enter")
            wait_for(visit, "#result", "nothing to classify: the text is empty")
        visit.page.get_by_label("Text", exact=True).fill("")
        visit.page.get_by_label("Text", exact=True).focus()
        visit.page.keyboard.type(made.inputs[1])
        visit.page.keyboard.press("Enter")
        said = wait_for(visit, "#result", "Members asked")
        assert f"Answer {built[1][0]} " in said
        assert f"(member {built[1][1] + 1} of 3)" in said
        visit.page.screenshot(path=artifacts(tmp_path) / "demo-text.png", full_page=True)
        screenshot(visit, "demo-text-light")
        assert pale_texts(visit) == []
        slide(visit, "Home")
        assert "Cost 1 MACs" in wait_for(visit, "#result", "bert (member 1 of 1)")
        assert not NAMELESS.findall(visit.page.locator("body").aria_snapshot())
        assert (visit.elsewhere(), visit.errors) == ([], [])


def test_pairs_are_typed_taken_from_examples_and_given_in_lines(served: Callable[[str], Served]) -> None:
    made, url = served("text-pair")
    built = told_of(made, len(made.plans) - 2)
    with browser_page(DESKTOP, "dark") as visit:
        visit.page.goto(url)
        visit.page.get_by_label("First text").fill(made.inputs[0][0])
        visit.page.get_by_role("button", name="Classify", exact=True).click()
        wait_for(visit, "#result", "a text of the pair is empty")
        visit.page.get_by_label("Second text").fill(made.inputs[0][1])
        visit.page.get_by_role("button", name="Classify", exact=True).click()
        assert f"Answer {built[0][0]} " in wait_for(visit, "#result", "Members asked")
        taken = next(i for i, (answer, _, _) in enumerate(built) if answer != built[0][0])
        visit.page.locator(f'[data-testid="dataset-cell-{taken}-0"]').click()
        assert f"Answer {built[taken][0]} " in wait_for(visit, "#result .hs-answer", built[taken][0])
        visit.page.get_by_role("tab", name="Many inputs").click()
        lines = visit.page.get_by_label("Pairs, one on a line")
        lines.fill("only one text")
        visit.page.get_by_role("button", name="Classify all").click()
        wait_for(visit, "#batch", "line 1: 'only one text' is no pair")
        lines.fill("\n".join(" ||| ".join(pair) for pair in made.inputs[:4]))
        visit.page.get_by_role("button", name="Classify all").click()
        wait_for(visit, "#batch", "4 of 4")
        rows = visit.page.locator("#batch tbody tr").all_inner_texts()
        assert [cells.split("\t")[1] for cells in rows] == [answer for answer, _, _ in built[:4]]
        screenshot(visit, "demo-pairs-dark")
        assert pale_texts(visit) == []


def answering(url: str, process: subprocess.Popen[str]) -> bool:
    for _ in range(300):
        if process.poll() is not None:
            return False
        try:
            return bool(urllib.request.urlopen(url, timeout=1).status == 200)
        except OSError:
            time.sleep(0.2)
    return False


def test_a_space_serves_the_cascade_in_its_own_folder(served: Callable[[str], Served], tmp_path: Path) -> None:
    made, _ = served("text")
    for name, text in space_files(made.folder).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "model").symlink_to(made.folder)
    port = a_port()
    app = tmp_path / "app.py"  # the Hub's own machine has port 7860 free
    app.write_text(app.read_text().replace("port=7860", f"port={port}").replace("0.0.0.0", "127.0.0.1"))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path, env=environment, text=True)
    try:
        assert answering(f"http://127.0.0.1:{port}/", process), f"app.py ended with {process.poll()}"
        with browser_page() as visit:
            visit.page.goto(f"http://127.0.0.1:{port}/")
            assert visit.page.get_by_role("heading", level=1).inner_text() == "my-cascade"
            visit.page.get_by_label("Text", exact=True).fill(made.inputs[0])
            visit.page.get_by_role("button", name="Classify", exact=True).click()
            wait_for(visit, "#result", "Members asked")
            assert visit.elsewhere() == []
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_the_server_calls_nobody_and_only_this_machine_reaches_it(served: Callable[[str], Served]) -> None:
    _, url = served("text")
    port = int(url.rstrip("/").rpartition(":")[2])
    listening = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {local.partition(":")[0] for local, _, state in listening if int(local.partition(":")[2], 16) == port
                 and state == "0A"}  # fmt: skip
    assert addresses == {"0100007F"}  # 127.0.0.1 alone
    assert urllib.request.urlopen(url, timeout=10).status == 200
    assert "127.0.0.1" in CALLED
    assert {address for address in CALLED if address} <= {"127.0.0.1", "::1"}
