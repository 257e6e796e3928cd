"""The rows behind answers, read again where the data is still at hand: by the fingerprint that the answers carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.errors import HfSoupsError
from hf_soups.pool import Pool
from hf_soups.pool.rows import Wanted, load_rows
from hf_soups.predictions import same_rows

if TYPE_CHECKING:
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
    data, image = pool.data, pool.kind == "image"
    wanted = Wanted(
        data.path, data.split, data.config, data.revision, pool.kind, () if image else data.columns,
        data.columns[0] if image else None, data.label, pool.label_names, data.rows,
    )  # fmt: skip
    try:
        return load_rows(wanted).split
    except HfSoupsError:  # moved, or a recipe's own split, which data sets do not know by name
        return None


def _of_sweep(sweep: Path) -> Mapping[str, Split]:
    from hf_soups.cook.pool import RECIPE, sweep_recipe
    from hf_soups.data import load_splits

    if not (sweep / RECIPE).is_file():
        return {}
    try:
        recipe = sweep_recipe(sweep)
        return load_splits(recipe.task.model_copy(update={"shifts": {}}), recipe.data).answered
    except HfSoupsError:  # the data is elsewhere
        return {}
