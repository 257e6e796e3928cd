"""Learned soups: gradients are those of all models held in memory; what is learned is never worse than uniform."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import Split
from hf_soups.errors import CheckpointError, HfSoupsError, IncompatibleCheckpoints, InputError
from hf_soups.metrics import METRICS, Metric
from hf_soups.models.encoder import Encoders
from hf_soups.models.tokens import EncodedTexts
from hf_soups.models.vision import Vision
from hf_soups.soups import uniform
from hf_soups.soups.methods.learned import LearnedStep, learned
from hf_soups.soups.methods.learned import coefficients as descent
from hf_soups.soups.methods.learned import steps as loop
from hf_soups.soups.methods.learned.coefficients import AdamW, State, load
from hf_soups.soups.methods.learned.mixture import LiveMixture
from hf_soups.soups.mixing.live import LiveMixer
from hf_soups.soups.scoring import SoupScorer
from tests.makers.pile import label, near
from tests.makers.tiny import VOCAB, tiny_bert, tiny_resnet, tiny_vit
from tests.soups.test_live import tiny_t5

ROWS = 60


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start whose answers are the labels, and copies of it with noise: m0 with next to none, m3 with the most."""
    folder = tmp_path_factory.mktemp("learned")
    start = decided(tiny_bert(folder / "start"))
    for i, spread in enumerate((0.02, 0.5, 0.7, 0.9)):
        near(start, folder / f"m{i}", seed=i, spread=spread)
    return folder


def decided(folder: Path) -> Path:
    """A larger head, so that answers differ clearly between rows."""
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= np.float32(10)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def pool(pile: Path) -> list[Checkpoint]:
    return [Checkpoint(pile / f"m{i}") for i in range(4)]


@pytest.fixture
def scorer(pile: Path) -> SoupScorer:
    return scorer_of(pile / "start", pile / "m1")


def scorer_of(teacher: Path, model: Path) -> SoupScorer:
    """Random rows; their labels are the teacher's answers, above or below their middle."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 20, ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.arange(ROWS, dtype=np.int64)
    encoded = EncodedTexts(
        ids, random.integers(5, VOCAB, offsets[-1]).astype(np.int32), offsets, None, pad=0, pad_type=0, pad_left=False
    )
    blank = Split.of("select", Dataset.from_dict({"row": ids}), ids, np.zeros(ROWS, np.int64), ("a", "b"), "random")
    taught = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    with torch.inference_mode():
        logits = torch.stack([taught(**encoded.batch([i])).logits[0] for i in range(ROWS)]).numpy()
    margin = logits[:, 1] - logits[:, 0]
    labels = (margin > np.median(margin)).astype(np.int64)
    split = Split.of("select", blank.rows, ids, labels, ("a", "b"), "random")
    live = AutoModelForSequenceClassification.from_pretrained(model).eval()
    return SoupScorer(Encoders(), live, encoded, split, METRICS["nll"], LiveMixer(live))


# Gradients.


def stacked(
    models: Sequence[torch.nn.Module],
    coefficients: Callable[[str], torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    batch: dict[str, torch.Tensor],
) -> torch.Tensor:
    """The paper's way in float64, with nothing of this package: autograd through a mixture of models in memory."""
    wide = [model.double().eval() for model in models]
    tensors = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in wide]
    mixed = {}
    for name, first in tensors[0].items():
        every = torch.stack([t[name].detach() for t in tensors])
        mixed[name] = torch.tensordot(coefficients(name), every, dims=1) if first.is_floating_point() else every[0]
    inputs = {name: t.double() if t.is_floating_point() else t for name, t in batch.items()}
    value = loss(torch.func.functional_call(wide[0], mixed, (), kwargs=inputs).logits)
    value.backward()
    return value.detach()


def batch_of_text(rows: int = 6, words: int = VOCAB) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, words, (rows, 9), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 1  # T5 wants its end-of-sequence token in every row
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def batch_of_images(rows: int = 6) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1))}


