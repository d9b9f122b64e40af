"""Rounding, codes and random words on JAX arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from precision import bits, double
from precision.backends.jax_.gradients import straight_through
from precision.backends.jax_.platforms import platform
from precision.format import Format
from precision.nearest import make_narrow, make_same_range, plan
from precision.random_bits import Key, Stream
from precision.rounding_modes import NEAREST_EVEN, Rounding
from precision.significands import COLUMNS, make_column
from precision.statistics import COUNTERS, EXPONENT_BINS, INFINITY, Tally, power_sums

Array = Any
_ALL = np.uint32(0xFFFFFFFF)
STREAMED = 1 << 32  # elements that a 32-bit offset tells apart
NORMAL = 0x00800000
CELLS = EXPONENT_BINS * COLUMNS  # of a table of significands
MOST_COUNTED = (1 << 31) - 1  # without 64-bit types, counters are int32


def to_bits(x: Array) -> Array:
    return lax.bitcast_convert_type(jnp.asarray(x, jnp.float32), jnp.uint32)


def from_bits(u: Array) -> Array:
    return lax.bitcast_convert_type(u, jnp.float32)


def require_float64() -> None:
    """TypeError where JAX has no 64-bit types, in which float64 would be narrowed silently."""
    if not jax.config.jax_enable_x64:
        raise TypeError(
            "float64 on JAX needs 64-bit types; set jax_enable_x64, or pass NumPy arrays, or float32 values"
        )


def widen(x: Array, fmt: Format | None) -> Array:
    """Values of a narrower type as float32, subnormals kept; through its codes, where it fills whole bytes."""
    if fmt is None or fmt.bits % 8 or fmt.is_integer or isinstance(x, np.ndarray):
        return jnp.asarray(np.asarray(x).astype(np.float32) if isinstance(x, np.ndarray) else x, jnp.float32)
    return straight_through(partial(_through_codes, fmt=fmt), x, fmt, "straight_through")


def _through_codes(x: Array, fmt: Format) -> Array:
    return decode(lax.bitcast_convert_type(x, fmt.code_dtype), fmt)


def round_to(x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None) -> Array:
    """x, float32 or float64, rounded once."""
    return _round_to(x, fmt, rounding, _in_words(random))


@partial(jax.jit, static_argnames=("fmt", "rounding"))
def _round_to(x: Array, fmt: Format, rounding: Rounding, random: Stream | None) -> Array:
    return from_bits(_round(x, fmt, rounding, random))


def _word(x: Array) -> Array:
    return x.astype(jnp.uint32)


def _float(u: Array) -> Array:
    """Of words below 2^31 through int32, as ``_least``: Mosaic compiles no such operation on unsigned words."""
    return lax.bitcast_convert_type(u, jnp.int32).astype(jnp.float32)


def _least(u: Array, v: np.uint32) -> Array:
    return _word(jnp.minimum(u.astype(jnp.int32), np.int32(v)))


_column = make_column(to_bits, _float, jnp.where, _least, _word)


def round_each(
    arrays: Sequence[Array], fmt: Format, rounding: Rounding, streams: Sequence[Stream]
) -> tuple[Array, ...]:
    """Float32 arrays, each rounded stochastically by a stream of its own."""
    return _round_each(tuple(arrays), fmt, rounding, tuple(_words_of(*stream) for stream in streams))


@partial(jax.jit, static_argnames=("fmt", "rounding"))
def _round_each(
    arrays: tuple[Array, ...], fmt: Format, rounding: Rounding, streams: tuple[Stream, ...]
) -> tuple[Array, ...]:
    """As one vector: the rounds of Threefry are compiled once, not once an array."""
    index = [(*s.key, *_index_words(s.counter, x.shape)) for x, s in zip(arrays, streams, strict=True)]
    flat = [
        [to_bits(x).reshape(-1), *(jnp.broadcast_to(w, x.shape).reshape(-1) for w in words)]
        for x, words in zip(arrays, index, strict=True)
    ]
    columns = [jnp.concatenate(column) for column in zip(*flat, strict=True)]
    size = columns[0].size

    def drawn(column: tuple[Array, ...]) -> Array:
        u, key0, key1, high, low = column
        word = bits.threefry2x32(key0, key1, high, low, _ALL)[0]
        return from_bits(bits.round_pattern(u, np.uint32(0), word, rounding.words(fmt)))

    # A loop of two turns: XLA would compute the whole vector again in the fusion of every array cut out of it, and
    # takes nothing out of a loop; it drops an optimization_barrier before it fuses.
    halves = tuple(jnp.pad(column, (0, size % 2)).reshape(2, -1) for column in columns)
    rounded = lax.map(drawn, halves).reshape(-1)[:size]
    parts = jnp.split(rounded, np.cumsum([x.size for x in arrays])[:-1])
    return tuple(part.reshape(x.shape) for part, x in zip(parts, arrays, strict=True))


def on_cpu() -> bool:
    """Whether XLA compiles for a CPU, whose float addition rounds to nearest even and flushes subnormals."""
    return platform() == "cpu"


_narrow = make_narrow(to_bits, from_bits, jnp.where, lambda u: u)
_same_range = make_same_range(jnp.where, lambda u: u)


def _round(x: Array, fmt: Format, rounding: Rounding, random: Stream | None) -> Array:
    """Patterns of the rounded values."""
    f = rounding.words(fmt)
    if rounding.mode == "nearest_even" and x.dtype != jnp.float64:
        short = plan(rounding, fmt)
        if short is None or (short.by_addition and not on_cpu()):
            return bits.round_nearest_even(to_bits(x), f)
        return (_narrow if short.by_addition else _same_range)(to_bits(x), *short.thresholds)
    u, extra = split(x) if x.dtype == jnp.float64 else (to_bits(x), np.uint32(0))
    return bits.round_pattern(u, extra, _words(random, u.shape), f)


def split(x: Array) -> tuple[Array, Array]:
    """Float64 values as truncated float32 patterns and the 32 bits that follow."""
    u, extra = double.split(lax.bitcast_convert_type(x, jnp.uint64))
    return u.astype(jnp.uint32), extra.astype(jnp.uint32)


def _words(random: Stream | None, shape: tuple[int, ...]) -> Any:
    return np.uint32(0) if random is None else _draw(random, shape)


def _draw(random: Stream, shape: tuple[int, ...]) -> Array:
    """Of a stream in words."""
    high, low = _index_words(random.counter, shape)
    return bits.threefry2x32(*random.key, high, low, _ALL)[0]


def _in_words(random: Stream | None) -> Stream | None:
    return None if random is None else _words_of(random.key, random.counter)


def _words_of(key: Key, counter: Any) -> Stream:
    """Key and counter as pairs of words: a jitted function takes no Python int from 2^31 and no 64-bit array."""
    k0, k1 = (jnp.asarray(word, jnp.uint32) for word in key)
    return Stream((k0, k1), _counter_words(counter))


def encode(x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None) -> Array:
    return _encode(x, fmt, rounding, _in_words(random))


@partial(jax.jit, static_argnames=("fmt", "rounding"))
def _encode(x: Array, fmt: Format, rounding: Rounding, random: Stream | None) -> Array:
    f = rounding.words(fmt)
    codes = bits.encode(_round(x, fmt, rounding, random), f).astype(f"uint{8 * fmt.code_dtype.itemsize}")
    return lax.bitcast_convert_type(codes, fmt.code_dtype) if fmt.is_integer else codes


@partial(jax.jit, static_argnames="fmt")
def decode(codes: Array, fmt: Format) -> Array:
    unsigned = lax.bitcast_convert_type(codes, f"uint{8 * fmt.code_dtype.itemsize}")
    return from_bits(bits.decode(unsigned.astype(jnp.uint32), fmt.constants))


def key_words(key: Array | tuple[Array, ...]) -> tuple[Array, Array]:
    """Both words of a JAX key, typed or raw, or given as they are.  ValueError for a key that is not Threefry's."""
    key = jnp.stack([jnp.asarray(word) for word in key]) if isinstance(key, tuple) else key
    raw = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    if raw.shape != (2,) or raw.dtype != jnp.uint32:
        raise ValueError(f"a JAX key of {raw.dtype} words and shape {raw.shape} is no Threefry key")
    return raw[0], raw[1]


