"""Provenance: what a search saw, by fingerprints of rows, answers and weights, to compare with what is there later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hf_soups.predictions import Predictions, same_rows


@dataclass(frozen=True, slots=True)
class MemberSeen:
    """One member as a search saw it; what was not known is empty."""

    answers: str  # `Predictions.fingerprint`
    weights: str = ""  # SHA-256 of its weight files
    files: str = ""  # of its config, tokenizer and processor


@dataclass(frozen=True, slots=True)
class Seen:
    """The rows of a pool, and its members' answers on them."""

    data: str  # fingerprint of the rows
    members: Mapping[str, MemberSeen] = field(default_factory=dict)

    @classmethod
    def of(cls, predictions: Mapping[str, Predictions]) -> Seen:
        """What the answers alone say, where no weights are recorded."""
        data = next((p.data for p in predictions.values()), "")
        return cls(data, {name: MemberSeen(p.fingerprint) for name, p in predictions.items()})


def changed(before: Seen, now: Seen, names: Iterable[str]) -> list[str]:
    """What differs between what a search saw and what is there now, in words; nothing where nothing does.

    Args:
        before: of the search.
        now: of the same members; others are not looked at.
        names: of the members that matter.

    >>> old, new = (Seen("rows", {"small": MemberSeen(answers)}) for answers in ("a", "b"))
    >>> changed(old, new, ["small"])
    ["'small' answered again since, with other answers"]
    """
    if before.data and now.data and not same_rows(before.data, now.data):
        return [f"its rows are others ({now.data} instead of {before.data})"]
    found = []
    for name in names:
        old, new = before.members.get(name), now.members.get(name)
        if old is None:
            continue
        if new is None:
            found.append(f"{name!r} is not there any more")
        elif old.answers != new.answers:
            found.append(f"{name!r} answered again since, with other answers")
        elif old.weights and new.weights and old.weights != new.weights:
            found.append(f"{name!r} has other weights now")
        elif old.files and new.files and old.files != new.files:
            found.append(f"{name!r} has another config, tokenizer or processor now")
    return found
