"""The range of codes: absmax of a tile, a percentile of its magnitudes, or what its squared error prefers."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from precision.quantization.scheme import QScheme
from precision.quantization.steps import Limits, codes, scaled

_EXPONENT = np.uint32(0x7F800000)
_LOWEST_POWER, _HIGHEST_POWER = np.uint32(1 << 23), np.uint32(253 << 23)
_SLACK = np.float32(1 - 2.0**-16)


def limits_of(module: Any, rows: Any, own: Any, scheme: QScheme) -> Limits:
    """The range of each tile as the scheme chooses it; ``own``: how many elements are not filling, where some are.

    Affine ranges hold 0; NaN anywhere, and infinity, makes both ends NaN or infinite.
    """
    if scheme.symmetric:
        high = _clipped_absmax(module, rows, own, scheme)
        return Limits(-high, high)
    where = module.array_module.where
    # magnitudes of one sign: the other side is 0 there
    sides = [where(positive, rows, np.float32(0)) for positive in (~(rows >= 0), ~(rows <= 0))]
    low, high = (module.absmax(side, -1) for side in sides)
    return Limits(-low, high)


def _clipped_absmax(module: Any, rows: Any, own: np.ndarray, scheme: QScheme) -> Any:
    """(tiles, 1): the magnitude that the largest code stands for; where a tile has NaN or infinity, that.

    ``own`` (tiles, 1): how many elements are the array's own, the others being zeros.
    """
    absmax = module.absmax(rows, -1)
    if scheme.clipping.method == "absmax" or not rows.shape[1]:
        return absmax
    if scheme.clipping.method == "percentile":
        chosen = _percentile(module, rows, own, scheme)
    else:
        chosen = _least_squares(module, rows, absmax, scheme)
    return module.array_module.where(absmax < np.float32(np.inf), chosen, absmax)


def _percentile(module: Any, rows: Any, own: np.ndarray, scheme: QScheme) -> Any:
    """The ceil(p n / 100)-th smallest of n magnitudes, by integer order.  Filling sorts first."""
    share = Fraction(Decimal(str(scheme.clipping.percentile))) / 100
    filling = rows.shape[1] - own
    place = np.array([math.ceil(share * int(n)) for n in own.flat], np.int64).reshape(own.shape) + filling - 1
    magnitudes = module.to_bits(rows).reshape(rows.shape) & np.uint32(0x7FFFFFFF)
    ordered = module.array_module.sort(magnitudes, axis=-1)
    found = module.array_module.take_along_axis(ordered, module.array_module.asarray(np.maximum(place, 0)), axis=-1)
    return module.from_bits(found)


def _least_squares(module: Any, rows: Any, absmax: Any, scheme: QScheme) -> Any:
    """a i / candidates for the i whose codes have the smallest squared error; a itself unless that is surely worse.

    Errors are formed in float32 from x 2^-e, with 2^e near a.  With e_j the true errors of n values, computed ones
    lie within d = 2^-22 a of them: q s is rounded once and its difference to x once, both below 2^-24 1.05 a.  Their
    sum of squares is a tree with at most 32 roundings, 2^-19 of it.  So a narrower range is taken only where

        ||e'|| + 2 sqrt(n) d <= (1 - 2^-16) ||e||

    holds of the computed norms, and it then holds of the true ones without the slack: never worse than absmax.
    """
    xp, count = module.array_module, scheme.clipping.candidates
    power = _inverse_power(module, absmax)
    plain, largest = module.multiply(rows, power), module.multiply(absmax, power)
    ratios = np.arange(1, count + 1, dtype=np.float32) / np.float32(count)
    ratios[-1] = 1
    table = xp.asarray(ratios)

    def better(i: Any, best: tuple[Any, Any]) -> tuple[Any, Any]:
        error = _norm(module, plain, module.multiply(largest, table[i]), scheme)
        closer = error < best[0]
        return xp.where(closer, error, best[0]), xp.where(closer, table[i], best[1])

    whole = _norm(module, plain, largest, scheme)
    error, ratio = module.repeat(count - 1, better, (whole, xp.ones_like(whole)))
    margin = np.float32(2.0**-21 * 1.01 * math.sqrt(rows.shape[1]))
    certain = module.add(error, module.multiply(largest, margin)) <= module.multiply(whole, _SLACK)
    clipped = module.multiply(absmax, ratio)
    return xp.where(certain & (clipped >= np.float32(scheme.threshold)), clipped, absmax)


def _inverse_power(module: Any, absmax: Any) -> Any:
    """2^-e, with 2^e the power of two below absmax, within the normal numbers."""
    exponent = module.to_bits(absmax).reshape(absmax.shape) & _EXPONENT
    xp = module.array_module
    field = xp.uint32(254 << 23) - xp.minimum(exponent, _HIGHEST_POWER)
    return module.from_bits(xp.clip(field, _LOWEST_POWER, _HIGHEST_POWER))


def _norm(module: Any, rows: Any, largest: Any, scheme: QScheme) -> Any:
    """Euclidean norm of the errors of each tile rounded to nearest even, (tiles, 1)."""
    scheme = replace(scheme, rounding="nearest_even")
    part = scaled(module, rows, Limits(-largest, largest), scheme)
    whole = module.asarray(codes(module, part.values, None, scheme, None))
    errors = module.subtract(rows, module.multiply(whole, part.scale))
    return module.square_root(module.tree_sum(module.multiply(errors, errors), -1)[:, None])
