"""Float32 arithmetic that flushes, against the definition in fractions: every operation, back end and layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from hypothesis import given
from strategies import EDGES, drawn, every_pair, generator, patterns, sprinkled

from precision.backends import get_backend

BINARY: dict[str, Callable] = {
    "add": oracles.ftz_add,
    "subtract": oracles.ftz_subtract,
    "multiply": oracles.ftz_multiply,
    "divide": oracles.ftz_divide,
}
SMALLEST = 0x00800000  # 2^-126

# p, q with p q 2^-126 at the edge of the normal range
FACTORS_AT_THE_EDGE = [
    (1 - 2.0**-24, 1.0),  # 24 bits just below, which the subnormal grid would round up
    (1 + 2.0**-13, 1 - 2.0**-13),  # 1 - 2^-26 rounds to 1 in 24 bits
    (1 + 2.0**-12, 1 - 2.0**-12),  # 1 - 2^-24: has 24 bits
    (1 - 2.0**-24, 1 + 2.0**-23),  # 1 + 2^-24 - 2^-47
    (1 - 2.0**-24, 1 - 2.0**-24),
    (1 + 2.0**-23, 1 - 2.0**-23),  # 1 - 2^-46
    (1.5, 2 / 3.0),
    (1.0, 1.0),
    (0.5, 2.0),
    (0.5, 1.0),
]


def edge_products() -> tuple[np.ndarray, np.ndarray]:
    """The factors, the exponent shared out between them in several ways, both orders, three pairs of signs."""
    pairs = []
    for p, q in FACTORS_AT_THE_EDGE:
        for share in (-63, -1, -30, -100, -120):
            x, y = np.ldexp(p, share), np.ldexp(q, -126 - share)
            pairs += [(x, y), (y, x), (-x, y), (-x, -y)]
    x, y = np.array(pairs).astype(np.float32).T.copy().view(np.uint32)
    return x, y


@cache
def operands() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of patterns, flat: edges with edges; sums, products and quotients around 2^-126; anything."""
    rng = generator(41)
    count = 2000
    ranges = [
        ((0, 255), (0, 255)),
        ((1, 26), (1, 26)),  # cancelling sums that end up subnormal
        ((50, 76), (50, 76)),  # products around 2^-126
        ((0, 2), (125, 129)),  # products and quotients around 2^-126
        ((1, 30), (126, 156)),  # quotients around 2^-126
        ((100, 150), (100, 150)),
        ((190, 254), (1, 64)),  # quotients that overflow
        ((190, 192), (190, 192)),
    ]
    pairs = [every_pair(EDGES[::2]), edge_products()]
    pairs += [(drawn(rng, count, low), drawn(rng, count, high)) for low, high in ranges]
    x = drawn(rng, count, (1, 30))
    pairs.append((x, x ^ np.uint32(1 << 31) ^ rng.integers(0, 4, count).astype(np.uint32)))  # neighbours cancel
    x, y = (np.concatenate(words) for words in zip(*pairs, strict=True))
    return x, y


@cache
def expected(operation: str) -> np.ndarray:
    x, y = map(oracles.read_all, operands())
    return oracles.write_all(map(BINARY[operation], x, y))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("operation", BINARY)
def test_binary(backend: Executor, operation: str) -> None:
    x, y = operands()
    result = backend.apply(operation, x.view(np.float32), y.view(np.float32))
    assert_same_bits(result, expected(operation), x, y, any_nan=True)


def test_square_root(backend: Executor) -> None:
    rng = generator(42)
    words = np.concatenate([EDGES, drawn(rng, 3000), drawn(rng, 1000, (0, 3))])
    roots = oracles.write_all(map(oracles.ftz_square_root, oracles.read_all(words)))
    assert_same_bits(backend.apply("square_root", words.view(np.float32)), roots, words, any_nan=True)


def test_flush(backend: Executor) -> None:
    words = np.concatenate([EDGES, drawn(generator(43), 1000, (0, 2))])
    kept = np.where((words & 0x7FFFFFFF) < SMALLEST, words & np.uint32(1 << 31), words)
    assert_same_bits(backend.apply("flush", words.view(np.float32)), kept, words)


def test_edge_of_the_normal_range(backend: Executor) -> None:
    """A product of 24 bits just below 2^-126 is flushed; one nearer to it has already rounded up to it."""
    x = np.float32([1 - 2.0**-24, 1 + 2.0**-13, 1.0]) * np.float32(2.0**-63)
    y = np.float32([1, 1 - 2.0**-13, 1]) * np.float32(2.0**-63)
    assert backend.apply("multiply", x, y).tolist() == [0, 2.0**-126, 2.0**-126]
    # 2^-126 / (1 + 2^-23) = 2^-126 (1 - 2^-23 + ...); half of (1 - 2^-24) 2^-125
    dividend, divisor = np.float32([2.0**-126, (1 - 2.0**-24) * 2.0**-125]), np.float32([1 + 2.0**-23, 2])
    assert backend.apply("divide", dividend, divisor).tolist() == [0, 0]


@pytest.mark.parametrize("operation", BINARY)
@given(u=patterns, v=patterns)
def test_any_two_patterns(operation: str, u: int, v: int) -> None:
    x, y = np.array([u], np.uint32), np.array([v], np.uint32)
    definition = oracles.write_all([BINARY[operation](oracles.read(u), oracles.read(v))])
    for backend in EXECUTORS[:2]:
        result = backend.apply(operation, x.view(np.float32), y.view(np.float32))
        assert_same_bits(result, definition, x, y, any_nan=True)


