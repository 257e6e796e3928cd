"""Measured costs: medians of what the clock says, and bytes counted tensor by tensor."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from hf_soups.models.clip import ZeroShot
from hf_soups.models.cost_counting import REPEATS, WARM_UP, count_bytes, hardware_name, measure_seconds
from tests.makers.tiny import tiny_clip

CPU = torch.device("cpu")


class Clock:
    """Time that passes only while something answers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[int] = []

    def __call__(self) -> float:
        return self.now

    def answer(self, size: int) -> None:
        """Batches of 8 have the fewest seconds per example; every tenth call is disturbed."""
        self.calls.append(size)
        self.now += {1: 1.0, 2: 1.5, 4: 2.0, 8: 3.0, 16: 8.0}.get(size, 1.0 * size)
        self.now += 100.0 if len(self.calls) % 10 == 0 else 0.0


def test_the_best_batch_is_found_from_medians_that_one_disturbance_does_not_move() -> None:
    clock = Clock()
    took = measure_seconds(clock.answer, CPU, batches=(1, 2, 4, 8, 16), clock=clock, limit=1e9)
    assert (took.batch_1, took.best, took.best_batch) == (1.0, 3.0 / 8, 8)
    assert [len(list(calls)) for _, calls in itertools.groupby(clock.calls)] == [WARM_UP + REPEATS] * 5


def test_sizes_that_do_not_fit_in_the_time_are_left_out_but_batch_1_is_always_measured() -> None:
    clock = Clock()
    took = measure_seconds(clock.answer, CPU, batches=(1, 2, 4, 8), clock=clock, limit=5.0)
    assert set(clock.calls) == {1}
    assert took.best == took.batch_1
    clock = Clock()
    measure_seconds(clock.answer, CPU, batches=(2, 4, 8), clock=clock, limit=22.0)
    assert set(clock.calls) == {1, 2}


def test_a_size_that_the_memory_does_not_hold_ends_the_search() -> None:
    clock = Clock()

    def answer(size: int) -> None:
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        clock.answer(size)

    assert measure_seconds(answer, CPU, clock=clock, limit=1e9).best_batch == 2
    with pytest.raises(torch.OutOfMemoryError):
        measure_seconds(lambda size: answer(9), CPU, clock=clock)


def test_hardware_says_how_many_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert hardware_name(CPU).endswith(", 1 thread")
    finally:
        torch.set_num_threads(before)


class Chain(torch.nn.Module):
    """10 -> 100 -> 1000 -> 2: the widest two neighbours are 100 and 1000."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(a, b, bias=False) for a, b in ((10, 100), (100, 1000), (1000, 2))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("rows", [1, 7])
def test_bytes_are_the_weights_and_the_most_activations_alive_at_once(rows: int) -> None:
    model, x = Chain(), torch.zeros(rows, 10)
    weights = 4 * (10 * 100 + 100 * 1000 + 1000 * 2)
    assert count_bytes(model, lambda: model(x)) == weights + 4 * rows * (100 + 1000)


def test_tied_weights_and_views_count_once() -> None:
    one, two = torch.nn.Linear(30, 30, bias=False), torch.nn.Linear(30, 30, bias=False)
    two.weight = one.weight
    model, x = torch.nn.Sequential(one, two), torch.zeros(5, 30)
    assert count_bytes(model, lambda: x.view(30, 5).t()) == 4 * 900
    assert count_bytes(model.half(), lambda: None) == 2 * 900


def test_a_zero_shot_model_costs_its_image_tower_and_one_product_a_class(tmp_path: Path) -> None:
    from hf_soups.models.cost_counting import count_macs

    model = ZeroShot(label_names=("cat", "dog", "bird")).load(tiny_clip(tmp_path))
    tokens, width, inner, layers = 17, 32, 64, 2
    tower = layers * (4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner)
    patches, projection, head = 16 * 8 * 8 * 3 * width, width * 16, 16 * 3
    assert count_macs(model, {"pixel_values": torch.zeros(2, 3, 32, 32)}) == patches + tower + projection + head
