"""Operands for the accumulators: drawn where their sums round, cancel, flush, overflow and fall below every term.

A case is a batch of products, so that a back end compiles once for each shape: a (kinds, M, K), b (kinds, K, N),
c (kinds, M, N), float32 patterns of values of the formats; INT8: int8 operands and int32 starts.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import accumulator_oracle
import numpy as np
import oracles
from accumulator_oracle import TENSOR_CORES, sums
from strategies import drawn, generator, sprinkled

M, N = 2, 3
DEFINITIONS = (
    "fp32_sequential",
    "fp32_fma",
    "fp32_mul_add",
    "fp32_pairwise",
    "fp32_split8",
    "fp16_fma",
    "fp16_mul_add",
    "bf16_fma",
    "bf16_mul_add",
    "kahan",
    "exact",
)
# What each unit multiplies, and how many products it adds at once
LENGTHS: dict[str, dict[str, int]] = {
    **{name: dict.fromkeys(("fp16", "bf16", "fp32"), 8) for name in DEFINITIONS},
    "fp32_fma": {"bf16": 8},
    "fp32_sequential": dict.fromkeys(("fp16", "bf16", "fp32", "e4m3fn"), 8),
    "int32": {"int8": 8},
    **{name: {fmt: facts[0] for fmt, facts in formats.items()} for name, formats in TENSOR_CORES.items()},
    "h100_fp8_mma": {"e4m3fn": 32, "e5m2": 32},  # a tile
    "cdna1": {"fp16": 4, "bf16": 2},
    "cdna2": {"fp16": 4, "bf16": 4},
    "cdna3": {"fp16": 8, "bf16": 8, "tf32": 4},
    "avx512_bf16": {"bf16": 2},
    "amx_bf16": {"bf16": 32},
    "amx_fp16": {"fp16": 32},
    "avx512_fp16": {"fp16": 8},
    "arm_bfdot": {"bf16": 2},
    "tpu_mxu_nominal": {"bf16": 8},
}
COMBINATIONS = [(name, fmt) for name, formats in LENGTHS.items() for fmt in formats]
# Biased exponents of float32 between the smallest and the largest value
EXPONENTS = {
    **dict.fromkeys(("fp32", "tf32", "bf16", "e8m13"), (0, 254)),
    "fp16": (103, 142),
    "e5m2": (111, 142),
    "e4m3fn": (118, 135),
}
KEPT = {"fp32": 23, "tf32": 10, "bf16": 7, "e8m13": 13, "fp16": 10}  # stored bits of a significand
NANS = np.array([0x7F810000, 0xFFA20000, 0x7FC60000, 0xFFFFE000], np.uint32)


class Case(NamedTuple):
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray


def representable(words: np.ndarray, fmt: str) -> np.ndarray:
    """The patterns with the significand cut, or rounded, to the format's; a NaN keeps what payload the format has."""
    cut = words & np.uint32(0xFFFFFFFF << 23 - KEPT.get(fmt, 0) & 0xFFFFFFFF)
    if EXPONENTS[fmt] == (0, 254):
        return cut
    rounded = oracles.nearest(words.view(np.float32), fmt).view(np.uint32)
    payload = (cut & np.uint32(0x7FFFFFFF)) > 0x7F800000
    return np.where(payload & (fmt in KEPT), cut, rounded).astype(np.uint32)


