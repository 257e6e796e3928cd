"""Tables as people have them: every ending, delimiter, encoding and compression gives the same rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_soups.data import load_dataset_split, load_splits
from hf_soups.errors import DataError, DataWarning
from hf_soups.recipe import Data
from hf_soups.recipe.task import Task

ROWS = [
    ('the "good" dog; happy, very', "pos"),
    ("café, crème", "neg"),
    ("NA", "pos"),
    ("two\twords", "neg"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def task(path: Path, **fields: Any) -> Task:
    return Task(**{"kind": "text", "path": str(path), "text": ["text"], **fields})


def delimited(mark: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, lineterminator="\n")
    writer.writerows([("text", "label"), *ROWS])
    return out.getvalue()


def lines() -> str:
    return "".join(json.dumps({"text": t, "label": y}, ensure_ascii=False) + "\n" for t, y in ROWS)


def records(**around: Any) -> str:
    rows = [{"text": t, "label": y} for t, y in ROWS]
    return json.dumps({**around, "data": rows} if around else rows, ensure_ascii=False)


FILES: dict[str, bytes] = {
    "comma.csv": delimited(",").encode(),
    "semicolon.csv": delimited(";").encode(),
    "tab.csv": delimited("\t").encode(),
    "pipe.csv": delimited("|").encode(),
    "tab.tsv": delimited("\t").encode(),
    "comma.tsv": delimited(",").encode(),
    "tab.txt": delimited("\t").encode(),
    "UPPER.CSV": delimited(",").encode(),
    "windows.csv": delimited(",").replace("\n", "\r\n").encode(),
    "blanks.csv": delimited(",").replace(",pos", ", pos").replace(",neg", ", neg").replace("t,l", "t, l").encode(),
    "marked.csv": delimited(";").encode("utf-8-sig"),
    "wide.csv": delimited(",").encode("utf-16"),
    "lines.jsonl": lines().encode(),
    "lines.ndjson": lines().encode(),
    "lines.json": lines().encode(),
    "records.json": records().encode(),
    "inside.json": records(version="1.0").encode(),
    "marked.jsonl": lines().encode("utf-8-sig"),
    "wide.jsonl": lines().encode("utf-16"),
    "small.csv.gz": gzip.compress(delimited(",").encode()),
    "small.tsv.gz": gzip.compress(delimited("\t").encode()),
    "small.jsonl.gz": gzip.compress(lines().encode()),
    "small.json.gz": gzip.compress(records().encode()),
    "small.csv.bz2": bz2.compress(delimited(";").encode()),
    "small.csv.xz": lzma.compress(delimited(",").encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    for place, split in ((tmp_path / name, "train"), (tmp_path, name)):
        rows = load_dataset_split(task(place), split)
        assert list(zip(rows["text"][:], rows["label"][:], strict=True)) == ROWS


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".txt")])
def test_every_kind_of_file_in_a_folder_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    ending = name[name.index(".") :]
    for split in ("train", "validation"):
        (tmp_path / f"{split}{ending}").write_bytes(FILES[name])
    (tmp_path / "README.md").write_text("Reviews.\n")
    rows = load_dataset_split(task(tmp_path), "validation")
    assert list(zip(rows["text"][:], rows["label"][:], strict=True)) == ROWS


@pytest.mark.parametrize("name", ["old.csv", "old.tsv", "old.jsonl", "old.csv.gz"])
def test_older_encodings_are_read_with_a_warning(name: str, tmp_path: Path) -> None:
    content = lines() if "json" in name else delimited("\t" if "tsv" in name else ",")
    raw = content.encode("latin-1")
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with pytest.warns(DataWarning, match=rf"{name} is not UTF-8; it is read as cp1252") as caught:
        rows = load_dataset_split(task(tmp_path / name), "train")
    assert list(zip(rows["text"][:], rows["label"][:], strict=True)) == ROWS
    assert len(caught) == 1


def test_files_of_one_split_may_differ(tmp_path: Path) -> None:
    (tmp_path / "part-0.csv").write_bytes(FILES["comma.csv"])
    (tmp_path / "part-1.csv").write_bytes(FILES["semicolon.csv"])
    (tmp_path / "part-2.csv").write_bytes(FILES["wide.csv"])
    rows = load_dataset_split(task(tmp_path / "part-*.csv"), "train")
    assert list(zip(rows["text"][:], rows["label"][:], strict=True)) == 3 * ROWS


def test_quotes_are_signs_where_they_enclose_no_field(tmp_path: Path) -> None:
    (tmp_path / "raw.tsv").write_text('text\tlabel\n"Well," he said\t1\nit is 5" wide\t0\n"no end\t1\n')
    rows = load_dataset_split(task(tmp_path / "raw.tsv"), "train")
    assert rows["text"][:] == ['"Well," he said', 'it is 5" wide', '"no end']


def test_a_json_file_of_columns_is_read_as_pandas_writes_it(tmp_path: Path) -> None:
    texts, labels = [t for t, _ in ROWS], [y for _, y in ROWS]
    for name, whole in (
        ("lists", {"text": texts, "label": labels}),
        ("frame", {"text": dict(enumerate(texts)), "label": dict(enumerate(labels))}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(whole))
        rows = load_dataset_split(task(tmp_path / f"{name}.json"), "train")
        assert list(zip(rows["text"][:], rows["label"][:], strict=True)) == ROWS


def test_a_json_file_of_several_lists_of_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"train": [{"text": "a", "label": 1}], "test": [{"text": "b"}]}))
    assert "several lists of rows (train, test)" in told(lambda: load_dataset_split(task(tmp_path / "t.json"), "train"))


def told(work: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        work()
    return str(caught.value)


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.feather", "rows"])
def test_a_file_of_another_kind_is_refused_with_those_that_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something")
    for place, split in ((tmp_path / name, "train"), (tmp_path, name)):
        message = told(lambda place=place, split=split: load_dataset_split(task(place), split))
        assert f"files that end in {Path(name).suffix or 'nothing'} are not read" in message
        assert ".csv, .tsv" in message


def test_a_missing_column_is_told_with_the_columns_of_the_likeliest_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("review;stars\na;1\nb;0\n")
    message = told(lambda: load_splits(task(tmp_path / "t.csv", report="t.csv"), Data()))
    assert "no column 'text', 'label'; there are: review, stars" in message


def test_reading_ordinary_files_warns_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(FILES["comma.csv"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset_split(task(tmp_path / "t.csv"), "train")
