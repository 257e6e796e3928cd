"""The judge: what a command must do with a file that somebody changed, and what counts as its answer."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from tests.attack.inputs import CANARY
from tests.attack.mutations import Mutation
from tests.attack.worker import Ended

# Ends that are right, then those that are not.
RIGHT = ("same answer", "refused", "named", "says less", "other answer")
Listing = dict[str, tuple[int, ...]]

# A value that is gone or another and is only shown, or was a choice that another valid value makes otherwise.
PLAIN = re.compile(
    r"Traceback|unexpected \w+: |out of memory|Nothing was left half-written; free space|Killed|core dumped"
)
UNREAD = (".png", ".lock", ".jsonl")  # pictures; journals hold keys that go by place and time
WARNING = re.compile(
    r"cannot|damaged|expected|unreadable|\bnot?\b|unusable|gone|left out|changed|error"
    r"|missing|lack|corrupt|truncated|again"
)
VOLATILE = re.compile(  # times, sizes, and fingerprints that go by times
    r"\d+(\.\d+)? ?s\b|in \d+|[\d.]+ rows/s|\d+ rows a second|\d{4}-\d\d-\d\d[T ][\d:.]+Z?|"
    r"\"(seconds|written|made|date|finished|fingerprint|weights|files)\": ?"
    r"[^,\n]+|[\d,.]+ (bytes|[kMG]?B)\b"
)


@dataclass(frozen=True)
class Verdict:
    """How a case ended, one of `RIGHT` or another word, and what shows it."""

    end: str
    why: str = ""

    @property
    def right(self) -> bool:
        """Whether it ended as it must."""
        return self.end in RIGHT


def listing(folder: Path) -> Listing:
    """Everything below a folder with what tells whether it was written to."""
    found: Listing = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        same = (about.st_ino, about.st_size, about.st_mtime_ns) if not stat.S_ISDIR(about.st_mode) else (0,)
        found[str(path.relative_to(folder))] = same
    return found


def answer(folder: Path, writes: Iterable[str], said: str) -> Mapping[str, str]:
    """What a command answered: what it printed, and what it wrote, but pictures, and what differs with the time."""
    here = str(folder)
    found = {} if writes else {"stdout": _words(said)}
    for at in writes:
        root = folder / at
        for path in [root, *sorted(root.rglob("*"))] if root.is_dir() else [root]:
            if path.is_file() and not path.is_symlink() and path.suffix not in UNREAD:
                found[str(path.relative_to(folder))] = _content(path)
    return {name: text.replace(here, "WORLD") for name, text in found.items()}


def _content(path: Path) -> str:
    data = path.read_bytes()
    try:
        return _read(path, data)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # the changed file itself
        return hashlib.sha256(data).hexdigest()


def _read(path: Path, data: bytes) -> str:
    if path.suffix in (".json", ".csv", ".md", ".html", ".txt", ".jsonl", ""):
        return _words(data.decode("utf-8", "backslashreplace"))
    if path.suffix == ".safetensors":
        return _tensors(data)
    if path.suffix == ".parquet":
        return "\n".join(map(str, pyarrow.parquet.read_table(path).to_pylist()))
    return hashlib.sha256(data).hexdigest()


def _tensors(data: bytes) -> str:
    """The header, in whatever order it was written, and what the tensors hold."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    spans = {name: entry.get("data_offsets") for name, entry in header.items() if name != "__metadata__"}
    body = data[8 + length :]
    tensors = {name: hashlib.sha256(body[begin:end]).hexdigest() for name, (begin, end) in spans.items()}
    return json.dumps([header.get("__metadata__"), tensors], sort_keys=True)


def _words(text: str) -> str:
    return VOLATILE.sub("~", text)


