"""The Hub of the tests answers as the Hub does: what the other tests stand on."""

from __future__ import annotations

import hashlib
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hub.clients import Client
from tests.hub.conftest import blobs_of
from tests.hub.server import DROP, LOSE, TORN, Altered, Answer, Blob, Hub

FILES = {"README.md": Blob(b"# x"), "a/b/c.json": Blob(b"{}"), "w.safetensors": Blob(b"0123456789", lfs=True)}


def ask(hub: Hub, method: str, path: str, body: bytes = b"", token: str | None = "hf_write", **headers: str) -> Any:
    """One request as it is, redirects not followed; `.text` is what came."""
    parts = urlsplit(hub.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    known = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection.request(method, path, body, {**known, **headers})
    answer: Any = connection.getresponse()
    answer.text = answer.read()
    connection.close()
    return answer


def listed(hub: Hub, path: str) -> dict[str, dict[str, Any]]:
    return {entry["path"]: entry for entry in json.loads(ask(hub, "GET", path).text)}


@pytest.mark.parametrize(
    ("name", "token", "status", "code"),
    [
        ("me/open", None, 200, None),
        ("me/private", None, 401, "RepoNotFound"),
        ("me/private", "hf_other", 404, "RepoNotFound"),
        ("me/private", "hf_read", 200, None),
        ("me/nothing", None, 401, "RepoNotFound"),
        ("me/nothing", "hf_read", 404, "RepoNotFound"),
        ("me/open", "hf_gone", 401, None),
        ("me/open/revision/v9", None, 404, "RevisionNotFound"),
        ("me/open/tree/main/none", None, 404, "EntryNotFound"),
    ],
)
def test_refusals_have_the_statuses_and_codes_of_the_hub(
    hub: Hub, name: str, token: str | None, status: int, code: str | None
) -> None:
    for kind in ("models", "datasets", "spaces"):
        hub.create("me/open", kind=kind).commit("main", "x", FILES)
        hub.create("me/private", kind=kind, private=True)
        answer = ask(hub, "GET", f"/api/{kind}/{name}", token=token)
        assert (answer.status, answer.headers["X-Error-Code"]) == (status, code)


def test_files_of_a_gated_repo_are_for_its_owner_alone(hub: Hub) -> None:
    hub.create("me/gated").commit("main", "x", FILES)
    hub.repo("me/gated").gated = True
    tokens = {None: (401, "GatedRepo"), "hf_other": (403, "GatedRepo"), "hf_read": (200, None)}
    for token, expected in tokens.items():
        answer = ask(hub, "GET", "/me/gated/resolve/main/README.md", token=token)
        assert (answer.status, answer.headers["X-Error-Code"]) == expected
        assert ask(hub, "GET", "/api/models/me/gated", token=token).status == 200


@pytest.mark.parametrize("home", ["", "datasets/", "spaces/"])
def test_a_small_file_comes_with_gits_hash_and_the_commit(hub: Hub, home: str) -> None:
    made = hub.create("me/x", kind=home.strip("/") or "models").commit("main", "x", FILES)
    answer = ask(hub, "GET", f"/{home}me/x/resolve/main/a%2Fb%2Fc.json")
    assert (answer.status, answer.text) == (200, b"{}")
    assert answer.headers["ETag"] == f'"{hashlib.sha1(b"blob 2" + bytes(1) + b"{}").hexdigest()}"'
    assert answer.headers["X-Repo-Commit"] == made.oid
    assert ask(hub, "HEAD", f"/{home}me/x/resolve/main/a/b/c.json").headers["Content-Length"] == "2"


def test_a_large_file_is_found_in_the_storage_which_wants_no_token(hub: Hub) -> None:
    hub.create("me/x", private=True).commit("main", "x", FILES)
    answer = ask(hub, "HEAD", "/me/x/resolve/main/w.safetensors")
    assert answer.status == 302
    assert answer.headers["X-Linked-Etag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    assert answer.headers["X-Linked-Size"] == "10"
    where = urlsplit(answer.headers["Location"])
    assert where.hostname != urlsplit(hub.url).hostname
    assert ask(hub, "GET", where.path, token=None).text == b"0123456789"
    assert ask(hub, "GET", where.path).status == 400


@pytest.mark.parametrize(
    ("span", "status", "text", "told"),
    [
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
    ],
)
def test_a_part_of_a_file_is_sent_when_asked_for(hub: Hub, span: str, status: int, text: bytes, told: str) -> None:
    hub.create("me/x").commit("main", "x", {"x.txt": Blob(b"0123456789")})
    answer = ask(hub, "GET", "/me/x/resolve/main/x.txt", Range=span)
    assert (answer.status, answer.text, answer.headers["Content-Range"]) == (status, text, told)


def test_a_tree_lists_a_folder_or_everything_below_it(hub: Hub) -> None:
    hub.create("me/x").commit("main", "x", FILES)
    top = listed(hub, "/api/models/me/x/tree/main")
    assert {path: entry["type"] for path, entry in top.items()} == {
        "README.md": "file", "a": "directory", "w.safetensors": "file",
    }  # fmt: skip
    assert top["w.safetensors"]["lfs"]["oid"] == hashlib.sha256(b"0123456789").hexdigest()
    assert sorted(listed(hub, "/api/models/me/x/tree/main?recursive=True")) == sorted([*FILES, "a", "a/b"])
    assert sorted(listed(hub, "/api/models/me/x/tree/main/a")) == ["a/b"]
    body = b"paths=a/b&paths=README.md&paths=none"
    told = json.loads(ask(hub, "POST", "/api/models/me/x/paths-info/main", body).text)
    assert [(entry["path"], entry["type"]) for entry in told] == [("a/b", "directory"), ("README.md", "file")]


def test_a_token_that_reads_may_not_write(hub: Hub) -> None:
    hub.create("me/x")
    paths = ["/api/models/me/x/commit/main", "/api/models/me/x/branch/v2", "/me/x.git/info/lfs/objects/batch"]
    for path in [*paths, "/api/models/me/x/preupload/main", "/api/models/me/x/tag/main"]:
        assert ask(hub, "POST", path, b"{}", token="hf_read").status == 403
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "y"}', token="hf_read").status == 403
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "y", "organization": "you"}').status == 403
    assert hub.repo("me/x").titles == []


