"""What may be mixed with what: everything that would spoil a mixture is found before any weight is added.

Errors stop; warnings are told. Label orders that differ are put right by name, when asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, HfSoupsError, IncompatibleCheckpoints, PredictionsError
from hf_soups.files.dtypes import FLOATS
from hf_soups.files.weights import json_object
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.predictions import Predictions
from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY
from hf_soups.soups.mixing.blocks import BlockMixer
from hf_soups.soups.mixing.spans import plan_spans, shared_names
from hf_soups.soups.tensor_names import why_names_differ, wrapped

# Keys of a tokenizer's or processor's files that say nothing of what the model is fed: not told.
SILENT = frozenset({
    "_commit_hash", "name_or_path", "tokenizer_file", "transformers_version", "special_tokens_map_file",
    "local_files_only", "is_local", "backend",
})  # fmt: skip
# Told as a warning: how long, which side, by which class; the same words still become the same numbers.
COSMETIC = frozenset({
    "truncation", "padding", "model_max_length", "max_length", "stride", "padding_side", "truncation_side", "decoder",
    "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id", "tokenizer_class", "processor_class",
    "image_processor_type", "feature_extractor_type", "clean_up_tokenization_spaces", "chat_template",
    "model_input_names", "extra_special_tokens",
})  # fmt: skip
TOKENIZERS = ("tokenizer", "vocab", "merges", "spiece", "sentencepiece", "bpe", "special_tokens_map", "added_tokens")
PROCESSORS = ("preprocessor_config", "processor_config", "image_processor_config", "feature_extractor_config")
# Different in config.json without any effect on what is computed or how it is read.
PASSIVE_CONFIG = frozenset({
    "_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id",
    "finetuning_task", "problem_type", "architectures", "model_type", "use_cache", "output_attentions",
    "output_hidden_states",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not match: which checkpoint, and what to do about it."""

    checkpoint: str
    topic: str  # "architecture", "config", "tensors", "dtype", "labels", "processor", "head", "values", "run", ...
    message: str


@dataclass(frozen=True)
class PreflightReport:
    """What was found, and the checkpoints as they may be mixed (label orders aligned where that was asked for)."""

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    checkpoints: tuple[Checkpoint, ...]

    @property
    def label_permutations(self) -> Mapping[str, tuple[int, ...]]:
        """For each checkpoint whose labels were aligned: its own index of each class of checkpoint one."""
        return {str(c): c.label_order for c in self.checkpoints if c.label_order}

    def raise_for_errors(self) -> None:
        """Raise one IncompatibleCheckpoints that lists all errors, if there are any."""
        if not self.errors:
            return
        listed = "\n".join(f"  - {finding.message}" for finding in self.errors)
        raise IncompatibleCheckpoints(f"these checkpoints cannot be mixed:\n{listed}")


def preflight(
    checkpoints: Sequence[Checkpoint],
    *,
    align_labels: bool = False,
    require_head: bool = True,
    check_values: bool = True,
    check_duplicates: bool = True,
    threads: int = 2,
) -> PreflightReport:
    """Compare all checkpoints with the first.

    Args:
        checkpoints: two or more; one alone is checked for itself.
        align_labels: permute heads whose label names are the same in another order, instead of refusing them.
        require_head: refuse checkpoints whose heads are known to come from different starts.
        check_values: look for NaN and infinity; reads all weights.
        check_duplicates: compare SHA-256; reads all weights, once for files that stay as they are.
        threads: that read side by side.

    Raises:
        CheckpointError: never; a checkpoint that cannot be read is an error of the report.
    """
    notes = _Notes()
    readable = [c for c in checkpoints if notes.readable(c)]
    usable = [_compared(notes, readable[0], c, align_labels, require_head) for c in readable]
    for checkpoint in readable:
        _check_run(notes, checkpoint)
        _check_answers(notes, checkpoint)
    if check_values:
        _check_values(notes, readable, threads)
    if check_duplicates:
        _check_duplicates(notes, readable, threads)
    return PreflightReport(tuple(notes.errors), tuple(notes.warnings), tuple(usable))


class _Notes:
    def __init__(self) -> None:
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []

    def error(self, checkpoint: Checkpoint, topic: str, message: str) -> None:
        self.errors.append(Finding(str(checkpoint), topic, message))

    def warn(self, checkpoint: Checkpoint, topic: str, message: str) -> None:
        self.warnings.append(Finding(str(checkpoint), topic, message))

    def attempt(self, checkpoint: Checkpoint, topic: str, check: Callable[[], object]) -> bool:
        """Run a check; what it raises becomes an error of the report."""
        try:
            check()
        except HfSoupsError as error:
            self.error(checkpoint, topic, str(error))
            return False
        return True

    def readable(self, checkpoint: Checkpoint) -> bool:
        if not self.attempt(checkpoint, "files", lambda: (checkpoint.config, checkpoint.tensors)):
            return False
        said = checkpoint.index_metadata.get("total_size")
        if said is not None and said != checkpoint.total_bytes:
            self.warn(
                checkpoint, "files",
                f"{checkpoint}: its index says {said} bytes of tensors, the shards hold {checkpoint.total_bytes}.",
            )  # fmt: skip
        return True


