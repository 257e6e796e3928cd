"""A batch in the thread of the model: rows are read, answered together, and one by one where that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int64

from hf_soups.cascades.plan import Plan
from hf_soups.data.images import DECODERS, picture
from hf_soups.errors import DataError, HfSoupsError, ReplicasGone
from hf_soups.files.problem_types import REGRESSION
from hf_soups.serving.asked import Asked, Refused

if TYPE_CHECKING:
    from hf_soups.models.readers import Pair
    from hf_soups.serving.served import Served

LOG = logging.getLogger("hf_soups.serving")
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False, slots=True)
class RowAnswer:
    """What was answered to one row."""

    scores: Float32[np.ndarray, " classes"]  # probabilities; of a regression numbers
    exit: int
    cost: float
    abstained: bool | None = None  # whether a human should be asked; None: none is meant to be
    fell_back: bool | None = None  # whether an endpoint did not answer; None: there is none that may not


class RowReader:
    """Reads rows as the model takes them: images are decoded. In a row's place may be what is wrong with it."""

    def __init__(self, kind: str, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._decoders = ThreadPoolExecutor(DECODERS, "hf_soups-decode") if kind == "image" else None

    def __call__(self, rows: Sequence[Pair | bytes]) -> list[Any]:
        """The rows' values, in their order."""
        return list(rows if self._decoders is None else self._decoders.map(self._image, rows))

    def _image(self, encoded: Any) -> Any:
        try:
            image = picture(encoded, "the image")
            width, height = image.size
            if width * height > self._max_pixels:
                raise Refused(413, f"the image has {width} x {height} pixels; at most {self._max_pixels:,} are read.")
            return image
        except Exception as error:
            return error


def answered_alike(
    values: Sequence[Any], together: Callable[[Sequence[Any]], Sequence[Found]]
) -> list[Found | Exception]:
    """Answers to values that were read: all at once, and one by one where that fails; errors among them stay."""
    good = [value for value in values if not isinstance(value, Exception)]
    answers = iter(_or_one_by_one(good, together) if good else ())
    return [value if isinstance(value, Exception) else next(answers) for value in values]


def _or_one_by_one(
    values: Sequence[Any], together: Callable[[Sequence[Any]], Sequence[Found]]
) -> Sequence[Found | Exception]:
    try:
        return together(values)
    except Exception as error:  # processors raise nearly anything for an odd image
        if len(values) == 1:
            return [error]
        LOG.info("a batch of %d rows is answered one by one: %s", len(values), type(error).__name__)
    return [answer for value in values for answer in _or_one_by_one([value], together)]


class Answering:
    """Answers batches with a model; what is wrong with a row is its own answer."""

    def __init__(self, served: Served, max_pixels: int) -> None:
        self._served, self._read = served, RowReader(served.kind, max_pixels)

    def __call__(self, rows: Sequence[Pair | bytes], plan: int) -> list[RowAnswer | Exception]:
        """The answers to rows, in their order."""
        return answered_alike(self._read(rows), lambda values: self._together(values, self._served.plans[plan]))

    def _together(self, values: Sequence[Any], plan: Plan) -> list[RowAnswer]:
        done = self._served.answer(values, plan)
        scores = done.log_probs if self._served.problem_type == REGRESSION else np.exp(done.log_probs)
        return row_answers(scores, done.exits, plan, done.abstained, done.fell_back)


def row_answers(
    scores: Float32[np.ndarray, "rows classes"],
    exits: Int64[np.ndarray, " rows"],
    plan: Plan,
    abstained: Bool[np.ndarray, " rows"] | None,
    fell_back: Bool[np.ndarray, " rows"] | None = None,
) -> list[RowAnswer]:
    """What was answered to each of some rows."""
    costs = np.asarray(plan.cost_by_exit)[exits]
    marks = ([None] * len(exits) if mark is None else mark.tolist() for mark in (abstained, fell_back))
    return [RowAnswer(*row) for row in zip(scores, exits.tolist(), costs.tolist(), *marks, strict=True)]


def as_json(served: Served, asked: Asked, plan: Plan, answers: Sequence[RowAnswer]) -> list[Any]:
    """What the Hub answers: of an image [{"label", "score"}, ...]; a list of such lists of texts and of several images.

    The highest score comes first, of equal ones the first label; `return_exits` adds "exit", "members" and "cost";
    of a plan that abstains there is "abstained", of a cascade whose endpoint may not answer "fell_back".
    """
    listed = [_ranked(served, asked, plan, answer) for answer in answers]
    return listed if asked.several or served.kind != "image" else listed[0]


def _ranked(served: Served, asked: Asked, plan: Plan, answer: RowAnswer) -> list[dict[str, Any]]:
    met = {"exit": answer.exit, "members": list(plan.members[: answer.exit + 1]), "cost": answer.cost}
    about: dict[str, Any] = met if asked.return_exits else {}
    if answer.abstained is not None:
        about = {**about, "abstained": answer.abstained}
    if answer.fell_back is not None:
        about = {**about, "fell_back": answer.fell_back}
    best = np.argsort(-answer.scores, kind="stable")[: asked.top_k]
    return [{"label": served.label_names[i], "score": float(answer.scores[i]), **about} for i in best]


def refusal(error: Exception) -> Refused:
    """Why a row has no answer: with status 400 or 413 where the row is at fault, else 500 or 503."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, DataError):
        return Refused(400, str(error))
    if isinstance(error, ReplicasGone):
        LOG.error(str(error))
        return Refused(503, "no worker of this service's cluster answers now; come again.")
    known = isinstance(error, HfSoupsError)
    # the message is the same for all errors of a kind: each is said once, and what is remembered of them stays small
    LOG.error("a row cannot be answered: %s", type(error).__name__, exc_info=error)
    return Refused(500, f"the model cannot answer this input{'' if known else f' ({type(error).__name__})'}.")
