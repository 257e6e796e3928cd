"""One fine-tune as a user runs it: what the run folder holds, and what every way of failing leaves behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import load_splits
from hf_soups.errors import CheckpointError, HfSoupsError, InputError, RecipeError, RunFailed
from hf_soups.finetune import default_out, finetune, run
from hf_soups.finetune.command import main, parse
from hf_soups.finetune.run import check_classes, failure_of
from hf_soups.finetune.run_record import read_run
from hf_soups.finetune.start import make_start
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe
from tests.makers.patience import PATIENCE
from tests.makers.small_task import image_recipe, text_recipe
from tests.makers.tiny import tiny_bert, tiny_resnet, tiny_vit


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a model, and a finished run."""
    folder = tmp_path_factory.mktemp("place")
    finetune(text_recipe(folder, tiny_bert(folder / "bert")), folder / "done", progress=False)
    return folder


@pytest.fixture(scope="module")
def recipe(place: Path) -> Recipe:
    return text_recipe(place, place / "bert")


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    return place / "done"


def short(place: Path, **train: Any) -> Recipe:
    """Four more steps for the finished run, head included: too few to learn anything else."""
    steps = {"max_steps": 4, "learning_rate": 1e-5, **train}
    return text_recipe(place, place / "done", head={"init": "keep"}, train=steps)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What a run leaves


def test_a_run_folder_is_an_ordinary_checkpoint_whose_pipeline_gives_the_cached_answers(
    done: Path, recipe: Recipe
) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(done), top_k=None)
    cached = Predictions.load(done / "predictions" / "report.safetensors")
    report = load_splits(recipe.task, recipe.data).report
    assert cached.label_names is not None
    for row, probs in zip(report.rows["text"][:10], cached.probs, strict=False):
        told = {answer["label"]: answer["score"] for answer in classify([row])[0]}
        assert [told[name] for name in cached.label_names] == pytest.approx(probs.tolist(), abs=1e-5)


def test_a_run_learns_and_its_scores_are_those_of_its_predictions(done: Path) -> None:
    record = read_run(done)
    assert record.status == "finished"
    for role in ("select", "report"):
        p = Predictions.load(done / "predictions" / f"{role}.safetensors")
        assert set(record.scores[role]) == {"accuracy", "nll", "ece"}
        for name, value in record.scores[role].items():
            assert value == pytest.approx(METRICS[name].compute(p), abs=1e-6)
    assert record.scores["report"]["accuracy"] > 0.8  # three in five rows are of one class


def test_the_record_tells_how_the_run_was_made(done: Path, recipe: Recipe) -> None:
    record = read_run(done)
    assert record.recipe == json.loads(recipe.model_dump_json())
    assert (record.family, record.metric, record.label_names) == ("encoder", "accuracy", ("neg", "pos"))
    assert (record.processes, record.seed, record.start) == (1, 0, "")
    assert record.device.startswith("cpu, ")
    assert record.versions["torch"] == torch.__version__
    assert record.parameters == Checkpoint(done).parameters
    assert record.macs is not None
    assert record.macs > 10_000
    assert record.train_seconds is not None
    assert 0 < record.train_seconds < 60
    assert (record.train_rows, record.steps) == (160, 60)
    assert record.started <= record.finished
    assert [p["step"] for p in record.history] == list(range(1, 61))
    assert record.history[-1]["epoch"] == 6
    assert record.history[-1]["loss"] < record.history[0]["loss"]
    assert max(p["learning_rate"] for p in record.history) == pytest.approx(3e-3)
    assert Checkpoint(done).head_fingerprint == record.head_fingerprint


def test_the_same_recipe_again_gives_the_same_weights_and_the_same_head(
    done: Path, recipe: Recipe, tmp_path: Path
) -> None:
    again = finetune(recipe, tmp_path / "again", progress=False)
    assert Checkpoint(again).sha256() == Checkpoint(done).sha256()
    assert read_run(again).head_fingerprint == read_run(done).head_fingerprint


