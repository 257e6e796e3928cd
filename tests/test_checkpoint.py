"""Checkpoints of folders and the Hub's cache: read as safetensors reads them, refused with what to do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_soups.checkpoint import PROCESSORS, Checkpoint
from hf_soups.errors import CheckpointError
from tests.makers.folders import CONFIG, TORCH, folder_of
from tests.makers.tiny import tiny_bert, tiny_vit

TENSORS = {
    "classifier.bias": torch.tensor([1.0, 2.0, 3.0]),
    "classifier.weight": torch.arange(12.0).reshape(3, 4),
    "body.weight": torch.randn(4, 4, generator=torch.Generator().manual_seed(0)),
    "body.steps": torch.tensor(7),
}
LABELS = {"id2label": {"0": "cat", "1": "dog", "2": "bird"}}


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_are_read_as_they_were_saved(shards: int, tmp_path: Path) -> None:
    checkpoint = Checkpoint(folder_of(tmp_path / "a", TENSORS, shards=shards))
    assert set(checkpoint.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert np.array_equal(checkpoint.read(name), tensor.numpy())
        assert checkpoint.read(name).shape == tuple(tensor.shape)
    assert checkpoint.total_bytes == (3 + 12 + 16) * 4 + 8
    assert checkpoint.parameters == 3 + 12 + 16


@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_every_dtype_is_read_as_torch_reads_it(dtype: str, tmp_path: Path) -> None:
    tensor = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).to(TORCH[dtype])
    got = Checkpoint(folder_of(tmp_path / "a", {"w": tensor})).read("w")
    expected = tensor.to(torch.float32) if tensor.dtype.is_floating_point else tensor
    assert np.array_equal(got, expected.numpy())
    assert got.dtype == expected.numpy().dtype


def test_two_of_the_same_place_are_equal_and_hashable(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path) == Checkpoint(str(tmp_path))
    assert len({Checkpoint(tmp_path), Checkpoint(str(tmp_path)), Checkpoint(tmp_path, revision="x")}) == 2


def test_sha256_is_that_of_the_file_and_of_shards_in_order(tmp_path: Path) -> None:
    single = folder_of(tmp_path / "a", TENSORS)
    assert Checkpoint(single).sha256() == hashlib.sha256((single / "model.safetensors").read_bytes()).hexdigest()
    sharded = folder_of(tmp_path / "b", TENSORS, shards=3)
    together = b"".join(file.read_bytes() for file in sorted(sharded.glob("*.safetensors")))
    assert Checkpoint(sharded).sha256() == hashlib.sha256(together).hexdigest()


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "not there yet")
    folder_of(tmp_path / "not there yet", TENSORS)
    assert len(checkpoint.tensors) == 4


def test_what_the_json_files_say(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run_01", TENSORS, config={**CONFIG, **LABELS})
    checkpoint = Checkpoint(folder)
    assert (checkpoint.name, checkpoint.label_names) == ("run_01", ("cat", "dog", "bird"))
    assert checkpoint.run is None
    assert checkpoint.head_fingerprint is None
    (folder / "run.json").write_text(json.dumps({"status": "finished", "head_fingerprint": "abc"}))
    again = Checkpoint(folder)
    assert again.run == {"status": "finished", "head_fingerprint": "abc"}
    assert again.head_fingerprint == "abc"


def test_numbered_label_names_are_no_names(tmp_path: Path) -> None:
    config = {**CONFIG, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    assert Checkpoint(folder_of(tmp_path / "a", TENSORS, config=config)).label_names is None


@pytest.mark.parametrize(
    ("build", "processor"), [(tiny_bert, "tokenizer.json"), (tiny_vit, "preprocessor_config.json")]
)
def test_config_and_processor_are_carried_and_nothing_else(build: Any, processor: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "a")
    for name in ("run.json", "soup.json", "modeling_evil.py", "pytorch_model.bin", "README.md", "training_args.bin"):
        (folder / name).write_text("{}")
    (folder / "predictions").mkdir()
    carried = {path.name for path in Checkpoint(folder).carried_files()}
    assert {"config.json", processor} <= carried
    assert carried <= {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json",
                       "preprocessor_config.json"}  # fmt: skip


def test_aliases_that_the_file_names_are_known(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(3, 3, bias=False)
            self.b = torch.nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    folder = folder_of(tmp_path / "a", TENSORS)
    save_model(Tied(), str(folder / "model.safetensors"))
    checkpoint = Checkpoint(folder)
    assert len(checkpoint.tensors) == 1
    assert dict(checkpoint.aliases) in ({"b.weight": "a.weight"}, {"a.weight": "b.weight"})


# Labels in another order.


def test_aligned_labels_read_the_heads_rows_in_the_other_order(tmp_path: Path) -> None:
    checkpoint = Checkpoint(folder_of(tmp_path / "a", TENSORS, config={**CONFIG, **LABELS}))
    aligned = checkpoint.with_labels(("bird", "cat", "dog"))
    assert aligned.label_names == ("bird", "cat", "dog")
    assert np.array_equal(aligned.read("classifier.weight"), TENSORS["classifier.weight"].numpy()[[2, 0, 1]])
    assert np.array_equal(aligned.read("classifier.bias"), [3.0, 1.0, 2.0])
    assert np.array_equal(aligned.read("body.weight"), TENSORS["body.weight"].numpy())
    assert aligned.with_labels(("cat", "dog", "bird")) == checkpoint
    with pytest.raises(CheckpointError, match="cannot be put in the order"):
        checkpoint.with_labels(("cat", "dog", "fish"))


def test_labels_of_a_head_that_is_not_known_are_not_aligned(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", {"strange.weight": torch.ones(3, 2)}, config={**CONFIG, **LABELS})
    with pytest.raises(CheckpointError, match="no tensors of a head with 3 rows"):
        Checkpoint(folder).with_labels(("dog", "cat", "bird"))


# What is refused.


def refused(folder: Path | str, **where: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        _ = Checkpoint(folder, **where).tensors
    return str(error.value)


@pytest.mark.parametrize("path", ["./nope", "/nope/a", "~/nope-a", "a/b/c", "with space"])
def test_a_path_that_does_not_exist_is_no_repo(path: str) -> None:
    assert refused(path) == f"{path}: no such folder. Check the path."


def test_a_repo_that_is_not_cached_says_what_to_do_offline() -> None:
    said = refused("org/never-downloaded")
    assert said.startswith("org/never-downloaded: no such folder here, not in the Hub's cache, and offline mode is on")
    assert "give a local folder" in said


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    folder_of(tmp_path, TENSORS)
    assert "a file; expected the folder" in refused(tmp_path / "model.safetensors")


def test_a_folder_without_config_or_weights_is_refused(tmp_path: Path) -> None:
    assert "no config.json there" in refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "no model.safetensors and no model.safetensors.index.json there" in refused(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "only pytorch_model.bin, which hf_soups does not open because" in refused(tmp_path)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "an adapter, not a whole model. Multiply it into its base first" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{broken", "[]", "\x00"])
def test_a_corrupt_config_is_refused(text: str, tmp_path: Path) -> None:
    folder_of(tmp_path, TENSORS)
    (tmp_path / "config.json").write_text(text)
    assert refused(tmp_path).startswith(f"{tmp_path / 'config.json'}: ")


@pytest.mark.parametrize("subfolder", ["../other", "/etc", "a/../../b"])
def test_a_subfolder_cannot_leave_the_checkpoint(subfolder: str, tmp_path: Path) -> None:
    assert "leads out of the checkpoint" in refused(tmp_path, subfolder=subfolder)


def test_a_subfolder_is_read(tmp_path: Path) -> None:
    folder_of(tmp_path / "member_0", TENSORS)
    assert len(Checkpoint(tmp_path, subfolder="member_0").tensors) == 4
    assert "no subfolder 'member_1'" in refused(tmp_path, subfolder="member_1")


def changed_index(folder: Path, **changes: Any) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {k: v for k, v in {**index["weight_map"], **changes}.items() if v is not None}
    path.write_text(json.dumps(index))


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, TENSORS, shards=2)
    one, two = sorted(path.name for path in folder.glob("*.safetensors"))
    changed_index(folder, **{"body.steps": two})  # it lies in one
    assert "which model.safetensors.index.json places in" in refused(folder)
    changed_index(folder, **{"body.steps": one, "ghost": one})
    assert "lacks tensor 'ghost'" in refused(folder)
    changed_index(folder, **{"ghost": None, "body.weight": None})
    assert "holds tensor 'body.weight', which model.safetensors.index.json places nowhere" in refused(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, TENSORS, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors: this shard is missing" in refused(folder)


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "pytorch_model-00001.bin", 3])
def test_an_index_cannot_point_elsewhere(file: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, TENSORS, shards=2)
    changed_index(folder, ghost=file)
    assert "expected a shard beside the index" in refused(folder)


def test_an_index_without_a_map_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, TENSORS, shards=2)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "no weight_map" in refused(folder)


def test_a_file_that_changed_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(folder_of(tmp_path, TENSORS))
    _ = checkpoint.tensors
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        checkpoint.read("body.weight")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.sha256()


# The Hub, by its cache and by what its library raises.


def test_a_repo_in_the_cache_is_read_offline(tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--org--tiny"
    folder_of(repo / "snapshots" / "0123abc", TENSORS, config={**CONFIG, **LABELS})
    folder_of(repo / "snapshots" / "0123abc" / "member_0", TENSORS)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    code = """if True:
        import sys
        from hf_soups.checkpoint import Checkpoint
        assert "huggingface_hub" not in sys.modules
        a = Checkpoint("org/tiny")
        print(a.name, len(a.tensors), a.label_names[2], a.folder.name)
        print(len(Checkpoint("org/tiny", revision="main", subfolder="member_0").tensors))
        try:
            Checkpoint("org/tiny", revision="v9").tensors
        except Exception as error:
            print(type(error).__name__)
    """
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == ["org/tiny 4 bird 0123abc", "4", "CheckpointError"], done.stderr


def test_the_hubs_refusals_become_messages_that_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    said = {}
    for kind in (errors.GatedRepoError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError):

        def refuse(*_: Any, kind: type[Exception] = kind, **__: Any) -> None:
            raise kind.__new__(kind)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        said[kind.__name__] = refused("org/private", revision="v1")
    assert "org/private@v1: this repo is gated. Ask for access" in said["GatedRepoError"]
    assert "no such revision" in said["RevisionNotFoundError"]
    assert "no such repo on the Hub, or it is private" in said["RepositoryNotFoundError"]


def test_only_a_checkpoints_files_are_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    there = [
        "config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "pytorch_model.bin", "model.py", "tf.h5",
        "model.fp16.safetensors", "onnx/config.json", "a/model.safetensors", "a/config.json", "a/b/config.json",
    ]  # fmt: skip
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **how: asked.update(how) or str(tmp_path))
    (tmp_path / "a").mkdir()

    def wanted(subfolder: str | None) -> list[str]:
        _ = Checkpoint("org/x", subfolder=subfolder).folder
        how = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
        return list(filter_repo_objects(there, **how))

    assert wanted(None) == ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    assert wanted("a") == ["a/model.safetensors", "a/config.json"]


def test_every_vocabulary_that_transformers_writes_is_known_as_part_of_a_tokenizer() -> None:
    import transformers

    named: set[str] = set()
    for module in Path(transformers.__file__).parent.rglob("*.py"):
        for table in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", module.read_text(encoding="utf-8"), re.DOTALL):
            named |= set(re.findall(r':\s*"([^"]+)"', table))
    assert {"vocab.txt", "spiece.model", "tokenizer.json", "source.spm"} <= named
    assert [name for name in sorted(named) if not any(fnmatch(name, like) for like in PROCESSORS)] == []
