"""Real data sets: the published counts, whatever the role, and images that can be read."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from hf_soups.data import load_splits, read_image
from hf_soups.errors import DataError
from hf_soups.metrics import score
from hf_soups.predictions import Predictions
from hf_soups.recipe import Data
from hf_soups.recipe.task import Task, named_task

pytestmark = pytest.mark.real

GLUE = {  # rows of train and of validation, and those of class 1 where they are published
    "mrpc": (3668, 2474, 408, 279),
    "rte": (2490, None, 277, None),
    "cola": (8551, 6023, 527, 365),  # the in-domain part of validation
    "sst2": (67349, 37569, 872, 444),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", GLUE)
def test_glue_has_its_published_counts_in_every_role(shared: Path, name: str) -> None:
    rows, positive, report_rows, report_positive = GLUE[name]
    splits = load_splits(named_task(f"glue/{name}", path=str(shared / "data/glue")), Data())
    labels = np.concatenate([splits.train.labels, splits.select.labels])
    assert len(labels) == rows
    assert positive is None or labels.sum() == positive
    assert len(splits.report) == report_rows
    assert report_positive is None or splits.report.labels.sum() == report_positive
    assert len(splits.select) == max(200, round(0.02 * rows))
    assert abs(splits.select.labels.mean() - labels.mean()) < 1 / len(splits.select)  # stratified to one row
    ids = np.concatenate([splits.train.row_ids, splits.select.row_ids])
    assert np.array_equal(np.sort(ids), np.arange(rows))


@pytest.mark.parametrize(
    ("folder", "task", "rows", "report_rows", "classes"),
    [
        ("tiny_imagenet_20", {"image": "image", "report": "valid"}, 4000, 1000, 20),
        ("cifar10", {"image": "img", "report": "test"}, 20_000, 10_000, 10),
    ],
)
def test_image_sets_have_their_counts_and_their_images_can_be_read(
    shared: Path, folder: str, task: dict[str, str], rows: int, report_rows: int, classes: int
) -> None:
    splits = load_splits(Task(kind="image", path=str(shared / "data" / folder), **task), Data())
    assert (len(splits.train) + len(splits.select), len(splits.report)) == (rows, report_rows)
    assert len(splits.label_names) == classes
    for split in (splits.train, splits.select, splits.report):
        counts = np.bincount(split.labels)
        assert len(counts) == classes
        assert counts.min() == counts.max()  # both sets are balanced, and so is every cut
        image = read_image(split, len(split) - 1)
        assert image.mode == "RGB"
        assert image.size in ((32, 32), (64, 64))


def test_the_unlabelled_test_split_of_rte_is_refused(shared: Path) -> None:
    with pytest.raises(DataError, match=r"rte:test: row 0 has no label in column 'label' \(empty or -1; all of them\)"):
        load_splits(named_task("glue/rte", path=str(shared / "data/glue"), report="test"), Data())


def test_two_processes_cut_the_same_rows(shared: Path) -> None:
    code = (
        "import sys; from hf_soups.data import load_splits; from hf_soups.recipe.recipe import Data;"
        "from hf_soups.recipe.task import named_task;"
        "s = load_splits(named_task('glue/mrpc', path=sys.argv[1]), Data(train_rows=500));"
        "print(s.train.fingerprint, s.select.fingerprint, s.report.fingerprint)"
    )
    command = [sys.executable, "-c", code, str(shared / "data/glue")]
    environments = ({"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}, {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"})
    told = [
        subprocess.run(command, env={**os.environ, **e}, capture_output=True, text=True, check=True).stdout
        for e in environments
    ]
    assert told[0] == told[1]
    assert len(told[0].split()) == 3


def test_saying_always_yes_scores_what_mrpc_is_known_for(shared: Path) -> None:
    """279 of 408 are equivalent: accuracy 68.4, F1 81.2, the majority baseline that papers print."""
    report = load_splits(named_task("glue/mrpc", path=str(shared / "data/glue")), Data()).report
    yes = Predictions.from_probs(np.tile([0.1, 0.9], (len(report), 1)), labels=report.labels, row_ids=report.row_ids)
    assert score(yes, "accuracy").value == pytest.approx(279 / 408)
    assert score(yes, "f1").value == pytest.approx(2 * 279 / (408 + 279))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(yes, "matthews").value == 0
    interval = score(yes, "accuracy")
    assert interval.low < interval.value < interval.high
    standard_error = np.sqrt(279 / 408 * (1 - 279 / 408) / 408)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
