"""Scalar operations on float32 patterns, each rounded once to a format: what the back ends loop over.

Operators only, like ``bits``.  ``word`` holds 32 random bits, read by stochastic rounding alone; ``f`` is a
``rounding_modes.Constants``.
"""

from precision.bits import DOWN, round_pattern
from precision.soft_division import exact_divide, exact_square_root
from precision.soft_float import exact_add, exact_fused_multiply_add, exact_multiply


def add(u, v, word, f):
    """Pattern of u + v, rounded once."""
    exact, extra = exact_add(u, v, _down(f))
    return round_pattern(exact, extra, word, f)


def sub(u, v, word, f):
    """Pattern of u - v, rounded once."""
    exact, extra = exact_add(u, v ^ ((1 + 0 * v) << 31), _down(f))
    return round_pattern(exact, extra, word, f)


def mul(u, v, word, f):
    """Pattern of u v, rounded once."""
    exact, extra = exact_multiply(u, v)
    return round_pattern(exact, extra, word, f)


def div(u, v, word, f):
    """Pattern of u / v, rounded once."""
    exact, extra = exact_divide(u, v)
    return round_pattern(exact, extra, word, f)


def sqrt(u, word, f):
    """Pattern of the square root of u, rounded once."""
    exact, extra = exact_square_root(u)
    return round_pattern(exact, extra, word, f)


def fma(u, v, w, word, f):
    """Pattern of u v + w, rounded once."""
    exact, extra = exact_fused_multiply_add(u, v, w, _down(f))
    return round_pattern(exact, extra, word, f)


def _down(f):
    """1 where x + (-x) is -0: IEEE 754-2019, 6.3."""
    return 1 if f.mode == DOWN else 0
