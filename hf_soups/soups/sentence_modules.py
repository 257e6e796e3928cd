"""What sentence-transformers and SetFit put around a transformer: pooling, normalising, prompts, heads.

Equal parts are carried over, weights of theirs are averaged as the transformer's are, and a fitted part that no average
is (a head of scikit-learn's) is refused. Compared is what is loaded: older versions write the same in other words.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, IncompatibleCheckpoints
from hf_soups.files.downloads import download, inside_of
from hf_soups.files.reading import read_bytes, visible
from hf_soups.files.weights import MODULES, SINGLE, json_object, module_entries, pickled_weights
from hf_soups.files.writing import temporary_folder
from hf_soups.soups.mixing.to_files import mix_to_folder
from hf_soups.soups.preflight_findings import Notes

SETTINGS, SETFIT = "config_sentence_transformers.json", "config_setfit.json"
LENGTHS = "sentence_*_config.json"  # sentence_bert_config.json, sentence_roberta_config.json, ...
PICKLED_HEAD, HEAD = "model_head.pkl", "model_head.safetensors"  # of SetFit
AVERAGED = frozenset({"Dense", "LayerNorm", "CNN", "LSTM", "WeightedLayerPooling"})  # modules that are weights alone
OF_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
NAME = "sentence_embedding"
DEFAULTS = {"include_prompt": True, "module_input_name": NAME, "module_output_name": NAME}


@dataclass(frozen=True)
class Module:
    """One module behind the transformer."""

    kind: str  # the name of its class without its module, which changed between versions
    path: str  # of its folder
    config: Mapping[str, Any]  # without what is the default
    has_weights: bool


@dataclass(frozen=True)
class Surroundings:
    """All that is around the transformer."""

    kinds: tuple[str, ...]  # classes of all modules in their order
    modules: tuple[Module, ...]  # that have a folder
    settings: Mapping[str, Any]  # prompts and similarity
    lengths: Mapping[str, Any]  # what is said of the longest text and of case
    setfit: Mapping[str, Any]  # labels, ...
    head: str  # name and SHA-256 of a fitted head; "": none

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Surroundings | None:
        """Those of a checkpoint; None where it is a transformer alone.

        Raises:
            CheckpointError: if they cannot be read, or hold pickled weights.
        """
        folder = checkpoint.folder
        if not any((folder / name).is_file() for name in (MODULES, SETFIT, PICKLED_HEAD, HEAD)):
            return None
        entries = module_entries(folder)
        return cls(
            tuple(_kind(entry) for entry in entries),
            tuple(_module(checkpoint, entry) for entry in entries if entry["path"]),
            _settings(_read(folder / SETTINGS)),
            {k: v for path in visible(folder, LENGTHS) for k, v in _read(path).items()
             if k in ("max_seq_length", "do_lower_case") and v not in (None, False)},
            _read(folder / SETFIT),
            _head(checkpoint),
        )  # fmt: skip


def compare_surroundings(notes: Notes, checkpoints: Sequence[Checkpoint]) -> None:
    """Note what keeps modules around transformers from being carried over or averaged."""
    known: list[tuple[Checkpoint, Surroundings | None]] = []
    for checkpoint in checkpoints:
        try:
            known.append((checkpoint, Surroundings.of(checkpoint)))
        except CheckpointError as error:
            notes.error(checkpoint, "modules", str(error))
    for checkpoint, own in known[1:]:
        why = _difference(known[0], (checkpoint, own))
        if why is not None:
            notes.error(checkpoint, "modules", f"{checkpoint}: {why}")


def write_surroundings(checkpoints: Sequence[Checkpoint], coefficients: Sequence[float] | None, folder: Path) -> None:
    """Put the modules around a soup's transformer: files of the first that has them, weights averaged.

    Args:
        checkpoints: the ingredients.
        coefficients: one for each; None: they differ from tensor to tensor.
        folder: of the soup.
    Raises:
        IncompatibleCheckpoints: if they differ, or weights of modules cannot be averaged so.
    """
    having = [(c, s) for c in checkpoints if (s := Surroundings.of(c)) is not None]
    if not having:
        return
    first, own = having[0]
    for other in having[1:]:
        why = _difference(having[0], other)
        if why is not None:
            raise IncompatibleCheckpoints(f"{other[0]}: {why}")
    at = first.folder
    for path in [at / MODULES, at / SETTINGS, at / SETFIT, at / PICKLED_HEAD, *visible(at, LENGTHS)]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    for module in own.modules:
        _write_module(module, first, checkpoints if module.has_weights else (), coefficients, folder)
    if own.head.startswith(HEAD):
        _mix_head(_all_or_refused(checkpoints, HEAD, coefficients), coefficients or (), folder)


def surrounding_files(folder: Path) -> list[str]:
    """Paths in a folder of what `write_surroundings` puts there.

    Raises:
        CheckpointError: if modules.json cannot be read.
    """
    entries = module_entries(folder)
    if not entries and not (folder / SETFIT).is_file():
        return []
    top = [folder / name for name in (MODULES, SETTINGS, SETFIT, PICKLED_HEAD, HEAD)]
    inner = [path for entry in entries if entry["path"] for path in visible(folder / entry["path"], "*")]
    found = (path for path in (*top, *visible(folder, LENGTHS), *inner) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in found]


def _write_module(
    module: Module,
    first: Checkpoint,
    averaged: Sequence[Checkpoint],
    coefficients: Sequence[float] | None,
    folder: Path,
) -> None:
    to = folder / module.path
    to.mkdir(parents=True, exist_ok=True)
    source = _folder_of(first, module.path)
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.is_file() and path.suffix in (".json", ".txt"):
            shutil.copyfile(path, to / path.name)
    if averaged:
        parts = _all_or_refused(averaged, module.path, coefficients)
        mix_to_folder([Checkpoint(part) for part in parts], coefficients or (), to)


def _all_or_refused(checkpoints: Sequence[Checkpoint], path: str, coefficients: Sequence[float] | None) -> list[Path]:
    """The same part of every checkpoint."""
    if coefficients is None:
        raise IncompatibleCheckpoints(
            f"{checkpoints[0]}: {path} holds weights too, and the coefficients are chosen for each tensor of the "
            "transformer alone. Choose a method with one coefficient a model (uniform, greedy, ...)."
        )
    parts = [_folder_of(c, path) if path != HEAD else c.folder / HEAD for c in checkpoints]
    absent = [str(c) for c, part in zip(checkpoints, parts, strict=True) if not part.exists()]
    if absent:
        raise IncompatibleCheckpoints(f"{absent[0]}: no {path} there, whose weights are averaged. Leave it out.")
    return parts


def _mix_head(files: Sequence[Path], coefficients: Sequence[float], folder: Path) -> None:
    """Average a file of weights that has no folder of its own."""
    with temporary_folder("head") as place:
        parts = []
        for i, file in enumerate(files):
            part = Path(place, str(i))
            part.mkdir()
            (part / "config.json").write_text("{}")
            shutil.copyfile(file, part / SINGLE)
            parts.append(Checkpoint(part))
        mix_to_folder(parts, coefficients, Path(place, "mixed"))
        shutil.copyfile(Path(place, "mixed", SINGLE), folder / HEAD)


# Reading


def _module(checkpoint: Checkpoint, entry: Mapping[str, Any]) -> Module:
    kind, path = _kind(entry), str(entry["path"])
    folder = _folder_of(checkpoint, path)
    if kind == "Transformer":
        raise CheckpointError(
            f"{checkpoint}: its transformer is in {path}, as old versions of sentence-transformers wrote it. Write it "
            "again with a new one: SentenceTransformer(...).save(...)."
        )
    pickled = pickled_weights(folder)
    if pickled and not (folder / SINGLE).is_file():
        raise CheckpointError(
            f"{checkpoint}: {path} holds pickled weights ({pickled[0]}), which can run code and are not opened. "
            "Convert the whole: hf-soups convert."
        )
    has_weights = (folder / SINGLE).is_file()
    if has_weights and kind not in AVERAGED:
        raise CheckpointError(
            f"{checkpoint}: {path} is a {kind} with weights, of which it is not known here whether they can be "
            f"averaged; known: {', '.join(sorted(AVERAGED))}."
        )
    return Module(kind, path, _effective(kind, _read(folder / "config.json")), has_weights)


def _folder_of(checkpoint: Checkpoint, path: str) -> Path:
    """The folder of a module; of a Hub repo it is downloaded now."""
    if not Path(checkpoint.source).expanduser().is_dir():
        inner = "/".join(filter(None, (checkpoint.subfolder, path)))
        return download(checkpoint.source, checkpoint.revision, inner) / inner
    found = inside_of(checkpoint.folder, path)
    if not found.is_dir():
        return _empty(checkpoint, path)
    return found


def _empty(checkpoint: Checkpoint, path: str) -> Path:
    """A module without settings may have no folder: git keeps no empty ones."""
    if (checkpoint.folder / MODULES).is_file() and path.endswith("Normalize"):
        return checkpoint.folder / path
    raise CheckpointError(f"{checkpoint}: {MODULES} names the module {path}, which is not there. Get it again.")


def _kind(entry: Mapping[str, Any]) -> str:
    return str(entry.get("type", "")).rpartition(".")[2]


def _effective(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a module's config says, whatever version wrote it."""
    content = dict(config)
    if kind == "Pooling":
        flags = [mode for key, mode in OF_POOLING.items() if content.pop(key, False)]
        modes = content.get("pooling_mode", flags or "mean")
        content["pooling_mode"] = [modes] if isinstance(modes, str) else list(modes)
        content["embedding_dimension"] = content.pop("word_embedding_dimension", content.get("embedding_dimension"))
    return {key: value for key, value in content.items() if DEFAULTS.get(key) != value}


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    prompts = content.get("prompts") or {}
    further = {k: v for k, v in content.items() if k not in ("__version__", "model_type") and v is not None}
    return {
        **further,
        "prompts": {name: prompt for name, prompt in prompts.items() if prompt},
        "default_prompt_name": content.get("default_prompt_name"),
        "similarity_fn_name": content.get("similarity_fn_name") or "cosine",
    }


