"""The parts of a quantized product's error against their definition in fractions, element by element."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from hypothesis import assume, example, given
from hypothesis import strategies as st
from reals import of_float
from strategies import drawn, generator

import precision as pr

M, K, N = 5, 6, 4
PARTS = ("x_rounding", "x_clipping", "w_rounding", "w_clipping", "cross", "output_rounding")

# Operands


def ordinary() -> tuple[np.ndarray, np.ndarray]:
    """Normal values, one outlier column in x; halves of the step, which tie, in the first row."""
    rng = generator(1)
    x, w = rng.normal(size=(M, K)).astype(np.float32), rng.normal(size=(K, N)).astype(np.float32)
    x[:, 2] *= 20
    x[0] = [127, 0.5, 1.5, -2.5, 63.5, -126.5]
    return x, w


def hard() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of zeros, of subnormals, at the least absmax, of every exponent between."""
    x = drawn(generator(2), (M, K), (100, 130)).view(np.float32).copy()
    w = drawn(generator(3), (K, N), (110, 128)).view(np.float32).copy()
    x[0], x[1], w[:, 0] = 0, [2.0**-149, -(2.0**-140), 2.0**-127, 0, -0.0, 2.0**-130], 0
    x[2] = [2.0**-112, 2.0**-113, -(2.0**-119), 2.0**-149, -(2.0**-112), 2.0**-118]
    w[:, 1] = [2.0**-20, 1, -1, 2.0**-149, 2.0**-8, 2.0**-9]
    return x, w


OPERANDS = {"ordinary": ordinary(), "hard": hard()}
VECTOR = pr.parse_scheme("int8_vectorwise").x
AFFINE = replace(VECTOR, name="affine_groups", symmetric=False, granularity="group", group=4)
POWERS = replace(VECTOR, name="powers", scale_format="e8m0", scale_step="division", quotient="scale")
LEAST_SQUARES = replace(VECTOR, name="least_squares", bits=4, clipping=pr.Clipping(method="mse"))
NAMED = (
    "int8_vectorwise", "int8_tensorwise", "int8_rowwise", "int8_affine", "int8_group4_vectorwise", "int4_group2",
    "int8_weight_only", "int4_columnwise_weight_only", "int8_kv", "llm_int8", "torchao", "torchao_fp16", "qwix_bf16",
    "aqt", "bnb_cpu", "bnb_cuda", "bnb_cpu_mixed", "bnb_cuda_mixed", "smoothquant",
)  # fmt: skip
SCHEMES = tuple(map(pr.parse_scheme, NAMED)) + tuple(
    pr.MatmulScheme(name=q.name, x=q, w=q, **facts)
    for q, facts in ((AFFINE, {}), (POWERS, {}), (LEAST_SQUARES, {}), (POWERS, {"integer": False, "working": "bf16"}))
)

# The definition


def exact(x: Any) -> np.ndarray:
    """Finite floats as fractions."""
    x = np.asarray(x)
    return np.array([Fraction(float(v)) for v in x.ravel()] + [None], object)[:-1].reshape(x.shape)


def cast(x: np.ndarray, fmt: str) -> np.ndarray:
    """Fractions rounded once."""
    rounded = [oracles.rounded(oracles.real(v), fmt) for v in x.ravel()]
    return np.array([-r.magnitude if r.negative else r.magnitude for r in rounded], object).reshape(x.shape)


