"""Numbers as safetensors stores them: decode raw bytes to float32 and encode float32, rounding to nearest even.

NumPy knows neither bfloat16 nor float8, so both are made of bit operations and tables here; torch is not needed.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

# Every dtype of the format that a classifier's weights come in; the sub-byte and block-scaled ones mean nothing alone.
NATIVE: dict[str, np.dtype[np.generic]] = {
    name: np.dtype(code)
    for name, code in {
        "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
        "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
    }.items()
}  # fmt: skip
ITEM_BYTES: dict[str, int] = {name: dtype.itemsize for name, dtype in NATIVE.items()} | {
    "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
# From this magnitude on, a number rounds to no finite value of the dtype.
OVERFLOW: dict[str, float] = {
    "F64": float("inf"),
    "F32": 2.0**128 - 2.0**103,
    "BF16": 2.0**128 - 2.0**119,
    "F16": 65520.0,
    "F8_E5M2": 61440.0,
    "F8_E4M3": 464.0000001,  # the tie between 448 and the 480 that is NaN goes to 448, which is even
}
FLOATS = frozenset(OVERFLOW)


def decode(raw: bytes | memoryview | NDArray[np.uint8], dtype: str) -> Float32[np.ndarray, " elements"]:
    """Float32 values of raw little-endian bytes; exact for every dtype but F64, which is rounded.

    >>> decode(bytes([0x80, 0x3F]), "BF16").tolist()
    [1.0]
    """
    data = np.frombuffer(raw, dtype=np.uint8)
    out = np.empty(data.size // ITEM_BYTES[dtype], dtype=np.float32)
    with np.errstate(all="ignore"):
        decode_into(data, dtype, out)
    return out


def decode_into(raw: UInt8[np.ndarray, " bytes"], dtype: str, out: Float32[np.ndarray, " elements"]) -> None:
    """As `decode`, into a buffer of the right length."""
    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, raw.view(np.uint16))
        np.left_shift(bits, 16, out=bits)
    elif dtype == "F16":
        _decode_half(raw, out)
    elif dtype in NATIVE:
        np.copyto(out, raw.view(NATIVE[dtype]), casting="unsafe")
    else:
        np.take(_float8_values(dtype), raw, out=out, mode="clip")  # "clip": no index is out, and no copy is made


def _decode_half(raw: UInt8[np.ndarray, " bytes"], out: Float32[np.ndarray, " elements"]) -> None:
    """Move the bits into float32's fields and mend the exponent by one exact product: 3x faster than NumPy's cast."""
    bits = out.view(np.int32)
    np.copyto(bits, raw.view(np.int16))  # extends the sign
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # 0x8FFFE000: the extended sign bits go
    np.multiply(out, np.float32(2.0**112), out=out)
    if out.size and (out.max() >= 65536 or out.min() <= -65536):  # infinity or NaN, which the product does not know
        np.copyto(out, raw.view(np.float16))


def encode(values: Float32[np.ndarray, " elements"], dtype: str) -> UInt8[np.ndarray, " bytes"]:
    """Raw bytes of float32 values, rounded to nearest, ties to even; NaN stays NaN.

    Beyond the largest finite value comes infinity; NaN in F8_E4M3, which has no infinity.

    >>> encode(np.array([1.0], dtype=np.float32), "BF16").tolist()
    [128, 63]
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "F32":
        return values.view(np.uint8)
    with np.errstate(all="ignore"):
        if dtype == "BF16":
            return _encode_bf16(values).view(np.uint8)
        if dtype in ("F16", "F64"):
            return values.astype(NATIVE[dtype]).view(np.uint8)
        return np.take(_float8_codes(dtype), _round_to_odd(values), mode="clip")


def _encode_bf16(values: Float32[np.ndarray, " elements"]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    rounded = np.right_shift(bits, 16)
    np.bitwise_and(rounded, 1, out=rounded)
    rounded += 0x7FFF
    rounded += bits  # a carry into the exponent is right: it reaches infinity at most
    np.right_shift(rounded, 16, out=rounded)
    narrow = rounded.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        narrow[nan] = np.right_shift(bits[nan], 16).astype(np.uint16) | 0x40
    return narrow


def _round_to_odd(values: Float32[np.ndarray, " elements"]) -> NDArray[np.uint16]:
    """The upper half of each float32, its last bit set where bits were lost.

    Rounding that to nearest gives what rounding the float32 gives, as float8 has two bits fewer at least.
    """
    halves = values.view(np.uint16)
    return np.asarray(halves[1::2] | (halves[0::2] != 0), dtype=np.uint16)


@functools.cache
def _float8_values(dtype: str) -> Float32[np.ndarray, " codes"]:
    """All 256 values: OCP 8-bit floating point, revision 1.0."""
    exponent_bits, bias, mantissa_bits = {"F8_E4M3": (4, 7, 3), "F8_E5M2": (5, 15, 2)}[dtype]
    code = np.arange(256)
    exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
    fraction = (code & (2**mantissa_bits - 1)) / 2**mantissa_bits
    size = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if dtype == "F8_E4M3":
        size[(code & 0x7F) == 0x7F] = np.nan
    else:
        size[(exponent == 31) & (fraction == 0)] = np.inf
        size[(exponent == 31) & (fraction != 0)] = np.nan
    return np.asarray(np.where(code < 128, size, -size), dtype=np.float32)


@functools.cache
def _float8_codes(dtype: str) -> UInt8[np.ndarray, " halves"]:
    """The float8 code of every upper half of a float32."""
    keys = decode(np.arange(65536, dtype=np.uint16).view(np.uint8), "BF16")
    values = _float8_values(dtype)[:128].astype(np.float64)
    finite = values[np.isfinite(values)]
    step = finite[-1] - finite[-2]
    ladder = np.append(finite, finite[-1] + step)  # the first step beyond stands for "too large"
    middle = (ladder[1:] + ladder[:-1]) / 2
    # a tie belongs to the even code: from an odd one, the border lies just below the middle
    middle[1::2] = np.nextafter(middle[1::2], 0)
    codes = np.searchsorted(middle, np.abs(keys).astype(np.float64), side="left")
    codes[np.isnan(keys)] = 0x7F
    return np.asarray(codes | np.where(np.signbit(keys), 0x80, 0), dtype=np.uint8)
