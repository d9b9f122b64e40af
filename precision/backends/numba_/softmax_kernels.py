"""Softmax of masked rows and cross-entropy in one pass, forward and backward: the steps of ``qsim.layers``."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import layer_steps, scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inner

_subtract, _multiply, _divide = scalars.subtract, scalars.multiply, scalars.divide
_exp, _log = scalars.exp, scalars.log
_padded, _rounded = layer_steps.padded, layer_steps.rounded
_pad, _tree_sum, _sum_of = layer_steps.pad, layer_steps.tree_sum, layer_steps.sum_of
_largest, _order_key, _of_order_key = layer_steps.largest, layer_steps.order_key, layer_steps.of_order_key
_ROWS, _ROUNDING = layer_steps.ROWS, layer_steps.ROUNDING
_from_the_end = layer_steps.from_the_end
_ZERO, _ONE, _NAN = np.float32(0), np.float32(1), np.float32(np.nan)


@inner
def _within(mask):
    """Length of the row up to the last position that the mask allows."""
    n = mask.size
    while n > 0 and not mask[n - 1]:
        n -= 1
    return n


@inner
def _excluded(x, mask, out):
    """out = x, +0 where the mask excludes it."""
    for j in range(x.size):
        out[j] = x[j] if mask[j] else _ZERO


@inner
def _largest_allowed(x, mask):
    best = np.uint32(0)
    for j in range(x.size):
        key = _order_key(x[j])
        best = max(best, key if mask[j] else np.uint32(0))
    return _of_order_key(best)


@kernel
def softmax(products, mask, weights, words):
    """weights (B, q, k) of products (B, q, k) where mask (q, k) allows.  words: roundings of products, of weights."""
    queries, n = products.shape[1], products.shape[2]
    rows = products.shape[0] * queries
    for part in prange((rows + _ROWS - 1) // _ROWS):
        x, scores = np.empty(n, np.float32), np.empty(n, np.float32)
        level, spare = np.empty(_padded(n), np.float32), np.empty(_padded(n), np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, rows)):
            allowed, m = mask[i % queries], _within(mask[i % queries])
            _excluded(products[i // queries, i % queries], allowed, x)
            _rounded(x[:m], scores[:m], words)
            top = _largest_allowed(scores[:m], allowed)
            for j in range(m):
                power = _exp(_subtract(scores[j], top))
                x[j] = power if allowed[j] else _ZERO
            for j in range(m, n):
                x[j] = _ZERO
            inverse = _divide(_ONE, _sum_of(x, level, spare))
            for j in range(n):
                scores[j] = _multiply(x[j], inverse)
            _rounded(scores, weights[i // queries, i % queries], words[_ROUNDING:])


@kernel
def softmax_gradient(weights, products, mask, gradient, words):
    """p (dp - sum(p dp)), p: weights, dp: products where mask allows, rounded.  words: roundings of dp, of this."""
    queries, n = products.shape[1], products.shape[2]
    rows = products.shape[0] * queries
    for part in prange((rows + _ROWS - 1) // _ROWS):
        x, dp = np.empty(n, np.float32), np.empty(n, np.float32)
        level, spare = np.empty(_padded(n), np.float32), np.empty(_padded(n), np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, rows)):
            p = weights[i // queries, i % queries]
            _excluded(products[i // queries, i % queries], mask[i % queries], x)
            _rounded(x, dp, words)
            for j in range(n):
                level[j] = _multiply(p[j], dp[j])
            _pad(level, n)
            dot = _tree_sum(level, spare)
            for j in range(n):
                x[j] = _multiply(p[j], _subtract(dp[j], dot))
            _rounded(x, gradient[i // queries, i % queries], words[_ROUNDING:])


@kernel
def cross_entropy(logits, targets, losses, powers, total, words):  # noqa: ARG001  every layer is given words
    """losses (N,), powers (N, V), total (N, 1); targets (N,): from -V on counted from the end, others give NaN."""
    n = logits.shape[1]
    for part in prange((logits.shape[0] + _ROWS - 1) // _ROWS):
        level, spare = np.empty(_padded(n), np.float32), np.empty(_padded(n), np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, logits.shape[0])):
            row, own = logits[i], powers[i]
            top = _largest(row)
            for j in range(n):
                own[j] = _exp(_subtract(row[j], top))
            total[i, 0] = _sum_of(own, level, spare)
            target = _from_the_end(targets[i], n)
            picked = row[target] if target >= 0 else _NAN
            losses[i] = _subtract(_log(total[i, 0]), _subtract(picked, top))


@kernel
def cross_entropy_gradient(powers, total, targets, factor, gradient, words):
    """(powers / total - onehot) factor (1,), no one where a target is not in 0 ... V - 1.  words: rounding of it."""
    n = powers.shape[1]
    for part in prange((powers.shape[0] + _ROWS - 1) // _ROWS):
        chances, result = np.empty(n, np.float32), np.empty(n, np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, powers.shape[0])):
            row, inverse = powers[i], _divide(_ONE, total[i, 0])
            for j in range(n):
                chances[j] = _multiply(row[j], inverse)
            target = targets[i]
            if 0 <= target < n:
                chances[target] = _subtract(chances[target], _ONE)
            for j in range(n):
                result[j] = _multiply(chances[j], factor[0])
            _rounded(result, gradient[i], words)
