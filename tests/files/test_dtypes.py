"""Decoding and rounding against torch: every bit pattern of the narrow dtypes, random and awkward ones of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_soups.files.dtypes import FLOATS, ITEM_BYTES, OVERFLOW, decode, encode
from tests.makers.folders import TORCH

NARROW = ["F16", "BF16", "F8_E4M3", "F8_E5M2"]


def raw_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint8).numpy()


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit for bit, any NaN being as good as any other."""
    return bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))


def every_pattern(dtype: str) -> np.ndarray:
    kind = np.uint8 if ITEM_BYTES[dtype] == 1 else np.uint16
    return np.arange(np.iinfo(kind).max + 1, dtype=np.uint32).astype(kind).view(np.uint8)


@pytest.mark.parametrize("dtype", NARROW)
def test_every_bit_pattern_decodes_as_in_torch(dtype: str) -> None:
    raw = every_pattern(dtype)
    expected = torch.from_numpy(raw.copy()).view(TORCH[dtype]).to(torch.float32).numpy()
    assert same(decode(raw, dtype), expected)


@pytest.mark.parametrize("dtype", NARROW)
def test_half_without_infinities_takes_the_fast_way_and_decodes_the_same(dtype: str) -> None:
    raw = every_pattern(dtype)
    finite = np.isfinite(decode(raw, dtype))
    kept = raw.reshape(-1, ITEM_BYTES[dtype])[finite].reshape(-1)
    expected = torch.from_numpy(kept.copy()).view(TORCH[dtype]).to(torch.float32).numpy()
    assert same(decode(kept, dtype), expected)


@pytest.mark.parametrize("dtype", NARROW)
def test_random_bit_patterns_of_float32_round_as_in_torch(dtype: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint32)
    check_rounding(bits.view(np.float32), dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_ties_and_their_neighbours_round_as_in_torch(dtype: str) -> None:
    values = decode(every_pattern(dtype), dtype)
    values = np.unique(values[np.isfinite(values)]).astype(np.float64)
    ties = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    near = [ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))]
    limit = np.float32(OVERFLOW[dtype])
    edge = np.array([limit, np.nextafter(limit, np.float32(0)), -limit, 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45])
    check_rounding(np.concatenate([*near, edge.astype(np.float32)]), dtype)


def check_rounding(values: np.ndarray, dtype: str) -> None:
    if dtype == "F8_E4M3":  # beyond 448 some versions of torch saturate, others give NaN as we do
        values = values[~(np.abs(values) >= 464)]
    expected = torch.from_numpy(values.copy()).to(TORCH[dtype])
    got = torch.from_numpy(np.ascontiguousarray(encode(values, dtype)).view(np.uint8).copy()).view(TORCH[dtype])
    a, b = got.to(torch.float32).numpy(), expected.to(torch.float32).numpy()
    assert same(a, b), values[~((a == b) | (np.isnan(a) & np.isnan(b)))][:5]


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_what_was_encoded_decodes_to_itself(dtype: str) -> None:
    values = decode(encode(np.random.default_rng(1).standard_normal(1000).astype(np.float32), dtype), dtype)
    assert same(decode(encode(values, dtype), dtype), values)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_overflow_bound_is_where_rounding_stops_being_finite(dtype: str) -> None:
    limit = np.float32(OVERFLOW[dtype])
    beyond = np.nextafter(limit, np.float32(np.inf))  # 464 itself still rounds down in F8_E4M3
    below = np.nextafter(limit, np.float32(0))
    assert not np.isfinite(decode(encode(np.array([beyond]), dtype), dtype)[0])
    assert np.isfinite(decode(encode(np.array([below]), dtype), dtype)[0])
