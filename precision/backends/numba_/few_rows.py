"""A chain's product for a few rows, as decoding a token has them: b is read once, as it lies, and not packed.

    for k in fours: for every vector j: s[j] <- step(... step(s[j], a[k], b[k, j]) ..., a[k + 3], b[k + 3, j])

The sums of a row stay in the first cache while b streams by; packing would read it, write it and read it again.  Each
sum walks its k in order, so that the bits are those of tiles.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

from llvmlite import ir

from precision.backends.numba_.chain_steps import StepBuilder, canonical_nan
from precision.backends.numba_.compilation import made_inline
from precision.backends.numba_.microkernels import Lanes, addresses_intrinsic, clear_words, counted_loop
from precision.backends.numba_.panels import make_pack

FEW = 3  # rows
_AT_ONCE = 4  # k
_LANES = Lanes(half=False)


def _number(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _make_steps(name: str, step: StepBuilder, depth: int) -> Any:
    """Intrinsic (a, b, bytes from a row of b to the next, sums, vectors): ``depth`` steps of every sum."""

    def body(builder: Any, args: list[Any]) -> None:
        a, b, pitch, sums, count = args
        rows = [builder.add(b, builder.mul(pitch, _number(k))) for k in range(depth)]
        x = [_LANES.load_a(builder, a, _number(4 * k)) for k in range(depth)]

        def one(builder: Any, index: Any, _carried: list[Any]) -> list[Any]:
            offset = builder.mul(index, _number(4 * _LANES.count))
            s = canonical_nan(builder, _LANES.load_sums(builder, sums, offset))
            for k in range(depth):
                s = step(builder, x[k], canonical_nan(builder, _LANES.load_b(builder, rows[k], offset)), s)
            _LANES.store_sums(builder, canonical_nan(builder, s), sums, offset)
            return []

        counted_loop(builder, count, [], one)

    return addresses_intrinsic(f"precision.few_rows.{name}.{depth}", 5, body)


def make_few_rows(name: str, step: StepBuilder):
    """Jitted (a, its pitches, b, bytes from a row of b to the next, sums, their pitch, m, n, k, fresh, scratch).

    n: whole vectors of columns, which are neighbours in b.  fresh: where sums start from +0.  scratch: m k values.
    """
    several, single = _make_steps(name, step, _AT_ONCE), _make_steps(name, step, 1)
    pack = make_pack(0, False, 1)
    lanes = _LANES.count

    @made_inline(f"few_rows_{name}")
    def few_rows(a, a_row, a_k, b, b_k, sums, pitch, m, n, k, fresh, scratch):
        vectors = n // lanes
        for i in range(m):
            row = scratch + i * k * 4
            pack(a + i * a_row, a_row, a_k, 1, k, row)
            if fresh:
                clear_words(sums + i * pitch, n)
        whole = k // _AT_ONCE * _AT_ONCE
        for k0 in range(0, whole, _AT_ONCE):
            for i in range(m):
                several(scratch + (i * k + k0) * 4, b + k0 * b_k, b_k, sums + i * pitch, vectors)
        for k0 in range(whole, k):
            for i in range(m):
                single(scratch + (i * k + k0) * 4, b + k0 * b_k, b_k, sums + i * pitch, vectors)

    return few_rows
