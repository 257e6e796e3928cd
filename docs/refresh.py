"""Write what the documents take from the program: nothing of it is typed by hand.

python docs/refresh.py                                  # the reference pages, after a command or a recipe's key changed
make quickstart && python docs/refresh.py quickstart    # and what the quickstart printed
"""

import shutil
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

from floors import map_of_floors  # beside this script
from reference import commands_page, recipe_page
from rich.console import Console

from hf_soups import build_leaderboard
from hf_soups.pool_jobs import search_pool
from hf_soups.quickstart.run import RULE
from hf_soups.reporting.frontier_table import SearchTable

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
PICTURES = {"runs/leaderboard.png": "quickstart.png", "pictures/score_vs_cost.png": "quickstart-cascade.png"}


def rendered(what: object) -> str:
    """What the terminal shows, 124 columns wide."""
    console = Console(file=StringIO(), width=124, record=True)
    console.print(what)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()).strip("\n")


def put(page: Path, name: str, text: str, *, fence: str = "```") -> None:
    """Replace the block between its two marks on the page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    inside = f"{fence}text\n{text}\n{fence}" if fence else text
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{inside}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def without_runs(board: str) -> str:
    """A leaderboard as it was printed, with the single runs cut and counted."""
    head, runs, notes = board.split("\n\n")
    return f"{head}\n\n ... {len(runs.splitlines())} single runs\n\n{notes}"


def the_plan(search: str) -> str:
    """What a search printed, from its words on: without the frontier above them, and without where it was written."""
    lines = search.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Best single model"))
    last = next(i for i, line in enumerate(lines) if line.startswith("searched in"))
    return "\n".join(lines[first:last]).rstrip()


def main(job: Path | None) -> None:
    """Write the reference pages; of a quickstart's folder the blocks and pictures too."""
    pages = {"commands": commands_page(), "recipe": recipe_page()}
    for name, page in pages.items():
        (DOCS / f"{name}.md").write_text(page, encoding="utf-8")
    put(DOCS / "how-it-hangs-together.md", "floors", map_of_floors(), fence="")
    if job is None:
        return
    board = rendered(build_leaderboard(job / "runs").to_rich())
    found = search_pool(job / "preds" / "select", report=str(job / "preds" / "report"), **RULE)
    shown = Path("quickstart", "preds", "select", found.path.name)  # not where it was on this machine
    search = rendered(SearchTable(replace(found, path=shown)))
    put(README, "quickstart", without_runs(board))
    put(README, "cascade", the_plan(search))
    put(DOCS / "soups.md", "leaderboard", board)
    put(DOCS / "cascades.md", "search", search)
    for picture, name in PICTURES.items():
        shutil.copyfile(job / picture, DOCS / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
