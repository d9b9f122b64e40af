"""Where the inputs come from: named hard patterns, drawn patterns, Hypothesis strategies over bits."""

from __future__ import annotations

from functools import cache

import numpy as np
from format_oracle import ENUMERATED, standard
from format_search import grid
from hypothesis import strategies as st

# Float32 patterns at which something changes; each is used with both signs.
MAGNITUDES = (
    0x00000000,  # zero
    0x00000001,  # smallest subnormal
    0x00000002,
    0x003FFFFF,
    0x00400000,
    0x007FFFFE,
    0x007FFFFF,  # largest subnormal
    0x00800000,  # 2^-126, smallest normal
    0x00800001,
    0x00FFFFFF,
    0x01000000,
    0x0C000000,  # 2^-103
    0x1F800000,  # 2^-64
    0x20000000,  # 2^-63
    0x33000000,  # 2^-25, half the smallest fp16
    0x33000001,
    0x33800000,  # 2^-24, the smallest fp16
    0x33C00000,
    0x387FC000,  # largest fp16 subnormal
    0x38800000,  # 2^-14
    0x3EFFFFFF,
    0x3F000000,  # 1/2
    0x3F7FFFFF,
    0x3F800000,  # 1
    0x3F800001,
    0x3F801000,  # 1 + 2^-11, an fp16 tie
    0x3F808000,  # 1 + 2^-8, a bf16 tie
    0x3FC00000,
    0x4B7FFFFF,  # largest odd integer
    0x4B800000,
    0x477FE000,  # 65504
    0x477FEFFF,
    0x477FF000,  # 65520, where fp16 overflows
    0x5F800000,  # 2^64
    0x7E800000,
    0x7F000000,  # 2^127
    0x7F7F0000,  # largest bf16
    0x7F7F7FFF,
    0x7F7F8000,  # where bf16 overflows
    0x7F7FFFFF,  # largest float32
    0x7F800000,  # infinity
    0x7F800001,  # signalling NaN
    0x7FC00000,  # canonical NaN
    0x7FFFFFFF,
)
EDGES = np.array([m | sign << 31 for m in MAGNITUDES for sign in (0, 1)], np.uint32)

patterns = st.one_of(st.sampled_from(EDGES.tolist()), st.integers(0, 2**32 - 1))
finite_patterns = patterns.filter(lambda u: u & 0x7F800000 != 0x7F800000)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def drawn(
    rng: np.random.Generator, shape: int | tuple[int, ...], exponents: tuple[int, int] = (0, 255)
) -> np.ndarray:
    """Float32 patterns with biased exponents low <= e <= high, uniformly.

    Of the significands one quarter are uniform, one quarter each have few ones at the top or long runs, and one
    quarter lie within two units of a power of two: where roundings carry, tie and cancel.
    """
    low, high = exponents
    sign = rng.integers(0, 2, shape, np.uint32) << 31
    exponent = rng.integers(low, high + 1, shape).astype(np.uint32) << 23
    uniform = rng.integers(0, 1 << 23, shape, np.uint32)
    kept = rng.integers(0, 24, shape, np.uint32)
    short = uniform & ~((np.uint32(1) << kept) - np.uint32(1))
    runs = (uniform | ((np.uint32(1) << kept) - np.uint32(1))) & np.uint32(0x7FFFFF)
    near = (rng.integers(0, 5, shape).astype(np.uint32) - np.uint32(2)) & np.uint32(0x7FFFFF)
    kind = rng.integers(0, 4, shape)
    return (sign | exponent | np.choose(kind, [uniform, short, runs, near])).astype(np.uint32)


def sprinkled(rng: np.random.Generator, words: np.ndarray, share: float = 0.05) -> np.ndarray:
    """The same patterns with a share of them replaced by ``EDGES``."""
    edges = rng.choice(EDGES, words.shape)
    return np.where(rng.random(words.shape) < share, edges, words).astype(np.uint32)


def every_pair(edges: np.ndarray = EDGES) -> tuple[np.ndarray, np.ndarray]:
    """Each of the patterns with each, flat."""
    x, y = np.meshgrid(edges, edges, indexing="ij")
    return x.ravel(), y.ravel()


# Where a rounding changes its mind

NANS = np.array([0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FC00001, 0x7FFFFFFF], np.uint32)


def with_neighbours(magnitudes: np.ndarray) -> np.ndarray:
    """The patterns, the float32 before each and the float32 after; zero has none before it."""
    around = magnitudes.astype(np.int64)[:, None] + np.array([-1, 0, 1])
    return np.unique(np.clip(around, 0, 0x7F800000)).astype(np.uint32)


@cache
def boundaries(name: str) -> np.ndarray:
    """Float32 patterns, both signs: every value of an enumerated format, the points halfway between them and beyond
    the largest, and the two float32 beside each; the named edges, infinities and NaNs."""
    values = grid(name)
    with np.errstate(over="ignore"):
        words = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32).view(np.uint32)
    parts = (with_neighbours(words), with_neighbours(EDGES & 0x7FFFFFFF), NANS)
    magnitudes = np.unique(np.concatenate(parts))
    return np.concatenate([magnitudes, magnitudes | np.uint32(1 << 31)])


def without_nan(words: np.ndarray) -> np.ndarray:
    return words[(words & 0x7FFFFFFF) <= 0x7F800000]


def sources(name: str) -> np.ndarray:
    """Float32 patterns that try a format: ``boundaries`` where it has a table, edges, patterns drawn around its range
    and anywhere; without NaN where the format refuses it."""
    fmt = standard(name)
    rng = generator(fmt.bits * 64 + fmt.fraction_bits)
    around = (max(fmt.emin - fmt.fraction_bits + 125, 0), min(fmt.emax + 129, 255))
    words = [EDGES, NANS, drawn(rng, 2000), drawn(rng, 2000, around)]
    words = np.concatenate([boundaries(name), *words] if name in ENUMERATED else words)
    return without_nan(words) if fmt.twos_complement else words


doubles = st.integers(0, 2**64 - 1)


def doubles_near(name: str, seed: int, count: int) -> np.ndarray:
    """Float64 patterns around values of a format and the points halfway between them, 2^-k of the distance away, k up
    to 60; float64's own subnormals, its largest, and drawn patterns."""
    rng = generator(seed)
    values = grid(name)
    code = rng.integers(0, len(values) - 1, count)
    quarters = rng.integers(0, 5, count) / 4
    low, high = values[code], values[code + 1]
    offset = np.ldexp(rng.integers(-1, 2, count).astype(np.float64), -rng.integers(1, 61, count))
    near = np.abs(low + (high - low) * quarters + (high - low) * offset)
    near = np.where(rng.random(count) < 0.5, near, np.nextafter(near, rng.choice([0, np.inf], count)))
    specials = [0.0, 5e-324, 2.0**-1074 * 3, 2.0**-1022, 2.0**-150, 2.0**-149, 2.0**128, 1.7e308, np.inf, np.nan]
    anything = rng.integers(0, 1 << 64, count // 4, np.uint64)
    words = np.concatenate([near.view(np.uint64), np.array(specials).view(np.uint64), anything])
    words |= rng.integers(0, 2, len(words), np.uint64) << np.uint64(63)
    return words[~np.isnan(words.view(np.float64))] if standard(name).twos_complement else words
