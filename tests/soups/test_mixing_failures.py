"""Whatever goes wrong while a mixture is written: one clear message, nothing half-written, ingredients untouched."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, HfSoupsError, InputError
from hf_soups.files.tensorfile import FileStamp
from hf_soups.files.weights import open_unchanged
from hf_soups.soups.mixing import mix_to_folder
from hf_soups.soups.mixing import to_files as mixing
from tests.makers.folders import folder_of, names_below

TENSORS = {"a": torch.ones(1000), "b": torch.ones(50, 50)}


@pytest.fixture
def pair(tmp_path: Path) -> list[Checkpoint]:
    return [Checkpoint(folder_of(tmp_path / name, TENSORS)) for name in ("one", "two")]


def refused(pair: list[Checkpoint], out: Path, kind: type[Exception] = HfSoupsError, **how: object) -> str:
    before = names_below(out)
    with pytest.raises(kind) as error:
        mix_to_folder(pair, (0.5, 0.5), out, **how)  # type: ignore[arg-type]
    assert names_below(out) == before
    return str(error.value)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "larger than allowed here"),
        (errno.EROFS, "no permission to write there"),
        (errno.EIO, "could not be written"),
    ],
)
def test_a_write_that_fails_half_way_leaves_nothing(
    code: int, said: str, threads: int, pair: list[Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = os.pwrite, iter(range(100))

    def fails_at_the_fifth(file: int, data: memoryview, offset: int) -> int:
        if next(calls) >= 4:
            raise OSError(code, os.strerror(code))
        return whole(file, data, offset)

    monkeypatch.setattr(os, "pwrite", fails_at_the_fifth)
    message = refused(pair, tmp_path / "out", threads=threads, max_shard_size=5000)
    assert str(tmp_path / "out" / "model-0000") in message
    assert said in message
    assert message.endswith("nothing half-written was left.")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    made = os.geteuid() == 0 and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True).returncode
        == 0
    )
    if not made:
        pytest.skip("only root may mount a small disk; the limit of a file's size is tested everywhere")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk_is_told_and_nothing_stays(
    small_disk: Path, pair: list[Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "earlier").write_bytes(bytes(56 * 1024))
    assert "the disk is full (14," in refused(pair, small_disk / "out")  # bytes that are needed
    # and when the space runs out after the check:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 40}))
    big = [Checkpoint(folder_of(tmp_path / name, {"w": torch.ones(40_000)})) for name in ("three", "four")]
    assert "the disk is full" in refused(big, small_disk / "out")
    assert names_below(small_disk) == {"earlier"}


def test_a_limit_of_the_files_size_is_told_and_nothing_stays(pair: list[Checkpoint], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        assert "the file is larger than allowed here" in refused(pair, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; see the next test")
def test_no_permission_is_told(pair: list[Checkpoint], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "no permission to write there" in refused(pair, tmp_path / "locked" / "out")


@pytest.mark.parametrize("call", ["open", "mkdir"])
def test_no_permission_by_the_systems_word_is_told(
    call: str, pair: list[Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = getattr(os, call)

    def denied(path: object, *how: object, **more: object) -> object:
        if "out" in Path(str(path)).parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *how, **more)

    monkeypatch.setattr(os, call, denied)
    assert "no permission to write there" in refused(pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_where_a_folder_is_wanted_is_told(pair: list[Checkpoint], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(HfSoupsError, match="out: could not be written"):
        mix_to_folder(pair, (0.5, 0.5), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("there", ["model.safetensors", "model.safetensors.index.json"])
def test_weights_that_are_there_already_are_not_touched(there: str, pair: list[Checkpoint], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).write_text("precious")
    assert f"holds {there} already" in refused(pair, tmp_path / "out", InputError)
    assert (tmp_path / "out" / there).read_text() == "precious"


def test_an_ingredient_that_vanishes_or_shrinks_meanwhile_is_named(pair: list[Checkpoint], tmp_path: Path) -> None:
    _ = pair[1].tensors
    file = pair[1].folder / "model.safetensors"
    whole = file.read_bytes()
    os.truncate(file, len(whole) - 400)
    assert f"{file}: changed while it was in use" in refused(pair, tmp_path / "out", CheckpointError)
    file.unlink()
    assert f"{file}: no such file" in refused(pair, tmp_path / "out", CheckpointError)


def test_an_ingredient_cut_short_while_it_is_read_is_named(
    pair: list[Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_unchanged

    def cut(path: Path, stamp: FileStamp) -> int:
        file = opened(path, stamp)
        os.truncate(path, stamp.bytes // 2)
        return file

    monkeypatch.setattr("hf_soups.soups.mixing.blocks.open_unchanged", cut)
    assert "model.safetensors: truncated: it ends at byte" in refused(pair, tmp_path / "out", CheckpointError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("coefficients", [(0.5, 0.5), (0.25, 0.75), (0.0, 1.0)])
def test_weights_that_are_not_finite_are_named_with_file_and_tensor(
    coefficients: tuple[float, float], dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    good = {"a": torch.ones(100).to(dtype), "b": torch.ones(10, 10).to(dtype)}
    bad = {name: tensor.to(torch.float32, copy=True) for name, tensor in good.items()}
    bad["b"][7, 3] = value
    one = Checkpoint(folder_of(tmp_path / "one", good))
    two = Checkpoint(folder_of(tmp_path / "two", {name: tensor.to(dtype) for name, tensor in bad.items()}))
    with pytest.raises(CheckpointError, match=r"two/model.safetensors: tensor 'b' holds NaN or infinity.*Leave it out"):
        mix_to_folder([one, two], coefficients, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("dtype", "value"), [("F16", 7e4), ("F8_E4M3", 500.0), ("F8_E5M2", 7e4), ("BF16", 3.4e38)])
def test_a_result_that_does_not_fit_its_dtype_is_refused(dtype: str, value: float, tmp_path: Path) -> None:
    large = [Checkpoint(folder_of(tmp_path / str(i), {"x": torch.full((3,), value)})) for i in range(2)]
    said = refused(large, tmp_path / "out", InputError, dtype=dtype)
    assert said.startswith("'x': the mixture reaches ")
    assert f"which does not fit {dtype}. Choose a wider dtype" in said


def test_an_interrupt_stops_the_other_threads_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {f"t{i:03d}": torch.full((1000,), float(i)) for i in range(300)}
    pair = [Checkpoint(folder_of(tmp_path / name, many)) for name in ("one", "two")]
    calls = []
    whole = mixing.BlockMixer.output
    monkeypatch.setattr("hf_soups.soups.mixing.spans.BLOCK_ELEMENTS", 1000)

    def interrupted(self: mixing.BlockMixer, *where: object) -> object:
        calls.append(where)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(self, *where)  # type: ignore[arg-type]

    monkeypatch.setattr(mixing.BlockMixer, "output", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mix_to_folder(pair, (0.5, 0.5), tmp_path / "out")
    assert len(calls) < 50
    assert not (tmp_path / "out").exists()


def test_no_file_stays_open_after_success_or_failure(pair: list[Checkpoint], tmp_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    mix_to_folder(pair, (0.5, 0.5), tmp_path / "out")
    assert open_files() == before
    (pair[1].folder / "model.safetensors").unlink()
    refused(pair, tmp_path / "again", CheckpointError)
    assert open_files() == before


def test_mixing_needs_neither_torch_nor_the_hub(pair: list[Checkpoint], tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        from hf_soups.checkpoint import Checkpoint
        from hf_soups.soups.mixing import mix_to_folder
        folders = {[str(c.folder) for c in pair]!r}
        mix_to_folder([Checkpoint(f) for f in folders], (0.5, 0.5), Path({str(tmp_path / "out")!r}))
        print(sorted({{"torch", "transformers", "huggingface_hub", "safetensors"}} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
