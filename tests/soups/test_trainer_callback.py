"""The Trainer's callback: the right average, a training that does not change, and an ordinary soup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments, pipeline

from hf_soups import Checkpoint, SoupCallback
from hf_soups.cooking import cook
from hf_soups.errors import DataWarning, InputError
from hf_soups.reporting.cards.card import write_card
from hf_soups.soups.soup_record import read_soup
from tests.makers.tiny import tiny_bert, tiny_sentences, tiny_tokenizer

STEPS = 8


class Recorded(TrainerCallback):
    """The weights after each step, as the Trainer has them."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights.append({name: value.detach().double().clone() for name, value in model.named_parameters()})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("start") / "start")


def trainer(start: Path, out: Path, *callbacks: TrainerCallback, **about: Any) -> Trainer:
    tokenizer = tiny_tokenizer()
    rows = [
        {**tokenizer(s, padding="max_length", max_length=16), "labels": i % 2} for i, s in enumerate(tiny_sentences(32))
    ]
    defaults = dict(
        max_steps=STEPS, per_device_train_batch_size=8, learning_rate=5e-3, report_to=[], disable_tqdm=True,
        use_cpu=True, save_strategy="no", logging_strategy="no", seed=3,
    )  # fmt: skip
    return Trainer(
        AutoModelForSequenceClassification.from_pretrained(start),
        TrainingArguments(str(out), **{**defaults, **about}),
        train_dataset=rows, eval_dataset=rows[:8], processing_class=tokenizer, callbacks=list(callbacks),
    )  # fmt: skip


