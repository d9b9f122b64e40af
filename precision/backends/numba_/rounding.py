"""Rounding, codes, random words and counters on NumPy arrays through Numba loops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numba
import numpy as np

from precision.backends.numba_ import count_kernels, tally_kernels
from precision.backends.numba_ import rounding_kernels as kernels
from precision.backends.numba_.compilation import Kernel
from precision.backends.numba_.foreign import Foreign
from precision.backends.numba_.stochastic import stochastic_plan
from precision.format import Format
from precision.formats import FP32
from precision.nearest import plan
from precision.random_bits import Key, Stream, indices
from precision.rounding_modes import NEAREST_EVEN, Rounding
from precision.significands import COLUMNS
from precision.statistics import COUNTERS, EXPONENT_BINS, INFINITY, Tally

Array = np.ndarray
_NO_WORDS = np.zeros(1, np.uint32)
CHUNK = 1 << 16  # elements whose squares are summed together, a multiple of BLOCK
LONGEST_PART = 1 << 31  # elements counted together, fewer than a word can count
STOCHASTIC_WORK, TALLY_WORK = 8, 4  # what an element costs, in elements rounded to nearest
STREAMED = 1 << 32  # indices that share their high word: a loop runs over no more


def flat_bits(x: Array) -> Array:
    """Float32 patterns, flat and contiguous; a view where x allows it."""
    return np.ascontiguousarray(x, dtype=np.float32).reshape(-1).view(np.uint32)


def round_to(
    x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None, out: Array | None = None
) -> Array:
    """x, float32 or float64, rounded once; into ``out`` where one is given."""
    target = out if out is not None and _direct(x, out) else np.empty(np.shape(x), np.float32)
    _round(x, target.reshape(-1).view(np.uint32), fmt, rounding, random)
    if out is None or target is out:
        return target
    np.copyto(out, target)
    return out


def round_each(
    arrays: Sequence[Array], fmt: Format, rounding: Rounding, streams: Sequence[Stream]
) -> tuple[Array, ...]:
    """Float32 arrays, each rounded stochastically by a stream of its own."""
    return tuple(round_to(x, fmt, rounding, stream) for x, stream in zip(arrays, streams, strict=True))


def _direct(x: Array, out: Array) -> bool:
    """Whether a loop may write to ``out`` while it reads x: apart from it, or the very same elements."""
    if not out.flags.c_contiguous:
        return False
    return not np.may_share_memory(x, out) or (
        x.__array_interface__["data"] == out.__array_interface__["data"]
        and x.dtype == out.dtype
        and x.flags.c_contiguous
    )


def _round(x: Array, out: Array, fmt: Format, rounding: Rounding, random: Stream | None) -> None:
    """Patterns of the rounded values into flat ``out``."""
    if x.dtype == np.float64:
        w = np.ascontiguousarray(x).reshape(-1).view(np.uint64)
        words = _NO_WORDS if random is None else random_words(random.key, w.shape, _flat(random.counter, x))
        kernels.round_double(w, words, out, rounding.words(fmt))
    elif random is not None:
        _round_at_random(x, out, fmt, rounding, random)
    elif fmt is FP32 and rounding == NEAREST_EVEN:
        kernels.round_float32(flat_bits(x), out)
    elif (fast := plan(rounding, fmt)) is not None:
        loop = kernels.round_narrow if fast.by_addition else kernels.round_same_range
        loop(flat_bits(x), out, *fast.thresholds)
    else:
        loop = kernels.round_nearest if rounding.mode == "nearest_even" else kernels.round_directed
        loop(flat_bits(x), out, rounding.words(fmt))


def _round_at_random(x: Array, out: Array, fmt: Format, rounding: Rounding, random: Stream) -> None:
    u, f = flat_bits(x), rounding.words(fmt)
    if np.ndim(random.counter):
        kernels.round_with_words(u, random_words(random.key, u.shape, _flat(random.counter, x)), out, f)
    else:
        loop, arguments = stochastic_plan(rounding, fmt) or (kernels.round_stochastic, (f,))
        for part, words in _parts(random, u.size):
            loop(u[part], out[part], *words, *arguments, work=STOCHASTIC_WORK * u[part].size)


def _flat(counter: Any, x: Array) -> Any:
    return np.broadcast_to(counter, x.shape).reshape(-1) if np.ndim(counter) else counter


def _parts(random: Stream, size: int) -> Iterator[tuple[slice, tuple[np.uint32, ...]]]:
    """Parts of an array in which the index's low word does not carry, each with key and first index as words."""
    first, start = int(random.counter), 0
    while start < size:
        counter = first + start
        stop = min(size, start + STREAMED - counter % STREAMED)
        words = (*random.key, counter >> 32 & 0xFFFFFFFF, counter & 0xFFFFFFFF)
        yield slice(start, stop), tuple(map(np.uint32, words))
        start = stop


