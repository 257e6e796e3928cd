"""What the Hub of the tests keeps: repositories in memory, with commits, branches and tags, and whose they are."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KINDS = ("models", "datasets", "spaces")
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.parquet filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """Git's name: of a file by LFS, that of its pointer."""
        stored = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    @property
    def etag(self) -> str:
        return f'"{self.sha256 if self.lfs else self.oid}"'

    def entry(self, path: str) -> dict[str, Any]:
        told = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        about = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return {**told, "lfs": about} if self.lfs else told


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]
    parent: str | None

    @property
    def folders(self) -> dict[str, dict[str, Any]]:
        """Every folder on the way to a file, as the Hub lists it."""
        paths = {path.rsplit("/", depth + 1)[0] for path in self.files for depth in range(path.count("/"))}
        named = {path: hashlib.sha1(f"{self.oid} {path}".encode()).hexdigest() for path in sorted(paths)}
        return {path: {"type": "directory", "path": path, "oid": oid, "size": 0} for path, oid in named.items()}


@dataclass
class Repo:
    name: str
    private: bool
    kind: str = "models"
    gated: bool = False  # shown to everyone, its files to its owner alone
    sdk: str | None = None  # of a Space
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)  # also pull requests: refs/pr/1
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    @property
    def at_url(self) -> str:
        """Its path under the Hub's address."""
        return self.name if self.kind == "models" else f"{self.kind}/{self.name}"

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        listed = json.dumps([len(self.commits), title, parent, [(p, b.oid) for p, b in sorted(files.items())]])
        made = Commit(hashlib.sha1(listed.encode()).hexdigest(), title, files, parent)
        self.commits.append(made)
        self.branches[branch] = made.oid
        return made

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision, revision)
        return next((c for c in self.commits if c.oid == oid), None)

    @property
    def titles(self) -> list[str]:
        """Of main's commits, newest first, without the one that created it."""
        found, at = [], self.at("main")
        while at is not None and at.parent is not None:
            found.append(at.title)
            at = self.at(at.parent)
        return found


@dataclass(frozen=True)
class Answer:
    """What is sent back; as a fault, it is sent instead of doing anything."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def json(value: Any, status: int = 200) -> Answer:
        return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Altered:
    """A fault that changes the bytes of an answer, as a broken proxy or disk does; its headers tell of the right ones
    as long as the length stays.
    """

    change: Callable[[bytes], bytes]


DROP, LOSE, TORN = "drop", "lose", "torn"
Fault = int | str | Answer | Altered | Callable[[], object]


class Hub:
    """The server's state, which tests read and change."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, str]] = {
            "hf_write": ("me", "write"), "hf_read": ("me", "read"), "hf_other": ("you", "write"),
        }  # fmt: skip
        self.repos: dict[tuple[str, str], Repo] = {}
        self.stored: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.requests: list[str] = []  # "METHOD /path"
        self.faults: list[tuple[str, str, Fault]] = []
        self.lock = threading.RLock()
        self.url = ""
        self.storage = ""  # where large files lie: another host, which must not see tokens

    def forget(self) -> None:
        """As if it had just been started."""
        for held in (self.repos, self.stored, self.requests, self.faults):
            held.clear()

    def fail(self, method: str, part: str, how: Fault, times: int = 1) -> None:
        """The next `times` requests of this method whose path holds `part` meet a fault.

        A status is answered; `DROP` cuts the connection before anything is done, half-way through the request's body;
        `LOSE` does the work and cuts the connection instead of answering; `TORN` cuts it half-way through the answer;
        an `Answer` is sent as it is; `Altered` changes the bytes of the answer; a function is called before the answer
        is made.
        """
        self.faults += [(method, part, how)] * times

    def asked(self, method: str, part: str) -> int:
        return sum(r.startswith(f"{method} ") and part in r for r in self.requests)

    def repo(self, name: str, kind: str = "models") -> Repo:
        return self.repos[kind, name]

    def create(self, name: str, *, kind: str = "models", private: bool = False, sdk: str | None = None) -> Repo:
        repo = self.repos[kind, name] = Repo(name, private, kind, sdk=sdk)
        repo.commit("main", "initial commit", {".gitattributes": Blob(ATTRIBUTES)})
        return repo

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault[0] == method and fault[1] in path:
                self.faults.remove(fault)
                return fault[2]
        return None
