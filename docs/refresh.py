"""Put the quickstart's own output and pictures into the README: no figure there is typed by hand.

make quickstart && python docs/refresh.py quickstart
"""

import shutil
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

from hf_soups import build_leaderboard
from hf_soups.from_pool import search_pool
from hf_soups.quickstart.two_sizes import RULE
from hf_soups.report.search import SearchTable

ROOT = Path(__file__).parent.parent
PICTURES = {"runs/leaderboard.png": "quickstart.png", "pictures/score_vs_cost.png": "quickstart-cascade.png"}


def rendered(what: object) -> str:
    """What the terminal shows, 124 columns wide."""
    console = Console(file=StringIO(), width=124, record=True)
    console.print(what)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()).strip("\n")


def put(readme: str, name: str, text: str) -> str:
    """The README with the block between its two marks replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = readme.split(begin)
    return f"{before}{begin}\n```text\n{text}\n```\n{end}{rest.split(end)[1]}"


def main(job: Path) -> None:
    """Write the README's blocks and copy the pictures."""
    readme = ROOT / "README.md"
    found = search_pool(job / "preds" / "select", report=str(job / "preds" / "report"), **RULE)
    text = put(readme.read_text(), "quickstart", rendered(build_leaderboard(job / "runs").to_rich()))
    readme.write_text(put(text, "cascade", rendered(SearchTable(found))))
    for picture, name in PICTURES.items():
        shutil.copyfile(job / picture, ROOT / "docs" / name)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