def noisy(make: Callable[..., Path], folder: Path, count: int = 4) -> list[Path]:
    start = make(folder / "start")
    made = [near(start, folder / f"n{i}", seed=i, spread=0.1) for i in range(count)]
    for i, place in enumerate(made):  # BatchNorm's statistics differ too
        weights = load_file(place / "model.safetensors")
        changed = {n: w * np.float32(1 + i / 10) if "running" in n else w for n, w in weights.items()}
        save_file(changed, place / "model.safetensors", metadata={"format": "pt"})
    return made


ARCHITECTURES = [
    (tiny_bert, AutoModelForSequenceClassification, batch_of_text()),
    (tiny_t5, AutoModelForSequenceClassification, batch_of_text(words=40)),
    (tiny_vit, AutoModelForImageClassification, batch_of_images()),
    (tiny_resnet, AutoModelForImageClassification, batch_of_images()),
]


@pytest.mark.parametrize("sign", ["softmax", "free"])
@pytest.mark.parametrize("per", ["ingredient", "tensor"])
@pytest.mark.parametrize(("make", "auto", "batch"), ARCHITECTURES, ids=["bert", "t5", "vit", "resnet"])
def test_gradients_are_those_of_all_models_held_in_memory(make, auto, batch, per, sign, tmp_path: Path) -> None:
    folders = noisy(make, tmp_path)
    labels = torch.arange(6) % 2

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels)

    live = auto.from_pretrained(folders[1])
    mixture = LiveMixture(live, [Checkpoint(f) for f in folders])
    rows = mixture.tensors if per == "tensor" else 1
    raw = descent.start(sign, rows, 4) + 0.3 * np.random.default_rng(0).normal(size=(rows, 4))
    if sign == "free":  # coefficients sum to 1
        raw += (1 - raw.sum(axis=1, keepdims=True)) / 4
    with mixture.with_gradients():
        mixture.fill(descent.coefficients(sign, raw))
        measured = loss(live(**batch).logits)
        measured.backward()
        lean = descent.gradient(sign, raw, mixture.products())

    asked = torch.from_numpy(raw if sign == "softmax" else np.zeros_like(raw)).requires_grad_()
    order = {id(part.parameter): i for i, part in enumerate(mixture.learned)}
    place = {name: order[id(parameter)] for name, parameter in live.named_parameters()}
    sizes = torch.tensor([float(part.flat.size) for part in mixture.learned], dtype=torch.float64)
    now = torch.from_numpy(raw)

    def coefficients(name: str) -> torch.Tensor:
        shares = now * (1 - asked.sum(dim=1, keepdim=True)) + asked  # w + sum(s_i (theta_i - w)) at s = 0
        every = torch.softmax(asked, dim=1) if sign == "softmax" else shares
        if rows == 1:
            return every[0] if name in place else every[0].detach()
        return every[place[name]] if name in place else (sizes @ every.detach()) / sizes.sum()

    expected = stacked([auto.from_pretrained(f) for f in folders], coefficients, loss, batch)
    # float32 weights and activations against float64: a relative rounding error of 6e-8 each, over a few hundred steps
    assert measured.item() == pytest.approx(expected.item(), rel=1e-5)
    difference = np.linalg.norm(lean - asked.grad.numpy()) / np.linalg.norm(asked.grad.numpy())
    assert difference < 1e-5


def test_products_are_those_of_the_files_whatever_their_dtype(pile: Path, tmp_path: Path) -> None:
    narrow = AutoModelForSequenceClassification.from_pretrained(pile / "m2").to(torch.bfloat16)
    narrow.save_pretrained(tmp_path / "narrow")
    narrow.float().save_pretrained(tmp_path / "widened")
    first = Checkpoint(pile / "m1")
    halves = products([first, Checkpoint(tmp_path / "narrow")], pile)
    np.testing.assert_array_equal(halves, products([first, Checkpoint(tmp_path / "widened")], pile))


def test_products_are_those_of_the_head_in_the_order_of_its_labels(pile: Path, tmp_path: Path) -> None:
    turned = Path(shutil.copytree(pile / "m2", tmp_path / "turned"))
    weights = load_file(turned / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][::-1].copy()
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    label(turned, ("b", "a"))
    aligned = products([Checkpoint(pile / "m1"), Checkpoint(turned).with_labels(("a", "b"))], pile)
    # a head read in two pieces is summed up in another order
    np.testing.assert_allclose(aligned, products([Checkpoint(pile / "m1"), Checkpoint(pile / "m2")], pile), rtol=1e-5)


