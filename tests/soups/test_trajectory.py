"""Checkpoints of one run: found in a Trainer's folder, and averaged as by dense float64 sums."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.soups.ingredients import gather
from hf_soups.soups.methods.trajectory import average_of_run, is_run_of_trainer, run_checkpoints
from tests.makers.folders import folder_of
from tests.makers.tiny import tiny_bert, tiny_sentences, tiny_tokenizer
from tests.soups import dense

PROCESSOR = ("tokenizer.json", "tokenizer_config.json")


def saved_at(root: Path, step: int, **more: str) -> Path:
    """A checkpoint folder with what a Trainer leaves beside the weights."""
    folder = folder_of(root / f"checkpoint-{step}", {"classifier.weight": torch.full((2, 2), float(step))})
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"no pickle: opening it would fail")
    return folder


def names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    return [c.name for c in checkpoints]


def test_checkpoints_are_sorted_by_the_number_of_their_step(tmp_path: Path) -> None:
    for step in (1000, 200, 30):
        saved_at(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    found = run_checkpoints(tmp_path)
    assert names(found.checkpoints) == ["checkpoint-30", "checkpoint-200", "checkpoint-1000"]
    assert found.left_out == {}
    assert names(run_checkpoints(str(tmp_path), last=2).checkpoints) == ["checkpoint-200", "checkpoint-1000"]
    assert names(run_checkpoints(tmp_path, last=9).checkpoints) == names(found.checkpoints)


def test_half_written_checkpoints_are_left_out_with_the_reason(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        saved_at(tmp_path, step)
    (tmp_path / "checkpoint-20" / "model.safetensors").unlink()
    whole = (tmp_path / "checkpoint-30" / "model.safetensors").read_bytes()
    (tmp_path / "checkpoint-30" / "model.safetensors").write_bytes(whole[:-4])
    (tmp_path / "checkpoint-50" / "config.json").unlink()
    found = run_checkpoints(tmp_path, last=2)
    assert names(found.checkpoints) == ["checkpoint-10", "checkpoint-40"]  # the latest two that can be used
    assert set(found.left_out) == {"checkpoint-20", "checkpoint-30", "checkpoint-50"}
    assert "no model.safetensors and no model.safetensors.index.json there" in found.left_out["checkpoint-20"]
    assert "model.safetensors: truncated" in found.left_out["checkpoint-30"]
    assert "no config.json" in found.left_out["checkpoint-50"]


def test_a_run_of_a_trainer_is_told_from_a_model(tmp_path: Path) -> None:
    assert not is_run_of_trainer(tmp_path / "nowhere")
    assert not is_run_of_trainer("org/name")
    run = tmp_path / "run"
    folder = saved_at(run, 5)
    assert is_run_of_trainer(run)
    assert not is_run_of_trainer(folder)
    other = tmp_path / "other"
    saved_at(other, 5)
    (other / "run.json").write_text("{}")
    assert not is_run_of_trainer(other)


def test_an_output_folder_stands_for_its_checkpoints_and_its_final_model_once(tmp_path: Path) -> None:
    for step in (10, 20):
        saved_at(tmp_path, step)
    folder_of(tmp_path, {"classifier.weight": torch.full((2, 2), 25.0)})  # trainer.save_model() after further steps
    assert is_run_of_trainer(tmp_path)
    assert names(gather([tmp_path]).checkpoints) == ["checkpoint-10", "checkpoint-20", tmp_path.name]
    for step in (20, 10):  # the last one again, or the best one (load_best_model_at_end)
        folder_of(tmp_path, {"classifier.weight": torch.full((2, 2), float(step))})
        assert names(gather([tmp_path]).checkpoints) == ["checkpoint-10", "checkpoint-20"]
    assert names(run_checkpoints(tmp_path, last=1).checkpoints) == ["checkpoint-20"]


def test_final_models_alone_are_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    for i, run in enumerate(("a", "b")):
        saved_at(tmp_path / run, 10)
        folder_of(tmp_path / run, {"classifier.weight": torch.full((2, 2), float(i))})
    runs = [tmp_path / "a", tmp_path / "b"]
    assert names(gather(runs, final_models=True).checkpoints) == ["a", "b"]
    assert names(gather(runs).checkpoints) == ["checkpoint-10", "a", "checkpoint-10", "b"]


def test_a_final_model_that_cannot_be_read_is_left_out_with_the_reason(tmp_path: Path) -> None:
    for step in (10, 20):
        saved_at(tmp_path, step)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    found = gather([tmp_path])
    assert names(found.checkpoints) == ["checkpoint-10", "checkpoint-20"]
    (left,) = found.left_out
    assert "no config.json" in left.reason


def test_adapters_that_a_trainer_left_are_multiplied_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}
    for step in (10, 20):
        saved_at(tmp_path / "run", step)
        adapter = tmp_path / "run" / f"checkpoint-{step}"
        (adapter / "model.safetensors").unlink()
        (adapter / "adapter_config.json").write_text("{}")
        made[adapter] = folder_of(tmp_path / "merged" / str(step), {"w": torch.full((2,), float(step))})
    (tmp_path / "run" / "adapter_config.json").write_text("{}")
    made[tmp_path / "run"] = made[tmp_path / "run" / "checkpoint-20"]
    monkeypatch.setattr("hf_soups.models.adapters.multiplied_out", lambda adapter: Checkpoint(made[adapter.folder]))
    assert names(gather([tmp_path / "run"]).checkpoints) == ["10", "20"]


@pytest.mark.parametrize("place", ["./nowhere", "out/nowhere", "nowhere"])
def test_a_path_that_does_not_exist_is_named(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{place}: no such folder"):
        gather([place])


# Averages.


@given(st.integers(1, 12), st.floats(0, 1, exclude_max=True))
def test_moving_average_weights_sum_to_one_and_follow_the_recurrence(n: int, decay: float) -> None:
    pool = [Checkpoint(str(i)) for i in range(n)]
    weights = average_of_run(pool, decay=decay).coefficients
    assert sum(weights) == pytest.approx(1)
    for held in range(n):  # a run whose checkpoints are all 0 but one
        average = float(held == 0)
        for i in range(1, n):
            average = decay * average + (1 - decay) * (i == held)
        assert weights[held] == pytest.approx(average, abs=1e-12)


@pytest.mark.parametrize("decay", [None, 0.9, 0.0])
def test_averages_of_a_run_are_the_dense_ones(decay: float | None, tmp_path: Path) -> None:
    start = tiny_bert(tmp_path / "start")
    folders = dense.fine_tunes(start, tmp_path, 3)
    soup = average_of_run([Checkpoint(folder) for folder in folders], decay=decay)
    terms = {None: (1 / 3, 1 / 3, 1 / 3), 0.9: (0.81, 0.09, 0.1), 0.0: (0, 0, 1)}[decay]
    exact = dense.combined(list(zip(terms, folders, strict=True)))
    soup.save_pretrained(tmp_path / "soup")
    dense.assert_close(tmp_path / "soup", exact)
    dense.assert_same_logits(tmp_path / "soup", exact)


def test_decay_zero_is_the_last_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    folders = [saved_at(tmp_path, step) for step in (1, 2)]
    average_of_run(run_checkpoints(tmp_path).checkpoints, decay=0).save_pretrained(tmp_path / "soup")
    assert np.array_equal(
        Checkpoint(tmp_path / "soup").read("classifier.weight"), Checkpoint(folders[1]).read("classifier.weight")
    )


# The processor of a run.


def with_processor(folder: Path, root: Path) -> Path:
    made = tiny_bert(root / "made")
    for name in PROCESSOR:
        shutil.copy(made / name, folder / name)
    return folder


def test_a_processor_that_lies_beside_the_checkpoints_goes_into_the_soup(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        saved_at(run, step)
    with_processor(run, tmp_path)
    (run / "config.json").write_text('{"model_type": "of the folder above"}')
    checkpoints = run_checkpoints(run).checkpoints
    assert checkpoints[0].processor_folder == run
    average_of_run(checkpoints).save_pretrained(tmp_path / "soup")
    assert {p.name for p in (tmp_path / "soup").iterdir()} == {
        "config.json",
        "model.safetensors",
        "soup.json",
        *PROCESSOR,
    }
    assert Checkpoint(tmp_path / "soup").config["model_type"] == "bert"  # the checkpoint's own


def test_a_checkpoints_own_processor_comes_first(tmp_path: Path) -> None:
    folder = with_processor(saved_at(tmp_path / "run", 1), tmp_path)
    (tmp_path / "run" / "vocab.txt").write_text("another one's")
    checkpoint = Checkpoint(folder)
    assert checkpoint.processor_folder == folder
    assert "vocab.txt" not in {path.name for path in checkpoint.carried_files()}


def test_other_folders_do_not_look_above_themselves(tmp_path: Path) -> None:
    with_processor(tmp_path, tmp_path)
    folder = folder_of(tmp_path / "model", {"classifier.weight": torch.ones(2, 2)})
    assert Checkpoint(folder).processor_folder == folder
    assert [path.name for path in Checkpoint(folder).carried_files()] == ["config.json"]


@pytest.mark.slow
def test_a_real_trainers_checkpoints_become_a_soup_that_answers(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, pipeline

    start, tokenizer = tiny_bert(tmp_path / "start"), tiny_tokenizer()
    rows = [
        {**tokenizer(s, padding="max_length", max_length=24), "labels": i % 2} for i, s in enumerate(tiny_sentences(40))
    ]
    Trainer(
        AutoModelForSequenceClassification.from_pretrained(start),
        TrainingArguments(
            tmp_path / "run", max_steps=12, save_steps=4, per_device_train_batch_size=8, learning_rate=1e-2,
            report_to=[], disable_tqdm=True, use_cpu=True,
        ),
        train_dataset=rows,
    ).train()  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-16").mkdir()  # killed before anything was written
    found = run_checkpoints(tmp_path / "run")
    assert names(found.checkpoints) == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    assert set(found.left_out) == {"checkpoint-16"}
    exact = dense.combined([(1 / 3, c.folder) for c in found.checkpoints])
    average_of_run(found.checkpoints).save_pretrained(tmp_path / "soup")
    dense.assert_close(tmp_path / "soup", exact)
    dense.assert_same_logits(tmp_path / "soup", exact)
    (answer,) = pipeline("text-classification", str(tmp_path / "soup"))("a good film")
    assert answer["label"] in {"LABEL_0", "LABEL_1"}


# What is refused.


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 folders named checkpoint-<step>, none usable"):
        run_checkpoints(tmp_path)
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(InputError, match=r"1 folders named .* none usable.*checkpoint-5: no config\.json"):
        run_checkpoints(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        run_checkpoints(tmp_path / "nowhere")


@pytest.mark.parametrize("last", [0, -1])
def test_a_last_below_one_is_refused(last: int, tmp_path: Path) -> None:
    saved_at(tmp_path, 1)
    with pytest.raises(InputError, match=f"last is {last}"):
        run_checkpoints(tmp_path, last=last)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match=r"decay is .* and below 1"):
        average_of_run([Checkpoint("a"), Checkpoint("b")], decay=decay)


@pytest.mark.parametrize("decay", [None, 0.5])
def test_an_average_of_nothing_is_refused(decay: float | None) -> None:
    with pytest.raises(InputError, match="at least one checkpoint, got none"):
        average_of_run([], decay=decay)
