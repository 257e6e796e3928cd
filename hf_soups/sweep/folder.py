"""A sweep's folder: its recipe, plan, runs and shifts, and where the soups are that were cooked from it.

It holds recipe.yaml, plan.json, plan/ (a recipe for each run), start/, cache/, logs/, ledger/ and the run folders;
later shifts.json (shifts that were answered after the runs were planned) and soups/ (a pointer to each soup).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.downloads import refuse_links_out
from hf_soups.files.reading import is_there, read_record, visible
from hf_soups.files.writing import json_text, write_json, write_text
from hf_soups.finetune.run_record import PREDICTIONS, RUN_FILE, RunRecord, read_run
from hf_soups.recipe import Recipe, load_recipe, recipe_from
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.recipe.task import Shift, Task
from hf_soups.sweep.ledger import Ledger
from hf_soups.sweep.plan import PlannedRun

PLAN_FILE = "plan.json"  # by which a sweep's folder is known
PLAN_FORMAT = "hf_soups.sweep.plan.v1"
PLAN_AGAIN = "Remove it and run the same sweep again: it is written anew."
SHIFTS_FILE = "shifts.json"
SHIFTS_FORMAT = "hf_soups.shifts.v1"
SHIFTS_AGAIN = "Remove it and answer the shifts again."
COOK_AGAIN = "Cook it again."


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, or the place where a planned run will be."""

    name: str
    folder: Path
    status: str  # "finished", a failure, "pending" or "unreadable"
    reason: str = ""
    record: RunRecord | None = None

    @classmethod
    def at(cls, folder: Path) -> Run:
        """What a run's folder says, or that the run is still to come."""
        if not is_there(folder / RUN_FILE):
            return cls(folder.name, folder, "pending", "not finished yet")
        try:
            record = read_run(folder)
        except CheckpointError as error:
            return cls(folder.name, folder, "unreadable", str(error))
        return cls(folder.name, folder, record.status, record.reason, record)

    @property
    def finished(self) -> bool:
        """Whether it can be an ingredient."""
        return self.status == "finished"


@dataclass(frozen=True, slots=True)
class _PlanTypes:
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True, slots=True)
class _ShiftsTypes:
    shifts: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _PointerTypes:
    path: str
    method: str = ""
    predictions: str = PREDICTIONS


