"""Class by class on the page: what the chosen model takes for what, and its scores beside the best single model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL
from hf_soups.predictions import Predictions
from hf_soups.reporting.page.charts import confusion_chart
from hf_soups.reporting.page.html import Block, Cell, Chart, PageTable, Section, page_table
from hf_soups.reporting.page.verdict import Choice

DRAWN = 20  # classes of a matrix that can still be read
FEW = 10  # classes whose matrix fits on a phone
CONFUSIONS = 20  # rows of the table of confusions
LISTED = 50  # classes of the table; of more those with the lowest F1


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Of each class: how many rows have it, and how well it is found."""

    rows: Int64[np.ndarray, " classes"]
    recall: Float64[np.ndarray, " classes"]  # NaN: no row has the class
    precision: Float64[np.ndarray, " classes"]  # NaN: it was never answered
    f1: Float64[np.ndarray, " classes"]


def class_section(choice: Choice) -> Section | None:
    """The section; None without labelled answers, and of numbers."""
    shown = choice.answers
    if shown is None or shown.labels is None or shown.problem_type not in (CLASSIFICATION, MULTI_LABEL):
        return None
    if not len(shown):
        return None
    single = None if choice.best_name == choice.name else choice.best_answers
    names = shown.label_names or tuple(map(str, range(shown.classes)))
    beside = f", beside those of {choice.best_name}, the best single model" if single is not None else ""
    words = f"Answers of {choice.name} on {len(shown)} {choice.role} rows{beside}."
    blocks = [Block(words=(words,))]
    if shown.problem_type == CLASSIFICATION:
        blocks.append(_confusions(choice, names, single))
    blocks.append(_by_class(choice, names, single))
    return Section("classes", "Class by class", tuple(blocks))


