"""Pickled weights (.bin) as safetensors: read as plain tensors, every one kept, and loaded by the config's own class.

torch's weights-only reading builds tensors and nothing else, so no code of the file is run.
"""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError
from hf_soups.files.downloads import download
from hf_soups.files.reading import visible
from hf_soups.files.weights import (
    ADAPTER,
    ADAPTER_CONFIG,
    INDEX,
    MODULES,
    SINGLE,
    json_object,
    module_entries,
    pickled_weights,
)
from hf_soups.files.writing import write_json, written_whole
from hf_soups.models.loading import NO_HEAD, fitting, named, unwrapped

# of sentence-transformers and SetFit, whose pickled head is copied unread
AROUND = (MODULES, "config_sentence_transformers.json", "sentence_*_config.json", "config_setfit.json", "model_head.*")
POOLER = re.compile(r"pooler\.")  # of a bare body, which sentence encoders are published without
PICKLED, PICKLED_INDEX, PICKLED_ADAPTER = "pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"


@dataclass(frozen=True, slots=True)
class Converted:
    """A checkpoint in safetensors."""

    folder: Path
    tensors: int
    checked: str  # the class that loads it whole; "": none of transformers' own is named, or it is an adapter


def convert(source: str | Path, out: str | Path, *, overwrite: bool = False) -> Converted:
    """Write a checkpoint whose weights are pickled (.bin) as safetensors, with its config, tokenizer and processor.

    Every tensor is kept under its name. The class that config.json names must then load it without a missing
    parameter: a classifier without its head is refused.

    Args:
        source: a folder or Hub repo ("org/name@revision").
        out: the folder to make.
        overwrite: replace what was made there before.
    Raises:
        CheckpointError: if there are no pickled weights, they hold more than tensors, or do not fill the class.
        InputError: if `out` exists.
    """
    checkpoint = _with_pickles(Checkpoint.named(source))
    files, marker = _weight_files(checkpoint)
    mark = ADAPTER_CONFIG if marker == ADAPTER else "config.json"
    with written_whole(Path(out), overwrite=overwrite, marker=mark) as to:
        count = _write(files, marker, to)
        for path in _beside(checkpoint):
            shutil.copyfile(path, to / path.name)
        count += sum(_convert_module(checkpoint, entry["path"], to) for entry in module_entries(checkpoint.folder))
        checked = "" if marker == ADAPTER else _check(Checkpoint(to), str(checkpoint))
    return Converted(Path(out), count, checked)


