"""XLA's own arithmetic beside NumPy's, on the platform at hand: what the project works around, as lines of text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from recorded.jax_checks import floats, unsigned
from strategies import drawn, generator

import precision as pr
from precision.backends.jax_.products import padded_integer_matmul

Fact = tuple[str, str]
# Batch, m, k, n
SMALL = [(batch, *sizes) for batch in (1, 2) for sizes in itertools.product((1, 3, 16), (3, 19, 33), (1, 5, 20))]
INTEGER_SHAPES = [(3, 2, 19, 3), (3, 2, 20, 3), (25, 2, 19, 3), (1, 20, 20, 20), (2, 33, 33, 33), *SMALL]


def share(x: Any, y: Any) -> str:
    return f"{float((unsigned(x) != unsigned(y)).mean()):.2%} differ"


# INT8 products


def _plain(a: Any, b: Any) -> Any:
    return lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.int32)


def _widened(a: Any, b: Any) -> Any:
    return _plain(a.astype(jnp.int32), b.astype(jnp.int32))


INTEGER_PRODUCTS: dict[str, Callable] = {"plain": _plain, "padded": padded_integer_matmul, "int32": _widened}


def wrapped_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sums of products that are themselves taken modulo 2^8."""
    return (a[:, :, :, None] * b[:, None]).sum(axis=2, dtype=np.int32)


def integer_products() -> Iterator[Fact]:
    """``lax.dot_general`` of int8 into int32, as it is, padded and widened; wrong sums of each shape where any is."""
    wrong: dict[str, list[tuple[int, ...]]] = {way: [] for way in INTEGER_PRODUCTS}
    for batch, m, k, n in INTEGER_SHAPES:
        rng = generator(m + 64 * k + 4096 * n)
        a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((batch, m, k), (batch, k, n)))
        exact = a.astype(np.int32) @ b.astype(np.int32)
        found = {way: np.asarray(jax.jit(product)(a, b)) for way, product in INTEGER_PRODUCTS.items()}
        counts = {way: int((sums != exact).sum()) for way, sums in found.items()}
        for way, count in counts.items():
            wrong[way] += [(batch, m, k, n)] if count else []
        if any(counts.values()):
            as_bytes = int((found["plain"] == wrapped_products(a, b)).sum())
            yield f"int8 product {batch} x {m} x {k} x {n}", f"{counts} wrong of {exact.size}, wrapped {as_bytes}"
    small = [(m + n) * k < 100 for _, m, k, n in wrong["plain"]]
    total = {way: len(shapes) for way, shapes in wrong.items()}
    yield (
        f"int8 products wrong of {len(INTEGER_SHAPES)} shapes",
        f"{total}; plain ones with (m + n) k < 100: {sum(small)}",
    )
    spared = [shape for shape in INTEGER_SHAPES if (shape[1] + shape[3]) * shape[2] < 100]
    yield (
        "int8 shapes with (m + n) k < 100",
        f"{len(spared)}, right: {[s for s in spared if s not in wrong['plain']]}",
    )


# Float32


def arithmetic() -> Iterator[Fact]:
    """On float32 of ordinary size and on subnormals."""
    x, y, z = _operands()
    yield "a * b + c", share(jax.jit(lambda x, y, z: x * y + z)(x, y, z), x * y + z)
    yield "a / b", share(jax.jit(jnp.divide)(x, y), x / y)
    rows, column = x.reshape(512, 512), y[:512, None]
    yield "a / column", share(jax.jit(jnp.divide)(rows, column), rows / column)
    yield "sqrt", share(jax.jit(jnp.sqrt)(abs(x)), np.sqrt(abs(x)))
    for function, reference in ((jnp.exp, np.exp), (jnp.tanh, np.tanh), (jnp.log, np.log)):
        given = abs(x) / 1024
        yield reference.__name__, share(jax.jit(function)(given), reference(given))
    tiny = floats(drawn(generator(24), 1 << 12, (1, 3)))
    half = np.full_like(tiny, 0.25)
    yield "products below 2^-126", share(jax.jit(jnp.multiply)(tiny, half), tiny * half)
    yield "sums of subnormals", share(jax.jit(jnp.add)(tiny * half, tiny * half), tiny * half + tiny * half)
    narrow = jax.jit(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32))(x)
    yield "float32 -> bf16 -> float32", share(narrow, pr.round_to(x, "bf16", backend="numpy"))
    yield "sum of rows", share(jax.jit(lambda x: x.sum(1))(rows), rows.sum(1))


def matrix_products() -> Iterator[Fact]:
    x, y, _ = _operands()
    for fmt, dtype in (("fp16", jnp.float16), ("bf16", jnp.bfloat16)):
        for k in (16, 256):
            a, b = (pr.round_to(v[: 128 * k].reshape(128, k), fmt, backend="numpy") for v in (x, y))
            product = jax.jit(lambda a, b: jnp.matmul(a, b.T, preferred_element_type=jnp.float32))
            given = {"inputs": fmt, "transpose_b": True, "backend": "numpy"}
            found = product(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
            for accumulator in ("h100", "fp32_sequential"):
                expected = pr.matmul(a, b, accumulator=accumulator, **given)
                yield f"XLA's {fmt} product, k = {k}, from {accumulator}", share(found, expected)


def _operands() -> tuple[np.ndarray, ...]:
    return tuple(floats(drawn(generator(seed), 1 << 18, (117, 137))) for seed in (21, 22, 23))


def facts() -> Iterator[Fact]:
    for section in (integer_products, arithmetic, matrix_products):
        yield from section()
