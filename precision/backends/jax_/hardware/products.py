"""Matrix products on the device's matrix units: 16-bit and INT8 operands, float32 and INT32 sums."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from precision.accumulator import Accumulator
from precision.backends.jax_ import gemm
from precision.backends.jax_.hardware.arithmetic import NARROW, wide
from precision.format import Format
from precision.formats import BF16

Array = Any


def matmul(
    a: Array,
    b: Array,
    c: Array | None,
    accumulator: Accumulator,
    inputs: tuple[Format, Format],
    proofs: list[Array] | None = None,
) -> Array:
    """(B, m, k) x (B, k, n) added to c, or to 0; operands are values of the formats ``inputs``.

    ``native``: in the narrowest array type that holds both operands, summed in float32 as the unit does.  An ordered
    or exact accumulator is what it always is.  Products leave the unit as float32, to be rounded apart: a library
    that splits k could round parts, and their sum again.
    """
    if accumulator.summation != "native":
        start = None if c is None else wide(c)
        return gemm.matmul(wide(a), wide(b), start, accumulator, inputs, proofs)
    dtype = _common(*inputs)
    total = lax.dot_general(
        a.astype(dtype), b.astype(dtype), (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32
    )
    return total if c is None else wide(c) + total


def _common(a: Format, b: Format) -> Any:
    """bfloat16 or float16 where all values of both formats are values of it, else float32.

    A unit multiplies two types of 8 bits only where it knows both; as bfloat16 their values are the same.
    """
    if a == b and a in NARROW:
        return NARROW[a]
    eight = all(fmt.bits <= 8 and not fmt.is_integer and fmt.precision <= BF16.precision for fmt in (a, b))
    return jnp.bfloat16 if eight else jnp.float32
