"""dot_general: matrices picked out element by element, multiplied in fractions, against it; gradients as products."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from strategies import drawn, generator, sprinkled

import precision as pr
from precision.passes import Passes

Array = Any
Numbers = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]
DENSE: Numbers = (((1,), (0,)), ((), ()))
PLAIN = pr.make_dot_general(inputs="bf16", output="bf16")
# every product another arithmetic, so that none can stand in for another; none may need the integer path
MIXED = pr.make_dot_general(
    inputs=("fp16", "e5m2"),
    output="fp16",
    dgrad=pr.Gemm(inputs=("e5m2", "fp16"), accumulator="fp16_mul_add"),
    wgrad=pr.Gemm(inputs="e5m2", accumulator="fp32_mul_add", output="bf16"),
)
EXACT = pr.make_dot_general(inputs="fp16")  # on small integers
CASES: dict[str, tuple[pr.DotGeneral, tuple[int, ...], tuple[int, ...], Numbers]] = {
    "Dense": (MIXED, (2, 3, 4), (4, 2), (((2,), (0,)), ((), ()))),
    "attention scores": (MIXED, (2, 3, 2, 4), (2, 2, 2, 4), (((3,), (3,)), ((0, 2), (0, 2)))),
    "axes out of order": (EXACT, (2, 3, 2, 2), (3, 2, 2, 2), (((1, 2), (0, 2)), ((3, 0), (1, 3)))),
    "outer product": (EXACT, (2,), (3,), (((), ()), ((), ()))),
}


# The definition


def positions(shape: Sequence[int], axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Indices along some axes, the last one fastest."""
    return list(itertools.product(*(range(shape[axis]) for axis in axes)))


