"""Operands of a product, of any strides, as the panels that ``microkernels`` read from end to end.

A panel is (depth, width): for each k, the values of ``width`` rows of a or columns of b side by side; lanes past the
operand's edge are zero.  Every NaN becomes 0x7FC00000, so that roundings in integer words meet no other.  Packing
also says whether the values are narrow enough for a step's faster form: 0 where they all are.

Three ways to read, by strides: whole rows where lanes are neighbours in memory, square blocks transposed in registers
where the k are, else one value at a time.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from precision.backends.numba_.chain_steps import FLOAT, HALF, WORD, canonical_nan, splat, vector
from precision.backends.numba_.compilation import made_inline
from precision.backends.numba_.microkernels import addresses_intrinsic, counted_loop, load, store
from precision.backends.numba_.target import target

_COUNT = ir.IntType(64)
_FLOAT_BYTES = 4


def _number(value: int) -> Any:
    return ir.Constant(_COUNT, value)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """n vectors of n lanes, n a power of two: blocks of half the size are exchanged, down to single lanes.

    a b | c d      a b | A B
    e f | g h  ->  e f | E F   -> 2 x 2 blocks likewise
    A B | C D      c d | C D
    """
    n, half = len(rows), len(rows) // 2
    while half:
        for i in range(n):
            if not i & half:
                x, y = rows[i], rows[i + half]
                low = [j if not j & half else j - half + n for j in range(n)]
                rows[i] = _shuffled(builder, x, y, low)
                rows[i + half] = _shuffled(builder, x, y, [j + half for j in low])
        half //= 2
    return rows


def _shuffled(builder: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(x, y, ir.Constant(vector(WORD, len(lanes)), [ir.Constant(WORD, j) for j in lanes]))


class Packing:
    """How values are written, and what is noted of them.

    fits: bits that are zero in narrow values; None: narrow values are those of fp16, and are written so.
    twice: an fp16 value is written twice.
    """

    def __init__(self, fits: int | None, twice: bool) -> None:
        self._fits, self._twice = fits, twice
        self.bytes = 2 if fits is None and not twice else _FLOAT_BYTES

    def write(self, builder: Any, x: Any, address: Any, offset: Any) -> Any:
        """Store a float32 vector; words that are zero where it is narrow."""
        x = canonical_nan(builder, x)
        if self._fits is not None:
            store(builder, x, address, offset)
            u = builder.bitcast(x, vector(WORD, x.type.count))
            return builder.and_(u, splat(WORD, x.type.count, self._fits))
        half = builder.fptrunc(x, vector(HALF, x.type.count))
        lost = builder.fcmp_ordered("!=", builder.fpext(half, x.type), x)
        if self._twice:
            word = vector(WORD, x.type.count)
            u = builder.zext(builder.bitcast(half, vector(ir.IntType(16), x.type.count)), word)
            half = builder.or_(u, builder.shl(u, splat(WORD, x.type.count, 16)))
        store(builder, half, address, offset, 2)
        return builder.zext(lost, vector(WORD, x.type.count))


def _any_bit(builder: Any, words: Any) -> Any:
    name = f"llvm.vector.reduce.or.v{words.type.count}i32"
    kind = ir.FunctionType(WORD, [words.type])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.zext(builder.call(function, [words]), _COUNT)


def _rows_body(packing: Packing, width: int) -> Callable:
    """(source, bytes to the next k, panel, depth): ``width`` neighbours in memory, for each k."""
    lanes = min(width, target().lanes)
    kind = vector(FLOAT, lanes)

    def body(builder: Any, args: list[Any]) -> Any:
        source, pitch, panel, depth = args

        def one_k(builder: Any, k: Any, carried: list[Any]) -> list[Any]:
            noted = carried[0]
            start, place = builder.mul(k, pitch), builder.mul(k, _number(width * packing.bytes))
            for j in range(0, width, lanes):
                x = load(builder, source, builder.add(start, _number(j * _FLOAT_BYTES)), kind)
                words = packing.write(builder, x, panel, builder.add(place, _number(j * packing.bytes)))
                noted = builder.or_(noted, words)
            return [noted]

        return _any_bit(builder, counted_loop(builder, depth, [splat(WORD, lanes, 0)], one_k)[0])

    return body


def _blocks_body(packing: Packing, width: int, side: int) -> Callable:
    """(source, bytes to the next lane, panel, blocks of ``side`` k): neighbours in memory are the k."""
    kind = vector(FLOAT, side)

    def body(builder: Any, args: list[Any]) -> Any:
        source, pitch, panel, blocks = args

        def one_block(builder: Any, block: Any, carried: list[Any]) -> list[Any]:
            noted = carried[0]
            start = builder.mul(block, _number(side * _FLOAT_BYTES))
            place = builder.mul(block, _number(side * width * packing.bytes))
            for lane in range(0, width, side):
                rows = [
                    load(builder, source, builder.add(start, builder.mul(pitch, _number(lane + r))), kind)
                    for r in range(side)
                ]
                for k, x in enumerate(_transposed(builder, rows)):
                    offset = builder.add(place, _number((k * width + lane) * packing.bytes))
                    noted = builder.or_(noted, packing.write(builder, x, panel, offset))
            return [noted]

        return _any_bit(builder, counted_loop(builder, blocks, [splat(WORD, side, 0)], one_block)[0])

    return body


def _values_body(packing: Packing) -> Callable:
    """(source, bytes to the next, panel, count, bytes there to the next): a line of single values."""
    one = vector(FLOAT, 1)

    def body(builder: Any, args: list[Any]) -> Any:
        source, pitch, panel, count, spacing = args

        def one_value(builder: Any, index: Any, carried: list[Any]) -> list[Any]:
            x = load(builder, source, builder.mul(index, pitch), one)
            words = packing.write(builder, x, panel, builder.mul(index, spacing))
            return [builder.or_(carried[0], words)]

        noted = counted_loop(builder, count, [splat(WORD, 1, 0)], one_value)[0]
        return builder.zext(builder.extract_element(noted, ir.Constant(WORD, 0)), _COUNT)

    return body


def _zeros_body(builder: Any, args: list[Any]) -> None:
    panel, count, spacing, length = args

    def one(builder: Any, index: Any, _carried: list[Any]) -> list[Any]:
        place = builder.mul(index, spacing)

        def byte(builder: Any, j: Any, _carried: list[Any]) -> list[Any]:
            store(builder, ir.Constant(ir.IntType(8), 0), panel, builder.add(place, j), 1)
            return []

        counted_loop(builder, length, [], byte)
        return []

    counted_loop(builder, count, [], one)


# (address, count, bytes from one to the next, length of each in bytes): zeros
_zeros = addresses_intrinsic("precision.zeros", 4, _zeros_body)


def make_pack(fits: int | None, twice: bool, width: int) -> Any:
    """Jitted (source, lane pitch, k pitch, lanes, depth, panel) -> 0 where every value is narrow.

    One panel; pitches in bytes, 1 <= lanes <= width.
    """
    packing = Packing(fits, twice)
    name, size, side = f"{fits}_{twice}_{width}", packing.bytes, min(width, 8)
    rows = addresses_intrinsic(f"precision.rows.{name}", 4, _rows_body(packing, width))
    blocks = addresses_intrinsic(f"precision.blocks.{name}", 4, _blocks_body(packing, width, side))
    values = addresses_intrinsic(f"precision.values.{name}", 5, _values_body(packing))

    @made_inline(f"pack_{name}")
    def pack(source, lane_pitch, k_pitch, lanes, depth, panel):
        if lanes == width and lane_pitch == 4:
            return rows(source, k_pitch, panel, depth)
        noted, done = 0, 0
        if lanes == width and k_pitch == 4:
            done = depth // side * side
            noted = blocks(source, lane_pitch, panel, done // side)
            source += done * k_pitch
            panel += done * width * size
        rest = depth - done
        if lanes < width:
            _zeros(panel + lanes * size, rest, width * size, (width - lanes) * size)
        for lane in range(lanes):
            noted |= values(source + lane * lane_pitch, k_pitch, panel + lane * size, rest, width * size)
        return noted

    return pack
