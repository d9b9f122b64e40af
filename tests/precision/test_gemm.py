"""matmul: every accumulator, on every back end, against dot products summed in fractions one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import jax
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from hypothesis import given
from hypothesis import strategies as st
from strategies import EDGES, drawn, generator, sprinkled

import precision as pr
from precision.backends.jax_.gemm import scanned
from precision.backends.numba_.compilation import Kernel

# accumulator, formats of the operands: what each back end takes another path for
COMBINATIONS = [
    ("fp32_sequential", "fp16"),  # products exact, nothing can fall below 2^-126
    ("fp32_sequential", "bf16"),  # products exact, may fall below 2^-126
    ("fp32_sequential", "fp32"),  # products need 48 bits
    ("fp32_mul_add", "bf16"),
    ("fp32_mul_add", "fp32"),
    ("fp16_mul_add", "fp16"),
    ("fp16_mul_add", "bf16"),  # operands below 2^-126
]
FROM_ZERO = [COMBINATIONS[0], COMBINATIONS[1], COMBINATIONS[4], COMBINATIONS[5]]
M, K, N = 3, 10, 4


def representable(words: np.ndarray, fmt: str) -> np.ndarray:
    """The patterns, rounded to the format."""
    if fmt == "fp32":
        return words
    return oracles.nearest(words.view(np.float32), fmt).view(np.uint32)


def cancelling(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second half of k takes back what the first half added, but for a unit in the last place here and there."""
    half = a.shape[1] // 2
    nudge = rng.integers(0, 3, (a.shape[0], half)).astype(np.uint32) & np.uint32(2)
    a, b = a.copy(), b.copy()
    a[:, half : 2 * half] = (a[:, :half] ^ np.uint32(1 << 31)) ^ (nudge << 15)
    b[half : 2 * half] = b[:half]
    return a, b


