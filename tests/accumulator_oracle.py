"""Dot products under every accumulator, each written from its definition; nothing is read from the records.

``dot``, ``counted`` and ``matmul`` take and return float32 patterns (int32: integers).  What a unit multiplies, how
many products it adds at once and what it cuts off stands in the tables here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial

import numpy as np
from accumulator_steps import (
    ALL_ONES,
    QUIET,
    Tally,
    add,
    add_dz,
    add_ftz,
    cdna3_step,
    fma_dz,
    is_finite,
    is_nan,
    multiply,
    multiply_add,
    multiply_ftz,
    read,
    subtract,
    sum_of,
    truncated_step,
)
from oracles import NAN_BITS, product, rounded, write

Words = Sequence[int]
Step = Callable[..., int]  # (a, b, s, tally) of as many products as the unit adds at once
PLUS_ZERO, MINUS_ZERO = 0, 1 << 31


# Orders


def pieces(a: Words, b: Words, length: int) -> list[tuple[Words, Words]]:
    return [(a[k : k + length], b[k : k + length]) for k in range(0, len(a), length)]


def padded(a: Words, b: Words, granule: int) -> tuple[Words, Words]:
    """+0 up to a multiple, as an instruction that takes so many has it."""
    zeros = [PLUS_ZERO] * (-len(a) % granule)
    return [*a, *zeros], [*b, *zeros]


def neighbours(values: Words, plus: Callable[[int, int], int]) -> int:
    """Values 2i and 2i + 1 added until one is left."""
    values = list(values)
    while len(values) > 1:
        odd = values[len(values) & ~1 :]
        values = [plus(x, y) for x, y in zip(values[::2], values[1::2], strict=False)] + odd
    return values[0]


# Definitions


def fma(fmt: str, a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    """s = RN(s + a b)."""
    for x, y in zip(a, b, strict=True):
        s = multiply_add([x], [y], s, fmt, tally)
    return s


def mul_add(fmt: str, a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    """s = RN(s + RN(a b))."""
    for x, y in zip(a, b, strict=True):
        s = add(s, multiply(x, y, fmt, tally), fmt, tally)
    return s


def pairwise(a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    """RN(c + tree of RN(a b))."""
    products = [multiply(x, y, "fp32", tally) for x, y in zip(a, b, strict=True)]
    plus = partial(add, fmt="fp32", tally=tally)
    return plus(s, neighbours(products, plus)) if products else s


def split(parts: int, a: Words, b: Words, s: int, inputs: str, tally: Tally) -> int:
    """Runs of ceil(k / parts), each an FMA chain from +0, their tree, then c; an empty run is -0."""
    runs = pieces(a, b, -(-len(a) // parts) or 1)
    sums = [fma("fp32", x, y, PLUS_ZERO, inputs, tally) for x, y in runs] + [MINUS_ZERO] * (parts - len(runs))
    plus = partial(add, fmt="fp32", tally=tally)
    return plus(s, neighbours(sums, plus))


def kahan(a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    """y = RN(a b) - e, t = s + y, e = (t - s) - y, s = t."""
    e = PLUS_ZERO
    for x, y in zip(a, b, strict=True):
        corrected = subtract(multiply(x, y, "fp32", tally), e, "fp32")
        following = add(s, corrected, "fp32", tally)
        e = subtract(subtract(following, s, "fp32"), corrected, "fp32")
        s = following
    return s


# Tensor cores: V100, A100, Ada, H100, B200


# name: {input format: (products at once, bits kept, lowest exponent, format of the sum)}
TENSOR_CORES: dict[str, dict[str, tuple]] = {
    "v100": {"fp16": (4, 23, None, "fp32")},
    "a100": {"fp16": (8, 24, -132, "fp32"), "bf16": (8, 24, -132, "fp32"), "tf32": (4, 24, -132, "fp32")},
    "ada": {"fp16": (8, 24, -132, "fp32"), "bf16": (8, 24, -132, "fp32"), "tf32": (4, 24, -132, "fp32")},
    "h100": {"fp16": (16, 25, -133, "fp32"), "bf16": (16, 25, -133, "fp32"), "tf32": (8, 25, -133, "fp32")},
    "b200": {
        "fp16": (16, 25, -133, "fp32"),
        "bf16": (16, 25, -133, "fp32"),
        "tf32": (8, 25, -133, "fp32"),
        "e4m3fn": (32, 25, -133, "fp32"),
        "e5m2": (32, 25, -133, "fp32"),
    },
    "v100_fp16": {"fp16": (4, 23, -19, "fp16")},
    "a100_fp16": {"fp16": (8, 24, -20, "fp16")},
    "ada_fp16": {"fp16": (8, 24, -20, "fp16")},
    "h100_fp16": {"fp16": (16, 25, -21, "fp16")},
    "b200_fp16": {"fp16": (16, 25, -21, "fp16")},
    "h100_fp8_wgmma": {"e4m3fn": (32, 13, -133, "e8m13"), "e5m2": (32, 13, -133, "e8m13")},
    "ada_fp8": {"e4m3fn": (16, 13, -132, "e8m13"), "e5m2": (16, 13, -132, "e8m13")},
}


def tensor_core(name: str, a: Words, b: Words, s: int, inputs: str, tally: Tally) -> int:
    length, bits, floor, sums = TENSOR_CORES[name][inputs]
    for x, y in pieces(a, b, length):
        s = truncated_step(x, y, s, inputs, bits, floor, sums, tally)
    return s


def fp8_by_way_of_fp16(a: Words, b: Words, s: int, inputs: str, tally: Tally) -> int:
    """Of each 32: positions 0 1 4 5 ..., then 2 3 6 7 ..., as H100 does fp16, from +0; then RN32(s + that)."""
    for x, y in pieces(a, b, 32):
        tile = PLUS_ZERO
        for half in (0, 2):
            chosen = [k for k in range(len(x)) if k % 4 - half in (0, 1)]
            group = [x[k] for k in chosen], [y[k] for k in chosen]
            tile = truncated_step(*group, tile, inputs, 25, -133, "fp32", tally)
        s = add(s, tile, "fp32", tally)
        s = ALL_ONES if is_nan(s) else s
    return s


# Matrix cores


def cdna1(a: Words, b: Words, s: int, inputs: str, tally: Tally) -> int:
    """RN(s + 4 products), bf16: 2."""
    for x, y in pieces(*padded(a, b, 4), {"fp16": 4, "bf16": 2}[inputs]):
        s = multiply_add(x, y, s, "fp32", tally)
    return s


def cdna2(a: Words, b: Words, s: int, inputs: str, tally: Tally) -> int:
    """RN(s + ((p0 + p1) + (p2 + p3))), p = RN(a b), without subnormals."""
    plus = partial(add_ftz, mode="nearest_even", tally=tally)
    for x, y in pieces(*padded(a, b, 4), 4):
        p = [multiply_ftz(*factors, inputs, "nearest_even", tally) for factors in zip(x, y, strict=True)]
        s = plus(s, plus(plus(p[0], p[1]), plus(p[2], p[3])))
    return s


def cdna3(a: Words, b: Words, s: int, inputs: str, tally: Tally) -> int:
    for x, y in pieces(a, b, {"fp16": 8, "bf16": 8, "tf32": 4}[inputs]):
        s = cdna3_step(x, y, s, inputs, tally)
    return s


# Processors


def avx512_bf16(a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    """Of each pair the odd element first."""
    for x, y in pieces(*padded(a, b, 2), 2):
        s = fma_dz(x[1], y[1], s, "bf16", tally)
        s = fma_dz(x[0], y[0], s, "bf16", tally)
    return s


def amx(subnormals_of: str, a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    """Of each 32: even and odd elements summed apart from +0, both added, then added to s."""
    for tile in pieces(*padded(a, b, 2), 32):
        even = odd = PLUS_ZERO
        for x, y in pieces(*tile, 2):
            even = fma_dz(x[0], y[0], even, subnormals_of, tally)
            odd = fma_dz(x[1], y[1], odd, subnormals_of, tally)
        s = add_dz(s, add_dz(even, odd, tally), tally)
    return s


def arm_bfdot(a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    """s = odd(s + odd(odd(a0 b0) + odd(a1 b1)))."""
    plus = partial(add_ftz, mode="to_odd", tally=tally)
    for x, y in pieces(*padded(a, b, 2), 2):
        p = [multiply_ftz(*factors, "bf16", "to_odd", tally) for factors in zip(x, y, strict=True)]
        s = plus(s, plus(p[0], p[1]))
    return s


def tpu_nominal(a: Words, b: Words, s: int, _: str, tally: Tally) -> int:
    for x, y in zip(a, b, strict=True):
        s = fma_dz(x, y, s, "bf16", tally, payload=False)
    return s


DEFINITIONS: dict[str, Step] = {
    "fp32_sequential": partial(fma, "fp32"),
    "fp32_fma": partial(fma, "fp32"),
    "fp32_mul_add": partial(mul_add, "fp32"),
    "fp32_pairwise": pairwise,
    "fp16_fma": partial(fma, "fp16"),
    "fp16_mul_add": partial(mul_add, "fp16"),
    "bf16_fma": partial(fma, "bf16"),
    "bf16_mul_add": partial(mul_add, "bf16"),
    "kahan": kahan,
    **{name: partial(tensor_core, name) for name in TENSOR_CORES},
    "h100_fp8_mma": fp8_by_way_of_fp16,
    "cdna1": cdna1,
    "cdna2": cdna2,
    "cdna3": cdna3,
    "avx512_bf16": avx512_bf16,
    "amx_bf16": partial(amx, "bf16"),
    "amx_fp16": partial(amx, ""),
    "avx512_fp16": partial(fma, "fp16"),
    "arm_bfdot": arm_bfdot,
    "tpu_mxu_nominal": tpu_nominal,
}
SUMS = {"fp16_fma": "fp16", "fp16_mul_add": "fp16", "avx512_fp16": "fp16", "bf16_fma": "bf16", "bf16_mul_add": "bf16"}
SUMS |= {name: next(iter(by_format.values()))[3] for name, by_format in TENSOR_CORES.items()}
ONES_FOR_NAN = (*TENSOR_CORES, "h100_fp8_mma")
PAYLOADS = ("avx512_bf16", "amx_bf16", "amx_fp16")


def sums(name: str) -> str:
    """Format of the running sum."""
    return SUMS.get(name, "fp32")


# Results


def dot(x: Words, y: Words, start: int, name: str, inputs: str, output: str | None = None) -> int:
    """start + sum of x_k y_k, rounded once to ``output``."""
    return solved(tuple(x), tuple(y), int(start), name, inputs, output)[0]


def counted(x: Words, y: Words, start: int, name: str, inputs: str, output: str | None = None) -> dict[str, int]:
    """What happened on the way."""
    return solved(tuple(x), tuple(y), int(start), name, inputs, output)[1]


def solved(x: Words, y: Words, start: int, name: str, inputs: str, output: str | None) -> tuple[int, dict[str, int]]:
    if name == "exact":
        return _exact(x, y, start, output or "fp32")
    result, tally = running_sum(x, y, start, name, inputs)
    if name == "int32":
        return result, asdict(tally)
    result, inexact = _output(result, name, output)
    return result, asdict(tally) | {"inexact": inexact}


@cache
def running_sum(x: Words, y: Words, start: int, name: str, inputs: str) -> tuple[int, Tally]:
    """Before it is rounded to an output."""
    tally = Tally(products=len(x))
    if name == "int32":
        result = start + sum(a * b for a, b in zip(x, y, strict=True))
        tally.overflowed = int(not -(2**31) <= result < 2**31)
        return (result + 2**31) % 2**32 - 2**31, tally
    runs = re.fullmatch(r"fp32_split(\d+)", name)
    definition = partial(split, int(runs[1])) if runs else DEFINITIONS[name]
    return definition(list(x), list(y), start, inputs, tally), tally


def _exact(x: Words, y: Words, start: int, output: str) -> tuple[int, dict[str, int]]:
    tally = Tally(products=len(x))
    factors = [product(read(a), read(b)) for a, b in zip(x, y, strict=True)]
    unrounded = sum_of([read(start), *factors])
    result = rounded(unrounded, output)
    if is_finite(unrounded):
        tally.overflowed, tally.inexact = int(result.is_infinite), int(result.magnitude != unrounded.magnitude)
    return write(result), asdict(tally)


def _output(s: int, name: str, output: str | None) -> tuple[int, int]:
    """A NaN is the unit's own where no output is named; a rounding after it makes it canonical."""
    if is_nan(s):
        return (_own_nan(s, name) if output is None else NAN_BITS), 0
    result = rounded(read(s), output or sums(name))
    return write(result), int(result != read(s))


def _own_nan(s: int, name: str) -> int:
    if name in PAYLOADS:
        return s | QUIET
    ones = 0x7FFFE000 if sums(name) == "fp16" else ALL_ONES  # 0x7FFF of fp16, in float32
    return ones if name in ONES_FOR_NAN else NAN_BITS


def matmul(
    a: np.ndarray, b: np.ndarray, name: str, inputs: str, c: np.ndarray | None = None, output: str | None = None
) -> np.ndarray:
    """(m, k) x (k, n) -> (m, n), patterns; int32: int8 to int32."""
    return matmul_counted(a, b, name, inputs, c, output)[0]


def matmul_counted(
    a: np.ndarray, b: np.ndarray, name: str, inputs: str, c: np.ndarray | None = None, output: str | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """The product, and the counts of all its dot products together."""
    result = np.zeros((len(a), b.shape[1]), np.int32 if name == "int32" else np.uint32)
    counts = asdict(Tally())
    for i, row in enumerate(a.tolist()):
        for j, column in enumerate(b.T.tolist()):
            start = 0 if c is None else int(c[i, j])
            result[i, j], events = solved(tuple(row), tuple(column), start, name, inputs, output)
            counts = {event: count + events[event] for event, count in counts.items()}
    return result, counts
