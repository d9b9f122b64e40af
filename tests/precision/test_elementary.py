"""exp, log, erf, tanh and rsqrt: the same bits on NumPy, Numba and JAX, at most one unit in the last place off."""

import os
import runpy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numba
import numpy as np
import pytest
import scipy.special
from executors import Executor
from numba import types
from numba.extending import intrinsic

from precision import elementary
from precision.elementary import Primitives, error_function, exponential, hyperbolic, reciprocal_root

Array = np.ndarray
NAMES = ("exp", "log", "erf", "tanh", "rsqrt")
ORACLES = {
    "exp": np.exp,
    "log": np.log,
    "erf": scipy.special.erf,
    "tanh": np.tanh,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}
# over all 2^32 arguments
LARGEST_ERROR = {"exp": 0.681, "log": 0.637, "erf": 0.872, "tanh": 0.823, "rsqrt": 0.635}
PATTERNS = 2**32
STRIDE = 2039  # prime, so that the sample meets every remainder of the low bits
CHUNK = 2**18  # small enough for the temporaries of NumPy to stay in the cache

# where something changes: zeros, subnormals, infinities, NaNs, the edges of ranges and intervals
EDGES = {
    "exp": [0.0, 2.0**-126, 2.0**-24, 0.34657359, 1.0, 88.722835, 103.97208, 3e38, np.inf],
    "log": [0.0, 2.0**-126, 2.0**-125, 0.5, 0.70710677, 1.0, 1.41421354, 2.0, 3e38, np.inf],
    "erf": [0.0, 2.0**-126, 2.0**-60, 2.0**-12, 0.47693628, 0.8125, 1.75, 2.75, 3.8325069, 3.9192059, np.inf],
    "tanh": [0.0, 2.0**-126, 2.0**-12, 0.54930615, 0.6953125, 1.0, 2.0, 9.010913, 10.0, np.inf],
    "rsqrt": [0.0, 2.0**-126, 2.0**-125, 0.25, 0.5, 1.0, 1.4333496, 2.0, 4.0, 2.0**127, np.inf],
}
EDGES["exp"] += [87.33654]
NEIGHBOURS = 3000


def make_all(primitives: Primitives, compiled: Callable) -> dict[str, Callable]:
    exp = compiled(elementary.make_exp(primitives))
    return {
        "exp": exp,
        "log": compiled(elementary.make_log(primitives)),
        "erf": compiled(elementary.make_erf(primitives)),
        "tanh": compiled(elementary.make_tanh(primitives, exp)),
        "rsqrt": compiled(elementary.make_rsqrt(primitives)),
    }


@cache
def numpy_functions() -> dict[str, Callable]:
    def quiet(function: Callable) -> Callable:
        def call(x: Array) -> Array:
            with np.errstate(all="ignore"):
                return function(x)

        return call

    primitives = Primitives(
        multiply=np.multiply,
        select=np.where,
        to_bits=lambda x: x.view(np.uint32),
        from_bits=lambda u: u.view(np.float32),
        word=np.uint32,
    )
    return make_all(primitives, quiet)


@intrinsic
def to_bits(_context, x):  # noqa: ARG001
    return types.uint32(types.float32), lambda _c, b, _s, args: b.bitcast(args[0], _llvm(types.uint32))


@intrinsic
def from_bits(_context, u):  # noqa: ARG001
    return types.float32(types.uint32), lambda _c, b, _s, args: b.bitcast(args[0], _llvm(types.float32))


def _llvm(kind):
    from llvmlite import ir

    return ir.IntType(32) if kind is types.uint32 else ir.FloatType()


jit = partial(numba.njit, nogil=True, error_model="numpy")


@cache
def numba_scalars() -> dict[str, Callable]:
    primitives = Primitives(
        multiply=jit(lambda x, y: x * y),
        select=jit(lambda condition, x, y: x if condition else y),
        to_bits=to_bits,
        from_bits=from_bits,
        word=jit(lambda u: np.uint32(u)),
    )
    return make_all(primitives, jit)


@cache
def numba_functions() -> dict[str, Callable]:
    def over_array(scalar: Callable) -> Callable:
        @jit
        def call(x):
            y = np.empty_like(x)
            for i in range(x.size):
                y[i] = scalar(x[i])
            return y

        return call

    return {name: over_array(scalar) for name, scalar in numba_scalars().items()}


