"""Matrix products of operands scaled by powers of two, one scale an operand or one a block, as FP8 is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from precision.format import Format
from precision.formats import E8M0
from precision.quantization import tiles as tiling
from precision.quantization.scheme import Tiles
from precision.rounding_modes import BIAS, NEAREST_EVEN, WIDTH, Rounding, pattern_of
from precision.rounding_words import NOT_ROUNDED, rounding_words

Array = Any
_SATURATING = Rounding(overflow="saturate")
_POWER = 256  # ``times_power`` multiplies by 2^(power - 256)


def _itself(x: Array) -> Array:
    return x


def scaled_product(
    backend: Any,
    a: Array,
    b: Array,
    product: Callable[[Array, Array], Array],
    formats: tuple[Format, Format],
    of_all: Callable[[Array], Array] = _itself,
) -> Array:
    """product(round(a s_a), round(b s_b)) / (s_a s_b).

    Shapes: as ``product`` takes them.  of_all: the largest absmax of the parts of a tensor, where these are parts.
    Exactness: scaling and unscaling by powers of two are exact, so that the only roundings are those of the operands,
    to nearest even, and of the product.  A result that is no multiple of 2^-149 is rounded to odd: rounded again to
    a format of 16 bits it is what the exact one rounds to.
    """
    (qa, code_a), (qb, code_b) = (scaled(backend, x, fmt, of_all) for x, fmt in zip((a, b), formats, strict=True))
    return unscaled(backend, product(qa, qb), code_a, code_b)


def unscaled(backend: Any, y: Array, code_a: Array, code_b: Array) -> Array:
    """A product y of operands scaled by s_a and s_b, over both: y 2^(code_a + code_b - 254)."""
    xp = backend.array_module
    total = code_a.astype(xp.int32) + code_b.astype(xp.int32) - 2 * BIAS
    first = total >> 1  # in two steps of equal sign, neither of which leaves the range on its own
    powers = (xp.concatenate([first, total - first], axis=1) + _POWER).astype(np.uint32)
    return _times_powers(backend, y.reshape(1, -1), powers).reshape(y.shape)


def scaled(backend: Any, x: Array, fmt: Format, of_all: Callable[[Array], Array] = _itself) -> tuple[Array, Array]:
    """(x s rounded to the format, code of 1 / s),  s = 2^floor(log2(max / absmax)) <= 2^127,  code uint8 (1, 1).

    With absmax = 1.f 2^e and max = 1.m 2^E, floor(log2(max / absmax)) = E - e - (1 where f > m): integers throughout.
    1 / s = 2^(code - 127).  A tensor of zeros stays so; one that holds NaN or an infinity has code 255, and its
    finite values times 2^-128 leave NaN and infinities, which no product hides.
    """
    rows = x.reshape(1, -1)
    rounded, code = _scaled_rows(backend, rows, fmt, of_all(backend.absmax(rows, 1)))
    return rounded.reshape(x.shape), code


def _scaled_rows(backend: Any, rows: Array, fmt: Format, absmax: Array) -> tuple[Array, Array]:
    """The same of every row (R, n) by its absmax (R, 1): codes (R, 1)."""
    power, code = _powers(backend, fmt, absmax)
    return _times_powers(backend, rows, power, fmt), code


def _times_powers(
    backend: Any, x: Array, powers: Array, fmt: Format | None = None, rounding: Rounding = NEAREST_EVEN
) -> Array:
    """x (R, n) times the one power after the other, as ``times_power`` takes them: (R, s); rounded where a format is
    given.  In one pass where the back end has a kernel for it."""

    def composed(x: Array, powers: Array) -> tuple[Array]:
        for step in range(powers.shape[1]):
            x = backend.times_power(x, powers[:, step : step + 1])
        return (x if fmt is None else backend.round_to(x, fmt, rounding),)

    words = NOT_ROUNDED if fmt is None else rounding_words(rounding, fmt)
    kernel = None if words is None else backend.fused_layer("times_powers")
    return composed(x, powers)[0] if kernel is None else kernel(words, composed, x, powers)[0]


def _powers(backend: Any, fmt: Format, absmax: Array) -> tuple[Array, Array]:
    """(power, code) of rows of that absmax."""
    largest = pattern_of(fmt.maximum)
    threshold, exponent = largest & ((1 << WIDTH) - 1), (largest >> WIDTH) - BIAS
    code = backend.shared_scales(absmax, threshold, exponent)
    power = BIAS - code.astype(backend.array_module.int32) + _POWER
    return power.astype(np.uint32), code


def scaled_for(backend: Any, x: Array, fmt: Format, absmax: Array) -> tuple[Array, Array]:
    """As ``scaled``, by the scale of an absmax (1, 1) that x may exceed.

    Finite values beyond the format's largest one become that, and what is not finite NaN.
    """
    power, code = _powers(backend, fmt, absmax)
    rounded = _times_powers(backend, x.reshape(1, -1), power, fmt, _SATURATING).reshape(x.shape)
    finite = (backend.to_bits(x).reshape(x.shape) & np.uint32(0x7FFFFFFF)) < np.uint32(0x7F800000)
    return backend.array_module.where(finite, rounded, np.float32(np.nan)), code


def scaled_blocks(backend: Any, x: Array, fmt: Format, tiles: Tiles) -> tuple[Array, Array]:
    """As ``scaled``, each tile of x by a scale of its own; codes of the shape of ``tiling.counts``."""
    rows = tiling.to_rows(backend, x, tiles)
    rounded, code = _scaled_rows(backend, rows, fmt, backend.absmax(rows, 1))
    return tiling.from_rows(backend, rounded, x.shape, tiles), code.reshape(tiling.counts(x.shape, tiles))


def block_scaled_product(
    backend: Any,
    a: Array,
    b: Array,
    product: Callable[[Array, Array], Array],
    formats: tuple[Format, Format],
    block: int,
    square: bool,
) -> Array:
    """sum over blocks g of k, ascending, of  (product(round(a_g s_a), round(b_g s_b)) / s_a) / s_b.

    Shapes: a (B, m, k), b (B, k, n).  A scale of a is that of one row's ``block`` elements along k; one of b that of
    ``block`` elements of a column, or where ``square`` of ``block`` rows and columns.  Last blocks may be shorter.
    Exactness: scales are powers of two, so operands are rounded once, to nearest even.  Each division and each
    addition to the running sum, which begins with +0, is one float32 operation that flushes subnormals.  A block that
    holds NaN or an infinity makes its products NaN; one whose absmax is at most 2^-127 of the format's largest value
    counts as zero.
    """
    (qa, code_a), (qb, code_b) = (
        scaled_blocks(backend, a, formats[0], (1, 1, block)),
        scaled_blocks(backend, b, formats[1], (1, block, block if square else 1)),
    )
    down_a = backend.decode(code_a, E8M0)  # (B, m, G)
    down_b = backend.decode(code_b, E8M0)  # (B, G, n), or (B, G, ceil(n / block))
    down_b = tiling.spread(backend, down_b, (*down_b.shape[:2], b.shape[2]), (1, 1, block if square else 1))
    total = backend.array_module.zeros((*a.shape[:2], b.shape[2]), np.float32)
    for g in range(down_a.shape[2]):
        along = slice(g * block, (g + 1) * block)
        part = backend.multiply(product(qa[:, :, along], qb[:, along]), down_a[:, :, g : g + 1])
        total = backend.add(total, backend.multiply(part, down_b[:, g : g + 1]))
    return total
