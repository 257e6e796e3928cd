"""The merge engine against dense float64 sums, and what transformers says of what it wrote."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import IncompatibleCheckpoints, InputError
from hf_soups.files.dtypes import ITEM_BYTES
from hf_soups.soups.mixing import blocks, compiled, mix_tensor, mix_to_folder, spans
from tests.makers.folders import CONFIG, TORCH, folder_of, names_below
from tests.makers.tiny import tiny_bert, tiny_resnet, tiny_vit

FLOATS = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]
SHAPES = {"a.weight": (30, 7), "a.bias": (5,), "b.weight": (64,), "c": (), "empty": (0, 4)}
slow_fixture = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(autouse=True, params=[7, 128 * 1024], ids=["blocks-of-7", "blocks-of-131072"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim holds whether tensors are cut into many blocks or into one."""
    for module in (blocks, spans):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", request.param)


def ingredient(path: Path, seed: int, dtype: str = "F32", *, scale: float = 1.0, shards: int = 1) -> Checkpoint:
    made = torch.Generator().manual_seed(seed)
    tensors = {n: (torch.randn(s, generator=made) * scale).to(TORCH[dtype]) for n, s in SHAPES.items()}
    tensors["steps"] = torch.arange(6)
    return Checkpoint(folder_of(path / f"{seed}-{dtype}-{shards}", tensors, shards=shards))


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def mixed(out: Path, checkpoints: Sequence[Checkpoint], coefficients: object, **how: object) -> dict[str, torch.Tensor]:
    """The mixture, through a file that another library reads; the folder is free again afterwards."""
    mix_to_folder(checkpoints, coefficients, out, **how)  # type: ignore[arg-type]
    found = loaded(out)
    found = {name: tensor.clone() for name, tensor in found.items()}
    for file in out.iterdir():
        file.unlink()
    return found


def dense(
    checkpoints: Sequence[Checkpoint], coefficients: Sequence[float], name: str, *, absolute: bool = False
) -> np.ndarray:
    """The oracle: all tensors at once, in float64, by torch."""
    stored = [loaded(checkpoint.folder)[name].to(torch.float64).numpy() for checkpoint in checkpoints]
    stored = [np.abs(x) for x in stored] if absolute else stored
    return np.asarray(sum(c * x for c, x in zip(coefficients, stored, strict=True)))


def ulp(values: np.ndarray, dtype: str) -> np.ndarray:
    """The distance between neighbouring numbers of the dtype at these magnitudes."""
    about = torch.finfo(TORCH[dtype])
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(np.maximum(np.abs(values.astype(np.float64)), about.smallest_normal)))
    return about.eps * 2.0**exponent


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("coefficients", [(1 / 3,) * 3, (0.7, -0.2, 0.5), (2.0, 0.0, -1.5)])
def test_every_dtype_is_within_one_ulp_of_the_dense_float64_sum(
    dtype: str, coefficients: tuple[float, ...], threads: int, tmp_path: Path
) -> None:
    checkpoints = [ingredient(tmp_path, seed, dtype) for seed in range(3)]
    got = mixed(tmp_path / "out", checkpoints, coefficients, threads=threads)
    for name, shape in SHAPES.items():
        exact = dense(checkpoints, coefficients, name)
        assert got[name].dtype == TORCH[dtype]
        assert tuple(got[name].shape) == shape
        error = np.abs(got[name].to(torch.float64).numpy() - exact)
        # float64 itself can only be as exact as the order of its terms lets it
        size = dense(checkpoints, np.abs(coefficients).tolist(), name, absolute=True)
        allowed = 4 * 2.0**-53 * size if dtype == "F64" else ulp(exact, dtype)
        assert (error <= allowed).all(), name


