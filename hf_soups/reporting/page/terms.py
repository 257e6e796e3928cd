"""The page's terms: each explained in a legend, and wherever a section or a table's heading meets it first."""

from __future__ import annotations

import re
from collections.abc import Iterator

TERMS = {
    "soup": "One model whose weights are the average of several fine-tuned ones. It costs as much as one of them.",
    "ensemble": "Several models that all answer; their answers are averaged. It costs as much as all of them together.",
    "cascade": "Models in a row: the cheap one answers first; only where it is not sure enough the next one answers.",
    "MACs": "Multiply-adds: multiplications with an addition that one answer takes. A cost that no machine changes.",
    "NLL": "Negative log-likelihood: how unlikely the model held the right answers. Lower is better.",
    "ECE": (
        "Expected calibration error: how far confidence is from accuracy, on average. At 0, of the answers given with "
        "90% confidence 90% are right. Lower is better."
    ),
    "select": "Validation rows: everything is chosen on them, so what was chosen scores too well there.",
    "report": "Test rows: not looked at when choosing, so scores on them can be believed.",
    "threshold": "How sure a cascade's member must be for its answer to be taken; below it the row goes on.",
    "exit": "The member at which a row leaves a cascade: the one whose answer was sure enough.",
    "interval": (
        "95% interval: where the score would mostly be if other rows of the same kind had been drawn. Where intervals "
        "overlap, a difference can be chance."
    ),
    "member": "One of the models that a cascade or an ensemble is made of.",
}
SAME = {"multiply-adds": "MACs", "report [95%]": "report", "exits at": "threshold"}
_WORDS = "|".join([*(t if t.isupper() or t == "MACs" else f"{t}s?" for t in TERMS), "[Mm]ultiply-adds"])
# not inside of a path, an option or another word
_FOUND = re.compile(rf"(?<![\w/.\-])({_WORDS})(?![\w/\-]|\.\w)")


def term_of(words: str) -> str:
    """The term that some words name; nothing where they name none.

    >>> term_of("thresholds"), term_of("multiply-adds"), term_of("train s")
    ('threshold', 'MACs', '')
    """
    known = {**{t.lower(): t for t in TERMS}, **SAME}
    low = words.lower()
    return known.get(low) or known.get(low.removesuffix("s")) or ""


def parts_of(words: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Pieces of a sentence, each with the term that it names; only a term's first place is marked, and joins `seen`.

    >>> list(parts_of("The soup is in soups/soup.", set()))
    [('The ', ''), ('soup', 'soup'), (' is in soups/soup.', '')]
    """
    at = 0
    for found in _FOUND.finditer(words):
        term = term_of(found.group())
        if term in seen:
            continue
        seen.add(term)
        if found.start() > at:
            yield words[at : found.start()], ""
        yield found.group(), term
        at = found.end()
    if at < len(words):
        yield words[at:], ""
