"""Facts: everything that a card says of one folder, read from its files before any of it becomes text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.report.cards.markdown import Table
from hf_soups.tasks import SHIFT, Task
from hf_soups.weights.hub import is_repo_id

PIPELINES = {"ForImageClassification": "image-classification", "ForSequenceClassification": "text-classification"}
CHOSEN = "chosen on these rows, so optimistic"


@dataclass(frozen=True, slots=True)
class Score:
    """One score as the folder's files hold it."""

    metric: str
    value: float
    role: str  # "select", "report" or "shift-<name>"
    optimistic: bool  # the model was chosen on these rows

    @property
    def name(self) -> str:
        """Its name in the metadata; no two scores of a card share one."""
        return f"{self.metric} on {self.role}" + (f" ({CHOSEN})" if self.optimistic else "")


@dataclass(frozen=True, slots=True)
class Facts:
    """What one folder's card says; `tables` hold every figure of its text."""

    record: str  # the file that the figures come from
    about: str  # what it is, in a sentence
    library: str
    pipeline_tag: str
    tags: tuple[str, ...]
    base_models: tuple[str, ...]  # ids of the Hub
    metric: str | None
    scores: tuple[Score, ...]
    tables: tuple[Table, ...]
    limits: tuple[str, ...]
    cascade: bool
    pair: bool  # it takes pairs of texts
    notes: Mapping[str, str] = field(default_factory=dict)  # a sentence below a table, by the table's title


def rows_in_words(role: str, optimistic: bool) -> str:
    """What the rows of a role are, for people.

    >>> rows_in_words("report", False), rows_in_words("select", True)
    ('report: nothing was chosen on them', 'select: chosen on these rows, so optimistic')
    """
    if optimistic:
        return f"{role}: {CHOSEN}"
    kind = f"shift {role.removeprefix(SHIFT)!r}" if role.startswith(SHIFT) else role
    return f"{kind}: nothing was chosen on them"


def hub_ids(sources: Sequence[tuple[str, str | None]], folder: Path) -> tuple[str, ...]:
    """Those of (source, revision) that are repos of the Hub, each once; never a path of somebody's machine.

    "runs/one" can be both. It counts as a path when it is one, seen from here or from any folder above `folder`; a name
    without owner counts as a repo only with a revision.
    """
    places = (Path.cwd(), *folder.resolve().parents)

    def is_hub(source: str, revision: str | None) -> bool:
        if not is_repo_id(source) or not (revision or "/" in source):
            return False
        return not any((place / source).exists() for place in places)

    return tuple(dict.fromkeys(source for source, revision in sources if is_hub(source, revision)))


def data_table(task: Task, data_set: str | None) -> Table:
    """Where the rows come from; a local path is not shown."""
    told: dict[str, Any] = {
        "data set": data_set or "local files",
        "config": task.config,
        "revision": task.revision,
        "split for train and select": task.train,
        "split for report": task.report,
        "columns": ", ".join(task.columns),
        **{f"shift {name!r}": task.of_shift(name).report for name in task.shifts},
    }
    return Table("Data", ("What", "Value"), tuple((k, str(v)) for k, v in told.items() if v))
