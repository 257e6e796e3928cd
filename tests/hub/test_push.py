"""Pushing to a real little Hub: the client runs unmodified, in a process of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.hub import push, push_saved
from hf_soups.hub.repo import hub_errors_explained, look
from hf_soups.reporting.cards.card import write_card
from hf_soups.soups import uniform
from tests.hub.clients import knowing, run
from tests.hub.server import DROP, LOSE, Blob, Hub, running
from tests.makers.tiny import tiny_vit

REPO = "me/vit-soup"
PUSHES = """
import json, os, sys, tempfile
from hf_soups.errors import HfSoupsError
from hf_soups.hub import models, push, pushing
pushing.WAITS = (0.0, 0.0, 0.0)
models.run_snippet = lambda *_, **__: None  # test_push_cards.py runs it

def told(folder, repo, options):
    if "confirm" in options:
        said, questions = options["confirm"], []
        options = {**options, "confirm": lambda question: questions.append(question) or said}
    if "space" in options:
        page = options["space"]
        options = {**options, "space": lambda folder: page}
    lines = []
    try:
        done = push(folder, repo, tell=lines.append, **options)
    except HfSoupsError as error:
        return {"error": str(error), "status": error.exit_status}
    told = {"url": done.url, "commit": done.commit, "unchanged": done.unchanged, "words": done.words(), "said": lines}
    return {**told, "left": [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("hf_soups_")]}

for line in sys.stdin:
    token, asked = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({} if token is None else {"HF_TOKEN": token})
    print(json.dumps([told(*one) for one in asked]), flush=True)