def jax_primitives(multiply: Callable) -> Primitives:
    return Primitives(
        multiply=multiply,
        select=jnp.where,
        to_bits=lambda x: jax.lax.bitcast_convert_type(x, jnp.uint32),
        from_bits=lambda u: jax.lax.bitcast_convert_type(u, jnp.float32),
        word=lambda u: u.astype(jnp.uint32),
    )


def opaque_multiply(x, y):
    """The product behind an exclusive or with a zero that no compiler recognises: u^2 mod 8 is 0, 1 or 4."""
    u = jax.lax.bitcast_convert_type(x * y, jnp.uint32)
    square = u * u
    zero = square & (square >> 2) & 1
    return jax.lax.bitcast_convert_type(u ^ (np.uint32(0) - zero), jnp.float32)


def selecting_multiply(x, y):
    product = x * y
    return jnp.where(product == product, product, np.float32(np.nan))


@cache
def jax_functions() -> dict[str, Callable]:
    def to_numpy(function: Callable) -> Callable:
        compiled = jax.jit(function)
        return lambda x: np.asarray(compiled(x))

    functions = make_all(jax_primitives(opaque_multiply), lambda function: function)
    return {name: to_numpy(function) for name, function in functions.items()}


EXECUTORS = {"numpy": numpy_functions, "numba": numba_functions, "jax": jax_functions}


def floats(patterns: Array) -> Array:
    return np.ascontiguousarray(patterns, dtype=np.uint32).view(np.float32)


@cache
def edges(name: str) -> Array:
    """Every pattern near an edge, of both signs, ascending, and some NaNs of every kind."""
    centres = np.array(EDGES[name], dtype=np.float32).view(np.uint32).astype(np.int64)
    near = (centres[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1)).ravel()
    near = np.append(near[near >= 0], [0x7F800001, 0x7FA00000, 0x7FC00000, 0x7FFFFFFF])
    return floats(np.unique(np.concatenate([near, near | 0x80000000])))


@cache
def sample() -> Array:
    return floats(np.arange(0, PATTERNS, STRIDE, dtype=np.int64))


def assert_same_bits(actual: Array, expected: Array, x: Array) -> None:
    wrong = np.flatnonzero(actual.view(np.uint32) != expected.view(np.uint32))
    assert not wrong.size, (
        f"{wrong.size} of {x.size} differ, first at index {wrong[0]}: x = {hexadecimal(x[wrong[0]])}, "
        f"{hexadecimal(actual[wrong[0]])} instead of {hexadecimal(expected[wrong[0]])}"
    )


def hexadecimal(value: np.float32) -> str:
    return f"{value!r} (0x{int(value.view(np.uint32)):08X})"


def errors(name: str, x: Array, y: Array) -> Array:
    """|y - exact| in units in the last place of the exact result; zeros, infinities, NaNs must be exact."""
    with np.errstate(all="ignore"):  # signalling NaNs, overflow, log of zero
        flushed = x.astype(np.float64)
        flushed[np.abs(flushed) < 2.0**-126] *= 0.0
        exact = ORACLES[name](flushed)
        rounded = exact.astype(np.float32)
    # 24 bits and an unbounded exponent: from (1 - 2^-25) 2^-126 on, 2^-126 is reached
    rounded[np.abs(exact) < 2.0**-126 * (1 - 2.0**-25)] *= np.float32(0)
    rounded.view(np.uint32)[np.isnan(exact)] = 0x7FC00000
    special = ~np.isfinite(rounded) | (rounded == 0)
    assert_same_bits(y[special], rounded[special], x[special])
    _, exponent = np.frexp(exact[~special])
    return np.abs(np.ldexp(y[~special] - exact[~special], 24 - exponent))


def assert_accurate(name: str, x: Array, y: Array) -> float:
    error = errors(name, x, y)
    largest = float(error.max(initial=0.0))
    assert largest <= LARGEST_ERROR[name], f"{name} is off by {largest} ulp"
    return largest


