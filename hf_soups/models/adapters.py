"""Adapters: LoRA multiplied into its base, head included, so that it can be mixed like any other checkpoint.

The mean of two adapters' A and B matrices is not the mean of what they add to the weights, A times B: adapters are
multiplied out first. What comes of it is an ordinary checkpoint folder, kept and made once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.checkpoint import Checkpoint, Source
from hf_soups.errors import CheckpointError, HfSoupsError, MissingExtra
from hf_soups.files.digests import place, sha256_of
from hf_soups.files.loaded_names import HEAD
from hf_soups.files.tensorfile import TensorHeader, read_header
from hf_soups.files.weights import ADAPTER, ADAPTER_CONFIG, json_object
from hf_soups.files.writing import write_json, written_whole
from hf_soups.models.loading import config_of, fitting, labelled, named, options, quiet, seeded, within_weights
from hf_soups.models.row_cache import locked
from hf_soups.models.vision import Vision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORD = "adapter.json"  # of a multiplied-out adapter's folder: what it was made from
FORMAT = "hf_soups.adapter.v1"
PREFIX = "base_model.model."  # before the names of the model's own tensors in an adapter's file


def multiplied_out(
    adapter: Source,
    cache: Path | None = None,
    *,
    base: Source | None = None,
    label_names: Sequence[str] | None = None,
) -> Checkpoint:
    """The ordinary checkpoint that a LoRA adapter makes of its base: base + scaling x B A, in float32.

    Its folder holds weights, config, the adapter's tokenizer or image processor (the base's where it has none) and
    adapter.json. It is written whole or not at all, and found again for the same adapter, base and labels.

    Adapters whose heads began at different random weights give poor averages, as whole models do: train them from one
    base that has the head already.

    Args:
        adapter: folder or Hub repo with adapter_config.json and adapter_model.safetensors, as peft saves them.
        cache: folder that these checkpoints are kept in; default: "adapters" in hf_soups' own cache folder.
        base: the model it was trained on; default: the one that adapter_config.json names.
        label_names: of the classes, in the order of the logits; default: those of the adapter's config.json, or of
            the base's if it has as many.
    Raises:
        MissingExtra: if peft is not installed.
        CheckpointError: if it is no LoRA adapter in safetensors, does not fit its base, or if weights that the base
            lacks (a head, a pooler) are not in it: peft had made them at random and they are lost.
        HfSoupsError: if the cache cannot be written.
    """
    _require_peft()
    own = Checkpoint.of(adapter, "adapter")
    settings, header = _checked(own)
    under = _base_of(own, settings) if base is None else Checkpoint.of(base, "base")
    key = _key(own, header, under, label_names)
    root = place().parent / "adapters" if cache is None else cache
    out = root / key[:16] / own.name.rpartition("/")[2]
    with locked(out):
        if not (out / RECORD).is_file():
            model = _merged(own, settings, header, under, label_names)
            with written_whole(out, marker=RECORD) as partial:
                _write(partial, model, own, under, key)
    return Checkpoint(out)


def _require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra(
            'LoRA adapters are multiplied out by peft, which is not installed. Run: pip install "hf_soups[peft]".'
        )


def _checked(adapter: Checkpoint) -> tuple[Mapping[str, Any], TensorHeader]:
    """What adapter_config.json says, and the header of the weights."""
    if not adapter.is_adapter:
        raise CheckpointError(f"{adapter}: no adapter: expected {ADAPTER_CONFIG} there and no whole model.")
    config = json_object(adapter.folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{adapter}: an adapter of type {config.get('peft_type')!r}; only LoRA (LORA) can be an ingredient."
        )
    if not (adapter.folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{adapter}: no {ADAPTER} there. Pickled adapters (.bin) can run code and are not opened: hf-soups convert "
            f"{adapter} --out NEW-FOLDER reads their tensors alone and writes safetensors."
        )
    return config, read_header(adapter.folder / ADAPTER)


def _base_of(adapter: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    named_there = settings.get("base_model_name_or_path")
    if not isinstance(named_there, str) or not named_there:
        raise CheckpointError(f"{adapter}: {ADAPTER_CONFIG} names no base. Give it (base=Checkpoint(...)).")
    base = Checkpoint(named_there, settings.get("revision"))
    try:
        _ = base.tensors
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter}: the base that {ADAPTER_CONFIG} names cannot be used: {error} If it lies elsewhere now, change "
            "base_model_name_or_path in that file, or give base=Checkpoint(...)."
        ) from error
    return base


def _key(adapter: Checkpoint, header: TensorHeader, base: Checkpoint, label_names: Sequence[str] | None) -> str:
    """SHA-256 over everything that decides what comes out."""
    weights = [sha256_of({header.path: header.stamp}), base.sha256()]
    digest = hashlib.sha256(json.dumps([FORMAT, weights, label_names and list(label_names)]).encode())
    for path in (adapter.folder / ADAPTER_CONFIG, *adapter.carried_files(), *base.carried_files()):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


# The model.


def _merged(
    adapter: Checkpoint,
    settings: Mapping[str, Any],
    header: TensorHeader,
    base: Checkpoint,
    label_names: Sequence[str] | None,
) -> PreTrainedModel:
    import peft

    tensors = {name.removeprefix(PREFIX): info.shape for name, info in header.tensors.items()}
    model = _loaded_base(adapter, settings, base, tensors, label_names)
    with _fitting(adapter, base), within_weights({**base.tensors, **header.tensors}, str(adapter)):
        wrapped = peft.PeftModel.from_pretrained(model, str(adapter.folder), torch_device="cpu")
        expected = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    odd = expected ^ set(header.tensors)
    if odd:
        raise _odd(adapter, base, "lacks" if min(odd) in expected else "holds", odd)
    with _fitting(adapter, base):
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    broken = next((name for name, weight in merged.named_parameters() if not weight.isfinite().all()), None)
    if broken:
        raise CheckpointError(f"{adapter}: {broken} holds NaN or infinity: the adapter is broken. Take another one.")
    return merged


def _loaded_base(
    adapter: Checkpoint,
    settings: Mapping[str, Any],
    base: Checkpoint,
    saved: Mapping[str, tuple[int, ...]],
    label_names: Sequence[str] | None,
) -> PreTrainedModel:
    """The base in float32 as the adapter was trained on it: as many classes, and nothing random that stays."""
    config = config_of(base.folder)
    rows = [shape[0] for name, shape in saved.items() if HEAD.search(name) and len(shape) > 1]
    classes = rows[-1] if rows else int(config.num_labels or 0)
    names = _label_names(adapter, base, classes) if label_names is None else tuple(label_names)
    if names is None:
        config.num_labels = classes
    elif len(names) != classes:
        raise CheckpointError(f"{adapter}: its head tells {classes} classes apart, but {len(names)} names were given.")
    elif names != tuple((config.id2label or {}).values()):
        labelled(config, names)
    with seeded(0), fitting(Checkpoint(base.folder)):
        model, info = _auto(settings, base).from_pretrained(
            str(base.folder), config=config, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, trust_remote_code=False, **options(),
        )  # fmt: skip
    lost = ({*info["missing_keys"]} | {name for name, *_ in info["mismatched_keys"]}) - set(saved)
    if lost:
        raise CheckpointError(
            f"{adapter}: its base {base} lacks {named(lost)}, and so does the adapter: {type(model).__name__} had them "
            "at random while it was trained. Train it again with these layers in modules_to_save, or from a base that "
            "has them (hf-soups sweep writes one to start/)."
        )
    return model.eval()  # type: ignore[no-any-return]


def _label_names(adapter: Checkpoint, base: Checkpoint, classes: int) -> tuple[str, ...] | None:
    own = adapter if (adapter.folder / "config.json").is_file() else base
    names = own.label_names
    return names if names is not None and len(names) == classes else None


def _auto(settings: Mapping[str, Any], base: Checkpoint) -> Any:
    import transformers

    image = settings.get("task_type") != "SEQ_CLS" and Vision().accepts(base.config)
    return transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification


@contextmanager
def _fitting(adapter: Checkpoint, base: Checkpoint) -> Iterator[None]:
    """Turn what peft raises for an adapter that is broken or of another model into one clear error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # checked here, and an error
            yield
    except HfSoupsError:
        raise
    except KeyError as error:  # how peft says that a saved module's tensor is missing
        raise _odd(adapter, base, "lacks", error.args[:1]) from error
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        first = next((line.strip() for line in str(error).splitlines()[::-1] if line.strip()), type(error).__name__)
        raise CheckpointError(
            f"{adapter}: cannot be multiplied into {base} ({first[:300]}). Check that it is whole, and give "
            "the base that it was trained on."
        ) from error


def _odd(adapter: Checkpoint, base: Checkpoint, how: str, names: Iterable[str]) -> CheckpointError:
    return CheckpointError(
        f"{adapter}: {ADAPTER} {how} {named(names)}, otherwise than {ADAPTER_CONFIG} and the base {base} ask for. "
        "Save the adapter again with the peft that trained it, or give the right base."
    )


# The folder.


def _write(folder: Path, model: PreTrainedModel, adapter: Checkpoint, base: Checkpoint, key: str) -> None:
    with quiet():
        model.save_pretrained(folder)
    for file in adapter.processor_files() or base.processor_files():
        shutil.copyfile(file, folder / file.name)
    about = {"format": FORMAT, "key": key, "adapter": str(adapter), "base": str(base), "base_sha256": base.sha256()}
    write_json(folder / RECORD, about)
