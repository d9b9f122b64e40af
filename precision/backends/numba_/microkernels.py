"""The innermost loop of a product: a tile of sums held in registers while k runs, as vector LLVM IR.

For a tile of R rows and V vectors of L columns, with packed panels a (depth, R) and b (depth, V L):

    for k: for r, v: s[r, v] <- step(s[r, v], a[k, r] in every lane, b[k, v L : v L + L])

Numba cannot hold such a tile in registers, nor name a fused multiply-add or a rounding.  Addresses and lengths are
int64 bytes and counts.  The sums stand in float32 in memory, of which they are values, whatever the lanes are.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ARG005 (Numba counts the parameters of an intrinsic)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from precision.backends.numba_.chain_steps import (
    BIT,
    FLOAT,
    HALF,
    WORD,
    StepBuilder,
    call,
    canonical_nan,
    splat,
    vector,
)
from precision.backends.numba_.target import target

_COUNT, _BYTE = ir.IntType(64), ir.IntType(8)
_UNALIGNED = 4


def _number(value: int) -> Any:
    return ir.Constant(_COUNT, value)


def pointer(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    """Address plus bytes, both int64, as a pointer to that type."""
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def load(builder: Any, address: Any, offset: Any, kind: Any, align: int = _UNALIGNED) -> Any:
    return builder.load(pointer(builder, address, offset, kind), align=align)


def store(builder: Any, x: Any, address: Any, offset: Any, align: int = _UNALIGNED) -> None:
    builder.store(x, pointer(builder, address, offset, x.type), align=align)


def _prefetch(builder: Any, k: Any, sums: Any, pitch: Any, rows: int, columns: int) -> None:
    """One cache line of a tile that comes next, another one at each k, as few can be under way at a time.

    rows is a power of two: its bits of k are the row, those above them the line.
    """
    lines = (columns * 4 + 63) // 64
    row = builder.and_(k, _number(rows - 1))
    line = builder.and_(builder.lshr(k, _number(rows.bit_length() - 1)), _number((1 << lines.bit_length()) - 1))
    place = pointer(builder, sums, builder.add(builder.mul(row, pitch), builder.mul(line, _number(64))), _BYTE)
    to_write, to_keep, data = (ir.Constant(WORD, value) for value in (1, 3, 1))
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, to_write, to_keep, data])


def addresses_intrinsic(name: str, arguments: int, body: Callable[[Any, list[Any]], Any]) -> Any:
    """Numba's view of a function of int64 that is never inlined, so that nothing moves into or out of it.

    body: (builder, arguments) -> the int64 it returns, or None.
    """

    def emit(_context, builder, _signature, args):
        module = builder.module
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(_COUNT, [_COUNT] * arguments)
            function = ir.Function(module, kind, name)
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            inner = ir.IRBuilder(function.append_basic_block())
            inner.ret(body(inner, list(function.args)) or _number(0))
        return builder.call(function, list(args))

    return _with_int64_arguments(emit, arguments)


def _with_int64_arguments(emit: Callable, arguments: int) -> Any:
    signature = types.int64(*[types.int64] * arguments)
    typed = (signature, emit)
    shapes: dict[int, Callable] = {
        1: lambda _context, x: typed,
        2: lambda _context, x, y: typed,
        3: lambda _context, x, y, z: typed,
        4: lambda _context, x, y, z, u: typed,
        5: lambda _context, x, y, z, u, v: typed,
    }
    return intrinsic(shapes[arguments])


def counted_loop(builder: Any, count: Any, carried: list[Any], body: Callable) -> list[Any]:
    """carried <- body(builder, index, carried), ``count`` times, which may be none; what is left."""
    entry = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_COUNT)
    phis = [builder.phi(x.type) for x in carried]
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    values = body(builder, index, phis)
    following = builder.add(index, _number(1))
    end = builder.block
    builder.branch(head)
    for phi, first, later in zip([index, *phis], [_number(0), *carried], [following, *values], strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, end)
    builder.position_at_end(after)
    return phis


class Lanes:
    """How float32 sums and packed operands become lanes: float32, or twice as many of fp16.

    A packed value of a takes 4 bytes in either: fp16 is held twice, as the load port repeats words, not halves.
    """

    def __init__(self, half: bool) -> None:
        self._half = half
        self.count = target().lanes * (2 if half else 1)
        self.bytes = 2 if half else 4
        self.kind = vector(HALF if half else FLOAT, self.count)
        self._in_memory = vector(FLOAT, self.count)

    def load_sums(self, builder: Any, address: Any, offset: Any) -> Any:
        x = load(builder, address, offset, self._in_memory)
        return builder.fptrunc(x, self.kind) if self._half else x

    def store_sums(self, builder: Any, x: Any, address: Any, offset: Any) -> None:
        store(builder, builder.fpext(x, self._in_memory) if self._half else x, address, offset)

    def load_b(self, builder: Any, address: Any, offset: Any) -> Any:
        return load(builder, address, offset, self.kind, self.bytes)

    def load_a(self, builder: Any, address: Any, offset: Any) -> Any:
        """One value in every lane."""
        words = target().lanes
        kind = WORD if self._half else FLOAT
        undefined = ir.Constant(vector(kind, words), ir.Undefined)
        first = builder.insert_element(undefined, load(builder, address, offset, kind), ir.Constant(WORD, 0))
        everywhere = builder.shuffle_vector(first, undefined, splat(WORD, words, 0))
        return builder.bitcast(everywhere, self.kind) if self._half else everywhere


def _canonical_tile(builder: Any, sums: list[Any]) -> list[Any]:
    """The sums, every NaN canonical; one comparison for two of them where none is."""
    lanes = sums[0].type.count
    mask = ir.Constant(vector(BIT, lanes), None)
    for x, y in zip(sums[::2], sums[1::2] + sums[-1:], strict=False):
        mask = builder.or_(mask, builder.fcmp_unordered("uno", x, y))
    word = builder.bitcast(mask, ir.IntType(lanes))
    start = builder.block
    with builder.if_then(builder.icmp_unsigned("!=", word, ir.Constant(word.type, 0)), likely=False):
        replaced = [canonical_nan(builder, x) for x in sums]
        rare = builder.block
    merged = [builder.phi(x.type) for x in sums]
    for phi, x, y in zip(merged, sums, replaced, strict=True):
        phi.add_incoming(x, start)
        phi.add_incoming(y, rare)
    return merged


def make_tile(name: str, step: StepBuilder, half: bool, rows: int, vectors: int) -> Any:
    """Intrinsic (a, b, sums, bytes from a row of sums to the next, depth): the loop above on a full tile."""
    lanes = Lanes(half)

    def body(builder: Any, args: list[Any]) -> None:
        a, b, sums, pitch, depth = args
        below = builder.add(sums, builder.mul(pitch, _number(rows)))
        places = [(r, v) for r in range(rows) for v in range(vectors)]
        offsets = [builder.add(builder.mul(pitch, _number(r)), _number(4 * lanes.count * v)) for r, v in places]
        start = _canonical_tile(builder, [lanes.load_sums(builder, sums, offset) for offset in offsets])

        def one_k(builder: Any, k: Any, s: list[Any]) -> list[Any]:
            _prefetch(builder, k, below, pitch, rows, vectors * lanes.count)
            row = builder.mul(k, _number(vectors * lanes.count * lanes.bytes))
            column = builder.mul(k, _number(4 * rows))
            y = [
                lanes.load_b(builder, b, builder.add(row, _number(v * lanes.count * lanes.bytes)))
                for v in range(vectors)
            ]
            x = [lanes.load_a(builder, a, builder.add(column, _number(4 * r))) for r in range(rows)]
            return [step(builder, x[r], y[v], sum_) for (r, v), sum_ in zip(places, s, strict=True)]

        total = _canonical_tile(builder, counted_loop(builder, depth, start, one_k))
        for x, offset in zip(total, offsets, strict=True):
            lanes.store_sums(builder, x, sums, offset)

    return addresses_intrinsic(f"precision.tile.{name}.{rows}.{vectors}", 5, body)


def _add_body(builder: Any, args: list[Any]) -> None:
    x, y, total, count = args

    def one(builder: Any, index: Any, _carried: list[Any]) -> list[Any]:
        offset = builder.mul(index, _number(4))
        one_lane = vector(FLOAT, 1)
        s = builder.fadd(load(builder, x, offset, one_lane), load(builder, y, offset, one_lane))
        store(builder, canonical_nan(builder, s), total, offset)
        return []

    counted_loop(builder, count, [], one)


# total[i] <- RN32(x[i] + y[i]) for i < count: (x, y, total, count), the arithmetic as the control register has it
add_values = addresses_intrinsic("precision.add_values", 4, _add_body)


def _copy_body(builder: Any, args: list[Any]) -> None:
    destination, source, count = args

    def one(builder: Any, index: Any, _carried: list[Any]) -> list[Any]:
        offset = builder.mul(index, _number(4))
        store(builder, load(builder, source, offset, WORD), destination, offset)
        return []

    counted_loop(builder, count, [], one)


# (destination, source, count): words of 4 bytes
copy_words = addresses_intrinsic("precision.copy_words", 3, _copy_body)


def _clear_body(builder: Any, args: list[Any]) -> None:
    destination, count = args

    def one(builder: Any, index: Any, _carried: list[Any]) -> list[Any]:
        store(builder, ir.Constant(vector(FLOAT, 1), [0.0]), destination, builder.mul(index, _number(4)))
        return []

    counted_loop(builder, count, [], one)


# (destination, count): words of 4 bytes, all +0
clear_words = addresses_intrinsic("precision.clear_words", 2, _clear_body)


def _exchange_body(builder: Any, args: list[Any]) -> Any:
    control = target().control
    if control == "mxcsr":
        slots = [builder.alloca(WORD), builder.alloca(WORD)]
        old, new = (builder.bitcast(slot, _BYTE.as_pointer()) for slot in slots)
        builder.store(builder.trunc(args[0], WORD), slots[1])
        call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [old])
        call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [new])
        return builder.zext(builder.load(slots[0]), _COUNT)
    if control == "fpcr":
        old = call(builder, "llvm.aarch64.get.fpcr", _COUNT, [])
        call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [args[0]])
        return old
    return args[0]


# (the register that says how to round and what to flush) -> what it was before
exchange_control = addresses_intrinsic("precision.exchange_control", 1, _exchange_body)

# nearest even, subnormals kept, no exception raised; and, on x86, subnormals read as zero and flushed
IEEE = 0x1F80 if target().control == "mxcsr" else 0
FLUSHING = 0x1F80 | 0x8040


def flushing_offered() -> bool:
    """Whether the kernels of flushed arithmetic may be called: x86 with fused multiply-add instructions."""
    return target().control == "mxcsr" and target().lanes > 4
