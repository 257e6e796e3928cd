"""The loop against torch's own pieces put together by hand, and what it does when the loss is no number."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub.utils import enable_progress_bars
from transformers import get_scheduler

from hf_soups.errors import RunFailed
from hf_soups.finetune.augment import draw_mixup
from hf_soups.finetune.batches import steps
from hf_soups.finetune.loop import EpochSelection, TrainRows, decayed, loaded_ahead, synchronised_batchnorm, train_model
from hf_soups.finetune.tracking import POINTS, History
from hf_soups.models.family import Augment, Batch
from hf_soups.progress import Meter
from hf_soups.recipe import Train

ROWS, FEATURES, CLASSES = 50, 6, 3


@dataclass
class Points:
    """Encoded rows that are points; `seen` keeps what was asked for."""

    values: torch.Tensor
    row_ids: np.ndarray
    seen: list[list[int]]

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self.values), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Any, *, augment: Augment | None = None) -> Batch:
        self.seen.append([int(i) for i in indices])
        return {"values": self.values[torch.as_tensor(np.asarray(indices))]}


class Plain:
    """The family of models that are called with the values."""

    name, kinds = "plain", ("points",)

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = model(batch["values"])
        return logits


def examples(spoilt: bool = False) -> TrainRows:
    random = np.random.default_rng(0)
    values = torch.from_numpy(random.normal(size=(ROWS, FEATURES)).astype(np.float32))
    if spoilt:
        values[:] = float("nan")
    labels = random.integers(0, CLASSES, ROWS)
    return TrainRows(Points(values, np.arange(ROWS), []), labels, CLASSES)


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 8), torch.nn.LayerNorm(8), torch.nn.Tanh(), torch.nn.Linear(8, CLASSES)
    )


def trained(model: torch.nn.Module, train: Train, rows: TrainRows | None = None, **how: Any) -> History:
    accelerator = Accelerator(cpu=True)
    history = History(1000, Meter("test", 1000, visible=False))
    train_model(accelerator, model, Plain(), rows or examples(), train, history, **how)  # type: ignore[arg-type]
    return history


@pytest.mark.parametrize(
    "about",
    [
        {"schedule": "linear"},
        {"schedule": "cosine", "warmup_ratio": 0.3, "clip_norm": 0.05},
        {"schedule": "constant", "clip_norm": 0.0, "weight_decay": 0.5},
        {"gradient_accumulation": 3, "batch_size": 4},
        {"label_smoothing": 0.2},
    ],
)
def test_the_weights_are_those_of_the_textbook_loop(about: dict[str, Any]) -> None:
    train = Train(**{"learning_rate": 0.01, "epochs": 2, "batch_size": 7, **about})
    model = network()
    trained(model, train)
    expected = textbook(train)
    for (name, value), (_, wanted) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        np.testing.assert_allclose(value.detach(), wanted.detach(), atol=1e-6, err_msg=name)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), network().parameters(), strict=True))


def textbook(train: Train) -> torch.nn.Module:
    """Cross-entropy by torch, on whole steps at once."""
    rows, model = examples(), network()
    matrices = [p for name, p in model.named_parameters() if name.endswith("weight") and not name.startswith("1")]
    others = [p for name, p in model.named_parameters() if name.endswith("bias") or name.startswith("1")]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=train.learning_rate,
    )
    planned = list(steps(rows.encoded.lengths, train))
    name = {"constant": "constant_with_warmup"}.get(train.schedule, train.schedule)
    scheduler = get_scheduler(name, optimizer, math.ceil(train.warmup_ratio * len(planned)), len(planned))
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=train.label_smoothing)
    for step in planned:
        at = np.concatenate(step.batches)
        optimizer.zero_grad()
        entropy(model(rows.encoded.values[at]), torch.from_numpy(rows.labels[at])).backward()  # type: ignore[attr-defined]
        if train.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        optimizer.step()
        scheduler.step()
    return model


def test_mixup_trains_on_rows_and_targets_mixed_alike() -> None:
    rows, model = examples(), network()
    train = Train(mixup=0.4, label_smoothing=0.1, batch_size=ROWS, max_steps=1, seed=4)
    history = trained(model, train, rows)
    order = next(steps(rows.encoded.lengths, train)).batches[0]
    drawn = draw_mixup(ROWS, 0.4, np.random.default_rng([4, 0, 0, 1]))
    partners = order[drawn.partners]
    assert 0 < drawn.weight < 1
    values = drawn.weight * rows.encoded.values[order] + (1 - drawn.weight) * rows.encoded.values[partners]  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = network()(values)
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    own, others = (float(entropy(logits, torch.from_numpy(rows.labels[at]))) for at in (order, partners))
    assert history.points[0]["loss"] == pytest.approx(drawn.weight * own + (1 - drawn.weight) * others, abs=1e-5)


def test_only_matrices_decay() -> None:
    model = network()
    matrices, vectors = decayed(model, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in matrices["params"]} == {id(model[0].weight), id(model[3].weight)}  # type: ignore[index]
    assert len(vectors["params"]) == 4


def test_a_loss_that_is_no_number_ends_the_run_at_that_step_with_the_learning_rate() -> None:
    model, rows = network(), examples(spoilt=True)
    train = Train(learning_rate=0.02, batch_size=10, epochs=2, warmup_ratio=0)
    message = r"the loss became nan at step 1 of 10, with a learning rate of 0\.02\. Lower learning_rate"
    with pytest.raises(RunFailed, match=message) as failed:
        trained(model, train, rows)
    assert failed.value.status == "nan-loss"


def test_a_learning_rate_that_blows_up_ends_the_run_soon() -> None:
    train = Train(learning_rate=1e38, batch_size=10, epochs=10, warmup_ratio=0, clip_norm=0)
    with pytest.raises(RunFailed, match=r"the loss became (nan|inf) at step [23] of 50"):
        trained(network(), train)


def test_the_best_epoch_is_kept_and_the_earlier_one_wins_a_tie() -> None:
    told = iter([0.5, 0.8, 0.8, 0.1])
    snapshots: list[dict[str, torch.Tensor]] = []
    model = network()

    def score() -> float:
        snapshots.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(told)

    train = Train(learning_rate=0.01, batch_size=10, epochs=4)
    history = trained(model, train, selection=EpochSelection(score))
    for name, value in model.state_dict().items():
        assert torch.equal(value, snapshots[1][name])
    assert not torch.equal(snapshots[1]["0.weight"], snapshots[2]["0.weight"])
    assert [p["select"] for p in history.points if "select" in p] == [0.5, 0.8, 0.8, 0.1]


def test_lower_is_better_when_the_metric_says_so() -> None:
    lower = EpochSelection(lambda: 0.0, sign=-1)
    assert lower.better(0.1, 0.2)
    assert not lower.better(0.2, 0.1)
    assert lower.better(9.0, None)


def test_the_end_of_a_part_epoch_is_scored_too() -> None:
    scored: list[int] = []
    train = Train(batch_size=10, epochs=1.5)
    trained(network(), train, selection=EpochSelection(lambda: float(scored.append(1) or 0)))
    assert len(scored) == 2


def test_the_history_has_few_points_and_their_losses_are_the_means_since_the_point_before() -> None:
    seen: list[tuple[dict[str, float], int]] = []
    total = 1234
    history = History(
        total, Meter("test", total, visible=False), lambda values, step: seen.append((dict(values), step))
    )
    losses = np.random.default_rng(0).random(total)
    for step, loss in enumerate(losses, start=1):
        history.add(step, step / 100, float(loss), 0.1)
    points = history.points
    assert len(points) <= POINTS + 2
    assert (points[0]["step"], points[-1]["step"]) == (1, total)
    gaps = np.diff([0, *(p["step"] for p in points)])
    assert sum(p["loss"] * gap for p, gap in zip(points, gaps, strict=True)) == pytest.approx(losses.sum())
    assert [step for _, step in seen] == [p["step"] for p in points]


def test_without_a_terminal_progress_is_plain_lines_now_and_then() -> None:
    stream = StringIO()
    with Meter("run", 100, stream=stream) as meter:
        meter.line("hello [b]")
        for step in range(1, 101):
            meter(step, f"loss {step}")
    assert stream.getvalue() == "hello [b]\nrun: 100 of 100  loss 100\n"


def test_other_processes_show_nothing() -> None:
    stream = StringIO()
    with Meter("run", 2, visible=False, stream=stream) as meter:
        meter.line("hello")
        meter(2)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    enable_progress_bars()  # the makers of tiny models switch off those of all libraries
    stream = Terminal()
    with Meter("run", 2, stream=stream) as meter:
        meter(1, "loss 0.5")
        meter.line("select 0.75 [b]")
        meter(2, "loss 0.4")
    assert "select 0.75 [b]" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "loss 0.4" in stream.getvalue()


def test_batchnorm_is_untouched_on_one_process() -> None:
    layer = torch.nn.BatchNorm2d(3)
    with synchronised_batchnorm(layer, 1):
        assert "forward" not in vars(layer)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (6, 3)])
def test_batchnorm_over_processes_is_torchs_own_when_they_hold_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, momentum: float | None, shape: tuple[int, ...]
) -> None:
    """With one process the sum over processes is the values themselves."""
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: None)
    kind = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
    ours, theirs = kind(3, momentum=momentum), kind(3, momentum=momentum)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(shape, generator=random) * 3 + 1
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        with synchronised_batchnorm(ours, 2):
            ours(a).square().mul(torch.arange(x.numel()).view(shape)).mean().backward()
        theirs(b).square().mul(torch.arange(x.numel()).view(shape)).mean().backward()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    ours.eval(), theirs.eval()
    with synchronised_batchnorm(ours, 2):
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_loaded_ahead_comes_in_order_and_no_further_ahead_than_there_are_threads(threads: int) -> None:
    begun: list[int] = []

    def load(step: int) -> int:
        begun.append(step)
        time.sleep(0.002 * (step % 3))  # later ones are done before earlier ones
        return -step

    for at, (step, made) in enumerate(loaded_ahead(range(20), load, threads)):
        assert (step, made) == (at, -at)
        assert max(begun) <= at + threads


def test_what_has_not_begun_when_training_ends_is_not_loaded() -> None:
    begun: list[int] = []
    loading = loaded_ahead(iter(range(1000)), begun.append, 2)
    next(loading)
    loading.close()
    assert len(begun) <= 3


def test_an_error_while_loading_is_raised_where_its_step_is_read() -> None:
    def load(step: int) -> int:
        if step == 2:
            raise RunFailed("error", "unreadable")
        return step

    loading = loaded_ahead(range(9), load, 2)
    assert [next(loading), next(loading)] == [(0, 0), (1, 1)]
    with pytest.raises(RunFailed, match="unreadable"):
        next(loading)