def cases(fmt: str, sums: str) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, a (M, K), b (K, N), c (M, N) as patterns."""
    rng = generator(11)
    ranges = {
        "near one": ((120, 134), (120, 134), (120, 134)),
        "any finite": ((0, 254), (0, 254), (0, 254)),
        "products below 2^-126": ((40, 90), (0, 80), (0, 3)),
        "products around 2^-126": ((40, 70), (60, 80), (0, 30)),
        "just above 2^-103": ((75, 80), (76, 90), (24, 30)),
        "fp16 subnormals": ((103, 125), (103, 125), (103, 115)),
        "overflow": ((180, 200), (170, 200), (250, 254)),
        "fp16 overflow": ((130, 142), (130, 142), (130, 142)),
        "subnormal times large": ((0, 2), (225, 254), (103, 140)),
    }
    for name, (low, high, start) in ranges.items():
        for _ in range(3):
            a, b = drawn(rng, (M, K), low), drawn(rng, (K, N), high)
            c = representable(drawn(rng, (M, N), start), sums)
            yield name, representable(a, fmt), representable(b, fmt), c
            a, b = cancelling(rng, a, b)
            yield f"{name}, cancelling", representable(a, fmt), representable(b, fmt), c
    for share in (0.05, 0.3, 1.0):
        a, b = (sprinkled(rng, drawn(rng, shape, (100, 140)), share) for shape in ((M, K), (K, N)))
        c = sprinkled(rng, drawn(rng, (M, N), (100, 140)), share)
        yield f"{share} special", representable(a, fmt), representable(b, fmt), representable(c, sums)
    signs = rng.integers(0, 2, (M, K), np.uint32) << 31
    yield "signed zeros", signs, rng.integers(0, 2, (K, N), np.uint32) << 31, signs[:, :N].copy()
    yield (
        "minus zero",
        np.full((M, K), 1 << 31, np.uint32),
        np.zeros((K, N), np.uint32),
        np.full((M, N), 1 << 31, "u4"),
    )


def run(backend: Executor, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None, **static: object) -> np.ndarray:
    a, b = a.view(np.float32), b.view(np.float32)
    if c is None:
        return backend.call(pr.matmul, a, b, **static)
    return backend.call(with_start, a, b, c.view(np.float32), **static)


def with_start(a: object, b: object, c: object, **static: object) -> object:
    return pr.matmul(a, b, c=c, **static)


@cache
def solved(accumulator: str, fmt: str, start: bool) -> list[tuple]:
    """The cases and their results by definition."""
    sums = oracles.ACCUMULATORS[accumulator][1]
    starts = [(name, a, b, c if start else None) for name, a, b, c in cases(fmt, sums)]
    return [(*case, oracles.matmul(*case[1:3], accumulator, case[3])) for case in starts]


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(("accumulator", "fmt"), COMBINATIONS)
def test_every_case(backend: Executor, accumulator: str, fmt: str) -> None:
    check_every_case(backend, accumulator, fmt, start=True)


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize(("accumulator", "fmt"), COMBINATIONS)
@pytest.mark.parametrize("start", [True, False])
def test_every_case_by_xla_alone(accumulator: str, fmt: str, start: bool) -> None:
    """What computes off the CPU, on one."""
    for _, a, b, c, expected in solved(accumulator, fmt, start):
        operands = [None if x is None else x.view(np.float32)[None] for x in (a, b, c)]
        result = by_xla_alone(accumulator, fmt)(*operands)[0]
        assert_same_bits(result, expected, any_nan=True)


@cache
def by_xla_alone(accumulator: str, fmt: str) -> Callable:
    formats = (pr.FORMATS[fmt], pr.FORMATS[fmt])
    return jax.jit(lambda a, b, c: scanned(a, b, c, pr.ACCUMULATORS[accumulator], formats))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(("accumulator", "fmt"), FROM_ZERO)
def test_every_case_from_zero(backend: Executor, accumulator: str, fmt: str) -> None:
    check_every_case(backend, accumulator, fmt, start=False)


def check_every_case(backend: Executor, accumulator: str, fmt: str, start: bool) -> None:
    for name, a, b, c, expected in solved(accumulator, fmt, start):
        result = run(backend, a, b, c, inputs=fmt, accumulator=accumulator)
        assert np.array_equal(result.view(np.uint32), expected), name
        assert_same_bits(result, expected)


@pytest.mark.parametrize(("accumulator", "fmt"), [("fp32_sequential", "fp16"), ("fp16_mul_add", "fp16")])
@pytest.mark.parametrize("output", ["fp16", "bf16", "e5m2", "int8"])
def test_one_rounding_to_the_output(accumulator: str, fmt: str, output: str) -> None:
    rng = generator(12)
    for _ in range(20):
        a, b = (representable(drawn(rng, shape, (100, 136)), fmt) for shape in ((M, K), (K, N)))
        result = run(EXECUTORS[0], a, b, inputs=fmt, accumulator=accumulator, output=output)
        assert_same_bits(result, oracles.matmul(a, b, accumulator, output=output))


@pytest.mark.parametrize("accumulator", list(oracles.ACCUMULATORS))
@given(data=st.data())
def test_drawn_products(accumulator: str, data: st.DataObject) -> None:
    """Shapes and seeds by Hypothesis, exponents anywhere, on NumPy and Numba."""
    m, k, n = (data.draw(st.integers(1, 4)) for _ in range(3))
    rng = generator(data.draw(st.integers(0, 2**32)))
    fmt = "fp16" if accumulator == "fp16_mul_add" else data.draw(st.sampled_from(["fp16", "bf16", "fp32"]))
    a, b = (representable(sprinkled(rng, drawn(rng, shape)), fmt) for shape in ((m, k), (k, n)))
    expected = oracles.matmul(a, b, accumulator)
    for backend in EXECUTORS[:2]:
        assert_same_bits(run(backend, a, b, inputs=fmt, accumulator=accumulator), expected)


def test_formats_of_the_two_operands_may_differ(backend: Executor) -> None:
    rng = generator(13)
    a = representable(drawn(rng, (M, K), (90, 130)), "e5m2")
    b = representable(drawn(rng, (K, N), (0, 130)), "bf16")
    result = run(backend, a, b, inputs=("e5m2", "bf16"))
    assert_same_bits(result, oracles.matmul(a, b, "fp32_sequential"))


def test_tf32(backend: Executor) -> None:
    rng = generator(14)
    a, b = (drawn(rng, shape, (0, 200)) & np.uint32(0xFFFFE000) for shape in ((M, K), (K, N)))
    assert_same_bits(run(backend, a, b, inputs="tf32", check=False), oracles.matmul(a, b, "fp32_sequential"))
    result = run(backend, a, b, inputs="tf32", accumulator="fp16_mul_add")
    assert_same_bits(result, oracles.matmul(a, b, "fp16_mul_add"))


# Shapes


@pytest.mark.parametrize("shape", [(1, 1, 1), (0, 3, 2), (2, 0, 3), (2, 3, 0), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("accumulator", ["fp32_sequential", "fp16_mul_add"])
def test_smallest_shapes(backend: Executor, shape: tuple[int, int, int], accumulator: str) -> None:
    m, k, n = shape
    a, b = np.full((m, k), 1.5, np.float32), np.full((k, n), 1.25, np.float32)
    expected = np.full((m, n), 1.875 if k else 0, np.float32)
    assert_same_bits(backend.call(pr.matmul, a, b, inputs="fp16", accumulator=accumulator), expected)


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("accumulator", [*oracles.ACCUMULATORS, "exact", "h100", "amx_bf16"])
def test_minus_zero_is_added_to_plus_zero(backend: Executor, accumulator: str) -> None:
    """0 + -0 is +0, also where a compiler sees that the loop runs once and that it starts from 0."""
    a, b = np.full((2, 1), 1 << 31, np.uint32), np.full((1, 3), 0x3F800000, np.uint32)
    result = run(backend, a, b, inputs="bf16", accumulator=accumulator)
    assert_same_bits(result, np.zeros((2, 3), np.uint32))


def test_no_products_leave_the_start(backend: Executor) -> None:
    start = np.float32([[-0.0, 1e-40, np.inf]])
    a, b = np.zeros((1, 0), np.uint32), np.zeros((0, 3), np.uint32)
    assert_same_bits(run(backend, a, b, start.view(np.uint32), inputs="fp32"), start)
    halves = oracles.nearest(start, "fp16")
    assert_same_bits(run(backend, a, b, start.view(np.uint32), inputs="fp32", output="fp16"), halves)


def test_leading_axes_broadcast(backend: Executor) -> None:
    rng = generator(15)
    a = representable(drawn(rng, (2, 1, 3, 5), (100, 140)), "fp16")
    b = representable(drawn(rng, (4, 5, 2), (100, 140)), "fp16")
    result = run(backend, a, b, inputs="fp16")
    assert result.shape == (2, 4, 3, 2)
    for i in range(2):
        for j in range(4):
            assert_same_bits(result[i, j], oracles.matmul(a[i, 0], b[j], "fp32_sequential"))
    empty = run(backend, a[:0], b, inputs="fp16")
    assert empty.shape == (0, 4, 3, 2)


@pytest.mark.parametrize("transposed", [(True, False), (False, True), (True, True)])
def test_transposes(backend: Executor, transposed: tuple[bool, bool]) -> None:
    rng = generator(16)
    a, b = (representable(drawn(rng, shape, (100, 140)), "fp16") for shape in ((2, 3, 5), (2, 5, 4)))
    given_a = np.ascontiguousarray(a.swapaxes(1, 2)) if transposed[0] else a
    given_b = np.ascontiguousarray(b.swapaxes(1, 2)) if transposed[1] else b
    result = run(backend, given_a, given_b, inputs="fp16", transpose_a=transposed[0], transpose_b=transposed[1])
    for i in range(2):
        assert_same_bits(result[i], oracles.matmul(a[i], b[i], "fp32_sequential"))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_any_layout_and_narrow_types(name: str) -> None:
    rng = generator(17)
    a, b = (representable(drawn(rng, shape, (100, 140)), "fp16") for shape in ((6, 10), (10, 8)))
    c = drawn(rng, (6, 8))
    x, y, z = (words.view(np.float32) for words in (a, b, c))
    expected = oracles.matmul(a, b, "fp32_sequential", c)
    z.flags.writeable = False
    assert_same_bits(pr.matmul(np.asfortranarray(x), y.T.copy().T, c=z, backend=name), expected)
    assert_same_bits(pr.matmul(x.astype(np.float16), y.astype(np.float16), c=z, backend=name), expected)
    twice = np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)
    assert_same_bits(pr.matmul(twice[::2, ::2], y, c=np.asfortranarray(z), backend=name), expected)
    assert_same_bits(z, c)


# The same bits on every back end


@pytest.mark.parametrize(
    ("accumulator", "fmt", "exponents"),
    [
        ("fp32_sequential", "fp16", (103, 142)),
        ("fp32_sequential", "bf16", (0, 250)),
        ("fp32_mul_add", "fp32", (80, 180)),
        ("fp16_mul_add", "fp16", (110, 132)),
    ],
)
def test_large_product_is_the_same_everywhere(accumulator: str, fmt: str, exponents: tuple[int, int]) -> None:
    rng = generator(18)
    a, b = (representable(drawn(rng, shape, exponents), fmt) for shape in ((65, 129), (129, 33)))
    results = [run(backend, a, b, inputs=fmt, accumulator=accumulator) for backend in EXECUTORS]
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])
    rows, columns = rng.integers(0, 65, 4), rng.integers(0, 33, 4)
    expected = oracles.matmul(a[rows], b[:, columns], accumulator)
    assert_same_bits(results[0][np.ix_(rows, columns)], expected)


THREADED: list[object] = ["fp32_sequential", "fp32_pairwise", "exact"]
# long to compile; chains and truncated sums are compared so in ``test_chains`` and ``test_fused_kernel``, too
_OTHERS = ("fp32_mul_add", "fp16_mul_add", "fp16_fma", "bf16_fma", "h100", "avx512_bf16", "amx_bf16")
THREADED += [pytest.param(name, marks=pytest.mark.exhaustive) for name in _OTHERS]


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize("accumulator", THREADED)
def test_numba_on_one_thread_and_on_all(monkeypatch: pytest.MonkeyPatch, accumulator: str) -> None:
    rng = generator(19)
    fmt = "fp16" if pr.ACCUMULATORS[accumulator].takes(pr.FP16) else "bf16"
    a, b = (representable(drawn(rng, shape, (90, 135)), fmt).view(np.float32) for shape in ((2, 7, 50), (50, 9)))
    serial = pr.matmul(a, b, inputs=fmt, accumulator=accumulator, backend="numba")
    monkeypatch.setattr(Kernel, "PARALLEL_FROM", 0)
    assert_same_bits(pr.matmul(a, b, inputs=fmt, accumulator=accumulator, backend="numba"), serial)


# JAX: where float operations flush


@cache
def float_path(accumulator: str, fmt: str) -> Callable:
    """The float path alone, under jit: its result and its proof."""

    def product(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        proofs: list[jax.Array] = []
        formats = (pr.FORMATS[fmt], pr.FORMATS[fmt])
        return scanned(a[None], b[None], c[None], pr.ACCUMULATORS[accumulator], formats, proofs)[0], proofs

    return jax.jit(product)


def proof(a: np.ndarray, b: np.ndarray, c: np.ndarray, accumulator: str, fmt: str) -> tuple[np.ndarray, bool]:
    """Result of the float path and whether it is proved right."""
    result, proofs = float_path(accumulator, fmt)(*(x.view(np.float32) for x in (a, b, c)))
    assert len(proofs) == 1
    return np.asarray(result), bool(proofs[0])


@pytest.mark.parametrize(("accumulator", "fmt"), [("fp32_sequential", "bf16"), ("fp32_mul_add", "fp32")])
def test_what_the_proof_admits_is_right(accumulator: str, fmt: str) -> None:
    proved = []
    for name, a, b, c, expected in solved(accumulator, fmt, True):
        result, holds = proof(a, b, c, accumulator, fmt)
        proved.append(holds)
        assert holds or not name.startswith("near one"), "ordinary values need no integers"
        if holds:
            assert_same_bits(result, expected, any_nan=True)
    assert 10 < sum(proved) < len(proved) - 10


def test_one_product_below_the_normal_range_refutes_the_proof() -> None:
    one, tiny = np.float32([[1.0]]), np.float32([[2.0**-64]])
    bits = [x.view(np.uint32) for x in (tiny, tiny, one)]
    zero = np.zeros((1, 1), np.uint32)
    flushed, holds = proof(bits[0], bits[1], zero, "fp32_sequential", "bf16")
    assert not holds
    assert float(flushed[0, 0]) == 0.0
    result = run(EXECUTORS[2], bits[0], bits[1], inputs="bf16")
    assert float(result[0, 0]) == 2.0**-128
    assert proof(bits[0], bits[2], bits[2], "fp32_sequential", "bf16")[1]


def test_the_proof_ends_where_a_sum_can_be_subnormal(backend: Executor) -> None:
    """Two terms whose difference is their last bit: 2^-126 where the smallest product is 2^-103, else 2^-127."""
    for exponent, proved in ((-103, True), (-104, False)):
        above = np.float32(1 + 2.0**-23)
        a, b = np.float32([[above, -1]]), np.full((2, 1), 2.0**exponent, np.float32)
        c = np.float32([[2.0**exponent]]) * above
        rest = 2.0 ** (exponent - 23)
        for words in ([a, b, np.zeros((1, 1), np.float32)], [a[:, 1:], b[1:], c]):
            words = [x.view(np.uint32) for x in words]
            assert proof(*words, "fp32_mul_add", "fp32")[1] == proved
            assert run(backend, *words, inputs="fp32", accumulator="fp32_mul_add").tolist() == [[rest]]
    # the start alone is too fine: -2^-103 + (1 - 2^-24) 2^-103
    words = [np.float32([[x]]).view(np.uint32) for x in (-1, 2.0**-103, (1 - 2.0**-24) * 2.0**-103)]
    assert not proof(*words, "fp32_mul_add", "fp32")[1]
    assert run(backend, *words, inputs="fp32", accumulator="fp32_mul_add").tolist() == [[-(2.0**-127)]]


def test_an_exact_product_beyond_the_range_refutes_the_proof(backend: Executor) -> None:
    """2^128 - 2^127 is 2^127, though 2^128 is no float32; a product rounded first is infinite and stays so."""
    two, high, start = (np.float32([[x]]).view(np.uint32) for x in (2.0, 2.0**127, -(2.0**127)))
    assert not proof(two, high, start, "fp32_sequential", "bf16")[1]
    assert proof(two, high, start, "fp32_mul_add", "fp32")[1]
    assert run(backend, two, high, start, inputs="bf16").tolist() == [[2.0**127]]
    rounded_first = run(backend, two, high, start, inputs="bf16", accumulator="fp32_mul_add")
    assert rounded_first.tolist() == [[np.inf]]


def test_subnormal_operand_times_a_large_one(backend: Executor) -> None:
    a, b = np.float32([[2.0**-130]]), np.float32([[2.0**127]])
    result = run(backend, a.view(np.uint32), b.view(np.uint32), inputs="bf16", accumulator="fp16_mul_add")
    assert result.tolist() == [[0.125]]


# Edges


@cache
def outer_product(accumulator: str) -> tuple[np.ndarray, np.ndarray]:
    c = np.full((EDGES.size, EDGES.size), 1 << 31, np.uint32)
    return c, oracles.matmul(EDGES[:, None], EDGES[None, :], accumulator, c)


@pytest.mark.parametrize("accumulator", ["fp32_sequential", "fp32_mul_add"])
def test_hard_patterns_meet_each_other(backend: Executor, accumulator: str) -> None:
    """One multiply-add of each edge with each, onto -0."""
    c, expected = outer_product(accumulator)
    result = run(backend, EDGES[:, None], EDGES[None, :], c, inputs="fp32", accumulator=accumulator)
    assert_same_bits(result, expected)