def random_words(key: Key, shape: tuple[int, ...], counter: Any = 0) -> Array:
    """One uint32 an element, that of its index: row-major from ``counter``, or given (32 bits, or 64)."""
    return _draw(_words_of(key, counter), shape)


def _index_words(first: tuple[Array, Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
    first_high, first_low = first
    if np.ndim(first_low):
        return jnp.broadcast_to(first_high, shape), jnp.broadcast_to(first_low, shape)
    size = math.prod(shape)
    if size > STREAMED:
        raise ValueError(
            f"a JAX array of {size} elements outgrows the 32 bits by which one stream of random words tells them "
            "apart; round it in parts, each with its own counter"
        )
    offset = lax.iota(jnp.uint32, size).reshape(shape)
    low = offset + first_low
    return first_high + (low < first_low).astype(jnp.uint32), low


def _counter_words(counter: Any) -> tuple[Array, Array]:
    """High and low word of a Python int, a NumPy array or a JAX integer."""
    if isinstance(counter, jax.Array):
        wide = counter.dtype.itemsize == 8
        high = (counter >> 32).astype(jnp.uint32) if wide else jnp.zeros(counter.shape, jnp.uint32)
        return high, counter.astype(jnp.uint32)
    index = np.asarray(counter, np.uint64)
    return jnp.asarray((index >> np.uint64(32)).astype(np.uint32)), jnp.asarray(index.astype(np.uint32))


def refuse_too_many(size: int) -> None:
    """ValueError where int32 counters could overflow."""
    if size > MOST_COUNTED:
        raise ValueError(
            f"statistics of {size} values at once overflow JAX's int32 counters, which end at {MOST_COUNTED}; "
            "take them of parts, and add the parts"
        )


def tally(
    x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None
) -> tuple[Array, Tally]:
    """x, not traced, rounded, and everything counted about it.  The float64 sums are formed on the host."""
    refuse_too_many(x.size)
    if isinstance(x, jax.core.Tracer):
        raise TypeError("statistics of a traced array have no values yet; take them outside jit, of what it returns")
    rounded, counts, table, largest, smallest = _round_and_count(x, fmt, rounding, _in_words(random))
    powers = power_sums(np.asarray(x).ravel(), np.asarray(rounded).ravel())
    return rounded, Tally(counts=counts, significands=table, largest=largest, smallest=smallest, powers=powers)


@partial(jax.jit, static_argnames=("fmt", "rounding"))
def _round_and_count(x: Array, fmt: Format, rounding: Rounding, random: Stream | None) -> tuple[Array, ...]:
    f, u = rounding.words(fmt), to_bits(x).reshape(-1)
    words = _words(random, x.shape)
    result, events = bits.round_and_tell(u, words.reshape(-1) if np.ndim(words) else words, f)
    counts = (events[:, None] >> np.arange(len(COUNTERS), dtype=np.uint32) & 1).sum(axis=0, dtype=jnp.int32)
    magnitude = u & 0x7FFFFFFF
    largest = jnp.where(magnitude < INFINITY, magnitude, 0).max(initial=0)
    smallest = jnp.where(magnitude > 0, magnitude, INFINITY).min(initial=INFINITY)
    return from_bits(result).reshape(x.shape), counts, significands(magnitude), largest, smallest


def significands(magnitude: Array) -> Array:
    """Table of the nonzero finite ones among flat magnitudes, int32 (EXPONENT_BINS, COLUMNS)."""
    table = jnp.zeros(CELLS, jnp.int32).at[cells(magnitude, CELLS)].add(1, mode="drop")
    return table.reshape(EXPONENT_BINS, COLUMNS)


def cells(magnitude: Array, nowhere: int) -> Array:
    """Place of each magnitude in the flat table of significands, int32; ``nowhere`` of zero, infinity and NaN."""
    subnormal = magnitude < NORMAL
    normal = jnp.where(subnormal, to_bits(_float(magnitude)), magnitude)
    row = (normal >> 23).astype(jnp.int32) - jnp.where(subnormal, 127, -22)
    index = row * COLUMNS + _column(normal & 0x7FFFFF).astype(jnp.int32)
    return jnp.where((magnitude > 0) & (magnitude < INFINITY), index, nowhere)