def of_codes(q: Any) -> tuple[np.ndarray, np.ndarray]:
    """(what the codes stand for, what clipping leaves of any x as a function): of each element by its own index."""
    codes, scale = np.asarray(q.codes), np.asarray(q.scale)
    zeros = np.zeros(scale.shape, np.int32) if q.zero_point is None else np.asarray(q.zero_point)
    values, ends = np.empty(codes.shape, object), np.empty((*codes.shape, 2), object)
    for index in np.ndindex(codes.shape):
        tile = tuple(0 if edge is None else i // edge for i, edge in zip(index, q.tiles, strict=True))
        worth, zero, code = Fraction(float(scale[tile])), int(zeros[tile]), int(codes[index])
        if q.scheme.scale_step == "absmax":
            worth *= Fraction(float(np.float32(1) / np.float32(127)))
        values[index] = worth * (code - zero)
        least, largest = q.scheme.least, q.scheme.largest
        clips = q.scheme.clamps and worth > 0
        ends[index] = (
            worth * (least - zero) if clips and code == least else None,
            worth * (largest - zero) if clips and code == largest else None,
        )
    return values, ends


def clipped(x: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """clamp(x) - x at codes that stand at an end."""
    result = np.empty(x.shape, object)
    for index in np.ndindex(x.shape):
        low, high = ends[index]
        value = x[index] if low is None else max(x[index], low)
        result[index] = (value if high is None else min(value, high)) - x[index]
    return result


class Side:
    """One operand: x, what stands for it, its clipping and its rounding, in fractions."""

    def __init__(self, x: np.ndarray, stands_for: np.ndarray, clipping: Any) -> None:
        self.x, self.stands_for = exact(x), stands_for
        self.clipping = clipping + 0 * self.x
        self.error = self.stands_for - self.x
        self.rounding = self.error - self.clipping


def quantized_side(x: np.ndarray, q: Any) -> Side:
    values, ends = of_codes(q)
    return Side(x, values, clipped(exact(x), ends))


def sides(x: np.ndarray, w: np.ndarray, scheme: Any, qx: Any = None, qw: Any = None) -> tuple[Side, Side]:
    """Both operands under a scheme, or as the codes given."""
    if scheme.threshold is not None:
        return mixed_sides(x, w, scheme)
    found = []
    for v, part, q, axis in ((x, scheme.x, qx, -1), (w, scheme.w, qw, -2)):
        if part is None:
            found.append(Side(v, cast(exact(v), scheme.working), 0))
            continue
        q = pr.quantize(v, part, axis=axis, backend="numpy") if q is None else q
        side = quantized_side(v, q)
        if not scheme.integer:
            side = Side(v, cast(exact(q.dequantize(backend="numpy")), scheme.working), side.clipping)
        found.append(side)
    return found[0], found[1]


def mixed_sides(x: np.ndarray, w: np.ndarray, scheme: Any) -> tuple[Side, Side]:
    large = np.abs(x) >= scheme.threshold
    columns = large.any(axis=0)
    left_out = large if scheme.absmax_of == "values" else columns
    qx = pr.quantize(np.where(left_out, np.float32(0), x), scheme.x, axis=-1, backend="numpy")
    qw = pr.quantize(w, scheme.w, axis=-2, backend="numpy")
    left, right = quantized_side(x, qx), quantized_side(w, qw)
    original = scheme.outlier_weights == "original"
    weights = cast(exact(w if original else qw.dequantize(backend="numpy")), scheme.working)
    rows = columns[:, None] & np.ones(w.shape, bool)
    return (
        Side(
            x, np.where(columns, cast(exact(x), scheme.working), left.stands_for), np.where(columns, 0, left.clipping)
        ),
        Side(w, np.where(rows, weights, right.stands_for), np.where(rows & original, 0, right.clipping)),
    )


def parts_of(left: Side, right: Side, y: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "x_rounding": left.rounding @ right.x,
        "x_clipping": left.clipping @ right.x,
        "w_rounding": left.x @ right.rounding,
        "w_clipping": left.x @ right.clipping,
        "cross": left.error @ right.error,
        "output_rounding": exact(y) - left.stands_for @ right.stands_for,
    }


def words(x: np.ndarray) -> np.ndarray:
    """Fractions rounded once to float32; a zero is +0."""
    found = oracles.write_all(oracles.rounded(oracles.real(v), "fp32") for v in x.ravel()).reshape(x.shape)
    return np.where(found == 1 << 31, np.uint32(0), found)


def check(record: pr.ProductError, left: Side, right: Side, y: np.ndarray) -> None:
    parts = parts_of(left, right, y)
    true, error = left.x @ right.x, exact(y) - left.x @ right.x
    assert (sum(parts.values()) == error).all()
    assert tuple(record.parts) == PARTS
    for name in PARTS:
        assert_same_bits(record.parts[name], words(parts[name]))
    assert_same_bits(record.total, words(error))
    assert_same_bits(record.product, words(true))


# Parts


@pytest.mark.thinned(0.08)
@pytest.mark.parametrize("operands", OPERANDS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_parts_equal_the_definition(scheme: pr.MatmulScheme, operands: str, backend: Executor) -> None:
    x, w = OPERANDS[operands]
    record = pr.quantization_error(
        backend.array(x), backend.array(w), scheme=scheme, output="fp32", backend=backend.name
    )
    y = pr.quantized_matmul(x, w, scheme=scheme, output="fp32", backend="numpy")
    check(record, *sides(x, w, scheme), y)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("k", [K, 8, 9])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_products_are_near_those_of_what_stands_for_the_operands(scheme: pr.MatmulScheme, k: int) -> None:
    """Whatever the groups of k are: a relative 2^-20 where sums stay in float32, 2^-7 through bf16 or fp16.

    bitsandbytes on a CPU multiplies by 6.200124e-5 for 1 / 127^2, 2^-15.8 above it.
    """
    rng = generator(k)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((M, k), (k, N)))
    x[:, 0] *= 9
    record = pr.quantization_error(x, w, scheme=scheme, output="fp32")
    left, right = sides(x, w, scheme)
    sizes = (np.abs(left.stands_for) @ np.abs(right.stands_for)).astype(np.float64)
    narrow = {scheme.converted, scheme.partial, scheme.working if scheme.threshold else "fp32"} - {"fp32"}
    bits = 7 if narrow else 15 if scheme.dequantization == "bnb_cpu" else 20
    assert (np.abs(record.parts["output_rounding"]) <= sizes * 2.0**-bits).all()


def test_groups_of_other_lengths_do_not_multiply() -> None:
    """Also where there are as many of them."""
    x, w = ordinary()
    scheme = pr.MatmulScheme(
        name="groups", x=replace(AFFINE, group=3), w=replace(VECTOR, granularity="group", group=4)
    )
    with refuses(ValueError, "x and w have groups of 4 and 3 along k; quantize both in groups of one length"):
        pr.quantized_matmul(x, w, scheme=scheme)


@pytest.mark.parametrize("output", ["fp16", "bf16", "fp32"])
def test_output_formats(output: str) -> None:
    x, w = ordinary()
    record = pr.quantization_error(x, w, output=output)
    check(record, *sides(x, w, record.scheme), pr.quantized_matmul(x, w, output=output))
    assert record.output == pr.parse_format(output)


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("limit", [1e-30, 0.7, 3.0, 1e30])
@pytest.mark.parametrize("scheme", ["int8_vectorwise", "int8_affine", "int4_group2_vectorwise"])
def test_codes_within_limits(scheme: str, limit: float) -> None:
    """From next to everything clipped to everything rounded to zero."""
    x, w = ordinary()
    chosen, limit = pr.parse_scheme(scheme), np.float32(limit)
    qx = pr.quantize(x, scheme, axis=-1, limits=(-limit / 2, limit) if scheme == "int8_affine" else limit)
    qw = pr.quantize(w, scheme, axis=-2, limits=limit)
    record = pr.quantization_error(x, w, scheme=scheme, quantized_x=qx, quantized_w=qw, output="fp32")
    y = pr.quantized_matmul(qx, qw, scheme=scheme, output="fp32")
    check(record, *sides(x, w, chosen, qx, qw), y)
    clips = np.abs(record.parts["x_clipping"]).sum()
    assert clips > 0 if limit < 100 else clips == 0


def test_quantized_weights_of_another_making() -> None:
    """Codes that are no nearest ones, as reconstruction of a layer's output chooses them."""
    x, w = ordinary()
    q = pr.quantize(w, "int8_weight_only", axis=-2)
    q = replace(q, codes=np.clip(q.codes + generator(5).integers(-3, 4, q.shape), -127, 127).astype(np.int8))
    record = pr.quantization_error(x, w, scheme="int8_weight_only", quantized_w=q, output="fp32")
    y = pr.quantized_matmul(x, q, scheme="int8_weight_only", output="fp32")
    check(record, *sides(x, w, record.scheme, qw=q), y)


float32s = st.builds(
    lambda sign, exponent, fraction: np.uint32(sign << 31 | exponent << 23 | fraction).view(np.float32),
    st.integers(0, 1), st.sampled_from([0, 1, 14, 15, 60, *range(120, 132), 186]), st.integers(0, (1 << 23) - 1),
)  # fmt: skip
MIXED = pr.MatmulScheme(name="mixed", x=AFFINE, w=LEAST_SQUARES, threshold=2.0**-110)


@pytest.mark.exhaustive
@given(
    values=st.lists(float32s, min_size=12, max_size=12),
    scheme=st.sampled_from([*(s for s in SCHEMES if "fp16" not in s.name and s.working != "bf16"), MIXED]),
)
@example(values=[np.float32(0)] * 12, scheme=MIXED)
@example(values=[np.float32(2.0**-149)] * 12, scheme=SCHEMES[0])
def test_parts_of_any_values(values: list[np.float32], scheme: pr.MatmulScheme) -> None:
    """Where a format inside overflows, and where an absmax scale reaches below float32, that is refused."""
    x, w = np.array(values[:6]).reshape(2, 3), np.array(values[6:]).reshape(3, 2)
    record = analysed(x, w, scheme)
    assume(record is not None)
    check(record, *sides(x, w, scheme), pr.quantized_matmul(x, w, scheme=scheme, output="fp32", backend="numpy"))


def analysed(x: np.ndarray, w: np.ndarray, scheme: pr.MatmulScheme) -> pr.ProductError | None:
    try:
        return pr.quantization_error(x, w, scheme=scheme, output="fp32", backend="numba")
    except ValueError as refusal:
        if not re.search("holds infinity or NaN|has no scale|bits below", str(refusal)):
            raise
        return None


# Shapes


@pytest.mark.parametrize("scheme", ["int8_vectorwise", "int8_tensorwise", "llm_int8", "int8_weight_only"])
def test_a_sample_of_rows_is_those_rows(scheme: str) -> None:
    x, w = generator(6).normal(size=(3, 4, K)).astype(np.float32), ordinary()[1]
    x[2, 3] *= 30
    whole = pr.quantization_error(x, w, scheme=scheme)
    assert whole.rows.tolist() == list(range(12))
    for rows, chosen in ((3, [0, 4, 8]), ([7, 2], [7, 2]), (12, range(12))):
        part = pr.quantization_error(x, w, scheme=scheme, rows=rows)
        assert part.rows.tolist() == list(chosen)
        for name in PARTS:
            assert_same_bits(part.parts[name], whole.parts[name][list(chosen)])
        assert_same_bits(part.total, whole.total[list(chosen)])
        assert part.worst_row[0] in chosen


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 0), (1, 1, 1)])
def test_small_shapes(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    record = pr.quantization_error(np.ones((m, k), np.float32), np.ones((k, n), np.float32))
    assert record.total.shape == (m, n)
    assert record.column_shares.shape == record.column_energy.shape == (k,)
    assert record.rmse >= 0


def test_many_rows_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = ordinary()
    whole = pr.quantization_error(x, w)
    monkeypatch.setattr("precision.quantization.expansions._OUTPUTS", 2 * N)
    for name, part in pr.quantization_error(x, w).parts.items():
        assert_same_bits(part, whole.parts[name])


# Figures


def energy(x: np.ndarray) -> Fraction:
    return (x * x).sum()


def test_figures() -> None:
    """Arrays of the record are off by 2^-24 a value: norms by as much of themselves, ratios by twice that.

    Squares of ratios, which decibels and shares are, by four times; inner products by that of their norms' product.
    """
    x, w = ordinary()
    record = pr.quantization_error(x, w)
    left, right = sides(x, w, record.scheme)
    y = exact(pr.quantized_matmul(x, w))
    true = left.x @ right.x
    error, parts = y - true, parts_of(left, right, pr.quantized_matmul(x, w))
    close = {"rel": 2.0**-23, "abs": 0}
    assert record.rmse == pytest.approx(math.sqrt(energy(error) / error.size), **close)
    assert record.sqnr_db == pytest.approx(10 * math.log10(energy(true) / energy(error)), abs=5 * 2.0**-22)
    assert record.relative == pytest.approx(math.sqrt(energy(error) / energy(true)), **close)
    for name, part in parts.items():
        assert record.relative_parts[name] == pytest.approx(math.sqrt(energy(part) / energy(true)), **close)
        within = 2.0**-22 * math.sqrt(energy(part) / energy(error))
        assert record.shares[name] == pytest.approx(float((part * error).sum() / energy(error)), abs=within, rel=0)
    sizes = sum(math.sqrt(energy(part) / energy(error)) for part in parts.values())
    assert sum(record.shares.values()) == pytest.approx(1, abs=2.0**-22 * sizes, rel=0)
    of_rows = [energy(error[i]) / energy(true[i]) for i in range(M)]
    of_columns = [energy(error[:, j]) / energy(true[:, j]) for j in range(N)]
    for (place, ratio), ratios in ((record.worst_row, of_rows), (record.worst_column, of_columns)):
        assert place == int(np.argmax(ratios))
        assert ratio == pytest.approx(math.sqrt(max(ratios)), **close)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_columns_account_for_all_but_the_output(scheme: pr.MatmulScheme) -> None:
    """In fractions the identity holds exactly; the record's floats are near."""
    x, w = ordinary()
    record = pr.quantization_error(x, w, scheme=scheme, output="fp32")
    y = pr.quantized_matmul(x, w, scheme=scheme, output="fp32")
    left, right = sides(x, w, scheme)
    error, output = exact(y) - left.x @ right.x, parts_of(left, right, y)["output_rounding"]
    of_columns = [
        np.outer(left.stands_for[:, j], right.stands_for[j]) - np.outer(left.x[:, j], right.x[j]) for j in range(K)
    ]
    shares = [(e * error).sum() / energy(error) for e in of_columns]
    assert sum(shares) == 1 - (output * error).sum() / energy(error)
    np.testing.assert_allclose(record.column_shares, [float(s) for s in shares], atol=2.0**-22)
    np.testing.assert_allclose(record.column_energy, [float(energy(e)) for e in of_columns], rtol=1e-9)
    assert sum(record.column_shares) == pytest.approx(1 - record.shares["output_rounding"], abs=2.0**-22)


def test_no_error_at_all() -> None:
    x, w = np.float32([[127, -3], [0, 0]]), np.float32([[127], [64]])
    record = pr.quantization_error(x, w, output="fp32", quantized_x=whole(x, -1), quantized_w=whole(w, -2))
    assert (record.rmse, record.sqnr_db, record.relative) == (0, math.inf, 0)
    assert set(record.shares.values()) == {0}
    assert (record.worst_row, record.worst_column) == ((0, 0), (0, 0))
    assert not record.column_shares.any()


def whole(x: np.ndarray, axis: int) -> pr.QArray:
    shape = (len(x), 1) if axis == -1 else (1, x.shape[1])
    return pr.QArray(codes=x.astype(np.int8), scale=np.ones(shape, np.float32), axis=axis)


def test_table_names_every_part() -> None:
    lines = pr.quantization_error(*ordinary()).table().splitlines()
    assert [line.split()[0] for line in lines] == ["part", *PARTS, "total"]
    assert float(lines[-1].split()[-1]) == 1
    assert "-0.0000" not in "".join(lines)


# Outlier columns


def spoilt() -> tuple[np.ndarray, np.ndarray]:
    rng = generator(8)
    x, w = rng.normal(size=(24, 32)).astype(np.float32), rng.normal(size=(32, 16)).astype(np.float32)
    x = np.clip(x, -3, 3)
    x[:, 5] *= 40
    x[3, 20] = -9
    x[7, 11] = 6
    return x, w


def test_keeping_outliers_out_is_what_llm_int8_does(backend: Executor) -> None:
    x, w = spoilt()
    columns = (np.abs(x) >= 6).any(axis=0)
    y = pr.quantized_matmul(backend.array(x), backend.array(w), apart=columns, backend=backend.name)
    assert_same_bits(y, pr.quantized_matmul(x, w, scheme="llm_int8", backend="numpy"))
    record = pr.quantization_error(backend.array(x), backend.array(w), backend=backend.name)
    found = record.outlier_columns()
    assert found.columns.tolist() == [5, 11, 20]
    other = pr.quantization_error(x, w, scheme="llm_int8")
    assert found.together == pytest.approx(1 - (other.rmse / record.rmse) ** 2, abs=2.0**-22, rel=0)
    np.testing.assert_array_equal(found.shares, record.column_shares[[5, 11, 20]])


@pytest.mark.parametrize(
    "scheme", ["int8_vectorwise", "int8_tensorwise", "int8_affine", "int4_group8_vectorwise", "bnb_cpu"]
)
def test_savings_are_of_products_without_one_column(scheme: str) -> None:
    x, w = spoilt()
    record = pr.quantization_error(x, w, scheme=scheme, rows=10)
    true = x.astype(np.float64) @ w.astype(np.float64)
    before = np.square(pr.quantized_matmul(x, w, scheme=scheme) - true)[record.rows].sum()
    found = record.outlier_columns(threshold=9.0)
    assert found.columns.tolist() == [5, 20]
    for j, saving in zip(found.columns, found.savings, strict=True):
        y = pr.quantized_matmul(x, w, scheme=scheme, apart=np.arange(32) == j)
        assert saving == pytest.approx(1 - np.square(y - true)[record.rows].sum() / before, abs=2.0**-22, rel=0)
    assert found.savings[0] > 0.3
    assert found.together > found.savings[1]


def test_columns_that_are_out_already_save_nothing() -> None:
    found = pr.quantization_error(*spoilt(), scheme="llm_int8").outlier_columns()
    assert found.columns.tolist() == [5, 11, 20]
    assert not found.savings.any()
    assert found.together == 0


@pytest.mark.parametrize("scheme", [MIXED, replace(MIXED, name="by_values", absmax_of="values")], ids=str)
def test_affine_columns_left_out_are_zero(scheme: pr.MatmulScheme) -> None:
    """The code of a zero is the zero point, not 0."""
    x, w = ordinary()
    scheme = replace(scheme, threshold=6.0)
    x[:, 0] += 5
    record = pr.quantization_error(x, w, scheme=scheme, output="fp32")
    check(record, *sides(x, w, scheme), pr.quantized_matmul(x, w, scheme=scheme, output="fp32"))
    assert record.relative_parts["output_rounding"] < 1e-3


# What is refused


def refuses(kind: type[Exception], text: str) -> Any:
    return pytest.raises(kind, match=re.escape(text))


def test_refusals() -> None:
    x, w = ordinary()
    with refuses(ValueError, "scheme mxfp8_e4m3 has elements that are no integer codes; name an integer scheme"):
        pr.quantization_error(x, w, scheme="mxfp8_e4m3")
    with refuses(ValueError, "in fp16 holds infinity or NaN"):
        pr.quantization_error(x * np.float32(1000), w * np.float32(1000))
    for rows in (0, M + 1):
        with refuses(ValueError, f"{rows} rows of {M}; ask for 1 to {M}"):
            pr.quantization_error(x, w, rows=rows)
    for rows in ([M], [-1], [0.5], [[0]]):
        with refuses(ValueError, f"no indices of {M} rows"):
            pr.quantization_error(x, w, rows=rows)
    spoilt_w = w.copy()
    spoilt_w[1, 2] = np.inf
    with refuses(ValueError, "w[1, 2] is inf, which has no error; mend it first"):
        pr.quantization_error(x, spoilt_w)
    with refuses(ValueError, "bits below 2^-149; scale the operands by a power of two"):
        scheme = replace(pr.parse_scheme("bnb_cpu"), x=replace(VECTOR, name="absmax", scale_step="absmax"))
        pr.quantization_error(x * np.float32(2.0**-100), w, scheme=scheme, output="fp32")
    with refuses(ValueError, "codes of x were given"):
        pr.quantization_error(x, w, quantized_x=pr.quantize(x, axis=-1)).outlier_columns()
    with refuses(ValueError, "has no integer product to leave columns out of"):
        pr.quantization_error(x, w, scheme="int8_weight_only").outlier_columns()
    with refuses(TypeError, "x is traced"):
        jax.jit(lambda x: pr.quantization_error(x, w).total)(jnp.asarray(x))


def test_finite_floats_are_read_exactly() -> None:
    assert exact(np.float32([0.1, -0.0])).tolist() == [of_float(float(np.float32(0.1))).magnitude, 0]
