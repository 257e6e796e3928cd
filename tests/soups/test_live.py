"""The live model answers as the saved mixture, loaded by transformers, and members are not read twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, IncompatibleCheckpoints, InputError
from hf_soups.files import weights as weight_files
from hf_soups.soups.mixing import mix_to_folder
from hf_soups.soups.mixing.live import LiveMixer, slots_by_disk_name
from tests.makers.folders import folder_of
from tests.makers.tiny import (
    tiny_bert,
    tiny_distilbert,
    tiny_efficientnet,
    tiny_mobilenet_v2,
    tiny_resnet,
    tiny_roberta,
    tiny_swin,
    tiny_vit,
)


def tiny_t5(path: Path, seed: int = 0) -> Path:
    """Tied weights: `shared` stands for both embeddings."""
    from transformers import T5Config, T5ForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForSequenceClassification(
            T5Config(
                vocab_size=40,
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=1,
                num_decoder_layers=1,
                num_heads=2,
                decoder_start_token_id=0,
            )
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    return path


TEXT: list[Callable[..., Path]] = [tiny_bert, tiny_distilbert, tiny_roberta, tiny_t5]
IMAGE: list[Callable[..., Path]] = [tiny_vit, tiny_swin, tiny_resnet, tiny_efficientnet, tiny_mobilenet_v2]


def load(build: Callable[..., Path], folder: Path, **how: Any) -> Any:
    auto = AutoModelForSequenceClassification if build in TEXT else AutoModelForImageClassification
    return auto.from_pretrained(folder, **how).eval()


def logits(build: Callable[..., Path], model: Any) -> torch.Tensor:
    made = torch.Generator().manual_seed(7)
    if build in TEXT:
        ids = torch.randint(5, 30, (3, 9), generator=made)
        ids[:, -1] = 1  # T5 wants its end-of-sequence token in every row
        fed: dict[str, torch.Tensor] = {"input_ids": ids}
    else:
        fed = {"pixel_values": torch.randn(3, 3, 32, 32, generator=made).to(model.dtype)}
    with torch.inference_mode():
        answered: torch.Tensor = model(**fed).logits
    return answered.to(torch.float32)


def saved(build: Callable[..., Path], members: Sequence[Checkpoint], coefficients: Sequence[float], out: Path) -> Any:
    mix_to_folder(members, coefficients, out)
    (out / "config.json").write_bytes((members[0].folder / "config.json").read_bytes())
    return load(build, out)


def pool(build: Callable[..., Path], path: Path, size: int = 3) -> list[Checkpoint]:
    return [Checkpoint(build(path / f"run_{seed}", seed=seed)) for seed in range(size)]


@pytest.mark.parametrize("build", [*TEXT, *IMAGE])
def test_live_logits_are_those_of_the_saved_soup(build: Callable[..., Path], tmp_path: Path) -> None:
    a, b, c = pool(build, tmp_path)
    model = load(build, a.folder)
    mixer = LiveMixer(model)
    assert slots_by_disk_name(model) is not None
    before = logits(build, model)
    steps: list[tuple[list[Checkpoint], Checkpoint | None]] = [([], b), ([b], a), ([b], c), ([b, c], a), ([b, c], None)]
    for i, (members, candidate) in enumerate(steps):
        mixer.set_uniform(members, candidate)
        together = [*members, *([] if candidate is None else [candidate])]
        soup = saved(build, together, [1 / len(together)] * len(together), tmp_path / f"uniform_{i}")
        assert (logits(build, model) - logits(build, soup)).abs().max() <= 1e-6
    mixer.load([a, b, c], (0.5, 0.8, -0.3))
    soup = saved(build, [a, b, c], (0.5, 0.8, -0.3), tmp_path / "weighted")
    assert torch.equal(logits(build, model), logits(build, soup))
    mixer.load([a], (1.0,))
    assert torch.equal(logits(build, model), before)
    assert not torch.allclose(before, logits(build, soup), atol=1e-4)  # or nothing was tested


@pytest.mark.parametrize("build", [tiny_bert, tiny_vit])
@pytest.mark.parametrize("live_dtype", [torch.bfloat16, torch.float32])
def test_files_in_bfloat16_give_the_same_live_and_saved(
    build: Callable[..., Path], live_dtype: torch.dtype, tmp_path: Path
) -> None:
    folders = [build(tmp_path / f"f32_{seed}", seed=seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        load(build, folder, dtype=torch.bfloat16).save_pretrained(tmp_path / f"run_{seed}")
    members = [Checkpoint(tmp_path / f"run_{seed}") for seed in range(3)]
    assert {info.dtype for info in members[0].tensors.values()} == {"BF16"}
    model = load(build, members[0].folder, dtype=live_dtype)
    LiveMixer(model).set_uniform(members[:2], members[2])
    soup = saved(build, members, [1 / 3] * 3, tmp_path / "out").to(live_dtype)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), soup.state_dict().values(), strict=True))
    assert torch.equal(logits(build, model), logits(build, soup))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    a, b, _ = pool(tiny_t5, tmp_path)
    model = load(tiny_t5, a.folder)
    LiveMixer(model).set_uniform([a], b)
    embeddings = {
        t.data_ptr() for n, t in model.state_dict().items() if n.endswith(("shared.weight", "embed_tokens.weight"))
    }
    assert len(embeddings) == 1


# How much is read.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes read of each run, as multiples of its size."""
    read: Counter[str] = Counter()
    whole = weight_files.read_exactly

    def counted(file: int, into: memoryview, offset: int, path: Path) -> None:
        read[path.parent.name] += len(into)
        whole(file, into, offset, path)

    monkeypatch.setattr("hf_soups.soups.mixing.blocks.read_exactly", counted)
    return read


