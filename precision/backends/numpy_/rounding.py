"""Rounding, codes, random words and counters on NumPy arrays, one operation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from precision import bits, double
from precision.format import Format
from precision.random_bits import Key, Stream, indices, random_bits
from precision.rounding_modes import NEAREST_EVEN, Constants, Rounding
from precision.significands import COLUMNS, make_column
from precision.statistics import COUNTERS, EXPONENT_BINS, Tally, power_sums

Array = np.ndarray


def _word(x: Array) -> Array:
    return x.astype(np.uint32)


_column = make_column(lambda x: x.view(np.uint32), lambda u: u.astype(np.float32), np.where, np.minimum, _word)


def to_bits(x: Array) -> Array:
    """Float32 patterns, at least one-dimensional: NumPy warns when a scalar word wraps around."""
    return np.atleast_1d(np.ascontiguousarray(x, dtype=np.float32)).view(np.uint32)


def from_bits(u: Array) -> Array:
    return u.view(np.float32)


def widen(x: Array, fmt: Format | None) -> Array:
    """Values of a narrower type as float32; exact."""
    del fmt
    return np.asarray(x).astype(np.float32)


def round_to(
    x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None, out: Array | None = None
) -> Array:
    """x, float32 or float64, rounded once; into ``out`` where one is given."""
    result = from_bits(_round(x, rounding.words(fmt), rounding, random)).reshape(np.shape(x))
    if out is None:
        return result
    np.copyto(out, result)
    return out


def round_each(
    arrays: Sequence[Array], fmt: Format, rounding: Rounding, streams: Sequence[Stream]
) -> tuple[Array, ...]:
    """Float32 arrays, each rounded stochastically by a stream of its own."""
    return tuple(round_to(x, fmt, rounding, stream) for x, stream in zip(arrays, streams, strict=True))


def _round(x: Array, f: Constants, rounding: Rounding, random: Stream | None) -> Array:
    """Patterns of the rounded values, at least one-dimensional."""
    if rounding.mode == "nearest_even" and x.dtype != np.float64:
        return bits.round_nearest_even(to_bits(x), f)
    u, extra = split(x) if x.dtype == np.float64 else (to_bits(x), np.uint32(0))
    return bits.round_pattern(u, extra, _words(random, u.shape), f)


def split(x: Array) -> tuple[Array, Array]:
    """Float64 values as truncated float32 patterns and the 32 bits that follow, at least one-dimensional."""
    u, extra = double.split(np.atleast_1d(np.ascontiguousarray(x)).view(np.uint64))
    return u.astype(np.uint32), extra.astype(np.uint32)


def _words(random: Stream | None, shape: tuple[int, ...]) -> Any:
    return np.uint32(0) if random is None else random_words(random.key, shape, random.counter)


def encode(x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None) -> Array:
    f = rounding.words(fmt)
    codes = bits.encode(_round(x, f, rounding, random), f).astype(_unsigned(fmt))
    return codes.view(fmt.code_dtype).reshape(np.shape(x))


def decode(codes: Array, fmt: Format) -> Array:
    words = np.atleast_1d(np.ascontiguousarray(codes)).view(_unsigned(fmt)).astype(np.uint32)
    return from_bits(bits.decode(words, fmt.constants)).reshape(np.shape(codes))


def _unsigned(fmt: Format) -> np.dtype:
    return np.dtype(f"u{fmt.code_dtype.itemsize}")


def random_words(key: Key, shape: tuple[int, ...], counter: Any = 0) -> Array:
    """One uint32 an element, that of its index: row-major from ``counter``, or given."""
    return random_bits(key, indices(counter, shape))


def statistics(x: Array, rounded: Array, fmt: Format) -> tuple[Array, Array]:
    """Counts of nearest-even rounding, in the order of ``COUNTERS``, and the table of significands of x; int64."""
    u, result = to_bits(x).ravel(), to_bits(rounded).ravel()
    return _counts(u, bits.nearest_even_events(u, result, fmt.constants))


def _counts(u: Array, events: Array) -> tuple[Array, Array]:
    counts = [np.count_nonzero(events & (1 << i)) for i in range(len(COUNTERS))]
    return np.array(counts, np.int64), _significands(u[(events & 0b111) == 0] & np.uint32(0x7FFFFFFF))


def _significands(magnitude: Array) -> Array:
    """Table of nonzero finite magnitudes."""
    row = bits.exponent_index(magnitude).astype(np.int64)
    # float32's subnormals are counts of 2^-149, whose float32 is exact and has the same significand
    normal = np.where(magnitude < 0x800000, magnitude.astype(np.float32).view(np.uint32), magnitude)
    index = row * COLUMNS + _column(normal & np.uint32(0x7FFFFF))
    return np.bincount(index, minlength=EXPONENT_BINS * COLUMNS).reshape(EXPONENT_BINS, COLUMNS)


def tally(
    x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None, out: Array | None = None
) -> tuple[Array, Tally]:
    """x rounded, and everything counted about it."""
    f, u = rounding.words(fmt), to_bits(x)
    result, events = bits.round_and_tell(u, _words(random, u.shape), f)
    counts, significands = _counts(u.ravel(), events.ravel())
    magnitude = u & 0x7FFFFFFF
    extremes = magnitude[(magnitude != 0) & (magnitude < 0x7F800000)]
    tallied = Tally(
        counts=counts,
        significands=significands,
        largest=extremes.max(initial=0),
        smallest=extremes.min(initial=0x7F800000),
        powers=power_sums(from_bits(u).ravel(), from_bits(result).ravel()),
    )
    rounded = from_bits(result).reshape(np.shape(x))
    if out is not None:
        np.copyto(out, rounded)
    return rounded if out is None else out, tallied


def observe(x: Array, rounded: Array, fmt: Format) -> tuple[int, Array, Array]:
    """Number of values and their statistics, counted at once."""
    return x.size, *statistics(x, rounded, fmt)
