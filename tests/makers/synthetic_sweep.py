"""A sweep's folder as fine-tunes leave it, without any model: records and predictions made up from accuracies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_soups.finetune.run_record import RunRecord, write_run
from hf_soups.predictions import Predictions

SELECT, REPORT = "select-rows", "report-rows"  # fingerprints
NAMES = ("bad", "good")


def answers(right: int, rows: int, data: str, seed: int = 0) -> Predictions:
    """Predictions of `rows` rows, exactly `right` of them correct; the labels are the same whatever the seed."""
    labels = np.arange(rows) % 2
    wrong = np.random.default_rng(seed).permutation(rows)[: rows - right]
    answer = labels.copy()
    answer[wrong] = 1 - answer[wrong]
    sure = np.random.default_rng(seed + 1).uniform(0.55, 0.95, rows)
    probs = np.where(np.arange(2) == answer[:, None], sure[:, None], 1 - sure[:, None])
    return Predictions.from_probs(probs, labels=labels, row_ids=np.arange(rows) + 1000, label_names=NAMES, data=data)


def write_predictions(folder: Path, select: Predictions, report: Predictions) -> None:
    select.save(folder / "predictions" / "select.safetensors")
    report.save(folder / "predictions" / "report.safetensors")


def write_finished_run(folder: Path, select: int, report: int, seed: int = 0, **record: Any) -> None:
    """A finished run with so many of 200 select rows and of 277 report rows right."""
    folder.mkdir(parents=True)
    about = {"parameters": 1_000_000, "macs": 5_000_000, "train_seconds": 10.0, "device": "cpu", **record}
    write_run(folder, RunRecord("finished", label_names=NAMES, **about))
    write_predictions(folder, answers(select, 200, SELECT, seed), answers(report, 277, REPORT, seed + 50))


def write_failed_run(folder: Path, status: str = "nan-loss", reason: str = "the loss was NaN at step 7") -> None:
    folder.mkdir(parents=True)
    write_run(folder, RunRecord(status, reason))


def write_plan(sweep: Path, runs: int, metric: str = "accuracy") -> Path:
    """plan.json and recipe.yaml of a sweep of so many runs."""
    sweep.mkdir(parents=True, exist_ok=True)
    plan = [{"name": f"run_{i:02d}", "train": {}} for i in range(runs)]
    (sweep / "plan.json").write_text(json.dumps({"format": "hf_soups.sweep.plan.v1", "runs": plan}))
    (sweep / "recipe.yaml").write_text(
        "model: model\n"
        f"task: {{kind: text, path: data, text: [sentence], label_names: [bad, good], metric: {metric}}}\n"
    )
    return sweep


def write_soup_record(folder: Path, ingredients: Sequence[str], **about: Any) -> None:
    """soup.json of a mean of these runs, with further keys."""
    record = {"ingredients": [{"name": name, "coefficient": 1 / len(ingredients)} for name in ingredients], **about}
    (folder / "soup.json").write_text(json.dumps({"format": "hf_soups.soup.v1", **record}))