def test_float32_is_the_exact_sum_rounded_even_where_terms_cancel(tmp_path: Path) -> None:
    big = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10
    small = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 1e-3
    parts = [big, small, -big, big * 3, small * 7, big * -3]
    checkpoints = [Checkpoint(folder_of(tmp_path / str(i), {"w": part})) for i, part in enumerate(parts)]
    coefficients = [1 / 6] * 6
    got = mixed(tmp_path / "out", checkpoints, coefficients)["w"].numpy()
    exact = np.array([math.fsum(terms) / 6 for terms in np.stack(parts).T.astype(np.float64)])
    assert (np.abs(got - exact) <= 0.5001 * ulp(exact, "F32")).all()
    rough = mixed(tmp_path / "out", checkpoints, coefficients, accumulate="float32")["w"].numpy()
    bound = 7 * 2.0**-24 * sum(np.abs(loaded(c.folder)["w"].numpy()) for c in checkpoints) / 6
    assert (np.abs(rough - exact) <= bound + ulp(exact, "F32")).all()
    assert (np.abs(rough - exact) > ulp(exact, "F32")).any()  # why float64 is the default here


@pytest.mark.parametrize("dtype", FLOATS)
def test_coefficients_one_and_zero_return_ingredient_one_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    first = {"w": torch.tensor([0.0, -0.0, 1.5, -2.25, 1e-40, 448.0]).to(TORCH[dtype])}
    other = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]).to(TORCH[dtype])}
    a = Checkpoint(folder_of(tmp_path / "a", first))
    b = Checkpoint(folder_of(tmp_path / "b", other))
    got = mixed(tmp_path / "out", [a, b], (1, 0))
    assert torch.equal(got["w"].view(torch.uint8), first["w"].view(torch.uint8))
    got = mixed(tmp_path / "out", [b, a], (0.0, 1.0))
    assert torch.equal(got["w"].view(torch.uint8), first["w"].view(torch.uint8))


def test_an_ingredient_with_coefficient_zero_is_not_read(tmp_path: Path) -> None:
    a, b = ingredient(tmp_path, 0), ingredient(tmp_path, 1)
    _ = (a.tensors, b.tensors)
    (b.folder / "model.safetensors").unlink()
    mix_to_folder([a, b], (1, 0), tmp_path / "out")


@given(
    c=st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=2).filter(lambda c: any(c)),
    scale=st.sampled_from([1e-3, 0.5, 3.0, -2.0]),
)
@slow_fixture
def test_mixing_is_linear_in_the_coefficients(tmp_path: Path, c: list[float], scale: float) -> None:
    pair = [ingredient(tmp_path, 0), ingredient(tmp_path, 1)]
    one = mixed(tmp_path / "out", pair, c, dtype="F64")
    scaled = mixed(tmp_path / "out", pair, [scale * x for x in c], dtype="F64")
    for name in SHAPES:
        size = sum(abs(x) * loaded(p.folder)[name].abs().to(torch.float64) for x, p in zip(c, pair, strict=True))
        assert ((scaled[name] - scale * one[name]).abs() <= 4 * 2**-53 * abs(scale) * size + 1e-300).all()


@given(
    seeds=st.permutations([0, 1, 2, 3, 4]),
    dtype=st.sampled_from(["F32", "BF16", "F16"]),
    coefficients=st.lists(st.floats(-1, 1, width=16), min_size=5, max_size=5).filter(lambda c: any(c)),
)
@slow_fixture
def test_order_of_ingredients_changes_nothing_beyond_the_bound(
    tmp_path: Path, seeds: list[int], dtype: str, coefficients: list[float]
) -> None:
    straight = [ingredient(tmp_path, seed, dtype) for seed in range(5)]
    turned = [straight[i] for i in seeds]
    one = mixed(tmp_path / "out", straight, coefficients)
    two = mixed(tmp_path / "out", turned, [coefficients[i] for i in seeds])
    for name in SHAPES:
        a, b = one[name].to(torch.float64).numpy(), two[name].to(torch.float64).numpy()
        size = dense(straight, np.abs(coefficients).tolist(), name, absolute=True)
        accumulated = 2.0**-53 if dtype == "F32" else 2.0**-24
        assert (np.abs(a - b) <= 2 * 6 * accumulated * size + ulp(a, dtype)).all()


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16", "F8_E4M3"])
def test_a_wanted_dtype_is_rounded_to_once(dtype: str, tmp_path: Path) -> None:
    pair = [ingredient(tmp_path, 0), ingredient(tmp_path, 1)]
    got = mixed(tmp_path / "out", pair, (0.5, 0.5), dtype=dtype)
    assert got["steps"].dtype == torch.int64
    for name in SHAPES:
        exact = torch.from_numpy(dense(pair, (0.5, 0.5), name))
        assert torch.equal(got[name], exact.to(torch.float32).to(TORCH[dtype]) if dtype != "F64" else exact)


