"""What of a folder is pushed, and what is refused, before the Hub is asked anything."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, InputError
from hf_soups.hub import push
from hf_soups.hub.contents import Contents, listing
from hf_soups.hub.pushing import gathered
from hf_soups.reporting.cards.card import card_for, write_card
from hf_soups.soups import uniform
from tests.makers.tiny import tiny_vit

REPO = "me/vit-soup"


@pytest.fixture(scope="module")
def soup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("soup")
    ingredients = [Checkpoint(tiny_vit(at / f"run_{seed}", seed=seed)) for seed in (0, 1)]
    return uniform(ingredients).save_pretrained(at / "soup")


@pytest.fixture
def copied(soup: Path, tmp_path: Path) -> Path:
    """The soup's folder, for tests that change it."""
    return Path(shutil.copytree(soup, tmp_path / "copied"))


def contents(folder: Path, repo: str = REPO) -> Contents:
    with gathered(folder, repo, dry_run=True) as found:
        return found


def texts(folder: Path, repo: str = REPO) -> dict[str, str]:
    """The text files as they would be pushed."""
    with gathered(folder, repo, dry_run=True) as found:
        return {f.path: f.source.read_text() for f in found.files if f.path.endswith((".md", ".json", ".yaml", ".csv"))}


def listed(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a/b/c", "me/", "../me", "me/a b", "me/x.git", "me/" + "x" * 94])
def test_what_is_no_name_of_a_repo_is_refused(soup: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name of a repo"):
        push(soup, name, dry_run=True)


STRAYS = (
    ".env", ".git/config", ".netrc", "events.out.tfevents.1", "id_rsa", "model.safetensors.part", "notes.txt",
    "model-old.safetensors", "optimizer.pt", "patients.csv", "predictions/select.safetensors", "raw/a.csv",
    "raw/b/c.csv",
    "train.log", "tokens/hf_token.txt", "member_9/config.json", "tokenizer.json.bak", "run.json", "soup.json~",
)  # fmt: skip


def strew(folder: Path, paths: Sequence[str] = STRAYS) -> None:
    for path in paths:
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_bytes(b"stray")


def sent(folder: Path, *include: str) -> set[str]:
    with gathered(folder, REPO, dry_run=True, include=include) as found:
        return {file.path for file in found.files}


def test_what_lies_beside_a_soup_stays_here_and_is_listed_with_its_size(copied: Path) -> None:
    own = {*listed(copied), ".eval_results/glue.yaml", "LICENSE", "README.md"}
    strew(copied, (*STRAYS, ".eval_results/glue.yaml", "LICENSE"))
    found = contents(copied)
    assert {file.path for file in found.files} == own
    assert {one.path: one.size for one in found.left_out} == dict.fromkeys(STRAYS, 5)
    told = "\n".join(listing(found.files, found.left_out))
    assert f"Not sent: {len(STRAYS)} files, {5 * len(STRAYS)} bytes, that are not part of it. --include PATTERN" in told
    assert "            5 bytes  patients.csv\n" in told
    assert "predictions/select.safetensors (predictions of rows, with their labels)" in told


def test_what_lies_beside_a_cascade_and_its_members_stays_here(cascade: Path) -> None:
    before = set(listed(cascade))
    assert {file.path for file in contents(cascade).files} == {*before, "README.md"}  # all that build wrote
    strew(cascade, [*STRAYS, *(f"member_0/{path}" for path in STRAYS)])
    found = contents(cascade)
    assert {file.path for file in found.files} == {*before, "README.md"}
    assert len(found.left_out) == 2 * len(STRAYS)
    assert f"bytes  member_0/ ({len(STRAYS)} files)" in "\n".join(listing((), found.left_out))


@pytest.mark.parametrize(
    ("pattern", "added"),
    [
        ("notes.txt", {"notes.txt"}),
        ("./notes.txt", {"notes.txt"}),
        ("*.csv", {"patients.csv", "raw/a.csv", "raw/b/c.csv"}),
        ("/*.csv", {"patients.csv"}),
        ("raw", {"raw/a.csv", "raw/b/c.csv"}),
        ("raw/", {"raw/a.csv", "raw/b/c.csv"}),
        ("raw/*.csv", {"raw/a.csv"}),
        ("raw/**", {"raw/a.csv", "raw/b/c.csv"}),
        ("**/c.csv", {"raw/b/c.csv"}),
        ("optimizer.pt", {"optimizer.pt"}),
        ("predictions/*", {"predictions/select.safetensors"}),
        (".env", {".env"}),
        ("tokens/hf_token.txt", {"tokens/hf_token.txt"}),
        ("soup.json", set()),  # it goes in any case
    ],
)
def test_a_pattern_sends_what_gitignore_would_match(copied: Path, pattern: str, added: set[str]) -> None:
    strew(copied)
    assert sent(copied, pattern) == sent(copied) | added


def test_one_pattern_is_not_the_patterns_of_its_letters(copied: Path) -> None:
    strew(copied)
    with gathered(copied, REPO, dry_run=True, include="*.txt") as found:  # "*" alone would send everything
        assert {file.path for file in found.files} == sent(copied, "*.txt")


def test_keys_and_tokens_go_by_their_whole_path_alone(copied: Path) -> None:
    strew(copied)
    secret = {".env", ".netrc", "id_rsa", "tokens/hf_token.txt", ".git/config"}
    assert sent(copied, "*", "**") == {*sent(copied), *STRAYS} - secret
    told = "\n".join(push(copied, REPO, dry_run=True, include=["*"]).words())
    assert "id_rsa (it looks like a key, a token or a password: --include sends it only by its whole path)" in told
    for pattern in ("id_*", "tokens/*", "hf_token.txt", ".e*"):
        with pytest.raises(InputError, match="it looks like a key, a token or a password"):
            sent(copied, pattern)
    with pytest.raises(InputError, match=r"no repo of the Hub holds a file in \.git or \.cache"):
        sent(copied, ".git/config")


@pytest.mark.parametrize(
    "name",
    [
        ".env.local", "prod.env", "ID_RSA", "id_ed25519.pub", "server.pem", "tls.key", "client_secret.json",
        "credentials", "aws-credentials.txt", "service-account-1.json", "hf_token", "api_key.txt", ".git-credentials",
        ".bash_history", ".ssh/config", ".aws/config", "passwords.kdbx", "my_token.txt", ".token",
    ],
)  # fmt: skip
def test_names_of_secrets_are_known(copied: Path, name: str) -> None:
    strew(copied, (name,))
    assert name not in sent(copied, "*")
    assert name in sent(copied, name)


def test_a_pattern_that_matches_nothing_is_refused(copied: Path) -> None:
    for pattern in ("note.txt", "../outside", "", "copied/soup.json"):
        with pytest.raises(InputError, match=r"`include` .*: nothing in .*copied matches\. Patterns are as in \.git"):
            sent(copied, pattern)


def test_pictures_that_the_card_shows_go_with_it(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"x")
    strew(copied, ("mine.png", "img/other [1].PNG", "hidden.png", "table.csv"))
    text = '![a](mine.png) <img width=3 src="img/other [1].PNG"> ![b](../outside.png) ![c](table.csv) ![d](gone.png)'
    write_card(copied, name=REPO)
    (copied / "README.md").write_text((copied / "README.md").read_text() + text)
    assert {"mine.png", "img/other [1].PNG"} == {one.path for one in contents(copied).files} & {
        "mine.png", "img/other [1].PNG", "hidden.png", "table.csv",
    }  # fmt: skip


def test_names_that_no_terminal_should_get_are_shown_escaped(copied: Path) -> None:
    (copied / "a\x1b[2Jb\n").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(copied) + b"/\xff.txt")).write_bytes(b"x")
    told = push(copied, REPO, dry_run=True).words()
    assert "              1 bytes  a\\x1b[2Jb\\n" in told
    assert "              1 bytes  \\udcff.txt" in told
    with pytest.raises(InputError, match=r"udcff\.txt: its name is no UTF-8, so no repo can hold it\. Rename it"):
        sent(copied, "*.txt")


