"""A sweep with soups, a pool of texts with a frontier and a cascade built from it: made up, without any model.

Names and texts are as hostile as a stranger's can be.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from hf_soups.cascades import NEVER, Frontier, Plan
from hf_soups.cascades.plan import plan_values
from hf_soups.metrics import METRICS
from hf_soups.pool import read_pool
from hf_soups.pool.report_rows import report_rows
from hf_soups.pool.rows import RowsWanted, load_rows
from hf_soups.pool.store import Member, Pool, write_pool
from hf_soups.pool_jobs.plans import seen_in
from hf_soups.predictions import Predictions
from tests.makers.synthetic_sweep import (
    REPORT,
    SELECT,
    answers,
    write_failed_run,
    write_finished_run,
    write_plan,
    write_predictions,
)

HOSTILE = "</script><script>document.title='taken'</script><img src=http://example.org/x onerror=alert(1)>"
ROWS = 120
COSTS = {"small": 1_000_000.0, "big": 9_000_000.0}


def history(seed: int, epochs: int = 4) -> tuple[dict[str, Any], ...]:
    """Ten records an epoch, and the score on select at the end of each."""
    noise = np.random.default_rng(seed).normal(0, 0.05, 10 * epochs)
    points: list[dict[str, Any]] = []
    for i in range(10 * epochs):
        points.append({"step": i + 1, "epoch": (i + 1) / 10, "loss": float(2 / (1 + i / 10) + noise[i])})
        if i % 10 == 9:
            points[-1]["select"] = 0.6 + 0.05 * (i // 10) + 0.01 * seed
    return tuple(points)


def write_sweep(folder: Path) -> Path:
    """Three finished runs, a failed one and one to come, a greedy soup of two and a uniform one."""
    sweep = write_plan(folder, 5)
    for i, (select, report) in enumerate(((170, 230), (180, 225), (160, 220))):
        recipe = {"name": f"run_0{i}", "train": drawn(i)}
        about = {"history": history(i), "metric": "accuracy", "recipe": recipe}
        write_finished_run(sweep / f"run_0{i}", select, report, seed=i, **about)
    write_failed_run(sweep / "run_03", reason=f"the loss was NaN {HOSTILE}")
    pool = ["run_00", "run_01", "run_02"]
    steps = [
        step("run_01", 1, 0.90, 0.90, accepted=True),
        step("run_00", 2, 0.92, 0.92, accepted=True),
        step(HOSTILE, 3, 0.89, 0.92, accepted=False),
        {**step("run_02", 3, 0.92, 0.92, accepted=False), "score": None, "at_best": 0.915},  # scored no further
    ]
    write_soup(sweep, "greedy", pool[:2], 184, 231, steps=steps)
    write_soup(sweep, "uniform", pool, 182, 235)
    return sweep


def drawn(i: int) -> dict[str, Any]:
    """Settings of run i; the schedule is a word, and the epochs are the same in all."""
    return {
        "learning_rate": 1e-5 * 10**i, "mixup": 0.2 * (i % 2), "schedule": ("linear", "cosine")[i % 2], "epochs": 4,
        "seed": 100 + i,
    }  # fmt: skip


def step(candidate: str, ingredients: int, score: float, best: float, *, accepted: bool) -> dict[str, Any]:
    return {
        "candidate": candidate, "ingredients": ingredients, "score": score, "best_so_far": best, "accepted": accepted,
    }  # fmt: skip


def write_soup(sweep: Path, method: str, runs: list[str], select: int, report: int, **about: Any) -> Path:
    folder = sweep.parent / "soups" / method
    write_predictions(folder, answers(select, 200, SELECT, 9), answers(report, 277, REPORT, 9))
    record = {
        "format": "hf_soups.soup.v1",
        "method": method,
        "ingredients": [{"name": run, "coefficient": 1 / len(runs)} for run in runs],
        "steps": [],
        "scores": {"singles": {"run_00": 0.85, "run_01": 0.9}, "select": {"accuracy": select / 200}},
        "pool": ["run_00", "run_01", "run_02"],
        "selected_on": "select",
        "metric": "accuracy",
        "select_rows": 200,
        "best_single": {"name": "run_01", "score": 0.9},
        **about,
    }
    (folder / "soup.json").write_text(json.dumps(record))
    (sweep / "soups").mkdir(exist_ok=True)
    pointer = {"path": f"../../soups/{method}", "method": method, "predictions": "predictions"}
    (sweep / "soups" / f"{method}.json").write_text(json.dumps(pointer))
    return folder


def write_texts(path: Path) -> Path:
    """A parquet file of texts with labels."""
    texts = [f"text {i}: {HOSTILE}" for i in range(ROWS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.arange(ROWS) % 2
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)
    return path


def write_pool_of_texts(folder: Path, data: Path) -> Path:
    """A pool of two models that answered the texts, with a frontier that was searched on half of them."""
    rows = load_rows(RowsWanted(str(data), "train", label_names=("bad", "good")))
    split = rows.split
    pool = Pool(folder, "text", rows.about, split.label_names)
    for name, skill, seed in (("small", 1.2, 1), ("big", 3.0, 2)):
        logits = np.random.default_rng(seed).normal(0, 1, (len(split), 2))
        logits[np.arange(len(split)), split.labels] += skill
        found = Predictions.from_logits(
            logits, labels=split.labels, row_ids=split.row_ids, label_names=split.label_names, data=split.fingerprint
        )
        member = Member(name, f"org/{name}", macs=int(COSTS[name]), file=f"{name}.safetensors")
        found.save(folder / member.file)
        pool = pool.with_member(member)
    write_pool(pool)
    frontier_of(pool).save(folder / "frontier.json")
    return folder


def frontier_of(pool: Pool, report: str = "0.5") -> Frontier:
    """Both models, three cascades and the ensemble, scored on half of the rows, or on what is not for the report."""
    from hf_soups.pool_jobs import select_and_report

    select = select_and_report(pool, report).select
    ways = [(("small",), ()), (("big",), ()), *((("small", "big"), (t,)) for t in (0.6, 0.8, 0.95, NEVER))]
    plans = [_scored(Plan(names, cuts, tuple(COSTS[n] for n in names), unit="macs"), select) for names, cuts in ways]
    singles = tuple(sorted(plans[:2], key=lambda p: -p.score))
    kept = tuple(sorted(plans, key=lambda p: p.average_cost))
    seen = seen_in(pool, COSTS)
    reported_on = seen_in(read_pool(report), COSTS) if Path(report).is_dir() and report else None
    places = (pool.data.fingerprint, str(pool.folder), report_rows(report))
    return Frontier(kept, singles, (plans[-1],), *places, chosen_on=seen, reported_on=reported_on)


def _scored(plan: Plan, select: Any) -> Plan:
    done = plan.apply(select)
    assert done.costs is not None
    assert done.exits is not None
    shares = tuple(float((done.exits == stage).mean()) for stage in range(len(plan.members)))
    return replace(
        plan, score=METRICS["accuracy"].compute(done), average_cost=float(done.costs.mean()), exit_shares=shares,
        rows=len(done),
    )  # fmt: skip


def write_cascade(folder: Path, plan: Plan) -> Path:
    """config.json of a cascade whose members lie in the Hub."""
    from hf_soups.cascades.running.config import CascadeConfig

    places = [{"name": name, "repo": f"org/{name}", "revision": "0" * 40} for name in plan.members]
    folder.mkdir(parents=True)
    config = CascadeConfig(
        kind="text",
        members=places,
        plan=plan_values(plan),
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    config.save_pretrained(folder)
    return folder


def write_everything(folder: Path) -> Path:
    """A folder that holds all of it."""
    write_sweep(folder / "runs")
    pool = write_pool_of_texts(folder / "preds", write_texts(folder / "data" / "texts.parquet"))
    plan = Frontier.load(pool / "frontier.json").plans
    write_cascade(folder / "my-cascade", next(p for p in plan if len(p.members) > 1 and p.thresholds[0] == 0.8))
    return folder
