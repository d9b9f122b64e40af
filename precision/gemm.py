"""``matmul`` under a named accumulator: check, then call a back end."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.accumulator import Accumulator
from precision.accumulators import parse_accumulator
from precision.backends import choose_backend
from precision.backends.underflow import products_fit
from precision.formats import FP16, FP32, Format, parse_format
from precision.representation import check_representable
from precision.rounding import as_float32

FormatLike = str | Format
_NO_DERIVATIVE = "matmul has no derivative; make_dot_general takes the formats of both backward products"


def matmul(
    a: Any,
    b: Any,
    *,
    c: Any = None,
    inputs: FormatLike | tuple[FormatLike, FormatLike] = FP16,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulator: str | Accumulator = "fp32_sequential",
    output: FormatLike | None = None,
    check: bool = False,
    backend: str | None = None,
) -> Any:
    """c + a b, summed exactly as the accumulator says, then rounded once (nearest even) to ``output``.

        out[..., i, j] = round(s_K),  s_0 = c[..., i, j] or +0,  s_(k+1) = step(s_k, a[..., i, k], b[..., k, j])

    Shapes: (..., m, k) x (..., k, n) -> (..., m, n); leading axes broadcast; ``transpose_a``: a is (..., k, m);
    ``transpose_b``: b is (..., n, k).  Any size, k = 0 included (then c, or +0).
    Domain: float32 carriers whose values are representable in ``inputs`` (one format, or one for each
    operand), and those of c in the accumulator's format; with ``check=True`` that is verified.
    Exactness: bit-identical on every back end, subnormals kept.  ``output=None``: the accumulator's own format.
    Every NaN comes out as 0x7FC00000.
    Errors: ValueError for shapes that do not match, unknown names, or inputs that are not representable; TypeError
    for a JAX derivative, whose products have formats of their own: ``make_dot_general`` takes them.
    """
    accumulator = parse_accumulator(accumulator)
    formats = _pair(inputs)
    module = choose_backend(a, b, c, backend=backend)
    a = _operand(module, a, formats[0], "a", transpose_a, check)
    b = _operand(module, b, formats[1], "b", transpose_b, check)
    batch, m, n = _shape(a, b)
    if c is not None:
        c = as_float32(module, c)
        if tuple(c.shape) != (*batch, m, n):
            raise ValueError(f"c must have the shape of the product, {(*batch, m, n)}, not {tuple(c.shape)}")
        if check:
            check_representable(module, c, accumulator.sum, "operand c")
        c = _flat(module, c, batch)
    _refuse(accumulator, formats)
    total = module.matmul(_flat(module, a, batch), _flat(module, b, batch), c, accumulator, formats)
    total = total.reshape((*batch, m, n))
    return module.round_to(total, parse_format(output) if output else accumulator.sum)


def _pair(inputs: FormatLike | tuple[FormatLike, FormatLike]) -> tuple[Format, Format]:
    both = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    pair = (parse_format(both[0]), parse_format(both[1]))
    for fmt in pair:
        if fmt.is_integer:
            raise ValueError(f"matmul takes floating-point inputs, not {fmt.name}; use quantized_matmul")
    return pair


def _refuse(accumulator: Accumulator, formats: tuple[Format, Format]) -> None:
    if accumulator.sum is not FP32 and not products_fit(*formats):
        raise ValueError(
            f"accumulator {accumulator.name} rounds products to {accumulator.sum.name} in one step, which needs "
            f"products of at most 24 bits, and {formats[0].name} x {formats[1].name} has "
            f"{formats[0].precision + formats[1].precision}; round the operands to fp16 or bf16"
        )


def _operand(module: Any, x: Any, fmt: Format, name: str, transpose: bool, check: bool) -> Any:
    x = module.without_derivative(as_float32(module, x), _NO_DERIVATIVE)
    if x.ndim < 2:
        raise ValueError(f"operand {name} needs at least two axes, its shape is {tuple(x.shape)}")
    if check:
        check_representable(module, x, fmt, f"operand {name}")
    return module.array_module.swapaxes(x, -1, -2) if transpose else x


def _shape(a: Any, b: Any) -> tuple[tuple[int, ...], int, int]:
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"inner axes differ: a is {tuple(a.shape)} and b is {tuple(b.shape)}, both after transposition; "
            f"k is {a.shape[-1]} in a and {b.shape[-2]} in b"
        )
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(f"leading axes {a.shape[:-2]} of a and {b.shape[:-2]} of b do not broadcast") from None
    return batch, a.shape[-2], b.shape[-1]


def _flat(module: Any, x: Any, batch: tuple[int, ...]) -> Any:
    """(..., p, q) -> (B, p, q)."""
    x = module.array_module.broadcast_to(x, (*batch, *x.shape[-2:]))
    return x.reshape((int(np.prod(batch)), *x.shape[-2:]))