def test_accepted_members_are_read_once_and_each_candidate_once(tmp_path: Path, opened: Counter[str]) -> None:
    runs = pool(tiny_bert, tmp_path, size=5)
    size = runs[0].total_bytes
    mixer = LiveMixer(load(tiny_bert, runs[0].folder))
    members = [runs[0]]
    for candidate in runs[1:]:  # greedy that accepts every other one
        mixer.set_uniform(members, candidate)
        if candidate in runs[1::2]:
            members.append(candidate)
    mixer.set_uniform(members)
    assert members == [runs[0], runs[1], runs[3]]
    # a candidate is read to be tried; an accepted one once more, to be added to the kept sum
    assert {run: count / size for run, count in opened.items()} == {
        "run_0": 1, "run_1": 2, "run_2": 1, "run_3": 2, "run_4": 1,
    }  # fmt: skip


def test_other_members_start_a_new_sum(tmp_path: Path, opened: Counter[str]) -> None:
    a, b, c = pool(tiny_bert, tmp_path)
    model = load(tiny_bert, a.folder)
    mixer = LiveMixer(model)
    mixer.set_uniform([a, b], c)
    mixer.set_uniform([c], a)
    assert opened["run_2"] == 2 * c.total_bytes
    soup = saved(tiny_bert, [c, a], (0.5, 0.5), tmp_path / "out")
    assert (logits(tiny_bert, model) - logits(tiny_bert, soup)).abs().max() <= 1e-6


def test_loading_a_mixture_leaves_the_running_sum(tmp_path: Path, opened: Counter[str]) -> None:
    a, b, c = pool(tiny_bert, tmp_path)
    mixer = LiveMixer(load(tiny_bert, a.folder))
    mixer.set_uniform([a, b])
    mixer.load([c], (1.0,))
    mixer.set_uniform([], c)
    opened.clear()
    mixer.set_uniform([a, b], c)
    assert set(opened) == {"run_2"}


# What transformers converts, and what is refused.


def test_names_of_older_files_go_through_transformers(tmp_path: Path) -> None:
    """LayerNorm.gamma and beta, as the first BERTs were published, and a buffer that models no longer have."""
    from safetensors.torch import load_file

    runs = pool(tiny_bert, tmp_path)
    older = []
    for run in runs:
        stored = load_file(run.folder / "model.safetensors")
        renamed = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
                   for n, t in stored.items()}  # fmt: skip
        renamed["bert.embeddings.position_ids"] = torch.arange(64)
        older.append(Checkpoint(folder_of(tmp_path / f"old_{run.name}", renamed, config=run.config)))
    model = load(tiny_bert, runs[0].folder)
    LiveMixer(model).set_uniform(older[:2], older[2])
    soup = saved(tiny_bert, runs, [1 / 3] * 3, tmp_path / "out")
    assert (logits(tiny_bert, model) - logits(tiny_bert, soup)).abs().max() <= 1e-6