def elements(shape: tuple[int, ...], parts: Sequence[Sequence[int]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Which element of an array stands where in (B, rows, columns), its axes dealt to three parts."""
    found = {}
    for place in itertools.product(*(enumerate(positions(shape, part)) for part in parts)):
        at = dict(zip(itertools.chain(*parts), itertools.chain(*(index for _, index in place)), strict=True))
        found[tuple(i for i, _ in place)] = tuple(at[axis] for axis in range(len(shape)))
    return found


def picked(x: np.ndarray, parts: Sequence[Sequence[int]]) -> np.ndarray:
    matrices = np.empty([len(positions(x.shape, part)) for part in parts], np.float32)
    for place, element in elements(x.shape, parts).items():
        matrices[place] = x[element]
    return matrices


def put_back(matrices: np.ndarray, shape: tuple[int, ...], parts: Sequence[Sequence[int]]) -> np.ndarray:
    x = np.empty(shape, np.float32)
    for place, element in elements(shape, parts).items():
        x[element] = matrices[place]
    return x


def parts_of(numbers: Numbers, ranks: tuple[int, int]) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """(batch, free, contracting) of lhs, (batch, contracting, free) of rhs."""
    contracting, batch = numbers
    free = [[a for a in range(ranks[i]) if a not in (*contracting[i], *batch[i])] for i in (0, 1)]
    return [batch[0], free[0], contracting[0]], [batch[1], contracting[1], free[1]]


def in_fractions(gemm: pr.Gemm, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(B, m, k) x (B, k, n): operands rounded, then dot products by definition."""
    p, q = (oracles.nearest(x, fmt.name).view(np.uint32) for x, fmt in zip((a, b), gemm.formats, strict=True))
    name, output = str(gemm.accumulator), gemm.output and str(gemm.output)
    blocks = [oracles.matmul(x, y, name, output=output) for x, y in zip(p, q, strict=True)]
    return np.stack(blocks).view(np.float32)


def result_shape(lhs: np.ndarray, rhs: np.ndarray, parts: Any) -> tuple[int, ...]:
    (batch, free, _), (_, _, other) = parts
    return (*(lhs.shape[i] for i in (*batch, *free)), *(rhs.shape[i] for i in other))


def by_definition(
    dot_general: pr.DotGeneral, lhs: np.ndarray, rhs: np.ndarray, numbers: Numbers, dy: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """y, or with dy the two gradients."""
    parts = parts_of(numbers, (lhs.ndim, rhs.ndim))
    a, b = picked(lhs, parts[0]), picked(rhs, parts[1])
    if dy is None:
        return (in_fractions(dot_general.fprop, a, b).reshape(result_shape(lhs, rhs, parts)),)
    g = dy.reshape(a.shape[0], a.shape[1], b.shape[2])
    da = in_fractions(dot_general.dgrad, g, b.swapaxes(1, 2))
    db = in_fractions(dot_general.wgrad, a.swapaxes(1, 2), g)
    return put_back(da, lhs.shape, parts[0]), put_back(db, rhs.shape, parts[1])


def on_jax(dot_general: pr.DotGeneral, lhs: Array, rhs: Array, numbers: Numbers, dy: Array) -> list[Array]:
    """y and both gradients, under jit."""

    def value_and_gradients(lhs: Array, rhs: Array, dy: Array) -> list[Array]:
        y, vjp = jax.vjp(lambda lhs, rhs: dot_general(lhs, rhs, numbers), lhs, rhs)
        return [y, *vjp(dy)]

    return jax.jit(value_and_gradients)(lhs, rhs, dy)


def operands(*shapes: tuple[int, ...], seed: int = 31, exponents: tuple[int, int] = (120, 130)) -> list[np.ndarray]:
    rng = generator(seed)
    return [drawn(rng, shape, exponents).view(np.float32) for shape in shapes]


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Numbers]:
    """Up to two batch, free and contracting axes each, shuffled."""
    sizes = st.lists(st.integers(1, 3), max_size=2)
    batch, contracting = draw(sizes), draw(sizes)
    shapes, batches, contractions = [], [], []
    for _ in range(2):
        kinds = [("batch", i) for i in range(len(batch))] + [("k", i) for i in range(len(contracting))]
        free = draw(sizes)
        kinds = draw(st.permutations(kinds + [("free", i) for i in range(len(free))]))
        lengths = {"batch": batch, "k": contracting, "free": free}
        shapes.append(tuple(lengths[kind][i] for kind, i in kinds))
        batches.append(tuple(kinds.index(("batch", i)) for i in range(len(batch))))
        contractions.append(tuple(kinds.index(("k", i)) for i in range(len(contracting))))
    rng = generator(draw(st.integers(0, 2**32)))
    lhs, rhs = (sprinkled(rng, drawn(rng, shape, (90, 150))).view(np.float32) for shape in shapes)
    return lhs, rhs, ((contractions[0], contractions[1]), (batches[0], batches[1]))


@given(problem=problems(), dot_general=st.sampled_from([PLAIN, MIXED]))
def test_drawn_axes_and_values(problem: tuple, dot_general: pr.DotGeneral) -> None:
    assert_same_bits(dot_general(*problem), *by_definition(dot_general, *problem))


@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward_on_jax(name: str) -> None:
    dot_general, *case = CASES[name]
    lhs, rhs = operands(*case[:2])
    (expected,) = by_definition(dot_general, lhs, rhs, case[2])
    (dy,) = operands(expected.shape, seed=32)
    y, *gradients = on_jax(dot_general, lhs, rhs, case[2], dy)
    assert_same_bits(y, expected)
    for gradient, by in zip(gradients, by_definition(dot_general, lhs, rhs, case[2], dy), strict=True):
        assert_same_bits(gradient, by)


def test_special_values_backward() -> None:
    """NaN, infinities, subnormals and both zeros in every operand."""
    rng = generator(33)
    lhs, rhs, dy = (sprinkled(rng, drawn(rng, s), 0.2).view(np.float32) for s in ((3, 4), (4, 3), (3, 3)))
    _, *gradients = on_jax(PLAIN, lhs, rhs, DENSE, dy)
    for gradient, expected in zip(gradients, by_definition(PLAIN, lhs, rhs, DENSE, dy), strict=True):
        assert_same_bits(gradient, expected)


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((2, 0), (0, 3)), ((2, 3), (3, 0))])
def test_empty_axes(shapes: tuple) -> None:
    """A sum over nothing is +0, forward and backward."""
    lhs, rhs = (np.ones(shape, np.float32) for shape in shapes)
    zeros = np.zeros((shapes[0][0], shapes[1][1]), np.float32)
    assert_same_bits(EXACT(lhs, rhs, DENSE), zeros)
    y, *gradients = on_jax(EXACT, lhs, rhs, DENSE, zeros)
    assert_same_bits(y, zeros)
    for gradient, shape in zip(gradients, shapes, strict=True):
        assert_same_bits(gradient, np.zeros(shape, np.float32))


def test_quantized_products() -> None:
    """Vectors along k get their scales; the gradients stay fp16."""
    lhs, rhs, dy = operands((3, 5), (5, 4), (3, 4))
    plain = pr.Gemm()
    quantized = pr.Gemm(inputs="bf16", output="fp16", quantization="int8_vectorwise")
    dot_general = pr.DotGeneral(fprop=quantized, dgrad=plain, wgrad=plain)
    a, b = (oracles.nearest(x, "bf16").view(np.uint32) for x in (lhs, rhs))
    expected = oracles.quantized_matmul(a, b, "fp16")
    assert_same_bits(dot_general(lhs, rhs, DENSE), expected)
    y, *gradients = on_jax(dot_general, lhs, rhs, DENSE, dy)
    assert_same_bits(y, expected)
    for gradient, by in zip(gradients, by_definition(dot_general, lhs, rhs, DENSE, dy), strict=True):
        assert_same_bits(gradient, by)


