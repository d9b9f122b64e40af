"""LayerNorm of rows (N, h) in one pass, forward and backward: the steps of ``qsim.layers``, in their order."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import layer_steps, scalars
from precision.backends.numba_.compilation import kernel

_add, _subtract, _multiply, _divide = scalars.add, scalars.subtract, scalars.multiply, scalars.divide
_constant, _padded, _rounded = layer_steps.constant, layer_steps.padded, layer_steps.rounded
_pad, _tree_sum, _sum_of = layer_steps.pad, layer_steps.tree_sum, layer_steps.sum_of
_ROWS = layer_steps.ROWS
_ONE = np.float32(1)


@kernel
def layernorm(x, gain, bias, y, normal, inverse, words):
    """y, normal (N, h), inverse (N, 1).  words: RN(1 / h), epsilon, rounding of y."""
    n = x.shape[1]
    per_feature, epsilon = _constant(words[0]), _constant(words[1])
    for part in prange((x.shape[0] + _ROWS - 1) // _ROWS):
        centred, result = np.empty(n, np.float32), np.empty(n, np.float32)
        level, spare = np.empty(_padded(n), np.float32), np.empty(_padded(n), np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, x.shape[0])):
            row, own = x[i], normal[i]
            mean = _multiply(_sum_of(row, level, spare), per_feature)
            for j in range(n):
                centred[j] = _subtract(row[j], mean)
            for j in range(n):
                level[j] = _multiply(centred[j], centred[j])
            _pad(level, n)
            variance = _multiply(_tree_sum(level, spare), per_feature)
            scale = _divide(_ONE, np.sqrt(_add(variance, epsilon)))
            inverse[i, 0] = scale
            for j in range(n):
                own[j] = _multiply(centred[j], scale)
            for j in range(n):
                result[j] = _add(_multiply(own[j], gain[j]), bias[j])
            _rounded(result, y[i], words[2:])


@kernel
def layernorm_gradient(normal, inverse, gain, dy, dx, words):
    """dx (N, h).  words: RN(1 / h), rounding of dx."""
    n = dy.shape[1]
    per_feature = _constant(words[0])
    for part in prange((dy.shape[0] + _ROWS - 1) // _ROWS):
        g, result = np.empty(n, np.float32), np.empty(n, np.float32)
        level, spare = np.empty(_padded(n), np.float32), np.empty(_padded(n), np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, dy.shape[0])):
            row, own, scale = dy[i], normal[i], inverse[i, 0]
            for j in range(n):
                g[j] = _multiply(row[j], gain[j])
            mean = _multiply(_sum_of(g, level, spare), per_feature)
            for j in range(n):
                level[j] = _multiply(g[j], own[j])
            _pad(level, n)
            slope = _multiply(_tree_sum(level, spare), per_feature)
            for j in range(n):
                inner = _subtract(_subtract(g[j], mean), _multiply(own[j], slope))
                result[j] = _multiply(inner, scale)
            _rounded(result, dx[i], words[1:])