def test_a_conversion_that_is_no_renaming_goes_through_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = pool(tiny_bert, tmp_path)
    model = load(tiny_bert, a.folder)
    monkeypatch.setattr(
        "transformers.core_model_loading.revert_weight_conversion",
        lambda model, state: {name: tensor.clone() for name, tensor in state.items()},
    )
    assert slots_by_disk_name(model) is None
    LiveMixer(model).set_uniform([a], b)
    soup = saved(tiny_bert, [a, b], (0.5, 0.5), tmp_path / "out")
    assert torch.equal(logits(tiny_bert, model), logits(tiny_bert, soup))


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    a, _, _ = pool(tiny_bert, tmp_path)
    wider = Checkpoint(tiny_bert(tmp_path / "wider", labels=5))
    mixer = LiveMixer(load(tiny_bert, a.folder))
    with pytest.raises(IncompatibleCheckpoints, match=r"'classifier\.(weight|bias)' has shape \(5"):
        mixer.set_uniform([wider])
    with pytest.raises(IncompatibleCheckpoints, match="A soup needs one architecture and one head"):
        mixer.set_uniform([a], wider)
    with pytest.raises(CheckpointError, match=r"BertForSequenceClassification has \d+ tensors that it lacks"):
        mixer.set_uniform([Checkpoint(tiny_distilbert_in_berts_clothes(tmp_path, a))])
    with pytest.raises(InputError, match="give at least one member or a candidate"):
        mixer.set_uniform([])


def tiny_distilbert_in_berts_clothes(tmp_path: Path, bert: Checkpoint) -> Path:
    return folder_of(tmp_path / "lacking", {"classifier.weight": torch.ones(2, 32)}, config=bert.config)


def with_integers(run: Checkpoint, folder: Path, marks: Sequence[int]) -> Checkpoint:
    stored = {name: torch.from_numpy(run.read(name)) for name in run.tensors}
    return Checkpoint(folder_of(folder, {**stored, "marks": torch.tensor(marks)}, config=run.config))


def test_integers_that_differ_are_refused_without_reading_members_again(tmp_path: Path, opened: Counter[str]) -> None:
    runs = pool(tiny_bert, tmp_path)
    a, b = (with_integers(run, tmp_path / name, [1, 2, 3]) for run, name in zip(runs, ("a", "b"), strict=False))
    c = with_integers(runs[2], tmp_path / "c", [1, 2, 4])
    model = load(tiny_bert, runs[0].folder)
    model.register_buffer("marks", torch.zeros(3, dtype=torch.int64))
    mixer = LiveMixer(model)
    mixer.set_uniform([a], b)
    assert model.marks.tolist() == [1, 2, 3]
    mixer.set_uniform([a], b)
    assert opened["a"] == a.total_bytes
    with pytest.raises(IncompatibleCheckpoints, match="the integers of 'marks' differ from those of"):
        mixer.set_uniform([a], c)


def test_batchnorms_counters_are_the_first_members(tmp_path: Path) -> None:
    a, b, _ = pool(tiny_resnet, tmp_path)
    counters = [name for name in a.tensors if name.endswith("num_batches_tracked")]
    stored = {name: torch.from_numpy(b.read(name)) for name in b.tensors}
    later = Checkpoint(
        folder_of(tmp_path / "later", {**stored, **{n: torch.tensor(9) for n in counters}}, config=b.config)
    )
    model = load(tiny_resnet, a.folder)
    LiveMixer(model).set_uniform([later], a)
    assert counters
    assert all(model.state_dict()[name] == 9 for name in counters)


def test_a_broken_candidate_is_named_and_the_next_question_is_answered_right(tmp_path: Path) -> None:
    a, b, c = pool(tiny_bert, tmp_path)
    stored = {name: torch.from_numpy(b.read(name)) for name in b.tensors}
    stored["classifier.weight"][0, 0] = float("nan")
    broken = Checkpoint(folder_of(tmp_path / "broken", stored, config=b.config))
    model = load(tiny_bert, a.folder)
    mixer = LiveMixer(model)
    for members, candidate in (([a], broken), ([a, broken], c)):
        with pytest.raises(CheckpointError, match=r"broken/model.safetensors: tensor 'classifier.weight' holds NaN"):
            mixer.set_uniform(members, candidate)
    mixer.set_uniform([a], c)
    soup = saved(tiny_bert, [a, c], (0.5, 0.5), tmp_path / "out")
    assert (logits(tiny_bert, model) - logits(tiny_bert, soup)).abs().max() <= 1e-6
