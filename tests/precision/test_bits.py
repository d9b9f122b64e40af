"""Kernels of ``bits``: the same words from Python integers, NumPy arrays, Numba and jitted JAX.

Agreement shows that the one source is portable; that it is right is shown in ``test_rounding`` and
``test_random_bits`` and, for what has no test there, against its definition below.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from functools import cache
from math import frexp
from types import ModuleType
from typing import Any

import jax
import numba
import numpy as np
import oracles
import pytest
from strategies import EDGES, drawn, every_pair, generator

from precision import BF16, FORMATS, FP16, INT8, bits, double, soft_float
from precision.backends.numba_.scalars import words
from precision.format import Format
from precision.rounding_modes import MODES, Constants, Rounding

WORD = 0xFFFFFFFF
STRIDED = np.concatenate([np.arange(0, 1 << 32, 4297, dtype=np.uint64).astype(np.uint32), EDGES])  # about 10^6
FEW = np.concatenate([STRIDED[::251], EDGES])  # about 4,000, for Python integers
KEY = (0x13198A2E, 0x03707344)
OF_A_FORMAT = (
    "round_nearest_even",
    "flush_subnormal",
    "encode",
    "decode",
    "nearest_even_events",
    "round_pattern",
    "round_and_tell",
)
OF_A_WORD = ("order_key", "from_order_key", "exponent_index", "threefry_first", "threefry_second")

CARRIED = [fmt for fmt in FORMATS.values() if fmt.name != "fp64"]  # which no float32 carrier holds

of_each_format = pytest.mark.parametrize("fmt", [FP16, BF16, INT8], ids=str)


def of_a_format(kernels: Any, u: Any, f: Constants) -> tuple[Any, ...]:
    """The kernels that take a format, in the order of ``OF_A_FORMAT``; every code is decoded, NaN and all."""
    rounded = kernels.round_nearest_even(u, f)
    codes = u >> (31 - f.magnitude_bits)
    return (
        rounded,
        kernels.flush_subnormal(u, f),
        kernels.encode(rounded, f),
        kernels.decode(codes, f),
        kernels.nearest_even_events(u, rounded, f),
        kernels.round_pattern(u, 0 * u + 0x12345678, u, f),
        kernels.round_and_tell(u, u, f)[1],
    )


def of_a_word(kernels: Any, u: Any, key: tuple[Any, Any], word: Any) -> tuple[Any, ...]:
    """The kernels that take none, in the order of ``OF_A_WORD``."""
    first, second = kernels.threefry2x32(key[0], key[1], u, u ^ key[0], word)
    return kernels.order_key(u), kernels.from_order_key(u), kernels.exponent_index(u), first, second


def in_numpy(u: np.ndarray, fmt: Format | None) -> list[np.ndarray]:
    if fmt is None:
        return list(of_a_word(bits, u, tuple(map(np.uint32, KEY)), np.uint32(WORD)))
    return list(of_a_format(bits, u, fmt.constants))


def in_python(u: np.ndarray, fmt: Format | None) -> list[np.ndarray]:
    """Every result is a word as it stands, but for the two inversions, whose lowest 32 bits are."""
    if fmt is None:
        rows = [of_a_word(bits, x, KEY, WORD) for x in u.tolist()]
        rows = [(key & WORD, pattern & WORD, *rest) for key, pattern, *rest in rows]
    else:
        constants = Constants(*map(int, fmt.constants))
        rows = [of_a_format(bits, x, constants) for x in u.tolist()]
    return [np.array(column, np.uint32) for column in zip(*rows, strict=True)]


def in_jax(u: np.ndarray, fmt: Format | None) -> list[np.ndarray]:
    if fmt is None:
        jitted = jax.jit(lambda u: of_a_word(bits, u, tuple(map(np.uint32, KEY)), np.uint32(WORD)))
    else:
        jitted = jax.jit(lambda u: of_a_format(bits, u, fmt.constants))
    return [np.asarray(x) for x in jitted(u)]


def in_numba(u: np.ndarray, fmt: Format | None) -> list[np.ndarray]:
    out = np.empty((len(OF_A_FORMAT), u.size), np.uint32)
    if fmt is None:
        _loop_over_words()(u, np.uint32(KEY[0]), np.uint32(KEY[1]), out)
    else:
        _loop_of_a_format()(u, fmt.constants, out)
    return list(out[: len(OF_A_WORD)] if fmt is None else out)


@cache
def _loop_of_a_format() -> Callable:
    rounding, flush, encode, decode, events, pattern, tell = (words[name] for name in OF_A_FORMAT)
    extra = np.uint32(0x12345678)

    @numba.njit
    def loop(u, f, out):
        for i in range(u.size):
            rounded = rounding(u[i], f)
            out[0, i] = rounded
            out[1, i] = flush(u[i], f)
            out[2, i] = encode(rounded, f)
            out[3, i] = decode(np.uint32(u[i] >> np.uint32(31 - f.magnitude_bits)), f)
            out[4, i] = events(u[i], rounded, f)
            out[5, i] = pattern(u[i], extra, u[i], f)
            out[6, i] = tell(u[i], u[i], f)[1]

    return loop


@cache
def _loop_over_words() -> Callable:
    order_key, from_order_key, exponent_index = (words[name] for name in OF_A_WORD[:3])
    threefry, all_bits = words["threefry2x32"], np.uint32(WORD)

    @numba.njit
    def loop(u, key0, key1, out):
        for i in range(u.size):
            out[0, i] = order_key(u[i])
            out[1, i] = from_order_key(u[i])
            out[2, i] = exponent_index(u[i])
            out[3, i], out[4, i] = threefry(key0, key1, u[i], u[i] ^ key0, all_bits)

    return loop


def assert_same_words(
    found: list[np.ndarray], expected: list[np.ndarray], u: np.ndarray, names: Iterable[str]
) -> None:
    for name, a, b in zip(names, found, expected, strict=True):
        assert a.dtype == b.dtype == np.uint32, name
        wrong = np.flatnonzero(a != b)
        shown = [f"{name}({u[i]:#010x}) = {a[i]:#x}, not {b[i]:#x}" for i in wrong[:8]]
        assert not shown, f"{len(wrong)} of {u.size} differ: {'; '.join(shown)}"


# One source, four executors


@pytest.mark.thinned(0.34)
@of_each_format
@pytest.mark.parametrize("executor", [in_numba, in_jax, in_python])
def test_kernels_of_a_format_agree_with_numpy(executor: Callable, fmt: Format) -> None:
    u = FEW if executor is in_python else STRIDED
    assert_same_words(executor(u, fmt), in_numpy(u, fmt), u, OF_A_FORMAT)


@pytest.mark.parametrize("executor", [in_numba, in_jax, in_python])
def test_kernels_of_a_word_agree_with_numpy(executor: Callable) -> None:
    u = FEW if executor is in_python else STRIDED
    assert_same_words(executor(u, None), in_numpy(u, None), u, OF_A_WORD)


def test_samples_are_as_large_as_they_say() -> None:
    assert len(STRIDED) > 999_000
    assert len(FEW) > 4_000
    assert set(EDGES.tolist()) <= set(FEW.tolist())


# Conditions

BELOW_THE_TOP = [0, 1, 2, 24, 0x7FFFFF, 0x800000, 0x3FFFFFFF, 0x40000000, 0x7F800000, 0x7FFFFFFE, 0x7FFFFFFF]
ANY_WORD = [*BELOW_THE_TOP, 0x80000000, 0x80000001, 0xFF800000, 0xFFFFFFFE, 0xFFFFFFFF]


def on_four(kernel: str, *columns: list[int]) -> list[list[int]]:
    """The kernel over columns of words: on Python integers, NumPy, Numba, JAX."""
    arrays = [np.array(column, np.uint32) for column in columns]
    function = getattr(bits, kernel)
    return [
        [function(*row) & WORD for row in zip(*columns, strict=True)],
        function(*arrays).tolist(),
        [words[kernel](*row) for row in zip(*arrays, strict=True)],
        np.asarray(jax.jit(function)(*arrays)).tolist(),
    ]


@pytest.mark.parametrize(("kernel", "relation"), [("less", int.__lt__), ("equal", int.__eq__)])
def test_comparison_is_a_word_zero_or_one(kernel: str, relation: Callable) -> None:
    x, y = (column.tolist() for column in every_pair(np.array(BELOW_THE_TOP)))
    expected = [int(relation(a, b)) for a, b in zip(x, y, strict=True)]
    assert on_four(kernel, x, y) == [expected] * 4


def test_select_takes_the_first_word_where_the_condition_is_one() -> None:
    x, y = (column.tolist() for column in every_pair(np.array(ANY_WORD)))
    assert on_four("select", [1] * len(x), x, y) == [x] * 4
    assert on_four("select", [0] * len(x), x, y) == [y] * 4


# Order


def test_order_keys_sort_like_numbers() -> None:
    numbers = np.unique(np.concatenate([EDGES, drawn(generator(1), 4000)]))
    numbers = numbers[(numbers & 0x7FFFFFFF) <= 0x7F800000]
    by_key = numbers[np.argsort(bits.order_key(numbers), kind="stable")]
    values = by_key.view(np.float32).astype(np.float64)
    assert np.array_equal(values, np.sort(values))
    zeros = by_key[values == 0].tolist()
    assert zeros == [0x80000000, 0x00000000]


def test_order_keys_of_every_pair_of_edges() -> None:
    x, y = every_pair(EDGES[(EDGES & 0x7FFFFFFF) <= 0x7F800000])
    a, b = x.view(np.float32), y.view(np.float32)
    before = (a < b) | ((a == b) & np.signbit(a) & ~np.signbit(b))
    assert np.array_equal(bits.order_key(x) < bits.order_key(y), before)


def test_canonical_nan_sorts_above_infinity_and_every_number_above_the_word_zero() -> None:
    infinity, nan, lowest = bits.order_key(np.array([0x7F800000, 0x7FC00000, 0xFF800000], np.uint32))
    assert nan > infinity > lowest > 0


def test_from_order_key_undoes_order_key() -> None:
    assert np.array_equal(bits.from_order_key(bits.order_key(STRIDED)), STRIDED)


# Exponents


def test_exponent_index_is_the_exponent() -> None:
    u = np.concatenate([EDGES, drawn(generator(2), 4000), np.arange(1, 0x800000, 5003, np.uint32)])
    magnitude = u & 0x7FFFFFFF
    u = u[(magnitude != 0) & (magnitude < 0x7F800000)]
    expected = [frexp(x)[1] - 1 + 149 for x in u.view(np.float32).tolist()]
    assert bits.exponent_index(u).tolist() == expected
    assert {min(expected), max(expected)} == {0, 276}


# The rules of the source


@pytest.mark.parametrize(
    ("module", "width"), [(bits, 31), (soft_float, 31), (double, 32)], ids=lambda x: getattr(x, "__name__", "")
)
def test_source_keeps_its_rules(module: ModuleType, width: int) -> None:
    """Operators alone; the one choice is of the rounding mode, which is the same for every word of a call."""
    tree = ast.parse(inspect.getsource(module))
    branches = (ast.BoolOp, ast.IfExp, ast.While, ast.Not)
    assert not [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, branches)]
    choices = [node.test for node in ast.walk(tree) if isinstance(node, ast.If)]
    assert choices == [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert all(ast.unparse(choice.left) == "f.mode" for choice in choices)
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert all(isinstance(value, str) or (type(value) is int and 0 <= value < 1 << width) for value in constants)
    arithmetic = (ast.Add, ast.Sub, ast.Mult, ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift)
    unary = (ast.USub, ast.Invert)
    operators = [node.op for node in ast.walk(tree) if isinstance(node, ast.BinOp | ast.UnaryOp)]
    assert all(isinstance(operator, arithmetic + unary) for operator in operators)


class Words(np.ndarray):
    """32-bit words that refuse the shifts LLVM leaves undefined."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [np.asarray(x) if isinstance(x, Words) else x for x in inputs]
        if ufunc in (np.left_shift, np.right_shift):
            assert np.all(plain[1] < np.uint32(32)), f"shift by {np.max(plain[1])}"
        return getattr(ufunc, method)(*plain, **options).view(Words)


