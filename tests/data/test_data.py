"""Data: every source, every role, every way in which rows can be unusable."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, are_progress_bars_disabled
from datasets.utils import logging
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from hf_soups.data import (
    Split,
    Splits,
    load_dataset_split,
    load_report,
    load_splits,
    read_image,
    splits_from_datasets,
)
from hf_soups.data.sources import READERS, SOURCES, DataSource
from hf_soups.data.split import stratified_rows
from hf_soups.errors import DataError, DataWarning
from hf_soups.recipe import Data
from hf_soups.recipe.task import Task

NAMES = ("negative", "positive")
# beartype draws random items to check, which hypothesis takes for randomness of ours
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or left in the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def reviews(rows: int = 100, *, first: int = 0, labels: Any = None) -> Dataset:
    """Rows of one text column and a ClassLabel, the classes in turn."""
    about = Features({"text": Value("string"), "label": ClassLabel(names=list(NAMES)), "extra": Value("int64")})
    made = {
        "text": [f"review number {first + i}" for i in range(rows)],
        "label": [i % 2 for i in range(rows)] if labels is None else labels,
        "extra": list(range(rows)),
    }
    return Dataset.from_dict(made, features=about)


def text_task(path: str | Path = "reviews", **fields: Any) -> Task:
    return Task(**{"kind": "text", "path": str(path), "text": ("text",), **fields})


def hub_folder(folder: Path, **configs: dict[str, Dataset]) -> Path:
    """A folder in the Hub's layout: parquet files, and a README that names them."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            rows.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def in_memory(train: Dataset, report: Dataset | None = None, *, data: Data | None = None, **fields: Any) -> Splits:
    return splits_from_datasets(text_task(**fields), train, reviews(20) if report is None else report, data or Data())


def from_rows(labels: list[Any], **columns: list[Any]) -> Dataset:
    texts = [f"text {i}" for i in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels, **columns})