def averaged(weights: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """The recurrence, in float64."""
    average = dict(weights[0])
    for n, now in enumerate(weights[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * average[name] + (1 - d) * now[name] for name in now}
    return average


def assert_holds(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    checkpoint = Checkpoint(folder)
    assert set(checkpoint.tensors) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(checkpoint.read(name), value.numpy(), atol=1e-5)


def test_the_moving_average_is_that_of_the_recurrence_and_an_ordinary_model(start: Path, tmp_path: Path) -> None:
    recorded, soup = Recorded(), SoupCallback(tmp_path / "soup", decay=0.5)
    trainer(start, tmp_path / "run", recorded, soup).train()
    assert len(recorded.weights) == STEPS
    assert_holds(tmp_path / "soup", averaged(recorded.weights, 0.5))
    record = read_soup(tmp_path / "soup")
    assert record.method == "trainer-ema"
    record.check_weights(tmp_path / "soup")
    about = json.loads((tmp_path / "soup/soup.json").read_text())["trainer"]
    assert (about["updates"], about["steps"], about["decay"]) == (STEPS, STEPS, 0.5)
    assert pipeline("text-classification", str(tmp_path / "soup"))("a good film")[0]["label"].startswith("LABEL")
    card = " ".join(write_card(tmp_path / "soup").read_text().split())
    assert "an average over one training (method `trainer-ema`)" in card
    cook([start, tmp_path / "soup"], out=tmp_path / "mixed", tell=None)  # an ingredient like others


def test_lawa_is_the_mean_of_the_last_snapshots(start: Path, tmp_path: Path) -> None:
    recorded, soup = Recorded(), SoupCallback(average="lawa", last=3, every=2, first=2)
    trainer(start, tmp_path / "run", recorded, soup).train()
    taken = [recorded.weights[step - 1] for step in (4, 6, 8)]
    assert_holds(tmp_path / "run" / "soup", {n: sum(w[n] for w in taken) / 3 for n in taken[0]})


def test_lawa_takes_a_snapshot_an_epoch(start: Path, tmp_path: Path) -> None:
    recorded, soup = Recorded(), SoupCallback(average="lawa")
    trainer(start, tmp_path / "run", recorded, soup).train()  # four steps an epoch
    assert_holds(
        tmp_path / "run" / "soup", {n: (recorded.weights[3][n] + w) / 2 for n, w in recorded.weights[7].items()}
    )


def test_training_is_the_same_with_it_and_without(start: Path, tmp_path: Path) -> None:
    evaluating = {"eval_strategy": "steps", "eval_steps": 2}
    with_it, without = Recorded(), Recorded()
    trainer(start, tmp_path / "a", with_it, SoupCallback(compute_metrics=accuracy), **evaluating).train()
    trainer(start, tmp_path / "b", without, **evaluating).train()
    for a, b in zip(with_it.weights, without.weights, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def accuracy(told: Any) -> dict[str, float]:
    return {"accuracy": float((told.predictions.argmax(axis=1) == told.label_ids).mean())}


def test_the_average_is_evaluated_beside_the_current_weights(start: Path, tmp_path: Path) -> None:
    soup = SoupCallback(tmp_path / "soup", decay=0.5, compute_metrics=accuracy)
    run = trainer(start, tmp_path / "run", soup, eval_strategy="steps", eval_steps=4)
    run.train()
    steps = [entry for entry in run.state.log_history if "eval_soup_loss" in entry]
    assert [entry["step"] for entry in steps] == [4, 8]
    of_soup = AutoModelForSequenceClassification.from_pretrained(tmp_path / "soup")
    run.model.load_state_dict(of_soup.state_dict())
    oracle = run.evaluate()  # the Trainer's own loop on the soup
    assert steps[-1]["eval_soup_loss"] == pytest.approx(oracle["eval_loss"], abs=1e-5)
    assert 0 <= steps[-1]["eval_soup_accuracy"] <= 1
    kept = json.loads((tmp_path / "soup/soup.json").read_text())["trainer"]["evaluations"]
    assert [entry["step"] for entry in kept] == [4, 8]
    assert {"eval_loss", "eval_soup_loss", "eval_soup_accuracy"} <= set(kept[0])


def test_the_trainer_may_choose_its_best_by_the_average(start: Path, tmp_path: Path) -> None:
    run = trainer(
        start, tmp_path / "run", SoupCallback(), eval_strategy="steps", eval_steps=4, save_strategy="steps",
        save_steps=4, load_best_model_at_end=True, metric_for_best_model="soup_loss",
    )  # fmt: skip
    run.train()
    assert run.state.best_metric == pytest.approx(
        min(entry["eval_soup_loss"] for entry in run.state.log_history if "eval_soup_loss" in entry)
    )


def test_checkpoints_that_stay_are_the_best_and_the_last(start: Path, tmp_path: Path) -> None:
    run = trainer(
        start, tmp_path / "run", SoupCallback(keep=2), eval_strategy="steps", eval_steps=2, save_strategy="steps",
        save_steps=2,
    )  # fmt: skip
    run.train()
    losses = {e["step"]: e["eval_loss"] for e in run.state.log_history if "eval_loss" in e}
    best = sorted(losses, key=lambda step: (losses[step], -step))[:2]
    left = {int(path.name.partition("-")[2]) for path in (tmp_path / "run").glob("checkpoint-*")}
    assert {best[0], STEPS} <= left
    assert len(left) <= 3
    assert left <= {*best, STEPS}


def test_a_resumed_training_goes_on_with_its_average(start: Path, tmp_path: Path) -> None:
    straight = Recorded()
    trainer(start, tmp_path / "a", straight, SoupCallback(decay=0.5), save_strategy="steps", save_steps=4).train()

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_training_stop = state.global_step == 4
            return control

    trainer(start, tmp_path / "b", SoupCallback(decay=0.5), Stop(), save_strategy="steps", save_steps=4).train()
    resumed = trainer(
        start, tmp_path / "b", SoupCallback(decay=0.5, overwrite=True), save_strategy="steps", save_steps=4
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-4"))
    assert_holds(tmp_path / "b" / "soup", averaged(straight.weights, 0.5))


def test_a_training_too_short_for_an_average_says_so(start: Path, tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="no weights were averaged in 8 steps"):
        trainer(start, tmp_path / "run", SoupCallback(first=100)).train()
    assert not (tmp_path / "run" / "soup").exists()


def test_adapters_and_weights_in_pieces_are_refused(start: Path, tmp_path: Path) -> None:
    run = trainer(start, tmp_path / "run", SoupCallback())
    run.model.peft_config = {}
    with pytest.raises(InputError, match=r"mean of adapters' A and B .*hf-soups cook .*--method run-ema"):
        run.train()
    callback, args = SoupCallback(), trainer(start, tmp_path / "other").args
    args.fsdp = ["full_shard"]
    with pytest.raises(InputError, match="FSDP and DeepSpeed's stage 3 cut them into pieces"):
        callback.on_train_begin(args, None, None, model=torch.nn.Linear(2, 2))


def test_a_soup_that_is_there_is_not_replaced_unasked(start: Path, tmp_path: Path) -> None:
    trainer(start, tmp_path / "run", SoupCallback()).train()
    with pytest.raises(InputError, match="exists already"):
        trainer(start, tmp_path / "run", SoupCallback()).train()
    trainer(start, tmp_path / "run", SoupCallback(overwrite=True)).train()


@pytest.mark.parametrize(
    "wrong",
    [{"average": "mean"}, {"decay": 1.0}, {"decay": -0.1}, {"last": 0}, {"every": 0}, {"first": -1}, {"keep": 0}],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        SoupCallback(**wrong)