def test_ingredients_of_other_dtypes_are_mixed_into_the_firsts(tmp_path: Path) -> None:
    four = [ingredient(tmp_path, i, dtype) for i, dtype in enumerate(["BF16", "F32", "F16", "F64"])]
    got = mixed(tmp_path / "out", four, [0.25] * 4)
    for name in SHAPES:
        exact = dense(four, [0.25] * 4, name)
        assert got[name].dtype == torch.bfloat16
        assert (np.abs(got[name].to(torch.float64).numpy() - exact) <= ulp(exact, "BF16")).all()


def test_coefficients_by_tensor(tmp_path: Path) -> None:
    pair = [ingredient(tmp_path, 0), ingredient(tmp_path, 1)]
    rows = {name: (1.0, 0.0) for name in [*SHAPES, "steps"]} | {"b.weight": (0.25, 0.75), "a.bias": (0.0, 2.0)}
    got = mixed(tmp_path / "out", pair, rows)
    for name in SHAPES:
        assert np.array_equal(got[name].numpy(), dense(pair, rows[name], name).astype("f4"))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("largest", [None, 400, 1])
def test_shards_in_and_out_hold_the_same_and_the_index_is_true(
    shards: int, largest: int | None, tmp_path: Path
) -> None:
    pair = [ingredient(tmp_path, 0, shards=shards), ingredient(tmp_path, 1, shards=2)]
    mix_to_folder(pair, (0.5, 0.5), tmp_path / "out", max_shard_size=largest)
    out = tmp_path / "out"
    got = loaded(out)
    assert all(np.array_equal(got[n].numpy(), dense(pair, (0.5, 0.5), n).astype("f4")) for n in SHAPES)
    if largest is None:
        assert names_below(out) == {"model.safetensors"}
        return
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert {n: f for f in index["weight_map"].values() for n in load_file(out / f)} == index["weight_map"]
    size = sum(t.numel() * t.element_size() for t in got.values())
    floats = sum(t.numel() for t in got.values() if t.is_floating_point())
    assert index["metadata"] == {"total_size": size, "total_parameters": floats + 6}
    assert names_below(out) == {*index["weight_map"].values(), "model.safetensors.index.json"}
    for file in set(index["weight_map"].values()):
        inside = load_file(out / file).values()
        assert len(inside) == 1 or sum(t.numel() * t.element_size() for t in inside) <= largest
    (out / "config.json").write_text(json.dumps(CONFIG))
    assert set(Checkpoint(out).tensors) == set(got)


def test_tied_tensors_stored_twice_by_some_are_written_once(tmp_path: Path) -> None:
    shared = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    one = Checkpoint(folder_of(tmp_path / "1", {"shared": shared, "head": torch.ones(2)}))
    two = Checkpoint(folder_of(tmp_path / "2", {"shared": shared + 1, "copy": shared + 1, "head": torch.zeros(2)}))
    for order in ([one, two], [two, one]):
        got = mixed(tmp_path / "out", order, (0.5, 0.5))
        assert set(got) == {"shared", "head"}
        assert torch.allclose(got["shared"], shared + 0.5)