def told(work: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        work()
    return str(caught.value)


# --- roles


def test_select_is_cut_from_train_and_report_is_left_alone() -> None:
    splits = in_memory(reviews(1000), reviews(60, first=5000))
    assert (len(splits.train), len(splits.select), len(splits.report)) == (800, 200, 60)
    both = np.concatenate([splits.train.row_ids, splits.select.row_ids])
    assert np.array_equal(np.sort(both), np.arange(1000))
    assert [s.role for s in (splits.train, splits.select, splits.report)] == ["train", "select", "report"]
    assert splits.label_names == NAMES


def test_row_ids_lead_back_to_the_source() -> None:
    source = reviews(300)
    splits = in_memory(source)
    for split in (splits.train, splits.select):
        assert split.rows["text"][:] == [source["text"][i] for i in split.row_ids]
        assert split.labels.tolist() == [source["label"][i] for i in split.row_ids]
    assert splits.train.rows.column_names == ["text", "label"]


@pytest.mark.parametrize(
    ("rows", "data", "select"),
    [
        (1000, Data(), 200),  # the minimum
        (20_000, Data(), 400),  # the fraction
        (300, Data(), 150),  # half, where the minimum would take more
        (5, Data(), 2),
        (1000, Data(select_fraction=0.1, select_minimum=1), 100),
    ],
)
def test_select_takes_its_share_at_least_the_minimum_but_never_more_than_half(
    rows: int, data: Data, select: int
) -> None:
    assert len(in_memory(reviews(rows), data=data).select) == select


def test_select_is_stratified() -> None:
    labels = [0] * 900 + [1] * 100
    splits = in_memory(reviews(1000, labels=labels))
    assert np.bincount(splits.select.labels).tolist() == [180, 20]


def test_a_class_with_two_rows_is_on_both_sides_and_one_with_one_row_is_trained_on() -> None:
    names = ("common", "rare", "single")
    train = from_rows(["common"] * 97 + ["rare"] * 2 + ["single"])
    splits = in_memory(train, from_rows(["common"]), label_names=names, data=Data(select_minimum=10))
    assert np.bincount(splits.select.labels, minlength=3).tolist() == [9, 1, 0]
    assert np.bincount(splits.train.labels, minlength=3).tolist() == [88, 1, 1]


def test_another_seed_cuts_other_rows_and_the_same_seed_the_same() -> None:
    cuts = [in_memory(reviews(1000), data=Data(seed=seed)).select for seed in (0, 0, 1)]
    assert np.array_equal(cuts[0].row_ids, cuts[1].row_ids)
    assert not np.array_equal(cuts[0].row_ids, cuts[2].row_ids)


def test_subsets_leave_select_as_it_is_and_are_stratified() -> None:
    whole = in_memory(reviews(1000), reviews(60))
    cut = in_memory(reviews(1000), reviews(60), data=Data(train_rows=50, report_rows=10))
    assert cut.select.fingerprint == whole.select.fingerprint
    assert np.bincount(cut.train.labels).tolist() == [25, 25]
    assert np.bincount(cut.report.labels).tolist() == [5, 5]
    assert set(cut.train.row_ids) <= set(whole.train.row_ids)
    assert set(in_memory(reviews(1000), data=Data(train_rows=20)).train.row_ids) < set(cut.train.row_ids)


def test_subsets_larger_than_the_data_are_all_of_it() -> None:
    splits = in_memory(reviews(1000), reviews(60), data=Data(train_rows=10_000, report_rows=10_000))
    assert (len(splits.train), len(splits.report)) == (800, 60)


def test_the_cut_is_the_same_on_every_machine() -> None:
    """Pinned: PCG64's raw output is fixed, so these rows are, whatever the release of NumPy or the platform."""
    splits = in_memory(reviews(20), data=Data(select_minimum=6))
    assert splits.select.row_ids.tolist() == [2, 3, 8, 11, 13, 18]
    assert splits.select.fingerprint == "e9d5e64e15b53d7b"


@pytest.mark.slow
def test_the_cut_is_the_same_in_another_process_with_other_threads_and_hash_seed() -> None:
    code = (
        "from tests.data.test_data import in_memory, reviews; s = in_memory(reviews(1000));"
        "print(s.train.fingerprint, s.select.fingerprint, s.report.fingerprint)"
    )
    splits = in_memory(reviews(1000))
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [s.fingerprint for s in (splits.train, splits.select, splits.report)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=0, max_size=60),
    st.integers(0, 70),
    st.integers(0, 2**40),
    st.booleans(),
)
def test_a_stratified_subset_has_its_size_and_every_class_its_share(
    classes: list[int], size: int, seed: int, leave_one: bool
) -> None:
    labels = np.asarray(classes, dtype=np.int64)
    counts = np.bincount(labels, minlength=6)
    upper = np.maximum(counts - 1, 0) if leave_one else counts
    rows = stratified_rows(labels, size, seed, leave_one=leave_one)
    taken = np.bincount(labels[rows], minlength=6)
    assert len(rows) == len(set(rows.tolist())) == min(size, upper.sum())
    assert np.array_equal(rows, np.sort(rows))
    assert (taken <= upper).all()
    least = np.minimum(counts > 0, upper)
    if least.sum() <= size:
        assert (taken >= least).all()
    wanted = len(rows) * counts / max(len(labels), 1)
    inside = (wanted >= least) & (wanted <= upper)
    if inside.all():  # then no bound pulls a class away from its share
        assert (np.abs(taken - wanted) < 1).all()


