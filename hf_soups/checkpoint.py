"""Checkpoint: a folder or a Hub repo in the ordinary layout, its tensors known by place and read when asked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.configs import check_config
from hf_soups.files.digests import PIECES, pieces_digest, sha256_of
from hf_soups.files.downloads import download, is_repo_id, refuse_links_out
from hf_soups.files.dtypes import FLOATS, ITEM_BYTES, NATIVE, decode_into
from hf_soups.files.endpoint import MODEL_TYPE, is_endpoint, read_endpoint
from hf_soups.files.label_names import order_of
from hf_soups.files.loaded_names import HEAD, loaded_aliases, loaded_names, longer_rows
from hf_soups.files.onnx import is_onnx, onnx_files, read_onnx_record
from hf_soups.files.reading import read_bytes, visible
from hf_soups.files.tensorfile import FileStamp, TensorHeader, TensorInfo
from hf_soups.files.weights import (
    INDEX,
    MERGE_ADAPTER,
    SINGLE,
    is_adapter,
    json_object,
    opened,
    read_exactly,
    read_headers,
)

__all__ = ["Checkpoint", "Source", "TensorInfo", "checkpoints_of", "names_of", "sources_of"]

AnySource = TypeVar("AnySource", "str | Path", "str | Path | Checkpoint")
Source: TypeAlias = "Checkpoint | str | os.PathLike[str]"  # what functions take for a checkpoint

# What a soup takes over from its first ingredient; patterns of names at the top of the folder.
CONFIGS = ("config.json", "generation_config.json")
PROCESSORS = (
    "preprocessor_config.json", "processor_config.json", "image_processor_config.json",
    "feature_extractor_config.json", "video_preprocessor_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer*.json", "vocab*.json", "*_vocab.json", "vocab*.txt", "dict.txt", "merges.txt", "*.model", "*.spm",
    "bpe.codes", "prophetnet.tokenizer", "normalizer.json", "emoji.json", "byte_maps.json", "word_shape.json",
    "word_pronunciation.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
TRAINERS_STEP = re.compile(r"checkpoint-\d+")  # the folders that transformers' Trainer leaves along a run
RECORDS = ("run.json", "soup.json", "start.json")


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements of a tensor that are contiguous in a file."""

    file: Path
    stamp: FileStamp
    dtype: str
    offset: int  # bytes from the start of the file
    elements: int


def checkpoints_of(given: Sequence[Source], called: str = "ingredients") -> tuple[Checkpoint, ...]:
    """Checkpoints as functions take several of them.

    Raises:
        InputError: if it is one alone, or one of them is no checkpoint; `called` names the argument.
    """
    one = isinstance(given, str | os.PathLike | Checkpoint | Mapping | Set)  # keys would do, and sets have no order
    if not isinstance(given, Iterable | Checkpoint | os.PathLike):
        raise _no_checkpoint(called, given)
    if one:
        raise InputError(
            f"{called} is {str(given)!r:.200}; expected several checkpoints, such as [{str(given)!r:.80}, ...]. The "
            "models in a sweep's folder: cook(FOLDER, ...)."
        )
    return tuple(Checkpoint.of(one, f"{called}[{i}]") for i, one in enumerate(given))


def _no_checkpoint(called: str, given: object) -> InputError:
    return InputError(
        f"{called} is of type {type(given).__name__}; expected a Checkpoint, a folder, or a repo of the Hub "
        '("org/name" or "org/name@revision").'
    )


def sources_of(given: Sequence[AnySource] | AnySource) -> list[AnySource]:
    """What functions take that one or several folders may be given to, such as a sweep's or checkpoints.

    >>> sources_of("sweep"), sources_of(["a", "b"])
    (['sweep'], ['a', 'b'])
    """
    return [given] if isinstance(given, str | os.PathLike | Checkpoint) else list(given)


def names_of(given: Iterable[str] | str) -> list[str]:
    """What functions take that one or several names may be given to: a string is one, not its letters.

    >>> names_of("small"), names_of(["small", "big"])
    (['small'], ['small', 'big'])
    """
    return [given] if isinstance(given, str) else list(given)


