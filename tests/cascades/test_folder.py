"""Building a cascade's folder: what is in it, what is refused, and that nothing half-written is left."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.cascades.running.config import CascadeConfig
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, InputError, MemberError
from hf_soups.pool.store import Member
from hf_soups.soups import uniform
from tests.cascades.made import NAMES
from tests.makers.tiny import tiny_resnet, tiny_vit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAN = Plan(("small", "big"), (0.5,), (1.0, 4.0), unit="macs")
HOW: dict[str, Any] = {"kind": "image", "label_names": NAMES}
IDS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Member]:
    folder = tmp_path_factory.mktemp("members")
    return {
        name: Member(name, str(build(folder / name, labels=4, seed=i, **IDS)))
        for i, (name, build) in enumerate({"small": tiny_vit, "big": tiny_resnet}.items())
    }


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_each_member_as_it_was(members: dict[str, Member], tmp_path: Path) -> None:
    out = build_cascade(PLAN, members, tmp_path / "c", **HOW)
    own = {
        f"member_{i}/{name}"
        for i in (0, 1)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    }
    assert files(out) == {"config.json", "preprocessor_config.json", "handler.py", "requirements.txt", *own}
    for i, member in enumerate(members.values()):
        for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
            assert (out / f"member_{i}" / name).read_bytes() == (Path(member.source) / name).read_bytes()
    assert not (out / "member_0" / "model.safetensors").samefile(Path(members["small"].source) / "model.safetensors")
    assert (out / "requirements.txt").read_text().startswith("hf_soups>=")
    config = CascadeConfig.from_pretrained(out)
    assert config.built == PLAN
    assert config.architectures == ["CascadeForImageClassification"]
    assert config.label_names == NAMES
    assert config.problem_type == "single_label_classification"


def test_nothing_in_the_folder_lies_deeper_than_the_hub_takes(members: dict[str, Member], tmp_path: Path) -> None:
    small = Path(build_cascade(PLAN, members, tmp_path / "c", **HOW)) / "member_0"
    (small / "additional_chat_templates").mkdir()
    (small / "additional_chat_templates" / "one.jinja").write_text("x")
    again = build_cascade(PLAN, {**members, "small": Member("small", str(small))}, tmp_path / "d", **HOW)
    assert max(name.count("/") for name in files(again)) == 1


def test_a_soup_can_be_a_member_and_keeps_its_record(members: dict[str, Member], tmp_path: Path) -> None:
    other = tiny_vit(tmp_path / "other", labels=4, seed=5, **IDS)
    soup = uniform([Checkpoint(members["small"].source), Checkpoint(other)]).save_pretrained(tmp_path / "soup")
    out = build_cascade(PLAN, {**members, "small": Member("small", str(soup))}, tmp_path / "c", **HOW)
    assert json.loads((out / "member_0" / "soup.json").read_text())["method"]


def test_members_that_share_everything_are_stored_once(members: dict[str, Member], tmp_path: Path) -> None:
    copy = tiny_vit(tmp_path / "copy", labels=4, seed=0, **IDS)
    digest = Checkpoint(copy).sha256()
    small = replace(members["small"], sha256=digest)
    plan = Plan(("small", "copy", "big"), (0.5, 0.5), (1.0, 2.0, 4.0))
    twin = Member("copy", str(copy), image_size=48, sha256=digest)
    out = build_cascade(plan, {**members, "small": small, "copy": twin}, tmp_path / "c", **HOW)
    assert [place.subfolder for place in CascadeConfig.from_pretrained(out).places] == [
        "member_0",
        "member_0",
        "member_2",
    ]
    (copy / "preprocessor_config.json").write_text(
        (copy / "preprocessor_config.json").read_text().replace('"do_resize": true', '"do_resize": false')
    )
    out = build_cascade(plan, {**members, "small": small, "copy": twin}, tmp_path / "d", **HOW)
    assert [place.subfolder for place in CascadeConfig.from_pretrained(out).places] == [
        "member_0",
        "member_1",
        "member_2",
    ]


def test_labels_are_matched_by_name(members: dict[str, Member], tmp_path: Path) -> None:
    wanted = ("great", "good", "bad")
    out = build_cascade(PLAN, members, tmp_path / "c", kind="image", label_names=wanted)
    assert CascadeConfig.from_pretrained(out).places[1].label_order == (3, 2, 0)
    with pytest.raises(MemberError, match=r"member 'small' cannot be part of the cascade.*'cat'"):
        build_cascade(PLAN, members, tmp_path / "d", kind="image", label_names=("cat", "bad"))


def test_members_without_label_names_are_taken_only_when_told(members: dict[str, Member], tmp_path: Path) -> None:
    nameless = {**members, "small": Member("small", str(tiny_vit(tmp_path / "n", labels=4)))}
    with pytest.raises(MemberError, match="LABEL_0"):
        build_cascade(PLAN, nameless, tmp_path / "c", **HOW)
    build_cascade(PLAN, nameless, tmp_path / "c", assume_label_order=True, **HOW)


def test_the_frontier_keeps_what_these_members_can_follow(members: dict[str, Member], tmp_path: Path) -> None:
    kept = Plan(("big", "small"), (0.3,), (4.0, 1.0), unit="macs")
    others = [replace(kept, unit="seconds"), replace(kept, costs=(4.0, 2.0)), Plan(("else",), (), (1.0,), unit="macs")]
    out = build_cascade(PLAN, members, tmp_path / "c", frontier=[PLAN, kept, *others], **HOW)
    assert CascadeConfig.from_pretrained(out).plans == (PLAN, kept)


class TestReferences:
    def test_hub_members_stay_references_at_their_commit(
        self, members: dict[str, Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        places = {f"org/{name}": Path(member.source) for name, member in members.items()}
        self.offline_hub(monkeypatch, tmp_path, places)
        hub = {name: Member(name, f"org/{name}") for name in members}
        out = build_cascade(PLAN, hub, tmp_path / "c", references=True, **HOW)
        assert files(out) == {"config.json", "preprocessor_config.json", "handler.py", "requirements.txt"}
        assert [(p.repo, p.revision) for p in CascadeConfig.from_pretrained(out).places] == [
            ("org/small", COMMIT),
            ("org/big", COMMIT),
        ]
        from hf_soups.cascades.running.model import CascadeForImageClassification

        model = CascadeForImageClassification.from_pretrained(out)
        model.save_pretrained(tmp_path / "again")  # type: ignore[union-attr]
        assert files(tmp_path / "again") == {"config.json", "preprocessor_config.json"}

    def offline_hub(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, places: dict[str, Path]) -> None:
        """Snapshots in the layout of the Hub's cache."""

        def download(repo: str, revision: str | None, subfolder: str | None, **hub: Any) -> Path:
            assert revision in (None, COMMIT)
            snapshot = tmp_path / "hub" / repo.replace("/", "--") / "snapshots" / COMMIT
            if not snapshot.exists():
                snapshot.parent.mkdir(parents=True)
                snapshot.symlink_to(places[repo])
            return snapshot

        monkeypatch.setattr("hf_soups.checkpoint.download", download)
        monkeypatch.setattr("hf_soups.cascades.running.members.download", download)

    def test_local_members_cannot_be_references(self, members: dict[str, Member], tmp_path: Path) -> None:
        with pytest.raises(MemberError, match="a folder on this machine"):
            build_cascade(PLAN, members, tmp_path / "c", references=True, **HOW)


