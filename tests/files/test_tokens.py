"""Tokens that no HTTP header can carry are refused in one line that does not show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.hub_refusals import check_token
from hf_soups.hub import push
from hf_soups.models.loading import config_of

BAD = {
    "hf_top\nsecret": "a line break", "hf_top\r\nsecret": "a line break", "hf_top secret": "a blank",
    "hf_top\tsecret": "a control character", "hf_top\x00secret": "a control character",
    "hf_top\x7fsecret": "a control character", "hf_töpsecret": "a character that is not ASCII",
    "hf_top\u200bsecret": "a character that is not ASCII", "Жtopsecret": "a character that is not ASCII",
}  # fmt: skip


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def refused(where: str, kind: str, told: str) -> bool:
    shows = "secret" in told.replace(where, "") or "top" in told.replace(where, "")
    return told.startswith(f"{where} cannot be sent: it holds {kind}. ") and "\n" not in told and not shows


@pytest.mark.parametrize("token", BAD)
@pytest.mark.parametrize("where", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "the token", "the token in"])
def test_a_token_that_is_no_header_is_refused_from_wherever_it_comes(
    where: str, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if where == "the token in":
        (tmp_path / "token").write_text(token, newline="")
        where = f"the token in {tmp_path / 'token'}"
    elif where.isupper():
        if "\x00" in token:
            pytest.skip("an environment cannot hold it")
        monkeypatch.setenv(where, token)
    with pytest.raises(InputError) as error:
        check_token(token if where == "the token" else None)
    assert refused(where, BAD[token], str(error.value))
    check_token(False)


@pytest.mark.parametrize("token", ["hf_good", "hf_good\n", " hf_good\r\n", "", "\n"])
def test_white_space_around_a_token_is_cut_off_as_the_client_does(
    token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    check_token()
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(token)
    check_token()


def test_bytes_that_are_no_text_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"hf_\xff\xfe")
    with pytest.raises(InputError, match="it holds a character that is not ASCII"):
        check_token()


def test_offline_no_token_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_top secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_token()


def test_push_dry_run_and_every_way_of_pulling_look_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hf_soups.data.sources import load_dataset_split
    from hf_soups.recipe.task import Task

    monkeypatch.setenv("HF_TOKEN", "hf_top secret")
    (tmp_path / "soup.json").write_text("{}")
    ways = [
        lambda: push(tmp_path, "me/soup"),
        lambda: push(tmp_path, "me/soup", dry_run=True),
        lambda: Checkpoint("me/model").folder,
        lambda: config_of("me/model"),
        lambda: load_dataset_split(Task(kind="text", text=("text",), path="me/data"), "train"),
    ]
    for way in ways:
        with pytest.raises(InputError) as error:
            way()
        assert refused("HF_TOKEN", "a blank", str(error.value))
    monkeypatch.delenv("HF_TOKEN")
    for how in ({"dry_run": True}, {}):
        with pytest.raises(InputError) as error:
            push(tmp_path, "me/soup", token="hf_top secret", **how)
        assert refused("the token", "a blank", str(error.value))
