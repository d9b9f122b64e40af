"""Matrix products by the processor's own instructions, one after the other, with nothing of ``precision`` in them.

    dot_bf16       VDPBF16PS    16 lanes, two products a lane
    tile_bf16      TDPBF16PS    AMX tiles of 16 x 16 sums, 32 products a sum
    fused_fp16     VFMADD231PH  32 lanes, fp16
    dot_int8       VPDPBUSD     16 lanes, four products a lane

Patterns in, patterns out: uint16 for bf16 and fp16, uint32 for float32; m and n are multiples of 32.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

FEATURES = {"dot_bf16": "avx512bf16", "tile_bf16": "amx-bf16", "fused_fp16": "avx512fp16", "dot_int8": "avx512vnni"}
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_WORDS = ir.VectorType(_I32, 16)
_FLOATS = ir.VectorType(ir.FloatType(), 16)
_HALVES = ir.VectorType(ir.HalfType(), 32)
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


def missing(name: str) -> str | None:
    """Why this processor, or what Numba compiles for, has no such instruction; None where it has."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"{platform.machine()} has no x86 instructions"
    if numba.config.CPU_NAME is not None or numba.config.CPU_FEATURES is not None:
        return "Numba is told which processor to compile for"
    if not llvm.get_host_cpu_features().get(FEATURES[name]):
        return f"this processor lacks {FEATURES[name]}"
    if name == "tile_bf16" and not _tiles_permitted():
        return "the system does not permit AMX tiles"
    return None


def _tiles_permitted() -> bool:
    """Linux gives a process its tile registers when it asks."""
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0


# Instructions as intrinsics over flat arrays


def _address(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _call(builder, name, result, *arguments):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _splat(builder, word, kind):
    empty = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(empty, word, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


def _lanes_chain(vector: Any, word: Any, lanes: int, step: Callable) -> Any:
    """chain(a, at, b, column, width, count, out, place): out[place + lane] through ``count`` instructions.

    The p-th takes word a[at + p], in all lanes, and the words b[p * width + column + lane].
    """

    @intrinsic
    def chain(_context: Any, a, at, b, column, width, count, out, place):
        kinds = (a, at, b, column, width, count, out, place)

        def build(context, builder, _signature, args):
            at, column, width, count, place = (
                context.cast(builder, args[i], kinds[i], types.intp) for i in (1, 3, 4, 5, 7)
            )
            whole = ir.VectorType(word, lanes)
            target = builder.bitcast(_address(context, builder, kinds[6], args[6], place), vector.as_pointer())
            before = builder.block
            start = builder.load(target, align=1)
            head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
            builder.branch(head)
            builder.position_at_end(head)
            p, sums = builder.phi(_I64), builder.phi(vector)
            builder.cbranch(builder.icmp_signed("<", p, count), body, done)
            builder.position_at_end(body)
            x = builder.load(_address(context, builder, kinds[0], args[0], builder.add(at, p)))
            index = builder.add(builder.mul(p, width), column)
            source = builder.bitcast(_address(context, builder, kinds[2], args[2], index), whole.as_pointer())
            result = step(builder, sums, _splat(builder, x, whole), builder.load(source, align=1))
            p.add_incoming(ir.Constant(_I64, 0), before)
            p.add_incoming(builder.add(p, ir.Constant(_I64, 1)), body)
            sums.add_incoming(start, before)
            sums.add_incoming(result, body)
            builder.branch(head)
            builder.position_at_end(done)
            builder.store(sums, target, align=1)
            return context.get_dummy_value()

        return types.void(*kinds), build

    return chain


def _dot_bf16(builder, sums, x, y):
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _FLOATS, sums, x, y)


def _fused_fp16(builder, sums, x, y):
    x, y = builder.bitcast(x, _HALVES), builder.bitcast(y, _HALVES)
    return _call(builder, "llvm.fma.v32f16", _HALVES, x, y, sums)


def _dot_int8(builder, sums, x, y):
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _WORDS, sums, x, y)


_bf16_chain = _lanes_chain(_FLOATS, _I32, 16, _dot_bf16)
_fp16_chain = _lanes_chain(_HALVES, _I16, 32, _fused_fp16)
_int8_chain = _lanes_chain(_WORDS, _I32, 16, _dot_int8)
_jit = numba.njit(error_model="numpy")


@_jit
def _run_bf16(a, b, out, m, n, words):
    for i in range(m):
        for j in range(0, n, 16):
            _bf16_chain(a, i * words, b, j, n, words, out, i * n + j)


@_jit
def _run_fp16(a, b, out, m, n, words):
    for i in range(m):
        for j in range(0, n, 32):
            _fp16_chain(a, i * words, b, j, n, words, out, i * n + j)


@_jit
def _run_int8(a, b, out, m, n, words):
    for i in range(m):
        for j in range(0, n, 16):
            _int8_chain(a, i * words, b, j, n, words, out, i * n + j)


# Tiles: 0 holds sums; 1 and 2 the operands of 32 k; 3 and 4 those of what is left of k


