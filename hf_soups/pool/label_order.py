"""Labels: a model's classes put in the order of the data's by name, and that order checked on the data.

A name that the data and the model spell alike is taken; then one that differs by case, spaces, underscores or hyphens;
then one whose first synonym (before a comma) is the same. Where a name fits two classes, nothing is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.predictions import Predictions

BY_PLACE = 0.9  # of all names must stand at their own place before the few others are taken to do so as well
CLEARLY = 4.0  # standard errors
MUCH_BETTER = 0.2  # in accuracy, on rows that the order was not fitted to
FEWEST_ROWS = 50


@dataclass(frozen=True, slots=True)
class LabelMatch:
    """Which logit stands for each of the data's classes."""

    order: tuple[int, ...]  # index of the model's class, by class of the data
    classes: int  # of the model
    by_name: bool = True  # False: taken to be in the data's order without names that say so
    note: str = ""

    @property
    def is_identity(self) -> bool:
        """Whether the model's logits stand as the data's classes do."""
        return self.order == tuple(range(self.classes))

    def logits(self, values: np.ndarray) -> np.ndarray:
        """The model's logits (rows, classes of the model) of the data's classes, in their order."""
        return values if self.is_identity else values[:, list(self.order)]


def match_labels(
    model: Sequence[str] | None, data: Sequence[str], *, classes: int, who: str, assume_order: bool = False
) -> LabelMatch:
    """The model's class of each of the data's.

    A model may know more classes than the data have: it is then asked about these alone.

    Args:
        model: names in the order of its logits; None: it has none (LABEL_0, LABEL_1, ...).
        data: names of the data's classes.
        classes: number of the model's logits.
        who: names the model in errors.
        assume_order: without usable names, take equally many classes to be in the data's order.
    Raises:
        IncompatibleCheckpoints: if a class of the data is not among the model's, or fits several.
    """
    if model is not None and tuple(model) == tuple(data):
        return LabelMatch(tuple(range(len(data))), classes)
    if model is not None:
        order, how = _by_name(model, data)
        if None not in order:
            return LabelMatch(tuple(int(i or 0) for i in order), len(model), True, _told(how, len(model), len(data)))
        filled = _rest_by_place(order, model, data)
        if filled is not None:
            names = ", ".join(repr(data[i]) for i, at in enumerate(order) if at is None)
            return LabelMatch(filled, len(model), True, f"{names} matched by place: all other names stand at theirs")
    if assume_order and classes == len(data):
        return LabelMatch(tuple(range(classes)), classes, False, "its classes are assumed to be in the data's order")
    raise _refusal(model, data, classes, who)


def _by_name(model: Sequence[str], data: Sequence[str]) -> tuple[list[int | None], str]:
    """By the strictest spelling that finds every class; of the loosest what it finds."""
    tried = {
        how: _looked_up([spelled(n) for n in model], [spelled(n) for n in data]) for how, spelled in _SPELLINGS.items()
    }
    how = next((how for how, order in tried.items() if None not in order), LOOSEST)
    return tried[how], how


def _looked_up(model: Sequence[str], data: Sequence[str]) -> list[int | None]:
    mine, theirs = Counter(model), Counter(data)
    place = {name: i for i, name in enumerate(model)}
    return [
        place[name]
        if mine[name] == 1 and theirs[name] == 1
        else i  # a name that occurs twice fits where both have it
        if i < len(model) and model[i] == name and len(model) == len(data)
        else None
        for i, name in enumerate(data)
    ]


def _rest_by_place(order: Sequence[int | None], model: Sequence[str], data: Sequence[str]) -> tuple[int, ...] | None:
    """ImageNet has two cranes, and data and models tell them apart in different words: 998 names decide for both."""
    if len(model) != len(data) or any(at not in (None, i) for i, at in enumerate(order)):
        return None
    matched = sum(at is not None for at in order)
    return tuple(range(len(data))) if matched >= BY_PLACE * len(data) else None


def _normal(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _first(name: str) -> str:
    return _normal(name.split(",")[0])


_SPELLINGS: dict[str, Callable[[str], str]] = {
    "": str,
    "case, spaces and underscores": _normal,
    "the first synonym": _first,
}
LOOSEST = "the first synonym"


def _told(how: str, model: int, data: int) -> str:
    parts = [f"labels matched up to {how}" if how == "case, spaces and underscores" else f"labels matched by {how}"]
    parts = parts if how else []
    if model > data:
        parts.append(f"asked about {data} of its {model} classes")
    return "; ".join(parts)


def _refusal(model: Sequence[str] | None, data: Sequence[str], classes: int, who: str) -> IncompatibleCheckpoints:
    if model is None:
        why = f"{who}: its {classes} classes have no names (LABEL_0, LABEL_1, ...), so their order cannot be known. "
        if classes != len(data):
            return IncompatibleCheckpoints(
                why + f"The data have {len(data)} classes: {_some(data)}. Write id2label into its config.json."
            )
    else:
        order, _ = _by_name(model, data)
        missing = [name for name, at in zip(data, order, strict=True) if at is None]
        why = (
            f"{who}: {len(missing)} of the data's {len(data)} classes ({_some(missing)}) are not among its "
            f"{len(model)} ({_some(model)}), or fit several. "
        )
    return IncompatibleCheckpoints(
        f"{why}Write the names {_some(data)} in its order into its config.json (id2label), or name the data's classes "
        "as the model does (--label-names)"
        + ("; if its order is the data's, say so with --assume-label-order." if classes == len(data) else ".")
    )


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(map(repr, names[:most])) + (f", ... {len(names)} in all" if len(names) > most else "")


def doubt(p: Predictions) -> str:
    """What makes the order of the labels look wrong on labelled rows; empty where nothing does.

    Another order is fitted to half of the rows and counts only if it explains the other half much better.
    """
    if p.labels is None or len(p) < FEWEST_ROWS or p.problem_type != CLASSIFICATION:
        return ""
    answers, labels = p.answers, p.labels
    half = np.random.default_rng(0).random(len(p)) < 0.5
    of_answer = _best_order(answers[half], labels[half], p.classes)
    right, other = answers[~half] == labels[~half], of_answer[answers[~half]] == labels[~half]
    accuracy, chance = float((answers == labels).mean()), 1 / p.classes
    error = np.sqrt(max(float(np.mean(other != right)), 1 / len(right)) / len(right))
    gain = other.mean() - max(right.mean(), chance)
    if gain > MUCH_BETTER and other.mean() - right.mean() > CLEARLY * error:
        moved = [f"{_name(p, a)} for {_name(p, b)}" for a, b in enumerate(of_answer.tolist()) if a != b][:4]
        return (
            f"it is right on {accuracy:.1%} of the rows, but would be on {other.mean():.1%} if its labels stood in "
            f"another order (it says {', '.join(moved)})"
        )
    if accuracy + CLEARLY * np.sqrt(chance * (1 - chance) / len(p)) < chance:
        return f"it is right on {accuracy:.1%} of the rows, below chance ({chance:.1%})"
    return ""


def _best_order(answers: Int64[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"], classes: int) -> np.ndarray:
    """The label that each answer stands for, one to one, such that most rows are right."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((classes, classes))
    np.add.at(counts, (answers, labels), 1)
    counts[np.arange(classes), np.arange(classes)] += 0.5  # where nothing speaks for another order, this one stays
    order = np.empty(classes, dtype=np.int64)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    order[rows] = columns
    return order


def _name(p: Predictions, index: int) -> str:
    return repr(p.label_names[index]) if p.label_names else str(index)