@given(st.integers(0, 1000), st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_every_row_is_as_likely_as_the_next(seed: int, stream: int) -> None:
    """A subset of half the rows: each 100 of 200 rows hold 50 of them, give or take 5 standard errors."""
    rows = stratified_rows(np.zeros(200, dtype=np.int64), 100, seed, stream=stream)
    assert abs((rows < 100).sum() - 50) < 5 * np.sqrt(100 * 0.25 * 100 / 199)


# --- labels


@pytest.mark.parametrize(
    ("labels", "label_names", "names", "indices"),
    [
        (["no", "yes", "no", "yes"], None, ("no", "yes"), [0, 1, 0, 1]),
        (["no", "yes", "no", "yes"], ("yes", "no"), ("yes", "no"), [1, 0, 1, 0]),
        ([1, 5, 1, 5], None, ("1", "5"), [0, 1, 0, 1]),
        ([10, 9, 9, 10], None, ("9", "10"), [1, 0, 0, 1]),  # as numbers, not as text
        ([0, 1, 1, 0], ("bad", "good"), ("bad", "good"), [0, 1, 1, 0]),
        ([0.0, 1.0, 1.0, 0.0], ("bad", "good"), ("bad", "good"), [0, 1, 1, 0]),  # as JSON and empty cells leave them
        ([5.0, 1.0, 1.0, 5.0], None, ("1", "5"), [1, 0, 0, 1]),
        ([1, 2, 1, 2], ("1", "2"), ("1", "2"), [0, 1, 0, 1]),
        ([True, False, True, False], None, ("False", "True"), [1, 0, 1, 0]),
        (["0", "1", "1", "0"], ("0", "1"), ("0", "1"), [0, 1, 1, 0]),
    ],
)
def test_text_numbers_and_booleans_become_class_indices(
    labels: list[Any], label_names: tuple[str, ...] | None, names: tuple[str, ...], indices: list[int]
) -> None:
    splits = in_memory(from_rows(labels * 5), from_rows(labels), label_names=label_names)
    assert splits.label_names == names
    assert splits.report.labels.tolist() == indices


def test_a_class_label_in_another_order_is_mapped_by_name() -> None:
    splits = in_memory(reviews(20), reviews(4), label_names=("positive", "negative"))
    assert splits.label_names == ("positive", "negative")
    assert splits.report.labels.tolist() == [1, 0, 1, 0]


def test_the_report_may_order_its_names_otherwise_or_lack_one() -> None:
    other = Dataset.from_dict({"text": ["a", "b"], "label": [0, 0]}).cast_column(
        "label", ClassLabel(names=["positive"])
    )
    assert in_memory(reviews(20), other).report.labels.tolist() == [1, 1]
    assert in_memory(reviews(20), from_rows(["positive", "negative"])).report.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "label_names", "message"),
    [
        (["a", "b", "c"] * 4, ("a", "b"), "row 2 has label 'c' in column 'label', which is outside the names (a, b)"),
        ([0, 1, 2] * 4, ("a", "b"), "row 2 has label 2 in column 'label', which is outside the names (a, b)"),
        ([0, 1, -7] * 4, ("a", "b"), "row 2 has label -7 in column 'label', which is outside the names (a, b)"),
        ([0, 1, -1] * 4, ("a", "b"), "row 2 has no label in column 'label' (empty or -1; 4 of 12)"),
        ([-1] * 12, ("a", "b"), "row 0 has no label in column 'label' (empty or -1; all of them)"),
        (["a", None, "b"] * 4, None, "row 1 has no label in column 'label' (empty or -1; 4 of 12)"),
        ([0.0, 0.5] * 6, None, "label column 'label' holds double; expected text, integers or ClassLabel. 0.5 is no"),
        ([0.0, float("inf")] * 6, None, "label column 'label' holds double; expected text, integers or ClassLabel"),
        ([0.0, 1.0, None] * 4, None, "row 2 has no label in column 'label' (empty or -1; 4 of 12)"),
        ([[0], [1]] * 6, None, "expected text, integers or ClassLabel"),
        (["a"] * 12, None, "column 'label' has only one class (a); a classifier needs two or more"),
        (["a", "b"] * 6, ("a", "b", "a"), "label_names hold a name twice: a, b, a"),
        (["a"] * 12, ("a", "b"), "train rows are all of one class, 'a'; a classifier needs rows of two or more"),
    ],
)
def test_labels_that_are_missing_or_outside_the_names_are_told(
    labels: list[Any], label_names: tuple[str, ...] | None, message: str
) -> None:
    assert message in told(lambda: in_memory(from_rows(labels), from_rows(["a", "b"]), label_names=label_names))


def test_the_hubs_unlabelled_rows_are_told() -> None:
    unlabelled = told(lambda: in_memory(reviews(20), reviews(6, labels=[-1] * 6)))
    assert unlabelled.startswith("reviews:validation: row 0 has no label in column 'label' (empty or -1; all of them).")
    assert unlabelled.endswith("Choose a split that is labelled, or remove these rows.")


def test_a_class_label_outside_the_tasks_names_is_told_by_name() -> None:
    message = told(lambda: in_memory(reviews(20), label_names=("bad", "good")))
    assert "row 0 has label 'negative' in column 'label', which is outside the names (bad, good)" in message


def test_a_report_label_that_train_never_has_is_told() -> None:
    message = told(lambda: in_memory(from_rows(["a", "b"] * 6), from_rows(["a", "c"])))
    assert "reviews:validation: row 1 has label 'c' in column 'label', which is outside the names (a, b)" in message


# --- columns and texts


def test_a_missing_column_is_told_with_those_there_are() -> None:
    message = told(lambda: in_memory(reviews(20), text=("sentence",), label="star"))
    assert "no column 'sentence', 'star'; there are: text, label, extra. Correct `text` or `label`" in message


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_a_row_without_text_is_told(gap: float | None) -> None:
    import pandas

    frame = pandas.DataFrame({"text": ["a", "b", gap, "d"] * 5, "label": [0, 1] * 10})
    message = told(lambda: in_memory(Dataset.from_pandas(frame)))
    assert "reviews:train: row 2 has no text in column 'text' (5 of 20 rows). Fill in the text" in message