def test_names_of_tied_tensors_stay_in_the_files_metadata(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    a = ingredient(tmp_path, 0).folder
    file = a / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "b.again": "b.weight", "unknown": "x"})
    mix_to_folder([Checkpoint(a), Checkpoint(a)], (0.5, 0.5), tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as out:
        assert out.metadata() == {"format": "pt", "b.again": "b.weight"}


def test_heads_aligned_by_label_names_are_mixed_row_by_row(tmp_path: Path) -> None:
    def labelled(name: str, names: list[str], seed: int) -> Checkpoint:
        made = torch.Generator().manual_seed(seed)
        tensors = {"body": torch.randn(9, generator=made), "classifier.weight": torch.randn(3, 4, generator=made)}
        config = {**CONFIG, "id2label": {str(i): n for i, n in enumerate(names)}}
        return Checkpoint(folder_of(tmp_path / name, tensors, config=config))

    a, b = labelled("a", ["x", "y", "z"], 0), labelled("b", ["z", "x", "y"], 1)
    got = mixed(tmp_path / "out", [a, b.with_labels(("x", "y", "z"))], (0.25, 0.75))
    expected = 0.25 * a.read("classifier.weight") + 0.75 * b.read("classifier.weight")[[1, 2, 0]]
    assert np.allclose(got["classifier.weight"].numpy(), expected, atol=1e-7)
    assert np.allclose(got["body"].numpy(), 0.25 * a.read("body") + 0.75 * b.read("body"), atol=1e-7)


def test_one_tensor_densely_is_the_one_in_the_file(tmp_path: Path) -> None:
    pair = [ingredient(tmp_path, 0), ingredient(tmp_path, 1)]
    got = mixed(tmp_path / "out", pair, (0.3, 0.7))
    for name in [*SHAPES, "steps"]:
        with blocks.BlockMixer() as mixer:
            one = mix_tensor(mixer, pair, (0.3, 0.7), name)
        assert one.dtype == got[name].numpy().dtype
        assert np.array_equal(one, got[name].numpy())


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_a_mean_is_found_even_where_the_sum_overflows(dtype: str, tmp_path: Path) -> None:
    large = torch.full((4,), {"F16": 6e4, "BF16": 3e38, "F32": 3e38}[dtype]).to(TORCH[dtype])
    same = [Checkpoint(folder_of(tmp_path / str(i), {"w": large})) for i in range(4)]
    got = mixed(tmp_path / "out", same, [0.25] * 4)
    assert torch.equal(got["w"], large)


# Integers and buffers.


def with_integers(path: Path, **tensors: torch.Tensor) -> Checkpoint:
    return Checkpoint(folder_of(path, {"w": torch.ones(3), **tensors}))


def test_integers_and_bools_are_copied_when_equal_and_refused_when_not(tmp_path: Path) -> None:
    ids, mask = torch.arange(40), torch.tensor([True, False])
    a = with_integers(tmp_path / "a", ids=ids, mask=mask)
    b = with_integers(tmp_path / "b", ids=ids, mask=mask)
    c = with_integers(tmp_path / "c", ids=ids + (ids == 33), mask=mask)
    got = mixed(tmp_path / "out", [a, b], (0.5, 0.5))
    assert torch.equal(got["ids"], ids)
    assert torch.equal(got["mask"], mask)
    with pytest.raises(IncompatibleCheckpoints, match=r"c/model.safetensors: the integers of 'ids' differ from those"):
        mix_to_folder([a, b, c], (0.4, 0.4, 0.2), tmp_path / "out")
    assert names_below(tmp_path / "out") == set()


def test_batchnorms_counters_are_the_first_ingredients(tmp_path: Path) -> None:
    a = with_integers(tmp_path / "a", **{"bn.num_batches_tracked": torch.tensor(10)})
    b = with_integers(tmp_path / "b", **{"bn.num_batches_tracked": torch.tensor(12)})
    assert mixed(tmp_path / "out", [a, b], (0.5, 0.5))["bn.num_batches_tracked"] == 10


# What is refused.


def mixing_is_refused(tmp_path: Path, checkpoints: list[Checkpoint], coefficients: object, **how: object) -> str:
    with pytest.raises(InputError) as error:
        mix_to_folder(checkpoints, coefficients, tmp_path / "deep" / "out", **how)  # type: ignore[arg-type]
    assert not (tmp_path / "deep").exists()
    return str(error.value)


def test_other_names_and_shapes_are_refused_by_name(tmp_path: Path) -> None:
    a = with_integers(tmp_path / "a", x=torch.ones(4), y=torch.ones(4) * 2)
    b = with_integers(tmp_path / "b", x=torch.ones(4))
    c = with_integers(tmp_path / "c", x=torch.ones(4), y=torch.ones(2, 2))
    d = with_integers(tmp_path / "d", x=torch.ones(4), y=torch.arange(4))
    assert mixing_is_refused(tmp_path, [b, a], (0.5, 0.5)).startswith(f"{b}: lacks 1 tensors that {a} has: y. A soup")
    assert f"{c}: 'y' has shape (2, 2), but {a} has (4,)" in mixing_is_refused(tmp_path, [a, c], (0.5, 0.5))
    assert "'y' is stored as I64, but as F32" in mixing_is_refused(tmp_path, [a, d], (0.5, 0.5))


def test_only_the_order_of_names_may_differ(tmp_path: Path) -> None:
    a = Checkpoint(folder_of(tmp_path / "a", {"x": torch.ones(4), "y": torch.zeros(2)}))
    folder = folder_of(tmp_path / "b", {"x": torch.ones(4), "y": torch.zeros(2)})
    from hf_soups.files.tensorfile import TensorWriter, lay_out

    layout = lay_out([("y", "F32", (2,)), ("x", "F32", (4,))], {})
    (folder / "model.safetensors").unlink()
    with TensorWriter({folder / "model.safetensors": layout}) as writer:
        writer.write(folder / "model.safetensors", np.arange(6, dtype="f4"), layout.offsets["y"])
    got = mixed(tmp_path / "out", [a, Checkpoint(folder)], (0.5, 0.5))
    assert got["x"].tolist() == [1.5, 2.0, 2.5, 3.0]
    assert got["y"].tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("coefficients", "said"),
    [
        ((1.0,), "1 coefficients for 2 checkpoints"),
        ((float("nan"), 1.0), "they and their sum must be finite"),
        ((float("inf"), 1.0), "they and their sum must be finite"),
        ((1e308, 1e308), "they and their sum must be finite"),
        ((0.0, 0.0), "all coefficients are 0"),
        ({"w": (1.0, 0.0), "nope": (1.0, 0.0)}, "1 names are unknown (first: ['nope'])"),
        ({}, "1 tensors have none (first: ['w'])"),
        ({"w": (1.0, float("nan"))}, "the coefficients of 'w' are"),
    ],
)
def test_wrong_coefficients_are_refused(coefficients: object, said: str, tmp_path: Path) -> None:
    pair = [with_integers(tmp_path / "a"), with_integers(tmp_path / "b")]
    assert said in mixing_is_refused(tmp_path, pair, coefficients)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    one = [with_integers(tmp_path / "a")]
    assert "dtype 'float32': expected one of BF16" in mixing_is_refused(tmp_path, one, (1.0,), dtype="float32")
    assert "threads is 0" in mixing_is_refused(tmp_path, one, (1.0,), threads=0)
    assert "max_shard_size is 0" in mixing_is_refused(tmp_path, one, (1.0,), max_shard_size=0)
    assert "give at least one checkpoint" in mixing_is_refused(tmp_path, [], ())


