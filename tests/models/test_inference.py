"""The inference loop against rows answered one by one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.data import Split, Splits, load_splits
from hf_soups.errors import InputError, PredictionsError
from hf_soups.models.family import Encoded, Family
from hf_soups.models.inference import NonFiniteLogits, length_buckets, predict_split
from hf_soups.models.registry import family_for
from hf_soups.predictions import Predictions
from tests.makers.small_task import image_recipe, text_recipe
from tests.makers.tiny import tiny_bert, tiny_vit


@dataclass
class Ready:
    """A model and the report rows of a small task."""

    model: torch.nn.Module
    family: Family
    split: Split
    encoded: Encoded
    splits: Splits


def ready(recipe: Any) -> Ready:
    splits = load_splits(recipe.task, recipe.data)
    config = json.loads((Path(recipe.model) / "config.json").read_text())
    family = family_for(config, recipe.task.kind)
    model = family.load_with_new_head(recipe.model, label_names=splits.label_names).model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("classifier") or "word_embeddings" in name:
                parameter.mul_(20)  # answers that differ from row to row
    encoded = family.encode(splits.report, family.processor(recipe.model), recipe.task, recipe.data)
    return Ready(model, family, splits.report, encoded, splits)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    folder = tmp_path_factory.mktemp("texts")
    return ready(text_recipe(folder, tiny_bert(folder / "model")))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    folder = tmp_path_factory.mktemp("images")
    return ready(image_recipe(folder, tiny_vit(folder / "model")))


@pytest.fixture(params=["texts", "images"])
def task(request: pytest.FixtureRequest) -> Ready:
    found: Ready = request.getfixturevalue(request.param)
    return found


def one_by_one(task: Ready) -> np.ndarray:
    task.model.eval()
    with torch.no_grad():
        rows = [task.family.logits(task.model, task.encoded.batch([i])) for i in range(len(task.split))]
    return torch.cat(rows).log_softmax(dim=1).numpy()


def answers(task: Ready, **how: Any) -> Predictions:
    return predict_split(task.model, task.family, task.encoded, task.split, **how)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_every_row_is_answered_as_it_would_be_alone_in_row_order(task: Ready, batch_size: int) -> None:
    p = answers(task, batch_size=batch_size, name="m")
    # padding changes the order of sums: float32 rounding of logits up to about 10
    np.testing.assert_allclose(p.log_probs, one_by_one(task), atol=2e-5)
    assert p.log_probs.std(axis=0).max() > 0.01  # the rows do differ, by more than the tolerance
    np.testing.assert_array_equal(p.row_ids, task.split.row_ids)
    assert p.labels is not None
    np.testing.assert_array_equal(p.labels, task.split.labels)
    assert (p.label_names, p.data, p.model) == (task.split.label_names, task.split.fingerprint, "m")


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shares_of_several_processes_are_bit_for_bit_what_one_process_answers(task: Ready, count: int) -> None:
    whole = answers(task, batch_size=4)

    def one_of(rank: int) -> SimpleNamespace:
        """An accelerator that gathers nothing: each process is left with its own share."""
        alone: Any = lambda values, **_: values  # noqa: E731
        about = {"process_index": rank, "num_processes": count, "device": torch.device("cpu")}
        return SimpleNamespace(**about, gather=alone, pad_across_processes=alone)

    shares = [answers(task, batch_size=4, accelerator=one_of(rank)) for rank in range(count)]
    ids = np.concatenate([share.row_ids for share in shares])
    log_probs = np.concatenate([share.log_probs for share in shares])
    np.testing.assert_array_equal(np.sort(ids), np.sort(whole.row_ids))
    np.testing.assert_array_equal(log_probs[np.argsort(ids)], whole.log_probs[np.argsort(whole.row_ids)])


@given(lengths=st.lists(st.integers(1, 99), max_size=40), size=st.integers(1, 9))
def test_buckets_hold_every_row_once_the_longest_first(lengths: list[int], size: int) -> None:
    buckets = length_buckets(np.array(lengths, dtype=np.int64), size)
    assert len(buckets) == math.ceil(len(lengths) / size)
    assert all(len(bucket) == size for bucket in buckets[:-1])
    rows = [int(row) for bucket in buckets for row in bucket]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)


def test_a_model_is_left_in_the_mode_it_had_and_dropout_plays_no_part(texts: Ready) -> None:
    texts.model.train()
    first, second = answers(texts), answers(texts)
    assert texts.model.training
    np.testing.assert_array_equal(first.log_probs, second.log_probs)


def test_half_precision_weights_give_float32_log_probabilities(texts: Ready) -> None:
    exact = answers(texts)
    texts.model.to(torch.bfloat16)
    try:
        rounded = answers(texts)
    finally:
        texts.model.to(torch.float32)
    assert rounded.log_probs.dtype == np.float32
    np.testing.assert_allclose(np.exp(rounded.log_probs).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rounded.log_probs, exact.log_probs, atol=0.3)


def test_where_few_classes_can_be_answered_the_rest_has_no_probability(images: Ready) -> None:
    free = answers(images)
    split = replace(images.split, answerable=(0,))
    kept = predict_split(images.model, images.family, images.encoded, split)
    assert len(np.unique(free.answers)) > 1
    assert set(kept.answers) == {0}
    np.testing.assert_allclose(kept.probs[:, 0], 1)
    everything = replace(images.split, answerable=tuple(range(free.classes)))
    same = predict_split(images.model, images.family, images.encoded, everything)
    np.testing.assert_array_equal(same.log_probs, free.log_probs)


def test_progress_counts_the_rows(texts: Ready) -> None:
    seen: list[tuple[int, int]] = []
    answers(texts, batch_size=20, progress=lambda done, rows: seen.append((done, rows)))
    assert seen == [(20, 41), (40, 41), (41, 41)]


def test_a_broken_model_is_named_with_its_first_row(tmp_path: Path) -> None:
    task = ready(text_recipe(tmp_path, tiny_bert(tmp_path / "model")))
    with torch.no_grad():
        task.model.classifier.bias[0] = float("nan")
    with pytest.raises(NonFiniteLogits, match=r"run_07 answers 41 of 41 rows of report with NaN .* \(first: row 0\)"):
        answers(task, name="run_07")


def test_a_model_of_another_task_is_refused(tmp_path: Path, texts: Ready) -> None:
    other = texts.family.load(tiny_bert(tmp_path / "five", labels=5))
    with pytest.raises(PredictionsError, match="gives 5 logits a row, but the task has 2 labels"):
        predict_split(other, texts.family, texts.encoded, texts.split)


def test_rows_encoded_from_another_split_are_refused(texts: Ready) -> None:
    with pytest.raises(PredictionsError, match="41 encoded rows, 40 rows of select: they are not the same rows"):
        predict_split(texts.model, texts.family, texts.encoded, texts.splits.select)


def test_a_batch_of_no_rows_is_refused(texts: Ready) -> None:
    with pytest.raises(InputError, match="a batch of 0 rows is not possible"):
        answers(texts, batch_size=0)
