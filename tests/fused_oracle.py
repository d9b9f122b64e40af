"""The truncated fused dot product in Python integers, from Xie et al., arXiv 2511.10909, algorithm 7.

Nothing here is shared with ``precision``; all values are finite.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

TYPES = {
    "fp16": (np.float16, -14),
    "bf16": (ml_dtypes.bfloat16, -126),
    "e4m3fn": (ml_dtypes.float8_e4m3fn, -6),
    "e5m2": (ml_dtypes.float8_e5m2, -14),
    "tf32": (np.float32, -126),  # and its last 13 bits zero
}
SUMS = {"fp32": (24, -126, 127), "e8m13": (14, -126, 127), "fp16": (11, -14, 15)}  # p, emin, emax
UNITS = {  # products an addition, F, floor, format of the sum
    "v100": (4, 23, None, "fp32"),
    "a100": (8, 24, -132, "fp32"),
    "ada": (8, 24, -132, "fp32"),
    "h100": (16, 25, -133, "fp32"),
    "b200": (16, 25, -133, "fp32"),
    "v100_fp16": (4, 23, -19, "fp16"),
    "a100_fp16": (8, 24, -20, "fp16"),
    "h100_fp16": (16, 25, -21, "fp16"),
    "h100_fp8_wgmma": (32, 13, -133, "e8m13"),
    "ada_fp8": (16, 13, -132, "e8m13"),
    "h100_fp8_mma": (16, 25, -133, "fp32"),
}


def split(x, least):
    """e and integer m of |x| = m 2^(e - 23), with its sign; None for a zero, which has no exponent."""
    if x == 0:
        return None
    e = max(math.frexp(x)[1] - 1, least)
    return e, int(math.ldexp(x, 23 - e) if e > -900 else 0)


def rounded(total, q, kind):
    """total 2^q as a float of that format: fp16 to nearest even, the others toward zero; a zero is +0."""
    p, least, largest = SUMS[kind]
    size = abs(total)
    quantum = max(size.bit_length() - 1 + q, least) - p + 1
    drop = quantum - q
    if drop <= 0:
        kept = size << -drop
    else:
        kept, rest = size >> drop, size & ((1 << drop) - 1)
        half = 1 << (drop - 1)
        kept += kind == "fp16" and (rest > half or (rest == half and kept & 1))
    value = math.inf if kept.bit_length() + quantum > largest + 1 else math.ldexp(kept, quantum)
    return -value if total < 0 and kept else value


def addition(s, pairs, unit):
    """One step: s and the products of ``pairs``, each truncated to F bits below the largest exponent."""
    _, bits, floor, kind = unit
    terms = [(a[0] + b[0], a[1] * b[1]) for a, b in pairs if a and b]
    start = split(s, SUMS[kind][1])
    if start:
        terms.append((start[0], start[1] << 23))
    if not terms:
        return 0.0
    largest = max(e for e, _ in terms)
    largest = largest if floor is None else max(largest, floor)
    total = 0
    for e, m in terms:
        shift = e - largest + bits - 46
        t = abs(m) << shift if shift >= 0 else abs(m) >> -shift
        total += -t if m < 0 else t
    return rounded(total, largest - bits, kind) if total else 0.0


def chain(s, pairs, unit):
    for k in range(0, len(pairs), unit[0]):
        s = addition(s, pairs[k : k + unit[0]], unit)
        if math.isinf(s):
            return s
    return s


def in_tiles(s, pairs, unit):
    """Each 32 products from +0, in the order 0 1 4 5 ... 2 3 6 7 ..., then added to nearest even."""
    for k in range(0, len(pairs), 32):
        tile = pairs[k : k + 32]
        tile += [(None, None)] * (32 - len(tile))  # what an instruction that takes 32 is given at the end: zeros
        order = sorted(range(32), key=lambda i: (i % 4 > 1, i))
        s = float(np.float32(s) + np.float32(chain(0.0, [tile[i] for i in order], unit)))
    return s


def reference(a, b, c, name, kinds):
    """(m, k) x (k, n) + c, all finite -> float32."""
    unit = UNITS[name]
    if name == "b200" and kinds[0] in ("e4m3fn", "e5m2"):
        unit = (32, *unit[1:])
    if kinds[0] == "tf32":
        unit = (unit[0] // 2, *unit[1:])
    rows = [[split(float(x), TYPES[kinds[0]][1]) for x in row] for row in a]
    columns = [[split(float(x), TYPES[kinds[1]][1]) for x in column] for column in b.T]
    out = np.empty(c.shape, np.float32)
    walk = in_tiles if name == "h100_fp8_mma" else chain
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            out[i, j] = walk(float(c[i, j]), list(zip(row, column, strict=True)), unit)
    return out
