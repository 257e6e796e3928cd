"""A small Hub on 127.0.0.1 that the unmodified client talks to: repositories in memory, with commits and branches.

It answers what a push and a pull ask for, says no as the Hub does (statuses, X-Error-Code), and misbehaves on request:
`hub.fail("POST", "/commit/", 503)` answers one such request with 503, `DROP` cuts the connection before anything is
done, `LOSE` does the work and cuts the connection instead of answering, and a function is called before the answer
is made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DROP, LOSE = "drop", "lose"
Fault = int | str | Callable[[], object]
LARGE = 10_000_000  # bytes from which a file is stored by LFS whatever it is called
KINDS = ("models", "datasets", "spaces")
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


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


@dataclass
class Repo:
    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)  # also pull requests: refs/pr/1

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        listed = json.dumps([len(self.commits), title, parent, [(p, b.oid) for p, b in sorted(files.items())]])
        made = Commit(hashlib.sha1(listed.encode()).hexdigest(), title, files, parent)
        self.commits.append(made)
        self.branches[branch] = made.oid
        return made

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision, revision)
        return next((c for c in self.commits if c.oid == oid), None)

    @property
    def titles(self) -> list[str]:
        """Of main's commits, newest first, without the one that created it."""
        found, at = [], self.at("main")
        while at is not None and at.parent is not None:
            found.append(at.title)
            at = self.at(at.parent)
        return found


class Refusal(Exception):
    def __init__(self, status: int, said: str, code: str | None = None) -> None:
        super().__init__(said)
        self.status, self.said, self.code = status, said, code