# In transformers' hands.


@pytest.mark.parametrize("build", [tiny_bert, tiny_vit, tiny_resnet])
@pytest.mark.parametrize("largest", [None, 20_000])
def test_transformers_loads_what_was_mixed(build: Callable[..., Path], largest: int | None, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if build is tiny_bert else AutoModelForImageClassification
    folders = [build(tmp_path / str(seed), seed=seed) for seed in range(3)]
    coefficients = (0.5, 0.8, -0.3)
    mix_to_folder([Checkpoint(f) for f in folders], coefficients, tmp_path / "out", max_shard_size=largest)
    (tmp_path / "out" / "config.json").write_bytes((folders[0] / "config.json").read_bytes())
    models = [auto.from_pretrained(folder).state_dict() for folder in folders]
    model, about = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            exact = sum(c * m[name].to(torch.float64) for c, m in zip(coefficients, models, strict=True))
            assert torch.equal(tensor, exact.to(torch.float32))
    if largest is not None:
        written = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["metadata"]
        model.save_pretrained(tmp_path / "again", max_shard_size=largest)
        expected = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())["metadata"]
        assert written == expected


def test_item_sizes_are_torchs() -> None:
    assert all(TORCH[dtype].itemsize == ITEM_BYTES[dtype] for dtype in TORCH)