def test_fp8_operands_saturate_or_not() -> None:
    """E4M3FN has no infinity: 1000 is NaN under the rule of the format, 448 where operands saturate."""
    lhs, rhs = np.float32([[1000, -1]]), np.float32([[1], [1]])
    gradients = pr.Gemm(inputs=("e5m2", "e4m3fn"))
    for overflow, expected in (("ieee", np.nan), ("saturate", 447)):
        dot_general = pr.make_dot_general(
            inputs="e4m3fn",
            overflow=overflow,
            dgrad=gradients,
            wgrad=gradients.swapped(),
        )
        for y in (dot_general(lhs, rhs, DENSE), jax.jit(lambda a, b, f=dot_general: f(a, b, DENSE))(lhs, rhs)):
            assert_same_bits(y, np.full((1, 1), expected, np.float32))


# Dtypes


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bf16", "fp16"])
def test_narrow_operands_give_a_narrow_result(dtype: Any) -> None:
    """The sum is rounded once, to the dtype; gradients have the operands' dtype, rounded once as well."""
    name = pr.parse_format(dtype).name
    lhs, rhs, dy = (oracles.nearest(x, name) for x in operands((3, 6), (6, 4), (3, 4), seed=34))
    narrow = pr.make_dot_general(inputs=name)
    stated = pr.make_dot_general(inputs=name, output=name)
    a, b, g = (x.astype(dtype) for x in (lhs, rhs, dy))
    y, *gradients = on_jax(narrow, a, b, DENSE, g)
    assert_same_bits(np.asarray(y), by_definition(stated, lhs, rhs, DENSE)[0].astype(dtype))
    assert_same_bits(narrow(a, b, DENSE), by_definition(stated, lhs, rhs, DENSE)[0].astype(dtype))
    for gradient, by in zip(gradients, by_definition(stated, lhs, rhs, DENSE, dy), strict=True):
        assert_same_bits(np.asarray(gradient), by.astype(dtype))
    wide = narrow(a, b, DENSE, preferred_element_type=np.float32)
    assert_same_bits(wide, by_definition(narrow, lhs, rhs, DENSE)[0])


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3b11fnuz],
)
def test_every_value_of_a_narrow_dtype(dtype: Any) -> None:
    """1 x added to +0, forward, and as dy backward: subnormals and NaN arrive, from codes to codes."""
    codes = np.arange(1 << 8 * np.dtype(dtype).itemsize, dtype=f"u{np.dtype(dtype).itemsize}")
    x, one = codes.view(dtype).reshape(1, -1), np.ones((1, 1), dtype)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float32) + np.float32(0)
    expected = np.where(np.isnan(wide), np.float32(np.nan), wide).astype(dtype)
    dot_general = pr.make_dot_general(inputs=pr.parse_format(dtype))
    y, _, dx = on_jax(dot_general, one, x, DENSE, x)
    for result in (dot_general(one, x, DENSE), y, dx):
        assert_same_bits(np.asarray(result), expected)


def test_operands_of_two_dtypes_give_float32() -> None:
    lhs, rhs = operands((3, 6), (6, 4))
    a = lhs.astype(ml_dtypes.bfloat16)
    assert_same_bits(PLAIN(a, rhs, DENSE), PLAIN(a.astype(np.float32), rhs, DENSE))


# Higher derivatives


def test_second_derivatives_use_the_three_passes() -> None:
    """da = dy b^T and db = a^T dy are linear in two operands again, each with a pass of its own."""
    a, b, dy, ga, gb = operands((3, 4), (4, 2), (3, 2), (3, 4), (4, 2), seed=35)

    def da(dy: Array, b: Array) -> Array:
        return jax.vjp(lambda a: MIXED(a, b, DENSE), a)[1](dy)[0]

    def db(a: Array, dy: Array) -> Array:
        return jax.vjp(lambda b: MIXED(a, b, DENSE), b)[1](dy)[0]

    def second(*operands: Array) -> tuple:
        a, b, dy, ga, gb = operands
        return jax.vjp(da, dy, b)[1](ga), jax.vjp(db, a, dy)[1](gb)

    of_da, of_db = jax.jit(second)(a, b, dy, ga, gb)
    assert_same_bits(of_da[0], in_fractions(MIXED.fprop, ga[None], b[None])[0])
    assert_same_bits(of_da[1], in_fractions(MIXED.wgrad, ga.T[None], dy[None])[0])
    assert_same_bits(of_db[0], in_fractions(MIXED.dgrad, dy[None], gb.T[None])[0])
    assert_same_bits(of_db[1], in_fractions(MIXED.fprop, a[None], gb[None])[0])