def test_a_text_column_of_numbers_is_told() -> None:
    assert "column 'extra' holds int64, not text" in told(lambda: in_memory(reviews(20), text=("extra",)))


def test_no_rows_at_all_is_told() -> None:
    assert told(lambda: in_memory(reviews(0))) == "reviews:train: the split has no rows."
    assert told(lambda: in_memory(reviews(9), reviews(0))) == "reviews:validation: the split has no rows."


@pytest.mark.parametrize("labels", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_too_few_rows_to_cut_select_from_are_told(labels: list[str]) -> None:
    train = from_rows(labels)
    message = told(lambda: in_memory(train, train, label_names=("a", "b", "c")))
    assert f"with {len(labels)} rows, no class has two, so none can be kept for selection" in message


def test_report_on_the_train_rows_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="report is the split 'train', as train: its scores say nothing about unseen"):
        splits_from_datasets(text_task(report="train"), reviews(20), reviews(20), Data())


# --- sources


def test_a_hub_layout_folder_a_file_a_pattern_and_csv_give_the_same_rows(tmp_path: Path) -> None:
    train, report = reviews(40), reviews(10, first=900)
    folder = hub_folder(tmp_path / "hub", main={"train": train, "validation": report})
    (tmp_path / "csv").mkdir()
    for name, rows in (("train", train), ("dev", report)):
        rows.to_csv(tmp_path / "csv" / f"{name}.csv")
    tasks = [
        text_task(folder, config="main"),
        text_task(folder / "main", train="train-*.parquet", report="validation-*.parquet"),
        text_task(folder / "main" / "train-*.parquet", report="validation-00000-of-00001.parquet"),
        text_task(folder, train="main/train-*.parquet", report=str(folder / "main" / "validation-*.parquet")),
        text_task(tmp_path / "csv", train="train.csv", report="dev.csv", label_names=NAMES),
        text_task(tmp_path / "csv" / "train.csv", report="dev.csv", label_names=NAMES),
    ]
    prints = {
        (s.train.fingerprint, s.select.fingerprint, s.report.fingerprint)
        for s in (load_splits(t, Data()) for t in tasks)
    }
    assert len(prints) == 1
    assert load_splits(tasks[0], Data()).train.source == f"{folder}:main:train"


def test_rows_of_several_files_come_in_the_order_of_the_files_names(tmp_path: Path) -> None:
    for part in (2, 0, 1):
        reviews(5, first=5 * part).to_parquet(tmp_path / f"part-{part}.parquet")
    rows = load_dataset_split(text_task(tmp_path / "part-*.parquet"), "train")
    assert rows["text"][:] == reviews(15)["text"][:]


def test_only_an_empty_cell_of_a_csv_is_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\nNA,null\nNone,nan\nnull,null\nn/a,nan\n")
    splits = load_splits(text_task(tmp_path / "t.csv", report="t.csv"), Data())
    assert splits.report.rows["text"][:] == ["NA", "None", "null", "n/a"]
    assert splits.label_names == ("nan", "null")
    (tmp_path / "t.csv").write_text("text,label\na,x\n,y\n")
    message = told(lambda: load_splits(text_task(tmp_path / "t.csv", report="t.csv"), Data()))
    assert "row 1 has no text in column 'text' (1 of 2 rows)" in message


def test_of_a_single_file_a_named_report_is_told_to_be_missing(tmp_path: Path) -> None:
    reviews(9).to_parquet(tmp_path / "t.parquet")
    message = told(lambda: load_splits(text_task(tmp_path / "t.parquet", report="test"), Data()))
    assert "t.parquet is the split 'train' and no other, but 'test' is asked for" in message
    assert "such as `report: validation.csv`" in message


