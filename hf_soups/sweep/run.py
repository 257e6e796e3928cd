"""Sweep: many fine-tunes from one start, planned before the first one, resumable at any moment.

The disk is the truth: the same command goes on from whatever it finds in the sweep's folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.display import Displayed
from hf_soups.errors import InputError, RecipeError
from hf_soups.files.writing import writable
from hf_soups.finetune.tracking import WARNING, check_tracker, where_to_look
from hf_soups.recipe import Recipe, Train, dotted, load_recipe
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.sweep.executor import (
    Command,
    Ended,
    Executor,
    LocalExecutor,
    Slots,
    ended_by_signals,
    last_lines,
    surroundings,
    visible_gpus,
    work_through,
)
from hf_soups.sweep.folder import SweepFolder
from hf_soups.sweep.fork_server import IS_POSSIBLE, ForkServer
from hf_soups.sweep.ledger import Entry, Ledger
from hf_soups.sweep.plan import PlannedRun, make_plan

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

STATUS_SECONDS = 0.5


@dataclass(frozen=True, slots=True, repr=False)
class SweepResult(Displayed):
    """What is in the sweep's folder after a call, and what this call did."""

    out: Path
    entries: tuple[Entry, ...]  # all planned runs, in order
    ended: tuple[Ended, ...]  # the runs that ended in this call

    @property
    def finished(self) -> tuple[str, ...]:
        """Names of the finished runs."""
        return tuple(e.name for e in self.entries if e.state == "finished")

    @property
    def failed(self) -> tuple[Entry, ...]:
        """The failed runs, with status and reason."""
        return tuple(e for e in self.entries if e.state == "failed")

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of runs that were killed half-way; the same command starts them again."""
        return tuple(e.name for e in self.entries if e.state == "open")

    @property
    def exit_status(self) -> int:
        """0 if all runs are finished, else 1."""
        return 0 if len(self.finished) == len(self.entries) else 1

    def in_short(self) -> str:
        """How many runs are finished, have failed or were killed, and where they are."""
        others = (f"{len(self.failed)} failed", len(self.failed)), (f"{len(self.pending)} killed", len(self.pending))
        said = [
            f"{len(self.finished)} of {len(self.entries)} runs finished",
            *(words for words, any_ in others if any_),
        ]
        return f"{', '.join(said)}; in {self.out}"

    def to_pandas(self) -> pd.DataFrame:
        """The runs, a row each."""
        import pandas as pd

        fields = ("name", "state", "status", "reason", "seconds")
        return pd.DataFrame([{f: getattr(e, f) for f in fields} for e in self.entries], columns=list(fields))


def run_sweep(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    slots: int = 1,
    processes_per_run: int = 1,
    retry_failed: bool = False,
    progress: bool = True,
    isolate: bool = False,
    command: Command | None = None,
    executor: Executor | None = None,
) -> SweepResult:
    """Fine-tune every planned run that is not done yet.

    Args:
        recipe: with its sweep, or its file. On an existing folder it must be the same, but for a larger `sweep.runs`
            and for `task.shifts`, which the runs that are there answer by `hf-soups answer`.
        out: the sweep's folder.
        slots: runs side by side; each gets its share of the cores, and of the GPUs.
        processes_per_run: processes of each run (data parallel).
        retry_failed: repeat the runs that failed before.
        progress: show progress.
        isolate: start a Python of its own for every run. By default (on Linux, one process a run) runs are forks of one
            process that has imported everything; their results are the same.
        command: what to execute for a run; default: one fine-tune by `hf_soups.finetune`.
        executor: where runs are executed, such as `hf_soups.remote.sweeps.ray_executor` gives; with it `slots`,
            `processes_per_run` and `isolate` are not used. Default: processes of this machine.
    Raises:
        RecipeError: if the folder holds another recipe's sweep.
        MissingExtra: if the recipe's tracker is not installed.
        InputError: if `out`, the data or the processes cannot be used.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    out = Path(out) if executor is None else Path(out).resolve()  # another machine has another working directory
    if executor is None:
        _check_processes(slots, processes_per_run)
    check_tracker(recipe.tracker)
    plan = prepare(recipe, out)
    with writable(out):
        ledger = Ledger(out)
    names = [run.name for run in plan]
    reporter = _Reporter(out, len(plan), visible=progress)
    todo = [n for n in names if (e := ledger.entry(n)).state == "open" or (retry_failed and e.state == "failed")]
    run = command or finetune_command(out, executor.processes if executor else processes_per_run)
    forks = IS_POSSIBLE and not isolate and command is None and executor is None and processes_per_run == 1
    with ForkServer(SweepFolder(out).start, surroundings(0, slots)) if forks else nullcontext() as server:
        if todo and command is None:
            reporter.line(f"{len(todo)} of {len(plan)} runs to do; preparing data and the shared start")
            if recipe.tracker:
                reporter.line(where_to_look(recipe))
            if server is not None:
                server.begin()
            make_shared(recipe, out)
        where = executor or LocalExecutor(slots, processes_per_run, server)
        working = Slots(ledger, run, SweepFolder(out).logs, where)
        with ended_by_signals(), reporter.live(), working, writable(out):
            work_through(names, ledger, working, retry_failed=retry_failed, on_end=reporter.ended, watch=reporter.watch)
    return SweepResult(out, tuple(ledger.entry(name) for name in names), tuple(reporter.done))