def test_a_space_needs_to_say_what_runs_it(hub: Hub) -> None:
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "page", "type": "space"}').status == 400
    assert ask(hub, "POST", "/api/repos/create", b'{"name": "page", "type": "space", "sdk": "gradio"}').status == 200
    assert hub.repo("me/page", "spaces").sdk == "gradio"


def test_an_object_with_another_hash_than_its_name_is_not_stored(hub: Hub) -> None:
    assert ask(hub, "PUT", f"/lfs/{'0' * 64}", b"x").status == 400
    assert not hub.stored


def test_faults_come_once_and_where_they_were_asked_for(hub: Hub) -> None:
    path = "/me/x/resolve/main/x.txt"
    hub.create("me/x").commit("main", "x", {"x.txt": Blob(b"0123456789")})
    for how in (DROP, LOSE):
        hub.fail("GET", "/resolve/", how)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(hub, "GET", path)
    hub.fail("GET", "/resolve/", TORN)
    with pytest.raises(http.client.IncompleteRead) as torn:
        ask(hub, "GET", path)
    assert torn.value.partial == b"01234"
    hub.fail("GET", "/resolve/", 503)
    hub.fail("GET", "/resolve/", Answer(b"later", 429, {"Retry-After": "1"}))
    hub.fail("GET", "/resolve/", Altered(lambda data: data[::-1]))
    assert ask(hub, "HEAD", path).status == 200
    assert ask(hub, "GET", path).status == 503
    later = ask(hub, "GET", path)
    assert (later.status, later.headers["Retry-After"]) == (429, "1")
    assert ask(hub, "GET", path).text == b"9876543210"
    assert ask(hub, "GET", path).text == b"0123456789"
    assert hub.faults == []


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_what_the_client_uploads_is_what_it_downloads(
    hub: Hub, reader: Client, small: Path, tmp_path: Path, kind: str
) -> None:
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    known = {"repo_id": "me/x", "repo_type": kind}
    reader(api="create_repo", private=True, **known, **sdk)
    url = reader(api="upload_folder", folder_path=str(small), **known)
    home = "" if kind == "model" else f"{kind}s/"
    commit = hub.repo("me/x", f"{kind}s").branches["main"]
    assert url == f"{hub.url}/{home}me/x/commit/{commit}"
    at = reader(api="snapshot_download", local_dir=str(tmp_path / "down"), token="hf_read", **known)
    assert {path: blob for path, blob in blobs_of(Path(at)).items() if path in blobs_of(small)} == blobs_of(small)
    assert f"{kind}s" in {where for where, _ in hub.repos}
    assert len(hub.repos) == 1


def test_branches_tags_and_pull_requests_are_listed_apart(hub: Hub, reader: Client) -> None:
    repo = hub.create("me/x")
    reader(api="create_branch", repo_id="me/x", branch="v2")
    reader(api="create_tag", repo_id="me/x", tag="t1", revision="v2")
    repo.commit("refs/pr/1", "proposed", FILES)
    told = reader(api="list_repo_refs", repo_id="me/x", include_pull_requests=True)
    for name, ref in (("main", "refs/heads/main"), ("v2", "refs/heads/v2"), ("t1", "refs/tags/t1")):
        assert f"name='{name}', ref='{ref}'" in told
    assert f"ref='refs/pr/1', target_commit='{repo.branches['refs/pr/1']}'" in told