def checked(u: np.ndarray) -> Words:
    return u.astype(np.uint32).view(Words)


def everywhere(word: int, u: np.ndarray) -> Words:
    """As an array: a scalar would be no ``Words`` once something is done with it."""
    return checked(np.full(u.shape, word, np.uint32))


@pytest.mark.parametrize("count", [32, -1 % 2**32])
def test_words_refuse_such_shifts(count: int) -> None:
    u = checked(EDGES)
    for shift in (lambda n: u << n, lambda n: u >> n, lambda n: 1 << n):
        assert isinstance(shift(everywhere(31, u)), Words)
        with pytest.raises(AssertionError, match=f"shift by {count}"):
            shift(everywhere(count, u))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fmt", CARRIED, ids=str)
def test_shift_counts_stay_below_32(fmt: Format, mode: str) -> None:
    u = np.concatenate([EDGES, drawn(generator(4), 2000)])
    known = Rounding(mode=mode).words(fmt)
    constants = Constants(*(everywhere(int(word), u) for word in known))._replace(mode=known.mode)
    found = [np.asarray(column) for column in of_a_format(bits, checked(u), constants)]
    expected = list(of_a_format(bits, u, Rounding(mode=mode).words(fmt)))
    assert_same_words(found, expected, u, OF_A_FORMAT)


def test_shift_counts_of_the_other_kernels_stay_below_32() -> None:
    u = np.concatenate([EDGES, drawn(generator(5), 2000)])
    key = (everywhere(KEY[0], u), everywhere(KEY[1], u))
    found = [np.asarray(column) for column in of_a_word(bits, checked(u), key, everywhere(WORD, u))]
    assert_same_words(found, in_numpy(u, None), u, OF_A_WORD)


def test_shift_counts_of_the_fused_multiply_add_stay_below_32() -> None:
    rng = generator(6)
    u = np.concatenate([EDGES, drawn(rng, 200)])
    operands = (u, rng.permutation(u), rng.permutation(u))
    found = soft_float.fused_multiply_add(*map(checked, operands))
    for result, *one in zip(found.tolist(), *(x.tolist() for x in operands), strict=True):
        assert result == oracles.write(oracles.fused_multiply_add(*map(oracles.read, one)))
