"""Digests that are made of what a mixture reads and writes are those of the files, and files are then read once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError
from hf_soups.files import digests
from hf_soups.soups.mixing import blocks, compiled, mix_to_folder
from tests.makers.folders import folder_of

SIZES = {"a": 300_000, "b": 17, "c": 200_000, "d": 1}
STEPS = {"steps": torch.arange(600)}  # the floats behind it do not start where a piece does


@pytest.fixture(autouse=True)
def _nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_SOUPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", 60.0)


def ingredient(folder: Path, seed: int, dtype: torch.dtype = torch.float32, *, shards: int = 1) -> Path:
    made = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(size, generator=made).to(dtype) for name, size in SIZES.items()}
    return folder_of(folder, {**STEPS, **tensors}, shards=shards)


@pytest.mark.parametrize("way", ["compiled", "one by one", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_they_are_those_of_the_files(
    dtype: torch.dtype, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "compiled":
        monkeypatch.setattr(blocks, "KEPT", 0)
    if way == "plain":
        monkeypatch.setattr(blocks, "add", lambda *_, **__: False)
    folders = [ingredient(tmp_path / str(seed), seed, dtype) for seed in range(3)]
    members = [Checkpoint(folder) for folder in folders]
    written = mix_to_folder(members, (0.5, 0.25, 0.25), tmp_path / "out", digests=True)
    assert [member.__dict__["_digest"] for member in members] == [Checkpoint(f).digest() for f in folders]
    (tmp_path / "out/config.json").write_bytes((folders[0] / "config.json").read_bytes())
    assert written == Checkpoint(tmp_path / "out").digest()
    assert written.startswith("xxh3-pieces:")


@pytest.mark.parametrize("shards", [(1, 2), (2, 1), (2, 2)])
def test_shards_that_are_cut_elsewhere_and_ingredients_that_are_not_mixed_have_theirs(
    shards: tuple[int, int], tmp_path: Path
) -> None:
    folders = [ingredient(tmp_path / str(i), i, shards=count) for i, count in enumerate((*shards, 1))]
    members = [Checkpoint(folder) for folder in folders]
    mix_to_folder(members, (0.5, 0.5, 0.0), tmp_path / "out", digests=True, max_shard_size=900_000)
    assert [member.__dict__["_digest"] for member in members] == [Checkpoint(f).digest() for f in folders]


def test_weights_are_read_once_for_the_mixture_and_their_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [Checkpoint(ingredient(tmp_path / str(seed), seed)) for seed in range(2)]
    _ = [member.tensors for member in members]
    hashed: Counter[Path] = Counter()

    def counted(file: int, into: memoryview, offset: int, path: Path) -> None:
        hashed[path] += len(into)
        digests_read(file, into, offset, path)

    digests_read = digests.read_exactly
    monkeypatch.setattr(digests, "read_exactly", counted)
    mix_to_folder(members, (0.5, 0.5), tmp_path / "out", digests=True)
    for member in members:
        (file,) = member.weight_files
        # what is not part of a block alone is read again: the header, and the piece that also holds integers
        assert hashed[file] <= digests.PIECE + 10_000 < file.stat().st_size / 3


def test_a_file_that_changes_after_it_was_mixed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Checkpoint(ingredient(tmp_path / str(seed), seed)) for seed in range(2)]
    (file,) = members[1].weight_files
    mixed = blocks.BlockMixer.output

    def changed(self: blocks.BlockMixer, *where: object) -> object:
        found = mixed(self, *where)  # type: ignore[arg-type]
        os.utime(file, ns=(0, 0))
        return found

    monkeypatch.setattr(blocks.BlockMixer, "output", changed)
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        mix_to_folder(members, (0.5, 0.5), tmp_path / "out", digests=True)
    assert not (tmp_path / "out").exists()


def test_the_digest_is_what_the_docs_say(tmp_path: Path) -> None:
    from xxhash import xxh3_128

    folder = ingredient(tmp_path / "one", 0)
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    parts = [data[:start], *(data[at : at + 512 * 1024] for at in range(start, len(data), 512 * 1024))]
    of_file = xxh3_128(b"".join(xxh3_128(part).digest() for part in parts)).digest()
    assert Checkpoint(folder).digest() == f"xxh3-pieces:{xxh3_128(of_file).hexdigest()}"


def test_records_are_compared_by_the_way_that_they_name(tmp_path: Path) -> None:
    one, other = (Checkpoint(ingredient(tmp_path / str(seed), seed)) for seed in range(2))
    for recorded in (one.digest(), one.sha256()):
        assert one.has_weights(recorded)
        assert not other.has_weights(recorded)


def test_the_loops_are_there_on_this_machine() -> None:
    pytest.importorskip("llvmlite")
    assert compiled._mix_loop("F32", True, "F32") is not None
    assert compiled._mix_loop("BF16", False, "BF16") is not None