def test_a_given_start_is_the_start(recipe: Recipe, place: Path, tmp_path: Path) -> None:
    other = text_recipe(place, place / "bert", head={"init": "linear-probe"})
    start = make_start(other, load_splits(other.task, other.data), tmp_path / "start")
    nearly_nothing = recipe.model_copy(update={"train": recipe.train.model_copy(update={"learning_rate": 1e-12})})
    out = finetune(nearly_nothing, tmp_path / "run", start=start, progress=False)
    record = read_run(out)
    assert record.start == str(start)
    assert record.head_fingerprint == Checkpoint(start).head_fingerprint
    for name in ("classifier.weight", "bert.pooler.dense.weight"):
        np.testing.assert_allclose(Checkpoint(out).read(name), Checkpoint(start).read(name), atol=1e-7)


def test_a_cache_is_filled_once_and_used_again(place: Path, tmp_path: Path) -> None:
    finetune(short(place), tmp_path / "a", cache=tmp_path / "cache", progress=False)
    kept = names(tmp_path / "cache")
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*.npy"))]
    finetune(short(place, seed=1), tmp_path / "b", cache=tmp_path / "cache", progress=False)
    assert names(tmp_path / "cache") == kept
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*.npy"))] == stamps
    assert len(stamps) >= 6


def test_the_report_rows_change_nothing_but_the_report(recipe: Recipe, done: Path, place: Path, tmp_path: Path) -> None:
    fewer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"report_rows": 7})})
    out = finetune(fewer, tmp_path / "run", progress=False)
    assert Checkpoint(out).sha256() == Checkpoint(done).sha256()
    assert read_run(out).scores["select"] == read_run(done).scores["select"]


def test_the_best_epoch_on_select_is_what_is_saved(place: Path, tmp_path: Path) -> None:
    out = finetune(text_recipe(place, place / "bert", train={"keep": "best"}), tmp_path / "run", progress=False)
    record = read_run(out)
    told = [p["select"] for p in record.history if "select" in p]
    assert len(told) == 6
    assert record.scores["select"]["accuracy"] == max(told)


@pytest.mark.parametrize("build", [tiny_vit, tiny_resnet])
def test_images_are_learnt_with_all_augmentations(tmp_path: Path, build: Any) -> None:
    recipe = image_recipe(
        tmp_path,
        build(tmp_path / "model"),
        train={"random_crop": 0.05, "horizontal_flip": 0.5, "randaugment_operations": 1, "randaugment_magnitude": 3,
               "mixup": 0.1, "label_smoothing": 0.1, "gradient_accumulation": 2, "batch_size": 8, "epochs": 8},
    )  # fmt: skip
    record = read_run(finetune(recipe, tmp_path / "run", progress=False))
    assert record.family == "vision"
    assert record.scores["report"]["accuracy"] > 0.6  # of three classes