def assert_monotone(name: str, x: Array, y: Array) -> None:
    """Patterns ascend: a negative argument is followed by a smaller one.  rsqrt alone descends."""
    for sign in (False, True):
        half = y[(np.signbit(x) == sign) & ~np.isnan(y)]
        ordered = half[1:] <= half[:-1] if sign != (name == "rsqrt") else half[1:] >= half[:-1]
        assert ordered.all(), f"not monotone at {hexadecimal(half[int(np.argmin(ordered))])}"


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("executor", ["numba", "jax"])
def test_executors_agree_in_every_bit(name: str, executor: str) -> None:
    for x in (sample(), edges(name)):
        expected = numpy_functions()[name](x)
        assert_same_bits(EXECUTORS[executor]()[name](x), expected, x)


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_and_special_values(name: str) -> None:
    for x in (sample(), edges(name)):
        assert_accurate(name, x, numba_functions()[name](x))


@pytest.mark.parametrize("name", NAMES)
def test_monotone(name: str) -> None:
    for x in (sample(), edges(name)):
        assert_monotone(name, x, numba_functions()[name](x))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_named_values(executor: str) -> None:
    arguments = [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, np.inf, -np.inf, np.nan, 3e38, -3e38]
    infinity, nan = np.inf, np.nan
    e, erf_1, tanh_1 = np.float32(np.e), np.float32(0.84270079), np.float32(np.tanh(1.0))
    expected = {
        "exp": [1, 1, 1, 1, e, 1 / np.e, infinity, 0.0, nan, infinity, 0.0],
        "log": [-infinity] * 4 + [0.0, nan, infinity, nan, nan, np.log(np.float32(3e38)), nan],
        "erf": [0.0, -0.0, 0.0, -0.0, erf_1, -erf_1, 1, -1, nan, 1, -1],
        "tanh": [0.0, -0.0, 0.0, -0.0, tanh_1, -tanh_1, 1, -1, nan, 1, -1],
        "rsqrt": [infinity, -infinity] * 2 + [1, nan, 0.0, nan, nan, 1 / np.sqrt(np.float32(3e38)), nan],
    }
    x = np.array(arguments, dtype=np.float32)
    for name, values in expected.items():
        assert_same_bits(EXECUTORS[executor]()[name](x), np.array(values, dtype=np.float32), x)


@pytest.mark.parametrize("name", ["erf", "tanh"])
def test_odd(name: str) -> None:
    x = edges(name)
    x = x[~np.isnan(x)]
    assert_same_bits(-numpy_functions()[name](x), numpy_functions()[name](-x), x)


@pytest.mark.parametrize("name", NAMES)
def test_oracle_is_good_enough(name: str) -> None:
    """The float64 oracle against 30 digits: 2^-40 relative is 2^-16 of a unit in the last place."""
    x = np.concatenate([sample()[1::9973], edges(name)[7::4999]])
    x = x[np.isfinite(x) & (np.abs(x) > 2.0**-126) & (np.abs(x) < 88) & ((x > 0) | (name not in ("log", "rsqrt")))]
    exact = getattr(mpmath, name, lambda v: 1 / mpmath.sqrt(v))
    with mpmath.workdps(30):
        for value, approximate in zip(x, ORACLES[name](x.astype(np.float64)), strict=True):
            truth = exact(mpmath.mpf(float(value)))
            assert abs(truth - float(approximate)) <= abs(truth) * mpmath.mpf(2) ** -40


@pytest.mark.parametrize("name", NAMES)
def test_numba_stays_in_float32(name: str) -> None:
    """A Python float or an int32 among the operands would be promoted to float64."""
    scalar = numba_scalars()[name]
    scalar(np.float32(1))
    (compiled,) = scalar.overloads.values()
    assert compiled.signature == types.float32(types.float32)
    assert types.float64 not in compiled.type_annotation.typemap.values()


@pytest.mark.parametrize("name", NAMES)
def test_fused_behind_a_producer(name: str) -> None:
    """What computes the argument may tell the compiler its range; what follows may offer an addition to contract."""

    def around(call: Callable, to_float: Callable, u):
        return call(to_float((u & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000))) + np.float32(0.3)

    call = make_all(jax_primitives(opaque_multiply), lambda function: function)[name]
    u = sample().view(np.uint32)
    expected = around(numpy_functions()[name], lambda w: w.view(np.float32), u)
    fused = jax.jit(partial(around, call, lambda w: jax.lax.bitcast_convert_type(w, jnp.float32)))
    assert_same_bits(np.asarray(fused(u)), expected, u.view(np.float32))


