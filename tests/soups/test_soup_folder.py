"""A soup's folder: an ordinary checkpoint with a record, whole or not at all."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.soups import Soup, greedy, uniform
from hf_soups.soups import soup as soup_module
from tests.makers.pile import NAMES, label, near
from tests.makers.tiny import tiny_bert


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("three")
    start = label(tiny_bert(folder / "start"), NAMES)
    return [near(start, folder / f"m{i}", seed=i) for i in range(3)]


def pool(paths: list[Path]) -> list[Checkpoint]:
    return [Checkpoint(path) for path in paths]


def test_a_saved_soup_loads_as_any_checkpoint_and_is_the_mean(three: list[Path], tmp_path: Path) -> None:
    out = uniform(pool(three)).save_pretrained(tmp_path / "soup")
    model = AutoModelForSequenceClassification.from_pretrained(out)
    weights = [load_file(path / "model.safetensors") for path in three]
    for name, tensor in load_file(out / "model.safetensors").items():
        exact = np.mean([w[name].double().numpy() for w in weights], axis=0)
        np.testing.assert_allclose(tensor.numpy(), exact, rtol=2**-23, atol=1e-30)  # one unit in the last place
        assert torch.equal(model.state_dict()[name], tensor)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert AutoTokenizer.from_pretrained(out)("a good film").input_ids


def test_the_record_says_what_the_soup_is_made_of(three: list[Path], tmp_path: Path) -> None:
    table = iter([0.5, 0.7, 0.6, 0.8, 0.75])
    greedy(pool(three), lambda soup: next(table)).save_pretrained(tmp_path / "soup")
    record = json.loads((tmp_path / "soup/soup.json").read_text())
    assert record["format"] == "hf_soups.soup.v1"
    assert record["method"] == "greedy"
    assert [i["name"] for i in record["ingredients"]] == ["m1", "m2"]
    for ingredient in record["ingredients"]:
        assert ingredient["digest"] == Checkpoint(ingredient["source"]).digest()
        assert ingredient["coefficient"] == 0.5
    assert [(s["candidate"], s["score"], s["accepted"]) for s in record["steps"]] == [
        ("m1", 0.7, True),
        ("m2", 0.8, True),
        ("m0", 0.75, False),
    ]
    assert record["scores"] == {"score": 0.8, "singles": {"m1": 0.7, "m2": 0.6, "m0": 0.5}}
    assert record["label_names"] == list(NAMES)
    assert {"hf_soups", "torch", "transformers"} <= set(record["versions"])


def test_scores_that_are_not_numbers_are_null_in_strict_json(three: list[Path], tmp_path: Path) -> None:
    table = iter([0.5, float("nan"), float("nan")])
    greedy(pool(three[:2]), lambda soup: next(table)).save_pretrained(tmp_path / "soup")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "soup/soup.json").read_text(), parse_constant=refuse)
    assert record["steps"][1]["score"] is None


@pytest.mark.parametrize(("dtype", "key"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_a_soup_keeps_its_ingredients_dtype(three: list[Path], tmp_path: Path, dtype: torch.dtype, key: str) -> None:
    narrow = []
    for path in three:
        copy = shutil.copytree(path, tmp_path / path.name)
        weights = load_file(copy / "model.safetensors")
        save_file({n: w.to(dtype) for n, w in weights.items()}, copy / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "dtype": key}))
        narrow.append(copy)
    out = uniform(pool(narrow)).save_pretrained(tmp_path / "soup")
    assert json.loads((out / "config.json").read_text())["dtype"] == key
    assert {w.dtype for w in load_file(out / "model.safetensors").values()} == {dtype}
    assert AutoModelForSequenceClassification.from_pretrained(out, dtype="auto").dtype == dtype


def test_a_soup_can_be_cast_and_its_config_says_so(three: list[Path], tmp_path: Path) -> None:
    out = uniform(pool(three)).save_pretrained(tmp_path / "soup", dtype="bfloat16")
    assert {w.dtype for w in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((out / "config.json").read_text())
    assert (config["dtype"], config.get("torch_dtype")) == ("bfloat16", None)


def test_an_unknown_dtype_is_refused_with_the_known_ones(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be cast to 'int4'; expected one of float32, float16, bfloat16"):
        uniform(pool(three)).save_pretrained(tmp_path / "soup", dtype="int4")
    assert list(tmp_path.iterdir()) == []


def test_only_a_soup_is_overwritten_and_none_where_that_is_refused(three: list[Path], tmp_path: Path) -> None:
    out = uniform(pool(three)).save_pretrained(tmp_path / "soup")
    before = (out / "soup.json").read_text()
    with pytest.raises(InputError, match="exists already"):
        uniform(pool(three[:2])).save_pretrained(out, overwrite=False)
    assert (out / "soup.json").read_text() == before
    uniform(pool(three[:2])).save_pretrained(out)
    assert len(json.loads((out / "soup.json").read_text())["ingredients"]) == 2
    with pytest.raises(InputError, match=r"holds no soup\.json"):
        uniform(pool(three)).save_pretrained(three[0], overwrite=True)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_nothing_half_written_and_an_earlier_soup_intact(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    out = tmp_path / "soup"
    if earlier:
        uniform(pool(three[:2])).save_pretrained(out)
    before = sorted(p.name for p in tmp_path.rglob("*"))

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(soup_module.shutil, "copyfile", full)
    with pytest.raises(HfSoupsError, match=r"the disk is full\. Free some space") as raised:
        uniform(pool(three)).save_pretrained(out, overwrite=earlier)
    assert raised.value.exit_status == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_what_a_killed_process_left_is_removed_by_the_next(three: list[Path], tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    abandoned = tmp_path / f".soup.partial-{gone.stdout.strip()}"
    abandoned.mkdir()
    (abandoned / "model.safetensors").write_bytes(b"half")
    uniform(pool(three)).save_pretrained(tmp_path / "soup")
    assert [p.name for p in tmp_path.iterdir()] == ["soup"]


def test_weights_and_code_of_ingredients_are_not_carried_over(three: list[Path], tmp_path: Path) -> None:
    first = shutil.copytree(three[0], tmp_path / "first")
    (first / "modeling_mine.py").write_text("raise SystemExit")
    (first / "pytorch_model.bin").write_bytes(b"pickle")
    out = uniform([Checkpoint(first), Checkpoint(three[1])]).save_pretrained(tmp_path / "soup")
    assert {p.name for p in out.iterdir()} == {
        "config.json", "model.safetensors", "soup.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_soups_of_soups_can_have_negative_coefficients(three: list[Path], tmp_path: Path) -> None:
    """Task vectors: a + b - c, against a dense sum."""
    out = Soup(tuple(pool(three)), (1.0, 1.0, -1.0)).save_pretrained(tmp_path / "soup")
    a, b, c = (load_file(path / "model.safetensors") for path in three)
    for name, tensor in load_file(out / "model.safetensors").items():
        exact = a[name].double() + b[name].double() - c[name].double()
        torch.testing.assert_close(tensor.double(), exact, rtol=0, atol=float(exact.abs().max()) * 2**-23 + 1e-30)