def products(checkpoints: Sequence[Checkpoint], pile: Path, dtype: torch.dtype = torch.float32) -> np.ndarray:
    live = AutoModelForSequenceClassification.from_pretrained(pile / "m1").to(dtype)
    mixture = LiveMixture(live, checkpoints, threads=1)
    with mixture.with_gradients():
        mixture.fill(np.full((1, len(checkpoints)), 1 / len(checkpoints)))
        torch.nn.functional.cross_entropy(live(**batch_of_text()).logits, torch.arange(6) % 2).backward()
        return mixture.products()


def test_a_model_that_is_not_float32_on_the_cpu_is_filled_through_a_copy(pile: Path, pool: list[Checkpoint]) -> None:
    np.testing.assert_allclose(products(pool, pile, torch.float64), products(pool, pile), rtol=2e-3, atol=1e-6)


def test_an_ingredient_left_out_has_no_product_and_the_others_are_the_same(pile: Path, pool: list[Checkpoint]) -> None:
    live = AutoModelForSequenceClassification.from_pretrained(pile / "m1")
    mixture = LiveMixture(live, pool)
    with mixture.with_gradients():
        mixture.fill(np.full((1, 4), 0.25))
        live(**batch_of_text()).logits.sum().backward()
        every, some = mixture.products(), mixture.products(only=[1, 3])
    np.testing.assert_array_equal(some[:, [1, 3]], every[:, [1, 3]])
    assert not some[:, [0, 2]].any()
    assert every[:, [0, 2]].any()


@pytest.mark.parametrize("per", ["ingredient", "tensor"])
def test_a_mixture_that_is_moved_is_the_one_mixed_anew(pile: Path, pool: list[Checkpoint], per: str) -> None:
    live = AutoModelForSequenceClassification.from_pretrained(pile / "m1")
    mixture = LiveMixture(live, pool)
    rows = mixture.tensors if per == "tensor" else 1
    change = np.zeros((rows, 4))
    change[:, 1], change[:, 2] = 0.2, np.linspace(-0.1, 0.3, rows)
    before = np.full((rows, 4), 0.25)
    after = descent.moved("free", before, change)
    np.testing.assert_allclose(after.sum(axis=1), 1)
    mixture.fill(before)
    mixture.move(change, after)
    moved = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    mixture.fill(after)
    for name, tensor in live.state_dict().items():  # weights are below 10: a few roundings of 5e-7
        torch.testing.assert_close(moved[name], tensor, rtol=1e-6, atol=5e-6, msg=name)


def test_adamw_takes_the_steps_of_torch() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=5)
    theirs = torch.tensor(values, requires_grad=True)
    optimizer = torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.1)
    mine = descent.AdamW.of(5, 0.05, 0.1)
    for _ in range(20):
        gradient = random.normal(size=5)
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
        mine, change = mine.step(values, gradient, np.ones(5, dtype=bool))
        values = values + change
    np.testing.assert_allclose(values, theirs.detach().numpy(), rtol=1e-12)


def test_a_number_that_a_step_leaves_out_stays_and_keeps_its_moments() -> None:
    used = np.array([True, False])
    one, change = descent.AdamW.of(2, 0.1).step(np.zeros(2), np.ones(2), np.ones(2, dtype=bool))
    two, second = one.step(change, np.ones(2), used)
    assert second[1] == 0
    assert (two.first[1], two.second[1], two.steps.tolist()) == (one.first[1], one.second[1], [2, 1])


# What is learned.


