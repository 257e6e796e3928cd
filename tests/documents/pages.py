"""Pages as a test reads them: code blocks, their commands, and what the page's source says of them in comments."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
MARK = re.compile(r"<!-- (given|not run): (.*?) -->")
TOKEN = re.compile(rf"{MARK.pattern}|^```(\w*)\n(.*?)^```", flags=re.S | re.M)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of code; `not_run` says why a test leaves it out, as the page's source does."""

    page: str
    language: str
    text: str
    not_run: str = ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line of a shell block, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        # a # within a word, as in frontier.json#3, begins no comment: shlex would take it for one
        return [words for line in lines if (words := shlex.split(re.sub(r"(^|\s)#.*", "", line)))]


def blocks(page: Path) -> list[Block]:
    """The page's blocks of code in order; a `not run` comment is about the next one."""
    found, reason = [], ""
    for match in TOKEN.finditer(page.read_text(encoding="utf-8")):
        kind, said, language, text = match.groups()
        if kind:
            reason = said if kind == "not run" else reason
            continue
        found.append(Block(page.name, language, text, reason))
        reason = ""
    return found


def given(page: Path) -> list[str]:
    """The results of other pages that this one takes as given."""
    return [
        name
        for kind, said in MARK.findall(page.read_text(encoding="utf-8"))
        if kind == "given"
        for name in said.split()
    ]
