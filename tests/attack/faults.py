"""Faults: a command that dies at its k-th rename or some time, or meets a full disk, and what must be left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.attack.cases import copy, table
from tests.attack.commands import COMMANDS, Command
from tests.attack.judge import PLAIN, Verdict, answer, listing
from tests.attack.worker import Ended, run_all, start


def _sweep() -> None:
    from hf_soups.sweep import run_sweep
    from tests.sweep.test_sweep import fake, recipe

    out = Path("fakes")
    run_sweep(recipe(3), out, slots=2, progress=False, command=fake(out.absolute(), Path("../log").absolute()))


OVERWRITE = "cook sweep --method uniform --method greedy --out soups --overwrite"
WRITERS: dict[str, Command] = {
    **{
        name: COMMANDS[name]
        for name in (
            "cook",
            "cook sharded",
            "cook learned",
            "leaderboard",
            "diagnose",
            "predict",
            "predict again",
            "batch csv",
            "batch again",
            "search",
            "build",
            "draw",
            "card",
            "card cascade",
            "report",
            "answer",
            "learned state",
            "adapter",
        )
    },
    "sweep of fakes": Command(_sweep, ("fakes",)),
    "cook over": Command(OVERWRITE, ("soups", "sweep/soups", "sweep/cache")),
    "build over": Command("cascade build preds/select/frontier.json#4 --out cascade --overwrite", ("cascade",)),
    "search over": Command("cascade search preds/select --folds 0 --threads 1", ("preds/select",)),
}
TOGETHER = (
    ("cook", "cook"),
    ("cook over", "cook over"),
    ("predict", "predict"),
    ("predict again", "search"),
    ("search over", "show"),
    ("build", "build"),
    ("build over", "batch csv"),
    ("leaderboard", "leaderboard"),
    ("leaderboard", "cook over"),
    ("diagnose", "diagnose"),
    ("batch csv", "batch csv"),
    ("answer", "answer"),
    ("adapter", "adapter"),
    ("report", "predict again"),
    ("card", "push"),
)


@dataclass(frozen=True)
class Fault:
    """What happens, and when."""

    how: str  # before, after, refused: at a rename; time: after some CPU seconds; size: of any file
    at: float = 0

    def __str__(self) -> str:
        return f"{self.how} {self.at:.3g}"


def faulty(run: Callable[[], object], fault: Fault | None, counted: Path) -> object:
    """Do `run` with a fault; how many renames there were is written to `counted`."""
    from hf_soups.files import writing

    renames = 0

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def rename(*args: Any, **named: Any) -> Any:
            nonlocal renames
            renames += 1
            here = fault is not None and renames == fault.at
            if here and fault.how == "refused":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[1]))
            if here and fault.how == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            done = work(*args, **named)
            if here and fault.how == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return rename

    os.replace, os.rename = watched(os.replace), watched(os.rename)  # pathlib's go through these
    if fault is None or fault.how != "refused":
        writing._exchanged = watched(writing._exchanged)
    if fault is not None and fault.how == "time":
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process on the spot
        signal.setitimer(signal.ITIMER_PROF, fault.at)
    if fault is not None and fault.how == "size":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.at), int(fault.at)))
    try:
        return run()
    finally:
        with contextlib.suppress(OSError):
            counted.write_text(str(renames))


@dataclass
class Kills:
    """Commands that are disturbed on copies of one world."""

    world: Path
    place: Path
    seed: int
    jobs: int = 1
    usual: dict[str, dict[str, str]] = field(default_factory=dict)
    renames: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    hidden: dict[str, set[str]] = field(default_factory=dict)

    def undisturbed(self) -> None:
        """Every command once: its answer, renames, and CPU seconds."""
        names = list(WRITERS)
        for i, ended in run_all(self.jobs, (self._task(i, name, None, fresh=True) for i, name in enumerate(names))):
            name, folder = names[i], self.folder(i)
            if ended.status not in (0, 1) or "Traceback" in ended.complained:
                raise SystemExit(f"{name} fails undisturbed: {ended.complained[-2000:]}")
            self.usual[name] = self._answer(name, i)
            self.renames[name] = int((folder.parent / "renames").read_text())
            self.seconds[name] = ended.seconds
            self.hidden[name] = leftovers(folder)
            shutil.rmtree(folder.parent)

    def run(self, count: int) -> Iterator[tuple[str, Verdict]]:
        """So many faults: each with the command again afterwards."""
        drawn = {i: self._drawn(i) for i in range(count)}
        first = {}
        for i, ended in run_all(self.jobs, (self._task(i, *drawn[i], fresh=True) for i in range(count))):
            name, fault = drawn[i]
            first[i] = self._after_fault(i, name, fault, ended)
            if first[i] is not None:
                yield self._told(i, name, fault, first[i])
                continue
            ((_, again),) = run_all(1, iter([self._task(i, name, None)]))
            yield self._told(i, name, fault, self._after_all(i, name, again))
            shutil.rmtree(self.folder(i).parent)

    def together(self, count: int) -> Iterator[tuple[str, Verdict]]:
        """Two commands at once on one folder."""
        for i in range(count):
            pair = TOGETHER[i % len(TOGETHER)]
            number = 1_000_000 + i
            copy(self.world, self.folder(number))
            tasks = [self._task(number, name, None, said=f"said{j}") for j, name in enumerate(pair)]
            ends = dict(run_all(2, iter((j, begin, said) for j, (_, begin, said) in enumerate(tasks))))
            yield self._told(number, " + ".join(pair), None, self._after_both(number, pair, ends))
            shutil.rmtree(self.folder(number).parent)

    def folder(self, number: int) -> Path:
        """The copy of a fault."""
        return self.place / str(number) / "world"

    def _drawn(self, number: int) -> tuple[str, Fault]:
        random = Random(f"{self.seed}:{number}")
        name = list(WRITERS)[number % len(WRITERS)]
        how = random.choice(("before", "after", "before", "after", "refused", "time", "time", "size"))
        if how == "time":
            return name, Fault(how, random.uniform(0, max(self.seconds[name] * 1.2, 0.01)))
        if how == "size":
            return name, Fault(how, random.choice((4096, 20_000, 60_000, 120_000)))
        return name, Fault(how, random.randint(1, max(self.renames[name], 1)))

    def _task(self, number: int, name: str, fault: Fault | None, *, fresh: bool = False, said: str = "said") -> Any:
        folder = self.folder(number)
        if fresh:
            copy(self.world, folder)
        command = WRITERS.get(name) or COMMANDS[name]
        run = partial(faulty, command, fault, folder.parent / "renames")
        return number, partial(start, run, folder, folder.parent / said), folder.parent / said

    def _answer(self, name: str, number: int) -> dict[str, str]:
        found = dict(answer(self.folder(number), (WRITERS.get(name) or COMMANDS[name]).writes, ""))
        return {at: text for at, text in found.items() if not any(part.startswith(".") for part in Path(at).parts)}

    def _after_fault(self, number: int, name: str, fault: Fault, ended: Ended) -> Verdict | None:
        """What is wrong right after the fault; None if nothing is."""
        if ended.hung:
            return Verdict("hang")
        if "Traceback" in ended.complained:
            return Verdict("crash", ended.complained[-600:])
        if fault.how in ("refused", "size") and ended.status not in (0, 1, 2):
            return Verdict(f"status {ended.status}", ended.complained[-300:])
        if fault.how in ("refused", "size") and PLAIN.search(ended.complained):
            return Verdict("crash", ended.complained[-300:])
        half = half_written(self.folder(number), self.world)
        return Verdict("half a file", half) if half else None

    def _after_all(self, number: int, name: str, again: Ended) -> Verdict:
        folder = self.folder(number)
        found = self._answer(name, number)
        if again.status not in (0, 1) and "exists already" not in again.complained:
            return Verdict("fails when repeated", again.complained[-400:])
        if PLAIN.search(again.complained):
            return Verdict("crash when repeated", again.complained[-400:])
        different = [at for at in {*found, *self.usual[name]} if found.get(at) != self.usual[name].get(at)]
        if different:
            return Verdict("another result", self._shown(name, sorted(different), found))
        left = leftovers(folder) - self.hidden[name]
        return Verdict("leftovers", ", ".join(sorted(left))) if left else Verdict("same answer")

    def _after_both(self, number: int, pair: Sequence[str], ends: dict[int, Ended]) -> Verdict:
        for j, ended in ends.items():
            if ended.hung:
                return Verdict("hang", pair[j])
            if ended.status < 0 or PLAIN.search(ended.complained):
                return Verdict("crash", f"{pair[j]}: {ended.complained[-600:]}")
        for name in pair:
            if name in self.usual:
                found = self._answer(name, number)
                different = [at for at in self.usual[name] if found.get(at) != self.usual[name][at]]
                if different and len({*pair}) == 1:
                    return Verdict("another result", self._shown(name, different, found))
        half = half_written(self.folder(number), self.world)
        if half:
            return Verdict("half a file", half)
        left = leftovers(self.folder(number)) - set().union(*(self.hidden.get(name, set()) for name in pair))
        if left:
            return Verdict("leftovers", ", ".join(sorted(left)))
        refused = [pair[j] for j, ended in ends.items() if ended.status == 2]
        return Verdict("one refused" if refused else "same answer", ", ".join(refused))

    def _shown(self, name: str, different: Sequence[str], found: dict[str, str]) -> str:
        before, now = (told.get(different[0], "(none)")[:200] for told in (self.usual[name], found))
        return f"{', '.join(different[:4])}: {before!r} -> {now!r}"

    def _told(self, number: int, name: str, fault: Fault | None, verdict: Verdict) -> tuple[str, Verdict]:
        if not verdict.right and verdict.end != "one refused":
            print(f"{number}: {name}: {fault or 'at once'}\n  {verdict.end}: {verdict.why}", flush=True)
        return name, verdict


def leftovers(folder: Path) -> set[str]:
    """Hidden files and folders, with numbers of processes left out."""
    hidden = {p for p in listing(folder) if Path(p).name.startswith(".") and not p.endswith(".lock")}
    return {re.sub(r"-[0-9a-f]{8}-\d+|-\d+", "-PID", p) for p in hidden}


def half_written(folder: Path, world: Path) -> str:
    """The first visible file that is not as before and that its own reader cannot read; empty if there is none."""
    for at in listing(folder):
        path = folder / at
        if any(part.startswith(".") for part in Path(at).parts) or not path.is_file() or "fakes" in path.parts:
            continue
        before = world / at
        if before.is_file() and before.stat().st_size == path.stat().st_size:
            continue
        why = unreadable(path)
        if why:
            return f"{at}: {why}"
    return ""


def unreadable(path: Path) -> str:
    """Why the file's own reader cannot read it, by its ending."""
    import pyarrow.parquet
    from PIL import Image
    from safetensors import safe_open

    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                file.keys()
        elif path.suffix == ".parquet":
            pyarrow.parquet.read_table(path)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix in (".html", ".md", ".csv", ".yaml") and not path.read_text().endswith(("\n", ">")):
            return "no end"
    except Exception as error:  # readers of other libraries raise what they like: all of it is damage
        return f"{type(error).__name__}: {error}"
    return ""


def disturb(world: Path, place: Path, *, seed: int, kills: int, pairs: int, jobs: int) -> int:
    """Disturb commands, print the table of counts; how many failed."""
    it = Kills(world, place, seed, jobs)
    it.undisturbed()
    print("renames:", ", ".join(f"{name} {count}" for name, count in it.renames.items()))
    counts: Counter[tuple[str, str]] = Counter()
    failed = 0
    for name, verdict in (*it.run(kills), *it.together(pairs)):
        counts[name, verdict.end] += 1
        failed += not verdict.right and verdict.end != "one refused"
    print(table(counts))
    return failed
