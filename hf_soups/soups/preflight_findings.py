"""What pre-flight finds: errors stop, warnings are printed, and what the user allowed is kept for soup.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Topic = str  # "architecture", "config", "tensors", "dtype", "labels", "processor", "head", "values", "run", ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not match: which checkpoint, and what to do about it."""

    checkpoint: str
    topic: Topic
    message: str


class Notes:
    """Findings as they are made."""

    def __init__(self, allowed: frozenset[Topic] = frozenset()) -> None:
        """Differences of the topics in `allowed` are no errors: the user said to go on."""
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []
        self.taken: dict[str, Any] = {}
        self._allowed = allowed

    def error(self, checkpoint: object, topic: Topic, message: str) -> None:
        """Note what stops."""
        self.errors.append(Finding(str(checkpoint), topic, message))

    def warn(self, checkpoint: object, topic: Topic, message: str) -> None:
        """Note what is printed, once."""
        finding = Finding(str(checkpoint), topic, message)
        if all(finding.message != known.message for known in self.warnings):
            self.warnings.append(finding)

    def differ(self, checkpoint: object, topic: Topic, refused: str, gone_on: str) -> None:
        """An error, or a warning in other words that soup.json keeps where the user said to go on."""
        if topic not in self._allowed:
            self.error(checkpoint, topic, refused)
            return
        self.warn(checkpoint, topic, gone_on)
        self.taken.setdefault("forced", []).append(gone_on)