@pytest.mark.parametrize("option", [{"precision": "bf16"}, {"group_by_length": True}, {"schedule": "cosine"}])
def test_options_of_the_loop_learn_too(place: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    record = read_run(finetune(text_recipe(place, place / "bert", train=option), tmp_path / "run", progress=False))
    assert record.scores["report"]["accuracy"] > 0.8
    assert str(Checkpoint(tmp_path / "run").tensors["classifier.weight"].dtype) == "F32"


def test_progress_names_rows_steps_and_processes(place: Path, tmp_path: Path, capsys: Any) -> None:
    finetune(short(place), tmp_path / "run")
    told = capsys.readouterr().out
    assert "160 train, 40 select and 41 report rows; 4 steps on cpu" in told
    assert "processes: 1" in told
    assert "small: 4 of 4  loss" in told
    assert "warning" not in told


def test_a_launcher_that_starts_fewer_processes_than_asked_is_noticed(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `accelerate launch --cpu --num_processes 2` leaves in the environment."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    finetune(short(place), tmp_path / "run")
    assert "warning: several processes were asked for, but 1 runs. On CPUs start them with" in capsys.readouterr().out


# Runs that fail


def failed(recipe: Recipe, out: Path, status: str, reason: str) -> Any:
    with pytest.raises(RunFailed, match=reason) as caught:
        finetune(recipe, out, progress=False)
    assert caught.value.status == status
    assert names(out) == ["run.json"]
    assert names(out.parent) == [out.name]
    record = read_run(out)
    assert (record.status, record.reason) == (status, caught.value.reason)
    return record


def test_a_loss_that_is_no_number_is_recorded_with_step_and_learning_rate(place: Path, tmp_path: Path) -> None:
    recipe = short(place, learning_rate=1e38, max_steps=20, clip_norm=0)
    record = failed(
        recipe, tmp_path / "run", "nan-loss", r"the loss became \w+ at step \d+ of 20, with a learning rate"
    )
    assert record.head_fingerprint
    assert 1 <= record.steps < 20
    assert len(record.history) == record.steps


def test_weights_broken_by_the_last_step_are_recorded(place: Path, tmp_path: Path) -> None:
    recipe = short(place, learning_rate=1e38, max_steps=1, warmup_ratio=0, clip_norm=0)
    failed(
        recipe, tmp_path / "run", "nan-loss", "the weights were unusable after training: small answers 40 of 40 rows"
    )


def test_a_model_that_answers_one_class_is_recorded_with_class_and_share(place: Path, tmp_path: Path) -> None:
    recipe = text_recipe(place, place / "bert", train={"max_steps": 4, "learning_rate": 1e-9})
    failed(
        recipe, tmp_path / "run", "one-class", r"answers '(neg|pos)' for all 40 select rows, of which \d+\.\d% are '"
    )


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (
            MemoryError(),
            "out-of-memory",
            r"out of memory \(MemoryError\)\. Lower batch_size and raise gradient_accumul",
        ),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "out-of-memory", "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), "out-of-memory", "Lower batch_size"),
        (RuntimeError("shapes cannot be multiplied\nmore"), "error", "^RuntimeError: shapes cannot be multiplied$"),
        (ZeroDivisionError("division"), "error", "ZeroDivisionError: division"),
    ],
)
def test_other_failures_are_recorded_with_their_reason(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, reason: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(run, "train_model", fail)
    failed(short(place), tmp_path / "run", status, reason)


def test_memory_that_really_runs_out_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    told = failure_of(caught.value)
    assert told is not None
    assert told.status == "out-of-memory"


def test_wrong_input_is_no_failed_run() -> None:
    assert failure_of(InputError("x")) is None
    assert failure_of(HfSoupsError("disk full")) is None


def test_one_class_is_no_failure_where_all_rows_are_of_it() -> None:
    check_classes(Predictions.from_probs([[0.9, 0.1]] * 3, labels=[0, 0, 0]))
    with pytest.raises(RunFailed, match=r"answers '0' for all 4 select rows, of which 75\.0% are '0'"):
        check_classes(Predictions.from_probs([[0.9, 0.1]] * 4, labels=[0, 0, 0, 1]))


def test_a_failed_run_does_not_replace_a_finished_one(done: Path, place: Path) -> None:
    before = Checkpoint(done).sha256()
    with pytest.raises(InputError, match="exists already"):
        finetune(short(place, learning_rate=1e38), done, progress=False)
    assert Checkpoint(done).sha256() == before


# Wrong input, and places that cannot be written


def test_a_disk_without_room_for_the_weights_is_one_clear_error_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk."""
    start = make_start(short(place), load_splits(short(place).task, short(place).data), tmp_path / "start")
    cache = tmp_path / "cache"
    finetune(short(place), tmp_path / "first", start=start, cache=cache, progress=False)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(HfSoupsError, match=r"run: could not be written: .*nothing half-written was left"):
            finetune(short(place), tmp_path / "run", start=start, cache=cache, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [name for name in names(tmp_path) if not name.endswith(".lock")] == ["cache", "first", "start"]


def test_a_place_that_cannot_be_written_is_told_before_any_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(run, "load_splits", lambda *_: pytest.fail("worked before looking"))
    with pytest.raises(HfSoupsError, match=r"file/run: could not be written"):
        finetune(short(place), tmp_path / "file" / "run", progress=False)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"mixup": 0.2, "horizontal_flip": 0.5}, "train.horizontal_flip, train.mixup: for images, but .* are texts"),
        ({"precision": "fp16"}, "train.precision is fp16, which needs a GPU"),
    ],
)
def test_options_that_cannot_work_are_refused(place: Path, tmp_path: Path, train: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        finetune(short(place, **train), tmp_path / "run", progress=False)
    assert names(tmp_path) == []


def test_a_start_with_other_labels_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the task's labels are"):
        finetune(short(place), tmp_path / "run", start=tiny_bert(tmp_path / "other", labels=3), progress=False)
    assert names(tmp_path) == ["other"]


# The command line


@pytest.fixture(scope="module")
def written(place: Path, recipe: Recipe) -> Path:
    path = place / "small.yaml"
    values = json.loads(recipe.model_dump_json(exclude_none=True))
    path.write_text(yaml.safe_dump({**values, "train": {"max_steps": 4, "batch_size": 16}}))
    return path


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--learning_rate", "3e-5"], {"learning_rate": "3e-5"}),
        (["--learning-rate=3e-5"], {"learning_rate": "3e-5"}),
        (["--data.max_length", "64", "--keep", "best"], {"data.max_length": 64, "keep": "best"}),
        (["--group_by_length", "true"], {"group_by_length": True}),
        (["--max_steps", "null"], {"max_steps": None}),
        (["--name", "other", "--head.init", "linear-probe"], {"name": "other", "head.init": "linear-probe"}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_any_value_of_the_recipe_is_an_option(arguments: list[str], values: dict[str, Any], first: bool) -> None:
    command = parse(["r.yaml", *arguments] if first else [*arguments, "r.yaml"])
    assert command.recipe == Path("r.yaml")
    assert command.values == values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r.yaml", "--learning_rat", "1"], "unknown option --learning_rat; did you mean --learning_rate?"),
        (["r.yaml", "--data.max_lenght", "1"], "unknown option --data.max_lenght; did you mean --data.max_length?"),
        (["r.yaml", "--zzz"], "unknown option --zzz; --help lists them."),
        (["r.yaml", "--epochs"], "--epochs needs a value."),
        (["r.yaml", "--epochs", "--seed", "1"], "--epochs needs a value."),
        (["r.yaml", "s.yaml"], "one recipe at a time: got r.yaml and s.yaml."),
        ([], "which recipe? Give a YAML file; --help lists the options."),
        (["missing.yaml"], "missing.yaml: cannot read the recipe"),
        (["r.yaml", "--epochs", "[1"], "--epochs [1: not valid YAML"),
    ],
)
def test_a_wrong_command_line_is_one_message_and_status_2(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"hf_soups.finetune: {message}")
    assert "Traceback" not in told


def test_a_wrong_value_is_told_with_its_name(written: Path, capsys: Any) -> None:
    assert main([str(written), "--learning_rate", "fast"]) == 2
    assert "`train.learning_rate`: Input should be a valid number" in capsys.readouterr().err


def test_help_lists_the_options(capsys: Any) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "accelerate launch -m hf_soups.finetune RECIPE.yaml" in told
    assert "--learning_rate 2e-05" in told


def test_the_default_folder_is_fixed_by_the_values(recipe: Recipe) -> None:
    other = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": 1})})
    tracked = recipe.model_copy(update={"tracker": "wandb"})
    assert default_out(recipe) == default_out(tracked) != default_out(other)
    assert default_out(recipe).parent == Path("runs/small")


def test_a_failed_run_is_status_1_with_its_reason(written: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = [str(written), "--out", str(tmp_path / "run"), "--learning_rate", "1e38", "--clip_norm", "0"]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("hf_soups.finetune: the run failed (nan-loss): the ")
    with pytest.raises(RunFailed):
        main([*arguments, "--debug", "--overwrite"])


def started(arguments: list[str], **how: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how
    )


@pytest.mark.slow
def test_the_documented_command_works_literally(written: Path, tmp_path: Path) -> None:
    launcher = str(Path(sys.executable).with_name("accelerate"))
    command = [launcher, "launch", "--cpu", "-m", "hf_soups.finetune", str(written), "--learning_rate", "3e-3"]
    process = started([*command, "--epochs", "6", "--max_steps", "null", "--out", str(tmp_path / "run")])
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    record = read_run(tmp_path / "run")
    assert record.recipe["train"]["learning_rate"] == 3e-3
    assert record.status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_at_any_moment_it_leaves_no_run_folder(written: Path, tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-u", "-m", "hf_soups.finetune", str(written), "--out", str(out)]
    process = started([*command, "--max_steps", "1000000"])
    assert process.stdout is not None
    for line in process.stdout:
        if "processes: 1" in line:
            break
    time.sleep(0.5)
    process.send_signal(how)
    told = process.stdout.read()
    status = process.wait(timeout=PATIENCE)
    assert not out.exists()
    assert status == (-how if how == signal.SIGKILL else 128 + how), told
    assert "Traceback" not in told