def _with_pointer(name: str, *tiles: int, strided: bool) -> Any:
    """intrinsic(array, index, stride in bytes): the AMX instruction on the tile and the memory at array[index]."""

    @intrinsic
    def instruction(_context: Any, array, index, stride):
        def build(context, builder, signature, args):
            index, stride = (context.cast(builder, args[i], signature.args[i], types.intp) for i in (1, 2))
            place = _address(context, builder, signature.args[0], args[0], index)
            place = builder.bitcast(place, _I8.as_pointer())
            numbers = [ir.Constant(_I8, tile) for tile in tiles]
            _call(builder, name, ir.VoidType(), *numbers, place, *([stride] if strided else []))
            return context.get_dummy_value()

        return types.void(array, index, stride), build

    return instruction


def _on_tiles(name: str, *tiles: int) -> Any:
    @intrinsic
    def instruction(_context: Any):
        def build(context, builder, _signature, _args):
            _call(builder, name, ir.VoidType(), *(ir.Constant(_I8, tile) for tile in tiles))
            return context.get_dummy_value()

        return types.void(), build

    return instruction


_configure = _with_pointer("llvm.x86.ldtilecfg", strided=False)
_load0, _load1, _load2, _load3, _load4 = (
    _with_pointer("llvm.x86.tileloadd64", tile, strided=True) for tile in range(5)
)
_store0 = _with_pointer("llvm.x86.tilestored64", 0, strided=True)
_multiply12, _multiply34 = _on_tiles("llvm.x86.tdpbf16ps", 0, 1, 2), _on_tiles("llvm.x86.tdpbf16ps", 0, 3, 4)
_release = _on_tiles("llvm.x86.tilerelease")


def _configuration(rest: int) -> np.ndarray:
    """Palette 1; bytes a row of each tile as 16-bit words from byte 16 on, rows as bytes from byte 48 on."""
    configuration = np.zeros(64, np.uint8)
    configuration[0] = 1
    bytes_a_row, rows = configuration[16:32].view(np.uint16), configuration[48:56]
    bytes_a_row[:5], rows[:5] = 64, 16
    if rest:
        bytes_a_row[3], rows[4] = 4 * rest, rest
    return configuration


@_jit
def _run_tiles(configuration, a, b, out, m, n, words):
    _configure(configuration, 0, 0)
    whole = words - words % 16
    for i in range(0, m, 16):
        for j in range(0, n, 16):
            _load0(out, i * n + j, 4 * n)
            for p in range(0, whole, 16):
                _load1(a, i * words + p, 4 * words)
                _load2(b, p * n + j, 4 * n)
                _multiply12()
            if whole < words:
                _load3(a, i * words + whole, 4 * words)
                _load4(b, whole * n + j, 4 * n)
                _multiply34()
            _store0(out, i * n + j, 4 * n)
    _release()


# Products


def _grouped(a: np.ndarray, b: np.ndarray, word: Any) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours along k in one word, the lowest k lowest, filled up with +0: (m, w) and (w, n), flat."""
    size = np.dtype(word).itemsize // a.dtype.itemsize
    more = -a.shape[1] % size
    a, b = np.pad(a, ((0, 0), (0, more))), np.pad(b, ((0, more), (0, 0)))
    columns = np.ascontiguousarray(b.T).view(word).T
    return np.ascontiguousarray(a).view(word).reshape(-1), np.ascontiguousarray(columns).reshape(-1)


def run(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """c (m, n) + a (m, k) b (k, n) by the instruction of that name, as patterns of c's type.

    dot_int8: a in uint8, b in int8, c in int32.
    """
    word = np.uint16 if name == "fused_fp16" else np.uint32
    (m, n), (x, y) = c.shape, _grouped(a, b, word)
    out = c.reshape(-1).copy()
    words = x.size // m
    if name == "tile_bf16":
        assert _tiles_permitted()  # without that the first of them ends the process
        _run_tiles(_configuration(words % 16), x, y, out, m, n, words)
    else:
        {"dot_bf16": _run_bf16, "fused_fp16": _run_fp16, "dot_int8": _run_int8}[name](x, y, out, m, n, words)
    return out.reshape(m, n)


def benchmark(size: int = 512, repetitions: int = 5) -> dict[str, float]:
    """Products of one thread a nanosecond, loads from memory and grouping included; no tile stays in registers."""
    rates = {}
    for name in FEATURES:
        if missing(name):
            continue
        kinds = (np.uint8, np.int8, np.int32) if name == "dot_int8" else (np.uint16, np.uint16, np.uint32)
        kinds = (*kinds[:2], np.uint16) if name == "fused_fp16" else kinds
        a, b, c = (np.zeros((size, size), kind) for kind in kinds)
        run(name, a, b, c)
        times = []
        for _ in range(repetitions):
            begun = time.perf_counter()
            run(name, a, b, c)
            times.append(time.perf_counter() - begun)
        rates[name] = size**3 / min(times) / 1e9
    return rates