def test_links_that_lead_out_are_refused(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (copied / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"notes\.txt: a link to .*secret, outside the folder"):
        contents(copied)
    (copied / "notes.txt").unlink()
    (copied / "more").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"more: a link to .*, outside the folder"):
        contents(copied)
    (copied / "more").unlink()
    (copied / "more").symlink_to(copied / ".")
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
        ("plan.json", r"a sweep without leaderboard\.csv\. Make it \(hf-soups leaderboard .*broken\), or push one"),
        ("run.json", "one fine-tune, which is an ordinary checkpoint: `hf upload` pushes it"),
        ("frontier.json", "a frontier. Push the pool of predictions it was searched in"),
        ("greedy/soup.json", "a folder of soups. Push one of them: greedy"),
        ("anything.txt", "neither a soup .* nor a pool of predictions"),
    ],
)
def test_a_folder_that_is_no_such_thing_is_told_what_it_is(tmp_path: Path, marker: str, message: str) -> None:
    (tmp_path / "broken" / marker).parent.mkdir(parents=True)
    (tmp_path / "broken" / marker).write_text("{}")
    with pytest.raises(InputError, match=message):
        push(tmp_path / "broken", REPO, dry_run=True)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        push(tmp_path / "nowhere", REPO, dry_run=True)


def test_places_on_this_machine_go_by_their_last_name(copied: Path) -> None:
    record = json.loads((copied / "soup.json").read_text())
    for ingredient, source in zip(record["ingredients"], ("/home/me/runs/run_0", "me/run_1"), strict=True):
        ingredient["source"] = source
    record["label_names"] = ["/m/09x0r", "cat", "dog"]
    (copied / "soup.json").write_text(json.dumps(record))
    told = json.loads(texts(copied)["soup.json"])
    assert [i["source"] for i in told["ingredients"]] == ["./run_0", "me/run_1"]
    assert told["label_names"] == record["label_names"]
    assert "local paths are pushed as their last part alone, in soup.json." in contents(copied).notes
    assert json.loads((copied / "soup.json").read_text()) == record


