"""Products of quantized matrices from their definition: integer sums without end, one rounding a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import quantizer_oracle as oracle
from oracles import ZERO, Real, ftz_add, ftz_multiply, read, read_all, real, rounded, write


def integer(x: np.ndarray, w: np.ndarray, scheme: Any, output: str, bias: np.ndarray | None = None) -> np.ndarray:
    """(..., m, k) x (k, n) of patterns: sums of elements that share both scales, scaled, added, k ascending."""
    parts = unrounded(x, w, scheme)
    result = np.empty(parts.shape, np.uint32)
    for place in np.ndindex(parts.shape):
        y = parts[place] if bias is None else ftz_add(parts[place], read(bias[place[-1]]))
        result[place] = write(rounded(y, output))
    return result


def unrounded(x: np.ndarray, w: np.ndarray, scheme: Any) -> np.ndarray:
    """Array of ``Real``."""
    xs = _Codes(x, scheme.x, -1)
    ws = _Codes(w, scheme.w, -2)
    result = np.empty((*x.shape[:-1], w.shape[1]), object)
    for place in np.ndindex(result.shape):
        row, column = place[:-1], place[-1]
        result[place] = _element(xs, row, ws, column, x.shape[-1])
    return result


class _Codes:
    """Codes less their zero points, and the number of each element's scale."""

    def __init__(self, words: np.ndarray, scheme: Any, axis: int) -> None:
        found = oracle.quantize(words, scheme, axis)
        _, self.owner = oracle.owners(words.shape, scheme, axis)
        self.scales = read_all(found.scale)
        zeros = np.zeros(len(self.scales), np.int64) if found.zero is None else found.zero.ravel()
        self.codes = found.codes - (zeros[self.owner] if found.codes.size else 0)


def _element(x: _Codes, row: tuple[int, ...], w: _Codes, column: int, k: int) -> Real:
    total = None
    start = 0
    for stop in range(1, k + 1):
        here = x.owner[*row, start], w.owner[start, column]
        if stop < k and here == (x.owner[*row, stop], w.owner[stop, column]):
            continue
        sums = int((x.codes[*row, start:stop] * w.codes[start:stop, column]).sum())
        part = ftz_multiply(ftz_multiply(rounded(real(sums), "fp32"), x.scales[here[0]]), w.scales[here[1]])
        total = part if total is None else ftz_add(total, part)
        start = stop
    return ZERO if total is None else total


def of_floats(x: np.ndarray, w: np.ndarray, scheme: Any, output: str, bias: np.ndarray | None = None) -> np.ndarray:
    """What the codes of each operand stand for, or where it has no scheme the operand, rounded to ``working`` and
    summed in float32, k ascending."""
    values = [
        to(words if one is None else oracle.dequantized(oracle.quantize(words, one, axis), one, axis), scheme.working)
        for words, one, axis in ((x, scheme.x, -1), (w, scheme.w, -2))
    ]
    y = oracles.matmul(values[0].reshape(-1, x.shape[-1]), values[1], "fp32_sequential")
    return _finished(y, output, bias).reshape(*x.shape[:-1], w.shape[1])


def to(words: np.ndarray, name: str) -> np.ndarray:
    return oracles.write_all(rounded(v, name) for v in read_all(words)).reshape(words.shape)


def _finished(y: np.ndarray, output: str, bias: np.ndarray | None) -> np.ndarray:
    result = np.empty(y.shape, np.uint32)
    for i, j in np.ndindex(y.shape):
        value = read(y[i, j]) if bias is None else ftz_add(read(y[i, j]), read(bias[j]))
        result[i, j] = write(rounded(value, output))
    return result


def mixed(x: np.ndarray, w: np.ndarray, scheme: Any, output: str, bias: np.ndarray | None = None) -> np.ndarray:
    """Columns of x with a magnitude of at least ``threshold`` in ``working``, added to the integer product of x with
    zeros there; where there is none, the integer product alone.  The bias is added last."""
    magnitude = x & 0x7FFFFFFF
    least = np.float32(scheme.threshold).view(np.uint32)
    columns = ((magnitude >= least) & (magnitude <= 0x7F800000)).reshape(-1, x.shape[-1]).any(axis=0)
    parts = unrounded(np.where(columns, 0, x).astype(np.uint32), w, scheme)
    rows = to(np.where(columns, x, 0).astype(np.uint32).reshape(-1, x.shape[-1]), scheme.working)
    weights = to(np.where(columns[:, None], w, 0).astype(np.uint32), scheme.working)
    apart = oracles.matmul(rows, weights, "fp32_sequential").reshape(parts.shape)
    result = np.empty(parts.shape, np.uint32)
    for place in np.ndindex(parts.shape):
        y = ftz_add(parts[place], read(apart[place])) if columns.any() else parts[place]
        y = y if bias is None else ftz_add(y, read(bias[place[-1]]))
        result[place] = write(rounded(y, output))
    return result