def encode(x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None) -> Array:
    f = rounding.words(fmt)
    out = np.empty(x.size, f"u{fmt.code_dtype.itemsize}")
    if rounding.mode == "nearest_even" and x.dtype != np.float64:
        kernels.encode_nearest(flat_bits(x), out, f)
    else:
        kernels.encode_rounded(flat_bits(round_to(x, fmt, rounding, random)), out, f)
    return out.view(fmt.code_dtype).reshape(np.shape(x))


def decode(codes: Array, fmt: Format) -> Array:
    flat = np.ascontiguousarray(codes).reshape(-1).view(f"u{fmt.code_dtype.itemsize}")
    out = np.empty(flat.size, np.uint32)
    kernels.decode(flat, out, fmt.constants)
    return out.view(np.float32).reshape(np.shape(codes))


def random_words(key: Key, shape: tuple[int, ...], counter: Any = 0) -> Array:
    """One uint32 an element, that of its index: row-major from ``counter``, or given."""
    out = np.empty(math.prod(shape), np.uint32)
    if np.ndim(counter):
        flat = indices(counter, shape).reshape(-1)
        kernels.random_words_at(*map(np.uint32, key), flat, out, work=out.size)
    else:
        for part, words in _parts(Stream(key, counter), out.size):
            kernels.random_words(*words, out[part], work=out[part].size)
    return out.reshape(shape)


def statistics(x: Array, rounded: Array, fmt: Format) -> tuple[Array, Array]:
    """Counts of nearest-even rounding, in the order of ``COUNTERS``, and the table of significands of x; int64."""
    flat, results = (flat_bits(array).view(np.float32) for array in (x, rounded))
    counts, significands = _empty_counts(count_parts(flat.size))
    words, work = count_kernels.words_of(fmt), TALLY_WORK * flat.size
    count_kernels.count_nearest(flat, results, counts, significands, words, work=work)
    return counts.sum(axis=0), significands.sum(axis=0)


def count_parts(size: int) -> int:
    """How many parts of an array count for themselves: one a thread where it is worth threads; none so long that a
    word could overflow."""
    threads = numba.get_num_threads() if TALLY_WORK * size >= Kernel.PARALLEL_FROM else 1
    return max(threads, -(-size // LONGEST_PART))


def count_foreign(fmt: Format, size: int) -> tuple[Foreign, Array, dict[str, int]]:
    """``count_nearest`` as XLA calls it for so many elements: record, words, sizes of its results' letters."""
    return count_kernels.COUNT_NEAREST, count_kernels.words_of(fmt), count_kernels.SIZES | {"p": count_parts(size)}


def pass_on_foreign() -> tuple[Foreign, Array]:
    """``pass_on`` as XLA calls it."""
    return count_kernels.PASS_ON, np.zeros(0, np.int64)


def _empty_counts(parts: int) -> tuple[Array, Array]:
    return np.zeros((parts, len(COUNTERS)), np.int64), np.zeros((parts, EXPONENT_BINS, COLUMNS), np.int64)


def tally(
    x: Array, fmt: Format, rounding: Rounding = NEAREST_EVEN, random: Stream | None = None, out: Array | None = None
) -> tuple[Array, Tally]:
    """x rounded, and everything counted about it, in one pass."""
    apart = out is not None and out.flags.c_contiguous and not np.may_share_memory(x, out)
    target = out if out is not None and apart else np.empty(np.shape(x), np.float32)
    tallied = _tally(x, target.reshape(-1).view(np.uint32), fmt, rounding, random)
    if out is None or apart:
        return target, tallied
    np.copyto(out, target)
    return out, tallied


def _tally(x: Array, out: Array, fmt: Format, rounding: Rounding, random: Stream | None) -> Tally:
    u = flat_bits(x)
    chunks = -(-u.size // CHUNK)
    counts, significands = _empty_counts(count_parts(u.size))
    extremes = np.tile(np.array([0, INFINITY], np.uint32), (chunks, 1))
    powers = np.zeros((chunks, 3))
    sums = (CHUNK, counts, significands, extremes, powers)
    fast = plan(rounding, fmt)
    if fast is not None:
        tally_kernels.tally_nearest(u, out, fast, *sums, work=TALLY_WORK * u.size)
    else:
        words = _NO_WORDS if random is None else random_words(random.key, u.shape, _flat(random.counter, x))
        f = rounding.words(fmt)
        tally_kernels.tally(u, out, int(random is not None), words, f, *sums, work=TALLY_WORK * u.size)
    return Tally(
        counts=counts.sum(axis=0),
        significands=significands.sum(axis=0),
        largest=extremes[:, 0].max(initial=0),
        smallest=extremes[:, 1].min(initial=INFINITY),
        powers=powers.sum(axis=0),
    )


def observe(x: Array, rounded: Array, fmt: Format) -> tuple[int, Array, Array]:
    """Number of values and their statistics, counted at once."""
    return x.size, *statistics(x, rounded, fmt)
