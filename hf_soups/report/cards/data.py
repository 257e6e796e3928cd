"""Which data a model was chosen and reported on, as its card says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from hf_soups.cascades.evidence import Evidence
from hf_soups.recipe.origin import place_shown
from hf_soups.recipe.task import SHIFT, Task
from hf_soups.report.cards.markdown import MarkdownTable


@dataclass(frozen=True, slots=True)
class DataUsed:
    """A data set and, by role of rows ("train", "select", "report", "shift-<name>"), where the rows were taken."""

    path: str  # an id of the Hub, or ./NAME
    name: str = ""  # of the task
    kind: str = ""  # text, text-pair or image; "" where it is not known
    config: str | None = None
    revision: str | None = None
    columns: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)  # by role, where they were counted
    share: str = ""  # of the select split's rows that became report rows; "": other rows
    elsewhere: Mapping[str, DataUsed] = field(default_factory=dict)  # by role: shifts of other data sets

    def table(self, data_set: str | None, record: str, counted: str) -> MarkdownTable:
        """All of it; a local path is not shown.

        Args:
            data_set: its id on the Hub, where it has one.
            record: the file that says so.
            counted: the file that holds the numbers of rows.
        """
        told: dict[str, Any] = {
            "task": self.name,
            "data set": data_set or f"local files, ./{PurePath(self.path).name}",
            "config": self.config,
            "revision": self.revision,
            "split for train": self.splits.get("train"),
            "split for select": self._split("select"),
            "split for report": self._split("report"),
            **{
                f"shift {role.removeprefix(SHIFT)!r}": self._shift(role)
                for role in self.splits
                if role.startswith(SHIFT)
            },
            **{f"{role} rows": count for role, count in self.rows.items()},
            "columns": ", ".join(self.columns),
        }
        table = MarkdownTable.of_values("Data", told, record=record)
        return replace(table, other_records={f"{role} rows": counted for role in self.rows})

    def _shift(self, role: str) -> str:
        other = self.elsewhere.get(role)
        return self.splits[role] if other is None else f"{self.splits[role]} of {place_shown(other.path)}"

    def _split(self, role: str) -> str | None:
        split = self.splits.get(role)
        if split is None or role == "train":
            return split
        if self.share:
            return f"{split}, {self.share if role == 'report' else 'the others'} of the rows that were answered"
        return f"{split}, rows cut from it" if role == "select" and split == self.splits.get("train") else split


def data_of_task(task: Task, rows: Mapping[str, int] | None = None) -> DataUsed:
    """The data of a recipe's task; select rows are cut from train."""
    shifts = {f"{SHIFT}{name}": task.of_shift(name) for name in task.shifts}
    splits = {"train": task.train, "select": task.train, "report": task.report}
    others = {
        role: DataUsed(shift.path, role.removeprefix(SHIFT), config=shift.config, revision=shift.revision)
        for role, shift in shifts.items()
        if shift.path != task.path
    }
    return DataUsed(
        task.path,
        task.name,
        task.kind,
        task.config,
        task.revision,
        task.columns,
        splits | {role: shift.report for role, shift in shifts.items()},
        dict(rows or {}),
        elsewhere=others,
    )


def data_of_evidence(found: Evidence) -> DataUsed | None:
    """The data of a cascade's pool; None where it keeps no evidence."""
    if not found.data:
        return None
    rows = {role: int(told["rows"]) for role, told in found.data.items()}
    splits = {role: str(told["split"]) for role, told in found.data.items()}
    if found.recipe:
        known = data_of_task(Task.model_validate(found.recipe["task"]), rows)
        # a pool's split is one of the recipe's roles, such as "select", and has another name in the data set
        named = {role: known.splits.get(split, split) for role, split in splits.items()}
        return replace(known, splits={**known.splits, **named}, share=found.report_share)
    select = found.data["select"]
    place = (select.get("config"), select.get("revision"), tuple(select.get("columns", ())))
    return DataUsed(str(select["path"]), "", "", *place, splits, rows, found.report_share)