@pytest.mark.parametrize("place", ["t.csv", "t.csv in its folder", "folder", "hub"])
def test_of_rows_without_another_split_report_and_select_are_cut_stratified_and_said(
    place: str, tmp_path: Path
) -> None:
    rows = from_rows(["a"] * 80 + ["b"] * 20)
    if place == "hub":
        task = text_task(hub_folder(tmp_path / "hub", main={"train": rows}))
    else:
        (tmp_path / "rows").mkdir()
        rows.to_csv(tmp_path / "rows" / ("t.csv" if place.startswith("t.csv") else "train.csv"))
        at = tmp_path / "rows" / "t.csv" if place == "t.csv" else tmp_path / "rows"
        task = text_task(at, **({"train": "t.csv"} if place == "t.csv in its folder" else {}))
    data = Data(select_minimum=10, select_fraction=0.1)
    with pytest.warns(DataWarning, match=r"no other rows for the report, so 20 of its 100 rows are cut") as caught:
        splits = load_splits(task, data)
    assert len(caught) == 1
    parts = (splits.train, splits.select, splits.report)
    assert [np.bincount(part.labels).tolist() for part in parts] == [[56, 14], [8, 2], [16, 4]]
    assert sorted(np.concatenate([part.row_ids for part in parts])) == list(range(100))
    assert splits.report.rows["text"][0] == f"text {splits.report.row_ids[0]}"
    with pytest.warns(DataWarning, match="cut"):
        assert load_splits(task, data).report.fingerprint == splits.report.fingerprint
    with pytest.warns(DataWarning, match=r"40 of its 100 rows are cut .*data\.report_fraction: 0\.4"):
        assert len(load_splits(task, data.model_copy(update={"report_fraction": 0.4})).report) == 40


def test_too_few_rows_to_cut_a_report_from_are_told(tmp_path: Path) -> None:
    from_rows(["a", "b"]).to_csv(tmp_path / "t.csv")
    message = told(lambda: load_splits(text_task(tmp_path / "t.csv"), Data()))
    assert "no other rows for the report, and of 2 none can be spared" in message


# --- select


def test_select_may_be_a_split_or_a_file_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, first in (("train", 0), ("dev", 100), ("test", 200)):
        reviews(20, first=first).to_csv(folder / f"{name}.csv")
    for names in ({"select": "dev.csv", "report": "test.csv", "train": "train.csv"}, {"select": "validation"}):
        task = text_task(folder, label_names=NAMES, **{"report": "test", **names})
        splits = load_splits(task, Data(report_rows=6))
        assert (len(splits.train), len(splits.select), len(splits.report)) == (20, 20, 6)
        assert splits.select.role == "select"
        assert splits.select.rows["text"][0] == "review number 100"
        assert splits.select.source.endswith(names["select"])


def test_select_may_be_a_share_of_report() -> None:
    report = from_rows(["a"] * 40 + ["b"] * 10)
    splits = in_memory(from_rows(["a", "b"] * 10), report, select=0.4)
    assert len(splits.train) == 20
    assert np.bincount(splits.select.labels).tolist() == [16, 4]
    assert np.bincount(splits.report.labels).tolist() == [24, 6]
    assert sorted([*splits.select.row_ids, *splits.report.row_ids]) == list(range(50))
    assert splits.select.source == splits.report.source == "reviews:validation"
    few = in_memory(from_rows(["a", "b"] * 10), report, select=0.4, data=Data(report_rows=10))
    assert few.select.fingerprint == splits.select.fingerprint
    assert set(few.report.row_ids) < set(splits.report.row_ids)


def test_report_alone_is_read_as_with_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("train", "validation"):
        reviews(20).to_parquet(folder / f"{name}.parquet")
    for select in (None, 0.5):
        task, data = text_task(folder, select=select), Data(report_rows=5)
        alone = load_report(task, data)
        assert alone is not None
        assert alone.fingerprint == load_splits(task, data).report.fingerprint
    (folder / "validation.parquet").unlink()
    assert load_report(text_task(folder), Data()) is None


@pytest.mark.parametrize("select", [0.0, 1.0, -0.5, 2.0])
def test_a_share_that_is_none_is_refused(select: float) -> None:
    with pytest.raises(ValueError, match="is no share of report"):
        text_task(select=select)


@pytest.mark.parametrize(("select", "role"), [("train", "trained"), ("validation", "reported")])
def test_select_is_none_of_the_other_splits(select: str, role: str) -> None:
    with pytest.raises(ValueError, match=f"'{select}' is {role} on"):
        text_task(select=select)


def test_what_came_later_is_in_no_record_of_a_task_that_does_without() -> None:
    assert "select" not in text_task().model_dump()
    assert text_task(select=0.5).model_dump()["select"] == 0.5
    assert "report_fraction" not in Data().model_dump(mode="json")
    assert Data(report_fraction=0.3).model_dump()["report_fraction"] == 0.3


