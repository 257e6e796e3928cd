"""The whole job in minutes, on data that comes with the install: scikit-learn's handwritten digits and small ViTs.

Nothing here is a shortcut: it writes a data set in Hub layout and recipes, and then runs the same functions as the
commands `finetune`, `sweep`, `cook`, `leaderboard`, `predict`, `ensemble` and `cascade` do. Everything it made can be
run again by hand.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import InputError
from hf_soups.quickstart.digits import RUNS, write_inputs
from hf_soups.quickstart.small import trained_beside

if TYPE_CHECKING:
    from hf_soups.leaderboard import Leaderboard
    from hf_soups.quickstart.stages import Stages


# Members answer alone: the soup's answers are less sure than the small model's (label smoothing, mixup, averaging), so
# in a mean of both the small one's errors outweigh them.
RULE: dict[str, Any] = {"combine": "last"}


def two_sizes(out: Path, stages: Stages) -> None:
    """Both models' answers as pools, their ensembles, the search, the cascade's folder and pictures."""
    from hf_soups.pool.predict import predict_pool
    from hf_soups.pool_jobs import build_from, draw_plan, pool_ensembles, search_pool
    from hf_soups.reporting.frontier_table import SearchTable

    select, report = out / "preds" / "select", out / "preds" / "report"
    models = [f"small={out / 'small' / 'run'}", f"soup={out / 'soups' / 'greedy'}"]
    for split, pool in (("select", select), ("report", report)):
        predict_pool(models, recipe=out / "digits.yaml", split=split, out=pool, progress=False)
    stages.show(pool_ensembles(select, report=str(report)))
    found = search_pool(select, report=str(report), **RULE)
    stages.show(SearchTable(found))
    build_from(found.reference, out / "cascade")
    draw_plan(found.reference, out / "pictures")


STAGES = (
    "handwritten digits of scikit-learn, in Hub layout",
    "two small ViTs learn which digit it is and how it is turned; the smaller one is fine-tuned, too",
    "{runs} fine-tunes of the larger one, from that one start",
    "uniform and greedy soups",
    "the leaderboard",
    "what the smaller one and the greedy soup answer: ensembles, and a cascade",
)


def quickstart(out: Path, *, slots: int = 2, overwrite: bool = False, sweep_runs: int | None = None) -> Leaderboard:
    """Pretrain, fine-tune, cook and compare; then an ensemble and a cascade with a smaller model. Shows each stage.

    Every training has one thread, unless OMP_NUM_THREADS says otherwise: models as small gain little from more, and
    the results are then the same on any number of cores.

    Args:
        out: the folder of the whole job: digits/, start/, runs/, soups/, small/, preds/, cascade/ and the recipes.
        slots: fine-tunes side by side.
        overwrite: throw away what a former quickstart left in `out`.
        sweep_runs: number of fine-tunes; default: the recipe's.
    Raises:
        InputError: if `out` holds something and `overwrite` is not given.
    """
    from rich.console import Console

    from hf_soups.quickstart.stages import Stages

    _clear(out, overwrite)
    began = time.perf_counter()
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140)
    stages = Stages([title.format(runs=sweep_runs or RUNS) for title in STAGES], console)
    with one_thread_each(), stages.live():
        board = _run(out, stages, slots, {} if sweep_runs is None else {"sweep.runs": sweep_runs})
    for line in (
        f"The whole job took {time.perf_counter() - began:.0f} s.",
        f"Look at {out}/runs/leaderboard.png and {out}/pictures/score_vs_cost.png,",
        f"and repeat any stage by hand, for example: hf-soups sweep {out}/digits.yaml --out {out}/again --dry-run",
        f"Next: hf-soups report {out} (pip install 'hf_soups[report]'), or try the cascade in the browser:",
        f"hf-soups demo {out}/cascade (pip install 'hf_soups[demo]').",
    ):
        console.print(line, markup=False)
    return board


def _run(out: Path, stages: Stages, slots: int, changes: dict[str, Any]) -> Leaderboard:
    """All stages."""
    from hf_soups.cooking import cook
    from hf_soups.finetune import finetune
    from hf_soups.leaderboard import build_leaderboard
    from hf_soups.recipe import load_recipe
    from hf_soups.sweep import run_sweep

    with stages.stage(out / "digits"):
        pretraining, finetuning = write_inputs(out)
    with stages.stage(out / "start"), trained_beside(out):
        finetune(load_recipe(pretraining), out / "start")
    with stages.stage(out / "runs"):
        run_sweep(load_recipe(finetuning, changes), out / "runs", slots=slots)
    with stages.stage(out / "soups"):
        cook([str(out / "runs")], methods=("uniform", "greedy"), out=out / "soups")
    with stages.stage(out / "runs" / "leaderboard.csv"):
        board = build_leaderboard(out / "runs")
        board.save(out / "runs")
        stages.show(board.to_rich())
    with stages.stage(out / "cascade"):
        two_sizes(out, stages)
    return board


@contextmanager
def one_thread_each() -> Iterator[None]:
    """One thread for what is trained meanwhile, here and in processes of its own; what the user set stays."""
    import torch

    if os.environ.get("OMP_NUM_THREADS"):
        yield
        return
    before = torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        del os.environ["OMP_NUM_THREADS"]


def _clear(out: Path, overwrite: bool) -> None:
    if not out.exists() or not any(out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        return
    if not overwrite:
        raise InputError(f"{out} is not empty: give another --out, or --overwrite to start again.")
    if not (out / "digits.yaml").exists():
        raise InputError(f"{out} was not made by the quickstart, so --overwrite deletes nothing: give another --out.")
    shutil.rmtree(out)
    out.mkdir(parents=True)
