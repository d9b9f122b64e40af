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
from precision.backends.jax_.products import exact_matmul, native_matmul, ordered_product, round_exact
from precision.backends.jax_.rounding import from_bits, on_cpu, to_bits
from precision.backends.jax_.structure import varying_together
from precision.backends.underflow import always_normal, floats_suffice, products_fit
from precision.format import Format
from precision.formats import FP32
from precision.ordered_products import Events

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
    """(B, m, k) x (B, k, n) added to c (B, m, n), or to +0, by an ordered, exact or native accumulator; operands are
    values of the formats ``inputs``.

    Ordered ones on a CPU by the kernels of the Numba back end, elsewhere by ``scanned``: decided when the computation
    is lowered, for the platform it is lowered for.  ``proofs``: as in ``scanned``; nothing is to be proved on a CPU.
    """
    if accumulator.summation == "native":
        return native_matmul(a, b, c)
    if accumulator.summation == "exact":
        u, extra = exact_matmul(a, b, _start(a, b) if c is None else c)
        return round_exact(u, extra, FP32)
    operands = varying_together(a, b) if c is None else varying_together(a, b, c)
    result, proved = _matmul(accumulator, inputs, proofs is not None, platforms(), *operands)
    if proofs is not None:
        proofs.append(proved)
    return result


def platforms() -> tuple[str, ...]:
    """Where foreign functions compute; nowhere, and nothing compiled by Numba, on a host that computes elsewhere."""
    return FOREIGN_PLATFORMS if on_cpu() else ()


def _start(a: Array, b: Array) -> Array:
    return jnp.zeros((*a.shape[:2], b.shape[2]), jnp.float32)


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
        kernel, words = get_backend("numba").gemm.foreign(accumulator, inputs)
        return foreign.call(kernel, words, a, b, _start(a, b) if c is None else c)[0], _true(a)

    return lax.platform_dependent(*operands, default=by_scan, **dict.fromkeys(foreign_platforms, by_kernel))


def counted_matmul(
    a: Array, b: Array, c: Array, accumulator: Accumulator, inputs: tuple[Format, Format]
) -> tuple[Array, Events]:
    """The product by an ordered accumulator and what happened inside, by row."""
    return _counted(accumulator, inputs, platforms(), *varying_together(a, b, c))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _counted(
    accumulator: Accumulator, inputs: tuple[Format, Format], foreign_platforms: tuple[str, ...], *operands: Array
) -> tuple[Array, Events]:
    def by_scan(a: Array, b: Array, c: Array) -> tuple[Array, Events]:
        return ordered_product(a, b, c, accumulator, inputs, True)

    def by_kernel(a: Array, b: Array, c: Array) -> tuple[Array, Events]:
        kernel, words = get_backend("numba").gemm.counting_foreign(accumulator, inputs)
        total, counts = foreign.call(kernel, words, a, b, c, sizes={"e": len(Events._fields)})
        return total, Events(*(counts[:, :, i] for i in range(len(Events._fields))))

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
    """``matmul`` of an ordered accumulator on any platform, by XLA's own operations.

    Chains in float32: float operations serve where ``floats_suffice`` proves that nothing reaches the subnormals XLA
    would flush and that no exact product overflows; elsewhere, and for products wider than 24 bits, the same sums are
    formed in integers.  With ``proofs`` the integer path is left out and the proof appended instead: the result
    stands only if it holds, and the caller, who computes again without ``proofs`` if not, is spared compiling both
    paths at every product.  All others: integers alone.
    """
    from_zero = c is None
    # behind a barrier: XLA reads a constant 0 + x as x, which loses the sum's sign where x is -0
    c = lax.optimization_barrier(_start(a, b) if c is None else c)
    a, b, c = varying_together(a, b, c)
    if not accumulator.is_chain or accumulator.flushes or accumulator.sum is not FP32:
        return ordered_product(a, b, c, accumulator, inputs, False)[0]
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


def _integer_step(accumulator: Accumulator) -> Step:
    def step(x: Array, y: Array, total: Array) -> Array:
        u, v, w = to_bits(x), to_bits(y), to_bits(total)
        if accumulator.product == "exact":
            return from_bits(soft_float.fused_multiply_add(u, v, w))
        return from_bits(soft_float.add(soft_float.multiply(u, v), w))

    return step