def test_passes_close() -> None:
    """Twice around, the passes are what they were."""
    passes = Passes(MIXED.fprop, MIXED.dgrad, MIXED.wgrad)
    assert passes.of_dgrad().of_dgrad().fprop == passes.fprop
    assert passes.of_wgrad().of_wgrad().fprop == passes.fprop
    assert passes.of_dgrad().of_wgrad().fprop == passes.wgrad.swapped()
    assert passes.of_wgrad().of_dgrad().fprop == passes.dgrad.swapped()


# Transformations, on small integers, where every arithmetic is exact and so equal to lax.dot_general


def integers(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = generator(36)
    return [rng.integers(-2, 3, shape).astype(np.float32) for shape in shapes]


def squares(dot_general: Callable, a: Array, b: Array) -> Array:
    return (dot_general(a, b, DENSE) ** 2).sum()


TRANSFORMATIONS: dict[str, Callable[[Callable], Callable]] = {
    "grad": lambda f: jax.grad(f, (0, 1)),
    "third derivative": lambda f: jax.jacrev(jax.jacrev(jax.grad(f, 0), 1), 0),
    "remat": lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    "vmap of grad": lambda f: jax.vmap(jax.grad(lambda a, b: f(a[None], b), (0, 1)), (0, None)),
    "grad of vmap": lambda f: jax.grad(lambda a, b: jax.vmap(lambda a: f(a[None], b))(a).sum(), (0, 1)),
    "vmap of both": lambda f: lambda a, b: jax.vmap(jax.grad(f, (0, 1)))(jnp.stack([a, -a]), jnp.stack([b, b])),
    "vmap of vmap": lambda f: jax.vmap(lambda a, b: jax.vmap(f, (None, 0))(a[None], jnp.stack([b, -b])), (0, None)),
    "scan": lambda f: jax.grad(lambda a, b: lax.scan(lambda s, row: (s + f(row[None], b), None), 0.0, a)[0], (0, 1)),
}


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name: str) -> None:
    a, b = integers((3, 4), (4, 2))
    transformed = TRANSFORMATIONS[name]
    ours = jax.jit(transformed(lambda a, b: squares(EXACT, a, b)))(a, b)
    plain = jax.jit(transformed(lambda a, b: squares(lax.dot_general, a, b)))(a, b)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert_same_bits(np.asarray(x) + 0, np.asarray(y) + 0)  # -0 + 0 is +0
    assert any(np.any(x != 0) for x in jax.tree.leaves(plain))


@pytest.mark.parametrize("inputs", ["bf16", "fp32"])
@pytest.mark.parametrize("mapped", [(0, None), (None, 1), (1, 2)], ids=str)
def test_vmap_gives_the_bits_of_single_products(inputs: str, mapped: tuple) -> None:
    dot_general = pr.make_dot_general(inputs=inputs)
    shapes = [list(shape) for shape in ((3, 4), (4, 2))]
    for shape, axis in zip(shapes, mapped, strict=True):
        if axis is not None:
            shape.insert(axis, 5)
    both = operands(*map(tuple, shapes), seed=37)
    result = jax.jit(jax.vmap(lambda a, b: dot_general(a, b, DENSE), mapped))(*both)
    for i in range(5):
        a, b = (x if axis is None else np.take(x, i, axis) for x, axis in zip(both, mapped, strict=True))
        assert_same_bits(result[i], dot_general(a, b, DENSE))


def test_einsum_takes_it() -> None:
    q, k = operands((2, 3, 2, 4), (2, 5, 2, 4), seed=38)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, _dot_general=PLAIN)
    expected = [[PLAIN(q[b, :, h], k[b, :, h].T, DENSE) for h in range(2)] for b in range(2)]
    assert_same_bits(scores, np.array(expected))


@pytest.mark.thinned(0.5)
def test_on_eight_devices() -> None:
    """shard_map and jit over a mesh; in a process of its own, because the number of devices is fixed at the start."""
    script = Path(__file__).with_name("eight_devices.py")
    own = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join(map(str, (script.parents[2], script.parents[1]))),
    }
    command = [sys.executable, "-W", "error", str(script)]
    finished = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [
        "replicated_weights",
        "sharded_columns",
        "sharded_by_jit",
        "scanned_and_recomputed",
        "roundings",
    ]
