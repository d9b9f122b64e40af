"""Matrix products in a stated order: Numba kernels on a CPU, elsewhere a scan over k of rank-1 updates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from precision import soft_float
from precision.accumulator import Accumulator
from precision.backends import get_backend
from precision.backends.jax_ import foreign
from precision.backends.jax_.arithmetic import guard
from precision.backends.jax_.rounding import from_bits, on_cpu, round_to, to_bits
from precision.backends.jax_.structure import varying_together
from precision.backends.underflow import always_normal, floats_suffice, products_fit
from precision.formats import FP32, Format

Array = Any
Step = Callable[[Array, Array, Array], Array]
FOREIGN_PLATFORMS = ("cpu",)  # where products are computed by foreign functions


def matmul(
    a: Array,
    b: Array,
    c: Array | None,
    accumulator: Accumulator,
    inputs: tuple[Format, Format],
    proofs: list[Array] | None = None,
) -> Array:
    """(B, m, k) x (B, k, n) added to c (B, m, n), or to +0; operands are values of the formats ``inputs``.

    On a CPU by the kernels of the Numba back end, elsewhere by ``scanned``: decided when the computation is lowered,
    for the platform it is lowered for.  ``proofs``: as in ``scanned``; there is nothing to prove on a CPU.
    """
    operands = varying_together(a, b) if c is None else varying_together(a, b, c)
    # not traced, so nothing compiled by Numba, on a host whose computations run elsewhere
    platforms = FOREIGN_PLATFORMS if on_cpu() else ()
    result, proved = _matmul(accumulator, inputs, proofs is not None, platforms, *operands)
    if proofs is not None:
        proofs.append(proved)
    return result


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _matmul(
    accumulator: Accumulator,
    inputs: tuple[Format, Format],
    speculative: bool,
    foreign_platforms: tuple[str, ...],
    *operands: Array,
) -> tuple[Array, Array]:
    """The product and whether it is proved."""

    def by_scan(a: Array, b: Array, c: Array | None = None) -> tuple[Array, Array]:
        proofs: list[Array] | None = [] if speculative else None
        result = scanned(a, b, c, accumulator, inputs, proofs)
        return result, proofs[0] if proofs else _true(a)

    def by_kernel(a: Array, b: Array, c: Array | None = None) -> tuple[Array, Array]:
        kernel, words = get_backend("numba").gemm.foreign(accumulator)
        start = jnp.zeros((*a.shape[:2], b.shape[2]), jnp.float32) if c is None else c
        return foreign.call(kernel, words, a, b, start)[0], _true(a)

    return lax.platform_dependent(*operands, default=by_scan, **dict.fromkeys(foreign_platforms, by_kernel))


def _true(like: Array) -> Array:
    """True, varying over a mesh as that array does."""
    return varying_together(jnp.asarray(True), like)[0]


def scanned(
    a: Array,
    b: Array,
    c: Array | None,
    accumulator: Accumulator,
    inputs: tuple[Format, Format],
    proofs: list[Array] | None = None,
) -> Array:
    """``matmul`` on any platform, by XLA's own operations.

    Float operations serve where ``floats_suffice`` proves that nothing reaches the subnormals XLA would flush and
    that no exact product overflows; elsewhere, and for products wider than 24 bits, the same sums are formed in
    integers.  With ``proofs`` the integer path is left out and the proof appended instead: the result stands only if
    it holds, and the caller, who computes again without ``proofs`` if not, is spared compiling both paths at every
    product.
    """
    from_zero = c is None
    # behind a barrier: XLA reads a constant 0 + x as x, which loses the sum's sign where x is -0
    c = lax.optimization_barrier(jnp.zeros((*a.shape[:2], b.shape[2]), jnp.float32) if c is None else c)
    a, b, c = varying_together(a, b, c)
    if accumulator.sum is not FP32:
        return _walk(_rounded_step(accumulator, inputs), a, b, c)
    in_floats = _exact_step if accumulator.product == "exact" else _float_step
    if from_zero and always_normal(*inputs):
        return _walk(in_floats, a, b, c)
    in_integers = _integer_step(accumulator)
    if accumulator.product == "exact" and not products_fit(*inputs):
        return _walk(in_integers, a, b, c)
    suffices = floats_suffice(jnp, to_bits(a), to_bits(b), to_bits(c), accumulator.product == "exact")
    if proofs is not None:
        proofs.append(suffices)
        return _walk(in_floats, a, b, c)
    floats, integers = (lambda *x, step=step: _walk(step, *x) for step in (in_floats, in_integers))
    return lax.cond(suffices, floats, integers, a, b, c)


def _walk(step: Step, a: Array, b: Array, c: Array) -> Array:
    """step(a_k, b_k, sum) for k ascending."""
    columns, rows = jnp.moveaxis(a, 2, 0), jnp.moveaxis(b, 1, 0)

    def body(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return step(pair[0][:, :, None], pair[1][:, None, :], total), None

    return lax.scan(body, c, (columns, rows))[0]


def _float_step(x: Array, y: Array, total: Array) -> Array:
    return total + guard(x * y)


def _exact_step(x: Array, y: Array, total: Array) -> Array:
    """For products that have no more than 24 bits: contracted or not, the sum is the same."""
    return total + x * y


def _rounded_step(accumulator: Accumulator, inputs: tuple[Format, Format]) -> Step:
    # 2^-130 2^127 is 1/8, but a float unit that flushes reads the first factor as 0
    normal = min(fmt.min_subnormal_exponent for fmt in inputs) >= FP32.min_normal_exponent
    multiply = jnp.multiply if normal else _product_in_integers  # rounded in integers next: nothing to contract

    def step(x: Array, y: Array, total: Array) -> Array:
        return round_to(total + round_to(multiply(x, y), accumulator.sum), accumulator.sum)

    return step


def _product_in_integers(x: Array, y: Array) -> Array:
    return from_bits(soft_float.multiply(to_bits(x), to_bits(y)))


def _integer_step(accumulator: Accumulator) -> Step:
    def step(x: Array, y: Array, total: Array) -> Array:
        u, v, w = to_bits(x), to_bits(y), to_bits(total)
        if accumulator.product == "exact":
            return from_bits(soft_float.fused_multiply_add(u, v, w))
        return from_bits(soft_float.add(soft_float.multiply(u, v), w))

    return step


def integer_matmul(a: Array, b: Array) -> Array:
    """int8 (B, m, k) x (B, k, n) -> int32, exact in any order."""
    return lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.int32)