def test_a_missing_path_config_split_or_file_is_told(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", one={"train": reviews(9)}, two={"train": reviews(9)})
    none = tmp_path / "none"
    assert f"no such folder or file: {none}. Correct `path`" in told(lambda: load_splits(text_task(none), Data()))
    assert "no such folder or file: ~" not in told(lambda: load_splits(text_task("~/no/such/folder"), Data()))
    missing = told(lambda: load_splits(text_task(folder), Data()))
    assert "Please pick one among the available configs: ['one', 'two'] Set `config`" in missing
    other = told(lambda: load_splits(text_task(folder, config="three"), Data()))
    assert "'three' not found. Available: ['one', 'two'] Set `config`" in other
    split = told(lambda: load_splits(text_task(folder, config="one", report="test"), Data()))
    assert f"{folder}:one:test: no split 'test'; there are: train. Name one of them as" in split
    files = told(lambda: load_splits(text_task(folder, train="one/trian-*.parquet"), Data()))
    assert f"no file matches {folder}/one/trian-*.parquet. Correct `path`, `train` or `report`" in files


def test_a_folder_without_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "doesn't contain any data files" in told(lambda: load_splits(text_task(tmp_path / "empty"), Data()))


def test_a_truncated_or_corrupt_parquet_file_is_named(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", main={"train": reviews(2000), "validation": reviews(9)})
    damaged = folder / "main" / "train-00000-of-00001.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    for task in (text_task(folder, config="main"), text_task(damaged, report=damaged.name)):
        message = told(lambda task=task: load_splits(task, Data()))
        assert f"{damaged} is truncated or not a parquet file" in message
        assert message.endswith("Fetch or write it again.")
    damaged.write_bytes(whole[:1000] + bytes(1500) + whole[2500:])
    message = told(lambda: load_splits(text_task(damaged, report=damaged.name), Data()))
    assert f"the rows in {damaged} cannot be read" in message


def test_of_several_spellings_of_a_label_the_commonest_is_its_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    labels = ["Neg", "pos", "neg", "Pos", "neg ", "neg", "pos", "pos"] * 4
    path.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # says that there are several
        splits = load_splits(text_task(path, report="t.csv"), Data())
    assert splits.label_names == ("neg", "pos")


def test_a_csv_file_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text, why in (
        ("", "No columns to parse"),
        (
            "text,label\na,1\nb,2,3\n",
            "line 3 has 3 fields; expected 2. Put quotes around fields that hold the delimiter.",
        ),
        ('text,label\na,1\n"b,2\nc,3\n', "a quote in row 2 after the header is never closed."),
    ):
        path.write_text(text)
        message = told(lambda: load_splits(text_task(path, report="t.csv"), Data()))
        assert f"the rows in {path} cannot be read" in message
        assert why in message


def test_an_empty_split_is_told_and_does_not_keep_others_from_being_read(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", main={"train": reviews(20), "test": reviews(0), "validation": reviews(9)})
    task = text_task(folder, config="main")
    assert len(load_splits(task, Data()).report) == 9
    empty = told(lambda: load_splits(text_task(folder, config="main", report="test"), Data()))
    assert empty == f"{folder}:main:test: the split has no rows."
    missing = told(lambda: load_splits(text_task(folder, config="main", report="tset"), Data()))
    assert 'Unknown split "tset". Should be one of' in missing
    (tmp_path / "t.csv").write_text("text,label\n")
    assert told(lambda: load_dataset_split(text_task(tmp_path / "t.csv"), "train")).endswith("the split has no rows.")


def test_no_network_is_told_at_once_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it waits {seconds} s before it tries again"))
    message = told(lambda: load_splits(text_task("org/no-such-reviews"), Data()))
    assert "there is no local folder 'org/no-such-reviews', the data set is not in the cache" in message
    assert "the Hub cannot be reached (HF_HUB_OFFLINE=1 is set). Go online once to fetch it" in message
    files = told(lambda: load_splits(text_task("org/no-such-reviews", train="data/train.csv"), Data()))
    assert "the Hub cannot be reached" in files


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews(9).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "file").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "file" / "cache"))
    message = told(lambda: load_dataset_split(text_task(tmp_path / "t.parquet"), "train"))
    assert "cannot be read (NotADirectoryError" in message
    assert "cache" in message


def test_loading_is_quiet_and_leaves_the_settings_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reviews(9).to_parquet(tmp_path / "t.parquet")
    capfd.readouterr()
    before = are_progress_bars_disabled(), logging.get_verbosity()
    load_splits(text_task(tmp_path / "t.parquet", report="t.parquet"), Data())
    (tmp_path / "t.parquet").write_bytes(b"nothing")
    told(lambda: load_dataset_split(text_task(tmp_path / "t.parquet"), "train"))
    assert (are_progress_bars_disabled(), logging.get_verbosity()) == before
    assert capfd.readouterr() == ("", "")


# --- images