class Hub:
    """The server's state, which tests read and change."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, str]] = {"hf_write": ("me", "write"), "hf_read": ("me", "read")}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.stored: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.requests: list[str] = []  # "METHOD /path"
        self.faults: list[tuple[str, str, Fault]] = []
        self.lock = threading.RLock()
        self.url = ""

    def forget(self) -> None:
        """As if it had just been started."""
        for held in (self.repos, self.stored, self.requests, self.faults):
            held.clear()

    def fail(self, method: str, part: str, how: Fault, times: int = 1) -> None:
        self.faults += [(method, part, how)] * times

    def asked(self, method: str, part: str) -> int:
        return sum(r.startswith(f"{method} ") and part in r for r in self.requests)

    def repo(self, name: str, kind: str = "models") -> Repo:
        return self.repos[kind, name]

    def create(self, name: str, *, kind: str = "models", private: bool = False) -> Repo:
        repo = self.repos[kind, name] = Repo(name, private)
        repo.commit("main", "initial commit", {".gitattributes": Blob(ATTRIBUTES)})
        return repo

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault[0] == method and fault[1] in path:
                self.faults.remove(fault)
                return fault[2]
        return None


@dataclass(frozen=True)
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def json(value: Any, status: int = 200) -> Answer:
        return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Request:
    """One request; what answers it stands in `ROUTES`."""

    hub: Hub
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    @property
    def user(self) -> tuple[str, str] | None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and given not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(given)

    def values(self) -> Any:
        return json.loads(self.body or b"{}")

    def readable(self, kind: str | None, name: str) -> Repo:
        repo = self.hub.repos.get(((kind or "models").strip("/"), name))
        user = self.user
        if repo is None or (repo.private and (user is None or user[0] != name.split("/")[0])):
            # unknown and unseen look alike, and without a token both are a 401
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def may_write(self, owner: str) -> None:
        user = self.user
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user[1] != "write" or user[0] != owner:
            raise Refusal(403, f"You don't have the rights to write under {owner}")

    def writable(self, kind: str | None, name: str) -> Repo:
        repo = self.readable(kind, name)
        self.may_write(name.split("/")[0])
        return repo

    def commit_of(self, repo: Repo, revision: str) -> Commit:
        found = repo.at(unquote(revision))
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found


def whoami(request: Request) -> Answer:
    if request.user is None:
        raise Refusal(401, "Invalid username or password.")
    name, role = request.user
    token = {"displayName": "a token", "role": role}
    return Answer.json({"type": "user", "name": name, "auth": {"type": "access_token", "accessToken": token}})


def create_repo(request: Request) -> Answer:
    told = request.values()
    if request.user is None:
        raise Refusal(401, "Invalid username or password.")
    owner = told.get("organization") or request.user[0]
    request.may_write(owner)
    kind, name = f"{told.get('type') or 'model'}s", f"{owner}/{told['name']}"
    answer = {"url": f"{request.hub.url}/{'' if kind == 'models' else kind + '/'}{name}", "name": name}
    if (kind, name) in request.hub.repos:
        return Answer.json({**answer, "error": "You already created this repo"}, 409)
    request.hub.create(name, kind=kind, private=told.get("visibility") == "private" or bool(told.get("private")))
    return Answer.json(answer)


def validate_yaml(request: Request) -> Answer:
    import yaml

    head = re.match(r"---\n(.*?)\n---", request.values()["content"], re.DOTALL)
    try:
        yaml.safe_load(head[1] if head else "")
    except yaml.YAMLError as error:
        return Answer.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return Answer.json({"errors": [], "warnings": []})


def info(request: Request, kind: str, name: str, revision: str | None) -> Answer:
    repo = request.readable(kind, name)
    commit = request.commit_of(repo, revision or "main")
    files = [{"rfilename": path} for path in sorted(commit.files)]
    return Answer.json({"id": name, "sha": commit.oid, "private": repo.private, "siblings": files, "tags": []})


def refs(request: Request, kind: str, name: str) -> Answer:
    branches = request.readable(kind, name).branches
    listed = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": oid} for b, oid in branches.items()]
    return Answer.json({"branches": listed, "converts": [], "tags": [], "pullRequests": []})


def tree(request: Request, kind: str, name: str, revision: str, under: str | None) -> Answer:
    commit = request.commit_of(request.readable(kind, name), revision)
    prefix = f"{unquote(under)}/" if under else ""
    inside = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
    if prefix and not inside:
        raise Refusal(404, f"{under} does not exist", "EntryNotFound")
    recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
    folders = {prefix + path.removeprefix(prefix).split("/")[0] for path in inside if "/" in path.removeprefix(prefix)}
    shown = [b.entry(p) for p, b in sorted(inside.items()) if recursive or "/" not in p.removeprefix(prefix)]
    return Answer.json(
        [*({"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in sorted(folders)), *shown]
    )


def paths_info(request: Request, kind: str, name: str, revision: str) -> Answer:
    commit = request.commit_of(request.readable(kind, name), revision)
    asked = parse_qs(request.body.decode()).get("paths") if request.body[:1] != b"{" else request.values()["paths"]
    return Answer.json([commit.files[path].entry(path) for path in asked or () if path in commit.files])


def create_branch(request: Request, kind: str, name: str, branch: str) -> Answer:
    repo = request.writable(kind, name)
    if unquote(branch) in repo.branches:
        raise Refusal(409, "Reference already exists")
    repo.branches[unquote(branch)] = request.commit_of(repo, request.values().get("startingPoint", "main")).oid
    return Answer.json({})


def preupload(request: Request, kind: str, name: str, revision: str) -> Answer:
    repo = request.writable(kind, name)
    there = request.commit_of(repo, revision).files
    ignored = there[".gitignore"].data.decode().split() if ".gitignore" in there else []

    def told(path: str, size: int) -> dict[str, Any]:
        blob = there.get(path)
        mode = "lfs" if path.endswith(".safetensors") or size >= LARGE else "regular"
        oid = None if blob is None else blob.sha256 if blob.lfs else blob.oid
        return {"path": path, "uploadMode": mode, "shouldIgnore": path in ignored, "oid": oid}

    return Answer.json({"files": [told(file["path"], file["size"]) for file in request.values()["files"]]})


def lfs_batch(request: Request, kind: str | None, name: str) -> Answer:
    request.writable(kind, name)

    def told(oid: str, size: int) -> dict[str, Any]:
        if oid in request.hub.stored:
            return {"oid": oid, "size": size}
        upload = {"href": f"{request.hub.url}/lfs/{oid}", "header": {}}
        verify = {"href": f"{request.hub.url}/{kind or ''}{name}.git/info/lfs/verify", "header": {}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    objects = [told(thing["oid"], thing["size"]) for thing in request.values()["objects"]]
    return Answer.json({"transfer": "basic", "objects": objects})


def lfs_upload(request: Request, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "the content has another hash than its name")
    request.hub.stored[oid] = request.body
    return Answer()


def lfs_verify(request: Request, kind: str | None, name: str) -> Answer:
    request.writable(kind, name)
    told = request.values()
    if len(request.hub.stored.get(told["oid"], b"")) != told["size"]:
        raise Refusal(404, "no such object of that size")
    return Answer.json({})


def commit(request: Request, kind: str, name: str, revision: str) -> Answer:
    repo = request.writable(kind, name)
    branch = unquote(revision)
    now = request.commit_of(repo, revision)
    files, title = dict(now.files), ""
    for line in request.body.decode().splitlines():
        told = json.loads(line)
        value = told["value"]
        if told["key"] == "header":
            title = value["summary"]
            if value.get("parentCommit", now.oid) != now.oid:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        elif told["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif told["key"] == "lfsFile":
            if value["oid"] not in request.hub.stored:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            files[value["path"]] = Blob(request.hub.stored[value["oid"]], lfs=True)
        elif told["key"] == "deletedFile":
            del files[value["path"]]
    pulls, asked = sum(b.startswith("refs/pr/") for b in repo.branches), "create_pr" in request.query
    if asked:
        branch = f"refs/pr/{pulls + 1}"
        repo.branches[branch] = now.oid
    made = repo.commit(branch, title, files)
    at = f"{request.hub.url}/{name}"
    pull = f"{at}/discussions/{pulls + 1}" if asked else None
    return Answer.json({"commitUrl": f"{at}/commit/{made.oid}", "commitOid": made.oid, "pullRequestUrl": pull})


def resolve(request: Request, kind: str | None, name: str, revision: str, path: str) -> Answer:
    found = request.commit_of(request.readable(kind, name), revision)
    blob = found.files.get(unquote(path))
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    headers = {
        "ETag": f'"{blob.sha256 if blob.lfs else blob.oid}"',
        "X-Repo-Commit": found.oid,
        "Accept-Ranges": "bytes",
    }
    start = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
    if start is None:
        return Answer(blob.data, 200, headers)
    first = int(start[1])
    span = f"bytes {first}-{len(blob.data) - 1}/{len(blob.data)}"
    return Answer(blob.data[first:], 206, {**headers, "Content-Range": span})


_API = rf"/api/({'|'.join(KINDS)})/([^/]+/[^/]+)"
_HOME = r"/(datasets/|spaces/)?([^/]+/[^/]+)"
ROUTES = [
    (method, re.compile(pattern), answer)
    for method, pattern, answer in (
        ("GET", r"/api/whoami-v2", whoami),
        ("POST", r"/api/repos/create", create_repo),
        ("POST", r"/api/validate-yaml", validate_yaml),
        ("GET", rf"{_API}(?:/revision/([^/]+))?", info),
        ("GET", rf"{_API}/refs", refs),
        ("GET", rf"{_API}/tree/([^/]+)(?:/(.+))?", tree),
        ("POST", rf"{_API}/paths-info/([^/]+)", paths_info),
        ("POST", rf"{_API}/branch/([^/]+)", create_branch),
        ("POST", rf"{_API}/preupload/([^/]+)", preupload),
        ("POST", rf"{_API}/commit/([^/]+)", commit),
        ("POST", rf"{_HOME}\.git/info/lfs/objects/batch", lfs_batch),
        ("POST", rf"{_HOME}\.git/info/lfs/verify", lfs_verify),
        ("PUT", r"/lfs/([0-9a-f]{64})", lfs_upload),
        ("GET", rf"{_HOME}/resolve/([^/]+)/(.+)", resolve),
    )
]


def answer_to(request: Request) -> Answer:
    # HEAD is GET without the body
    method = "GET" if request.method == "HEAD" else request.method
    try:
        for wanted, pattern, handler in ROUTES:
            match = pattern.fullmatch(request.path)
            if wanted == method and match:
                with request.hub.lock:
                    return handler(request, *match.groups())
        raise Refusal(404, f"this Hub does not know {request.method} {request.path}")
    except Refusal as refusal:
        headers = {"X-Error-Message": refusal.said, **({"X-Error-Code": refusal.code} if refusal.code else {})}
        return Answer(json.dumps({"error": refusal.said}).encode(), refusal.status, headers)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, the second waits 40 ms for the first one's receipt
    hub: Hub

    def answer(self) -> None:
        parts = urlsplit(self.path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {parts.path}")
            fault = self.hub.take_fault(self.command, parts.path)
        if fault == DROP:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            return self.cut()
        request = Request(self.hub, self.command, parts.path, parse_qs(parts.query), self.headers, self.read())
        if isinstance(fault, int):
            return self.send(Answer.json({"error": "as the test asked"}, fault))
        if callable(fault):
            fault()
        answer = answer_to(request)
        return self.cut() if fault == LOSE else self.send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests read `hub.requests`."""


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that listens on a free port until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
