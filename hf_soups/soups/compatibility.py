"""What may be mixed with what: everything that would spoil a mixture is found before any weight is added.

Each checkpoint is summarised once, and summaries are compared. Errors stop; warnings are printed. Label orders that
differ are put right by name, with `align_labels`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from hf_soups.checkpoint import Checkpoint, Source, checkpoints_of
from hf_soups.errors import CheckpointError, HfSoupsError, IncompatibleCheckpoints
from hf_soups.files.digests import sample_of
from hf_soups.files.dtypes import FLOATS
from hf_soups.files.label_names import order_of, same_labels
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.predictions import Predictions
from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY
from hf_soups.soups.config_differences import compare_configs
from hf_soups.soups.missing_heads import why_headless
from hf_soups.soups.mixing.blocks import BlockMixer
from hf_soups.soups.mixing.spans import plan_spans, shared_names
from hf_soups.soups.model_input import ExtraRows, InputFiles, LongestVocabulary, fed_alike, longest_vocabulary
from hf_soups.soups.preflight_findings import Finding, Notes, Topic
from hf_soups.soups.sentence_modules import compare_surroundings
from hf_soups.soups.tensor_names import named_alike, not_loaded, why_names_differ, wrapped

CONSTANT = 1e-5  # relative, of numbers: what is answered in batches of other shapes differs by less


@dataclass(frozen=True, eq=False)
class CheckpointSummary:
    """What of a checkpoint decides whether it can be mixed with others, read once."""

    checkpoint: Checkpoint  # its config and tensors can be read
    label_names: tuple[str, ...] | None  # None: config.json names none
    input_files: InputFiles
    head: str | None  # fingerprint of the head that its fine-tuning started from; None: not recorded
    run: Mapping[str, Any]  # what is recorded of its making; empty: nothing
    one_class: bool | None  # gave one answer to all its cached select rows, though labels differ; None: not known
    unreadable: Mapping[str, str] = field(default_factory=dict)  # of these values: topic -> why

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointSummary:
        """Read everything but the weights.

        Raises:
            CheckpointError: if its config or tensors cannot be read; what else cannot is noted in `unreadable`.
        """
        _ = checkpoint.config, checkpoint.tensors, checkpoint.index_metadata
        unreadable: dict[str, str] = {}

        def value(topic: str, read: Callable[[Checkpoint], Any], otherwise: Any = None) -> Any:
            try:
                return read(checkpoint)
            except HfSoupsError as error:
                unreadable[topic] = str(error)
                return otherwise

        return cls(
            checkpoint,
            label_names=value("labels", lambda c: c.label_names),
            input_files=value("processor", InputFiles.of, InputFiles()),
            head=value("run", lambda c: c.head_fingerprint),
            run=value("run", lambda c: c.run or {}, {}),
            one_class=value("answers", _one_answer),
            unreadable=unreadable,
        )

    def __str__(self) -> str:
        return str(self.checkpoint)


@dataclass(frozen=True, repr=False)
class PreflightReport:
    """What was found, and the checkpoints as they may be mixed (label orders aligned where that was asked for)."""

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    checkpoints: tuple[Checkpoint, ...]
    summaries: tuple[CheckpointSummary, ...] = ()  # of the same checkpoints as they were given
    taken: Mapping[str, Any] = field(default_factory=dict)  # what was decided for differences, as soup.json says it

    def __repr__(self) -> str:
        counts = f"{len(self.checkpoints)} checkpoints, {len(self.errors)} errors, {len(self.warnings)} warnings"
        return f"PreflightReport({counts})"

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
    checkpoints: Sequence[Source],
    *,
    align_labels: bool = False,
    require_head: bool = True,
    check_values: bool = True,
    check_duplicates: bool = True,
    threads: int = 2,
    processor: str | Path | None = None,
    force: bool = False,
    extra_rows: ExtraRows = "keep",
) -> PreflightReport:
    """Compare all checkpoints with the first.

    Args:
        checkpoints: two or more; one alone is checked for itself.
        align_labels: permute heads whose label names are the same in another order, instead of refusing them.
        require_head: refuse checkpoints whose heads are known to come from different starts.
        check_values: look for NaN and infinity; reads all weights.
        check_duplicates: compare SHA-256; reads all weights, once for files that stay as they are.
        threads: that read side by side.
        processor: whose tokenizer or image processor all are used with, where they differ: "FIRST", or a folder or Hub
            repo; None: a difference is an error.
        force: go on with the first's where tokenizers, image processors or configs differ.
        extra_rows: of vocabularies that are longer in some: "keep" them, or "refuse".

    Raises:
        CheckpointError: if `processor` names none; a checkpoint that cannot be read is an error of the report.
    """
    given = checkpoints_of(checkpoints, "checkpoints")
    notes = Notes(_allowed(processor, force))
    summaries = [summary for c in given if (summary := _summary(notes, c)) is not None]
    viewed, vocabulary = _viewed(notes, summaries, extra_rows)
    usable = [_mixable(notes, viewed[0], other, align_labels, require_head) for other in viewed]
    usable = fed_alike(notes, _input_files(notes, summaries), usable, processor, extra_rows)
    if vocabulary is not None and extra_rows == "refuse":
        notes.error(vocabulary.longest, "vocabulary", vocabulary.refused)
    elif vocabulary is not None:
        notes.warn(vocabulary.longest, "vocabulary", vocabulary.kept)
        notes.taken["vocabulary"] = vocabulary.record()
    for summary in summaries:
        _check_run(notes, summary)
        _check_has_head(notes, summary)
        _check_answers(notes, summary)
    readable = [summary.checkpoint for summary in summaries]
    compare_surroundings(notes, readable)
    if check_values:
        for checkpoint, error in _errors_of(_read_all, readable, threads):
            notes.error(checkpoint, "values", str(error))
    if check_duplicates:
        _check_duplicates(notes, readable, threads)
    return PreflightReport(
        tuple(notes.errors), tuple(notes.warnings), tuple(usable), tuple(summaries), dict(notes.taken)
    )


def _allowed(processor: str | Path | None, force: bool) -> frozenset[Topic]:
    """What may differ because the user said so."""
    return frozenset({"processor", "config"} if force else {"processor"} if processor is not None else ())


def _summary(notes: Notes, checkpoint: Checkpoint) -> CheckpointSummary | None:
    """None, and an error, if it cannot be read."""
    try:
        summary = CheckpointSummary.of(checkpoint)
    except HfSoupsError as error:
        notes.error(checkpoint, "files", str(error))
        return None
    stated = checkpoint.index_metadata.get("total_size")
    if stated is not None and stated != checkpoint.total_bytes:
        message = f"its index says {stated} bytes of tensors, the shards hold {checkpoint.total_bytes}."
        notes.warn(checkpoint, "files", f"{checkpoint}: {message}")
    return summary


def _mixable(
    notes: Notes, first: CheckpointSummary, other: CheckpointSummary, align_labels: bool, require_head: bool
) -> Checkpoint:
    """The other checkpoint as it may be mixed with the first."""
    if other is first:
        if "labels" in first.unreadable:
            notes.error(first, "labels", first.unreadable["labels"])
        _check_wrapper(notes, first)
        return first.checkpoint
    _check_config(notes, first, other)
    if _check_tensors(notes, first, other):
        _check_wrapper(notes, other)
        _check_dtypes(notes, first, other)
    if require_head:
        _check_head(notes, first, other)
    return _check_labels(notes, first, other, align_labels)


def _viewed(
    notes: Notes, summaries: Sequence[CheckpointSummary], extra_rows: ExtraRows
) -> tuple[list[CheckpointSummary], LongestVocabulary | None]:
    """Summaries of the checkpoints with one name for each tensor and, where these are kept, as many rows of tokens."""
    if not summaries:
        return [], None
    alike = named_alike([summary.checkpoint for summary in summaries])
    for checkpoint, names in alike.ignored.items():
        notes.warn(checkpoint, "tensors", not_loaded(checkpoint, names))
    found = longest_vocabulary(alike.checkpoints)
    views = list(alike.checkpoints)
    if found is not None and extra_rows == "keep":
        views = [checkpoint.with_rows_of(found.longest) for checkpoint in views]
    return [replace(s, checkpoint=view) for s, view in zip(summaries, views, strict=True)], found


def _input_files(notes: Notes, summaries: Sequence[CheckpointSummary]) -> dict[Checkpoint, InputFiles]:
    """The tokenizer and image processor files of each that has readable ones."""
    for summary in summaries:
        if "processor" in summary.unreadable:
            notes.error(summary, "processor", summary.unreadable["processor"])
    return {s.checkpoint: s.input_files for s in summaries if "processor" not in s.unreadable}


def _check_config(notes: Notes, first: CheckpointSummary, other: CheckpointSummary) -> None:
    a, b = first.checkpoint.config, other.checkpoint.config
    for key in ("model_type", "architectures"):
        if a.get(key) and b.get(key) and a[key] != b[key]:
            message = f"{key} is {b.get(key)}, but {a.get(key)} in {first}. A soup needs one architecture."
            notes.error(other, "architecture", f"{other}: {message}")
            return
    for key in (WORDS_KEY, PROMPT_KEY):
        if a.get(key) != b.get(key):
            notes.error(
                other, "label words",
                f"{other}: {key} is {b.get(key)!r}, but {a.get(key)!r} in {first}. Models that answer with words were "
                "taught these: fine-tune all ingredients from one start (hf-soups sweep does).",
            )  # fmt: skip
    if a.get("tie_word_embeddings", True) != b.get("tie_word_embeddings", True):
        notes.warn(other, "tied weights", f"{other}: tie_word_embeddings differs from {first}.")
    found = compare_configs(a, b)
    if found.function:
        fact = f"{other}: config.json differs from {first} in what the model computes: {found.values}."
        refused = f"{fact} Averaged weights fit neither: mix models of one config (--force takes {first}'s)."
        notes.differ(other, "config", refused, f"{fact} The soup takes {first}'s.")
    if found.ignored:
        message = f"config.json differs from {first} in {', '.join(found.ignored)}, which no answer depends on"
        notes.warn(other, "config", f"{other}: {message}; the soup takes {first}'s.")


def _check_tensors(notes: Notes, first: CheckpointSummary, other: CheckpointSummary) -> bool:
    try:
        shared_names([first.checkpoint, other.checkpoint])
    except HfSoupsError as error:
        why = why_names_differ(first.checkpoint, other.checkpoint)
        notes.error(other, why.topic if why else "tensors", why.message if why else str(error))
        return False
    return True


def _check_wrapper(notes: Notes, summary: CheckpointSummary) -> None:
    wrapper = wrapped(summary.checkpoint)
    if wrapper is not None:
        notes.warn(summary, "tensors", wrapper)


def _check_dtypes(notes: Notes, first: CheckpointSummary, other: CheckpointSummary) -> None:
    a, b = first.checkpoint.tensors, other.checkpoint.tensors
    differing = [name for name in a if name in b and a[name].dtype != b[name].dtype]
    if differing:
        name = differing[0]
        notes.warn(
            other, "dtype",
            f"{other}: {len(differing)} tensors are stored as {b[name].dtype}, but as {a[name].dtype} in {first} "
            f"(first: {name!r}); the soup takes {first}'s.",
        )  # fmt: skip


def _check_labels(notes: Notes, first: CheckpointSummary, other: CheckpointSummary, align: bool) -> Checkpoint:
    a, b = first.label_names, other.label_names
    unreadable = other.unreadable.get("labels") or first.unreadable.get("labels")
    if unreadable:
        notes.error(other, "labels", unreadable)
    elif a is None or b is None:
        if a != b:
            notes.warn(other, "labels", f"one of {first} and {other} names no labels; they are taken to be the same.")
    elif order_of(b, a) is None:
        notes.error(other, "labels", f"{other}: its labels are {list(b)}, but {list(a)} in {first}. {ONE_TASK}")
    elif not same_labels(a, b) and not align:
        notes.error(
            other, "labels",
            f"{other}: its labels are in the order {list(b)}, but {list(a)} in {first}. Averaged as they are, classes "
            "would be mixed up: align them by name (--align-labels, align_labels=True).",
        )  # fmt: skip
    elif not same_labels(a, b):
        try:
            return other.checkpoint.with_labels(a)
        except CheckpointError as error:
            notes.error(other, "labels", str(error))
    return other.checkpoint


ONE_TASK = "A soup needs models of one task."


def _check_head(notes: Notes, first: CheckpointSummary, other: CheckpointSummary) -> None:
    a, b = first.head, other.head
    if a is not None and b is not None and a != b:
        notes.error(
            other, "head",
            f"{other}: its head started from {b[:12]}, but {first}'s from {a[:12]}. Averages of heads from different "
            "random starts collapse: fine-tune all ingredients from one start (hf-soups sweep does).",
        )  # fmt: skip
    elif (a is None) != (b is None):
        notes.warn(other, "head", f"{other if b is None else first}: it is not recorded which start its head had.")


# Each checkpoint for itself.


def _check_run(notes: Notes, summary: CheckpointSummary) -> None:
    if "run" in summary.unreadable:
        notes.error(summary, "run", summary.unreadable["run"])
        return
    status, reason = summary.run.get("status", "finished"), summary.run.get("reason")
    if status != "finished":
        because = f" ({reason})" if reason else ""
        notes.error(summary, "run", f"{summary}: its run ended as {status!r}{because}. Leave it out of the soup.")


def _check_has_head(notes: Notes, summary: CheckpointSummary) -> None:
    known = any(e.topic in ("labels", "tensors") and e.checkpoint == str(summary) for e in notes.errors)
    why = None if known else why_headless(summary.checkpoint)
    if why is not None:
        notes.error(summary, "head", why)


def _one_answer(checkpoint: Checkpoint) -> bool | None:
    path = checkpoint.folder / PREDICTIONS / "select.safetensors"
    if not path.is_file():
        return None
    return gives_one_answer(Predictions.load(path))


def gives_one_answer(answers: Predictions) -> bool | None:
    """Whether all rows have one class, or the same probabilities or number where classes do not exclude each other.

    None where the labels do not differ, or lack.
    """
    if answers.labels is None or _is_constant(answers.labels):
        return None
    return _is_constant(answers.answers if answers.problem_type == CLASSIFICATION else answers.log_probs)


def _is_constant(values: Shaped[np.ndarray, "rows ..."]) -> bool:
    """Whether all rows are the same, numbers up to their rounding in float32."""
    allowed = CONSTANT * np.abs(values[:1]) if values.dtype.kind == "f" else 0
    return bool((np.abs(values - values[:1]) <= allowed).all())


def _check_answers(notes: Notes, summary: CheckpointSummary) -> None:
    if "answers" in summary.unreadable:
        message = f"whether it answers all classes is not known: {summary.unreadable['answers']}"
        notes.warn(summary, "answers", f"{summary}: {message}")
    if summary.one_class:
        notes.warn(
            summary, "answers",
            f"{summary}: its cached answers on select are the same for all rows, so a soup gains nothing by it. Leave "
            "it out, or train it with a lower learning rate.",
        )  # fmt: skip


def _errors_of(
    read: Callable[[Checkpoint], object], checkpoints: Sequence[Checkpoint], threads: int
) -> Iterator[tuple[Checkpoint, HfSoupsError]]:
    """Call `read` for every checkpoint, in threads; what those that failed raised, in order."""

    def error_of(checkpoint: Checkpoint) -> HfSoupsError | None:
        try:
            read(checkpoint)
        except HfSoupsError as error:
            return error
        return None

    with ThreadPoolExecutor(threads, thread_name_prefix="preflight") as pool:
        found = zip(checkpoints, pool.map(error_of, checkpoints), strict=True)
        yield from ((checkpoint, error) for checkpoint, error in found if error is not None)


def _read_all(checkpoint: Checkpoint) -> None:
    """Read every float once; the block mixer refuses NaN and infinity and names the tensor."""
    floats = [info for info in checkpoint.tensors.values() if info.dtype in FLOATS]
    places = [(info.name, info.dtype, info.file, info.offset) for info in floats]
    with BlockMixer() as mixer:
        for span in plan_spans([checkpoint], lambda _: (1.0,), places, "float32"):
            for start, count in span.blocks():
                mixer.output(span, start, count)


def _check_duplicates(notes: Notes, checkpoints: Sequence[Checkpoint], threads: int) -> None:
    first_looks: dict[Checkpoint, bytes] = {}

    def look(checkpoint: Checkpoint) -> None:
        first_looks[checkpoint] = sample_of(checkpoint.stamps)

    failed = dict(_errors_of(look, checkpoints, threads))
    counted = Counter(first_looks.values())
    alike = [c for c in checkpoints if counted[first_looks.get(c, b"")] > 1]
    failed |= dict(_errors_of(Checkpoint.digest, alike, threads))
    seen: dict[tuple[str, tuple[int, ...]], Checkpoint] = {}
    for checkpoint in checkpoints:
        if checkpoint in failed:
            notes.error(checkpoint, "files", str(failed[checkpoint]))
            continue
        if checkpoint not in alike:
            continue
        key = (checkpoint.digest(), checkpoint.label_order)
        if key in seen:
            message = f"{checkpoint}: the same weights as {seen[key]}; together they count twice."
            notes.warn(checkpoint, "duplicate", message)
        seen.setdefault(key, checkpoint)