def picture(value: int, side: int = 8) -> Pictures.Image:
    return Pictures.fromarray(np.full((side, side, 3), value, dtype=np.uint8))


def image_task(path: str | Path = "pictures", **fields: Any) -> Task:
    return Task(**{"kind": "image", "path": str(path), "image": "image", **fields})


def image_folder(folder: Path, per_class: int = 6) -> Path:
    for split in ("train", "validation"):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                picture(40 * label + i).save(folder / split / name / f"{i}.png")
    return folder


def images_in_memory(count: int = 12, first: int = 0) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    rows = {"image": [picture(first + i) for i in range(count)], "label": [i % 2 for i in range(count)]}
    return Dataset.from_dict(rows, features=features)


def test_an_imagefolder_has_its_folders_as_splits_and_classes(tmp_path: Path) -> None:
    splits = load_splits(image_task(image_folder(tmp_path / "pets")), Data(select_minimum=4))
    assert splits.label_names == ("cat", "dog")
    assert np.bincount(splits.select.labels).tolist() == [2, 2]
    assert np.bincount(splits.report.labels).tolist() == [6, 6]
    for index in (0, 7):
        value = 40 * int(splits.report.labels[index]) + index % 6
        assert read_image(splits.report, index).getpixel((0, 0)) == (value,) * 3


def test_images_inside_parquet_are_read_in_rgb(tmp_path: Path) -> None:
    rows = {"image": [picture(i).convert("L") for i in range(8)], "label": ["a", "b"] * 4}
    Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("string")})).to_parquet(
        tmp_path / "t.parquet"
    )
    splits = load_splits(image_task(tmp_path / "t.parquet", report="t.parquet"), Data())
    assert read_image(splits.report, 5).mode == "RGB"
    assert read_image(splits.report, 5).getpixel((0, 0)) == (5, 5, 5)


def test_paths_in_a_csv_are_images(tmp_path: Path) -> None:
    for i in range(4):
        picture(i).save(tmp_path / f"{i}.png")
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"{tmp_path}/{i}.png,{'ab'[i % 2]}\n" for i in range(4)))
    splits = load_splits(image_task(tmp_path / "t.csv", report="t.csv"), Data())
    assert read_image(splits.report, 3).getpixel((0, 0)) == (3, 3, 3)
    (tmp_path / "t.csv").write_text("image,label\nnone.png,a\nnone.png,b\n")
    message = told(lambda: load_splits(image_task(tmp_path / "t.csv", report="t.csv"), Data()))
    assert "column 'image' holds text, and row 0 of it ('none.png') is not the path of an image file" in message


def test_a_column_that_holds_no_images_or_gaps_is_told() -> None:
    numbers = Dataset.from_dict({"image": [1, 2] * 6, "label": [0, 1] * 6})
    message = told(lambda: splits_from_datasets(image_task(), numbers, numbers, Data()))
    assert "column 'image' holds Value('int64'), not images. Correct `image`" in message
    features = Features({"image": Image(), "label": Value("int64")})
    gap = Dataset.from_dict({"image": [picture(0), None] * 6, "label": [0, 1] * 6}, features=features)
    message = told(lambda: splits_from_datasets(image_task(), gap, gap, Data()))
    assert "row 1 has no image in column 'image'. Remove the 6 such rows" in message


@pytest.mark.parametrize("damage", [b"", b"no image", "truncated"])
def test_an_image_that_cannot_be_decoded_is_told_by_its_row_and_file(tmp_path: Path, damage: bytes | str) -> None:
    folder = image_folder(tmp_path / "pets")
    broken = folder / "validation" / "dog" / "2.png"  # row 8 of 12
    broken.write_bytes(broken.read_bytes()[:-30] if isinstance(damage, str) else damage)
    report = load_splits(image_task(folder), Data()).report
    read_image(report, 7)
    message = told(lambda: read_image(report, 8))
    assert message.startswith(f"{folder}:validation: the image of row 8 cannot be decoded (file {broken}; ")
    assert "load_dataset(...)[8] after cast_column('image', Image(decode=False)), then replace or remove" in message


def test_an_embedded_image_that_cannot_be_decoded_is_told_by_its_row_in_the_source() -> None:
    broken = Dataset.from_dict({"image": [{"bytes": b"1234", "path": None}] * 12, "label": [0, 1] * 6})
    train = broken.cast_column("image", Image())
    split = splits_from_datasets(image_task(), train, train, Data()).train
    message = told(lambda: read_image(split, 2))
    assert (
        f"pictures:train: the image of row {split.row_ids[2]} cannot be decoded (4 bytes inside the data set" in message
    )


