"""The example that trains a small T5: an ordinary checkpoint, rows kept apart, and a recipe that takes both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from tests.real.commands import ROOT, hf_soups

pytestmark = pytest.mark.real
PROMPT = "sst2 sentence: {sentence}"


def example(shared: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/small_t5.py", str(shared / "data/glue"), "--config", "sst2"]
    command += ["--prompt", PROMPT, "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def small(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, cut down: too short to learn the task, long enough to learn to write its words."""
    out = tmp_path_factory.mktemp("t5") / "small-t5"
    done = example(shared, out, "--rows", "3000", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "2400 rows seen, 600 train and 872 test rows kept apart" in done.stdout
    return out


def test_it_is_an_ordinary_t5_that_writes_the_words_of_the_labels(small: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(small / "model")
    tokenizer = AutoTokenizer.from_pretrained(small / "model")
    asked = tokenizer([PROMPT.format(sentence=text) for text in ("a fine film", "a dull one")], return_tensors="pt",
                      padding=True)  # fmt: skip
    written = tokenizer.batch_decode(model.generate(**asked, max_new_tokens=4), skip_special_tokens=True)
    assert set(written) <= {"negative", "positive"}
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(tokenizer) - 1  # as in T5's own vocabulary


def test_the_rows_that_were_kept_apart_are_rows_of_train(small: Path, shared: Path) -> None:
    kept = load_dataset("parquet", data_files=str(small / "data/train.parquet"), split="train")
    train = load_dataset(str(shared / "data/glue"), "sst2", split="train").shuffle(seed=0)
    assert kept["sentence"][:] == train[2400:3000]["sentence"]


def test_the_recipe_of_the_study_takes_both(small: Path) -> None:
    said = hf_soups(
        "sweep", "recipes/studies/glue-soups/small-t5.yaml", "--out", str(small / "runs"), "--dry-run",
        "--set", f"task.path={small / 'data'}", "--set", f"model={small / 'model'}", "--set", "data.select_minimum=100",
    )  # fmt: skip
    assert "500 train, 100 select, 872 report" in said


def test_too_few_rows_for_a_batch_are_refused(shared: Path, tmp_path: Path) -> None:
    done = example(shared, tmp_path / "out", "--rows", "50")
    assert done.returncode == 2
    assert "50 train rows: at least 81 make one batch" in done.stderr