def _head(checkpoint: Checkpoint) -> str:
    for name in (HEAD, PICKLED_HEAD):
        path = checkpoint.folder / name
        if path.is_file():
            return f"{name} {hashlib.sha256(read_bytes(path, error=CheckpointError)).hexdigest()}"
    if (checkpoint.folder / SETFIT).is_file() and not Path(checkpoint.source).expanduser().is_dir():
        raise CheckpointError(
            f"{checkpoint}: a SetFit model, whose head is not got from the Hub. Download the repo into a folder first."
        )
    return ""


def _read(path: Path) -> dict[str, Any]:
    return json_object(path) if path.is_file() else {}


# Comparing


def _difference(
    first: tuple[Checkpoint, Surroundings | None], other: tuple[Checkpoint, Surroundings | None]
) -> str | None:
    """What differs between two, in words with what to do."""
    (at, a), (_, b) = first, other
    if a is None or b is None:
        what = f"{'no' if b is None else 'a'} model of sentence-transformers or SetFit"
        return None if a is b else f"{what}, unlike {at}."
    if a.kinds != b.kinds:
        return f"its modules are {', '.join(b.kinds)}, but {', '.join(a.kinds)} in {at}."
    for one, two in zip(a.modules, b.modules, strict=True):
        if one.config != two.config:
            keys = sorted(k for k in one.config.keys() | two.config.keys() if one.config.get(k) != two.config.get(k))
            said = ", ".join(f"{k} is {two.config.get(k)!r}, but {one.config.get(k)!r}" for k in keys)
            return f"its {two.kind} ({two.path}) differs from {at}: {said}."
        if one.has_weights != two.has_weights:
            return f"its {two.kind} ({two.path}) has {'no ' if one.has_weights else ''}weights, unlike in {at}."
    for what, mine, theirs in (
        ("prompts or similarity", b.settings, a.settings),
        ("longest text", b.lengths, a.lengths if b.lengths and a.lengths else b.lengths),
        ("SetFit settings", b.setfit, a.setfit),
    ):
        if mine != theirs:
            return f"its {what} are {dict(mine)}, but {dict(theirs)} in {at}."
    return _heads_differ(a.head, b.head, at)


def _heads_differ(a: str, b: str, at: Checkpoint) -> str | None:
    if a == b or (a.startswith(HEAD) and b.startswith(HEAD)):
        return None
    if not (a and b):
        return f"it has {'a' if b else 'no'} fitted head ({(a or b).partition(' ')[0]}), unlike {at}."
    return (
        f"its {PICKLED_HEAD} was fitted by scikit-learn on the answers of its own transformer and is not that of {at}. "
        "No average of the two is the head of the averaged transformer, and pickles are not opened. Take the heads out "
        "of the folders, average the transformers, and fit a head on the soup's embeddings."
    )