@dataclass(frozen=True, slots=True)
class SoupPointer:
    """The file by which a sweep knows where a soup is: soups/<method>.json."""

    path: Path

    @property
    def method(self) -> str:
        """The soup's method."""
        return self.path.stem

    def folder(self) -> Path:
        """The soup's folder, with its predictions in `PREDICTIONS`.

        Raises:
            InputError: if the pointer cannot be read, the predictions lie elsewhere than in the soup's folder, or a
                link there leads out of it.
        """
        try:
            kept = read_record(self.path, _PointerTypes, what="a pointer to a soup", format="", again=COOK_AGAIN)
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: no such file. {COOK_AGAIN}") from error
        if kept.predictions != PREDICTIONS:
            raise InputError(
                f"{self.path}: the predictions are said to lie in {kept.predictions!r}, not in the soup's "
                f"{PREDICTIONS!r}. {COOK_AGAIN}"
            )
        folder = (self.path.parent / kept.path).resolve()
        refuse_links_out(folder)
        return folder


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """The folder of a sweep; `runs`, `task` and `soups` also read any other folder that holds run folders."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def planned(self) -> bool:
        """Whether the folder is a sweep's: it holds a plan."""
        return is_there(self.path / PLAN_FILE)

    @property
    def start(self) -> Path:
        """The checkpoint that all runs start from."""
        return self.path / "start"

    @property
    def cache(self) -> Path:
        """Encoded rows."""
        return self.path / "cache"

    @property
    def logs(self) -> Path:
        """What each run printed, in <run>.log."""
        return self.path / "logs"

    def recipe_of(self, run: str) -> Path:
        """The file with the recipe of one run."""
        return self.path / "plan" / f"{run}.yaml"

    # Recipe, shifts and plan.

    def recipe(self, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """The sweep's recipe, with the shifts that were answered since it was planned."""
        return load_recipe(self.path / RECIPE_FILE, {**self.shifts(), **(overrides or {})})

    def shifts(self) -> dict[str, Any]:
        """The shifts that were answered since, as changes of the recipe: "task.shifts.<name>" -> values.

        Raises:
            InputError: if there is a file that cannot be read.
        """
        path = self.path / SHIFTS_FILE
        if not is_there(path):
            return {}
        kept = read_record(path, _ShiftsTypes, what="a sweep's shifts", format=SHIFTS_FORMAT, again=SHIFTS_AGAIN)
        return {f"task.shifts.{name}": values for name, values in kept.shifts.items()}

    def write_shifts(self, shifts: Mapping[str, Shift]) -> None:
        """Remember these shifts, in the place of those that were there."""
        values = {name: shift.model_dump(mode="json", exclude_defaults=True) for name, shift in shifts.items()}
        write_json(self.path / SHIFTS_FILE, {"format": SHIFTS_FORMAT, "shifts": values})

    def plan(self) -> tuple[PlannedRun, ...]:
        """The runs that plan.json lists.

        Raises:
            InputError: if it cannot be read, or names a folder outside the sweep.
        """
        path = self.path / PLAN_FILE
        kept = read_record(path, _PlanTypes, what="the plan of a sweep", format=PLAN_FORMAT, again=PLAN_AGAIN)
        for run in kept.runs:
            if not run.name or Path(run.name).name != run.name or run.name.startswith("."):
                raise InputError(f"{path}: {run.name!r} is no name of a run. {PLAN_AGAIN}")
        return kept.runs

    def write_plan(self, recipe: Recipe, plan: Sequence[PlannedRun]) -> None:
        """Write the runs' recipes, the sweep's own and plan.json; files that hold the same already stay untouched."""
        for folder in (self.path / "plan", self.logs):
            folder.mkdir(exist_ok=True)
        for run in plan:
            write_recipe(self.recipe_of(run.name), run.recipe(recipe), sweep=False)
        write_recipe(self.path / RECIPE_FILE, recipe)
        runs = [{"name": run.name, "varied": list(run.varied), "train": run.train} for run in plan]
        _write_if_other(self.path / PLAN_FILE, json_text({"format": PLAN_FORMAT, "runs": runs}))

    # Runs.

    def runs(self) -> tuple[Run, ...]:
        """All runs that the sweep planned, or the run folders inside any other folder, by name."""
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder.")
        if self.planned:
            return tuple(self._planned_run(run.name) for run in self.plan())
        return tuple(Run.at(path.parent) for path in visible(self.path, f"*/{RUN_FILE}"))

    def _planned_run(self, name: str) -> Run:
        run = Run.at(self.path / name)
        if run.status != "pending" or not (self.path / "ledger").is_dir():
            return run
        entry = Ledger(self.path).entry(name)  # a run that crashed leaves no record of its own
        return run if entry.state == "open" else Run(name, run.folder, entry.status, entry.reason)

    def task(self, runs: Sequence[Run]) -> Task:
        """The task that the folder's runs share."""
        if (self.path / RECIPE_FILE).is_file():
            return load_recipe(self.path / RECIPE_FILE).task
        recipe = shared_recipe(runs)
        if recipe is None:
            raise InputError(f"{self.path}: its runs are of different tasks or data, so they cannot be compared.")
        return recipe.task

    # Soups.

    def soups(self) -> tuple[SoupPointer, ...]:
        """Pointers to the soups that were cooked from the sweep, by name; whether they are still there is not known."""
        return tuple(map(SoupPointer, visible(self.path / "soups", "*.json")))

    def point_to(self, method: str, soup: Path) -> None:
        """Remember where a soup is, so that the leaderboard shows it; relative, so that both can be moved."""
        pointer = self.path / "soups" / f"{method}.json"
        place = os.path.relpath(soup.resolve(), pointer.parent.resolve())
        write_json(pointer, {"path": place, "method": method, "predictions": PREDICTIONS})


def shared_recipe(runs: Sequence[Run]) -> Recipe | None:
    """The recipe of runs that share task and data, with the shifts of all; how each was trained does not matter."""
    recipes = [recipe_from(run.record.recipe, where=str(run.folder)) for run in runs if run.record is not None]
    alike = [(r.task.model_copy(update={"shifts": {}}), r.data) for r in recipes]
    if not recipes or any(other != alike[0] for other in alike):
        return None
    shifts = {name: shift for r in recipes for name, shift in r.task.shifts.items()}
    return recipes[0].model_copy(update={"task": recipes[0].task.model_copy(update={"shifts": shifts})})


def write_recipe(path: Path, recipe: Recipe, *, sweep: bool = True) -> None:
    """Write a recipe as YAML, with its sweep or without."""
    import yaml

    values = recipe.model_dump(mode="json", exclude=None if sweep else {"sweep"})
    _write_if_other(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _write_if_other(path: Path, text: str) -> None:
    if not (path.exists() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)
