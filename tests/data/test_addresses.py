"""Rows at an address: this machine's are read, and what cannot be is refused before anything is fetched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.data.addresses import check_address
from hf_soups.data.sources import load_dataset_split
from hf_soups.errors import DataError
from hf_soups.recipe.task import Task


def test_a_file_of_this_machine_is_read_by_its_address(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\ngood,1\n")
    task = Task(kind="text", text=("text",), path=f"file://{tmp_path}/x.csv")
    assert load_dataset_split(task, "train").to_list() == [{"text": "good", "label": 1}]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://x.parquet", "no address of rows. Expected hf://datasets/OWNER/NAME, or parquet files at s3://"),
        ("hf://buckets/a/x.parquet", "no address of rows. Expected hf://datasets/OWNER/NAME"),
        ("https://host.test/x.csv", "at an address only parquet files are read. Give one that ends in .parquet."),
        ("nothing://a/x.parquet", "nothing:// is no kind of address that fsspec knows."),
        ("https://me:secret@host.test/x.parquet", "an address with a password is refused: results keep it."),
    ],
)
def test_what_is_no_address_of_rows_is_refused(address: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as told:
        load_dataset_split(Task(kind="text", text=("text",), path=address), "train")
    assert "secret" not in str(told.value)


def test_a_store_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kind: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(DataError, match=r"s3:// needs a package .* Install s3fs to access S3: pip install"):
        check_address("s3://bucket/x.parquet", "s3://bucket/x.parquet")


@pytest.mark.parametrize("more", [["--answers"], []])
def test_predict_refuses_to_write_to_an_address_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["predict", "model", *more, "--data", "x.parquet", "--out", "s3://bucket/out"])
    assert "s3:/bucket/out: addresses of object stores are not supported as --out" in str(done.exception)
    assert not list(tmp_path.iterdir())
