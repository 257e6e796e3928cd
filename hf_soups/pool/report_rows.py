"""Which rows of a pool are chosen on, and which are looked at once: a stratified share of one pool, or two pools."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_soups.data.split import strata, stratified_rows
from hf_soups.errors import InputError, PredictionsError, SelectionOnReport
from hf_soups.files.label_names import same_labels
from hf_soups.pool.store import Pool, read_pool
from hf_soups.predictions import Predictions, same_rows
from hf_soups.recipe.task import SHIFT

REPORT_STREAM = 3  # of the seed; 0 to 2 cut splits of data sets


@dataclass(frozen=True, slots=True)
class ShareOf:
    """A share of the pool's own rows, with each class's share in it; the others are chosen on."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"--report {self}: a share of the rows lies between 0 and 1, such as 0.5.")

    def __str__(self) -> str:
        return str(self.share)


@dataclass(frozen=True, slots=True)
class OtherPool:
    """All rows of another pool with the same members."""

    folder: str

    def __str__(self) -> str:
        return self.folder


def holds_report_rows(split: str) -> bool:
    """Whether a split, as a pool calls it, is looked at once: a recipe's report rows, or those of a shift.

    >>> holds_report_rows("report"), holds_report_rows("shift-books"), holds_report_rows("validation")
    (True, True, False)
    """
    return split == "report" or split.startswith(SHIFT)


def refuse_report_rows(pool: Pool, what: str, *, allowed: bool) -> None:
    """Refuse to choose on a pool of report rows, as `cook` does.

    Args:
        pool: whose rows would be chosen on.
        what: the command that chooses, for the advice.
        allowed: the user means it.
    Raises:
        SelectionOnReport: unless it is allowed.
    """
    if holds_report_rows(pool.data.split) and not allowed:
        raise SelectionOnReport(
            f"{pool.folder} holds rows of the split {pool.data.split!r}, which are for one look at the end; what is "
            f"chosen on them looks better than it is. Choose on a pool of select rows and report on this one "
            f"({what} SELECT-POOL --report {pool.folder}), or say that you mean it (--allow-selection-on-report)."
        )


ReportRows = ShareOf | OtherPool | None  # None: there are none


def report_rows(text: str | ReportRows) -> ReportRows:
    """The rows to report on, as the user or a file names them: a share such as 0.5, another pool's folder, or "".

    Raises:
        InputError: for a share that is none.

    >>> report_rows("0.5"), report_rows("preds/report"), report_rows("")
    (ShareOf(share=0.5), OtherPool(folder='preds/report'), None)
    """
    if text is None or isinstance(text, ShareOf | OtherPool):
        return text
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    return ShareOf(share) if math.isfinite(share) else OtherPool(text) if text else None


@dataclass(frozen=True)
class SelectAndReport:
    """Predictions by name on the rows to choose on, and on rows that nothing is chosen on (None: there are none)."""

    pool: Pool
    select: Mapping[str, Predictions]
    report: Mapping[str, Predictions] | None


def select_and_report(pool: Pool, report: str | ReportRows = None, seed: int = 0) -> SelectAndReport:
    """The rows to choose on and those to report on.

    Args:
        pool: whose rows are chosen on.
        report: the rows to report on; as text see `report_rows`.
        seed: of the draw of a share.
    Raises:
        InputError: if it is no pool, or one with other members, classes or the same rows.
        PredictionsError: if the pool's rows have no labels.
    """
    if not pool.members:
        raise InputError(f"{pool.folder}: a pool without members. Answer its rows with hf-soups predict first.")
    wanted = report_rows(report)
    if wanted is None:
        return SelectAndReport(pool, pool.predictions, None)
    if isinstance(wanted, OtherPool):
        return SelectAndReport(pool, pool.predictions, _other(pool, wanted.folder))
    labels = next(iter(pool.predictions.values())).labels
    if labels is None:
        raise PredictionsError(f"{pool.folder}: its rows have no labels, so nothing can be chosen or scored on them.")
    held = stratified_rows(strata(labels), round(wanted.share * len(labels)), seed, stream=REPORT_STREAM)
    rest = np.setdiff1d(np.arange(len(labels)), held)
    if not len(held) or not len(rest):
        raise InputError(f"a share of {wanted} of {len(labels)} rows leaves none on one side. Predict more rows.")
    return SelectAndReport(pool, _SomeRows(pool.predictions, rest), _SomeRows(pool.predictions, held))


class _SomeRows(Mapping[str, Predictions]):
    """Some rows of many predictions, each read when it is looked up and then kept."""

    def __init__(self, whole: Mapping[str, Predictions], rows: np.ndarray) -> None:
        self._whole, self._rows = whole, rows
        self._read: dict[str, Predictions] = {}

    def __getitem__(self, name: str) -> Predictions:
        if name not in self._read:
            self._read[name] = self._whole[name].take(self._rows)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


def _other(pool: Pool, folder: str) -> Mapping[str, Predictions]:
    if not Path(folder).is_dir():
        raise InputError(f"--report {folder}: expected a share of the rows such as 0.5, or the folder of a pool.")
    other = read_pool(folder)
    if same_rows(other.data.fingerprint, pool.data.fingerprint):
        raise InputError(f"{folder}: the same rows as {pool.folder}, which the cascades are chosen on.")
    if not same_labels(other.label_names, pool.label_names):
        raise InputError(f"{folder}: its classes are not those of {pool.folder}.")
    missing = [name for name in pool.members if name not in other.members]
    if missing:
        raise InputError(f"{folder}: no answers of {', '.join(missing)}. Answer its rows with every member first.")
    return other.predictions
