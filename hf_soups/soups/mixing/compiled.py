"""The inner loops of a mixture as machine code: each reads a block once, where NumPy's operations pass over it thrice.

The loops are a page of LLVM's intermediate language, which llvmlite (numba's own back end) turns into code for this
processor in some milliseconds; numba itself would take longer to import than a soup takes to mix. Vectors are written
out, so nothing is left to an optimiser, and no product is fused into a sum: the bits are those of NumPy's operations,
which do the work where there is no such code.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from hf_soups.files.dtypes import ITEM_BYTES

TILE = 32 * 1024  # elements: with a float64 sum they stay in the second-level cache of one core
LANES = 16  # elements a step; buffers have room for a last step that is not full
AddLoop = Callable[[int, int, int, float, int], None]
_compiling = Lock()
_engines: list[Any] = []  # they own the code

# A block's raw bytes, widened to float32.
_LOADS = {
    "F32": "%x = load <16 x float>, ptr %p, align 4",
    "F16": "%h = load <16 x half>, ptr %p, align 2\n  %x = fpext <16 x half> %h to <16 x float>",
    "BF16": """%h = load <16 x i16>, ptr %p, align 2
  %w = zext <16 x i16> %h to <16 x i32>
  %s = shl <16 x i32> %w, splat (i32 16)
  %x = bitcast <16 x i32> %s to <16 x float>""",
}
# total += c * values; the first ingredient's products are added to -0.0, which leaves every number as it is.
_ADD = """
define void @add(ptr noalias %raw, ptr noalias %total, i64 %n, double %c, i32 %first) {{
entry:
  %start = icmp ne i32 %first, 0
  {lanes}
  br label %step
step:
  %i = phi i64 [0, %entry], [%next, %step]
  %p = getelementptr {item}, ptr %raw, i64 %i
  %q = getelementptr {wide}, ptr %total, i64 %i
  {load}
  {widen}
  %product = fmul <16 x {wide}> %v, %all
  %there = load <16 x {wide}>, ptr %q, align 4
  %before = select i1 %start, <16 x {wide}> splat ({wide} -0.0), <16 x {wide}> %there
  %sum = fadd <16 x {wide}> %before, %product
  store <16 x {wide}> %sum, ptr %q, align 4
  %next = add i64 %i, 16
  %more = icmp ult i64 %next, %n
  br i1 %more, label %step, label %end
end:
  ret void
}}
"""
# out = total * factor, rounded; the largest exponent and fraction of all of them are returned.
_ROUND = """
define i32 @round(ptr noalias %total, double %factor, ptr noalias %out, i64 %n) {{
entry:
  {lanes}
  br label %step
step:
  %i = phi i64 [0, %entry], [%next, %step]
  %most = phi <16 x i32> [zeroinitializer, %entry], [%larger, %step]
  %p = getelementptr {wide}, ptr %total, i64 %i
  %q = getelementptr {item}, ptr %out, i64 %i
  %t = load <16 x {wide}>, ptr %p, align 4
  %x = fmul <16 x {wide}> %t, %all
  {round}
  store <16 x {item}> %y, ptr %q, align 2
  %size = and <16 x i32> %bits, splat (i32 {mask})
  %above = icmp ugt <16 x i32> %size, %most
  %larger = select <16 x i1> %above, <16 x i32> %size, <16 x i32> %most
  %next = add i64 %i, 16
  %more = icmp ult i64 %next, %n
  br i1 %more, label %step, label %end
end:
  %found = call i32 @llvm.vector.reduce.umax.v16i32(<16 x i32> %larger)
  ret i32 %found
}}
declare i32 @llvm.vector.reduce.umax.v16i32(<16 x i32>)
"""
_ROUNDS = {
    ("F32", "float"): """%bits = bitcast <16 x float> %x to <16 x i32>
  %y = bitcast <16 x i32> %bits to <16 x float>""",
    ("F32", "double"): """%y = fptrunc <16 x double> %x to <16 x float>
  %bits = bitcast <16 x float> %y to <16 x i32>""",
    ("F16", "float"): """%y = fptrunc <16 x float> %x to <16 x half>
  %h = bitcast <16 x half> %y to <16 x i16>
  %bits = zext <16 x i16> %h to <16 x i32>""",
    ("BF16", "float"): """%b = bitcast <16 x float> %x to <16 x i32>
  %above0 = lshr <16 x i32> %b, splat (i32 16)
  %odd = and <16 x i32> %above0, splat (i32 1)
  %half = add <16 x i32> %odd, splat (i32 32767)
  %up = add <16 x i32> %b, %half
  %bits = lshr <16 x i32> %up, splat (i32 16)
  %y = trunc <16 x i32> %bits to <16 x i16>""",
}
_ITEMS = {"F32": "float", "F16": "half", "BF16": "i16"}
_MASKS = {"F32": 0x7FFFFFFF, "F16": 0x7FFF, "BF16": 0x7FFF}
_NOT_FINITE = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # this and larger
_NARROW = {
    "double": "%k = fadd double %{name}, 0.0",  # a name for it
    "float": "%k = fptrunc double %{name} to float",
}


def _lanes(kind: str, name: str) -> str:
    """The argument of this name in all lanes of %all."""
    return f"""{_NARROW[kind].format(name=name)}
  %one = insertelement <16 x {kind}> poison, {kind} %k, i32 0
  %all = shufflevector <16 x {kind}> %one, <16 x {kind}> poison, <16 x i32> zeroinitializer"""


_MIX = """
define i32 @mix(
    ptr %files, ptr %offsets, ptr %coefficients, i64 %k, i64 %n, double %factor,
    ptr %raw, i64 %apart, i64 %along, ptr %total, ptr %out
) {{
entry:
  br label %tile
tile:
  %at = phi i64 [0, %entry], [%after, %rounded]
  %most = phi i32 [0, %entry], [%larger, %rounded]
  %left = sub i64 %n, %at
  %m = call i64 @llvm.umin.i64(i64 %left, i64 {tile})
  %bytes = mul i64 %m, {item_bytes}
  %begin = mul i64 %at, {item_bytes}
  %shift = mul i64 %at, %along
  br label %ingredient
ingredient:
  %i = phi i64 [0, %tile], [%next, %added]
  %file_at = getelementptr i32, ptr %files, i64 %i
  %file = load i32, ptr %file_at
  %offset_at = getelementptr i64, ptr %offsets, i64 %i
  %offset = load i64, ptr %offset_at
  %from = add i64 %offset, %begin
  %own = mul i64 %i, %apart
  %place = add i64 %own, %shift
  %into = getelementptr i8, ptr %raw, i64 %place
  %got = call i64 @pread(i32 %file, ptr %into, i64 %bytes, i64 %from)
  %whole = icmp eq i64 %got, %bytes
  br i1 %whole, label %added, label %short
added:
  %c_at = getelementptr double, ptr %coefficients, i64 %i
  %c = load double, ptr %c_at
  %is_first = icmp eq i64 %i, 0
  %first = zext i1 %is_first to i32
  call void @add(ptr %into, ptr %total, i64 %m, double %c, i32 %first)
  %next = add i64 %i, 1
  %others = icmp ult i64 %next, %k
  br i1 %others, label %ingredient, label %rounded
rounded:
  %to = getelementptr {out}, ptr %out, i64 %at
  %size = call i32 @round(ptr %total, double %factor, ptr %to, i64 %m)
  %larger = call i32 @llvm.umax.i32(i32 %size, i32 %most)
  %after = add i64 %at, {tile}
  %more = icmp ult i64 %after, %n
  br i1 %more, label %tile, label %end
end:
  ret i32 %larger
short:
  ret i32 -1
}}
declare i64 @pread(i32, ptr, i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
declare i32 @llvm.umax.i32(i32, i32)
"""


def add(
    raw: UInt8[np.ndarray, " bytes"], dtype: str, total: Float[np.ndarray, " elements"], c: float, *, first: bool
) -> bool:
    """total += c * values, or total = c * values for the `first`; False if there is no loop for it here.

    Args:
        raw: the values as a file stores them; behind them, memory of up to 15 more that may be read.
        dtype: of the file.
        total: float32 or float64, in which products and sums are rounded; behind it, memory that may be written.
        c: rounded to the dtype of `total`.
        first: whether `total` holds nothing yet.
    """
    loop = _add_loop(dtype, total.dtype == np.float64)
    if loop is None:
        return False
    loop(_address(raw), _address(total), total.size, c, first)
    return True


def mix(
    dtype: str,
    files: Sequence[int],
    offsets: Sequence[int],
    coefficients: Sequence[float],
    factor: float,
    raw: UInt8[np.ndarray, " bytes"],
    total: Float[np.ndarray, " tile"],
    out_dtype: str,
    out: UInt8[np.ndarray, " bytes"],
    *,
    apart: int = 0,
) -> bool:
    """out = factor * sum(coefficient x values), rounded to a file's dtype: every ingredient is read, in tiles.

    Args:
        dtype: of the ingredients' files.
        files: descriptors, one per ingredient.
        offsets: where the elements start in each file.
        coefficients: one per ingredient; with `factor` rounded to the dtype of `total`.
        factor: of the sum.
        raw: room for a tile, or, kept for the caller, for the whole of each ingredient.
        total: float32 or float64 of a tile.
        out_dtype: of the output's file.
        out: its bytes; sets the number of elements.
        apart: bytes from one ingredient to the next in `raw`; 0: each tile takes the place of the one before.
    Returns:
        False if there is no loop for it, a file ended too early, or a value became infinite or NaN.
    """
    loop = _mix_loop(dtype, total.dtype == np.float64, out_dtype)
    if loop is None:
        return False
    places = np.array(files, np.int32), np.array(offsets, np.int64), np.array(coefficients, np.float64)
    size = loop(
        *(_address(place) for place in places), len(files), out.size // ITEM_BYTES[out_dtype], factor,
        _address(raw), apart, ITEM_BYTES[dtype] if apart else 0, _address(total), _address(out),
    )  # fmt: skip
    return size < _NOT_FINITE[out_dtype]


@functools.cache
def _add_loop(dtype: str, wide: bool) -> AddLoop | None:
    if dtype not in _LOADS:
        return None
    kinds = (None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int32)
    loop: AddLoop | None = _compiled("add", _add_text(dtype, wide), kinds, half=dtype == "F16")
    return loop


@functools.cache
def _mix_loop(dtype: str, wide: bool, out_dtype: str) -> Callable[..., int] | None:
    kind = "double" if wide else "float"
    if dtype not in _LOADS or (out_dtype, kind) not in _ROUNDS:
        return None
    about = {"wide": kind, "item": _ITEMS[out_dtype], "lanes": _lanes(kind, "factor")}
    rounding = _ROUND.format(**about, round=_ROUNDS[out_dtype, kind], mask=_MASKS[out_dtype])
    outer = _MIX.format(tile=TILE, item_bytes=ITEM_BYTES[dtype], out=_ITEMS[out_dtype])
    size, where = ctypes.c_int64, ctypes.c_void_p
    kinds = (ctypes.c_uint32, where, where, where, size, size, ctypes.c_double, where, size, size, where, where)
    text = _add_text(dtype, wide) + rounding + outer
    loop: Callable[..., int] | None = _compiled("mix", text, kinds, half="F16" in (dtype, out_dtype))
    return loop


def _add_text(dtype: str, wide: bool) -> str:
    kind = "double" if wide else "float"
    widen = "%v = fpext <16 x float> %x to <16 x double>" if wide else "%v = fadd <16 x float> %x, splat (float -0.0)"
    about = {"lanes": _lanes(kind, "c"), "wide": kind, "item": _ITEMS[dtype]}
    return _ADD.format(**about, load=_LOADS[dtype], widen=widen)


def _compiled(name: str, text: str, kinds: tuple[Any, ...], *, half: bool) -> Any:
    """The function of a text; None where this machine has no llvmlite, or one that does not read it."""
    with _compiling:
        machine = _machine()
        if machine is None or (half and not machine[1]):
            return None
        try:
            engine = machine[0](text)
        except RuntimeError:  # an llvmlite of another LLVM, whose language differs
            return None
        _engines.append(engine)
        return ctypes.CFUNCTYPE(*kinds)(engine.get_function_address(name))


@functools.cache
def _machine() -> tuple[Callable[[str], Any], bool] | None:
    """What makes code of a text, and whether the processor converts float16 by itself."""
    try:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        target, has = llvm.Target.from_default_triple(), llvm.get_host_cpu_features()
        cpu, features = llvm.get_host_cpu_name(), has.flatten()
    except (ImportError, OSError, RuntimeError, AttributeError):
        return None

    def make(text: str) -> Any:
        module = llvm.parse_assembly(text)
        module.verify()
        machine = target.create_target_machine(cpu=cpu, features=features, opt=3)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine

    return make, bool(has.get("f16c") or target.triple.startswith(("aarch64", "arm64")))


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
