"""Tiles of an int8 product as vector LLVM IR: four products to a lane, sums in registers.

An instruction multiplies unsigned by signed bytes, so the left operand is biased: with u = a + 128 = a XOR 0x80,

    sum_k a_k b_k = sum_k u_k b_k - 128 sum_k b_k        modulo 2^32

A word holds four consecutive k of one row of a, or of one column of b, the lowest k in its lowest byte:

    [ k + 3 | k + 2 | k + 1 | k ]
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


@dataclass(frozen=True)
class Unit:
    """How a target adds four products to each lane, and the tile that fits its registers.

    ``unsigned``, ``signed``: (builder, words) -> the parts that ``add`` takes, made once a load.
    ``add``: (builder, sums, part of unsigned words, part of signed words) -> sums.
    """

    name: str
    lanes: int  # 32-bit lanes of a vector
    rows: int  # of the largest tile
    vectors: int  # columns of the largest tile / lanes
    unsigned: Callable
    signed: Callable
    add: Callable


def _constant(kind, value):
    return ir.Constant(kind, [value] * kind.count)


def _declared(builder, name, result, arguments):
    function = builder.module.globals.get(name)
    return function or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _whole(_builder, words):
    return [words]


def _instruction(name, parts_of):
    """acc, u, s -> acc by the instruction; LLVM reads the operands in the type that its version wants."""

    def add(builder, sums, u, s):
        return builder.call(_declared(builder, name, sums.type, [sums.type, parts_of(u), parts_of(s)]), [sums, u, s])

    return add


# [ 3 | 2 | 1 | 0 ] as 16-bit pairs: [ 2 | 0 ] and [ 3 | 1 ]; pmaddwd adds both products of a pair


def _halves(words):
    return ir.VectorType(_I16, 2 * words.type.count)


def _unsigned_pairs(builder, words):
    kind = _halves(words)
    pairs = builder.bitcast(words, kind)
    return [builder.and_(pairs, _constant(kind, 0xFF)), builder.lshr(pairs, _constant(kind, 8))]


def _signed_pairs(builder, words):
    kind = _halves(words)
    pairs, eight = builder.bitcast(words, kind), _constant(kind, 8)
    return [builder.ashr(builder.shl(pairs, eight), eight), builder.ashr(pairs, eight)]


def _multiply_pairs(name):
    def add(builder, sums, u, s):
        return builder.add(sums, builder.call(_declared(builder, name, sums.type, [u.type, s.type]), [u, s]))

    return add


# any processor: byte by byte, in 32-bit lanes


def _unsigned_bytes(builder, words):
    kind = words.type
    return [builder.and_(builder.lshr(words, _constant(kind, at)), _constant(kind, 0xFF)) for at in (0, 8, 16, 24)]


def _signed_bytes(builder, words):
    kind = words.type
    return [builder.ashr(builder.shl(words, _constant(kind, 24 - at)), _constant(kind, 24)) for at in (0, 8, 16, 24)]


def _multiply_bytes(builder, sums, u, s):
    return builder.add(sums, builder.mul(u, s))


def _same(value):
    return value.type


_DOT = "llvm.x86.avx512.vpdpbusd."  # of the AVX-VNNI instruction too
_PAIRS = (_unsigned_pairs, _signed_pairs)
_UNITS: tuple[tuple[set[str], Unit], ...] = (
    # features that it takes, the unit
    ({"avx512vnni", "avx512f"}, Unit("vnni512", 16, 6, 4, _whole, _whole, _instruction(_DOT + "512", _same))),
    ({"avx512vnni", "avx512vl"}, Unit("vnni256", 8, 6, 2, _whole, _whole, _instruction(_DOT + "256", _same))),
    ({"avxvnni"}, Unit("vnni256", 8, 6, 2, _whole, _whole, _instruction(_DOT + "256", _same))),
    ({"avx512bw"}, Unit("pairs512", 16, 6, 2, *_PAIRS, _multiply_pairs("llvm.x86.avx512.pmaddw.d.512"))),
    ({"avx2"}, Unit("pairs256", 8, 4, 2, *_PAIRS, _multiply_pairs("llvm.x86.avx2.pmadd.wd"))),
    (set(), Unit("bytes", 8, 3, 1, _unsigned_bytes, _signed_bytes, _multiply_bytes)),
)


def target_features() -> set[str]:
    """Features of the processor that Numba compiles for.

    None of a processor that is named without them: those that Numba then assumes are the host's.
    """
    if config.CPU_NAME is not None and config.CPU_FEATURES is None:
        return set()
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return {feature[1:] for feature in features.split(",") if feature.startswith("+")}


def unit_for(features: set[str]) -> Unit:
    """The fastest unit that a processor of those features has."""
    return next(unit for needed, unit in _UNITS if needed <= features)


UNIT = unit_for(target_features())


def make_tile(rows: int, unit: Unit = UNIT) -> Any:
    """tile(vectors, left, left_at, right, right_at, groups, out, out_at, stride): out += left right, modulo 2^32.

    All arrays flat and int32; ``_at``: index of the first word; L = vectors * lanes, vectors from 1 to the unit's.
    left: words of unsigned bytes, (groups, rows).  right: L sums to subtract 128 times, then words of signed bytes,
    (groups, L).  out: ``rows`` rows of L sums, ``stride`` apart.
    """

    @intrinsic
    def tile(_context: Any, vectors, left, left_at, right, right_at, groups, out, out_at, stride):
        kinds = (vectors, left, left_at, right, right_at, groups, out, out_at, stride)

        def build(context, builder, _signature, args):
            def integer(at):
                return context.cast(builder, args[at], kinds[at], types.intp)

            def start(array):
                data = context.make_array(kinds[array])(context, builder, args[array]).data
                return builder.gep(data, [integer(array + 1)])

            operands = (start(1), start(3), start(6), integer(5), integer(8))
            for count in range(1, unit.vectors + 1):
                with builder.if_then(builder.icmp_signed("==", integer(0), ir.Constant(_I64, count))):
                    _build_tile(builder, unit, rows, count, *operands)
            return context.get_dummy_value()

        return types.void(*kinds), build

    return tile


def _build_tile(builder, unit, rows, vectors, left, right, out, groups, stride):
    kind = ir.VectorType(_I32, unit.lanes)
    width = vectors * unit.lanes

    def vector_at(base, *offsets):
        for offset in offsets:
            base = builder.gep(base, [offset if isinstance(offset, ir.Value) else ir.Constant(_I64, offset)])
        return builder.bitcast(base, kind.as_pointer())

    places = [
        [vector_at(out, builder.mul(stride, ir.Constant(_I64, i)), v * unit.lanes) for v in range(vectors)]
        for i in range(rows)
    ]
    seven = _constant(kind, 7)
    bias = [builder.shl(builder.load(vector_at(right, v * unit.lanes), align=4), seven) for v in range(vectors)]
    start = [builder.sub(builder.load(place, align=4), bias[v]) for row in places for v, place in enumerate(row)]

    before, loop = builder.block, builder.append_basic_block("group")
    after = builder.append_basic_block("done")
    first = builder.icmp_signed(">", groups, ir.Constant(_I64, 0))
    builder.cbranch(first, loop, after)
    builder.position_at_end(loop)
    group = builder.phi(_I64)
    sums = [builder.phi(kind) for _ in start]
    words = builder.gep(right, [builder.mul(builder.add(group, ir.Constant(_I64, 1)), ir.Constant(_I64, width))])
    columns = [unit.signed(builder, builder.load(vector_at(words, v * unit.lanes), align=4)) for v in range(vectors)]
    row_words = builder.gep(left, [builder.mul(group, ir.Constant(_I64, rows))])
    results = []
    for i in range(rows):
        word = builder.load(builder.gep(row_words, [ir.Constant(_I64, i)]))
        us = unit.unsigned(builder, _splat(builder, word, kind))
        for v, signed in enumerate(columns):
            total = sums[i * vectors + v]
            for u, s in zip(us, signed, strict=True):
                total = unit.add(builder, total, u, s)
            results.append(total)
    following = builder.add(group, ir.Constant(_I64, 1))
    builder.cbranch(builder.icmp_signed("<", following, groups), loop, after)
    group.add_incoming(ir.Constant(_I64, 0), before)
    group.add_incoming(following, loop)
    for total, begun, result in zip(sums, start, results, strict=True):
        total.add_incoming(begun, before)
        total.add_incoming(result, loop)

    builder.position_at_end(after)
    ends = [builder.phi(kind) for _ in start]
    for end, begun, result in zip(ends, start, results, strict=True):
        end.add_incoming(begun, before)
        end.add_incoming(result, loop)
    for end, place in zip(ends, [place for row in places for place in row], strict=True):
        builder.store(end, place, align=4)


def _splat(builder, word, kind):
    empty = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(empty, word, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


@intrinsic
def word_at(_context: Any, x, i, j):
    """Four bytes of an int8 matrix from x[i, j] on, along an axis on which they are neighbours, as int32."""

    def build(context, builder, signature, args):
        kind = signature.args[0]
        array = context.make_array(kind)(context, builder, args[0])
        indices = [context.cast(builder, args[at], signature.args[at], types.intp) for at in (1, 2)]
        place = cgutils.get_item_pointer(context, builder, kind, array, indices, wraparound=False)
        return builder.load(builder.bitcast(place, _I32.as_pointer()), align=1)

    return types.int32(x, i, j), build


@intrinsic
def join_columns(_context: Any, x, i, j, flip, out, at):  # noqa: ARG001
    """out[at : at + 16] = words of x[i : i + 16, j : j + 4] XOR flip; neighbours of the first axis lie together."""

    def build(context, builder, signature, args):
        kind = signature.args[0]
        array = context.make_array(kind)(context, builder, args[0])
        row, column, start = (context.cast(builder, args[k], signature.args[k], types.intp) for k in (1, 2, 5))
        loaded = []
        for k in range(4):
            index = [row, builder.add(column, ir.Constant(_I64, k))]
            place = cgutils.get_item_pointer(context, builder, kind, array, index, wraparound=False)
            loaded.append(builder.load(builder.bitcast(place, ir.VectorType(_I8, 16).as_pointer()), align=1))
        low, high = (_shuffle(builder, loaded[k], loaded[k + 1], range(32)) for k in (0, 2))
        # 0 .. 15 | 16 .. 31 | 32 .. 47 | 48 .. 63  ->  0 16 32 48 | 1 17 33 49 | ...
        woven = _shuffle(builder, low, high, [k * 16 + lane for lane in range(16) for k in range(4)])
        words = builder.bitcast(woven, ir.VectorType(_I32, 16))
        words = builder.xor(words, _splat(builder, args[3], words.type))
        data = context.make_array(signature.args[4])(context, builder, args[4]).data
        place = builder.bitcast(builder.gep(data, [start]), words.type.as_pointer())
        builder.store(words, place, align=4)
        return context.get_dummy_value()

    return types.void(x, i, j, types.int32, out, at), build


def _shuffle(builder, x, y, indices):
    mask = list(indices)
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(mask)), mask))