def prepare(recipe: Recipe, out: Path) -> tuple[PlannedRun, ...]:
    """Write recipe, plan and the runs' recipes into the sweep's folder, or check those that are there."""
    from filelock import FileLock

    plan, folder = make_plan(recipe), SweepFolder(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file. Give another --out.")
    if out.is_dir() and any(out.iterdir()) and not folder.planned and not (out / ".lock").exists():
        raise InputError(f"{out} is not empty and holds no sweep. Give another --out.")
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):  # the first thing in the folder: by it a sweep killed here knows its own
            if folder.planned and _begun(out):
                _check_same(load_recipe(out / RECIPE_FILE), recipe, out)
                _check_plan(plan, folder)
            folder.write_plan(recipe, plan)
    return plan


def make_shared(recipe: Recipe, out: Path) -> None:
    """The start of all runs, and the encoded rows that they share; made once."""
    from hf_soups.data import load_splits
    from hf_soups.data.checks import warn_of_rows
    from hf_soups.finetune.start import load_start, make_start
    from hf_soups.metrics import metric_for_rows

    folder, splits = SweepFolder(out), load_splits(recipe.task, recipe.data)
    metric_for_rows(recipe.task, splits.select.labels, splits.label_names)
    warn_of_rows(splits, recipe.task)
    make_start(recipe, splits, folder.start, cache=folder.cache)
    start = load_start(folder.start, recipe, splits)
    for split in (splits.train, *splits.answered.values()):
        start.family.encode(split, start.processor, recipe.task, recipe.data, folder.cache)


def finetune_command(out: Path, processes: int) -> Command:
    """One fine-tune by name: a process, or several.

    `accelerate launch --cpu --num_processes 2` starts one process only, and what torch's launcher starts outlives it
    without the run's lock; so the package has a launcher of its own.
    """
    folder, launch = SweepFolder(out), [sys.executable, "-m"]
    if processes > 1:
        launch = [sys.executable, "-m", "hf_soups.sweep.launcher", str(processes), *launch]

    def command(name: str) -> list[str]:
        folders = ["--out", str(out / name), "--start", str(folder.start), "--cache", str(folder.cache)]
        return [*launch, "hf_soups.finetune", str(folder.recipe_of(name)), *folders]

    return command


