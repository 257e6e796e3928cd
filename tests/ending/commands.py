"""Commands to be stopped half-way: each with what it needs, in a place of its own, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.makers.pile import make_pile, make_sweep

SWEPT = (
    "task: {{kind: text, path: {pile}/data, text: [sentence], label_names: [bad, good]}}\n"
    "model: {pile}/start\ndata: {{select_minimum: 50, max_length: 32}}\n"
    "train: {{epochs: 2, batch_size: 8, eval_batch_size: 16, learning_rate: 1.0e-3}}\nsweep: {{runs: 3}}\n"
)


@dataclass(frozen=True)
class Stopped:
    """How a command ended that got a signal."""

    status: int
    stderr: str
    left: tuple[str, ...]  # hidden or temporary files and folders, and processes


class Place:
    """A folder with a sweep, a pool and a recipe to sweep, made once, and fresh names for what commands write."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir()
        make_sweep(folder / "given")
        pile = make_pile(folder / "pile", models=0)
        (folder / "sweep.yaml").write_text(SWEPT.format(pile=pile))
        self.made = 0
        done = self.run(self.command("predict"))
        assert done.returncode == 0, done.stderr
        (folder / "out1").rename(folder / "preds")

    def command(self, name: str) -> list[str]:
        """The arguments of a command that writes into a folder of its own."""
        self.made += 1
        out = f"out{self.made}"
        recipe = ["--recipe", "given/sweep/recipe.yaml", "--split", "select"]
        return {
            "version": ["version"],
            "predict": ["predict", "given/sweep", *recipe, "--out", out],
            "cook": ["cook", "given/sweep", "--method", "uniform", "--method", "greedy", "--out", out],
            "leaderboard": ["leaderboard", "given/sweep"],
            "search": ["cascade", "search", "preds", "--out", f"{out}.json"],
            "report": ["report", "given/sweep", "preds", "--out", f"{out}.html"],
            "sweep": ["sweep", "sweep.yaml", "--out", out, "--slots", "2"],
            "finetune": ["sweep.yaml", "--out", out],
        }[name]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.temporary), "HF_SOUPS_CACHE": str(self.folder / "cache")}

    def start(self, arguments: Sequence[str], **how: object) -> subprocess.Popen[str]:
        module = "hf_soups.finetune" if arguments[0].endswith(".yaml") else "hf_soups.cli"
        about: dict[str, object] = {
            "env": self.environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, **how
        }  # fmt: skip
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=self.folder, **about)  # type: ignore[call-overload, no-any-return]

    def run(self, arguments: Sequence[str], **how: object) -> subprocess.CompletedProcess[str]:
        process = self.start(arguments, **how)
        _, stderr = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, "", stderr)

    def stopped(self, name: str, number: signal.Signals, after: float) -> Stopped:
        """Run a command, send it a signal after so many seconds, and look at what is left once it is gone."""
        process = self.start(self.command(name))
        time.sleep(after)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        return Stopped(process.returncode, stderr, (*self.left(), *self.processes()))

    def left(self) -> list[str]:
        hidden = [p for p in self.folder.rglob(".*") if ".partial" in p.name or ".replaced" in p.name]
        return [str(p.relative_to(self.folder)) for p in (*hidden, *self.temporary.glob("hf_soups*"))]

    def processes(self) -> list[str]:
        """Processes that still work in this place."""
        found = []
        for at in Path("/proc").glob("[0-9]*"):
            try:
                if Path(os.readlink(at / "cwd")) == self.folder and (at / "stat").read_text().split(")")[1][1] != "Z":  # noqa: PTH115
                    found.append((at / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


def in_memory_or(folder: Path) -> Path:
    """A folder's path without links: what /proc says of a working directory."""
    return folder.resolve()
