"""Order of float32 patterns, decided on integers, so that subnormals count where a float unit would flush them.

Operators only, like ``bits``.
"""

from precision.bits import equal, from_order_key, less, order_key, select
from precision.soft_float import borrow


def equal_to(u, v):
    """1 where u = v, else 0; -0 = +0, and NaN equals nothing."""
    return _ordered(u, v) & equal(_one_zero(u), _one_zero(v))


def less_than(u, v):
    """1 where u < v, else 0; -0 is not below +0, and nothing is below or above NaN."""
    return _ordered(u, v) & borrow(order_key(_one_zero(u)), order_key(_one_zero(v)))


def less_or_equal(u, v):
    """1 where u <= v, else 0; 0 with NaN."""
    return _ordered(u, v) & (1 - borrow(order_key(_one_zero(v)), order_key(_one_zero(u))))


def minimum(u, v):
    """The lesser, -0 below +0; 0x7FC00000 where either is NaN."""
    return select(_ordered(u, v), _lesser(u, v), 0x7FC00000 + 0 * u)


def maximum(u, v):
    """The greater, +0 above -0; 0x7FC00000 where either is NaN."""
    return select(_ordered(u, v), _greater(u, v), 0x7FC00000 + 0 * u)


def minimum_number(u, v):
    """The lesser, -0 below +0; the number where the other is NaN, 0x7FC00000 where both are."""
    return select(_ordered(u, v), _lesser(u, v), _number(u, v))


def maximum_number(u, v):
    """The greater, +0 above -0; the number where the other is NaN, 0x7FC00000 where both are."""
    return select(_ordered(u, v), _greater(u, v), _number(u, v))


def _is_nan(u):
    return less(0x7F800000 + 0 * u, u & 0x7FFFFFFF)


def _ordered(u, v):
    return 1 - (_is_nan(u) | _is_nan(v))


def _one_zero(u):
    """u with +0 for -0."""
    return u & -(1 - equal(u & 0x7FFFFFFF, 0))


def _lesser(u, v):
    a, b = order_key(u), order_key(v)
    return from_order_key(select(borrow(a, b), a, b))


def _greater(u, v):
    a, b = order_key(u), order_key(v)
    return from_order_key(select(borrow(a, b), b, a))


def _number(u, v):
    """The one that is no NaN; 0x7FC00000 where both are."""
    return select(_is_nan(u), select(_is_nan(v), 0x7FC00000 + 0 * u, v), u)