def cancelling(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second half of k takes back what the first added."""
    half = a.shape[-1] // 2
    a, b = a.copy(), b.copy()
    a[..., half : 2 * half] = a[..., :half] ^ np.uint32(1 << 31)
    b[..., half : 2 * half, :] = b[..., :half, :]
    return a, b


def around(exponent: int, spread: int, fmt: str) -> tuple[int, int]:
    """Biased exponents near 2^exponent that the format has."""
    least, most = EXPONENTS[fmt]
    low, high = (min(max(exponent + 127 + by, least), most) for by in (-spread, spread))
    return low, high


def ranges(inputs: str, total: str) -> dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
    """Exponents of a, b and c."""
    least, most = EXPONENTS[inputs]
    high = EXPONENTS[total][1]
    middle = (most - 127) // 2
    return {
        "near one": (around(0, 2, inputs),) * 2 + (around(0, 3, total),),
        "spread": (around(0, 7, inputs),) * 2 + (around(0, 14, total),),
        "any": ((least, most), (least, most), EXPONENTS[total]),
        "large start": (around(0, 3, inputs),) * 2 + (around(14 if total == "fp16" else 22, 3, total),),
        "small start": (around(0, 3, inputs),) * 2 + (around(-14 if total == "fp16" else -24, 5, total),),
        "subnormal": ((least, least + 12), around(0, 6, inputs), (EXPONENTS[total][0], EXPONENTS[total][0] + 4)),
        "around 2^-126": (around(-66, 4, inputs), around(-60, 4, inputs), (0, 3)),
        "subnormal start": (around(-62, 2, inputs), around(-63, 2, inputs), (0, 0)),
        "subnormal sums": (around(-66, 3, inputs), around(-66, 3, inputs), (0, 2)),
        "below 2^-126": (around(-76, 4, inputs), around(-76, 4, inputs), (0, 1)),
        "smallest": ((least, least + 3), (least, least + 12), (0, 1)),
        "overflow": (around(middle + 1, 1, inputs), around(middle, 1, inputs), (high - 2, high)),
        "finite terms overflow": (around(middle, 0, inputs), around(middle - 1, 1, inputs), (high - 1, high)),
        "largest": ((most - 1, most), (most - 1, most), (high - 1, high)),
    }


BRIEF = ("spread", "any")


def floats(name: str, inputs: str, k: int, brief: bool) -> dict[str, Case]:
    rng = generator(1000 + k)
    total = sums(name)
    result = {}
    for kind, (low, high, start) in ranges(inputs, total).items():
        if brief and kind not in BRIEF:
            continue
        a, b, c = drawn(rng, (M, k), low), drawn(rng, (k, N), high), drawn(rng, (M, N), start)
        if kind in ("below 2^-126", "smallest"):
            c[:, ::2] &= np.uint32(1 << 31)  # a zero beside products below any other start
        result[kind] = Case(a, b, c)
        if kind in ("near one", "spread", "around 2^-126", "overflow"):
            result[f"{kind}, cancelling"] = Case(*cancelling(a, b), c)
    for share in (0.02,) if brief else (0.02, 0.2):
        words = [sprinkled(rng, drawn(rng, shape, (100, 150)), share) for shape in ((M, k), (k, N), (M, N))]
        result[f"{share} special"] = Case(*words)
    words = [np.where(rng.random(x.shape) < 0.2, rng.choice(NANS, x.shape), x) for x in result["spread"]]
    result["payloads"] = Case(*words)
    zeros = [rng.integers(0, 2, shape, np.uint32) << 31 for shape in ((M, k), (k, N), (M, N))]
    result["signed zeros"] = Case(*zeros)
    minus = np.uint32(1 << 31)
    result["minus zero"] = Case(np.full((M, k), minus), np.zeros((k, N), np.uint32), np.full((M, N), minus))
    tiny = [np.full(shape, word, np.uint32) for shape, word in (((M, k), 0x9F000000), ((k, N), 0x1F000000))]
    result["products just below zero"] = Case(*tiny, np.full((M, N), minus))  # -2^-65 x 2^-65
    least = EXPONENTS[total][0]
    result["nothing but a start"] = Case(zeros[0], result["spread"].b, drawn(rng, (M, N), (least, least + 12)))
    if brief:
        del result["payloads"], result["spread, cancelling"], result["signed zeros"]
    return {
        kind: Case(representable(a, inputs), representable(b, inputs), representable(c, total))
        for kind, (a, b, c) in result.items()
    }


def integers(k: int) -> dict[str, Case]:
    rng = generator(2000 + k)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((M, k), (k, N)))
    c = rng.integers(-(2**31), 2**31, (M, N)).astype(np.int32)
    most, least = np.full((M, k), -128, np.int8), np.full((k, N), -128, np.int8)
    return {
        "drawn": Case(a, b, c // 4),
        "wrapping": Case(a, b, np.where(c < 0, -(2**31), 2**31 - 1).astype(np.int32)),
        "largest": Case(most, least, np.full((M, N), 2**31 - 1, np.int32)),
    }


@cache
def cases(name: str, inputs: str, k: int, brief: bool = False) -> tuple[list[str], Case]:
    """Kinds and their products, one batch."""
    kinds = integers(k) if inputs == "int8" else floats(name, inputs, k, brief) | targeted(name, inputs, k)
    return list(kinds), Case(*map(np.stack, zip(*kinds.values(), strict=True)))


@cache
def solved(
    name: str, inputs: str, k: int, brief: bool = False, start: bool = True, output: str | None = None
) -> tuple[list[str], Case, np.ndarray, dict[str, int]]:
    """Kinds, operands, results and counts by definition; c is not used without ``start``."""
    kinds, batch = cases(name, inputs, k, brief)
    parts = [
        accumulator_oracle.matmul_counted(a, b, name, inputs, c if start else None, output)
        for a, b, c in zip(*batch, strict=True)
    ]
    counts = {event: sum(part[event] for _, part in parts) for event in parts[0][1]}
    return kinds, batch, np.stack([result for result, _ in parts]), counts


def lengths(name: str, inputs: str) -> list[int]:
    """k around the number of products that are added at once, within it, and odd."""
    length = LENGTHS[name][inputs]
    return sorted({1, length // 2 + 1, length - 1, length, length + 1, 33} - {0, longest(name, inputs)})


def longest(name: str, inputs: str) -> int:
    """The k at which every kind is tried."""
    return 2 * LENGTHS[name][inputs] + 3


# Vectors for one field of a record: (a, b) and c; what they show


def scaled(product: int, exponent: int) -> tuple[float, float]:
    """Two factors of  product x 2^exponent, few bits each and of like exponent."""
    divisor = next(d for d in range(int(product**0.5), 0, -1) if product % d == 0)
    return divisor * 2.0 ** (exponent // 2), product // divisor * 2.0 ** (exponent - exponent // 2)


def floor_vectors(name: str, inputs: str) -> dict[str, list[tuple[float, float]]]:
    """Products that fall short of the smallest result by one multiple of 2^(floor - bits), or half of one.

    fp32: (2^n - 1) g + g = 2^-149, g = 2^(floor - bits).  fp16: 2^-25 + g rounds up to 2^-24.
    """
    _, bits, floor, total = TENSOR_CORES.get(name, {}).get(inputs, (0, 0, None, ""))
    if floor is None or inputs in ("e4m3fn", "e5m2") or (inputs, total) == ("fp16", "fp32"):
        return {}
    grid = floor - bits
    if total == "fp16":
        first = scaled(1, -25)
        return {"floor": [first, scaled(1, grid)], "below floor": [first, scaled(1, grid - 1)]}
    first = scaled((1 << -149 - grid) - 1, grid)
    return {"floor": [first, scaled(1, grid)], "below floor": [first, *[scaled(1, grid - 1)] * 2]}


def tie_vectors(name: str) -> dict[str, list[tuple[float, float]]]:
    """Beside s = 1 a tie, and what is left of the 31 bits that break it, or does not."""
    if name != "cdna3":
        return {}
    return {f"tie and 2^{last}": [scaled(1, -24), scaled(1, last)] for last in (-31, -32)}


def targeted(name: str, inputs: str, k: int) -> dict[str, Case]:
    result = {}
    for kind, pairs in (floor_vectors(name, inputs) | tie_vectors(name)).items():
        if len(pairs) <= min(k, LENGTHS[name][inputs]):
            a, b = np.zeros((M, k), np.float32), np.zeros((k, N), np.float32)
            a[:, : len(pairs)] = [x for x, _ in pairs]
            b[: len(pairs)] = np.array([y for _, y in pairs], np.float32)[:, None]
            c = np.full((M, N), "tie" in kind, np.float32)
            result[kind] = Case(*(x.view(np.uint32) for x in (a, b, c)))
    return result
