"""What follows a product, GELU by table and AdamW in one pass: the steps of ``qsim``, in their order.

Arrays of one axis are taken in pieces, one a thread.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from precision.backends.numba_ import layer_steps, scalars
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inner
from precision.rounding_modes import Constants

_add, _subtract, _multiply, _divide = scalars.add, scalars.subtract, scalars.multiply, scalars.divide
_to_bits = scalars.to_bits
_round, _encode = scalars.words["round_nearest_even"], scalars.words["encode"]
_constant, _rounded = layer_steps.constant, layer_steps.rounded
_PIECE, _ROWS, _ROUNDING = layer_steps.PIECE, layer_steps.ROWS, layer_steps.ROUNDING
_CONSTANTS = len(Constants._fields)


@kernel
def biased(products, bias, out, words):
    """products (N, n), rounded, plus bias (n,).  words: roundings of products, of sums."""
    n = products.shape[1]
    for part in prange((products.shape[0] + _ROWS - 1) // _ROWS):
        x, y = np.empty(n, np.float32), np.empty(n, np.float32)
        for i in range(part * _ROWS, min((part + 1) * _ROWS, products.shape[0])):
            _rounded(products[i], x, words)
            for j in range(n):
                y[j] = _add(x[j], bias[j])
            _rounded(y, out[i], words[_ROUNDING:])


@kernel
def total(x, y, out, words):
    """x + y, (N,).  words: rounding of it."""
    for part in prange((x.size + _PIECE - 1) // _PIECE):
        first, last = part * _PIECE, min((part + 1) * _PIECE, x.size)
        sums = np.empty(last - first, np.float32)
        for j in range(first, last):
            sums[j - first] = _add(x[j], y[j])
        _rounded(sums, out[first:last], words)


@inner
def _found(x, table, codes, out, words):
    """out = table[code of x], words first those of the format of x; by way of ``codes``, which fill vectors."""
    f = Constants(*to_fixed_tuple(words[:_CONSTANTS].astype(np.uint32), _CONSTANTS))
    for j in range(x.size):
        codes[j] = _encode(_round(_to_bits(x[j]), f), f)
    for j in range(x.size):
        out[j] = table[codes[j]]


@kernel
def lookup(x, table, out, words):
    """table[code of x], (N,).  words: those of the format of x."""
    for part in prange((x.size + _PIECE - 1) // _PIECE):
        first, last = part * _PIECE, min((part + 1) * _PIECE, x.size)
        _found(x[first:last], table, np.empty(last - first, np.uint32), out[first:last], words)


@kernel
def lookup_product(x, table, y, out, words):
    """y table[code of x], (N,).  words: those of the format of x, rounding of the product."""
    for part in prange((x.size + _PIECE - 1) // _PIECE):
        first, last = part * _PIECE, min((part + 1) * _PIECE, x.size)
        found, products = np.empty(last - first, np.float32), np.empty(last - first, np.float32)
        _found(x[first:last], table, np.empty(last - first, np.uint32), found, words)
        for j in range(first, last):
            products[j - first] = _multiply(y[j], found[j - first])
        _rounded(products, out[first:last], words[_CONSTANTS:])


@kernel
def adamw(w, first, second, gradient, scalars, new_w, new_first, new_second, words):
    """All (N,).  scalars: learning rate, both corrections, clipping factor.  words: beta_1, 1 - beta_1, beta_2,
    1 - beta_2, epsilon, decay."""
    rate, correction_1, correction_2, factor = scalars[0], scalars[1], scalars[2], scalars[3]
    beta_1, rest_1, beta_2, rest_2 = (
        _constant(words[0]), _constant(words[1]), _constant(words[2]), _constant(words[3])
    )  # fmt: skip
    epsilon, decay, decays = _constant(words[4]), _constant(words[5]), words[5] != 0
    for j in prange(w.size):
        g = _multiply(gradient[j], factor)
        m = _add(_multiply(first[j], beta_1), _multiply(g, rest_1))
        v = _add(_multiply(second[j], beta_2), _multiply(_multiply(g, g), rest_2))
        deviation = np.sqrt(_multiply(v, correction_2))
        direction = _divide(_multiply(m, correction_1), _add(deviation, epsilon))
        if decays:
            direction = _add(direction, _multiply(w[j], decay))
        new_w[j] = _subtract(w[j], _multiply(direction, rate))
        new_first[j], new_second[j] = m, v
