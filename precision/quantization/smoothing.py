"""SmoothQuant: difficulty moved from activations to weights, channel by channel, before both are quantized."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from precision.backends import choose_backend, is_concrete
from precision.formats import E8M0, FP32
from precision.rounding import as_float32
from precision.rounding_modes import Rounding

_SMALLEST = np.float32(1e-5)
_LARGEST = np.float32(FP32.maximum)
_SMALLEST_NORMAL = np.float32(2.0**-126)
_NEAREST = Rounding(overflow="saturate")


class Smoothed(NamedTuple):
    """x / s (..., m, k), s w (k, n) and s (k,)."""

    x: Any
    w: Any
    scale: Any


def smoothing_scale(
    x_absmax: Any,
    w_absmax: Any,
    *,
    alpha: float = 0.5,
    scale_format: Literal["fp32", "e8m0"] = "fp32",
    backend: str | None = None,
) -> Any:
    """The factor of each input channel.

        s_j = max(|x_j|^alpha / |w_j|^(1 - alpha), 1e-5),   |w_j| at least 1e-5

    each power and the quotient rounded to float32 and at most its largest; a power is exact for exponents 0 and 1, a
    square root for 1/2, else exp(a log v) of this project.  A channel of x below 2^-126 has s = 1, as has one of NaN
    where that cannot be refused.
    ``scale_format="e8m0"``: rounded to a power of two, so that x / s and s w are exact.
    Shapes: x_absmax, w_absmax (k,) -> (k,).
    Exactness: bit-identical on every back end.  Off the definition by at most 3 units in the last place for alpha 0,
    1/2 and 1, and by at most 40 for others and magnitudes of 2^-20 to 2^20.
    Errors: ValueError for alpha outside 0 ... 1, shapes that differ, magnitudes that are negative or not finite.
    Source: Xiao et al. 2023, equation 4.  SmoothQuant's own code takes powers in the weights' dtype by the library at
    hand, and s = 1e-5 for a channel of zeros.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is outside 0 <= alpha <= 1; 0.5 shares the difficulty evenly")
    if scale_format not in ("fp32", "e8m0"):
        raise ValueError(f"scale_format {scale_format!r} is not offered; choose fp32 or e8m0")
    module = choose_backend(x_absmax, w_absmax, backend=backend)
    x, w = (as_float32(module, v) for v in (x_absmax, w_absmax))
    if x.ndim != 1 or x.shape != w.shape:
        raise ValueError(
            f"x_absmax of shape {tuple(x.shape)} and w_absmax of {tuple(w.shape)}; pass one for each of k"
        )
    for name, v in (("x_absmax", x), ("w_absmax", w)):
        _refuse(name, v)
    where, one = module.array_module.where, np.float32(1)
    used = x >= _SMALLEST_NORMAL
    easier = _power(module, where(used, x, one), np.float32(alpha))
    scale = module.divide(easier, _power(module, where(w < _SMALLEST, _SMALLEST, w), np.float32(1 - alpha)))
    scale = where(scale < _SMALLEST, _SMALLEST, where(scale > _LARGEST, _LARGEST, scale))
    if scale_format == "e8m0":
        scale = module.round_to(scale, E8M0, _NEAREST)
    return where(used, scale, one)


def _power(module: Any, v: Any, exponent: np.float32) -> Any:
    """v^exponent of normal v, 0 <= exponent <= 1."""
    if exponent in (0, 1):
        return v if exponent else module.array_module.ones_like(v)
    if exponent == 0.5:
        return module.square_root(v)
    return module.exp(module.multiply(module.log(v), exponent))


def _refuse(name: str, v: Any) -> None:
    if is_concrete(v):
        wrong = np.argwhere(~(np.asarray(v) >= 0) | np.isinf(np.asarray(v)))
        if len(wrong):
            at = int(wrong[0][0])
            raise ValueError(f"{name}[{at}] is {np.asarray(v)[at]}; magnitudes are at least 0 and finite")


def smooth(
    x: Any,
    w: Any,
    *,
    alpha: float = 0.5,
    x_absmax: Any = None,
    scale_format: Literal["fp32", "e8m0"] = "fp32",
    backend: str | None = None,
) -> Smoothed:
    """x diag(1/s) and diag(s) w, whose product is that of x and w.

    ``x_absmax`` (k,): of calibration data; that of x itself by default.  ``smoothing_scale`` says what s is.
    Shapes: x (..., m, k), w (k, n).
    Exactness: x / s and s w are one float32 rounding each; exact with "e8m0" but for overflow and underflow.
    Bit-identical on every back end.
    Errors: as ``smoothing_scale``; ValueError for shapes that do not multiply.
    """
    module = choose_backend(x, w, backend=backend)
    x, w = (as_float32(module, v) for v in (x, w))
    if x.ndim < 2 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} and w of {tuple(w.shape)} do not multiply; x (..., m, k), w (k, n)"
        )
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    largest = module.absmax(rows, 0)[0] if x_absmax is None else x_absmax
    scale = smoothing_scale(
        largest, module.absmax(w, 1)[:, 0], alpha=alpha, scale_format=scale_format, backend=module.name
    )
    divided = module.divide(x, module.array_module.broadcast_to(scale, x.shape))
    return Smoothed(divided, module.multiply(w, scale[:, None]), scale)