def judge(
    mutation: Mutation, names: Iterable[str], ended: Ended, before: Listing, after: Listing, writes: Iterable[str],
    usual: Mapping[str, str], found: Mapping[str, str],
) -> Verdict:  # fmt: skip
    """The verdict on one case.

    Args:
        mutation: what was done.
        names: what an error or a warning may call the changed file: it must use one of them.
        ended: how the command ended.
        before: everything in the folder, after the change.
        after: the same when the command had ended.
        writes: the paths that the command may write.
        usual: the answer where nothing is changed.
        found: the answer now.
    """
    harm = _harm(ended, before, after, writes)
    if harm is not None:
        return harm
    error = _error(ended.complained)
    if error is not None:
        return _refusal(mutation, names, error, ended.status)
    if _same(found, usual):
        return Verdict("same answer")
    if mutation.must == "stay the same":
        return Verdict("wrong answer", _difference(found, usual))
    if _is_named(names, "\n".join([ended.complained, ended.said, *found.values()]), "\n".join(usual.values())):
        return Verdict("named")
    if mutation.must == "say less" and _numbers(found) <= _numbers(usual):
        return Verdict("says less")
    if mutation.must == "end well":
        return Verdict("other answer")
    return Verdict("silently another answer", _difference(found, usual))


def _harm(ended: Ended, before: Listing, after: Listing, writes: Iterable[str]) -> Verdict | None:
    """What may never happen, whatever the file holds."""
    if ended.hung or ended.status in (-9, -24):
        return Verdict("hang", f"{ended.seconds:.0f} s of CPU")
    if ended.status < 0:
        return Verdict("killed", f"signal {-ended.status}")
    if any(Path(path).name == CANARY for path in after):
        return Verdict("code was run")
    outside = [p for p in {*before, *after} if before.get(p) != after.get(p) and not _within(p, writes)]
    if outside:
        return Verdict("written outside", ", ".join(sorted(outside)[:5]))
    broken = PLAIN.search(ended.complained)
    if broken:
        return Verdict("crash", ended.complained[-600:])
    return None


def _refusal(mutation: Mutation, names: Iterable[str], error: str, status: int) -> Verdict:
    if mutation.must == "stay the same":
        return Verdict("refused without need", error)
    if not any(name in error for name in names):
        return Verdict("error without the name", error)
    if status != 2 and "could not be written" not in error:  # by what lies where it is to be written
        return Verdict(f"status {status}", error)
    return Verdict("refused") if error.count("\n") < 12 else Verdict("long error", error)


def _within(path: str, writes: Iterable[str]) -> bool:
    name = Path(path).name
    return name.endswith(".lock") or any(path == w or path.startswith((f"{w}/", f"{w}.", f"{w}_")) for w in writes)


def _is_named(names: Iterable[str], told: str, usual: str) -> bool:
    """Whether a line that is not there usually says that something is wrong with the file."""
    new = set(told.splitlines()) - set(usual.splitlines())
    return any(WARNING.search(line) and any(name in line for name in names) for line in new)


def _error(said: str) -> str | None:
    """What ended the command, without the warnings before it."""
    found = list(re.finditer(r"^hf-soups: (?!warning: )", said, re.M))
    return said[found[-1].start() :].strip() if found else None


def _same(found: Mapping[str, str], usual: Mapping[str, str]) -> bool:
    return all(found.get(name) == value for name, value in usual.items()) and set(found) == set(usual)


def _numbers(answer: Mapping[str, str]) -> set[tuple[str, str]]:
    """Every measured number, by the file that it stands in."""
    return {(at, number) for at, text in answer.items() for number in re.findall(r"\d+\.\d+", text)}


def _difference(found: Mapping[str, str], usual: Mapping[str, str]) -> str:
    for name in sorted({*found, *usual}):
        a, b = usual.get(name, "(none)").splitlines(), found.get(name, "(none)").splitlines()
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            return f"{name}:{at}: {''.join(a[at : at + 1])[:150]!r} -> {''.join(b[at : at + 1])[:150]!r}"
    return json.dumps(None)