def test_a_bias_that_is_zero_everywhere_stands_for_no_other(tmp_path: Path) -> None:
    """Untrained biases are equal without being tied: the one that is lacking must be told, not dropped."""
    whole = {"a.bias": torch.zeros(4), "b.bias": torch.zeros(4), "w": torch.ones(2, 2)}
    lacking = {name: tensor for name, tensor in whole.items() if name != "b.bias"}
    pair = [Checkpoint(folder_of(tmp_path / name, t)) for name, t in (("whole", whole), ("lacking", lacking))]
    with pytest.raises(IncompatibleCheckpoints, match=r"lacking: lacks 1 tensors.*b\.bias"):
        mixed(tmp_path / "out", pair, (0.5, 0.5))


@pytest.mark.parametrize("accumulate", ["float32", "float64", None])
@pytest.mark.parametrize(
    "dtypes", [("F32",) * 3, ("F16",) * 3, ("BF16",) * 3, ("F32", "BF16", "F16"), ("F64", "F32", "F32")]
)
@pytest.mark.parametrize("coefficients", [(1 / 3,) * 3, (0.7, -0.2, 0.5)])
def test_the_compiled_loop_has_the_bits_of_numpys_operations(
    coefficients: tuple[float, ...], dtypes: tuple[str, ...], accumulate: object, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    checkpoints = [ingredient(tmp_path, seed, dtype) for seed, dtype in enumerate(dtypes)]
    for dtype in ("F32", "F16", "BF16", None):
        looped = mixed(tmp_path / "out", checkpoints, coefficients, accumulate=accumulate, dtype=dtype)
        with monkeypatch.context() as without:
            without.setattr(blocks, "mix", lambda *_, **__: False)
            without.setattr(blocks, "add", lambda *_, **__: False)
            plain = mixed(tmp_path / "out", checkpoints, coefficients, accumulate=accumulate, dtype=dtype)
        for name in SHAPES:
            assert torch.equal(looped[name].reshape(-1).view(torch.uint8), plain[name].reshape(-1).view(torch.uint8)), (
                dtype,
                name,
            )


def test_negative_zeros_stay_negative_in_the_compiled_loop(tmp_path: Path) -> None:
    pair = [Checkpoint(folder_of(tmp_path / str(i), {"w": torch.full((40,), -0.0)})) for i in range(2)]
    got = mixed(tmp_path / "out", pair, (0.5, 0.5))["w"]
    assert torch.signbit(got).all()


def test_without_llvmlite_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [ingredient(tmp_path, seed) for seed in range(2)]
    expected = mixed(tmp_path / "out", pair, (0.5, 0.5))
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    for cached in (compiled._machine, compiled._add_loop, compiled._mix_loop):
        cached.cache_clear()
    try:
        assert compiled._machine() is None
        got = mixed(tmp_path / "out", pair, (0.5, 0.5))
    finally:
        for cached in (compiled._machine, compiled._add_loop, compiled._mix_loop):
            cached.cache_clear()
    assert all(torch.equal(got[name], expected[name]) for name in SHAPES)