def print_result(result: SweepResult) -> None:
    """Print what is finished, what failed and why, and what to do next."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    table = Table("runs", "status", "training seconds", "reason", title=Text(str(result.out)), title_justify="left")
    seconds = sum(e.seconds or 0 for e in result.entries if e.state == "finished")
    table.add_row(f"{len(result.finished)} of {len(result.entries)}", "finished", f"{seconds:.1f}", "")
    for entry in result.failed:
        took = "" if entry.seconds is None else f"{entry.seconds:.1f}"
        table.add_row(entry.name, entry.status, took, Text(entry.reason))
    console.print(table, soft_wrap=False)
    lines = []
    if result.failed:
        lines.append(f"Failed runs are left out of soups; --retry-failed repeats them. Logs: {result.out / 'logs'}")
    if result.pending:
        lines.append(f"Killed half-way: {', '.join(result.pending)}; the same command starts them again.")
    if len(result.finished) >= 2:
        lines.append(f"Next: hf-soups cook {result.out} --method uniform --method greedy --out soups")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _begun(out: Path) -> bool:
    """Whether anything was made by the recipe that is there; until then a corrected one may take its place."""
    made = (out / "start", *out.glob("run_*"), *(out / "ledger").glob("*.attempts.jsonl"))
    return any(path.exists() for path in made)


def _check_same(there: Recipe, recipe: Recipe, out: Path) -> None:
    """Only the number of random runs and the shifts may change: they do not change the runs that are there."""
    old, new = (
        {"task.report": r.task.report, **dotted(r.model_dump(mode="json"))}  # named, or the same by default
        for r in (there, recipe)
    )
    differing = [
        k for k in sorted(old.keys() | new.keys())
        if old.get(k) != new.get(k) and k not in ("name", "tracker") and not k.startswith("task.shifts")
    ]  # fmt: skip
    if recipe.sweep.method == "random" and differing == ["sweep.runs"]:
        if recipe.sweep.runs >= there.sweep.runs:
            return
        raise RecipeError(
            f"{out}: holds a sweep of {there.sweep.runs} runs, which cannot shrink to {recipe.sweep.runs}. "
            f"Set sweep.runs to {there.sweep.runs} or more, or give another --out."
        )
    if differing:
        changes = "; ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing[:8])
        raise RecipeError(f"{out}: holds the sweep of another recipe ({changes}). Give another --out.")


def _check_plan(plan: Sequence[PlannedRun], folder: SweepFolder) -> None:
    """The runs that were planned before are the first ones of the plan, whatever version made them."""
    added = Train().model_dump(mode="json")  # values that did not exist yet are as if they had been the defaults
    for old, new in zip(folder.plan(), plan, strict=False):
        if replace(old, train={**added, **old.train}) != new:
            raise InputError(
                f"{folder}: {new.name} was planned with other values, by another version of hf_soups or by hand. "
                "Give another --out."
            )


def _check_processes(slots: int, processes: int) -> None:
    if slots < 1 or processes < 1:
        raise InputError(f"{slots} slots of {processes} processes are not possible; give at least 1 of each.")
    gpus = visible_gpus(os.environ) if processes > 1 else []
    if not gpus:
        return
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "this machine has GPUs, but the installed torch cannot use them. Install one that can, or hide the GPUs "
            '(CUDA_VISIBLE_DEVICES="") to train on CPUs.'
        )
    if processes > len(gpus):
        raise InputError(
            f"a run of {processes} processes needs {processes} GPUs, but {len(gpus)} can be used. Give fewer "
            'processes, or hide the GPUs (CUDA_VISIBLE_DEVICES="") to train on CPUs.'
        )


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True)


class _Reporter:
    """Says what happens: a status of every slot on a terminal, plain lines elsewhere."""

    def __init__(self, out: Path, total: int, *, visible: bool) -> None:
        self._out, self._total, self._visible = out, total, visible
        self._console = _console()
        self._status = self._console.status("starting") if visible and self._console.is_terminal else None
        self._looked, self._waited = 0.0, False
        self.done: list[Ended] = []

    def live(self) -> AbstractContextManager[Any]:
        """Shows the status while the block runs, where there is a terminal."""
        return nullcontext() if self._status is None else self._status

    def line(self, text: str) -> None:
        if self._visible:
            self._console.print(text, markup=False, highlight=False)

    def ended(self, ended: Ended) -> None:
        self.done.append(ended)
        entry = ended.entry
        status = entry.status or ("killed" if ended.killed else entry.state)
        reason = f": {entry.reason}" if entry.reason else ""
        last = last_lines(SweepFolder(self._out).logs / f"{ended.name}.log", 4)
        scores = [f"  {line.partition(': ')[2]}" for line in last if " on select" in line]
        score = scores[-1] if scores and entry.state == "finished" else ""
        self.line(f"{ended.name}  {status} after {ended.seconds:.0f} s{reason}{score}")
        for line in (line for line in last if line.startswith(WARNING)):
            self.line(f"{ended.name}  {line}")

    def watch(self, slots: Slots, elsewhere: Sequence[str]) -> None:
        if elsewhere and not slots.working and not self._waited:
            self._waited = True
            self.line(f"waiting for {', '.join(elsewhere)}: another process works on them")
        if self._status is None or time.monotonic() - self._looked < STATUS_SECONDS:
            return
        self._looked = time.monotonic()
        lines = [f"{len(self.done)} runs ended here, {self._total} planned"]
        for work in slots.working.values():
            last = last_lines(work.log, 1, after=work.log_bytes)
            lines.append(f"  {work.claim.name}  {work.seconds:4.0f} s  {last[0][:90] if last else 'starting'}")
        from rich.text import Text

        self._status.update(Text("\n".join(lines)))
