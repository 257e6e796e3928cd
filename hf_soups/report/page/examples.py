"""Examples by exit: what each member of a cascade answered and where it was wrong; from the data at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.data.split import Split, read_image
from hf_soups.errors import DataError, HfSoupsError
from hf_soups.pool import Pool
from hf_soups.pool.rows import rows_of_pool
from hf_soups.predictions import same_rows
from hf_soups.report.page.cascades import ShownCascade, known_exits, member_chain
from hf_soups.report.page.html import Block, Example, Examples, Section

if TYPE_CHECKING:
    from PIL.Image import Image

    from hf_soups.data import Split


class RowFinder:
    """Finds splits by fingerprint, in the data of pools and of a sweep's recipe; each is read once."""

    def __init__(self, pools: Sequence[Pool], sweep: Path | None) -> None:
        self._pools, self._sweep = pools, sweep
        self._known: dict[str, Split | None] = {}

    def split_of(self, data: str) -> Split | None:
        """The split with that fingerprint; None where it cannot be had any more, or is not the same."""
        if data not in self._known:
            self._known[data] = next((s for s in self._candidates(data) if same_rows(s.fingerprint, data)), None)
        return self._known[data]

    def _candidates(self, data: str) -> Iterator[Split]:
        for pool in self._pools:
            if same_rows(pool.data.fingerprint, data) and (found := _of_pool(pool)) is not None:
                yield found
        if self._sweep is not None:
            yield from _of_sweep(self._sweep).values()


def _of_pool(pool: Pool) -> Split | None:
    try:
        return rows_of_pool(pool)
    except HfSoupsError:
        return None


def _of_sweep(sweep: Path) -> Mapping[str, Split]:
    from hf_soups.data import load_splits
    from hf_soups.recipe.origin import RECIPE_FILE
    from hf_soups.sweep.folder import SweepFolder

    if not (sweep / RECIPE_FILE).is_file():
        return {}
    try:
        recipe = SweepFolder(sweep).recipe()
        return load_splits(recipe.task.model_copy(update={"shifts": {}}), recipe.data).answered
    except HfSoupsError:  # the data is elsewhere
        return {}


PER_EXIT = 6
LARGEST = 128  # pixels of an image's longer side
SMALL = 64  # up to here an image is kept as it is, without loss
LETTERS = 400  # of a text
HOW = (
    "Of each exit first the wrong answers that it was surest of, at most half, then the right ones that it was surest "
    "of. In brackets stands the probability of the answer."
)


def example_section(asked: Sequence[ShownCascade], rows: RowFinder, *, per_exit: int = PER_EXIT) -> Section | None:
    """The section; None without a cascade that answered, or when no example is wanted.

    Args:
        asked: the cascades.
        rows: where the data is looked for.
        per_exit: examples of each exit at most.
    """
    shown = [a for a in asked if a.answers is not None and len(a.answers)]
    if not shown or per_exit < 1:
        return None
    blocks = [_block(cascade, rows, per_exit) for cascade in shown]
    return Section("examples", "Examples by exit", (Block(words=(HOW,)), *blocks))


def shown_rows(answers: CascadePredictions, stage: int, count: int) -> list[int]:
    """Positions of the rows to show of a stage: wrong answers, at most half, then right ones; the surest first."""
    assert answers.exits is not None
    inside = np.flatnonzero(answers.exits == stage)
    if not len(inside):
        return []
    surest = inside[np.argsort(-answers.log_probs[inside].max(axis=1), kind="stable")]
    if answers.labels is None:
        return [int(i) for i in surest[:count]]
    hit = answers.answers[surest] == answers.labels[surest]
    wrong = surest[~hit][: max(count // 2, count - int(hit.sum()))]
    return [int(i) for i in (*wrong, *surest[hit][: count - len(wrong)])]


def _block(cascade: ShownCascade, rows: RowFinder, per_exit: int) -> Block:
    answers = cascade.answers
    assert answers is not None
    split = rows.split_of(answers.data)
    if split is None:
        words = "The rows that were answered are not at hand (the data was moved or cannot be read), so none is shown."
        return Block(cascade.name, words=(words,))
    position = {row_id: i for i, row_id in enumerate(split.row_ids.tolist())}
    groups = []
    for stage, member in enumerate(cascade.plan.members):
        chosen = [row for row in shown_rows(answers, stage, per_exit) if answers.row_ids[row].item() in position]
        made = tuple(_example(answers, row, split, position[answers.row_ids[row].item()]) for row in chosen)
        groups.append(Examples(f"Exit {stage + 1}: {member}", _left(cascade, stage), made))
    return Block(cascade.name, words=(member_chain(cascade) + ".",), examples=tuple(groups))


def _left(cascade: ShownCascade, stage: int) -> str:
    left = known_exits(cascade)[stage]
    right = "" if left.accuracy is None else f"; {100 * left.accuracy:.1f}% of their answers are right"
    rows = len(cascade.answers) if cascade.answers is not None else 0
    return f"{left.rows} of {rows} {cascade.role} rows left here{right}."


def _example(answers: CascadePredictions, row: int, split: Split, at: int) -> Example:
    logs = np.asarray(answers.log_probs[row])
    answer = int(logs.argmax())
    label = None if answers.labels is None else int(answers.labels[row])
    told = (
        f"row {answers.row_ids[row]}",
        f"{_name(answers, answer)} ({100 * float(np.exp(logs.max())):.0f}%)",
        "not known" if label is None else _name(answers, label),
        label in (None, answer),
    )
    texts = _texts(split, at)
    if texts:
        return Example(*told, texts=texts)
    try:
        uri, size = data_uri(read_image(split, at, edge=LARGEST))
    except DataError:
        return Example(*told, broken="this image cannot be decoded")
    return Example(*told, image=uri, size=size)


def data_uri(image: Image) -> tuple[str, tuple[int, int]]:
    """An image as a data: URI, at most 128 pixels long, and its width and height there."""
    whole = max(image.size) <= SMALL
    small = image if whole else image.copy()
    if not whole:
        small.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    small.save(buffer, **({"format": "PNG"} if whole else {"format": "JPEG", "quality": 85}))
    kind = "png" if whole else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", small.size


def _texts(split: Split, at: int) -> tuple[str, ...]:
    """The texts of a row, cut where they are long; none for an image."""
    features = split.rows.features
    if any(type(feature).__name__ == "Image" for feature in features.values()):
        return ()
    row = split.rows[at]
    return tuple(_cut(str(row[name])) for name in split.rows.column_names[:-1])  # the label stands last


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _name(answers: CascadePredictions, label: int) -> str:
    return answers.label_names[label] if answers.label_names else str(label)