@pytest.mark.parametrize("multiply", [jnp.multiply, selecting_multiply])
def test_a_weaker_product_is_noticed(multiply: Callable) -> None:
    """XLA contracts plain products; LLVM drops ``p == p`` where it can prove p a number, and contracts."""
    weaker = jax.jit(elementary.make_log(jax_primitives(multiply)))
    x = floats(np.arange(0x1000, 2**31, 173, dtype=np.int64))
    differing = np.asarray(weaker(x)).view(np.uint32) != numpy_functions()["log"](x).view(np.uint32)
    assert differing.any()


def test_xla_joins_constants() -> None:
    """(x + c) - c is compiled as x: hence ``multiply(..., 1)``."""
    c = exponential._ROUNDER
    x = np.array([1.44, 2.6], dtype=np.float32)
    assert_same_bits(np.asarray(jax.jit(lambda x: (x + c) - c)(x)), x, x)
    rounded = np.array([1.0, 3.0], dtype=np.float32)
    assert_same_bits(np.asarray(jax.jit(lambda x: opaque_multiply(x + c, np.float32(1)) - c)(x)), rounded, x)


def test_every_significand_of_rsqrt() -> None:
    """All of two binades, [1/2, 2); elsewhere only the exponent differs, shown for the outermost ones."""
    x = floats(np.arange(0x3F000000, 0x40000000, dtype=np.int64))
    y = numba_functions()["rsqrt"](x)
    assert assert_accurate("rsqrt", x, y) > LARGEST_ERROR["rsqrt"] - 0.001
    assert_monotone("rsqrt", x, y)
    for k in (-63 + 1, 63):  # 4^-62 [1/2, 2) starts at 2^-125
        assert_same_bits(numba_functions()["rsqrt"](np.ldexp(x, 2 * k)), np.ldexp(y, -k), x)


def test_powers_of_four_are_exact() -> None:
    k = np.arange(-63, 64)
    x = np.ldexp(np.float32(1), 2 * k)
    assert_same_bits(numpy_functions()["rsqrt"](x), np.ldexp(np.float32(1), -k), x)


def test_constants_must_be_exact() -> None:
    assert elementary.float32s("0x1.8p+1 -0x1p-126") == (3.0, -(2.0**-126))
    with pytest.raises(ValueError, match=r"0x1\.0000001p\+0"):
        elementary.float32s("0x1.0000001p+0")


def chunks() -> Iterator[Array]:
    """All patterns, each chunk preceded by the last pattern of the one before."""
    for start in range(0, PATTERNS, CHUNK):
        yield floats(np.arange(max(start - 1, 0), start + CHUNK, dtype=np.int64))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_every_pattern(name: str) -> None:
    """All 2^32 arguments: accuracy, monotonicity, and the same bits on the three executors."""

    def check(x: Array) -> float:
        y = numba_functions()[name](x)
        assert_monotone(name, x, y)
        assert_same_bits(numpy_functions()[name](x), y, x)
        assert_same_bits(jax_functions()[name](x), y, x)
        return assert_accurate(name, x, y)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        largest = max(pool.map(check, chunks()))
    assert largest > LARGEST_ERROR[name] - 0.01, f"the stated bound could be {largest}"


@pytest.mark.exhaustive
def test_coefficients_are_those_of_the_script() -> None:
    script = Path(__file__).parents[1] / "scripts" / "fit_elementary.py"
    source = [
        exponential._EXP,
        exponential._LOG,
        error_function._ERF_ODD[:-1],  # a zero fills it up to the degree of the others
        error_function._ERF_1,
        error_function._ERF_2,
        error_function._ERF_3,
        hyperbolic._TANH_ODD,
        hyperbolic._TANH_RECIPROCAL,
        reciprocal_root._RSQRT,
    ]
    fitted = [tuple(fit.coefficients) for _, fit in runpy.run_path(str(script))["fits"]()]
    assert fitted == source


@pytest.mark.parametrize("name", NAMES)
def test_back_ends_offer_them(backend: Executor, name: str) -> None:
    x = edges(name)
    assert_same_bits(backend.apply(name, x), numpy_functions()[name](x), x)
