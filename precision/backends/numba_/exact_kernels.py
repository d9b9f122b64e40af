"""The sum that ``exact_products`` adds to: a ``superaccumulator`` for each output."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import prange

from precision.backends.numba_ import ordered_steps
from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inner
from precision.superaccumulator import LIMBS, START

MOST = 64  # additions between two passes of carries: a limb has room for 127
_carried, _deposit, _integer_of, _withdraw = (
    ordered_steps.carried,
    ordered_steps.deposit,
    ordered_steps.integer_of,
    ordered_steps.withdraw,
)


@inner
def _carry(limbs):
    carry = np.uint32(0)
    for i in range(LIMBS - 1):
        limbs[i], carry = _carried(limbs[i], carry)
    limbs[LIMBS - 1] += carry


@kernel
def start(c, limbs):
    """limbs (n, LIMBS) of finite float32 patterns."""
    for i in prange(c.size):
        m, e = _integer_of(c[i])
        _deposit(limbs[i], np.uint32(0), m, np.uint32(e + START), np.uint32(c[i] >> np.uint32(31)))


@kernel
def add(total, rows, columns, limbs, carrying):
    """limbs (B, m, n, LIMBS) += total 2^(row + column - 300): int32 (B, m, n), rows (B, m), columns (B, n)."""
    m = total.shape[1]
    for i in prange(total.shape[0] * m):
        block, row = i // m, i % m
        for j in range(total.shape[2]):
            value = total[block, row, j]
            if value != 0:
                sign = np.uint32(value < 0)
                word = np.uint32(-value if value < 0 else value)
                place = np.uint32(rows[block, row] + columns[block, j] - 2)
                _deposit(limbs[block, row, j], word >> np.uint32(24), word & np.uint32(0xFFFFFF), place, sign)
            if carrying:
                _carry(limbs[block, row, j])


@kernel
def result(limbs, u, extra, zero):
    for i in prange(u.size):
        u[i], extra[i], there = _withdraw(limbs[i])
        zero[i] = np.uint32(not there)