SHAPES = [
    ((6, 5), (6, 5)),
    ((6, 5), (6, 1)),  # a column
    ((6, 5), (1, 5)),  # a row
    ((6, 5), (5,)),
    ((6, 5), ()),
    ((), (6, 5)),
    ((5,), (6, 5)),
    ((6, 1), (1, 5)),
    ((2, 3, 5), (3, 5)),
    ((2, 3, 5), (2, 1, 1)),
    ((2, 3, 5), (2, 1, 5)),
    ((2, 3, 1), (2, 3, 5)),
    ((1, 1), (6, 5)),
    ((0, 5), (5,)),
    ((3, 0), (3, 1)),
    ((), ()),
    ((1,), ()),
]


@pytest.mark.parametrize(("left", "right"), SHAPES, ids=str)
@pytest.mark.parametrize("operation", BINARY)
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_broadcasting(name: str, operation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    _check_broadcast(EXECUTORS[["numpy", "numba"].index(name)], operation, left, right)


@pytest.mark.parametrize("right", [(64, 96), (64, 1), (1, 96), (96,), (1, 1), ()], ids=str)
def test_broadcast_divisors_under_jit(right: tuple[int, ...]) -> None:
    """XLA would divide by these through the reciprocal, a quarter of the quotients wrong."""
    rng = generator(49)
    x = rng.normal(size=(64, 96)).astype(np.float32)
    y = rng.normal(size=right).astype(np.float32)
    assert_same_bits(EXECUTORS[2].apply("divide", x, y), x / y)
    assert np.mean(x * (1 / y) != x / y) > 0.1


def _check_broadcast(backend: Executor, operation: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = generator(44)
    x, y = sprinkled(rng, drawn(rng, left, (40, 90)), 0.1), sprinkled(rng, drawn(rng, right, (40, 200)), 0.1)
    result = backend.apply(operation, x.view(np.float32), y.view(np.float32))
    x, y = np.broadcast_arrays(x, y)
    exact = map(BINARY[operation], oracles.read_all(x), oracles.read_all(y))
    assert_same_bits(result, oracles.write_all(exact).reshape(x.shape), any_nan=True)


@pytest.mark.parametrize("operation", BINARY)
def test_any_layout(operation: str) -> None:
    rng = generator(45)
    x, y = (drawn(rng, (40, 30), (1, 200)).view(np.float32) for _ in range(2))
    numpy, numba = (getattr(get_backend(name), operation) for name in ("numpy", "numba"))
    plain = numpy(x, y)
    x.flags.writeable = y.flags.writeable = False
    for same_x, same_y in ((np.asfortranarray(x), y), (np.repeat(x, 2, 1)[:, ::2], np.asfortranarray(y)), (x, y)):
        assert_same_bits(numpy(same_x, same_y), plain)
        assert_same_bits(numba(same_x, same_y), plain)


@pytest.mark.parametrize("operation", BINARY)
def test_many_values_are_the_same_everywhere(operation: str) -> None:
    """Long enough for Numba's vectorised loop and XLA's; exponents so that many results are flushed."""
    rng = generator(46)
    x, y = drawn(rng, 200_000, (40, 80)), drawn(rng, 200_000, (45, 85) if operation == "multiply" else (165, 205))
    if operation in ("add", "subtract"):
        x, y = drawn(rng, 200_000, (0, 2)), drawn(rng, 200_000, (0, 2))
    numpy, numba, traced = (backend.apply(operation, x.view("f4"), y.view("f4")) for backend in EXECUTORS)
    assert_same_bits(numba, numpy, x, y, any_nan=True)
    assert_same_bits(traced, numpy, x, y, any_nan=True)
    assert 0.1 < np.mean(numpy == 0) < 0.9


def test_a_product_is_rounded_before_it_is_added() -> None:
    """x y + z of every back end: two roundings, never one, also inside one compiled function."""
    rng = generator(47)
    x, y, z = (drawn(rng, 20_000, (120, 134)).view(np.float32) for _ in range(3))
    numpy, numba, traced = (get_backend(name) for name in ("numpy", "numba", "jax"))
    twice = numpy.add(numpy.multiply(x, y), z)
    fused = (x.astype(np.float64) * y + z).astype(np.float32)
    assert np.mean(twice != fused) > 0.05  # contraction would show
    assert_same_bits(numba.add(numba.multiply(x, y), z), twice)
    assert_same_bits(jax.jit(lambda x, y, z: traced.add(traced.multiply(x, y), z))(x, y, z), twice)
    difference = numpy.subtract(z, numpy.multiply(x, y))
    assert_same_bits(jax.jit(lambda x, y, z: traced.subtract(z, traced.multiply(x, y)))(x, y, z), difference)


CONSTANTS = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, float(2**23 + 2**22)]


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("operation", BINARY)
def test_constant_operands_under_jit(operation: str, constant: float) -> None:
    """A constant that the compiler knows is no licence to leave the operation out: every one flushes."""
    x = EDGES.view(np.float32)
    compute = getattr(get_backend("jax"), operation)
    wanted = getattr(get_backend("numpy"), operation)(x, np.float32(constant))
    assert_same_bits(jax.jit(lambda x: compute(x, np.float32(constant)))(x), wanted, EDGES, any_nan=True)


def test_sums_with_two_constants_under_jit() -> None:
    """(x + c) - c rounds x to an integer; read as x it does not."""
    numpy, traced = get_backend("numpy"), get_backend("jax")
    c = np.float32(3 << 22)
    x = drawn(generator(48), 1000, (110, 140)).view(np.float32)
    rounded = numpy.subtract(numpy.add(x, c), c)
    assert_same_bits(jax.jit(lambda x: traced.subtract(traced.add(x, c), c))(x), rounded)
