"""Whether two checkpoints are fed alike: their tokenizers and image processors, compared as transformers loads them.

Equal files are equal, and nothing is loaded for them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, HfSoupsError
from hf_soups.files.loaded_names import longer_rows, vocabulary_rows
from hf_soups.files.reading import read_bytes
from hf_soups.files.weights import json_object
from hf_soups.soups.preflight_findings import Notes

if TYPE_CHECKING:
    from hf_soups.models.same_input import InputDifference

FIRST = "FIRST"  # --processor FIRST
ExtraRows = Literal["keep", "refuse"]
KEPT_TOKENS = "The soup takes the tokenizer that knows more (--extra-rows refuse makes this an error)."
Kind = Literal["tokenizer", "image processor"]
KINDS: tuple[Kind, ...] = ("tokenizer", "image processor")
IMAGE_FILES = ("preprocessor_config", "processor_config", "image_processor_config", "feature_extractor_config")
NO_INPUT = ("chat_template", "video_preprocessor_config")  # files beside them that no classifier is fed by
# Keys of the files that say nothing of what the model is fed: files that differ in them alone are not loaded.
SILENT = frozenset({
    "_commit_hash", "name_or_path", "tokenizer_file", "transformers_version", "special_tokens_map_file",
    "local_files_only", "is_local", "backend", "chat_template", "clean_up_tokenization_spaces",
})  # fmt: skip
READS = {"tokenizer": ("vocab_size", "text_config"), "image processor": ("image_size", "patch_size", "vision_config")}
WHAT = {"tokenizer": "vocabulary", "image processor": "preprocessing"}
OTHERWISE = "so the models read their input in different ways. Mix models of one"
UNKNOWN = "so whether both read their input alike is not known. Put the same one beside the weights."
WAY_ON = "To go on, name the one that the soup takes: --processor FIRST or a folder (--force: the first model's)."


@dataclass(frozen=True, slots=True)
class InputFiles:
    """A checkpoint's tokenizer and image processor files: JSON without what does not matter, or a hash of the rest."""

    by_kind: Mapping[Kind, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> InputFiles:
        """Read them.

        Raises:
            CheckpointError: if one cannot be read.
        """
        found: dict[Kind, dict[str, Any]] = {}
        for path in checkpoint.processor_files():
            if path.name.startswith(NO_INPUT) or path.suffix == ".jinja":
                continue
            kind: Kind = "image processor" if path.name.startswith(IMAGE_FILES) else "tokenizer"
            if path.suffix != ".json":
                content: Any = hashlib.sha256(
                    read_bytes(path, error=CheckpointError).replace(b"\r\n", b"\n")
                ).hexdigest()
            else:
                content = {key: value for key, value in json_object(path).items() if key not in SILENT}
            found.setdefault(kind, {})[path.name] = content
        return cls(found)

    def digest(self, kind: Kind) -> str:
        """Equal for equal files of a kind."""
        text = json.dumps(self.by_kind.get(kind, {}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class InputProblem:
    """One thing that two models do not read alike, in words."""

    fact: str  # a sentence without its end
    advice: str  # what follows from it, and what to do
    loaded: str = ""  # what differs as loaded

    @property
    def refused(self) -> str:
        """As an error."""
        return f"{self.fact}, {self.advice} {self._as_loaded}{WAY_ON}"

    def gone_on(self, end: str) -> str:
        """As a warning; `end` says what the soup takes."""
        return f"{self.fact}. {self._as_loaded}{end}"

    @property
    def _as_loaded(self) -> str:
        return f"As loaded: {self.loaded}. " if self.loaded else ""


@dataclass(frozen=True, slots=True)
class InputVerdict:
    """What one checkpoint is fed otherwise than the first."""

    errors: tuple[InputProblem, ...] = ()
    warnings: tuple[str, ...] = ()
    grown: int = 0  # 1: its tokenizer only knows further tokens; -1: the first's does


def compare_input(
    first: Checkpoint, other: Checkpoint, first_files: InputFiles, other_files: InputFiles
) -> InputVerdict:
    """What the other checkpoint is fed otherwise than the first."""
    both = first_files.by_kind.keys() & other_files.by_kind.keys()
    found = []
    for kind in KINDS:
        a, b = first_files.by_kind.get(kind), other_files.by_kind.get(kind)
        if a == b:
            continue
        if a is None or b is None:
            lacking, having = (first, other) if a is None else (other, first)
            found.append(_lacking(kind, lacking, having, needed=not both or _reads(first, kind)))
        else:
            found.append(_compared(kind, first, other, first_files, other_files))
    errors = tuple(problem for verdict in found for problem in verdict.errors)
    warnings = tuple(message for verdict in found for message in verdict.warnings)
    return InputVerdict(errors, warnings, sum(verdict.grown for verdict in found) if len(errors) == 1 else 0)


def _lacking(kind: Kind, lacking: Checkpoint, having: Checkpoint, *, needed: bool) -> InputVerdict:
    fact = f"{lacking}: no {kind} there, but {having} has one"
    return InputVerdict((InputProblem(fact, UNKNOWN),)) if needed else InputVerdict(warnings=(f"{fact}.",))


def _compared(
    kind: Kind, first: Checkpoint, other: Checkpoint, first_files: InputFiles, other_files: InputFiles
) -> InputVerdict:
    """Both loaded, and what they do differently."""
    try:
        found = _difference(kind, first, other, first_files.digest(kind), other_files.digest(kind))
    except HfSoupsError as error:
        fact = f"{other}: its {kind} cannot be compared with that of {first} ({str(error).removesuffix('.')})"
        return InputVerdict((InputProblem(fact, UNKNOWN),))
    where = _where(other, first, first_files.by_kind[kind], other_files.by_kind[kind])
    if found.errors:
        problem = InputProblem(where, f"{OTHERWISE} {WHAT[kind]}.", "; ".join(found.errors))
        return InputVerdict((problem,), grown=found.grown)
    lines = tuple(f"{where}. As loaded: {warning}; the soup takes {first}'s." for warning in found.warnings)
    return InputVerdict(warnings=lines)


def _reads(checkpoint: Checkpoint, kind: Kind) -> bool:
    """Whether config.json is one of a model that reads texts, or images."""
    return any(checkpoint.config.get(key) is not None for key in READS[kind])


def _where(other: Checkpoint, first: Checkpoint, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The file that differs, and its keys; files that only one has where no other differs."""
    for name in sorted(a.keys() & b.keys()):
        if a[name] != b[name]:
            keys = _differing(a[name], b[name])
            return f"{other}: {name} differs from that of {first}" + (f" in {', '.join(keys[:4])}" if keys else "")
    return f"{other}: {', '.join(sorted(b))} differs from {', '.join(sorted(a))} of {first}"


def _differing(a: Any, b: Any) -> list[str]:
    if not isinstance(a, dict) or not isinstance(b, dict):
        return []
    return sorted(key for key in a | b if a.get(key) != b.get(key))


def _difference(kind: Kind, first: Checkpoint, other: Checkpoint, *digests: str) -> InputDifference:
    from hf_soups.models.same_input import image_difference, tokenizer_difference

    a, b = (_loaded(kind, str(c.processor_folder), digest) for c, digest in zip((first, other), digests, strict=True))
    if kind == "image processor":
        return image_difference(a, b)
    config = first.config
    places = next((config[key] for key in ("max_position_embeddings", "n_positions") if config.get(key)), None)
    # DistilBERT's config does not say that it has none
    types = config.get("type_vocab_size", 1 if config.get("model_type") == "distilbert" else 2) != 1
    return tokenizer_difference(a, b, places=places, types=types)


@functools.lru_cache(maxsize=4)
def _loaded(kind: Kind, folder: str, _digest: str) -> Any:
    """Kept for the next checkpoint: all are compared with the first."""
    from hf_soups.models.loading import load_image_processor, load_tokenizer

    return load_tokenizer(folder) if kind == "tokenizer" else load_image_processor(folder)


def fed_alike(
    notes: Notes,
    files: Mapping[Checkpoint, InputFiles],
    usable: Sequence[Checkpoint],
    processor: str | Path | None,
    extra_rows: ExtraRows,
) -> list[Checkpoint]:
    """The checkpoints with the tokenizer or image processor that the soup takes; what differs is noted.

    Args:
        notes: get the findings.
        files: of all that could be read, the first's first.
        usable: the checkpoints as they may be mixed.
        processor: whose is taken; None: the first's, or that of a model whose tokenizer only knows more.
        extra_rows: whether tokens that only some know are kept.
    Raises:
        CheckpointError: if `processor` names none.
    """
    if not files:
        return list(usable)
    source, own = _source_of(files, processor)
    taken = source
    for checkpoint in files:
        found = compare_input(source, checkpoint, own, files[checkpoint])
        for message in found.warnings:
            notes.warn(checkpoint, "processor", message)
        if found.grown and extra_rows == "keep" and processor is None:
            notes.warn(checkpoint, "processor", found.errors[0].gone_on(KEPT_TOKENS))
            if found.grown > 0:
                taken = _larger(notes, taken, source, checkpoint, files)
            continue
        for problem in found.errors:
            notes.differ(checkpoint, "processor", problem.refused, problem.gone_on(f"The soup takes {source}'s."))
    if processor is None and taken is source and "forced" not in notes.taken:
        return list(usable)
    notes.taken["processor"] = str(taken)
    return [checkpoint.with_input_from(taken) for checkpoint in usable]


def _source_of(files: Mapping[Checkpoint, InputFiles], processor: str | Path | None) -> tuple[Checkpoint, InputFiles]:
    """What all are compared with: the first, or what the user named."""
    source, own = next(iter(files.items()))
    if processor is not None and str(processor).upper() != FIRST:
        source = Checkpoint.named(processor)
        own = InputFiles.of(source)
    if processor is None:
        return source, own
    had = {kind for one in files.values() for kind in one.by_kind if _reads(next(iter(files)), kind)}
    lacking = [kind for kind in KINDS if kind in had - own.by_kind.keys()]
    if lacking or not own.by_kind:
        kinds = " and no ".join(lacking or KINDS)
        raise CheckpointError(f"--processor {processor}: no {kinds} in {source}. Name a folder that holds one.")
    return source, own


def _larger(
    notes: Notes, taken: Checkpoint, first: Checkpoint, other: Checkpoint, files: Mapping[Checkpoint, InputFiles]
) -> Checkpoint:
    """Of two tokenizers that both know more than the first's, the one that knows all that the other does."""
    if taken is first:
        return other
    found = compare_input(taken, other, files[taken], files[other])
    if found.errors and not found.grown:
        notes.differ(other, "processor", found.errors[0].refused, found.errors[0].gone_on(f"The soup takes {taken}'s."))
    return other if found.grown > 0 else taken


@dataclass(frozen=True, slots=True)
class LongestVocabulary:
    """Tables of tokens that have more rows in some checkpoints: rows that all have are averaged, others kept."""

    longest: Checkpoint
    averaged: int
    rows: int
    tensors: tuple[str, ...]

    @property
    def kept(self) -> str:
        """In words, where the rest is kept."""
        return (
            f"{self._said}. The {self.averaged} that all have are averaged; the rest, which pads or adds tokens, is "
            f"{self.longest}'s (--extra-rows refuse makes this an error)."
        )

    @property
    def refused(self) -> str:
        """In words, where it is not."""
        return (
            f"{self._said}. Give all the same rows (model.resize_token_embeddings), or average those that all have and "
            "keep the rest (--extra-rows keep)."
        )

    @property
    def _said(self) -> str:
        return f"{self.longest}: {self.rows} rows in {', '.join(self.tensors)}, but others have {self.averaged}"

    def record(self) -> dict[str, Any]:
        """As soup.json says it."""
        return {"rows": self.rows, "averaged": self.averaged, "rest_from": str(self.longest), "of": list(self.tensors)}


def longest_vocabulary(checkpoints: Sequence[Checkpoint]) -> LongestVocabulary | None:
    """The first of those with most rows for tokens; None where all have as many."""
    sizes = {checkpoint: vocabulary_rows(checkpoint.config) or 0 for checkpoint in checkpoints}
    if len(set(sizes.values())) < 2:
        return None
    longest = max(sizes, key=lambda c: sizes[c])
    found = [longer_rows(c.tensors, longest.tensors, c.config, longest.config) for c in checkpoints]
    tensors = tuple(sorted({name for one in found for name in one}))
    return LongestVocabulary(longest, min(sizes.values()), sizes[longest], tensors) if tensors else None


def with_all_rows(start: Checkpoint, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """A start with rows for the tokens that its fine-tunes know besides: those that they have."""
    longest = next((c.longer for c in checkpoints if c.longer is not None), checkpoints[0])
    try:
        found = longer_rows(start.tensors, longest.tensors, start.config, longest.config)
    except HfSoupsError:
        return start  # whoever needs it says what is wrong
    return start.with_rows_of(longest) if found else start