def _compared(
    notes: _Notes, first: Checkpoint, other: Checkpoint, align_labels: bool, require_head: bool
) -> Checkpoint:
    """The other checkpoint as it may be mixed with the first."""
    if other is first:
        notes.attempt(first, "labels", lambda: first.label_names)
        _check_wrapper(notes, first)
        return first
    _check_config(notes, first, other)
    if _check_tensors(notes, first, other):
        _check_wrapper(notes, other)
        _check_dtypes(notes, first, other)
    _check_processor(notes, first, other)
    if require_head:
        _check_head(notes, first, other)
    return _check_labels(notes, first, other, align_labels)


def _check_config(notes: _Notes, first: Checkpoint, other: Checkpoint) -> None:
    for key in ("model_type", "architectures"):
        a, b = first.config.get(key), other.config.get(key)
        if a != b:
            notes.error(
                other, "architecture",
                f"{other}: {key} is {b}, but {a} in {first}. A soup needs one architecture.",
            )  # fmt: skip
            return
    for key in (WORDS_KEY, PROMPT_KEY):
        a, b = first.config.get(key), other.config.get(key)
        if a != b:
            notes.error(
                other, "label words",
                f"{other}: {key} is {b!r}, but {a!r} in {first}. Models that answer with words were taught these: fine-"
                "tune all ingredients from one start (hf-soups sweep does).",
            )  # fmt: skip
    if first.config.get("tie_word_embeddings") != other.config.get("tie_word_embeddings"):
        notes.warn(other, "tied weights", f"{other}: tie_word_embeddings differs from {first}.")
    keys = (set(first.config) | set(other.config)) - PASSIVE_CONFIG - {"tie_word_embeddings", WORDS_KEY, PROMPT_KEY}
    differing = sorted(key for key in keys if first.config.get(key) != other.config.get(key))
    if differing:
        notes.warn(
            other, "config",
            f"{other}: config.json differs from {first} in {', '.join(differing)}; the soup takes {first}'s.",
        )  # fmt: skip


def _check_tensors(notes: _Notes, first: Checkpoint, other: Checkpoint) -> bool:
    try:
        shared_names([first, other])
    except HfSoupsError as error:
        why = why_names_differ(first, other)
        if why is None:
            notes.error(other, "tensors", str(error))
        else:
            notes.error(other, why.topic, why.message)
        return False
    return True


def _check_wrapper(notes: _Notes, checkpoint: Checkpoint) -> None:
    told = wrapped(checkpoint)
    if told is not None:
        notes.warn(checkpoint, "tensors", told)


def _check_dtypes(notes: _Notes, first: Checkpoint, other: Checkpoint) -> None:
    differing = [n for n in first.tensors if n in other.tensors and first.tensors[n].dtype != other.tensors[n].dtype]
    if differing:
        name = differing[0]
        notes.warn(
            other, "dtype",
            f"{other}: {len(differing)} tensors are stored as {other.tensors[name].dtype}, but as "
            f"{first.tensors[name].dtype} in {first} (first: {name!r}); the soup takes {first}'s.",
        )  # fmt: skip


def _check_labels(notes: _Notes, first: Checkpoint, other: Checkpoint, align: bool) -> Checkpoint:
    try:
        a, b = first.label_names, other.label_names
    except CheckpointError as error:
        notes.error(other, "labels", str(error))
        return other
    if a is None or b is None or a == b:
        if (a is None) != (b is None):
            notes.warn(other, "labels", f"one of {first} and {other} names no labels; they are taken to be the same.")
        return other
    if sorted(a) != sorted(b):
        notes.error(other, "labels", f"{other}: its labels are {list(b)}, but {list(a)} in {first}. {ONE_TASK}")
        return other
    if not align:
        notes.error(
            other, "labels",
            f"{other}: its labels are in the order {list(b)}, but {list(a)} in {first}. Averaged as they are, classes "
            "would be mixed up: align them by name (--align-labels, align_labels=True).",
        )  # fmt: skip
        return other
    try:
        return other.with_labels(a)
    except CheckpointError as error:
        notes.error(other, "labels", str(error))
        return other


ONE_TASK = "A soup needs models of one task."


def _check_head(notes: _Notes, first: Checkpoint, other: Checkpoint) -> None:
    a, b = first.head_fingerprint, other.head_fingerprint
    if a is not None and b is not None and a != b:
        notes.error(
            other, "head",
            f"{other}: its head started from {b[:12]}, but {first}'s from {a[:12]}. Averages of heads from different "
            "random starts collapse: fine-tune all ingredients from one start (hf-soups sweep does).",
        )  # fmt: skip
    elif (a is None) != (b is None):
        notes.warn(other, "head", f"{other if b is None else first}: it is not recorded which start its head had.")


# Tokenizers and image processors.


