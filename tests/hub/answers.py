"""What the Hub of the tests answers to each request, and what it refuses: with the Hub's own statuses and codes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from tests.hub.repos import KINDS, Answer, Blob, Commit, Hub, Repo

LARGE = 10_000_000  # bytes from which a file is stored by LFS whatever it is called
LFS_SUFFIXES = (".safetensors", ".parquet")
SDKS = ("gradio", "docker", "static")


class Refusal(Exception):
    def __init__(self, status: int, said: str, code: str | None = None) -> None:
        super().__init__(said)
        self.status, self.said, self.code = status, said, code

    @property
    def answer(self) -> Answer:
        headers = {"X-Error-Message": self.said, **({"X-Error-Code": self.code} if self.code else {})}
        return Answer(json.dumps({"error": self.said}).encode(), self.status, headers)


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

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")

    def readable(self, kind: str | None, name: str) -> Repo:
        repo = self.hub.repos.get(((kind or "models").strip("/"), name))
        user = self.user
        if repo is None or (repo.private and (user is None or user[0] != repo.owner)):
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
        self.may_write(repo.owner)
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
    if kind == "spaces" and told.get("sdk") not in SDKS:
        raise Refusal(400, f"a Space needs an sdk, one of {', '.join(SDKS)}")
    exists = (kind, name) in request.hub.repos
    if not exists:
        private = told.get("visibility") == "private" or bool(told.get("private"))
        request.hub.create(name, kind=kind, private=private, sdk=told.get("sdk"))
    answer = {"url": f"{request.hub.url}/{request.hub.repo(name, kind).at_url}", "name": name}
    return Answer.json(
        {**answer, "error": "You already created this repo"} if exists else answer, 409 if exists else 200
    )


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
    about = {"id": name, "sha": commit.oid, "private": repo.private, "gated": repo.gated and "auto", "tags": []}
    return Answer.json({**about, "siblings": files, **({"sdk": repo.sdk} if repo.sdk else {})})


def refs(request: Request, kind: str, name: str) -> Answer:
    repo = request.readable(kind, name)

    def listed(under: str, found: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": n.removeprefix("refs/"), "ref": n if n.startswith("refs/") else f"{under}{n}", "targetCommit": oid}
            for n, oid in found.items()
        ]

    pulls = {name: oid for name, oid in repo.branches.items() if name.startswith("refs/pr/")}
    plain = {name: oid for name, oid in repo.branches.items() if name not in pulls}
    told = {"branches": listed("refs/heads/", plain), "converts": [], "tags": listed("refs/tags/", repo.tags)}
    return Answer.json({**told, "pullRequests": listed("", pulls) if request.flag("include_prs") else []})


def tree(request: Request, kind: str, name: str, revision: str, under: str | None) -> Answer:
    commit = request.commit_of(request.readable(kind, name), revision)
    prefix = f"{unquote(under)}/" if under else ""
    entries = {**commit.folders, **{path: blob.entry(path) for path, blob in sorted(commit.files.items())}}
    inside = {path: entry for path, entry in entries.items() if path.startswith(prefix)}
    if prefix and not inside:
        raise Refusal(404, f"{under} does not exist", "EntryNotFound")
    recursive = request.flag("recursive")
    return Answer.json([e for path, e in inside.items() if recursive or "/" not in path.removeprefix(prefix)])


def paths_info(request: Request, kind: str, name: str, revision: str) -> Answer:
    commit = request.commit_of(request.readable(kind, name), revision)
    asked = parse_qs(request.body.decode()).get("paths") if request.body[:1] != b"{" else request.values()["paths"]
    found = {**commit.folders, **{path: blob.entry(path) for path, blob in commit.files.items()}}
    return Answer.json([found[path] for path in asked or () if path in found])


def create_branch(request: Request, kind: str, name: str, branch: str) -> Answer:
    repo = request.writable(kind, name)
    if unquote(branch) in repo.branches:
        raise Refusal(409, "Reference already exists")
    repo.branches[unquote(branch)] = request.commit_of(repo, request.values().get("startingPoint", "main")).oid
    return Answer.json({})


def create_tag(request: Request, kind: str, name: str, revision: str) -> Answer:
    repo, tag = request.writable(kind, name), request.values()["tag"]
    if tag in repo.tags:
        raise Refusal(409, "Reference already exists")
    repo.tags[tag] = request.commit_of(repo, revision).oid
    return Answer.json({})


def preupload(request: Request, kind: str, name: str, revision: str) -> Answer:
    repo = request.writable(kind, name)
    there = request.commit_of(repo, revision).files
    ignored = there[".gitignore"].data.decode().split() if ".gitignore" in there else []

    def told(path: str, size: int) -> dict[str, Any]:
        blob = there.get(path)
        mode = "lfs" if path.endswith(LFS_SUFFIXES) or size >= LARGE else "regular"
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
    title, files = _changed(request, now)
    pulls, asked = sum(b.startswith("refs/pr/") for b in repo.branches), "create_pr" in request.query
    if asked:
        branch = f"refs/pr/{pulls + 1}"
        repo.branches[branch] = now.oid
    made = repo.commit(branch, title, files)
    at = f"{request.hub.url}/{repo.at_url}"
    pull = f"{at}/discussions/{pulls + 1}" if asked else None
    return Answer.json({"commitUrl": f"{at}/commit/{made.oid}", "commitOid": made.oid, "pullRequestUrl": pull})


def _changed(request: Request, now: Commit) -> tuple[str, dict[str, Blob]]:
    """The title, and all files after the operations that the body lists."""
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
        elif told["key"] == "deletedFolder":
            files = {path: blob for path, blob in files.items() if not path.startswith(f"{value['path'].strip('/')}/")}
    return title, files


def resolve(request: Request, kind: str | None, name: str, revision: str, path: str) -> Answer:
    """A small file itself; of a large one its hash, its size and the way to the storage, which needs no token."""
    repo = request.readable(kind, name)
    if repo.gated and (request.user is None or request.user[0] != repo.owner):
        raise Refusal(401 if request.user is None else 403, f"Access to {name} is restricted.", "GatedRepo")
    found = request.commit_of(repo, revision)
    blob = found.files.get(unquote(path))
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    at = {"X-Repo-Commit": found.oid}
    if not blob.lfs:
        return _part_of(blob.data, request, {**at, "ETag": blob.etag})
    linked = {"X-Linked-Etag": blob.etag, "X-Linked-Size": str(len(blob.data))}
    where = f"{request.hub.storage}/storage/{repo.kind}/{name}/{found.oid}/{quote(unquote(path))}"
    return Answer(b"", 302, {**at, **linked, "Location": where})


def storage(request: Request, kind: str, name: str, oid: str, path: str) -> Answer:
    """A large file by its signed address."""
    if request.headers.get("Authorization"):
        raise Refusal(400, "a token was sent to the storage, which is another host")
    found = request.hub.repo(name, kind).at(oid)
    assert found is not None
    return _part_of(found.files[unquote(path)].data, request, {"Content-Type": "application/octet-stream"})


def _part_of(data: bytes, request: Request, headers: dict[str, str]) -> Answer:
    headers = {**headers, "Accept-Ranges": "bytes"}
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    if span is None:
        return Answer(data, 200, headers)
    first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
    if first > last:
        return Answer(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
    return Answer(data[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})


_KIND = "|".join(KINDS)
_API = rf"/api/({_KIND})/([^/]+/[^/]+)"
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
        ("POST", rf"{_API}/tag/([^/]+)", create_tag),
        ("POST", rf"{_API}/preupload/([^/]+)", preupload),
        ("POST", rf"{_API}/commit/([^/]+)", commit),
        ("POST", rf"{_HOME}\.git/info/lfs/objects/batch", lfs_batch),
        ("POST", rf"{_HOME}\.git/info/lfs/verify", lfs_verify),
        ("PUT", r"/lfs/([0-9a-f]{64})", lfs_upload),
        ("GET", rf"{_HOME}/resolve/([^/]+)/(.+)", resolve),
        ("GET", rf"/storage/({_KIND})/([^/]+/[^/]+)/([0-9a-f]{{40}})/(.+)", storage),
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
        return refusal.answer