QUICK: dict[str, Any] = {"batch_size": 16, "learning_rate": 0.3}
WAYS = [
    {},
    {"per": "tensor"},
    {"sign": "free", "learning_rate": 0.05},
    {"sign": "free", "per": "tensor", "learning_rate": 0.05},
    {"sign": "free", "models_at_once": 2, "learning_rate": 0.05},
    {"sign": "free", "per": "tensor", "models_at_once": 3, "learning_rate": 0.05},
]
NAMES = ["softmax", "softmax-by-tensor", "free", "free-by-tensor", "free-in-batches", "free-by-tensor-in-batches"]


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_weight_moves_to_the_good_ingredient(pool: list[Checkpoint], scorer: SoupScorer, way: dict[str, Any]) -> None:
    soup = learned(pool, scorer, **{**QUICK, **way})
    assert soup.coefficients[0] > 0.3  # from 0.25
    assert max(soup.coefficients) == soup.coefficients[0]
    assert soup.scores["score"] == soup.scores["learned"] < soup.scores["uniform"]  # nll
    assert soup.scores["score"] == scorer(soup)
    about = soup.about["learned"]
    assert about["kept"] == "learned"
    assert about["why"].startswith("learned kept: nll ")
    losses = [epoch["held_out_nll"] for epoch in about["history"]]
    assert losses[about["best_epoch"]] == min(losses) < losses[0]
    rows = [soup.coefficients] if soup.by_tensor is None else list(soup.by_tensor.values())
    assert (soup.by_tensor is not None) == (way.get("per") == "tensor")
    for row in rows:
        assert sum(row) == pytest.approx(1, abs=1e-9)
        assert way.get("sign") == "free" or min(row) > 0


