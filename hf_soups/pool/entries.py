"""What the user names as models (folders, Hub repos, whole sweeps, other input sizes) as entries of a pool."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.endpoint import is_address, refuse_address
from hf_soups.files.reading import visible
from hf_soups.finetune.run_record import RUN_FILE, read_run
from hf_soups.sweep.folder import PLAN_FILE, SweepFolder

CASCADE = "cascade"  # model_type in config.json
HEADS = {"ForImageClassification": "image", "ForSequenceClassification": "text"}
SIZE = re.compile(r"(.+)@(\d{2,4})")  # NAME@160: at an input size of 160 pixels


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One entry of a pool: weights at an input size."""

    name: str
    checkpoint: Checkpoint
    image_size: int | None = None  # pixels; None: the checkpoint's own


def pool_entries(
    models: Sequence[str | Path], *, names: Sequence[str] | None = None, image_sizes: Sequence[int] = ()
) -> tuple[PoolEntry, ...]:
    """The entries that the user's words stand for.

    Args:
        models: folders, Hub repos ("org/name", "org/name@revision") or sweeps (their finished runs and their soups);
            "NAME=MODEL" gives a name (NAME-00, NAME-01, ..., NAME-greedy to a sweep's), "MODEL@160" asks for another
            input size: the same weights may stand there at several, for a self-cascade.
        names: one for each of `models`, instead of their own.
        image_sizes: ask every model at each of these sizes.
    Raises:
        InputError: if there is no model, names do not fit, or two entries are the same.
    """
    if not models:
        raise InputError("no model is named. Give folders of checkpoints, Hub repos, or a sweep's folder.")
    if names is not None and len(names) != len(models):
        raise InputError(f"{len(names)} names for {len(models)} models; expected one for each.")
    read: list[tuple[str, PoolEntry]] = []  # with the name that was given, or ""
    for given, model in zip(names or [""] * len(models), models, strict=True):
        read += [(given or own, entry) for own, entry in _entries(str(model))]
    entries = [_named(given, entry) for given, entry in _distinct(read)]
    if image_sizes:
        entries = [replace(e, name=f"{e.name}@{size}", image_size=size) for e in entries for size in image_sizes]
    twice = [name for name, count in Counter(e.name for e in entries).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]!r} is asked for twice. Give one of them another name: NAME=MODEL.")
    return tuple(entries)


def one_model(model: str | Path) -> Checkpoint:
    """The only checkpoint that the user names.

    Raises:
        InputError: if it is a whole sweep, or a model at another input size.
    """
    entries = pool_entries([model])
    if len(entries) > 1 or entries[0].image_size is not None:
        raise InputError(f"{model}: rows are answered by one model or cascade as it is; name its folder or Hub repo.")
    return entries[0].checkpoint


def is_cascade(checkpoint: Checkpoint) -> bool:
    """Whether a folder or Hub repo holds a cascade rather than one classifier."""
    return checkpoint.config.get("model_type") == CASCADE


def kind_of_head(checkpoint: Checkpoint, pair: bool = False) -> str:
    """What a row of a single classifier is: image or text, as the name of its class says; or text-pair.

    Args:
        checkpoint: of the classifier.
        pair: a text classifier takes pairs of texts.
    Raises:
        InputError: if it is no classifier of either.
    """
    if checkpoint.is_endpoint:
        raise InputError(
            f"{checkpoint}: an endpoint answers rows into a pool (hf-soups predict, without --answers), and as a "
            "member of a cascade; by itself it is asked where it is."
        )
    named = [str(name) for name in checkpoint.config.get("architectures") or ()]
    kinds = [kind for end, kind in HEADS.items() if any(name.endswith(end) for name in named)]
    if not kinds:
        raise InputError(
            f"{checkpoint}: neither a cascade nor a classifier of images or texts (config.json names "
            f"{', '.join(named) or 'no architecture'}). Give a folder that hf-soups cascade build or hf-soups cook "
            "wrote."
        )
    return "text-pair" if pair and kinds[0] == "text" else kinds[0]


def names_a_cascade(models: Sequence[str | Path]) -> bool:
    """Whether the only model that the user names is a cascade, which answers rows rather than joins a pool.

    Raises:
        InputError: if a cascade is named beside other models.
    """
    if len(models) == 1:
        entries = pool_entries(models)
        return len(entries) == 1 and is_cascade(entries[0].checkpoint)
    for model in models:  # of a Hub repo it shows when it is loaded
        folder = Path(model).expanduser()
        if (folder / "config.json").is_file() and is_cascade(Checkpoint(folder)):
            raise InputError(f"{model} is a cascade, which answers rows by itself: name it alone.")
    return False


def _entries(text: str) -> Iterator[tuple[str, PoolEntry]]:
    """What one word of the user's stands for, with the name in it."""
    if is_address(text):
        refuse_address(text)
    given, equals, rest = text.partition("=")
    if equals and not Path(text).exists():
        swept = (Path(rest) / PLAN_FILE).is_file()  # small-00, small-01, ..., small-greedy
        yield from ((f"{given}-{e.name.removeprefix('run_')}" if swept else given, e) for _, e in _entries(rest))
        return
    if (Path(text) / PLAN_FILE).is_file():
        yield from (("", PoolEntry(name, checkpoint)) for name, checkpoint in _of_sweep(Path(text)))
        return
    checkpoint, size = _checkpoint(text)
    yield "", PoolEntry(checkpoint.name, checkpoint, size)


def _checkpoint(text: str) -> tuple[Checkpoint, int | None]:
    size = None
    if not Path(text).exists() and (sized := SIZE.fullmatch(text)):
        text, size = sized[1], int(sized[2])
    named = Checkpoint.named(Path(text).resolve() if Path(text).is_dir() else text)
    if not Path(text).is_dir() or not named.is_adapter:
        return named, size
    from hf_soups.models.adapters import multiplied_out  # torch and peft, for adapters alone

    return multiplied_out(named), size


def _of_sweep(sweep: Path) -> list[tuple[str, Checkpoint]]:
    """Its finished runs, then its soups, each by its own name."""
    found = []
    for record in visible(sweep, f"*/{RUN_FILE}"):
        if read_run(record.parent).status == "finished":
            found.append((record.parent.name, Checkpoint(str(record.parent.resolve()))))
    for pointer in SweepFolder(sweep).soups():
        found.append((pointer.method, Checkpoint(str(pointer.folder()))))
    if not found:
        raise InputError(f"{sweep}: a sweep without a finished run. Let it finish first.")
    return found


def _distinct(named: Sequence[tuple[str, PoolEntry]]) -> list[tuple[str, PoolEntry]]:
    """Entries whose own names are the same (a/model, b/model) are called by more of their paths."""
    sources: dict[str, set[str]] = {}
    for given, entry in named:
        if not given:
            sources.setdefault(entry.name, set()).add(entry.checkpoint.source)
    return [
        (given, entry if given or len(sources[entry.name]) == 1 else replace(entry, name=_longer(entry)))
        for given, entry in named
    ]


def _longer(entry: PoolEntry) -> str:
    parts = Path(entry.checkpoint.source).parts
    return f"{parts[-2]}/{entry.name}" if len(parts) > 1 and Path(entry.checkpoint.source).is_dir() else entry.name


def _named(given: str, entry: PoolEntry) -> PoolEntry:
    """The entry under the name that was given; its size is part of the name unless the user named it."""
    if given:
        return replace(entry, name=given)
    return replace(entry, name=f"{entry.name}@{entry.image_size}") if entry.image_size else entry
