"""Pushing to a real little Hub: the client runs unmodified, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.hub import push
from hf_soups.hub.contents import contents
from hf_soups.hub.remote import look, refusals_told
from hf_soups.soups import uniform
from tests.hub.server import DROP, LOSE, Blob, Hub, running
from tests.tiny import tiny_vit

ROOT = Path(__file__).parents[2]
REPO = "me/vit-soup"
PUSHES = """
import json, os, sys
from hf_soups.errors import HfSoupsError
from hf_soups.hub import push, pushing
pushing.WAITS = (0.0, 0.0, 0.0)

def told(folder, repo, options):
    try:
        done = push(folder, repo, **options)
    except HfSoupsError as error:
        return {"error": str(error), "status": error.exit_status}
    return {"url": done.url, "commit": done.commit, "unchanged": done.unchanged, "words": done.words()}

for line in sys.stdin:
    token, asked = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({} if token is None else {"HF_TOKEN": token})
    print(json.dumps([told(*one) for one in asked]), flush=True)
"""
Push = Callable[..., dict[str, Any]]


def run(hub: Hub, code: str, *arguments: str, home: Path, token: str | None = "hf_write", typed: str = "") -> str:
    """What a fresh process prints that knows only this Hub."""
    env = knowing(hub, home) | ({} if token is None else {"HF_TOKEN": token})
    whole = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(whole, env=env, input=typed, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def knowing(hub: Hub, home: Path) -> dict[str, str]:
    """The environment in which this Hub is the only one."""
    env = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "no_proxy": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    return env


@pytest.fixture(scope="module")
def lasting_hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.fixture
def hub(lasting_hub: Hub) -> Hub:
    lasting_hub.forget()
    return lasting_hub


@pytest.fixture(scope="module")
def client(lasting_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process that pushes what it is told line by line: the client reads its settings once, when it is imported."""
    env = knowing(lasting_hub, tmp_path_factory.mktemp("home"))
    whole = [sys.executable, "-c", PUSHES]
    with subprocess.Popen(whole, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def soup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("soup")
    ingredients = [Checkpoint(tiny_vit(at / f"run_{seed}", seed=seed)) for seed in (0, 1)]
    return uniform(ingredients).save_pretrained(at / "soup")


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


def held(hub: Hub, branch: str = "main", repo: str = REPO) -> dict[str, bytes]:
    found = hub.repo(repo).at(branch)
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
    assert "holds other content: config.json, member_0/a.json, old-weights.safetensors. Replace" in refused["error"]
    assert forced["unchanged"] is False
    assert hub.repo(REPO).titles == ["Push a soup with hf_soups", "other"]
    assert held(hub) == {**bytes_of(soup), "README.md": b"a card"}


@pytest.mark.parametrize(("code", "missing"), [(None, False), ("RepoNotFound", True)])
def test_an_expired_token_is_not_taken_for_a_repo_that_is_not_there(code: str | None, missing: bool) -> None:
    """Over https the client makes the same error of both, so this Hub cannot show it."""
    from huggingface_hub.errors import RepositoryNotFoundError

    answer: Any = SimpleNamespace(status_code=401, headers={"X-Error-Code": code} if code else {}, request=None)

    def model_info(*_: Any, **__: Any) -> None:
        raise RepositoryNotFoundError("no", response=answer, server_message="the token is expired")

    api: Any = SimpleNamespace(model_info=model_info)
    if missing:
        assert look(api, REPO, None).head is None
    else:
        with (
            pytest.raises(InputError, match=r"does not accept this token \(401: the token is expired\)"),
            refusals_told(REPO),
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
    assert "nothing was committed. Invalid metadata in README.md. - while parsing" in pushed(copied)["error"]
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


@pytest.mark.parametrize("name", ["a/b/c", "me/", "../me", "me/a b", "me/x.git", "me/" + "x" * 94])
def test_what_is_no_name_of_a_repo_is_refused(soup: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name of a repo"):
        push(soup, name, dry_run=True)


def test_what_a_run_leaves_behind_is_not_pushed_and_told(copied: Path) -> None:
    leavings = {
        "train.log": "a log", "x.lock": "a lock", "model.safetensors.part": "a partial file",
        "optimizer.pt": "a pickle", "predictions/select.safetensors": "predictions of rows", ".git/HEAD": "hidden",
    }  # fmt: skip
    kept = sorted([*bytes_of(copied), ".eval_results/glue.yaml"])
    for path in (*leavings, ".eval_results/glue.yaml"):
        (copied / path).parent.mkdir(exist_ok=True)
        (copied / path).write_bytes(b"x")
    found = contents(copied)
    assert sorted(file.path for file in found.files) == kept
    assert dict(found.left_out) == leavings


def test_links_that_lead_out_are_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (copied / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"notes\.txt: a link to .*secret, outside the folder"):
        contents(copied)
    (copied / "notes.txt").unlink()
    (copied / "more").symlink_to(tmp_path)
    with pytest.raises(InputError, match="more: a link to a folder"):
        contents(copied)


def test_a_torn_file_of_weights_is_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        push(copied, REPO, dry_run=True)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("plan.json", "a sweep; push one of its soups"),
        ("leaderboard.csv", "a leaderboard; push"),
        ("pool.json", "a pool of predictions"),
        ("anything.txt", "neither a soup"),
    ],
)
def test_a_folder_that_is_neither_soup_nor_cascade_is_refused(tmp_path: Path, marker: str, message: str) -> None:
    (tmp_path / marker).write_text("{}")
    with pytest.raises(InputError, match=message):
        push(tmp_path, REPO, dry_run=True)


def test_a_cascade_is_known_by_its_config_and_pushed_with_its_members(soup: Path, tmp_path: Path) -> None:
    at = tmp_path / "cascade"
    shutil.copytree(soup, at / "member_0")
    (at / "config.json").write_text('{"model_type": "cascade"}')
    found = contents(at)
    assert found.kind == "cascade"
    assert {"config.json", "member_0/config.json", "member_0/model.safetensors"} <= {f.path for f in found.files}
    (at / "member_0" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        contents(at)
    shutil.copy(soup / "config.json", at / "member_0")
    (at / "member_0" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"member_0.*safetensors"):
        contents(at)


LOADED = """
import sys, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
AutoImageProcessor.from_pretrained(sys.argv[1], backend="pil")
model.eval()
with torch.no_grad():
    print(model(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).logits.tolist())
"""


@pytest.mark.slow
def test_a_pushed_soup_loads_by_its_name_and_answers_as_its_folder(hub: Hub, tmp_path: Path, pushed: Push) -> None:
    large = {"hidden_size": 256, "intermediate_size": 2048}  # 10 MB and more
    ingredients = [Checkpoint(tiny_vit(tmp_path / f"run_{seed}", seed=seed, **large)) for seed in (0, 1)]
    at = uniform(ingredients).save_pretrained(tmp_path / "soup")
    assert (at / "model.safetensors").stat().st_size > 10_000_000
    assert pushed(at, private=True)["commit"] == hub.repo(REPO).branches["main"]
    told = [run(hub, LOADED, where, home=tmp_path / "pull") for where in (REPO, str(at))]
    assert told[0] == told[1]
    with pytest.raises(AssertionError, match="not a valid model identifier"):
        run(hub, LOADED, REPO, home=tmp_path / "stranger", token=None)


ANSWERED = """
import sys
from PIL import Image
from transformers import pipeline
import hf_soups
answer = pipeline("cascade-image-classification", sys.argv[1])
print([answer(Image.linear_gradient("L").convert("RGB").rotate(90 * turn)) for turn in range(4)])
"""


@pytest.mark.slow
def test_a_pushed_cascade_loads_by_its_name_and_answers_as_its_folder(hub: Hub, tmp_path: Path, pushed: Push) -> None:
    from hf_soups.cascades.plan import Plan
    from hf_soups.cascades.running.folder import build_cascade
    from hf_soups.pool.member import Member

    names = ("cat", "dog", "bird")
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    members = {n: Member(n, str(tiny_vit(tmp_path / n, seed=len(n), **labels))) for n in ("small", "larger")}
    plan = Plan(("small", "larger"), (0.8,), (1.0, 4.0), unit="macs")
    at = build_cascade(plan, members, tmp_path / "cascade", kind="image", label_names=names)
    told = pushed(at, "me/cascade")
    assert hub.repo("me/cascade").titles == ["Push a cascade with hf_soups"]
    assert told["commit"] == hub.repo("me/cascade").branches["main"]
    assert held(hub, repo="me/cascade") == bytes_of(at)
    answers = [run(hub, ANSWERED, where, home=tmp_path / "pull") for where in ("me/cascade", str(at))]
    assert answers[0] == answers[1]