def _with_pickles(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint; of a Hub repo with its pickled weights, which are got for nothing else."""
    if Path(checkpoint.source).expanduser().is_dir():
        return checkpoint
    folder = download(
        checkpoint.source, checkpoint.revision, checkpoint.subfolder, also=("pytorch_model*.bin", PICKLED_ADAPTER)
    )
    return Checkpoint(folder, subfolder=checkpoint.subfolder)


def _weight_files(checkpoint: Checkpoint) -> tuple[dict[Path, str], str]:
    """The pickled files with the names that they get, and the name by which the whole is found."""
    folder = checkpoint.folder
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        raise CheckpointError(f"{checkpoint}: its weights are safetensors already; there is nothing to convert.")
    if (folder / ADAPTER_CONFIG).is_file() and (folder / PICKLED_ADAPTER).is_file():
        return {folder / PICKLED_ADAPTER: ADAPTER}, ADAPTER
    _ = checkpoint.config  # weights without a config are no checkpoint
    if (folder / PICKLED).is_file():
        return {folder / PICKLED: SINGLE}, SINGLE
    if (folder / PICKLED_INDEX).is_file():
        return {folder / name: _renamed(name) for name in _shards(folder / PICKLED_INDEX)}, INDEX
    there = pickled_weights(folder)
    if any(name.endswith(".h5") for name in there):
        raise CheckpointError(
            f"{checkpoint}: only {there[0]}, weights of TensorFlow. Convert them with transformers 4: "
            "AutoModelForSequenceClassification.from_pretrained(..., from_tf=True), or the class in config.json."
        )
    raise CheckpointError(f"{checkpoint}: no {PICKLED} and no {PICKLED_INDEX} there, so there is nothing to convert.")


def _shards(index: Path) -> list[str]:
    placed = json_object(index).get("weight_map")
    names = sorted(set(placed.values())) if isinstance(placed, dict) else []
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".bin"):
            raise CheckpointError(f"{index}: names the shard {name!r}; expected a .bin file beside it.")
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"{index.parent / name}: this shard is missing, but the index names it. Get it again."
            )
    if not names:
        raise CheckpointError(f"{index}: no weight_map in it. Save or download the checkpoint again.")
    return names


def _renamed(shard: str) -> str:
    return shard.replace("pytorch_model", "model", 1).removesuffix(".bin") + ".safetensors"


def _write(files: Mapping[Path, str], marker: str, folder: Path) -> int:
    """Write every file, one after the other; the number of tensors."""
    from safetensors.torch import save_file

    placed: dict[str, str] = {}
    total = 0
    for path, name in files.items():
        kept, aliases = _without_aliases(read_pickled(path))
        twice = kept.keys() & placed.keys()
        if twice:
            raise CheckpointError(f"{path}: {named(twice)} stand in two shards. Get the checkpoint again.")
        save_file(kept, folder / name, metadata={"format": "pt", **aliases})
        placed |= dict.fromkeys(kept, name)
        total += sum(tensor.nbytes for tensor in kept.values())
    if marker == INDEX:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": placed})
    return len(placed)


def read_pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled file by name; nothing else is built from it.

    Raises:
        CheckpointError: if it holds anything else, or cannot be read.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors, and what else could run code, so it is not opened "
            f"({str(error).splitlines()[0][:120]}). Get weights from somebody whom you trust, as safetensors."
        ) from None
    except Exception as error:  # of a damaged file, nearly anything
        raise CheckpointError(f"{path}: cannot be read ({type(error).__name__}: {error}). Get it again.") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        held = ", ".join(map(str, list(found)[:5])) if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(f"{path}: expected tensors by name, as save_pretrained() wrote them; it holds {held}.")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _without_aliases(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, and names of tied ones with the name that is kept, as safetensors' own writer has them."""
    first: dict[tuple[Any, ...], str] = {}
    kept, aliases = dict[str, torch.Tensor](), dict[str, str]()
    for name, tensor in sorted(tensors.items()):
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        other = first.setdefault(place, name) if tensor.numel() else name
        if other != name:
            aliases[name] = other
        else:
            kept[name] = tensor.clone(memory_format=torch.contiguous_format)  # of a part of a storage the part alone
    return kept, aliases


def _beside(checkpoint: Checkpoint) -> Iterator[Path]:
    """Files that belong to the weights, at the top of the folder."""
    adapter = checkpoint.folder / ADAPTER_CONFIG
    yield from (adapter,) if adapter.is_file() else ()
    yield from (path for path in checkpoint.carried_files() if path.parent == checkpoint.folder)
    yield from (path for like in AROUND for path in visible(checkpoint.folder, like))


def _convert_module(checkpoint: Checkpoint, path: str, to: Path) -> int:
    """Write a module of sentence-transformers beside its transformer; the number of its pickled tensors."""
    if not path:
        return 0
    folder, inner = checkpoint.folder / path, "/".join(filter(None, (checkpoint.subfolder, path)))
    if not Path(checkpoint.source).expanduser().is_dir():
        folder = download(checkpoint.source, checkpoint.revision, inner, also=(PICKLED,)) / inner
    (to / path).mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in (".json", ".txt", ".safetensors"):
            shutil.copyfile(file, to / path / file.name)
    pickled = (folder / PICKLED).is_file() and not (folder / SINGLE).is_file()
    return _write({folder / PICKLED: SINGLE}, SINGLE, to / path) if pickled else 0


def _check(made: Checkpoint, source: str) -> str:
    """The class that config.json names loads it whole.

    Raises:
        CheckpointError: if it lacks parameters of that class.
    """
    from transformers import AutoConfig

    with fitting(made):
        config = AutoConfig.from_pretrained(str(made.folder), trust_remote_code=False)
        model_class = task_class(config, made.config)
        if model_class is None:
            return ""
        _, info = model_class.from_pretrained(
            str(made.folder), use_safetensors=True, output_loading_info=True, trust_remote_code=False, **unwrapped(made)
        )
    missing = [
        name for name in info["missing_keys"] if not (name.endswith(".num_batches_tracked") or POOLER.match(name))
    ]
    wrong = [name for name, *_ in info["mismatched_keys"]]
    if missing or wrong:
        raise CheckpointError(
            f"{source}: config.json names {model_class.__name__}, but the weights lack {named(missing or wrong)}"
            f"{'' if missing else ' in its shape'}. {NO_HEAD if missing else 'They do not belong together.'}"
        )
    return str(model_class.__name__)


def task_class(config: Any, content: Mapping[str, Any]) -> Any:
    """The class that config.json names: one of transformers' own, or one that was registered; None where none is known.

    Args:
        config: the config object.
        content: the content of config.json.
    """
    import transformers

    name = next(iter(content.get("architectures") or ()), None)
    if name is None:
        return None
    known = getattr(transformers, name, None)
    if isinstance(known, type) and issubclass(known, transformers.PreTrainedModel):
        return known
    for auto in (transformers.AutoModelForSequenceClassification, transformers.AutoModelForImageClassification):
        registered: Any = auto._model_mapping.get(type(config), None)
        for found in registered if isinstance(registered, tuple) else (registered,):
            if found is not None and found.__name__ == name:
                return found
    return None


def as_text(done: Converted) -> str:
    """What was made, in a line."""
    loaded = f", loaded whole as {done.checked}" if done.checked else ""
    return f"wrote {done.folder}: {done.tensors} tensors as safetensors{loaded}"