def test_a_card_is_made_for_the_repo_and_a_dry_run_does_not_write_it(copied: Path) -> None:
    before = listed(copied)
    card = texts(copied, "me/new")["README.md"]
    assert card.startswith(str(card_for(copied, name="me/new")).rstrip())
    assert 'model="me/new"' in card
    assert any("there is no README.md" in note for note in contents(copied).notes)
    done = push(copied, "me/new", dry_run=True)
    assert done.card == card
    assert "\n".join(done.words()).endswith(card.rstrip())
    assert listed(copied) == before
    with gathered(copied, "me/new") as found:
        assert any("README.md, the model card, was written for this push" in note for note in found.notes)
    after = listed(copied)
    assert {**after, "soup.json": before["soup.json"]} == {**before, "README.md": card.encode()}
    told = json.loads(after["soup.json"])  # and the SHA-256 that the card names, for when the ingredients are gone
    assert all(i.pop("sha256") in card for i in told["ingredients"])
    assert told == json.loads(before["soup.json"])


def test_a_card_of_another_name_is_pushed_as_one_made_for_the_repo(copied: Path) -> None:
    write_card(copied)
    here = (copied / "README.md").read_text()
    there = texts(copied, "me/new")["README.md"]
    assert '"copied"' in here
    write_card(copied, name="me/new")
    assert there == (copied / "README.md").read_text() != here


def test_a_card_changed_by_hand_is_pushed_as_it_is_and_told_where_it_loads_something_else(copied: Path) -> None:
    write_card(copied, name="me/old")
    mine = (copied / "README.md").read_text().replace("## Limits", "Thanks to all.\n\n## Limits")
    (copied / "README.md").write_text(mine)
    assert texts(copied, "me/new")["README.md"] == mine
    assert any('its code does not load "me/new"' in note for note in contents(copied, "me/new").notes)
    assert not any("its code does not load" in note for note in contents(copied, "me/old").notes)


