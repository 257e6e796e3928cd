"""What a fine-tune reports while it runs: points for run.json, a progress bar, and trackio or wandb if asked.

A tracker that fails is given up with a warning, and the fine-tune goes on. A run that was killed is fine-tuned again
from its first step, so what its first attempt logged is replaced and not doubled.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import MissingExtra
from hf_soups.progress import Meter

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_soups.recipe import Recipe


WARNING = "warning: the tracker"


def check_tracker(name: str | None) -> None:
    """Find out before any work whether the tracker that a recipe names is installed.

    Raises:
        MissingExtra: with what to install.
    """
    if name is None:
        return
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # no origin: a folder of that name here, such as wandb's own files
        raise MissingExtra(
            f"the recipe asks for the tracker {name}, which is not installed. "
            f'Run: pip install "hf_soups[{name}]", or leave `tracker` out.'
        )


def project_of(recipe: Recipe, run: str = "") -> str:
    """The project of all runs of a sweep: the recipe's name without `run` at its end; wandb refuses some characters.

    >>> from hf_soups.recipe.recipe import recipe_from
    >>> project_of(recipe_from({"task": "glue/rte", "model": "m", "name": "rte: 50%/run_00"}), "run_00")
    'rte- 50-'
    """
    return re.sub(r"[/\\#?%:]", "-", recipe.name.removesuffix(f"/{run}")) or "hf_soups"


def where_to_look(recipe: Recipe, run: str = "") -> str:
    """One line on where the tracked runs can be seen; empty where nothing is tracked."""
    project = project_of(recipe, run)
    if recipe.tracker == "trackio":
        return f'tracked by trackio: trackio show --project "{project}"'
    return f"tracked by wandb, project {project}" if recipe.tracker == "wandb" else ""


def configuration(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """Every value of a recipe that is set, by the name that the command line has for it: `learning_rate`, `data.seed`.

    Lists become texts: not every tracker takes them.
    """
    from hf_soups.recipe import dotted

    values = recipe.model_dump(mode="json", exclude={"sweep", "tracker"}, exclude_none=True)
    train = values.pop("train")
    named = {**dotted(values), **dotted(train)}
    return {
        n: ", ".join(map(str, v)) if isinstance(v, list) else v for n, v in named.items() if not isinstance(v, dict)
    }


@dataclass(slots=True)
class Tracking:
    """The trackers of one fine-tune; calls do nothing where there are none, or after one has failed."""

    accelerator: Accelerator
    name: str
    failure: str = field(default="", init=False)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the values after this step."""
        self.attempt(lambda: self.accelerator.log(dict(values), step=step))

    def scores(self, scores: Mapping[str, Mapping[str, float]], step: int) -> None:
        """Log the final scores, by role and metric: `report/accuracy`."""
        self.log({f"{role}/{name}": value for role, of_role in scores.items() for name, value in of_role.items()}, step)

    def attempt(self, call: Callable[[], object]) -> None:
        """Make a call to the trackers, and give up on them if it fails."""
        if self.failure or not self.accelerator.trackers:
            return
        try:
            call()
        except Exception as error:  # whatever a tracker raises: no connection, a full disk, no login
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Log nothing any more, and say why."""
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        self.failure = f"{WARNING} {self.name} failed ({first}); this run goes on without it."
        self.warn()

    def warn(self) -> None:
        """Say what failed, if anything did."""
        if self.failure:
            print(self.failure, file=sys.stderr, flush=True)


@contextlib.contextmanager
def tracked(
    accelerator: Accelerator, recipe: Recipe, out: Path, *, own: bool, show: Callable[[str], None]
) -> Iterator[Tracking]:
    """Start what the accelerator logs with, and finish it when the block ends.

    Args:
        accelerator: of this run; one process of it logs.
        recipe: names the project and is logged as the run's configuration.
        out: the run's folder: its name is the run's, that of the folder around it (a sweep's) the group's.
        own: whether the tracker is a user's own, instead of the one that the recipe names.
        show: shows a line to the user.
    """
    tracking = Tracking(accelerator, "of your own" if own else str(recipe.tracker))
    marker = out.parent / f".{out.name}.tracker"
    if accelerator.is_main_process and accelerator.log_with:
        try:
            if own:
                accelerator.init_trackers(project_of(recipe, out.name), config=configuration(recipe))
            else:
                show(_start(accelerator, recipe, out, marker))
        except Exception as error:
            accelerator.trackers.clear()
            tracking.give_up(error)
    try:
        yield tracking
    except BaseException as error:
        _finish(tracking, marker, repeated=not isinstance(error, Exception))
        raise
    _finish(tracking, marker, repeated=False)


def _start(accelerator: Accelerator, recipe: Recipe, out: Path, marker: Path) -> str:
    """Start the tracker that the recipe names, in place of an attempt that was killed; where to look."""
    about = {"name": out.name, "group": out.resolve().parent.name, "config": configuration(recipe)}
    earlier = marker.read_text(encoding="utf-8") if marker.exists() else ""
    starting = {"trackio": _trackio, "wandb": _wandb}[str(recipe.tracker)]
    project = project_of(recipe, out.name)
    about.update(starting(project, out, earlier))
    with contextlib.redirect_stdout(io.StringIO()):  # trackio introduces itself in six lines
        accelerator.init_trackers(project, init_kwargs={str(recipe.tracker): about})
    run = accelerator.trackers[0].tracker
    marker.write_text(run.id, encoding="utf-8")
    address = run.url if recipe.tracker == "wandb" and not run.offline else None
    return f"{where_to_look(recipe, out.name)}, run {out.name}{f': {address}' if address else ''}"


def _trackio(project: str, out: Path, earlier: str) -> dict[str, Any]:
    """Trackio gives every attempt an id of its own, so what an earlier one logged is removed."""
    import trackio

    with contextlib.suppress(ValueError):  # the project is gone, and the attempt with it
        for run in trackio.Api().runs(project) if earlier else ():
            if run.id == earlier:
                run.delete()
    return {}


def _wandb(project: str, out: Path, earlier: str) -> dict[str, Any]:
    """Under its old id a run takes the place of the earlier attempt; its files go beside the run, not into the cwd."""
    import wandb

    folder = Path(os.environ.get("WANDB_DIR") or out.resolve().parent)
    for left in (folder / "wandb").glob(f"offline-run-*-{earlier}") if earlier else ():
        shutil.rmtree(left, ignore_errors=True)
    about = {"dir": str(folder), "settings": wandb.Settings(silent=True, console="off")}
    return {**about, "id": earlier} if earlier else about


def _finish(tracking: Tracking, marker: Path, *, repeated: bool) -> None:
    def finish() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            for each in tracking.accelerator.trackers:
                _end(each)

    if tracking.accelerator.is_main_process:
        tracking.warn()  # once more, among the last lines of the log
        if not repeated:
            marker.unlink(missing_ok=True)
    if tracking.failure:
        with contextlib.suppress(Exception):  # that it failed is said already
            finish()
    else:
        tracking.attempt(finish)


def _end(tracker: Any) -> None:
    if tracker.name != "trackio":
        tracker.finish()
        return
    import trackio

    # accelerate's own leaves the run open in trackio's eyes, which would finish it once more at exit
    trackio.finish()


POINTS = 200

Log = Callable[[Mapping[str, float], int], None]  # values, step


class History:
    """Collects the loss step by step; each point is the mean since the one before."""

    def __init__(self, total: int, meter: Meter, log: Log | None = None) -> None:
        self._total, self._meter, self._log = total, meter, log
        self._every = math.ceil(total / POINTS)
        self._losses: list[float] = []
        self._points: list[dict[str, Any]] = []
        self.steps = 0  # done; a step whose loss is NaN is not

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """Step, epoch, loss and learning rate, and select where that was scored."""
        return tuple(self._points)

    def add(self, step: int, epoch: float, loss: float, learning_rate: float) -> None:
        """A step was taken, with this loss and this learning rate."""
        self.steps = step
        self._losses.append(loss)
        self._meter(step, f"loss {loss:.4f}  learning rate {learning_rate:.2e}")
        if step % self._every == 0 or step in (1, self._total):
            mean = sum(self._losses) / len(self._losses)
            self._losses = []
            values = {"epoch": round(epoch, 4), "loss": mean, "learning_rate": learning_rate}
            self._points.append({"step": step, **values})
            self._log_values(values, step)

    def selected(self, step: int, score: float) -> None:
        """The model was scored on select after this step."""
        if not self._points or self._points[-1]["step"] != step:
            self._points.append({"step": step})
        self._points[-1]["select"] = score
        self._meter.line(f"  select after step {step}: {score:.4f}")
        self._log_values({"select": score}, step)

    def _log_values(self, values: Mapping[str, float], step: int) -> None:
        if self._log is not None:
            self._log(values, step)