"""
Push = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def client(lasting_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that pushes what it is told line by line: the client reads its settings once, when it is imported."""
    env = knowing(lasting_hub, tmp_path_factory.mktemp("home"))
    env |= {"TMPDIR": str(tmp_path_factory.mktemp("temporary"))}  # its own, so that a test can say what is left there
    whole = [sys.executable, "-c", PUSHES]
    with subprocess.Popen(whole, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def soup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("soup")
    ingredients = [Checkpoint(tiny_vit(at / f"run_{seed}", seed=seed)) for seed in (0, 1)]
    made = uniform(ingredients).save_pretrained(at / "soup")
    record = re.sub(r'"source": ".*/', '"source": "./', (made / "soup.json").read_text())  # as it is pushed
    (made / "soup.json").write_text(record)
    write_card(made, name=REPO)
    return made


@pytest.fixture
def copied(soup: Path, tmp_path: Path) -> Path:
    """The soup's folder, for tests that change it."""
    return Path(shutil.copytree(soup, tmp_path / "copied"))


@pytest.fixture
def pushed(hub: Hub, client: subprocess.Popen[str]) -> Push:
    def one(folder: Path, repo: str = REPO, token: str | None = "hf_write", **options: Any) -> dict[str, Any]:
        return several([(folder, repo, options)], token)[0]

    def several(asked: list[tuple[Path, str, dict[str, Any]]], token: str | None) -> list[dict[str, Any]]:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(as_line(asked, token))
        client.stdin.flush()
        told: list[dict[str, Any]] = json.loads(client.stdout.readline())
        return told

    one.several = several  # type: ignore[attr-defined]
    return one


def as_line(asked: list[tuple[Path, str, dict[str, Any]]], token: str | None) -> str:
    return json.dumps([token, [(str(folder), repo, options) for folder, repo, options in asked]]) + "\n"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def held(hub: Hub, branch: str = "main", repo: str = REPO, kind: str = "models") -> dict[str, bytes]:
    found = hub.repo(repo, kind).at(branch)
    assert found is not None
    return {path: blob.data for path, blob in found.files.items() if path != ".gitattributes"}


def test_a_second_push_of_the_same_content_makes_no_commit(hub: Hub, soup: Path, pushed: Any) -> None:
    first, second = pushed.several([(soup, REPO, {}), (soup, REPO, {})], "hf_write")
    assert held(hub) == bytes_of(soup)
    assert hub.repo(REPO).titles == ["Push a soup with hf_soups"]
    assert first["commit"] == second["commit"] == hub.repo(REPO).branches["main"]
    assert (first["unchanged"], second["unchanged"]) == (False, True)
    assert hub.asked("PUT", "/lfs/") == 1
    assert second["words"][0].endswith("no commit was made.")


def test_a_name_without_an_owner_is_the_users_own(hub: Hub, soup: Path, pushed: Push) -> None:
    assert pushed(soup, "vit-soup", private=True, message="mine")["url"] == f"{hub.url}/me/vit-soup"
    assert hub.repo(REPO).private
    assert hub.repo(REPO).titles == ["mine"]


def test_a_dry_run_sends_nothing_and_needs_no_token(hub: Hub, soup: Path, pushed: Push) -> None:
    told = pushed(soup, token=None, dry_run=True)
    assert told["commit"] is None
    assert hub.requests == []
    shown = "\n".join(told["words"])
    assert all(f"{len(data):,} bytes  {path}" in shown for path, data in bytes_of(soup).items())


def test_a_push_shows_before_it_sends_what_a_dry_run_shows_and_sends_nothing_else(
    hub: Hub, copied: Path, pushed: Push
) -> None:
    own = bytes_of(copied)
    for name in ("notes.txt", "patients.csv", "optimizer.pt", ".env", ".netrc"):
        (copied / name).write_text("of mine")
    dry = pushed(copied, include=["*.txt"], dry_run=True)
    sizes = re.compile(r"^ +[\d,]+ bytes  .*|^Not sent: .*")
    listed = [line for line in dry["words"] if sizes.match(line)]
    assert len(listed) == len(own) + 1 + 1 + 4
    done = pushed(copied, include=["*.txt"])
    assert [line for line in done["said"] if sizes.match(line)] == listed
    assert done["said"][-1].startswith("sending ")
    assert held(hub) == {**own, "notes.txt": b"of mine"}
    assert done["left"] == []


def test_a_push_that_was_killed_leaves_nothing_for_long(hub: Hub, soup: Path, tmp_path: Path, pushed: Push) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    env = {**knowing(hub, tmp_path, "hf_write"), "TMPDIR": str(place)}
    line = as_line([(soup, REPO, {})], "hf_write")

    def purposes() -> list[str]:
        return [path.name.split("_")[2] for path in place.glob("hf_soups_*")]

    def stopped(by: signal.Signals) -> list[str]:
        """Whose folders lie there after a push was stopped while it waited for the Hub's answer."""
        reached = threading.Event()
        let_go = threading.Event()

        def wait() -> None:
            reached.set()
            let_go.wait(60)

        hub.fail("GET", f"/api/models/{REPO}", wait)
        whole = [sys.executable, "-c", PUSHES]
        with subprocess.Popen(whole, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
            assert reached.wait(60)
            assert purposes() == ["push"]
            process.send_signal(by)
            process.wait(60)
            let_go.set()
        return purposes()

    assert stopped(signal.SIGKILL) == ["push"]
    assert stopped(signal.SIGINT) == []  # what the first one left is gone as well
    assert not hub.repos


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no token: a push needs one with the right to write. Log in"),
        ("hf_read", "this token may not write there (403"),
        ("hf_gone", "the Hub does not accept this token (401"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_token_without_the_right_is_told_in_one_message(
    hub: Hub, soup: Path, pushed: Push, token: str | None, message: str, exists: bool
) -> None:
    if exists:
        hub.create(REPO, private=True)
    told = pushed(soup, token=token)
    assert message in told["error"]
    assert told["status"] == 2
    assert "\n" not in told["error"]
    assert (("models", REPO) in hub.repos) is exists
    assert not hub.stored


def test_other_content_is_refused_without_force_and_replaced_with_it(hub: Hub, soup: Path, pushed: Any) -> None:
    before = {"config.json": b"{}", "old-weights.safetensors": b"old", "README.md": b"a card", "member_0/a.json": b"1"}
    hub.create(REPO).commit("main", "other", {path: Blob(data) for path, data in before.items()})
    refused, forced = pushed.several([(soup, REPO, {}), (soup, REPO, {"force": True})], "hf_write")
    lost = "README.md, config.json, member_0/a.json, old-weights.safetensors"
    assert f"holds other content: {lost}. Replace it with `force=True`" in refused["error"]
    assert forced["unchanged"] is False
    assert hub.repo(REPO).titles == ["Push a soup with hf_soups", "other"]
    assert held(hub) == bytes_of(soup)


def test_before_other_content_is_replaced_the_user_is_asked_where_there_is_one(
    hub: Hub, soup: Path, pushed: Any
) -> None:
    hub.create(REPO).commit("main", "other", {"config.json": Blob(b"{}")})
    no, yes, same = pushed.several([(soup, REPO, {"confirm": said}) for said in (False, True, False)], "hf_write")
    assert no["error"].startswith(f"{REPO}: left as it is, nothing was sent.")
    assert hub.repo(REPO).titles == ["Push a soup with hf_soups", "other"]
    assert (yes["unchanged"], same["unchanged"]) == (False, True)
    assert held(hub) == bytes_of(soup)


@pytest.mark.parametrize(("code", "missing"), [(None, False), ("RepoNotFound", True)])
def test_an_expired_token_is_not_taken_for_a_repo_that_is_not_there(code: str | None, missing: bool) -> None:
    """Over https the client makes the same error of both, so this Hub cannot show it."""
    from huggingface_hub.errors import RepositoryNotFoundError

    answer: Any = SimpleNamespace(status_code=401, headers={"X-Error-Code": code} if code else {}, request=None)

    def repo_info(*_: Any, **__: Any) -> None:
        raise RepositoryNotFoundError("no", response=answer, server_message="the token is expired")

    api: Any = SimpleNamespace(repo_info=repo_info)
    if missing:
        assert look(api, REPO, None).head is None
    else:
        with (
            pytest.raises(InputError, match=r"does not accept this token \(401: the token is expired\)"),
            hub_errors_explained(REPO),
        ):
            look(api, REPO, None)


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_other_content_of_the_same_size_is_seen(hub: Hub, soup: Path, pushed: Push, path: str) -> None:
    other = Blob(bytes_of(soup)[path][::-1], lfs=path == "model.safetensors")
    hub.create(REPO).commit("main", "other", {path: other})
    assert f"holds other content: {path}. Replace" in pushed(soup)["error"]


def test_a_pull_request_and_a_new_branch_leave_main_as_it_is(hub: Hub, soup: Path, pushed: Any) -> None:
    hub.create(REPO).commit("main", "other", {"config.json": Blob(b"{}")})
    asked = [(soup, REPO, {"create_pr": True}), (soup, REPO, {"revision": "v2"}), (soup, REPO, {"revision": "v2"})]
    pull, branch, again = pushed.several(asked, "hf_write")
    assert pull["url"] == f"{hub.url}/{REPO}/discussions/1"
    assert held(hub) == {"config.json": b"{}"}
    assert held(hub, "refs/pr/1") == held(hub, "v2") == bytes_of(soup)
    assert again["unchanged"]
    assert again["commit"] == branch["commit"]


def test_a_new_branch_is_filled_although_its_first_commit_failed(hub: Hub, soup: Path, pushed: Any) -> None:
    hub.create(REPO).commit("main", "other", {"config.json": Blob(b"{}")})
    hub.fail("POST", "/commit/", 503, times=5)
    failed, done = pushed.several([(soup, REPO, {"revision": "v2"})] * 2, "hf_write")
    assert "the Hub answered 503" in failed["error"]
    assert done["unchanged"] is False
    assert held(hub, "v2") == bytes_of(soup)
    assert held(hub) == {"config.json": b"{}"}


def test_a_public_repo_is_refused_where_private_was_asked_for(hub: Hub, soup: Path, pushed: Push) -> None:
    hub.create(REPO)
    assert "this repo is public, and private was asked for" in pushed(soup, private=True)["error"]
    assert held(hub) == {}


@pytest.mark.parametrize(
    ("method", "part", "how"),
    [
        ("GET", f"/api/models/{REPO}", 503),
        ("POST", "/api/repos/create", 429),
        ("POST", "/commit/", DROP),
        ("POST", "/commit/", 503),
        ("POST", "/commit/", LOSE),
        pytest.param("PUT", "/lfs/", DROP, marks=pytest.mark.slow),  # the client waits a second itself
    ],
)
def test_after_a_fault_the_next_try_succeeds_with_one_commit(
    hub: Hub, soup: Path, pushed: Push, method: str, part: str, how: int | str
) -> None:
    hub.fail(method, part, how)
    told = pushed(soup)
    assert hub.faults == []
    assert told["unchanged"] is False
    assert held(hub) == bytes_of(soup)
    assert len(hub.repo(REPO).titles) == 1
    assert hub.asked("PUT", "/lfs/") == (2 if part == "/lfs/" else 1)


def test_a_fault_before_the_look_does_not_make_old_content_new(hub: Hub, soup: Path, pushed: Any) -> None:
    pushed(soup)
    hub.fail("GET", f"/api/models/{REPO}", 503)
    assert pushed(soup)["unchanged"]
    assert hub.faults == []


def test_a_commit_that_someone_else_made_meanwhile_is_not_overwritten(hub: Hub, soup: Path, pushed: Push) -> None:
    theirs = {"config.json": Blob(b"theirs")}
    hub.create(REPO)
    hub.fail("POST", "/commit/", lambda: hub.repo(REPO).commit("main", "theirs", theirs))
    assert "someone else committed meanwhile (412: A commit has happened since" in pushed(soup)["error"]
    assert held(hub) == {"config.json": b"theirs"}


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(hub: Hub, soup: Path, pushed: Push) -> None:
    hub.create(REPO)
    hub.fail("POST", "/commit/", LOSE)
    assert "broke off" in pushed(soup, create_pr=True)["error"]
    assert sorted(hub.repo(REPO).branches) == ["main", "refs/pr/1"]


def test_a_hub_that_stays_broken_is_told_and_the_next_push_succeeds(hub: Hub, soup: Path, pushed: Any) -> None:
    hub.fail("POST", "/commit/", 503, times=4)
    failed, done = pushed.several([(soup, REPO, {}), (soup, REPO, {})], "hf_write")
    assert "the Hub answered 503" in failed["error"]
    assert "what was uploaded is kept" in failed["error"]
    assert failed["status"] == 1
    assert done["unchanged"] is False
    assert held(hub) == bytes_of(soup)
    assert hub.asked("PUT", "/lfs/") == 1


def test_a_file_that_the_repo_ignores_is_told(hub: Hub, soup: Path, pushed: Push) -> None:
    hub.create(REPO).commit("main", "ignore", {".gitignore": Blob(b"soup.json\n")})
    assert "was made, but lacks soup.json" in pushed(soup, force=True)["error"]


def test_a_card_with_broken_metadata_is_told_before_any_upload(hub: Hub, copied: Path, pushed: Push) -> None:
    (copied / "README.md").write_text("---\ntags: [a\n---\n")
    assert "README.md: not valid YAML: while parsing" in pushed(copied)["error"]
    assert not hub.stored


def test_a_hub_that_nobody_answers_for_is_told(soup: Path, tmp_path: Path) -> None:
    with running() as hub:
        pass
    told = json.loads(run(hub, PUSHES, home=tmp_path, typed=as_line([(soup, REPO, {})], "hf_write")))[0]
    assert f"{hub.url} cannot be reached" in told["error"]
    assert told["status"] == 1


def test_offline_mode_is_told(soup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"offline mode is on \(HF_HUB_OFFLINE\)"):
        push(soup, REPO, token="hf_write")


@pytest.mark.parametrize("exists", [False, True])
def test_a_space_is_made_or_filled_where_only_the_hubs_own_readme_lies(
    hub: Hub, soup: Path, tmp_path: Path, pushed: Any, exists: bool
) -> None:
    cascade = tmp_path / "cascade"
    shutil.copytree(soup, cascade / "member_0")
    (cascade / "config.json").write_text('{"model_type": "cascade", "members": [{"subfolder": "member_0"}]}')
    if exists:
        hub.create("me/space", kind="spaces").commit("main", "initial", {"README.md": Blob(b"# a new Space")})
    page = {"app.py": "print()\n", "README.md": "---\nsdk: gradio\n---\n"}
    asked = (cascade, "me/space", {"space": page})
    first, second = pushed.several([asked, asked], "hf_write")
    assert first["url"] == f"{hub.url}/spaces/me/space"
    assert (first["unchanged"], second["unchanged"]) == (False, True)
    below = {f"model/{path}": data for path, data in bytes_of(cascade).items()}
    told = {path: text.encode() for path, text in page.items()}
    assert held(hub, repo="me/space", kind="spaces") == {**below, **told}


PUBLISHED = """
import json, sys
from hf_soups import Checkpoint, uniform
from hf_soups.hub import models
models.run_snippet = lambda *_, **__: None
soup = uniform([Checkpoint(folder) for folder in sys.argv[1:]])
print(soup.push_to_hub("vit-soup", private=True, commit_message="mine", dtype="float16"))
"""


def test_a_soup_pushes_itself(hub: Hub, soup: Path, tmp_path: Path) -> None:
    runs = [str(soup.parent / f"run_{seed}") for seed in (0, 1)]
    assert run(hub, PUBLISHED, *runs, home=tmp_path) == f"{hub.url}/{REPO}"
    assert hub.repo(REPO).titles == ["mine"]
    assert hub.repo(REPO).private
    there = held(hub)
    assert there["README.md"].startswith(b"---\nlibrary_name: transformers")
    assert len(there["model.safetensors"]) < 0.6 * (soup / "model.safetensors").stat().st_size
    assert b'"source": "./run_0"' in there["soup.json"]


def test_a_soup_of_a_bad_name_is_not_even_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Path] = []
    with pytest.raises(InputError, match="is no name of a repo"):
        push_saved(saved.append, "me/a b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="offline mode is on"):
        push_saved(saved.append, "me/a")
    assert saved == []


PUBLISHED_CASCADE = """
import sys
from hf_soups import CascadeForImageClassification
print(CascadeForImageClassification.from_pretrained(sys.argv[1]).push_to_hub("me/cascade", revision="v2"))
"""


@pytest.mark.slow
def test_a_cascade_pushes_itself_with_members_here_and_pinned_after_its_cards_code_ran(
    hub: Hub, tmp_path: Path
) -> None:
    from hf_soups.cascades.plan import Plan
    from hf_soups.cascades.running.build_folder import build_cascade
    from hf_soups.pool.store import Member

    names = ("cat", "dog", "bird")
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    members = {n: Member(n, str(tiny_vit(tmp_path / n, seed=len(n), **labels))) for n in ("small", "larger")}
    plan = Plan(("small", "larger"), (0.8,), (1.0, 4.0), unit="macs")
    at = build_cascade(plan, members, tmp_path / "cascade", kind="image", label_names=names)
    pinned = hub.create("me/small").commit(
        "main", "weights", {path: Blob(data) for path, data in bytes_of(at / "member_0").items()}
    )
    config = json.loads((at / "config.json").read_text())
    del config["members"][0]["subfolder"]
    config["members"][0] |= {"repo": "me/small", "revision": pinned.oid}
    (at / "config.json").write_text(json.dumps(config))
    shutil.rmtree(at / "member_0")
    assert run(hub, PUBLISHED_CASCADE, str(at), home=tmp_path) == f"{hub.url}/me/cascade"
    there = held(hub, "v2", "me/cascade")
    assert b"- me/small" in there["README.md"]
    assert json.loads(there["config.json"])["members"] == config["members"]
    assert there["member_1/model.safetensors"] == (at / "member_1" / "model.safetensors").read_bytes()
    assert not [path for path in there if path.startswith("member_0/")]
