"""Put the quickstart's own output and picture into the README: no figure there is typed by hand.

make quickstart && python docs/refresh.py quickstart
"""

import shutil
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

from hf_soups import build_leaderboard

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- quickstart: begin -->", "<!-- quickstart: end -->"


def rendered(job: Path) -> str:
    """The leaderboard as the terminal shows it, 124 columns wide."""
    console = Console(file=StringIO(), width=124, record=True)
    console.print(build_leaderboard(job / "runs").to_rich())
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def main(job: Path) -> None:
    """Write the README's block and copy the picture."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n```text\n{rendered(job)}\n```\n{END}{after}")
    shutil.copyfile(job / "runs" / "leaderboard.png", ROOT / "docs" / "quickstart.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