@dataclass(frozen=True, init=False)
class Checkpoint:
    """One model on disk or on the Hub. Nothing is read until it is needed; what was read is kept.

    `source` is a folder or a repo id; `label_order`, when given, is the order in which the head's rows are read
    (see `with_labels`); `input_from` whose tokenizer or image processor it is used with, if not its own; `longer` the
    checkpoint whose rows it takes where its own vocabulary is shorter; `called` the tensors that it is read with, and
    their names there. Files stay as they are.
    """

    source: str
    revision: str | None = None
    subfolder: str | None = None
    label_order: tuple[int, ...] = ()
    input_from: Checkpoint | None = field(default=None, repr=False)
    longer: Checkpoint | None = field(default=None, repr=False)
    called: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __init__(self, source: str | Path, revision: str | None = None, subfolder: str | None = None) -> None:
        if not isinstance(source, str | os.PathLike):
            raise _no_checkpoint("source", source)
        parts = PurePosixPath(subfolder or "").parts
        if ".." in parts or PurePosixPath(subfolder or "").is_absolute():
            raise CheckpointError(f"{source}: subfolder {subfolder!r} leads out of the checkpoint. Name one inside it.")
        object.__setattr__(self, "source", str(source))
        object.__setattr__(self, "revision", revision)
        object.__setattr__(self, "subfolder", "/".join(parts) or None)
        object.__setattr__(self, "label_order", ())
        object.__setattr__(self, "input_from", None)
        object.__setattr__(self, "longer", None)
        object.__setattr__(self, "called", ())

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which may work in another folder: what it is, without what was read of it."""
        local = Path(self.source).expanduser()
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**state, "source": str(local.resolve())} if local.is_dir() else state

    @classmethod
    def named(cls, text: str | Path) -> Checkpoint:
        """What a user names: a folder, or a repo of the Hub, "org/name" or "org/name@revision".

        A path that exists is that folder, also with an @ in its name.

        >>> Checkpoint.named("org/model@v1")
        Checkpoint(source='org/model', revision='v1', subfolder=None, label_order=())
        """
        repo, at, revision = str(text).rpartition("@")
        return cls(repo, revision) if at and repo and not Path(text).exists() else cls(text)

    @classmethod
    def of(cls, given: Source, called: str = "a checkpoint") -> Checkpoint:
        """A checkpoint as functions take it: itself, or what `named` reads.

        Raises:
            InputError: if it is neither; `called` names the argument.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str | os.PathLike):
            return cls.named(os.fspath(given))
        raise _no_checkpoint(called, given)

    @cached_property
    def folder(self) -> Path:
        """The local folder: the source itself, or the snapshot of the Hub's repo.

        Raises:
            CheckpointError: if there is no such folder or repo, it cannot be reached, or a subfolder or a soup holds
                links that lead out of it.
        """
        local = Path(self.source).expanduser()
        if local.is_dir():
            return self._inside(local)
        if local.is_file():
            raise CheckpointError(f"{self.source}: a file; expected the folder that holds it, with its config.json.")
        if self.source.startswith((".", "/", "~")) or not is_repo_id(self.source):
            raise CheckpointError(f"{self.source}: no such folder. Check the path.")
        return self._inside(download(self.source, self.revision, self.subfolder))

    def _inside(self, folder: Path) -> Path:
        inner = folder / (self.subfolder or "")
        if not inner.is_dir():
            raise CheckpointError(f"{self.source}: no subfolder {self.subfolder!r} there.")
        if self.subfolder or (inner / "soup.json").is_file():  # named by a record, or made here: a copy, not links
            refuse_links_out(inner, inside=folder)
        return inner

    @property
    def is_onnx(self) -> bool:
        """Whether it was exported to ONNX: it answers, and cannot be mixed."""
        return is_onnx(self.folder)

    @property
    def is_endpoint(self) -> bool:
        """Whether it is asked over HTTP: its folder has an endpoint.json, and no weights."""
        return is_endpoint(self.folder)

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter (LoRA) that must be multiplied into its base before it can be mixed."""
        return is_adapter(self.folder)

    @property
    def name(self) -> str:
        """A short name for tables and messages."""
        local = Path(self.source).expanduser()
        if not local.is_dir():
            return "/".join(filter(None, (self.source, self.subfolder)))
        return (local / (self.subfolder or "")).resolve().name

    def __str__(self) -> str:
        return "/".join(filter(None, (self.source, self.subfolder))) + (f"@{self.revision}" if self.revision else "")

    # What the JSON files say.

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json."""
        path = self.folder / "config.json"
        if not path.is_file():
            if self.is_endpoint:
                return {"model_type": MODEL_TYPE}
            if self.is_adapter:
                raise CheckpointError(f"{self}: an adapter, not a whole model. {MERGE_ADAPTER}")
            raise CheckpointError(f"{self}: no config.json there. Expected a folder written by save_pretrained().")
        config = json_object(path)
        check_config(config, self)
        return config

    @cached_property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits; None where config.json has none of its own."""
        table = self.config.get("id2label")
        if not isinstance(table, dict) or not table:
            return None
        try:
            numbered = {int(index): str(name) for index, name in table.items()}
            names = tuple(numbered[i] for i in range(len(numbered)))
        except (ValueError, KeyError):
            raise CheckpointError(f"{self}: id2label in config.json is not numbered 0, 1, 2, ...: {table}.") from None
        if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
            return None
        return tuple(names[i] for i in self.label_order) if self.label_order else names

    @cached_property
    def run(self) -> Mapping[str, Any] | None:
        """What run.json or soup.json records of its making; None for a checkpoint from elsewhere."""
        return next((json_object(path) for path in self._records() if path.name != "start.json"), None)

    @cached_property
    def head_fingerprint(self) -> str | None:
        """The fingerprint of the head that its fine-tuning started from, where one is recorded."""
        for path in self._records():
            value = json_object(path).get("head_fingerprint")
            if value is not None:
                return str(value)
        return None

    def _records(self) -> Iterator[Path]:
        return (path for path in (self.folder / name for name in RECORDS) if path.is_file())

    def carried_files(self) -> list[Path]:
        """Config, generation config, tokenizer and processor files; never weights, code or records of a run."""
        return sorted([*_files(self.folder, CONFIGS), *self.processor_files()])

    def processor_files(self) -> list[Path]:
        """Tokenizer and processor files alone."""
        templates = _files(self.processor_folder / "additional_chat_templates", ("*.jinja",))
        return sorted(_files(self.processor_folder, PROCESSORS) | templates)

    @cached_property
    def processor_folder(self) -> Path:
        """Where its tokenizer or image processor is: with its weights, or one folder up.

        A Trainer that was not given the processor leaves `checkpoint-<step>` folders without one; scripts then save it
        beside them.
        """
        if self.input_from is not None:
            return self.input_from.processor_folder
        above = self.folder.parent
        lonely = TRAINERS_STEP.fullmatch(self.folder.name) and not _files(self.folder, PROCESSORS)
        return above if lonely and _files(above, PROCESSORS) else self.folder

    # Tensors.

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by the name that it is loaded by, in the order they lie in the files.

        Raises:
            CheckpointError: if the weights are missing, corrupt, in another format, or not what the index says.
        """
        named = {self._loaded_by[name]: info for header in self._headers for name, info in header.tensors.items()}
        if self.called:
            named = {name: named[own] for own, name in self.called}
        own = {name: info if info.name == name else replace(info, name=name) for name, info in named.items()}
        if self.longer is not None:
            for name, rows in longer_rows(own, self.longer.tensors, self.config, self.longer.config).items():
                own[name] = replace(own[name], shape=(rows, *own[name].shape[1:]))
        return MappingProxyType(own)

    @cached_property
    def _loaded_by(self) -> Mapping[str, str]:
        """The name in the files -> the name that it is loaded by."""
        return loaded_names(name for header in self._headers for name in header.tensors)

    @property
    def stored_names(self) -> tuple[str, ...]:
        """Names as the files have them."""
        return tuple(self._loaded_by)

    @cached_property
    def _headers(self) -> tuple[TensorHeader, ...]:
        _ = self.config  # a folder of weights without a config is no checkpoint
        if self.is_endpoint:
            raise CheckpointError(f"{self}: an endpoint, which has no weights here: it cannot be mixed or fine-tuned.")
        if self.is_onnx:
            raise CheckpointError(
                f"{self}: exported to ONNX, whose tensors are not read: it answers rows, but cannot be mixed or "
                "fine-tuned. Name the checkpoint that it was exported from."
            )
        return read_headers(self.folder)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The safetensors files, in order of name; of an export to ONNX its graph and weights."""
        return onnx_files(self.folder) if self.is_onnx else tuple(header.path for header in self._headers)

    @cached_property
    def stamps(self) -> Mapping[Path, FileStamp]:
        """What each weight file was when its header was read."""
        if self.is_onnx:
            return {path: FileStamp.of(path.stat()) for path in onnx_files(self.folder)}
        return {header.path: header.stamp for header in self._headers}

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Names of tied tensors that are not stored, and the stored tensor each stands for (file metadata)."""
        aliases = {name: kept for header in self._headers for name, kept in header.metadata.items()}
        said = loaded_aliases(aliases, self._loaded_by)
        return {name: kept for name, kept in said.items() if kept in self.tensors and name not in self.tensors}

    @cached_property
    def index_metadata(self) -> Mapping[str, Any]:
        """What the index of a sharded checkpoint says beside the map; empty for a single file."""
        if len(self._headers) == 1 and self.weight_files[0].name == SINGLE:
            return {}
        about = json_object(self.folder / INDEX).get("metadata")
        return about if isinstance(about, dict) else {}

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Elements of all floating-point tensors; of an export to ONNX those of the model that was exported."""
        if self.is_onnx:
            return read_onnx_record(self.folder).parameters
        return sum(info.elements for info in self.tensors.values() if info.dtype in FLOATS)

    def pieces(self, name: str) -> tuple[Piece, ...]:
        """Where a tensor's elements lie, in reading order."""
        info = self.tensors[name]
        stamp = self.stamps[info.file]
        if name in self._head_tensors:
            row = info.elements // len(self.label_order)
            size = row * ITEM_BYTES[info.dtype]
            return tuple(Piece(info.file, stamp, info.dtype, info.offset + i * size, row) for i in self.label_order)
        own = info.nbytes // ITEM_BYTES[info.dtype]  # as stored
        piece = Piece(info.file, stamp, info.dtype, info.offset, own)
        return (piece,) if own == info.elements or self.longer is None else (piece, _rest(self.longer, name, own))

    def read(self, name: str) -> np.ndarray:
        """One tensor: float32 for floating-point dtypes, its own dtype for integers and bools."""
        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError(f"{self}: no tensor {name!r}. It holds {', '.join(list(self.tensors)[:5])}, ...")
        out = np.empty(info.elements, dtype=np.float32 if info.dtype in FLOATS else NATIVE[info.dtype])
        at = 0
        for piece in self.pieces(name):
            raw: NDArray[np.uint8] = np.empty(piece.elements * ITEM_BYTES[piece.dtype], dtype=np.uint8)
            with opened(piece.file, piece.stamp) as file:
                read_exactly(file, raw.data, piece.offset, piece.file)
            into = out[at : at + piece.elements]
            at += piece.elements
            if info.dtype not in FLOATS:
                into[:] = raw.view(NATIVE[info.dtype])
                continue
            with np.errstate(all="ignore"):
                decode_into(raw, piece.dtype, into)
        return out.reshape(info.shape)

    def sha256(self) -> str:
        """SHA-256 over the bytes of the weight files in order of name; of an endpoint over its address and labels.

        Raises:
            CheckpointError: if a file is gone, or changed since its header was read.
        """
        # not a cached_property: Python 3.11 computes those of all instances under one lock, one after the other
        if "_sha256" not in self.__dict__:
            found = read_endpoint(self.folder).sha256() if self.is_endpoint else sha256_of(self.stamps)
            object.__setattr__(self, "_sha256", found)
        return str(self.__dict__["_sha256"])

    def digest(self) -> str:
        """A digest of the weight files that names its way, for comparisons on this machine; see `pieces_digest`.

        Raises:
            CheckpointError: as `sha256`.
        """
        if "_digest" not in self.__dict__:
            self.keep_digest(pieces_digest(self.stamps))
        return str(self.__dict__["_digest"])

    def keep_digest(self, digest: str) -> None:
        """Keep a digest that somebody made of the weight files in passing."""
        object.__setattr__(self, "_digest", digest)

    def has_weights(self, recorded: str) -> bool:
        """Whether a record's digest is that of the weight files: by the way that it names, or SHA-256."""
        return recorded == (self.digest() if recorded.startswith(f"{PIECES}:") else self.sha256())

    def files_digest(self) -> str:
        """SHA-256 over names and bytes of config, tokenizer and processor: with the weights they decide the answers."""
        found = hashlib.sha256()
        for path in sorted(self.carried_files(), key=lambda path: path.name):
            data = read_bytes(path, error=CheckpointError)
            found.update(json.dumps([path.name, len(data)]).encode() + data)
        return found.hexdigest()

    # The same files, read or used in another way.

    def with_labels(self, names: tuple[str, ...]) -> Checkpoint:
        """This checkpoint with its head's rows read in the order of `names`; the files stay as they are.

        Raises:
            CheckpointError: if its label names are others, or its head's tensors cannot be told.
        """
        plain = _view(self, label_order=())
        stored = plain.label_names
        order = None if stored is None else order_of(stored, names)
        if order is None:
            raise CheckpointError(f"{self}: its labels are {stored}, which cannot be put in the order {names}.")
        if order == tuple(range(len(order))):
            return plain
        aligned = _view(self, label_order=order)
        if not aligned._head_tensors:
            raise CheckpointError(f"{self}: no tensors of a head with {len(names)} rows, so labels cannot be aligned.")
        return aligned

    def with_input_from(self, other: Checkpoint) -> Checkpoint:
        """This checkpoint with another one's tokenizer or image processor."""
        return self if other.processor_folder == self.processor_folder else _view(self, input_from=other)

    def with_names(self, called: Mapping[str, str]) -> Checkpoint:
        """This checkpoint with other names for its tensors, and without those that have none."""
        before = {name: own for own, name in self.called}
        return _view(self, called=tuple((before.get(own, own), name) for own, name in called.items()))

    def with_rows_of(self, longer: Checkpoint) -> Checkpoint:
        """This checkpoint with the rows of another one where its own vocabulary is shorter."""
        return self if longer is self else _view(self, longer=longer)

    @cached_property
    def _head_tensors(self) -> frozenset[str]:
        if not self.label_order:
            return frozenset()
        rows = len(self.label_order)
        return frozenset(
            name
            for name, info in self.tensors.items()
            if HEAD.search(name) and info.shape[:1] == (rows,) and info.dtype in FLOATS
        )


def _files(folder: Path, patterns: tuple[str, ...]) -> set[Path]:
    """Files right inside a folder by patterns of their names; indices of shards are none of them."""
    found = (path for pattern in patterns for path in visible(folder, pattern))
    return {path for path in found if path.is_file() and not path.name.endswith(".index.json")}


def _view(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """A copy that is read in another way; shares nothing that was cached."""
    copy = Checkpoint(checkpoint.source, checkpoint.revision, checkpoint.subfolder)
    kept = {name: getattr(checkpoint, name) for name in ("label_order", "input_from", "longer", "called")}
    for name, value in {**kept, **changes}.items():
        object.__setattr__(copy, name, value)
    return copy


def _rest(longer: Checkpoint, name: str, own: int) -> Piece:
    """The elements of a longer checkpoint's tensor behind the first `own`."""
    (whole,) = longer.pieces(name)
    return replace(whole, offset=whole.offset + own * ITEM_BYTES[whole.dtype], elements=whole.elements - own)
