"""Links are followed while they stay inside a folder; whatever leads out is refused by every reader of our records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.files.downloads import inside_of, refuse_links_out
from hf_soups.reporting.cards.card import card_for
from hf_soups.sweep.folder import SoupPointer

COMMIT = "0" * 40


def checkpoint(at: Path, record: bool = True) -> Path:
    """What a soup's folder holds, without weights."""
    at.mkdir(parents=True, exist_ok=True)
    (at / "config.json").write_text('{"model_type": "vit"}')
    (at / "tokenizer.json").write_text("{}")
    if record:
        (at / "soup.json").write_text("{}")
    return at


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = checkpoint(tmp_path / "outside", record=False)
    (place / "secret").write_text("of somebody")
    return place


def a_file(folder: Path, outside: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(outside / "secret")


def a_folder(folder: Path, outside: Path) -> None:
    (folder / "additional_chat_templates").symlink_to(outside, target_is_directory=True)


def a_link_to_a_link(folder: Path, outside: Path) -> None:
    (folder / "b").symlink_to("/" + str(outside / "secret"))
    (folder / "a").symlink_to("b")


def a_circle(folder: Path, outside: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")


def nowhere(folder: Path, outside: Path) -> None:
    (folder / "a").symlink_to(outside / "gone")


EVIL = pytest.mark.parametrize("link", [a_file, a_folder, a_link_to_a_link, a_circle, nowhere])
Link = Callable[[Path, Path], None]


@EVIL
def test_a_soup_that_holds_a_link_out_of_it_is_not_read(tmp_path: Path, outside: Path, link: Link) -> None:
    soup = checkpoint(tmp_path / "soup")
    assert Checkpoint(soup).folder == soup
    link(soup, outside)
    with pytest.raises(HfSoupsError, match=r"leads to .*, outside .*soup\. Nothing outside is read: put a copy"):
        _ = Checkpoint(soup).folder


@EVIL
def test_a_subfolder_that_holds_a_link_out_of_the_whole_is_not_read(tmp_path: Path, outside: Path, link: Link) -> None:
    member = checkpoint(tmp_path / "cascade" / "member_0", record=False)
    link(member, outside)
    with pytest.raises(HfSoupsError, match=r"member_0/.* leads to .*, outside .*cascade\. Nothing outside is read"):
        _ = Checkpoint(tmp_path / "cascade", subfolder="member_0").folder


def test_a_subfolder_that_is_itself_a_link_out_is_not_read(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "cascade").mkdir()
    (tmp_path / "cascade" / "member_0").symlink_to(outside, target_is_directory=True)
    with pytest.raises(HfSoupsError, match=r"member_0: leads to .*outside, outside .*cascade"):
        _ = Checkpoint(tmp_path / "cascade", subfolder="member_0").folder


def test_links_that_stay_inside_and_links_to_the_whole_are_followed(tmp_path: Path) -> None:
    cascade = tmp_path / "cascade"
    checkpoint(cascade / "member_0")
    checkpoint(cascade / "member_1")
    (cascade / "member_1" / "tokenizer.json").unlink()
    (cascade / "member_1" / "tokenizer.json").symlink_to("../member_0/tokenizer.json")
    (tmp_path / "elsewhere").symlink_to(cascade, target_is_directory=True)
    for at in (cascade, tmp_path / "elsewhere"):
        assert (Checkpoint(at, subfolder="member_1").folder / "tokenizer.json").read_text() == "{}"
    refuse_links_out(tmp_path / "elsewhere")


def test_a_users_own_checkpoint_may_be_made_of_links(tmp_path: Path, outside: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").symlink_to(outside / "config.json")
    assert Checkpoint(own).config["model_type"] == "vit"


@pytest.mark.parametrize("shared", [False, True])
def test_the_hubs_cache_is_read_though_it_is_made_of_links(tmp_path: Path, shared: bool) -> None:
    repo = tmp_path / "hub" / "models--me--soup"
    blob = (tmp_path / "hub" / "blobs" / "ab" / "abc") if shared else (repo / "blobs" / "abc")
    blob.parent.mkdir(parents=True)
    blob.write_text('{"model_type": "vit"}')
    snapshot = repo / "snapshots" / COMMIT
    for at in (snapshot, snapshot / "member_0"):
        at.mkdir(parents=True)
        for name in ("config.json", "soup.json"):
            (at / name).symlink_to(blob)
    assert Checkpoint(snapshot).config["model_type"] == "vit"
    assert Checkpoint(snapshot, subfolder="member_0").config["model_type"] == "vit"
    (snapshot / "member_0" / "more").symlink_to(tmp_path / "hub" / "models--you--soup")
    with pytest.raises(HfSoupsError, match=r"more: leads to .*models--you--soup, outside"):
        _ = Checkpoint(snapshot, subfolder="member_0").folder


@pytest.mark.parametrize("name", ["../outside/secret", "/etc/passwd", "in/../../outside"])
def test_a_name_in_a_record_that_leads_out_is_refused(tmp_path: Path, outside: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "soup")
    with pytest.raises(HfSoupsError, match=r"outside .*soup\. Nothing outside is read"):
        inside_of(folder, name)
    assert inside_of(folder, "predictions") == folder / "predictions"


def test_a_sweeps_pointer_to_predictions_outside_of_the_soup_is_refused(tmp_path: Path, outside: Path) -> None:
    checkpoint(tmp_path / "soup")
    pointer = tmp_path / "runs" / "soups" / "greedy.json"
    pointer.parent.mkdir(parents=True)
    told = {"path": "../../soup", "predictions": "predictions"}
    pointer.write_text(json.dumps(told))
    assert SoupPointer(pointer).folder() == tmp_path / "soup"
    pointer.write_text(json.dumps({**told, "predictions": "../outside"}))
    with pytest.raises(HfSoupsError, match=r"the predictions are said to lie in '\.\./outside', not in the soup"):
        SoupPointer(pointer).folder()
    pointer.write_text(json.dumps(told))
    (tmp_path / "soup" / "predictions").symlink_to(outside)
    with pytest.raises(HfSoupsError, match="Nothing outside is read"):
        SoupPointer(pointer).folder()


def test_no_card_is_made_of_what_lies_outside(tmp_path: Path, outside: Path) -> None:
    card = tmp_path / "card"
    shutil.copytree(Path(__file__).parents[2] / "model_cards" / "digits-vit-greedy", card)
    card_for(card)
    (card / "recipe.yaml").unlink()
    (card / "recipe.yaml").symlink_to(outside / "secret")
    with pytest.raises(HfSoupsError, match=r"recipe\.yaml: leads to .*secret, outside"):
        card_for(card)