def _check_processor(notes: _Notes, first: Checkpoint, other: Checkpoint) -> None:
    try:
        a, b = _processing(first), _processing(other)
    except CheckpointError as error:
        notes.error(other, "processor", str(error))
        return
    for name in sorted(set(a) | set(b)):
        if name not in a or name not in b:
            notes.warn(other, "processor", f"{name} exists only in {other if name in b else first}.")
        elif a[name] != b[name]:
            _tell_difference(notes, first, other, name, _differing(a[name], b[name]))


def _tell_difference(notes: _Notes, first: Checkpoint, other: Checkpoint, name: str, keys: Sequence[str]) -> None:
    where = f"{other}: {name} differs from that of {first}" + (f" in {', '.join(keys[:4])}" if keys else "")
    if keys and COSMETIC.issuperset(keys):
        notes.warn(other, "processor", f"{where}; the soup takes {first}'s.")
        return
    what = "vocabulary" if name.startswith(TOKENIZERS) else "preprocessing"
    notes.error(
        other, "processor", f"{where}, so the models read their input in different ways. Mix models of one {what}."
    )


def _processing(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint's tokenizer or image processor files say: JSON without cosmetics, or a hash of the rest."""
    files = (path for path in checkpoint.carried_files() if path.name.startswith((*TOKENIZERS, *PROCESSORS)))
    return {path.name: _content(path) for path in files}


def _content(path: Path) -> Any:
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    return {k: v for k, v in json_object(path).items() if k not in SILENT}


def _differing(a: Any, b: Any) -> list[str]:
    if not isinstance(a, dict) or not isinstance(b, dict):
        return []
    return sorted(key for key in set(a) | set(b) if a.get(key) != b.get(key))


# Each checkpoint for itself.


def _check_run(notes: _Notes, checkpoint: Checkpoint) -> None:
    try:
        run = checkpoint.run
    except CheckpointError as error:
        notes.error(checkpoint, "run", str(error))
        return
    status = "finished" if run is None else run.get("status", "finished")
    if status != "finished":
        reason = f" ({run.get('reason')})" if run and run.get("reason") else ""
        notes.error(checkpoint, "run", f"{checkpoint}: its run ended as {status!r}{reason}. Leave it out of the soup.")


def answers_one_class(checkpoint: Checkpoint) -> bool | None:
    """Whether it gave one answer to all its cached select rows, though their labels differ; None: nothing is cached.

    Raises:
        PredictionsError: if what is cached cannot be read.
    """
    path = checkpoint.folder / PREDICTIONS / "select.safetensors"
    if not path.is_file():
        return None
    cached = Predictions.load(path)
    if cached.labels is None or len(set(cached.labels.tolist())) < 2:
        return None
    return len(set(cached.answers.tolist())) == 1


def _check_answers(notes: _Notes, checkpoint: Checkpoint) -> None:
    try:
        one = answers_one_class(checkpoint)
    except PredictionsError as error:
        notes.warn(checkpoint, "answers", f"{checkpoint}: whether it answers all classes is not known: {error}")
        return
    if one:
        notes.warn(
            checkpoint, "answers",
            f"{checkpoint}: its cached answers on select are all of one class, so a soup gains nothing by it. Leave it "
            "out, or train it with a lower learning rate.",
        )  # fmt: skip


def _check_values(notes: _Notes, checkpoints: Sequence[Checkpoint], threads: int) -> None:
    for checkpoint, error in zip(checkpoints, _side_by_side(_read_all, checkpoints, threads), strict=True):
        if error is not None:
            notes.error(checkpoint, "values", str(error))


def _side_by_side(
    read: Callable[[Checkpoint], object], checkpoints: Sequence[Checkpoint], threads: int
) -> list[HfSoupsError | None]:
    """Call `read` for every checkpoint, in threads; what each raised."""

    def error_of(checkpoint: Checkpoint) -> HfSoupsError | None:
        try:
            read(checkpoint)
        except HfSoupsError as error:
            return error
        return None

    with ThreadPoolExecutor(threads, thread_name_prefix="preflight") as pool:
        return list(pool.map(error_of, checkpoints))


def _read_all(checkpoint: Checkpoint) -> None:
    """Read every float once; the block mixer refuses NaN and infinity and names the tensor."""
    floats = [info for info in checkpoint.tensors.values() if info.dtype in FLOATS]
    places = [(info.name, info.dtype, info.file, info.offset) for info in floats]
    with BlockMixer() as mixer:
        for span in plan_spans([checkpoint], lambda _: (1.0,), places, "float32"):
            for start, count in span.blocks():
                mixer.output(span, start, count)


def _check_duplicates(notes: _Notes, checkpoints: Sequence[Checkpoint], threads: int) -> None:
    seen: dict[tuple[str, tuple[int, ...]], Checkpoint] = {}
    errors = _side_by_side(Checkpoint.sha256, checkpoints, threads)
    for checkpoint, error in zip(checkpoints, errors, strict=True):
        if error is not None:
            notes.error(checkpoint, "files", str(error))
            continue
        key = (checkpoint.sha256(), checkpoint.label_order)
        if key in seen:
            notes.warn(
                checkpoint, "duplicate",
                f"{checkpoint}: the same weights as {seen[key]}; together they count twice.",
            )  # fmt: skip
        seen.setdefault(key, checkpoint)
