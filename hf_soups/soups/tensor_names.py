"""Why names of tensors differ: wrappers, prefixes, and tensors that are tied under two names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.files.loaded_names import WRAPPERS, wrappers_of
from hf_soups.soups.mixing.spans import self_made, shared_names, twin

MOST_TIED = 16  # a model ties a few tensors; where more names differ, it is another model
UNWRAP = "Save the model inside it again: accelerator.unwrap_model(model).save_pretrained(folder)."


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why names of two checkpoints differ, and what to do."""

    topic: str
    message: str


def wrapped(checkpoint: Checkpoint) -> str | None:
    """A warning about a checkpoint that was saved with its wrapper; None for all others."""
    wrappers = wrappers_of(checkpoint.stored_names)
    if not wrappers:
        return None
    held = " and ".join(f"'{wrapper}.', which {WRAPPERS[wrapper]} puts there" for wrapper in wrappers)
    return (
        f"{checkpoint}: its tensor names hold {held}; from_pretrained() finds no weights under such names. Here they "
        f"are read, and a soup of them is written, without it. {UNWRAP}"
    )


@dataclass(frozen=True, slots=True)
class NamedAlike:
    """Checkpoints with one name for each tensor, and what none of them is loaded with."""

    checkpoints: tuple[Checkpoint, ...]
    ignored: Mapping[Checkpoint, tuple[str, ...]]  # of those as they were given


def named_alike(checkpoints: Sequence[Checkpoint]) -> NamedAlike:
    """The checkpoints with the first's names, where transformers loads what they hold as the same tensors.

    It is asked only where names differ. Those whose tensors are others stay as they are.
    """
    first, ignored = checkpoints[0], dict[Checkpoint, tuple[str, ...]]()
    named = list(checkpoints)
    for i, other in enumerate(checkpoints):
        if _one_by_name(first, other):
            continue
        a, b = _stock_names(first), _stock_names(other)
        if a is None or b is None or set(a.values()) != set(b.values()):
            continue
        of_model = {loaded: name for name, loaded in a.items()}
        named[i] = other.with_names({name: of_model[loaded] for name, loaded in b.items()})
        ignored[first], ignored[other] = _left_out(first, a), _left_out(other, b)
    dropped = set(ignored.get(first, ()))
    for i, one in enumerate(named):
        if dropped & one.tensors.keys():
            named[i] = one.with_names({name: name for name in one.tensors if name not in dropped})
    return NamedAlike(tuple(named), {checkpoint: names for checkpoint, names in ignored.items() if names})


def _one_by_name(first: Checkpoint, other: Checkpoint) -> bool:
    """Whether both hold the same names, but for buffers that models make, and tied tensors."""
    if first.tensors.keys() == other.tensors.keys():
        return True
    try:
        shared_names([first, other])
    except HfSoupsError:
        return all(
            self_made(one, name) for one, two in ((first, other), (other, first)) for name in one.tensors
            if name not in two.tensors
        )  # fmt: skip
    return True


def _left_out(checkpoint: Checkpoint, loaded: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in checkpoint.tensors if name not in loaded and not self_made(checkpoint, name))


def _stock_names(checkpoint: Checkpoint) -> Mapping[str, str] | None:
    from hf_soups.models.stock_names import stock_names  # torch and transformers, where names differ alone

    return stock_names(checkpoint)


def not_loaded(checkpoint: Checkpoint, names: Sequence[str]) -> str:
    """A warning about tensors that transformers would not load."""
    kind = (checkpoint.config.get("architectures") or ["the model"])[0]
    some = ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")
    return (
        f"{checkpoint}: {len(names)} of its tensors ({some}) are none of {kind}'s: from_pretrained() ignores them, and "
        "so does the soup."
    )


def why_names_differ(first: Checkpoint, other: Checkpoint) -> Explanation | None:
    """A reason that says more than which names are missing, where there is one."""
    return _prefixed(first, other) or _prefixed(other, first) or _tied(first, other) or _tied(other, first)


def _prefixed(short: Checkpoint, long: Checkpoint) -> Explanation | None:
    """Whether most names that only `long` has are names that only `short` has, behind one prefix."""
    only_short = set(short.tensors) - set(long.tensors)
    only_long = set(long.tensors) - set(short.tensors)
    found = Counter(prefix for name in only_long for prefix in _prefixes(name) if name[len(prefix) :] in only_short)
    if not found:
        return None
    prefix, count = found.most_common(1)[0]
    if 2 * count < min(len(only_short), len(only_long)):
        return None
    example = next(name for name in long.tensors if name.startswith(prefix) and name[len(prefix) :] in only_short)
    advice = _advice(short, long)
    return Explanation(
        "tensors",
        f"{long}: {count} of its {len(long.tensors)} tensor names begin with '{prefix}' ({example!r}), but not in "
        f"{short} ({example[len(prefix) :]!r}). {advice}",
    )


def _prefixes(name: str) -> list[str]:
    """`a.`, `a.b.` of `a.b.c`."""
    return [name[: at + 1] for at, letter in enumerate(name) if letter == "."]


def _advice(short: Checkpoint, long: Checkpoint) -> str:
    classes = long.config.get("architectures") or ["the model's class"]
    return (
        f"{short} was saved from the model below the head: load it as {classes[0]} and save it again with "
        "save_pretrained(). If it has no fine-tuned head, it can be the start of ingredients, but is none."
    )


def _tied(one: Checkpoint, two: Checkpoint) -> Explanation | None:
    """Whether a name that only `two` stores is tied to another one in `one`."""
    for name, kept in one.aliases.items():
        if name not in two.tensors:
            continue
        if kept in two.tensors:
            if twin(two, name, [kept]) is not None:
                continue
            differs = f"has weights of its own there. {_TIE_ALIKE}"
        else:
            differs = f"stores it under {name!r} alone. Save both again with save_pretrained() of one transformers."
        return Explanation("tied weights", f"{name!r} is tied to {kept!r} in {one}, but {two} {differs}")
    return None


_TIE_ALIKE = "Mix models that tie the same tensors (tie_word_embeddings in config.json)."


def ties(checkpoint: Checkpoint, common: Iterable[str]) -> Mapping[str, str]:
    """Names of tied tensors -> the tensor kept: as the file records, or stored again beside the `common` ones."""
    among = list(common)
    extra = [name for name in checkpoint.tensors if name not in set(among)]
    twice = {name: twin(checkpoint, name, among) for name in extra} if len(extra) <= MOST_TIED else {}
    return {**checkpoint.aliases, **{name: kept for name, kept in twice.items() if kept is not None}}
