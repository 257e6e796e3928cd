"""Cases: a number and a seed draw a file, a change of it and a command; each runs on its own copy of the world."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from tests.attack.commands import COMMANDS, KINDS, Command, twin_of
from tests.attack.judge import Listing, Verdict, answer, judge, listing
from tests.attack.mutations import Mutation, mutate
from tests.attack.worker import Ended, run_all, start


@dataclass(frozen=True)
class Case:
    """One case as it was drawn."""

    number: int
    kind: str
    file: str
    command: str
    mutation: Mutation

    def __str__(self) -> str:
        return f"case {self.number}: {self.kind}: {self.file}: {self.mutation.what}; `{self.command}`"


@dataclass
class Attack:
    """All cases of a seed on one world."""

    world: Path
    place: Path  # of the copies
    seed: int
    kinds: Sequence[str]
    jobs: int = 1

    def usual(self) -> dict[str, dict[str, str]]:
        """What each command answers when nothing is changed."""
        names = sorted({c for kind in self.kinds for c in KINDS[kind].commands})
        found = {}
        for i, ended in run_all(self.jobs, (self._begun(i, COMMANDS[name]) for i, name in enumerate(names))):
            if ended.status not in (0, 1) or "Traceback" in ended.complained:
                raise SystemExit(f"{names[i]} fails on what is whole: {ended.status} {ended.complained[-2000:]}")
            found[names[i]] = dict(answer(self._folder(i), COMMANDS[names[i]].answers, ended.said))
            shutil.rmtree(self._folder(i).parent)
        return found

    def run(self, numbers: Sequence[int], usual: dict[str, dict[str, str]]) -> Iterator[tuple[Case, Verdict]]:
        """Every case with its verdict, as they end."""
        drawn: dict[int, tuple[Case, Listing]] = {}

        def begun() -> Iterator[tuple[int, object, Path]]:
            for number in numbers:
                copy(self.world, self._folder(number))
                case = self._drawn(number)
                drawn[number] = case, listing(self._folder(number))
                yield self._begun(number, COMMANDS[case.command], fresh=False)

        for number, ended in run_all(self.jobs, begun()):  # type: ignore[arg-type]
            case, before = drawn.pop(number)
            yield case, self._judged(case, before, ended, usual[case.command])
            shutil.rmtree(self._folder(number).parent, ignore_errors=True)

    def _judged(self, case: Case, before: Listing, ended: Ended, usual: dict[str, str]) -> Verdict:
        folder, command = self._folder(case.number), COMMANDS[case.command]
        path = Path(case.file)
        names = [path.name, str(path.parent), path.parent.name, path.stem, *KINDS[case.kind].also]
        if path.parent == Path():
            names = [path.name]
        found = answer(folder, command.answers, ended.said)
        usual = {name: text for name, text in usual.items() if name != case.file}
        found = {name: text for name, text in found.items() if name != case.file}
        return judge(case.mutation, names, ended, before, listing(folder), command.writes, usual, found)

    def _drawn(self, number: int) -> Case:
        """Draw the case, and change the file in its copy of the world."""
        random = Random(f"{self.seed}:{number}")
        kind = random.choice(list(self.kinds))
        folder = self._folder(number)
        files = [f for pattern in KINDS[kind].files for f in sorted(folder.glob(pattern))]
        path = random.choice(files)
        command = random.choice(KINDS[kind].commands)
        if kind == "table":
            command = f"batch {path.suffix[1:]}"
        mutation = mutate(path, random, twin_of(path, folder))
        return Case(number, kind, str(path.relative_to(folder)), command, mutation)

    def _begun(self, number: int, command: Command, *, fresh: bool = True) -> tuple[int, partial[int], Path]:
        folder = self._folder(number)
        if fresh:
            copy(self.world, folder)
        said = folder.parent / "said"
        return number, partial(start, command, folder, said), said

    def _folder(self, number: int) -> Path:
        return self.place / f"{number}" / "world"


def copy(world: Path, folder: Path) -> None:
    """A copy that may be written to; what is never written in place is linked."""

    def put(source: str, into: str) -> None:
        (shutil.copyfile if source.endswith((".jsonl", ".lock", "_answers.json")) else os.link)(source, into)

    shutil.copytree(world, folder, copy_function=put)
    record = folder / "answers" / "_answers.json"  # names its model by an absolute path
    record.write_text(record.read_text().replace(str(world), str(folder)))


def table(counts: Counter[tuple[str, str]]) -> str:
    """Counts by kind and end."""
    ends = sorted({end for _, end in counts}, key=lambda e: -sum(n for (_, x), n in counts.items() if x == e))
    kinds = sorted({kind for kind, _ in counts})
    lines = ["{:<20}".format("") + "".join(f"{end:>24}" for end in ends)]
    lines += [f"{k:<20}" + "".join(f"{counts[k, e] or '':>24}" for e in ends) for k in kinds]
    lines.append(f"{'all':<20}" + "".join(f"{sum(counts[k, e] for k in kinds):>24}" for e in ends))
    return "\n".join(lines)


def attack(
    world: Path, place: Path, *, seed: int, numbers: Sequence[int], kinds: Sequence[str], jobs: int, failures: Path
) -> int:
    """Run cases, print the table, write what failed; how many failed."""
    it = Attack(world, place, seed, kinds, jobs)
    usual = it.usual()
    counts: Counter[tuple[str, str]] = Counter()
    failed: list[dict[str, object]] = []
    for case, verdict in it.run(numbers, usual):
        counts[case.kind, verdict.end] += 1
        if not verdict.right:
            print(f"{case}\n  {verdict.end}: {verdict.why}", flush=True)
            failed.append(
                {"case": case.number, "seed": seed, "end": verdict.end, "what": str(case), "why": verdict.why}
            )
    print(table(counts))
    failures.write_text("".join(json.dumps(f, ensure_ascii=False) + "\n" for f in failed))
    if failed:
        print(f"{len(failed)} of {len(numbers)} failed; see {failures}, repeat one with --case NUMBER --seed {seed}")
    return len(failed)