def test_a_split_without_images_has_none_to_read() -> None:
    assert "has no image column, only text, label" in told(lambda: read_image(in_memory(reviews(20)).train, 0))


# --- fingerprints


def test_a_fingerprint_follows_content_and_nothing_else(tmp_path: Path) -> None:
    def printed(rows: Dataset, **fields: Any) -> str:
        return in_memory(reviews(20), rows, **fields).report.fingerprint

    ten = printed(reviews(10))
    assert ten == printed(reviews(12).select(range(10)))  # an index mapping, not a copy
    assert ten == printed(reviews(10), path="another/name")
    changed = reviews(10).to_list()
    changed[4]["text"] += "!"  # neither the first nor the last row
    differing = [
        printed(reviews(9)),
        printed(reviews(10, first=1)),
        printed(reviews(10, labels=[0] * 10)),
        printed(Dataset.from_list(changed, features=reviews(1).features)),
        printed(reviews(10), label_names=("positive", "negative")),
    ]
    assert len({ten, *differing}) == 6


def test_an_images_fingerprint_follows_the_files_content_not_their_place(tmp_path: Path) -> None:
    folders = [image_folder(tmp_path / name) for name in ("a", "b", "c")]
    picture(200).save(folders[2] / "validation" / "dog" / "2.png")
    prints = [load_splits(image_task(folder), Data()).report.fingerprint for folder in folders]
    assert prints[0] == prints[1] != prints[2]
    assert "/" not in prints[0]


def test_take_keeps_ids_labels_and_rows_together() -> None:
    split = in_memory(reviews(100)).train
    some = split.take([5, 3])
    assert isinstance(some, Split)
    assert some.row_ids.tolist() == split.row_ids[[5, 3]].tolist()
    assert some.rows["text"][:] == [f"review number {i}" for i in some.row_ids]
    assert some.labels.tolist() == (some.row_ids % 2).tolist()
    assert some.fingerprint != split.fingerprint
    assert split.take(range(len(split))).fingerprint == split.fingerprint


def test_a_split_is_printed_in_one_line() -> None:
    assert repr(in_memory(reviews(20)).train).startswith("Split(train: 10 rows of reviews:train, fingerprint ")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_pipe_in_the_place_of_a_table_is_refused_at_once(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"rows\.{ending}.*(not a regular file|not a parquet file)"):
        load_splits(Task(kind="text", path=str(path), text=["text"], report=str(path)), Data())


def test_a_new_kind_of_source_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    made = DataSource(
        lambda task, split_name: task.path.startswith("made:"),
        lambda task, split_name, where: reviews(int(task.path.removeprefix("made:")), first=len(split_name)),
    )
    monkeypatch.setattr("hf_soups.data.sources.SOURCES", [made, *SOURCES])
    splits = load_splits(text_task("made:40"), Data(select_minimum=10))
    assert (len(splits.train), len(splits.select), len(splits.report)) == (30, 10, 40)
    assert splits.report.source == "made:40:validation"
    assert splits.report.rows["text"][0] == f"review number {len('validation')}"


def test_a_new_kind_of_file_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, ".jsonl", ("json", {}))
    for name in ("train", "report"):
        reviews(20).to_json(tmp_path / f"{name}.jsonl")
    task = text_task(tmp_path, train="train.jsonl", report="report.jsonl", label_names=NAMES)
    assert len(load_splits(task, Data()).report) == 20


def test_a_report_that_a_recipe_names_is_not_cut_from_train_when_it_is_gone(tmp_path: Path) -> None:
    """A sweep keeps its recipe as it was given: rows that it trained on must not become its report in silence."""
    rows = Dataset.from_dict({"text": [f"row {i}" for i in range(40)], "label": [i % 2 for i in range(40)]})
    (tmp_path / "rows").mkdir()
    rows.to_csv(tmp_path / "rows/train.csv")
    given = {"kind": "text", "path": str(tmp_path / "rows"), "text": "text"}
    unnamed, named = Task(**given), Task(**given, report="validation")
    with pytest.warns(DataWarning, match="cut from it"):
        load_splits(unnamed, Data(select_minimum=4))
    for task in (named, Task(**named.model_dump())):
        with pytest.raises(DataError, match="validation"):
            load_splits(task, Data(select_minimum=4))
    assert "report" not in unnamed.model_dump()
    with pytest.warns(DataWarning, match="cut from it"):
        load_splits(Task(**unnamed.model_dump()), Data(select_minimum=4))
