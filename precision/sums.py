"""Sums in a stated order, every operation rounded to a format."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from precision.backends import choose_backend
from precision.format import Format
from precision.formats import FP32, parse_format
from precision.rounding import as_float32, round_to
from precision.rounding_modes import Mode, Rounding

Order = Literal["tree", "sequential", "kahan"]


def ordered_sum(
    x: Any,
    axis: int = -1,
    *,
    order: Order = "tree",
    fmt: str | Format = FP32,
    rounding: Mode = "nearest_even",
    backend: str | None = None,
) -> Any:
    """Sum along an axis, in a stated order, each operation rounded once to a format.

    Equation: the terms x_0 ... x_(n-1) are rounded to the format first (a value of the format stays what it is); then
        tree: neighbours (2i, 2i + 1) are added until one number is left; of an odd number the last one waits,
            unchanged, for the next round (as if padded with zeros that change nothing)
        sequential: s = x_0; s = s + x_i for i = 1 ... n - 1
        kahan: s = x_0, c = +0; y = x_i - c, t = s + y, c = (t - s) - y, s = t for i = 1 ... n - 1; the sum is s
    Shapes: any; the axis is taken away.  An empty axis gives +0 (in a format without zero, what +0 becomes there).
    Domain: every pattern of float32 and of narrower types.  Overflow and NaN: as in ``add``; in kahan an infinite
    sum turns into NaN with the next term, as inf - inf does.
    Exactness: every operation correctly rounded, subnormals kept, in integer operations, which no compiler contracts
    or joins; bit-identical on NumPy, Numba and JAX.
    Gradient on JAX: that of the sum, 1 for every term.
    Errors: ValueError for an unknown order or format, and for stochastic rounding, as no key says which bits each
    operation takes; TypeError as in ``round_to``.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, 4.1 to 4.3.
    """
    fmt, how = parse_format(fmt), _how(order, rounding)
    module = choose_backend(x, backend=backend)
    terms = module.array_module.moveaxis(as_float32(module, x), axis, 0)
    if len(terms) == 0:
        terms = module.array_module.zeros((1, *terms.shape[1:]), np.float32)
    terms = round_to(terms, fmt, rounding=rounding, backend=module.name)
    if order == "tree":
        return _tree(module, terms, fmt, how)
    return module.ordered_sum(order, terms, fmt, how)


def _how(order: str, rounding: Mode) -> Rounding:
    how = Rounding(mode=rounding)
    if order not in get_args(Order):
        raise ValueError(f"order {order!r} is not offered; choose one of {', '.join(get_args(Order))}")
    if how.stochastic:
        raise ValueError("ordered_sum does not round at random, as it has no key; add with add(..., key=...)")
    return how


def _tree(module: Any, terms: Any, fmt: Format, how: Rounding) -> Any:
    while len(terms) > 1:
        pairs = len(terms) // 2
        sums = module.operate("add", (terms[0 : 2 * pairs : 2], terms[1 : 2 * pairs : 2]), fmt, how)
        terms = module.array_module.concatenate([sums, terms[2 * pairs :]])
    return terms[0]
