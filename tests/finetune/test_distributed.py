"""One process and several give the same weights and the same predictions: real processes, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import load_splits
from hf_soups.finetune import finetune
from hf_soups.finetune.run_record import read_run
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe
from tests.makers.patience import PATIENCE
from tests.makers.small_task import image_recipe, text_recipe, write_texts
from tests.makers.tiny import tiny_bert, tiny_resnet, tiny_vit

pytestmark = pytest.mark.slow

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def launched(recipe: Recipe, out: Path, processes: int) -> subprocess.CompletedProcess[str]:
    path = out.with_name(f"{out.name}.yaml")
    path.write_text(recipe.model_dump_json(exclude_none=True))  # JSON is YAML
    return torchrun(processes, "-m", "hf_soups.finetune", str(path), "--out", str(out))


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def same_runs(recipe: Recipe, folder: Path, processes: int) -> None:
    """One process here, several there: equal up to the order in which float32 numbers are added."""
    alone = finetune(recipe, folder / "alone", progress=False)
    done = launched(recipe, folder / "together", processes)
    assert done.returncode == 0, done.stderr
    assert f"processes: {processes}" in done.stdout
    assert done.stdout.count("processes:") == 1  # one process speaks
    one, several = read_run(alone), read_run(folder / "together")
    assert (one.processes, several.processes) == (1, processes)
    assert one.head_fingerprint == several.head_fingerprint
    assert one.steps == several.steps
    np.testing.assert_allclose([p["loss"] for p in several.history], [p["loss"] for p in one.history], rtol=1e-4)
    same_weights(alone, folder / "together", Path(recipe.model))
    for role in ("select", "report"):
        p, q = (Predictions.load(run / "predictions" / f"{role}.safetensors") for run in (alone, folder / "together"))
        np.testing.assert_array_equal(p.row_ids, q.row_ids)
        np.testing.assert_array_equal(p.labels, q.labels)  # type: ignore[arg-type]
        np.testing.assert_allclose(p.log_probs, q.log_probs, atol=1e-4, rtol=1e-4)


def same_weights(alone: Path, together: Path, start: Path) -> None:
    one, several, before = Checkpoint(alone), Checkpoint(together), Checkpoint(start)
    moved = 0.0
    for name, info in one.tensors.items():
        if name.endswith("key.bias"):
            continue  # softmax does not see it: its gradient is rounding alone, which AdamW makes as large as any
        a, b = one.read(name), several.read(name)
        np.testing.assert_allclose(b, a, atol=2e-5, err_msg=name)
        if name in before.tensors and before.tensors[name].shape == info.shape:
            moved = max(moved, float(np.abs(a - before.read(name)).max()))
    assert moved > 1e-3  # fifty times the tolerance: the run did something


@pytest.mark.parametrize("processes", [2, 3])
def test_texts_with_uneven_batches_and_a_last_batch_of_one_row(tmp_path: Path, processes: int) -> None:
    write_texts(tmp_path, train=113, report=41)
    recipe = text_recipe(
        tmp_path,
        tiny_bert(tmp_path / "model", **NO_DROPOUT),
        train={"learning_rate": 3e-4, "batch_size": 8, "epochs": 2, "gradient_accumulation": 2, "clip_norm": 0.5,
               "group_by_length": True, "label_smoothing": 0.1, "eval_batch_size": 16, "keep": "best"},
        head={"init": "linear-probe"},
    )  # fmt: skip
    same_runs(recipe, tmp_path, processes)
    assert read_run(tmp_path / "alone").train_rows % 8 == 1


@pytest.mark.parametrize("build", [tiny_vit, tiny_resnet])
def test_images_with_augmentation_mixup_and_batchnorm(tmp_path: Path, build: Any) -> None:
    recipe = image_recipe(
        tmp_path,
        build(tmp_path / "model"),
        train={"learning_rate": 3e-4, "batch_size": 9, "epochs": 2, "mixup": 0.3, "horizontal_flip": 0.5,
               "random_crop": 0.1, "randaugment_operations": 1},
        head={"init": "linear-probe"},
    )  # fmt: skip
    same_runs(recipe, tmp_path, 2)


def test_a_process_without_rows_to_predict(tmp_path: Path) -> None:
    """41 report rows in one batch: one process answers them, the other has none."""
    recipe = text_recipe(tmp_path, tiny_bert(tmp_path / "model"), train={"eval_batch_size": 1000})
    done = launched(recipe, tmp_path / "run", 2)
    assert done.returncode == 0, done.stderr
    p = Predictions.load(tmp_path / "run" / "predictions" / "report.safetensors")
    report = load_splits(recipe.task, recipe.data).report
    np.testing.assert_array_equal(p.row_ids, report.row_ids)
    assert float((p.answers == report.labels).mean()) > 0.8


def test_a_failure_of_all_processes_is_recorded_once_and_told_once(tmp_path: Path) -> None:
    recipe = text_recipe(
        tmp_path, tiny_bert(tmp_path / "model"), train={"learning_rate": 1e38, "clip_norm": 0, "warmup_ratio": 0}
    )
    done = launched(recipe, tmp_path / "run", 2)
    assert done.returncode == 1
    assert done.stderr.count("hf_soups.finetune: the run failed (nan-loss)") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    assert read_run(tmp_path / "run").status == "nan-loss"


def test_wrong_input_is_told_once(tmp_path: Path) -> None:
    recipe = text_recipe(tmp_path, tmp_path / "no-such-model")
    done = launched(recipe, tmp_path / "run", 2)
    assert done.returncode != 0
    assert done.stderr.count("hf_soups.finetune: ") == 1
    assert "no such folder" in done.stderr
    assert not (tmp_path / "run").exists()


def test_bf16_runs_on_two_processes(tmp_path: Path) -> None:
    recipe = text_recipe(tmp_path, tiny_bert(tmp_path / "model"), train={"precision": "bf16"})
    done = launched(recipe, tmp_path / "run", 2)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "run").scores["report"]["accuracy"] > 0.8


def test_a_process_that_fails_by_itself_says_why_in_the_record(tmp_path: Path) -> None:
    """The second process runs out of memory, the first only sees that it is gone."""
    recipe = text_recipe(tmp_path, tiny_bert(tmp_path / "model"))
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json(exclude_none=True))
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from hf_soups.finetune import run\n"
        "from hf_soups.finetune.command import main\n"
        "def fail(*_, **__):\n"
        "    raise MemoryError\n"
        "if os.environ['RANK'] == '1':\n"
        "    run.train_model = fail\n"
        f"sys.exit(main(['{tmp_path}/recipe.yaml', '--out', '{tmp_path}/run']))\n"
    )
    done = torchrun(2, str(script))
    assert done.returncode == 1
    record = read_run(tmp_path / "run")
    assert (record.status, [path.name for path in (tmp_path / "run").iterdir()]) == ("out-of-memory", ["run.json"])
    assert "out of memory (MemoryError). Lower batch_size" in record.reason
