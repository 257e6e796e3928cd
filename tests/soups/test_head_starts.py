"""Heads that point elsewhere than the first's are a warning, where no record says which start they had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.inspection import inspect_checkpoints
from hf_soups.soups.head_starts import head_angle, heads_apart
from tests.makers.pile import near
from tests.makers.tiny import tiny_bert, tiny_roberta, tiny_vit


def set_head(folder: Path, weight: torch.Tensor, name: str = "classifier.weight") -> Path:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: weight}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def pile(tmp_path: Path) -> list[Path]:
    """A start with a head, and three fine-tunes of it."""
    start = tiny_bert(tmp_path / "start", seed=1)
    return [start, *(near(start, tmp_path / f"m{i}", seed=i) for i in range(3))]


def other_head(folder: Path) -> Path:
    torch.manual_seed(99)
    return set_head(folder, torch.randn(2, 32) * 0.1)


def test_heads_of_one_start_are_passed_without_a_word(pile: list[Path]) -> None:
    assert heads_apart([Checkpoint(folder) for folder in pile[1:]], Checkpoint(pile[0])) == ()


def test_cook_and_inspect_warn_of_a_head_that_points_elsewhere(pile: list[Path], tmp_path: Path) -> None:
    other_head(pile[2])
    result = cook(list(map(str, pile[1:])), out=tmp_path / "soup", tell=None)
    (said,) = result.warnings
    assert f"{pile[2]}: its head points elsewhere than {pile[1]}'s (" in said
    assert "fine-tune all ingredients from one start" in said
    found = inspect_checkpoints(pile[1:])
    assert found.mixable
    assert [f.message for f in found.warnings] == [said]


def test_heads_that_all_left_the_start_are_a_warning(pile: list[Path]) -> None:
    head = load_file(other_head(pile[1]) / "model.safetensors")["classifier.weight"]
    for folder in pile[2:]:
        set_head(folder, head * 1.1)
    (said,) = heads_apart([Checkpoint(folder) for folder in pile[1:]], Checkpoint(pile[0]))
    assert f"{pile[1]}: its head points elsewhere than {pile[0]}'s" in said.message
    assert heads_apart([Checkpoint(folder) for folder in pile[1:]]) == ()


def test_the_angle_is_between_what_tells_classes_apart(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one"), tiny_bert(tmp_path / "two")]
    row = torch.zeros(32)
    row[0] = 1.0
    set_head(pair[0], torch.stack([row, -row]))
    set_head(pair[1], torch.stack([row, -row]) + 100.0)  # the same for both classes
    angle = head_angle(*(Checkpoint(folder) for folder in pair))
    assert angle == pytest.approx(0.0, abs=0.1)
    turned = torch.roll(row, 1)
    set_head(pair[1], torch.stack([turned, -turned]))
    assert head_angle(*(Checkpoint(folder) for folder in pair)) == pytest.approx(90.0)


def test_the_last_of_two_layers_is_measured(tmp_path: Path) -> None:
    pair = [tiny_roberta(tmp_path / "one", seed=1), tiny_roberta(tmp_path / "two", seed=1)]
    torch.manual_seed(0)
    set_head(pair[1], torch.randn(2, 32), "classifier.out_proj.weight")
    assert len(heads_apart([Checkpoint(folder) for folder in pair])) == 1


def test_heads_of_opposite_direction_may_be_of_another_order_of_classes(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one"), tiny_bert(tmp_path / "two")]
    set_head(pair[1], load_file(pair[0] / "model.safetensors")["classifier.weight"].flip(0))
    (said,) = heads_apart([Checkpoint(folder) for folder in pair])
    assert "180° apart" in said.message
    assert "Or their classes are in another order." in said.message


def test_recorded_starts_decide_by_themselves(pile: list[Path]) -> None:
    other_head(pile[2])
    for folder in pile[1:]:
        (folder / "run.json").write_text(json.dumps({"status": "finished", "head_fingerprint": "a" * 64}))
    assert heads_apart([Checkpoint(folder) for folder in pile[1:]]) == ()


def test_a_model_without_a_head_or_with_another_one_is_not_measured(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path / "bert")
    vit = tiny_vit(tmp_path / "vit")
    assert head_angle(Checkpoint(bert), Checkpoint(vit)) is None
    gone = Checkpoint(shutil.copytree(bert, tmp_path / "gone"))
    (tmp_path / "gone" / "model.safetensors").unlink()
    assert heads_apart([Checkpoint(bert)], gone) == ()