def test_a_card_of_another_name_keeps_what_was_written_beside_the_marks(copied: Path) -> None:
    thanks = "\nThanks to all.\n"
    write_card(copied, name="me/old")
    (copied / "README.md").write_text((copied / "README.md").read_text() + thanks)
    there = texts(copied, "me/new")["README.md"]
    write_card(copied, name="me/new")
    assert there == (copied / "README.md").read_text()
    assert there.endswith(thanks)
    assert 'model="me/new"' in there


def test_a_card_whose_figures_are_not_those_of_the_record_is_refused(copied: Path) -> None:
    record = json.loads((copied / "soup.json").read_text())
    write_card(copied)
    record["ingredients"][0]["coefficient"] = 0.25
    (copied / "soup.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"README\.md: 'Coefficient' of .* is 0\.5, but soup\.json says 0\.25"):
        push(copied, REPO, dry_run=True)


def test_a_cascade_is_known_by_its_config_and_pushed_with_its_members(cascade: Path) -> None:
    found = contents(cascade)
    assert found.kind == "cascade"
    paths = {"README.md", "config.json", "member_0/config.json", "member_1/model.safetensors"}
    assert paths <= {f.path for f in found.files}
    assert found.usage.startswith('import hf_soups; transformers.pipeline("cascade-image-classification"')
    shutil.move(cascade / "member_0", cascade.parent)
    with pytest.raises(InputError, match="names the member 'member_0', which is not there"):
        contents(cascade)
    before = (cascade / "config.json").read_text()
    pinned = before.replace('"subfolder": "member_0"', f'"repo": "me/small", "revision": "{"0" * 40}"')
    (cascade / "config.json").write_text(pinned)
    assert not [f.path for f in contents(cascade).files if f.path.startswith("member_0/")]
    (cascade / "config.json").write_text(before)
    shutil.move(cascade.parent / "member_0", cascade)
    (cascade / "member_0" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"member_0.*safetensors"):
        contents(cascade)


def with_code(cascade: Path) -> Path:
    from hf_soups.cascades.running.beside import write_beside
    from hf_soups.cascades.running.stored import code_map

    config = json.loads((cascade / "config.json").read_text())
    (cascade / "config.json").write_text(json.dumps({**config, "auto_map": code_map("image")}))
    write_beside(cascade, "image", code=True)
    return cascade


def test_code_goes_with_a_cascade_that_names_it_and_the_push_and_the_card_say_so(cascade: Path) -> None:
    plain = contents(cascade)
    assert not [note for note in plain.notes if "code" in note]
    assert "trust_remote_code" not in push(cascade, REPO, dry_run=True).card
    found = contents(with_code(cascade))
    assert "modeling_cascade.py" in {file.path for file in found.files}
    assert "modeling_cascade.py is code, which trust_remote_code=True runs for others." in found.notes
    assert (
        f'`pipeline("image-classification", model="{REPO}", trust_remote_code=True)`'
        in push(cascade, REPO, dry_run=True).card
    )
    lines = push(cascade, REPO, dry_run=True).words()
    assert any(line.endswith(" modeling_cascade.py") for line in lines)
    assert "note: modeling_cascade.py is code, which trust_remote_code=True runs for others." in lines


def test_code_that_hf_soups_did_not_write_is_sent_only_by_its_name(cascade: Path) -> None:
    code = with_code(cascade) / "modeling_cascade.py"
    code.write_text(code.read_text() + "\nprint('more')\n")
    with pytest.raises(InputError, match=r"modeling_cascade\.py: not the code that this version of hf_soups writes"):
        push(cascade, REPO, dry_run=True)
    sent = push(cascade, REPO, dry_run=True, include=["modeling_cascade.py"])
    assert "modeling_cascade.py" in {file.path for file in sent.files}
    code.unlink()
    with pytest.raises(InputError, match=r"config\.json names modeling_cascade\.py, which is not there"):
        push(cascade, REPO, dry_run=True)


def test_a_handler_that_hf_soups_did_not_write_is_sent_only_by_its_name(cascade: Path) -> None:
    handler = cascade / "handler.py"
    assert "handler.py" in {file.path for file in contents(cascade).files}
    handler.write_text(handler.read_text() + "\nprint('more')\n")
    with pytest.raises(InputError, match=r"handler\.py: not the code that this version of hf_soups writes.*Build the "
                       r"cascade again, or, if it is your own, send it by `include='handler\.py'`"):  # fmt: skip
        push(cascade, REPO, dry_run=True)
    sent = push(cascade, REPO, dry_run=True, include=["handler.py"])
    assert "handler.py" in {file.path for file in sent.files}
    handler.unlink()  # a cascade that was saved from Python has none
    assert "handler.py" not in {file.path for file in push(cascade, REPO, dry_run=True).files}


def test_a_space_holds_the_page_and_the_cascade_below_it(cascade: Path) -> None:
    def page(folder: Path) -> dict[str, str]:
        return {"app.py": f"print({folder.name!r})\n", "README.md": "---\nsdk: gradio\n---\n", "requirements.txt": ""}

    before = listed(cascade)
    with gathered(cascade, "me/space", page=page) as found:
        held = {file.path: file.source.read_bytes() for file in found.files}
    assert found.repo_type == "space"
    assert held == {
        **{f"model/{path}": data for path, data in before.items()},
        **{path: text.encode() for path, text in page(cascade).items()},
    }
    assert found.check is not None


def test_a_file_in_place_of_a_folder_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("a page")
    with pytest.raises(InputError, match=r"report\.html: a file\. Name the folder of a soup, a cascade"):
        push(tmp_path / "report.html", REPO, dry_run=True)


def test_a_space_of_something_else_is_refused(soup: Path) -> None:
    with pytest.raises(InputError, match="is a soup: a Space is made of a cascade"), gathered(soup, REPO, page=dict):
        pass


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    from hf_soups.cascades.plan import Plan
    from hf_soups.cascades.running.build_folder import build_cascade
    from hf_soups.pool.store import Member

    names = ("cat", "dog", "bird")
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    members = {n: Member(n, str(tiny_vit(tmp_path / n, seed=len(n), **labels))) for n in ("small", "larger")}
    plan = Plan(("small", "larger"), (0.8,), (1.0, 4.0), unit="macs")
    return build_cascade(plan, members, tmp_path / "cascade", kind="image", label_names=names)


def test_places_in_names_keys_sentences_tables_and_configs_stay_here(copied: Path) -> None:
    record = json.loads((copied / "soup.json").read_text())
    runs = ("/home/me/My runs/alice/run", "/home/me/My runs/bob/run", "/home/me/third")
    for ingredient, run in zip(record["ingredients"], runs, strict=False):
        ingredient |= {"source": run, "name": run}
    record |= {
        "pool": runs,
        "scores": {"singles": dict.fromkeys(runs, 0.5)},
        "why": f"{runs[1]} alone (0.5) is no better than {runs[0]}, see /var/log/mine/x.log.",
        "left_out": [{"name": runs[2], "reason": "C:\\Users\\me\\third: no config.json there"}],
    }
    (copied / "soup.json").write_text(json.dumps(record))
    (copied / "steps.csv").write_text(f"candidate,score\r\n{runs[0]},0.5\r\nplain,1\r\n", newline="")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(
        json.dumps({**config, "_name_or_path": "/home/me/start", "text": "/not/a/place"})
    )
    (copied / "tokenizer_config.json").write_text('{"name_or_path": "org/model", "chat_template": "/a/b c"}')
    told = texts(copied)
    assert "home" not in told["soup.json"] + told["config.json"] + told["steps.csv"]
    clean = json.loads(told["soup.json"])
    assert clean["pool"] == ["./alice/run", "./bob/run", "./third"]
    assert list(clean["scores"]["singles"]) == [*clean["pool"]]
    assert clean["ingredients"][1]["name"] == "./bob/run"
    assert clean["why"] == "./bob/run alone (0.5) is no better than ./alice/run, see ./x.log."
    assert clean["left_out"] == [{"name": "./third", "reason": "./third: no config.json there"}]
    assert told["steps.csv"].splitlines() == ["candidate,score", "./alice/run,0.5", "plain,1"]
    assert json.loads(told["config.json"]) == {**config, "_name_or_path": "./start", "text": "/not/a/place"}
    assert told["tokenizer_config.json"] == (copied / "tokenizer_config.json").read_text()