def test_the_method_is_named_after_what_was_asked(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    one_step = {"epochs": 1, "batch_size": 60}
    methods = [learned(pool[:2], scorer, **way, **one_step).method for way in WAYS[:4]]
    assert methods == ["learned", "learned-by-tensor", "learned-free", "learned-free-by-tensor"]


def test_free_signs_can_leave_the_simplex(pile: Path, tmp_path: Path) -> None:
    """The teacher lies beyond m_a, seen from m_b: only a negative coefficient gets there."""
    away = near(pile / "start", tmp_path / "b", seed=5, spread=0.9)
    start, far = (load_file(f / "model.safetensors") for f in (pile / "start", away))
    halfway = {n: w + np.float32(0.4) * (far[n] - w) if w.dtype.kind == "f" else w for n, w in start.items()}
    shutil.copytree(away, tmp_path / "a")
    save_file(halfway, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    pool = [Checkpoint(tmp_path / "a"), Checkpoint(away)]
    soup = learned(pool, scorer_of(pile / "start", away), sign="free", learning_rate=0.1, batch_size=16, epochs=8)
    assert soup.coefficients[0] > 1
    assert soup.coefficients[1] < 0


@pytest.mark.parametrize("way", WAYS[:4], ids=NAMES[:4])
@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_it_never_scores_below_the_uniform_soup(
    pool: list[Checkpoint], scorer: SoupScorer, metric: str, way: dict[str, Any]
) -> None:
    """Not with a learning rate that throws the coefficients about, either."""
    scorer = replace(scorer, metric=METRICS[metric])
    soup = learned(pool, scorer, **{**way, "learning_rate": 5.0}, batch_size=16, epochs=2, holdout=0)
    assert soup.scores["score"] == scorer(soup)
    assert METRICS[metric].rank(scorer(soup)) >= METRICS[metric].rank(scorer(uniform(pool)))


@pytest.mark.parametrize("way", WAYS[:2], ids=NAMES[:2])
def test_a_lower_score_falls_back_to_uniform_and_says_so(
    pool: list[Checkpoint], scorer: SoupScorer, way: dict[str, Any]
) -> None:
    worse_is_better = Metric("doubt", 1, METRICS["nll"].compute)
    contrary = replace(scorer, metric=worse_is_better)
    soup = learned(pool, contrary, **{**QUICK, **way})
    assert soup.is_uniform
    assert soup.method == ("learned" if way == {} else "learned-by-tensor")
    assert soup.about["learned"]["kept"] == "uniform"
    assert soup.about["learned"]["why"].startswith("learned fell back to uniform: doubt ")
    assert soup.scores["score"] == soup.scores["uniform"] > soup.scores["learned"]


def test_ties_are_broken_as_the_scorer_breaks_them(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    always_one = Metric("one", 1, lambda _: 1.0)
    doubt = Metric("doubt", 1, METRICS["nll"].compute)
    assert not learned(pool, replace(scorer, metric=always_one), **QUICK).is_uniform
    assert learned(pool, replace(scorer, metric=always_one, tie_break=doubt), **QUICK).is_uniform


def test_it_stops_when_the_held_out_loss_no_longer_falls(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    soup = learned(pool, scorer, batch_size=16, learning_rate=20.0, epochs=30, patience=3)
    about = soup.about["learned"]
    assert about["stopped"] == f"the held-out loss has not fallen since epoch {about['best_epoch']}"
    assert about["epochs_run"] == about["best_epoch"] + 3 < 30
    losses = [epoch["held_out_nll"] for epoch in about["history"]]
    assert min(losses) == losses[about["best_epoch"]]


def test_held_out_rows_come_from_every_class_and_are_not_learned_from(
    pool: list[Checkpoint], scorer: SoupScorer
) -> None:
    fed = CountedRows(scorer.encoded)
    learned(pool, replace(scorer, encoded=fed), batch_size=16, epochs=1, holdout=0.25)
    # the uniform and the learned soup are scored on all rows, and the held-out loss is measured at the start and after
    held_out = {row for row, times in fed.times.items() if times == 4}
    learned_from = {row for row, times in fed.times.items() if times == 3}
    assert len(held_out) == 15
    assert held_out | learned_from == set(range(ROWS))
    assert abs(scorer.split.labels[sorted(held_out)].mean() - 0.5) < 0.1


def test_micro_batches_add_up_to_the_batch(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    whole, pieces = (learned(pool, scorer, **QUICK, rows_at_once=n, epochs=1, holdout=0) for n in (16, 3))
    np.testing.assert_allclose(whole.coefficients, pieces.coefficients, rtol=1e-4)


def test_each_step_is_told(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    told: list[LearnedStep] = []
    soup = learned(pool, scorer, **QUICK, epochs=2, on_step=told.append)
    assert [t.step for t in told] == list(range(1, 7))  # 48 rows: 3 batches of 16 in each epoch
    assert [t.epoch for t in told] == [1, 1, 1, 2, 2, 2]
    assert {t.steps for t in told} == {6}
    assert [t.held_out is not None for t in told] == [False, False, True] * 2
    history = soup.about["learned"]["history"]
    assert [t.held_out for t in told if t.held_out] == [epoch["held_out_nll"] for epoch in history[1:]]
    assert history[1]["loss"] == pytest.approx(np.mean([t.loss for t in told[:3]]))
    assert told[-1].logit_scale == history[2]["logit_scale"] != 1
    if soup.about["learned"]["best_epoch"] == 2:
        assert told[-1].coefficients == soup.coefficients


def test_the_model_is_put_back_as_it_was(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    frozen = next(scorer.model.parameters()).requires_grad_(False)
    scorer.model.train()
    learned(pool, scorer, **QUICK, epochs=1)
    assert scorer.model.training
    assert not frozen.requires_grad
    assert sum(p.requires_grad for p in scorer.model.parameters()) == len(list(scorer.model.parameters())) - 1
    assert all(p.grad is None for p in scorer.model.parameters())


def test_one_ingredient_is_returned_as_it_is(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    soup = learned(pool[:1], scorer)
    assert soup.coefficients == (1.0,)
    assert soup.scores["score"] == scorer(uniform(pool[:1]))
    assert "nothing to learn" in soup.about["learned"]["why"]


@pytest.mark.parametrize("way", WAYS[:4], ids=NAMES[:4])
def test_the_saved_soup_answers_as_the_live_one(
    pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path, way: dict[str, Any]
) -> None:
    soup = learned(pool, scorer, **{**QUICK, **way}, epochs=2)
    assert not soup.is_uniform
    folder = soup.save_pretrained(tmp_path / "soup")
    scorer.load(soup)
    saved = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        expected = scorer.model(**batch_of_text()).logits
        torch.testing.assert_close(saved(**batch_of_text()).logits, expected, rtol=0, atol=1e-5)
    record = json.loads((folder / "soup.json").read_text())
    assert record["learned"] == json.loads(json.dumps(soup.about["learned"]))
    assert ("coefficients_by_tensor" in record) == (way.get("per") == "tensor")


def test_tied_weights_stored_under_two_names_are_learned_once(pile: Path, tmp_path: Path) -> None:
    folders = noisy(tiny_t5, tmp_path, 2)
    first, second = "transformer.shared.weight", "transformer.encoder.embed_tokens.weight"
    for folder in folders:
        weights = load_file(folder / "model.safetensors")
        weights[second] = weights[first].copy()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    pool = [Checkpoint(folder) for folder in folders]
    mixture = LiveMixture(AutoModelForSequenceClassification.from_pretrained(folders[0]), pool)
    names = [part.name for part in mixture.learned]
    assert len({first, second} & set(names)) == 1
    rows = mixture.by_name(np.random.default_rng(0).uniform(size=(len(names), 2)))
    assert rows[first] == rows[second]
    assert set(rows) == set(pool[0].tensors)


def test_statistics_take_the_mean_coefficients_over_all_parameters(tmp_path: Path) -> None:
    folders = noisy(tiny_resnet, tmp_path, 2)
    live = AutoModelForImageClassification.from_pretrained(folders[0])
    mixture = LiveMixture(live, [Checkpoint(f) for f in folders])
    rows = np.random.default_rng(0).uniform(size=(mixture.tensors, 2))
    by_name = mixture.by_name(rows)
    name = next(name for name in by_name if name.endswith("running_mean"))
    sizes = [part.flat.size for part in mixture.learned]
    np.testing.assert_allclose(by_name[name], np.average(rows, axis=0, weights=sizes))
    mixture.fill(rows)
    stored = [load_file(folder / "model.safetensors")[name] for folder in folders]
    expected = by_name[name][0] * stored[0] + by_name[name][1] * stored[1]
    np.testing.assert_allclose(live.state_dict()[name].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("per", ["ingredient", "tensor"])
def test_a_soup_of_models_with_batchnorm_is_learned_and_saved(tmp_path: Path, per: Any) -> None:
    pool = [Checkpoint(folder) for folder in noisy(tiny_resnet, tmp_path, 3)]
    live = AutoModelForImageClassification.from_pretrained(pool[0].source)
    ids = np.arange(30, dtype=np.int64)
    labels = np.random.default_rng(0).integers(0, 3, 30)
    split = Split.of("select", Dataset.from_dict({"row": ids}), ids, labels, ("a", "b", "c"), "random")
    scorer = SoupScorer(Vision(), live, Pixels(ids), split, METRICS["nll"], LiveMixer(live))
    soup = learned(pool, scorer, per=per, learning_rate=0.3, batch_size=10)
    folder = soup.save_pretrained(tmp_path / "soup")
    scorer.load(soup)
    saved = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = live.eval()(**batch_of_images()).logits
        torch.testing.assert_close(saved(**batch_of_images()).logits, expected, rtol=1e-5, atol=1e-5)
    assert soup.about["learned"]["kept"] == "learned"


# Killed and taken up again.


class KilledError(Exception):
    """Stands for a kill."""


def killed_at(step: int) -> Callable[[LearnedStep], None]:
    def on_step(told: LearnedStep) -> None:
        if told.step == step:
            raise KilledError

    return on_step


@pytest.mark.parametrize("way", [*WAYS[:2], *WAYS[4:]], ids=[*NAMES[:2], *NAMES[4:]])
def test_a_job_that_was_killed_ends_as_if_it_had_not_been(
    pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REBUILD", 2)
    asked = {**QUICK, **way, "epochs": 2, "patience": 5}
    whole = learned(pool, scorer, **asked)
    for step in (1, 3, 5):
        state = tmp_path / f"{step}.json"
        with pytest.raises(KilledError):
            learned(pool, scorer, **asked, state=state, on_step=killed_at(step))
        scorer.mixer.load(pool[3:], [1.0])  # the new process loads any ingredient as its live model
        told: list[int] = []
        rest = learned(pool, scorer, **asked, state=state, on_step=lambda t, told=told: told.append(t.step))
        assert rest.weights == whole.weights  # bit for bit
        assert (rest.scores, rest.about) == (whole.scores, whole.about)
        # in batches of models it is saved after steps 2, 3 (the epoch's last), 4 and 6 only
        done = {1: 0, 3: 3, 5: 4}[step] if "models_at_once" in way else step
        assert told == list(range(done + 1, 7))
    again = learned(pool, scorer, **asked, state=state, on_step=killed_at(6))
    assert again.weights == whole.weights


@pytest.mark.parametrize(
    ("change", "pool_of"),
    [({"seed": 1}, 4), ({"per": "tensor"}, 4), ({"learning_rate": 0.2}, 4), ({}, 3)],
    ids=["seed", "per", "rate", "pool"],
)
def test_the_state_of_another_job_is_refused(
    pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path, change: dict[str, Any], pool_of: int
) -> None:
    state = tmp_path / "state.json"
    learned(pool, scorer, **QUICK, epochs=1, state=state)
    with pytest.raises(InputError, match="the state of another learned soup: of other ingredients, rows or options"):
        learned(pool[:pool_of], scorer, **{**QUICK, "epochs": 1, **change}, state=state)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}'])
def test_a_file_that_is_no_state_is_refused(
    pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path, text: str
) -> None:
    state = tmp_path / "state.json"
    state.write_text(text)
    with pytest.raises(InputError, match=r"state\.json: .*(no valid JSON|the state of a learned soup)"):
        learned(pool, scorer, state=state)


@pytest.mark.parametrize(
    ("name", "value"), [("step", float("inf")), ("best_epoch", 7), ("values", [1.0]), ("losses", [float("nan")])]
)
def test_a_state_with_a_spoilt_value_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    path, optimizer = tmp_path / "state.json", AdamW.of(2, 0.1)
    State(np.zeros(2), optimizer, (0.5,)).save(path, "key")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InputError, match=r"state\.json: not .*the state of a learned soup"):
        load(path, "key", optimizer)


# What goes wrong.


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"per": "layer"}, "per is 'layer'; expected 'ingredient' or 'tensor'"),
        ({"sign": "positive"}, "sign is 'positive'; expected 'softmax' or 'free'"),
        ({"models_at_once": 2}, "a softmax ties every coefficient to all the others"),
        ({"models_at_once": 0, "sign": "free"}, "models_at_once is 0; expected 1 or more"),
        ({"holdout": 1.0}, "holdout is 1.0; expected a share"),
        ({"holdout": -0.1}, "holdout is -0.1; expected a share"),
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rows_at_once": 0}, "rows_at_once is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
        ({"weight_decay": 0.1, "sign": "free"}, "free coefficients sum to 1 and have no zero to decay to"),
    ],
    ids=lambda x: "" if isinstance(x, str) else "-".join(x),
)
def test_wrong_options_are_told(pool: list[Checkpoint], scorer: SoupScorer, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        learned(pool, scorer, **wrong)


def test_no_ingredient_is_told(scorer: SoupScorer) -> None:
    with pytest.raises(InputError, match="learned needs at least one ingredient, got none"):
        learned([], scorer)


def test_too_few_rows_are_told(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    one = replace(
        scorer,
        split=scorer.split.take([0]),
        encoded=EncodedTexts(
            np.arange(1), np.arange(5, 9, dtype=np.int32), np.array([0, 4]), None, pad=0, pad_type=0, pad_left=False
        ),
    )
    with pytest.raises(InputError, match=r"1 rows to learn from, of which a share of 0\.2 is held out: too few"):
        learned(pool, one)


def test_an_ingredient_that_changes_between_two_steps_is_an_error(
    pile: Path, pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path
) -> None:
    copies = [Checkpoint(shutil.copytree(c.source, tmp_path / c.name)) for c in pool]

    def touch(told: LearnedStep) -> None:
        near(pile / "start", tmp_path / "new", seed=9)
        shutil.copy(tmp_path / "new" / "model.safetensors", copies[2].folder)

    with pytest.raises(CheckpointError, match=r"m2/model\.safetensors: changed while it was in use"):
        learned(copies, scorer, **QUICK, on_step=touch)


def test_an_ingredient_that_disappears_is_an_error(pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path) -> None:
    copies = [Checkpoint(shutil.copytree(c.source, tmp_path / c.name)) for c in pool]
    with pytest.raises(CheckpointError, match=r"m1/model\.safetensors: no such file"):
        learned(copies, scorer, **QUICK, on_step=lambda _: (copies[1].folder / "model.safetensors").unlink())


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_a_loss_that_is_not_finite_at_once_leaves_the_uniform_soup(
    pool: list[Checkpoint], scorer: SoupScorer, holdout: float
) -> None:
    soup = learned(pool, replace(scorer, family=Breaking(after=1)), **QUICK, holdout=holdout)
    assert soup.is_uniform
    assert soup.about["learned"]["stopped"] == "the loss or its gradient was not finite at step 2"
    assert soup.about["learned"]["why"].endswith("not finite at step 2")
    assert soup.scores["score"] == scorer(uniform(pool))


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_a_loss_that_is_not_finite_later_leaves_the_best_epoch(
    pool: list[Checkpoint], scorer: SoupScorer, holdout: float
) -> None:
    told: list[LearnedStep] = []
    breaking = replace(scorer, family=Breaking(after=5))
    soup = learned(pool, breaking, **QUICK, holdout=holdout, on_step=told.append)
    assert soup.about["learned"]["stopped"] == "the loss or its gradient was not finite at step 6"
    assert soup.about["learned"]["best_epoch"] == 1
    assert soup.coefficients == told[3 if holdout == 0 else 2].coefficients  # after the epoch's last step
    assert np.isfinite(soup.scores["score"])
    assert np.isnan(told[-1].loss)


def test_a_gradient_that_is_not_finite_ends_learning(
    pool: list[Checkpoint], scorer: SoupScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveMixture, "products", lambda self, only: np.full((self.tensors, 4), np.inf))
    soup = learned(pool, scorer, **QUICK)
    assert soup.is_uniform
    assert soup.about["learned"]["stopped"] == "the loss or its gradient was not finite at step 1"


def test_a_uniform_soup_that_answers_nan_is_an_error(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    with pytest.raises(HfSoupsError, match="the uniform soup of 4 ingredients has no score"):
        learned(pool, replace(scorer, family=AnswersNaN()))


def test_an_ingredient_with_nan_is_named(pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path) -> None:
    broken = Checkpoint(shutil.copytree(pool[1].source, tmp_path / "broken"))
    weights = load_file(broken.folder / "model.safetensors")
    weights["classifier.bias"][0] = np.nan
    save_file(weights, broken.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"classifier\.bias.*holds NaN or infinity"):
        LiveMixture(scorer.model, [pool[0], broken]).fill(np.full((1, 2), 0.5))


def test_another_architecture_is_told(pile: Path, tmp_path: Path) -> None:
    live = AutoModelForSequenceClassification.from_pretrained(tiny_bert(tmp_path / "three", labels=3))
    with pytest.raises(IncompatibleCheckpoints, match=r"'classifier\.\w+' has shape \(2,.*but the model's has \(3,"):
        LiveMixture(live, [Checkpoint(pile / "m0")])
    bare = AutoModelForSequenceClassification.from_pretrained(pile / "m0").bert
    with pytest.raises(IncompatibleCheckpoints, match="of its tensors are unknown to BertModel"):
        LiveMixture(bare, [Checkpoint(pile / "m0")])


class Pixels:
    """Random images."""

    def __init__(self, ids: np.ndarray) -> None:
        self.row_ids, self.lengths = ids, np.ones(len(ids), dtype=np.int64)
        self._pixels = torch.randn(len(ids), 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.row_ids)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"pixel_values": self._pixels[torch.from_numpy(np.asarray(indices))]}


class CountedRows:
    """Encoded rows that count how often each is fed."""

    def __init__(self, encoded: EncodedTexts) -> None:
        self._encoded = encoded
        self.row_ids, self.lengths = encoded.row_ids, encoded.lengths
        self.times: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._encoded)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        self.times.update(int(i) for i in indices)
        return self._encoded.batch(indices)


class Breaking:
    """The encoders' family, but with gradients asked all answers are NaN after some batches."""

    name = "encoder"

    def __init__(self, after: int) -> None:
        self._left = after

    def logits(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        answered = Encoders().logits(model, batch)
        if not torch.is_grad_enabled():
            return answered
        self._left -= 1
        return answered if self._left >= 0 else answered * torch.nan


class AnswersNaN:
    """The encoders' family with NaN for every answer."""

    name = "encoder"

    def logits(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return Encoders().logits(model, batch) * torch.nan
