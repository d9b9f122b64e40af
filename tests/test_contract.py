"""What breaks bit identity in XLA, LLVM, BLAS and libm, as facts, each beside the way round it.  Casts and rounding
have a file of their own.

A fact that stops holding is news: an XLA or NumPy has changed, and a guard may have become needless or useless.
Facts about XLA's compiler for CPUs are asserted there only; the ways round hold on every executor.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import mpmath
import numba
import numpy as np
import oracles
import pytest
from bits_assertions import as_bits, assert_same_bits
from executors import EXECUTORS, Executor
from jax import lax
from strategies import generator
from tracing import SUBNORMALS, differing, normal, on_cpu, same_everywhere, traced

import precision as pr
from precision import bits, soft_float
from precision.backends.jax_ import arithmetic
from precision.backends.numba_.compilation import compile_words
from precision.backends.numba_.scalars import words

SIZE = 4096
TINY = np.float32(1e-40)  # a float32 subnormal
FP16_POSITIVE = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)


def matmul_everywhere(a: np.ndarray, b: np.ndarray, inputs: str = "fp32", **options: Any) -> np.ndarray:
    """The product on every back end: the same bits, which are returned."""
    results = [backend.call(pr.matmul, a, b, inputs=inputs, **options) for backend in EXECUTORS]
    for other in results[1:]:
        assert_same_bits(other, results[0])
    return results[0]


# a b + c contracted into one operation

A, B, C = (normal(seed, SIZE) for seed in (1, 2, 3))
INTEGERS = generator(16).integers(1, 1 << 24, SIZE, np.int32)
SQUARES = np.square(INTEGERS.astype(np.float32))
BIG = normal(17, SIZE) * np.float32(1e13)


@on_cpu
def test_xla_contracts_a_product_into_the_sum_behind_it() -> None:
    assert differing(traced(lambda a, b, c: a * b + c, A, B, C), A * B + C) > SIZE // 8


@on_cpu
@pytest.mark.parametrize(
    "fence",
    [
        lax.optimization_barrier,
        lambda product: lax.reduce_precision(product, 8, 23),
        lambda product: arithmetic.from_bits(arithmetic.to_bits(product)),
    ],
    ids=["optimization_barrier", "reduce_precision", "bitcast"],
)
def test_what_looks_like_a_fence_does_not_stop_the_contraction(fence: Callable) -> None:
    assert differing(traced(lambda a, b, c: fence(a * b) + c, A, B, C), A * B + C) > SIZE // 8


@on_cpu
@pytest.mark.parametrize("option", ["xla_cpu_enable_fast_math", "xla_allow_excess_precision"])
def test_no_compiler_option_stops_the_contraction(option: str) -> None:
    compiled = jax.jit(lambda a, b, c: a * b + c).lower(A, B, C).compile(compiler_options={option: False})
    assert differing(compiled(A, B, C), A * B + C) > SIZE // 8


def test_guarded_product_is_not_contracted_and_overflows_to_infinity() -> None:
    a, b = A.copy(), B.copy()
    a[::7] *= np.float32(2.0**100)
    b[::7] *= np.float32(2.0**100)
    with np.errstate(over="ignore"):
        expected = a * b + C
    assert np.count_nonzero(np.isinf(expected)) == len(a[::7])
    assert differing(traced(lambda a, b, c: arithmetic.product(a, b) + c, a, b, C), expected) == 0


def test_guard_that_asks_whether_a_product_is_finite_loses_infinities() -> None:
    huge = np.full(8, 2.0**100, np.float32)
    finite = traced(lambda a, b: jnp.where(jnp.isfinite(a * b), a * b, jnp.nan) + a, huge, huge)
    assert np.isnan(finite).all()
    assert np.isposinf(traced(lambda a, b: arithmetic.product(a, b) + a, huge, huge)).all()


def unless_nan(product: Any) -> Any:
    """The select that passes for a fence."""
    return jnp.where(product == product, product, np.float32(np.nan))


@on_cpu
def test_select_on_nan_is_a_fence_until_the_product_is_provably_a_number() -> None:
    assert differing(traced(lambda a, b, c: unless_nan(a * b) + c, A, B, C), A * B + C) == 0
    fenced = traced(lambda n, c: unless_nan(jnp.square(n.astype(jnp.float32))) + c, INTEGERS, BIG)
    assert differing(fenced, SQUARES + BIG) > SIZE // 8


def test_guard_holds_there_too() -> None:
    guarded = traced(lambda n, c: arithmetic.guard(jnp.square(n.astype(jnp.float32))) + c, INTEGERS, BIG)
    assert differing(guarded, SQUARES + BIG) == 0


def test_rounding_in_integers_is_a_fence_too() -> None:
    expected = np.float32(pr.round_to(A * B, pr.FP16) + C)
    found = traced(lambda a, b, c: pr.round_to(a * b, pr.FP16) + c, A, B, C)
    assert differing(found, expected) == 0


# Algebra

LARGE = np.float32(1e8)


@on_cpu
def test_xla_joins_constants() -> None:
    assert differing(traced(lambda x: (x + LARGE) - LARGE, A), A) == 0
    assert differing((A + LARGE) - LARGE, A) == SIZE


def test_operations_of_the_back_ends_are_not_joined() -> None:
    jitted = traced(lambda x: arithmetic.subtract(arithmetic.add(x, LARGE), LARGE), A)
    assert_same_bits(jitted, (A + LARGE) - LARGE)


@on_cpu
def test_xla_takes_away_what_it_adds_to_zero_or_multiplies_by_one() -> None:
    """Before a subnormal could be flushed, or -0 become +0."""
    zeros = np.full(4, -0.0, np.float32)
    assert np.signbit(traced(lambda x: np.float32(0) + x, zeros)).all()
    assert not np.signbit(np.float32(0) + zeros).any()
    assert differing(traced(lambda x: x + np.float32(0), SUBNORMALS), SUBNORMALS) == 0
    assert differing(traced(lambda x: x * np.float32(1), SUBNORMALS), SUBNORMALS) == 0


def test_neutral_constants_flush_like_any_other() -> None:
    zeros = np.zeros_like(SUBNORMALS)
    assert_same_bits(traced(lambda x: arithmetic.add(x, np.float32(0)), SUBNORMALS), zeros)
    assert_same_bits(traced(lambda x: arithmetic.multiply(x, np.float32(1)), SUBNORMALS), zeros)
    assert_same_bits(traced(lambda x: arithmetic.add(np.float32(0), x), np.float32([-0.0])), zeros[:1])


@on_cpu
@pytest.mark.parametrize(
    ("operation", "neutral"), [("add", jnp.zeros_like), ("subtract", jnp.zeros_like), ("multiply", jnp.ones_like)]
)
def test_neutral_constants_made_under_jit_flush_too(operation: str, neutral: Callable) -> None:
    jitted = traced(lambda x: getattr(arithmetic, operation)(x, neutral(x)), SUBNORMALS)
    assert_same_bits(jitted, np.zeros_like(SUBNORMALS))


def test_product_of_matrices_starts_from_positive_zero() -> None:
    a, b = np.full((4, 1), -0.0, np.float32), np.ones((1, 4), np.float32)
    for inputs in ("fp16", "fp32"):
        assert_same_bits(matmul_everywhere(a, b, inputs), np.zeros((4, 4), np.float32))


# Float32 subnormals


@on_cpu
@pytest.mark.parametrize("size", [1, SIZE])
def test_xla_flushes_subnormals(size: int) -> None:
    x = np.full(size, TINY)
    assert np.count_nonzero(x * np.float32(0.5)) == size
    assert np.count_nonzero(traced(lambda x: x * np.float32(0.5), x)) == 0
    assert np.count_nonzero(traced(lambda x: x + x, x)) == 0


@on_cpu
def test_xla_compares_subnormals_as_zeros() -> None:
    x = np.float32([0, TINY, 0])
    assert np.argmax(x) == 1
    assert traced(jnp.argmax, x) == 0
    assert not traced(lambda x: x > 0, x).any()
    assert traced(lambda x: x == 0, x).all()


@on_cpu
def test_flushing_after_the_product_is_not_what_the_hardware_does() -> None:
    x, y = np.float32([1 - 2.0**-24]), np.float32([2.0**-126])
    assert as_bits(x * y) == 0x00800000  # rounded up to 2^-126 on the subnormal grid, so a flush leaves it
    assert as_bits(traced(lambda x, y: x * y, x, y)) == 0


def test_backends_decide_on_the_product_rounded_with_unbounded_exponent() -> None:
    x, y = np.float32([1 - 2.0**-24, 2.0**-24 - 1, 1, 1 - 2.0**-23]), np.float32(2.0**-126)
    expected = np.array([0, 0x80000000, 0x00800000, 0], np.uint32)
    assert_same_bits(same_everywhere("multiply", x, y), expected)


@pytest.mark.parametrize("fmt", ["fp32", "tf32", "bf16"])
def test_storage_keeps_subnormals(backend: Executor, fmt: str) -> None:
    kept = SUBNORMALS.view(np.uint32) & np.uint32({"fp32": 0xFFFFFFFF, "tf32": 0xFFFFE000, "bf16": 0xFFFF0000}[fmt])
    values = np.concatenate([kept, kept | np.uint32(1 << 31)]).view(np.float32)
    assert_same_bits(backend.call(pr.round_to, values, fmt=fmt), values)
    if fmt == "tf32":  # it has no code of a width that NumPy knows
        return
    codes = backend.call(pr.encode, values, fmt=fmt)
    assert_same_bits(codes, (as_bits(values) >> (32 - pr.parse_format(fmt).bits)).astype(codes.dtype))
    assert_same_bits(backend.call(pr.decode, codes, fmt=fmt), values)


def test_absmax_reads_subnormals_as_what_they_are() -> None:
    x = np.stack([np.zeros_like(SUBNORMALS), -SUBNORMALS])
    assert_same_bits(same_everywhere("absmax", x, axis=0), SUBNORMALS[None])


def test_numbers_are_compared_by_integer_keys() -> None:
    x = np.float32([-1, TINY, 0, -TINY, -0.0])
    assert_same_bits(same_everywhere("row_max", x[None]), np.float32([[0]]))  # float32 arithmetic flushes, stated
    keys = traced(bits.order_key, x.view(np.uint32))
    assert np.argsort(keys).tolist() == [0, 3, 4, 2, 1]


# Division and roots

ROWS = normal(5, 64, 64)
DIVISORS = {
    "scalar": np.float32(1.7),
    "column": np.float32(generator(6).uniform(1, 2, (64, 1))),
    "row": np.float32(generator(7).uniform(1, 2, (1, 64))),
}


@on_cpu
@pytest.mark.parametrize("divisor", ["scalar", "column"])
def test_xla_divides_by_a_broadcast_value_by_its_reciprocal(divisor: str) -> None:
    y = DIVISORS[divisor]
    quotients = traced(lambda x, y: x / y, ROWS, y)
    assert differing(quotients, ROWS / y) > SIZE // 8
    assert differing(quotients, ROWS * (np.float32(1) / y)) < differing(quotients, ROWS / y)


@on_cpu
def test_xla_divides_by_a_constant_by_its_reciprocal() -> None:
    assert differing(traced(lambda x: x / np.float32(7), ROWS), ROWS / np.float32(7)) > 0


@on_cpu
def test_xla_divides_equal_shapes_as_it_should() -> None:
    assert differing(traced(lambda x, y: x / y, ROWS, ROWS[::-1]), ROWS / ROWS[::-1]) == 0


@pytest.mark.parametrize("divisor", DIVISORS)
def test_backends_divide_by_the_divisor(divisor: str) -> None:
    y = DIVISORS[divisor]
    assert_same_bits(same_everywhere("divide", ROWS, y), ROWS / y)
    assert_same_bits(traced(lambda x: arithmetic.divide(x, y), ROWS), ROWS / y)  # a constant to the compiler


@on_cpu
def test_rsqrt_is_not_the_reciprocal_of_the_root() -> None:
    x = np.float32(generator(8).uniform(0.5, 4, SIZE))
    root = traced(lax.rsqrt, x)
    assert differing(root, np.float32(1 / np.sqrt(x.astype(np.float64)))) > SIZE // 16
    assert differing(root, np.float32(1) / np.sqrt(x)) > SIZE // 16
    assert differing(traced(jnp.sqrt, x), np.sqrt(x)) == 0


def test_root_and_division_in_two_stated_steps() -> None:
    x = np.float32(generator(8).uniform(0.5, 4, SIZE))
    root = same_everywhere("square_root", x)
    assert_same_bits(same_everywhere("divide", np.ones_like(x), root), np.float32(1) / np.sqrt(x))


# Transcendental functions


@on_cpu
@pytest.mark.parametrize("function", ["exp", "tanh", "log"])
def test_libraries_disagree_on_transcendental_functions(function: str) -> None:
    x = FP16_POSITIVE[::8] if function == "log" else FP16_POSITIVE[FP16_POSITIVE < 8][::8]
    assert differing(traced(getattr(jnp, function), x), getattr(np, function)(x)) > len(x) // 100


@pytest.mark.parametrize("function", ["exp", "log", "erf"])
def test_transcendental_functions_of_this_project_agree(function: str) -> None:
    x = np.concatenate([FP16_POSITIVE[::8], -FP16_POSITIVE[::8]])
    values = same_everywhere(function, x)
    assert len(np.unique(values[np.isfinite(values)])) > 1000


def test_no_float32_logarithm_rounds_to_the_fp16_one() -> None:
    """ln of this fp16 lies so near a tie that float32 rounds it onto the tie."""
    x = np.array([0x1D78], np.uint16).view(np.float16)
    with mpmath.workprec(200):
        exact = mpmath.log(mpmath.mpf(float(x[0])))
        quantum = mpmath.mpf(2) ** -8  # of fp16 in [4, 8)
        expected = np.float32(float(mpmath.nint(exact / quantum) * quantum))
    assert 4 < -expected < 8
    wide = x.astype(np.float32)
    correct_in_float32 = np.float32(float(exact))
    for float32_log in (traced(jnp.log, wide), same_everywhere("log", wide), correct_in_float32):
        assert abs(np.float32(np.float16(float32_log)) - expected) == np.float32(2.0**-8)
    assert pr.round_to(np.log(x.astype(np.float64)), pr.FP16) == expected


# Sums


@on_cpu
@pytest.mark.parametrize("function", ["sum", "mean"])
def test_libraries_sum_in_their_own_orders(function: str) -> None:
    x = normal(9, 1000, 16)
    in_jax = traced(lambda x: getattr(jnp, function)(x, axis=-1), x)
    assert differing(in_jax, getattr(np, function)(x, axis=-1)) > 250


@on_cpu
def test_libraries_multiply_matrices_in_their_own_orders() -> None:
    a, b = normal(9, 16, 1000), normal(10, 1000, 16)
    in_blas = a @ b
    assert differing(np.einsum("ij,jk->ik", a, b), in_blas) > 64
    assert differing(traced(jnp.matmul, a, b), in_blas) > 0


def test_sums_in_a_stated_order_agree() -> None:
    a, b = normal(9, 16, 100), normal(10, 100, 16)
    assert_same_bits(same_everywhere("tree_sum", a), neighbour_tree(a))
    assert_same_bits(matmul_everywhere(a, b, accumulator="fp32_mul_add"), sequential(a, b))
    a, b = pr.round_to(a, "fp16"), pr.round_to(b, "fp16")  # products that float32 holds exactly
    assert_same_bits(matmul_everywhere(a, b, inputs="fp16"), sequential(a, b))


def neighbour_tree(x: np.ndarray) -> np.ndarray:
    """(..., k) -> (...), k padded to a power of two with -0."""
    padding = (1 << (x.shape[-1] - 1).bit_length()) - x.shape[-1]
    x = np.concatenate([x, np.full((*x.shape[:-1], padding), -0.0, np.float32)], axis=-1)
    while x.shape[-1] > 1:
        x = x[..., 0::2] + x[..., 1::2]
    return x[..., 0]


def halves_tree(x: np.ndarray) -> np.ndarray:
    """The other tree: i and i + k / 2; k a power of two."""
    while x.shape[-1] > 1:
        x = x[..., : x.shape[-1] // 2] + x[..., x.shape[-1] // 2 :]
    return x[..., 0]


def sequential(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(m, k) x (k, n) -> (m, n): product and sum rounded, k ascending from +0."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        total = total + a[:, k, None] * b[k]
    return total


@on_cpu
def test_tree_over_products_contracts() -> None:
    x = normal(11, 64, 64)

    def tree_of_squares(x: Any) -> Any:
        x = x * x
        while x.shape[-1] > 1:
            x = x[..., 0::2] + x[..., 1::2]
        return x[..., 0]

    assert differing(traced(tree_of_squares, x), neighbour_tree(x * x)) > 0


def test_tree_over_guarded_products_does_not() -> None:
    x = normal(11, 64, 64)
    jitted = traced(lambda x: arithmetic.tree_sum(arithmetic.multiply(x, x)), x)
    assert_same_bits(jitted, neighbour_tree(x * x))
    assert_same_bits(same_everywhere("tree_sum", x * x), neighbour_tree(x * x))


def test_splitting_a_sequential_sum_changes_it() -> None:
    a, b = normal(12, 16, 640), normal(13, 640, 16)
    halves = sequential(a[:, :320], b[:320]) + sequential(a[:, 320:], b[320:])
    assert differing(halves, sequential(a, b)) > 128


def test_splitting_a_tree_off_its_nodes_changes_it() -> None:
    x = normal(12, 256, 640)
    shards = np.stack([neighbour_tree(shard) for shard in np.split(x, 8, axis=1)], axis=1)  # of 80
    assert differing(neighbour_tree(shards), neighbour_tree(x)) > 64
    assert differing(halves_tree(x[:, :512]), neighbour_tree(x[:, :512])) > 64


def test_tree_may_be_split_into_aligned_blocks() -> None:
    x = normal(12, 256, 640)
    blocks = [same_everywhere("tree_sum", block) for block in np.split(x, 5, axis=1)]  # of 128 = 2^7
    assert_same_bits(same_everywhere("tree_sum", np.stack(blocks, axis=1)), neighbour_tree(x))


def test_sequential_sum_may_go_on_where_another_ended(backend: Executor) -> None:
    a, b = normal(12, 16, 640), normal(13, 640, 16)
    total = np.zeros((16, 16), np.float32)
    for part in (slice(320), slice(320, 640)):
        total = backend.call(continued_matmul, a[:, part], b[part], total)
    assert_same_bits(total, sequential(a, b))


def continued_matmul(a: Any, b: Any, c: Any, backend: str) -> Any:
    return pr.matmul(a, b, c=c, inputs=pr.FP32, accumulator="fp32_mul_add", backend=backend)


# Exponents

BELOW_POWERS = np.nextafter(np.float32(2.0) ** np.arange(-100, 101, dtype=np.float32), np.float32(0))


@on_cpu
def test_frexp_of_subnormals_is_wrong_in_jax() -> None:
    significand, exponent = jax.jit(jnp.frexp)(SUBNORMALS)
    right_significand, right_exponent = np.frexp(SUBNORMALS)
    wrong = (np.asarray(significand) != right_significand) | (np.asarray(exponent) != right_exponent)
    assert wrong.all()


@on_cpu
def test_floor_of_a_logarithm_is_not_the_exponent() -> None:
    exponents = np.frexp(BELOW_POWERS)[1] - 1
    for logarithm in (np.log2(BELOW_POWERS), traced(jnp.log2, BELOW_POWERS)):
        assert np.count_nonzero(np.floor(logarithm) != exponents) > 100


@on_cpu
def test_powers_of_two_are_not_all_exact_in_jax() -> None:
    exponents = np.arange(-126, 128, dtype=np.int32)
    exact = ((exponents + 127) << 23).view(np.float32)
    assert np.array_equal(exact, np.ldexp(np.float32(1), exponents))
    assert differing(traced(jnp.exp2, exponents.astype(np.float32)), exact) > 100


def test_exponents_from_bit_fields() -> None:
    x = np.concatenate([SUBNORMALS, BELOW_POWERS])
    expected = np.frexp(x)[1] - 1 + 149
    assert np.array_equal(traced(bits.exponent_index, x.view(np.uint32)), expected)
    assert np.array_equal(bits.exponent_index(x.view(np.uint32)), expected)
    assert [words["exponent_index"](u) for u in x.view(np.uint32)] == expected.tolist()


# Fused multiply-add of 16-bit formats through a wider one


def exact_fma(codes: tuple[int, int, int], fmt: str) -> int:
    a, b, c = (oracles.value_of_code(code, fmt) for code in codes)
    return oracles.code_of(oracles.rounded(oracles.total(oracles.product(a, b), c), fmt), fmt)


def fma_through(wide: type, codes: tuple[int, int, int], narrow: Any) -> int:
    a, b, c = np.array(codes, np.uint16).view(narrow).astype(wide)
    return int(np.asarray(a * b + c).astype(narrow).view(np.uint16))


@pytest.mark.parametrize(
    ("codes", "exact", "through_float32"),
    [
        ((0x520B, 0x00E9, 0x2FF6), 0x3001, 0x3000),
        ((0x5D00, 0x5802, 0x0001), 0x7903, 0x7902),  # 0x1.4p8 * 0x1.008p7 + 2^-24 = 0x1.40cp15
    ],
)
def test_fp16_fma_through_float32_is_wrong_and_through_float64_right(
    codes: tuple[int, int, int], exact: int, through_float32: int
) -> None:
    assert exact_fma(codes, "fp16") == exact
    assert fma_through(np.float32, codes, np.float16) == through_float32
    assert fma_through(np.float64, codes, np.float16) == exact


def test_fp16_fma_through_float64_on_drawn_codes() -> None:
    for codes in generator(14).integers(0, 0x7C00, (1000, 3)).tolist():
        with np.errstate(over="ignore"):
            assert fma_through(np.float64, codes, np.float16) == exact_fma(codes, "fp16"), codes


@pytest.mark.parametrize("wide", [np.float32, np.float64])
def test_bf16_fma_through_a_wider_float_is_wrong(wide: type) -> None:
    codes = (0x3F81, 0x3FC0, 0xA180)
    assert exact_fma(codes, "bf16") == 0x3FC1
    assert fma_through(wide, codes, ml_dtypes.bfloat16) == 0x3FC2


def test_bf16_fma_rounded_to_float32_on_the_way_is_wrong_however_exact_the_sum() -> None:
    a, b, c = (np.uint32(code << 16) for code in (0x3F81, 0x3FC0, 0xA180))
    in_float32 = soft_float.fused_multiply_add(np.array([a]), np.array([b]), np.array([c]))
    exact = oracles.fused_multiply_add(*map(oracles.read, (a, b, c)))
    assert in_float32 == oracles.write(exact)
    assert pr.encode(in_float32.view(np.float32), "bf16") == 0x3FC2


# One source on every executor


def test_jax_has_no_room_for_a_python_integer_beyond_31_bits() -> None:
    u = jnp.arange(3, dtype=jnp.uint32)
    with pytest.raises(OverflowError):
        u & 0x80000000
    assert (u & np.uint32(0x80000000)).dtype == np.uint32


def plus_one(x):
    return x + 1


def test_numba_widens_a_word_and_numpy_and_jax_wrap_it() -> None:
    top = np.array([0xFFFFFFFF], np.uint32)
    assert numba.njit(plus_one)(top[0]) == 1 << 32
    assert plus_one(top) == 0
    assert traced(plus_one, top) == 0


def test_compiled_words_wrap(tmp_path: Path) -> None:
    compiled = compile_words(module_of("def plus_one(x):\n    return x + 1\n", tmp_path))["plus_one"]
    assert compiled(np.uint32(0xFFFFFFFF)) == 0
    compiled.compile((numba.uint32,))
    assert compiled.nopython_signatures[0].return_type == numba.uint32


def module_of(source: str, folder: Path) -> ModuleType:
    path = folder / "operators.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("operators", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["order_key", "exponent_index"])
def test_every_word_of_the_kernels_stays_32_bits_wide(name: str) -> None:
    words[name].compile((numba.uint32,))
    assert {signature.return_type for signature in words[name].nopython_signatures} == {numba.uint32}


def test_numba_has_no_float16_on_a_cpu() -> None:
    with pytest.raises(NotImplementedError, match="float16"):
        numba.njit(plus_one)(np.float16(1))


def ordered_sum(x):
    total = x[0]
    for i in range(1, x.size):
        total += x[i]
    return total


def test_fastmath_reassociates_in_numba_and_without_it_the_order_stands() -> None:
    x = normal(15, 64, 640)
    in_order = np.cumsum(x, axis=1, dtype=np.float32)[:, -1]
    plain, fast = numba.njit(ordered_sum), numba.njit(fastmath=True)(ordered_sum)
    assert differing([plain(row) for row in x], in_order) == 0
    assert differing([fast(row) for row in x], in_order) > 0