class TestBadInput:
    def test_members_that_are_not_there(self, members: dict[str, Member], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no member big; there are: small"):
            build_cascade(PLAN, {"small": members["small"]}, tmp_path / "c", **HOW)
        gone = {**members, "big": Member("big", str(tmp_path / "gone"))}
        with pytest.raises(MemberError, match=r"member 'big'.*no such folder"):
            build_cascade(PLAN, gone, tmp_path / "c", **HOW)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda f: (f / "model.safetensors").write_bytes(b"x"), "model.safetensors"),
            (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "can run code"),
            (lambda f: (f / "preprocessor_config.json").unlink(), "no tokenizer or image processor"),
            (lambda f: (f / "config.json").write_text('{"model_type": "cascade"}'), "a cascade itself"),
            (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "cannot be"),
        ],
    )
    def test_members_that_cannot_be_used(
        self, members: dict[str, Member], tmp_path: Path, spoil: Callable[[Path], Any], told: str
    ) -> None:
        bad = tiny_vit(tmp_path / "bad", labels=4, **IDS)
        spoil(bad)
        with pytest.raises(MemberError, match=f"(?s)member 'small'.*{told}"):
            build_cascade(PLAN, {**members, "small": Member("small", str(bad))}, tmp_path / "c", **HOW)
        assert [path.name for path in tmp_path.iterdir()] == ["bad"]

    def test_zero_shot_members_without_texts(self, members: dict[str, Member], tmp_path: Path) -> None:
        clip = replace(members["small"], templates=("a {}.",))
        with pytest.raises(MemberError, match=r"(?s)'small' cannot be part.*text tower, which is missing"):
            build_cascade(PLAN, {**members, "small": clip}, tmp_path / "c", **HOW)

    def test_an_unknown_kind(self, members: dict[str, Member], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="kind is 'sound'"):
            build_cascade(PLAN, members, tmp_path / "c", kind="sound", label_names=NAMES)

    def test_what_is_there_is_replaced_only_when_told_and_a_cascade(
        self, members: dict[str, Member], tmp_path: Path
    ) -> None:
        out = build_cascade(PLAN, members, tmp_path / "c", **HOW)
        with pytest.raises(InputError, match="exists already"):
            build_cascade(PLAN, members, out, **HOW)
        build_cascade(replace(PLAN, thresholds=(0.25,)), members, out, overwrite=True, **HOW)
        assert CascadeConfig.from_pretrained(out).built.thresholds == (0.25,)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("x")
        with pytest.raises(InputError, match="was not made by this command"):
            build_cascade(PLAN, members, tmp_path / "mine", overwrite=True, **HOW)

    def test_nothing_is_left_of_a_build_that_fails(
        self, members: dict[str, Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(source: Any, target: Any) -> None:
            if "member_1" in str(target):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("hf_soups.cascades.running.build_folder.shutil.copyfile", full)
        with pytest.raises(HfSoupsError, match="the disk is full"):
            build_cascade(PLAN, members, tmp_path / "c", **HOW)
        assert list(tmp_path.iterdir()) == []


def test_the_handler_answers_requests(members: dict[str, Member], tmp_path: Path) -> None:
    from PIL import Image

    out = build_cascade(PLAN, members, tmp_path / "c", **HOW)
    spec = importlib.util.spec_from_file_location("handler", out / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.EndpointHandler(str(out))
    image = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    answers = handler({"inputs": image, "parameters": {"top_k": 2, "return_exits": True}})
    assert len(answers) == 2
    assert set(answers[0]) == {"label", "score", "exit", "members", "cost"}
    with pytest.raises(ValueError, match='a request needs "inputs"'):
        handler({"text": "x"})
