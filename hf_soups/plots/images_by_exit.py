"""A sheet of images by the stage that they left a cascade at: what is easy, and what needs every member."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.data.split import Split, read_image
from hf_soups.errors import DataError, PredictionsError
from hf_soups.plots.canvas import GREY, VERMILION, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

PER_EXIT = 8
TALLEST = 96  # pixels of a shown image
WIDTH, HEIGHT = 0.95, 1.55  # inches of an image with its words
CAPTION = 16  # letters in a line under an image


def draw_sheet(
    images: Split | Sequence[Image],
    answers: CascadePredictions,
    path: str | Path,
    *,
    per_exit: int = PER_EXIT,
    stages: Sequence[str] = (),
) -> Path:
    """Write a PNG with one row of images for each exit, those that the cascade was surest of first.

    Under each image stands the answer with its confidence; a wrong one has a frame and the true label.

    Args:
        images: a split that holds the predictions' rows, joined by row id, or the images in the predictions' order.
        answers: of a cascade; without labels nothing is marked.
        path: the PNG file.
        per_exit: images in a row.
        stages: the members' names, the first stage first.
    Raises:
        PredictionsError: if there are no rows, or their images are not among `images`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert answers.exits is not None
    if not len(answers):
        raise PredictionsError("the cascade answered no rows, so there is no image to show.")
    read = _reader(images, answers)
    count = int(max(answers.exits.max() + 1, len(stages)))
    figure = Figure(figsize=(WIDTH * per_exit, HEIGHT * count), dpi=150)
    FigureCanvasAgg(figure)
    edge = 0.05 / per_exit  # a title is wider than its image: no automatic layout
    figure.subplots_adjust(edge, 0.28 / count, 1 - edge, 1 - 0.16 / count, wspace=0.1, hspace=0.75)
    for stage in range(count):
        shown = surest(answers, stage, per_exit)
        for column in range(per_exit):
            axes = figure.add_subplot(count, per_exit, stage * per_exit + column + 1)
            _bare(axes)
            if column == 0:
                cell = axes.get_position(original=True)  # a wide image's own axes end below the tall ones'
                figure.text(cell.x0, cell.y1 + 0.05 / count, _title(answers, stage, stages), fontsize=8)
            if column < len(shown):
                _show(axes, read(int(shown[column])), answers, int(shown[column]))
    at = Path(path)
    save_figure(figure, at)
    return at


def surest(answers: CascadePredictions, stage: int, count: int) -> np.ndarray:
    """Positions of the rows that left at a stage, the most confident first, at most `count`."""
    assert answers.exits is not None
    rows = np.flatnonzero(answers.exits == stage)
    sure = answers.log_probs[rows].max(axis=1) if len(rows) else np.empty(0)
    return np.asarray(rows[np.argsort(-sure, kind="stable")][:count])


def _reader(images: Split | Sequence[Image], answers: CascadePredictions) -> Callable[[int], Image | None]:
    """The image of a row of the answers; None for one that cannot be decoded."""
    if not isinstance(images, Split):
        if len(images) != len(answers):
            raise PredictionsError(f"{len(images)} images for {len(answers)} answers; expected one for each, in order.")
        return lambda row: images[row].convert("RGB")
    split, position = images, {row_id: i for i, row_id in enumerate(images.row_ids.tolist())}
    lacking = [row_id for row_id in answers.row_ids.tolist() if row_id not in position]
    if lacking:
        raise PredictionsError(
            f"{len(lacking)} of {len(answers)} answered rows are not in {split.source} (first: {lacking[0]!r}). Give "
            "the split that the members answered."
        )

    def read(row: int) -> Image | None:
        try:
            return read_image(split, position[answers.row_ids[row].item()], edge=TALLEST)
        except DataError:
            return None  # one broken image does not spoil the sheet: its place says so

    return read


def _show(axes: Axes, image: Image | None, answers: CascadePredictions, row: int) -> None:
    if image is None:
        axes.text(0.5, 0.5, "cannot be\ndecoded", ha="center", va="center", fontsize=6, transform=axes.transAxes)
    else:
        image.thumbnail((TALLEST, TALLEST))
        axes.imshow(np.asarray(image))
    logs = answers.log_probs[row]
    answer, truth = int(logs.argmax()), None if answers.labels is None else int(answers.labels[row])
    wrong = truth not in (None, answer)
    caption = f"{_name(answers, answer)}\n{100 * np.exp(logs.max()):.0f}%"
    if wrong and truth is not None:
        caption += f", not {_name(answers, truth)}"
    axes.set_xlabel(caption, fontsize=5.5, labelpad=1.5, color=VERMILION if wrong else "black")
    for spine in axes.spines.values():
        spine.set(visible=wrong, color=VERMILION, linewidth=2)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=False, color=GREY)


def _title(answers: CascadePredictions, stage: int, stages: Sequence[str]) -> str:
    assert answers.exits is not None
    share = float((answers.exits == stage).mean())
    member = f" ({stages[stage]})" if stage < len(stages) else ""
    return f"exit {stage + 1}{member}: {100 * share:.1f}% of {len(answers)} rows"


def _name(answers: CascadePredictions, label: int) -> str:
    name = answers.label_names[label] if answers.label_names else str(label)
    return name if len(name) <= CAPTION else f"{name[: CAPTION - 1]}."