def class_scores(p: Predictions) -> ClassScores:
    """Recall, precision and F1 of each class, or of each label of many.

    >>> found = class_scores(Predictions.from_probs([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]], labels=[0, 1, 1]))
    >>> found.recall.tolist(), found.precision.tolist()
    ([1.0, 0.5], [0.5, 1.0])
    """
    labels, answers, classes = p.needs_labels(), p.answers, p.classes
    if p.problem_type == MULTI_LABEL:
        own, said = labels.astype(bool).sum(0), answers.astype(bool).sum(0)
        right = (labels.astype(bool) & answers.astype(bool)).sum(0)
    else:
        own, said = np.bincount(labels, minlength=classes), np.bincount(answers, minlength=classes)
        right = np.bincount(labels[labels == answers], minlength=classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ClassScores(own, right / own, right / said, 2 * right / (own + said))


def worst_confusions(p: Predictions, count: int = CONFUSIONS) -> list[tuple[int, int, int]]:
    """Label, wrong answer and number of rows of the commonest confusions, the commonest first.

    >>> worst_confusions(Predictions.from_probs([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]], labels=[0, 1, 1]))
    [(1, 0, 1)]
    """
    labels, answers = p.needs_labels(), p.answers
    wrong = labels != answers
    pairs, rows = np.unique(labels[wrong].astype(np.int64) * p.classes + answers[wrong], return_counts=True)
    order = np.lexsort((pairs, -rows))[:count]
    return [(int(pairs[i] // p.classes), int(pairs[i] % p.classes), int(rows[i])) for i in order]


def _confusions(choice: Choice, names: Sequence[str], single: Predictions | None) -> Block:
    assert choice.answers is not None
    table = _confusion_table(choice, names, single)
    words = () if table.rows else (f"{choice.name} answers every row right.",)
    charts = []
    if choice.answers.classes <= DRAWN and len(set(names)) == len(names):
        charts = [_matrix("confusion", choice.name, choice.answers, names)]
        if single is not None:
            charts.append(_matrix("confusion-single", choice.best_name, single, names))
    folded = bool(charts)
    return Block("Confusions", words=words, charts=tuple(charts), table=table if table.rows else None, folded=folded)


def _confusion_table(choice: Choice, names: Sequence[str], single: Predictions | None) -> PageTable:
    shown = choice.answers
    assert shown is not None
    own = np.bincount(shown.needs_labels(), minlength=shown.classes)
    others = {} if single is None else {(a, b): n for a, b, n in worst_confusions(single, shown.classes**2)}
    titles = ["label", "answer", "rows", "% of the label"] + ([] if single is None else [f"rows of {choice.best_name}"])
    rows = []
    for label, answer, count in worst_confusions(shown):
        share, theirs = 100 * count / own[label], others.get((label, answer), 0)
        beside = [] if single is None else [Cell(str(theirs), theirs)]
        named = [Cell.words(names[label]), Cell.words(names[answer])]
        rows.append([*named, Cell(str(count), count), Cell(f"{share:.1f}%", share), *beside])
    return page_table("confusions-table", f"The commonest confusions of {choice.name}", titles, rows, left=2)


def _matrix(name: str, model: str, p: Predictions, names: Sequence[str]) -> Chart:
    counts = np.zeros((p.classes, p.classes), dtype=np.int64)
    np.add.at(counts, (p.needs_labels(), p.answers), 1)
    values: list[dict[str, Any]] = [
        {
            "label": names[i],
            "answer": names[j],
            "rows": int(counts[i, j]),
            "share": 100 * float(counts[i, j]) / max(int(counts[i].sum()), 1),
            "right": i == j,
        }
        for i, j in np.argwhere(counts).tolist()
    ]
    right, title = int(np.trace(counts)), f"Confusion matrix of {model}"
    worst = [f"{names[i]} taken for {names[j]}: {n}" for i, j, n in worst_confusions(p, 3)]
    text = f"{title}: rows by label and answer. {right} of {len(p)} are right. {'; '.join(worst)}".rstrip(" ;") + "."
    cells = [
        [Cell.words(v["label"]), Cell.words(v["answer"]), Cell(str(v["rows"]), v["rows"]),
         Cell(f"{v['share']:.1f}%", v["share"])]
        for v in values
    ]  # fmt: skip
    table = page_table(f"{name}-table", title, ("label", "answer", "rows", "% of the label"), cells, left=2)
    return Chart(name, title, text, confusion_chart(values, names=names, text=text), table, wide=p.classes > FEW)


def _by_class(choice: Choice, names: Sequence[str], single: Predictions | None) -> Block:
    assert choice.answers is not None
    mine = class_scores(choice.answers)
    theirs = None if single is None else class_scores(single)
    order = np.argsort(mine.f1, kind="stable")  # NaN, of classes without rows and answers, comes last
    shown = [int(i) for i in (order[:LISTED] if len(names) > LISTED else range(len(names)))]
    rows = []
    for i in shown:
        cells = [Cell.words(names[i]), Cell(str(mine.rows[i]), int(mine.rows[i]))]
        cells += [_percent(mine.recall[i]), _percent(mine.precision[i]), _percent(mine.f1[i])]
        if theirs is not None:
            cells += [_percent(theirs.f1[i]), _percent(mine.f1[i] - theirs.f1[i], signed=True)]
        rows.append(cells)
    titles = ["class", "rows", "recall x 100", "precision x 100", "F1 x 100"]
    titles += [] if theirs is None else [f"F1 of {choice.best_name}", "difference"]
    caption = "Scores by class"
    if len(shown) < len(names):
        caption += f": the {len(shown)} of {len(names)} classes with the lowest F1"
    return Block("Scores by class", table=page_table("classes-table", caption, titles, rows), folded=len(shown) > DRAWN)


def _percent(value: float, *, signed: bool = False) -> Cell:
    if not np.isfinite(value):
        return Cell("-")
    text = f"{100 * value:{'+' if signed else ''}.1f}"
    return Cell("0.0" if text in ("+0.0", "-0.0") else text, float(value))
