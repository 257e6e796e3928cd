"""YAML that would cost too much, or says a thing twice, is refused at once, in one line that names the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.data import load_splits
from hf_soups.errors import DataError, InputError, RecipeError
from hf_soups.files.plain_yaml import LARGEST, check_front_matter, parse_yaml, read_yaml
from hf_soups.finetune.command import parse
from hf_soups.recipe import Data, load_recipe
from hf_soups.recipe.task import Task
from hf_soups.sweep.plan import make_plan

LEAST = "task: glue/rte\nmodel: m\n"
TEN = range(10)
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in TEN)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k: {i}}}\n" for i in range(1, 40))
GRID = "sweep:\n  method: grid\n  space:\n" + "".join(
    f"    {key}: {{choice: {list(range(1, 11))}}}\n"
    for key in (
        "epochs", "batch_size", "seed", "max_steps", "gradient_accumulation", "randaugment_operations",
        "eval_batch_size", "learning_rate", "weight_decay", "clip_norm",
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"aliases that stand for 111,111 values; at most 100,000 are read, line 7"),
        (MERGES, r"aliases that stand for [\d,]+ values; at most 100,000 are read"),
        ("data: " + "[" * 50_000, r"more than 32 mappings and lists inside one another, line 3"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 500)), r"more than 32 mappings"),
        ("data: &d {seed: *d}", r"a value that contains itself, line 3"),
        ("model: n", r"the key 'model' is given twice, line 3"),
        ("train:\n  epochs: 1\n  seed: 2\n  epochs: 3", r"the key 'epochs' is given twice, line 6"),
        ("task: {name: glue/rte, shifts: {a: {split: b, split: c}}}", "the key 'task' is given twice, line 3"),
        ("train: {seed: " + "9" * 6000 + "}", r"a number or date of 6,000 characters, line 3"),
        ("train: {seed: " + ":".join("1" * 3000) + "}", r"a number or date of 5,999 characters, line 3"),
        ("revision: 2024-99-99", r"month must be in 1\.\.12"),
        ("name: a\0b", "unacceptable character #x0000"),
        ("name: '\\ud800'".replace("'", '"'), "surrogates not allowed"),
        ("? [a]\n: b", "a key that is a list or mapping, line 3"),
        ("---\nb: 2", "expected a single document in the stream, but found another document"),
    ],
    ids=lambda value: value[:20],
)
def test_a_recipe_that_is_no_plain_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(LEAST + text)
    with pytest.raises(RecipeError, match=rf"^{path}: not valid YAML: .*{message}") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: {runs: 1000000000000}", r"`sweep.runs`: .*less than or equal to 10000 \(got 1000000000000\)"),
        (GRID, "`sweep`: a grid of 10,000,000,000 combinations; a sweep has at most 10,000 runs"),
        ("sweep: {space: {epochs: {choice: [" + "1, " * 2000 + "]}}}", "takes 1,000; got 2,000"),
        ("train: {epochs: true}", r"`train.epochs`: expected a number, got True \(YAML reads yes"),
        ("train: {learning_rate: yes}", "`train.learning_rate`: expected a number, got True"),
        ("train: {max_steps: on}", "`train.max_steps`: expected a number, got True"),
        ("data: {seed: off}", "`data.seed`: expected a number, got False"),
        ("sweep: {space: {epochs: {integer: [false, 3]}}}", "expected a number, got .False, 3."),
        ("sweep: {space: {epochs: {uniform: [.nan, 3]}}}", "Input should be a finite number"),
        ("train: {learning_rate: .nan}", "`train.learning_rate`: Input should be a finite number"),
        ("train: {epochs: inf}", "`train.epochs`: Input should be a finite number"),
        ("train: {weight_decay: 1.0e+400}", "`train.weight_decay`: Input should be a finite number"),
        ("train: {seed: 18446744073709551616}", "`train.seed`: .*less than or equal to 4294967295"),
        ("data: {image_size: 1000000000}", "`data.image_size`: .*less than or equal to 4096"),
        ("".join(f"k{i}: 1\n" for i in range(500)), "unknown key `k0`.*; and 490 more$"),
        ("name: " + repr(["x" * 100_000]), r"`name`: Input should be a valid string \(got .{,210}\)$"),
    ],
    ids=lambda value: value[:20],
)
def test_a_recipe_with_absurd_values_is_refused_before_anything_is_built(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(LEAST + text)
    with pytest.raises(RecipeError, match=rf"^{path}: .*{message}"):
        load_recipe(path)


def test_a_truth_value_among_choices_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(LEAST + "sweep: {space: {epochs: {choice: [1, yes]}}}")
    with pytest.raises(RecipeError, match="expected a number, got True"):
        make_plan(load_recipe(tmp_path / "r.yaml"))


def test_a_truth_value_is_one_where_one_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(LEAST + "train: {group_by_length: yes}")
    assert load_recipe(tmp_path / "r.yaml").train.group_by_length


@pytest.mark.parametrize("command", ["sweep", "finetune"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("train.epochs=true", "expected a number, got True"),
        ("train.learning_rate=.inf", "finite number"),
        ("sweep.runs=1000000000000", "less than or equal to 10000"),
        ("train.epochs=[1", "not valid YAML"),
        ("train.seed=" + "9" * 5000, "a number or date of 5,000 characters"),
    ],
)
def test_overrides_on_the_command_line_are_held_to_the_same(
    tmp_path: Path, command: str, value: str, message: str
) -> None:
    (tmp_path / "r.yaml").write_text(LEAST)
    key, _, text = value.partition("=")
    if command == "finetune" and not key.startswith("sweep"):
        with pytest.raises(InputError, match=message):
            load_recipe(tmp_path / "r.yaml", parse([str(tmp_path / "r.yaml"), f"--{key}", text]).values)
    else:
        done = CliRunner().invoke(app, ["sweep", str(tmp_path / "r.yaml"), "--set", value, "--out", str(tmp_path)])
        assert isinstance(done.exception, InputError)
        assert message in str(done.exception)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a pipe, socket or device, not a regular file"),
        ({}, "a folder, not a regular file"),
        (b"task: caf\xe9", "'utf-8' codec can't decode byte 0xe9"),
        (LEAST.encode("utf-16"), "'utf-8' codec can't decode byte 0xff"),
        (b"name: " + b"x" * LARGEST, "more than 1,048,576 bytes"),
        (b"", "a recipe is a YAML mapping with at least `task` and `model`"),
        (b"null", "a recipe is a YAML mapping"),
        (b"- task", "a recipe is a YAML mapping"),
        (b"task", "a recipe is a YAML mapping"),
    ],
    ids=["pipe", "folder", "latin", "utf-16", "huge", "empty", "null", "list", "text"],
)
def test_what_is_no_file_of_text_or_no_mapping_is_named(
    tmp_path: Path, content: bytes | Mapping[str, Any] | None, message: str
) -> None:
    path = tmp_path / "r.yaml"
    if content is None:
        os.mkfifo(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.mkdir()
    with pytest.raises(RecipeError, match=rf"^{path}: .*{message}"):
        load_recipe(path)


def test_the_front_matter_of_a_data_folder_is_read_within_the_same_bounds(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "a,0\nb,1\n" * 20)
    configs = "configs: *j\ndataset_info: {features: *j}\n"  # `datasets` itself follows them all
    (tmp_path / "README.md").write_text(f"---\n{LAUGHS}{configs}---\n# Reviews\n")
    with pytest.raises(DataError, match=rf"^{tmp_path / 'README.md'}: not valid YAML: aliases that stand for"):
        load_splits(Task(kind="text", path=str(tmp_path), text=("text",)), Data())


def test_front_matter_ends_where_it_ends(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\na: 1\n---\na: [\n" + "x" * LARGEST)
    check_front_matter(card)
    card.write_text("---\na: " + "x" * LARGEST + "\n---\n")
    with pytest.raises(InputError, match="its metadata do not end within 1,048,576 bytes"):
        check_front_matter(card)
    card.write_text("# no metadata\n---\n")
    check_front_matter(card)


ORDINARY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


@given(ORDINARY)
def test_what_is_within_the_bounds_is_read_as_yaml_reads_it(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text, "it") == yaml.safe_load(text)


def test_a_merge_is_no_second_key(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("a: &a {k: 1, l: 2}\nb: {<<: *a, k: 3}\n")
    assert read_yaml(tmp_path / "m.yaml")["b"] == {"k": 3, "l": 2}
