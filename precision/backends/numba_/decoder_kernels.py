"""RMSNorm, rotary positions and activations in one pass: the steps of ``qsim.decoder_layers``, in their order.

Arrays of one axis are taken in pieces, one a thread.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import prange

from precision.backends.numba_ import layer_steps, scalars
from precision.backends.numba_.compilation import Kernel, kernel, specialised
from precision.backends.numba_.inner_functions import inner

_add, _subtract, _multiply, _divide = scalars.add, scalars.subtract, scalars.multiply, scalars.divide
_exp, _tanh = scalars.exp, scalars.tanh
_constant, _padded, _rounded = layer_steps.constant, layer_steps.padded, layer_steps.rounded
_pad, _tree_sum = layer_steps.pad, layer_steps.tree_sum
_PIECE, _ROWS, _ROUNDING = layer_steps.PIECE, layer_steps.ROWS, layer_steps.ROUNDING
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@kernel
def rmsnorm(x, gain, y, words):
    """y (N, h).  words: RN(1 / h), epsilon, rounding of y."""
    n = x.shape[1]
    per_feature, epsilon = _constant(words[0]), _constant(words[1])
    for part in prange((x.shape[0] + _ROWS - 1) // _ROWS):
        result = np.empty(n, np.float32)
        level, spare = np.empty(_padded(n), np.float32), np.empty(_padded(n), np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, x.shape[0])):
            row = x[i]
            for j in range(n):
                level[j] = _multiply(row[j], row[j])
            _pad(level, n)
            mean = _multiply(_tree_sum(level, spare), per_feature)
            scale = _divide(_ONE, np.sqrt(_add(mean, epsilon)))
            for j in range(n):
                result[j] = _multiply(_multiply(row[j], scale), gain[j])
            _rounded(result, y[i], words[2:])


@kernel
def rotary(x, cosine, sine, y, words):
    """Halves x[..., 0, :] and x[..., 1, :] turned, (B, T, 2, w); tables (T, w).  words: rounding of y."""
    length, width = x.shape[1], x.shape[3]
    rows = x.shape[0] * length
    for part in prange((rows + _ROWS - 1) // _ROWS):
        turned = np.empty(width, np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, rows)):
            at, t = i // length, i % length
            a, b, c, s = x[at, t, 0], x[at, t, 1], cosine[t], sine[t]
            for j in range(width):
                turned[j] = _subtract(_multiply(a[j], c[j]), _multiply(b[j], s[j]))
            _rounded(turned, y[at, t, 0], words)
            for j in range(width):
                turned[j] = _add(_multiply(b[j], c[j]), _multiply(a[j], s[j]))
            _rounded(turned, y[at, t, 1], words)


# Activations: f(x, words), words first its constants


@inner
def _silu(x, words):  # noqa: ARG001
    return _divide(x, _add(_ONE, _exp(_subtract(_ZERO, x))))


@inner
def _gelu_tanh(x, words):
    """words: 0.044715, sqrt(2 / pi)."""
    cube = _multiply(_multiply(x, x), x)
    inside = _multiply(_add(x, _multiply(cube, _constant(words[0]))), _constant(words[1]))
    return _multiply(_multiply(x, _HALF), _add(_tanh(inside), _ONE))


_function, _words_read = _silu, 0


def _activation(x, out, words):
    """f(x), (N,).  words: constants of f, rounding of f(x)."""
    for part in prange((x.size + _PIECE - 1) // _PIECE):
        first, last = part * _PIECE, min((part + 1) * _PIECE, x.size)
        active = np.empty(last - first, np.float32)
        for j in range(first, last):
            active[j - first] = _function(x[j], words)
        _rounded(active, out[first:last], words[_words_read:])


def _product(x, y, out, words):
    """f(x), rounded, times y, both (N,).  words: constants of f, rounding of f(x), rounding of the product."""
    for part in prange((x.size + _PIECE - 1) // _PIECE):
        first, last = part * _PIECE, min((part + 1) * _PIECE, x.size)
        active, products = np.empty(last - first, np.float32), np.empty(last - first, np.float32)
        for j in range(first, last):
            products[j - first] = _function(x[j], words)
        _rounded(products, active, words[_words_read:])
        for j in range(first, last):
            products[j - first] = _multiply(active[j - first], y[j])
        _rounded(products, out[first:last], words[_words_read + _ROUNDING :])


def _make(loop: Callable, name: str, function: Callable, words: int) -> Kernel:
    known = {"_function": function, "_words_read": words}
    return Kernel(specialised(loop, name, **known), specialised(loop, f"{name}_parallel", **known))


_FUNCTIONS = {"silu": (_silu, 0), "gelu_tanh": (_gelu_tanh, 2)}
ACTIVATIONS = {name: _make(_activation, name, *one) for name, one in _FUNCTIONS.items()}
PRODUCTS = {name: _make(_product, f"{name}_product", *one) for name, one in _FUNCTIONS.items()}
