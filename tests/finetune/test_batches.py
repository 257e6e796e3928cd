"""Which rows each step sees: every row once an epoch, whatever the number of processes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.errors import InputError
from hf_soups.finetune.batches import MEGA_BATCH, Schedule, epoch_order, share_of, steps
from hf_soups.recipe import Train

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.int64))
TRAINS = st.builds(
    Train,
    batch_size=st.integers(1, 20),
    gradient_accumulation=st.integers(1, 4),
    epochs=st.sampled_from([1.0, 2.0, 3.0]),
    group_by_length=st.booleans(),
    seed=st.integers(0, 5),
)


@given(lengths=LENGTHS, train=TRAINS)
def test_every_row_is_seen_once_an_epoch(lengths: np.ndarray, train: Train) -> None:
    seen: dict[int, list[int]] = {}
    for step in steps(lengths, train):
        seen.setdefault(step.epoch, []).extend(int(row) for batch in step.batches for row in batch)
    assert len(seen) == train.epochs
    assert all(sorted(rows) == list(range(len(lengths))) for rows in seen.values())


@given(lengths=LENGTHS, train=TRAINS)
def test_only_the_last_batch_of_an_epoch_is_smaller(lengths: np.ndarray, train: Train) -> None:
    for step in steps(lengths, train):
        sizes = [len(batch) for batch in step.batches]
        full = sizes if not step.ends_epoch else sizes[:-1]
        assert full == [train.batch_size] * len(full)
        assert 1 <= len(sizes) <= train.gradient_accumulation
        assert step.rows == sum(sizes) > 0


@given(lengths=LENGTHS, train=TRAINS)
def test_the_schedule_counts_the_steps(lengths: np.ndarray, train: Train) -> None:
    schedule, taken = Schedule.of(train, len(lengths)), list(steps(lengths, train))
    assert [step.number for step in taken] == list(range(1, schedule.steps + 1))
    assert sum(step.ends_epoch for step in taken) == train.epochs


@pytest.mark.parametrize(
    ("about", "rows", "expected"),
    [
        ({"epochs": 3, "batch_size": 10}, 101, 33),
        ({"epochs": 3, "batch_size": 10, "gradient_accumulation": 4}, 101, 9),
        ({"epochs": 0.1, "batch_size": 10}, 100, 1),
        ({"epochs": 0.3, "batch_size": 10}, 100, 3),
        ({"epochs": 0.001, "batch_size": 10}, 100, 1),
        ({"epochs": 1, "batch_size": 1000}, 100, 1),
        ({"epochs": 1, "batch_size": 10, "max_steps": 4}, 100, 4),
        ({"epochs": 1, "batch_size": 10, "max_steps": 25}, 100, 25),
    ],
)
def test_steps_by_hand(about: dict[str, Any], rows: int, expected: int) -> None:
    train = Train(**about)
    assert Schedule.of(train, rows).steps == expected
    assert len(list(steps(np.ones(rows, dtype=np.int64), train))) == expected


def test_no_rows_to_learn_from_is_an_error() -> None:
    with pytest.raises(InputError, match="the train split is empty"):
        Schedule.of(Train(), 0)


def test_the_order_is_fixed_by_seed_and_epoch() -> None:
    lengths = np.ones(100, dtype=np.int64)
    order = epoch_order(lengths, Train(seed=1), 0)
    np.testing.assert_array_equal(order, epoch_order(lengths, Train(seed=1), 0))
    for other in (epoch_order(lengths, Train(seed=1), 1), epoch_order(lengths, Train(seed=2), 0)):
        assert not np.array_equal(order, other)


def test_rows_grouped_by_length_are_sorted_inside_large_blocks_and_pad_less() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    train = Train(batch_size=4, group_by_length=True)
    size = MEGA_BATCH * train.batch_size
    order = epoch_order(lengths, train, 0)
    for start in range(0, len(order), size):
        assert all(a >= b for a, b in pairwise(lengths[order[start : start + size]]))
    plain = epoch_order(lengths, Train(batch_size=4), 0)
    assert {*order[:size]} == {*plain[:size]}
    assert padding(lengths, order) < 0.1 * padding(lengths, plain)


def padding(lengths: np.ndarray, order: np.ndarray) -> int:
    batches = lengths[order].reshape(-1, 4)
    return int((batches.max(axis=1, keepdims=True) - batches).sum())


@given(rows=st.integers(1, 40), processes=st.integers(1, 9))
def test_shares_make_up_the_batch_and_no_process_is_without_rows(rows: int, processes: int) -> None:
    shares = [share_of(rows, rank, processes) for rank in range(processes)]
    weights = np.zeros(rows)
    for share in shares:
        assert len(share.positions) > 0
        np.add.at(weights, share.positions, share.weight)
    np.testing.assert_allclose(weights, 1)
    sizes = [len(share.positions) for share in shares]
    assert max(sizes) - min(sizes) <= 1
