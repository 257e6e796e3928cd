"""When two spellings of a label's name are one label: where they differ by case and surrounding blanks alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence


def label_key(name: object) -> str:
    """Equal for spellings of one label.

    >>> label_key(" Positive") == label_key("positive")
    True
    """
    return str(name).strip().casefold()


def label_keys(names: Sequence[object]) -> tuple[str, ...]:
    """The key of each name; the names as they are where a model tells some apart by their case alone.

    >>> label_keys(["Neg", "Pos "]), label_keys(["US", "us"])
    (('neg', 'pos'), ('US', 'us'))
    """
    keys = tuple(label_key(name) for name in names)
    return keys if len(set(keys)) == len(keys) else tuple(map(str, names))


def index_by_label(names: Sequence[object]) -> Callable[[object], int | None]:
    """What finds a label's place among the names, however it is spelled; None for a label that is none of them.

    >>> place = index_by_label(["neg", "pos"])
    >>> place(" POS"), place("other")
    (1, None)
    """
    folded = len({label_key(name) for name in names}) == len(names)
    spelled = label_key if folded else str
    places = {spelled(name): place for place, name in enumerate(names)}
    return lambda label: places.get(spelled(label))


def one_of_each(names: Iterable[str], counts: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """The names without further spellings of one label, and without blanks around them.

    The spelling with the highest count is kept, of several the first, in the place of the label's first spelling.

    >>> one_of_each(["Neg", "Pos", "neg", "pos "])
    ('Neg', 'Pos')
    >>> one_of_each(["Neg", "Pos", "neg", "pos "], {"Neg": 1, "Pos": 5, "neg": 3, "pos ": 2})
    ('neg', 'Pos')
    """
    kept: dict[str, str] = {}
    for name in names:
        other = kept.setdefault(label_key(name), name)
        if counts is not None and counts.get(name, 0) > counts.get(other, 0):
            kept[label_key(name)] = name
    return tuple(name.strip() for name in kept.values())


def same_labels(a: Sequence[object] | None, b: Sequence[object] | None) -> bool:
    """Whether two lists hold the same labels in the same order; None is equal to None alone."""
    return a == b if a is None or b is None else label_keys(a) == label_keys(b)


def order_of(stored: Sequence[object], wanted: Sequence[object]) -> tuple[int, ...] | None:
    """The place in `stored` of each wanted label; None where they are not the same labels."""
    mine, theirs = label_keys(stored), label_keys(wanted)
    if len(set(theirs)) != len(theirs) or sorted(mine) != sorted(theirs):
        return None
    return tuple(mine.index(key) for key in theirs)
