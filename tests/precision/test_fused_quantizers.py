"""Quantizing, dequantizing and scaling in one pass against the composed steps on NumPy: the same bits.

The composed steps are tested against the definition elsewhere; here the kernels are held to them on more patterns,
shapes and schemes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import EDGES, drawn, generator, sprinkled

import precision as pr
from precision.backends import get_backend
from precision.backends.numba_ import quantizers as fused
from precision.backends.numba_.compilation import Kernel
from precision.quantization import products
from precision.quantization.quantizers import quantized_parts
from precision.quantization.scheme import VECTOR, Clipping, MatmulScheme, QScheme, Tiles
from precision.quantization.schemes import SCHEMES

NUMPY, NUMBA = get_backend("numpy"), get_backend("numba")
PATTERNS = st.integers(0, 0xFFFFFFFF)
TORCHAO = replace(
    VECTOR,
    bound=127.5,
    lowest=-128,
    scale_step="division",
    quotient="inverse",
    tiny="least_scale",
    threshold=2.0**-23,
)
RULES = {
    "int8": VECTOR,
    "int4": replace(VECTOR, bits=4),
    "int2": replace(VECTOR, bits=2),  # 1 / a may be subnormal
    "least": replace(VECTOR, lowest=-128, bound=128.0),
    "unit": replace(VECTOR, quotient="unit"),
    "inverse": replace(VECTOR, quotient="inverse"),
    "division": replace(VECTOR, scale_step="division", quotient="inverse", bound=127.5, lowest=-128),
    "absmax": replace(VECTOR, scale_step="absmax", quotient="unit"),
    "threshold": replace(VECTOR, threshold=0.5),
    "one": replace(VECTOR, tiny="one", quotient="inverse"),
    "absmax_one": replace(VECTOR, tiny="absmax_one", threshold=1e-6),
    "least_absmax": replace(VECTOR, tiny="least_absmax", threshold=1e-5),
    "torchao": TORCHAO,
}
TILINGS: dict[str, dict[str, Any]] = {
    "vector": {},
    "row": {"granularity": "row"},
    "column": {"granularity": "column"},
    "tensor": {"granularity": "tensor"},
    "group": {"granularity": "group", "group": 8},
    "ragged": {"granularity": "group", "group": 7},
    "single": {"granularity": "group", "group": 1},
}


@pytest.fixture(params=["serial", "parallel"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One thread, then all, whatever the number of values."""
    monkeypatch.setattr(Kernel, "PARALLEL_FROM", 0 if request.param == "parallel" else 1 << 62)
    return request.param


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of large arrays for small ones."""
    for name in ("LONG_RUN", "PART", "LEAST_ROWS", "CACHED"):
        monkeypatch.setattr(fused, name, 16)
    monkeypatch.setattr(fused, "NARROW", 3)


def words(shape: tuple[int, ...], seed: int = 31) -> np.ndarray:
    """Rows of one range each: ordinary, tiny, huge, subnormal, zero, some with NaN and infinity."""
    rng = generator(seed)
    flat = int(np.prod(shape[:-1])), shape[-1] if shape else 1
    ranges = ((110, 130), (0, 20), (14, 16), (0, 1), (240, 254), (126, 127))
    rows = [drawn(rng, (1, flat[1]), ranges[i % len(ranges)]) for i in range(flat[0])]
    whole = np.concatenate([*rows, np.zeros((0, flat[1]), np.uint32)])
    whole[3::7] &= np.uint32(0x80000000)
    whole[5::11] = sprinkled(rng, whole[5::11], 0.1)
    return whole.reshape(shape)


def agree(x: np.ndarray, scheme: QScheme, tiles: Tiles) -> None:
    quantizer = NUMBA.fused_quantizer(scheme, tiles)
    assert quantizer is not None
    wanted = quantized_parts(NUMPY, x, scheme, tiles)
    codes, scale = quantizer(x)
    assert codes.dtype == np.int8
    assert_same_bits(codes, wanted["codes"])
    assert_same_bits(scale, wanted["scale"])


def agree_along(x: np.ndarray, scheme: QScheme) -> None:
    for axis in range(-max(x.ndim, 1), 0):
        agree(x, scheme, scheme.tiles(x.ndim, axis))


# Which schemes and tiles


def test_which_rules_are_fused() -> None:
    assert all(fused.words_of(scheme) is not None for scheme in RULES.values())
    others: list[dict[str, Any]] = [
        {"symmetric": False},
        {"clamps": False},
        {"rounding": "stochastic"},
        {"rounding": "toward_zero"},
        {"clipping": Clipping(method="mse")},
        {"arithmetic": "bf16"},
        {"scale_format": "fp16", "quotient": "inverse"},
        {"inverse_format": "fp16", "quotient": "inverse"},
        {"quotient": "scale"},
        {"quotient": "approximate", "source": "fp16"},
        {"threshold": 2.0**-113},
        {"bound": 128.5},
        {"bound": 0.5},
    ]
    assert [fused.words_of(replace(VECTOR, **change)) for change in others] == [None] * len(others)


def test_which_tiles_are_fused() -> None:
    known: list[Tiles] = [(None,), (1, None), (None, 1), (1, 1, None), (1, None, 1), (None, 1, 1), (1, 128), (7, 1),
                          (1, 1), (None,) * 3, ()]  # fmt: skip
    assert all(NUMBA.fused_quantizer(VECTOR, tiles) is not None for tiles in known)
    composed: list[Tiles] = [(16, 16), (None, None, 1), (1, None, None)]
    assert all(NUMBA.fused_quantizer(VECTOR, tiles) is None for tiles in composed)
    assert NUMPY.fused_quantizer(VECTOR, (1, None)) is None


def test_named_schemes_agree() -> None:
    """Every scheme by name, fused or not."""
    x = words((48, 40)).view(np.float32)
    with np.errstate(all="ignore"):
        for scheme, axis in product(SCHEMES.values(), (-1, -2)):
            one = scheme.x if axis == -1 else scheme.w
            if isinstance(one, QScheme):
                found, wanted = (
                    pr.quantize(x, one, axis=axis, nonfinite="propagate", backend=name) for name in ("numba", "numpy")
                )
                assert_same_bits(found.codes, wanted.codes)
                assert_same_bits(found.scale, wanted.scale)


# The same bits


@pytest.mark.thinned(0.25)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("rule", RULES)
def test_rules_and_tiles(rule: str, tiling: str) -> None:
    agree_along(words((44, 39)).view(np.float32), replace(RULES[rule], **TILINGS[tiling]))


@pytest.mark.thinned(0.34)
@pytest.mark.usefixtures("threads", "short_parts")
@pytest.mark.parametrize("tiling", TILINGS)
def test_kernels_of_large_arrays(tiling: str) -> None:
    scheme = replace(VECTOR, **TILINGS[tiling])
    for shape in ((44, 39), (3, 50, 17), (2, 33), (60, 2), (500,)):
        if len(shape) > 1 or tiling != "column":
            agree_along(words(shape, 32).view(np.float32), scheme)


@pytest.mark.usefixtures("threads")
def test_large_arrays() -> None:
    """As large as the thresholds say, with a NaN in one column and one row."""
    x = words((1100, 300), 33).view(np.float32)
    x[700, 8] = np.nan
    for tiling in ("vector", "group"):
        agree_along(x, replace(VECTOR, **TILINGS[tiling]))
    long = np.where(np.isfinite(x), x, np.float32(1)).reshape(3, -1)
    for scheme in (
        VECTOR,
        replace(VECTOR, granularity="tensor"),
        replace(VECTOR, granularity="group", group=1 << 16),
    ):
        agree(long, scheme, scheme.tiles(2, -1))


@pytest.mark.usefixtures("threads")
def test_odd_lengths() -> None:
    """Every remainder of a vector register."""
    for n in range(1, 71):
        x = words((3, n), n).view(np.float32)
        agree_along(x, VECTOR)
        agree_along(np.ascontiguousarray(x.T), VECTOR)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("shape", [(0,), (1,), (0, 3), (3, 0), (0, 0), (2, 0, 3), (2, 3, 0), (1, 1, 1), (2, 5, 1, 3)])
def test_empty_and_single_axes(shape: tuple[int, ...], tiling: str) -> None:
    if len(shape) > 1 or tiling != "column":
        for rule in ("int8", "absmax_one"):
            agree_along(words(shape, 34).view(np.float32), replace(RULES[rule], **TILINGS[tiling]))


def test_a_single_value_without_axes() -> None:
    scheme = replace(VECTOR, granularity="tensor")
    for value in (0.0, -3.0, np.nan, np.inf):
        agree(np.array(value, np.float32), scheme, ())


def test_any_layout() -> None:
    x = words((40, 30), 35).view(np.float32)
    x.flags.writeable = False
    for same in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1, ::-1], x.T):
        agree_along(same, VECTOR)
        agree_along(same, replace(VECTOR, granularity="tensor"))


@pytest.mark.parametrize("rule", RULES)
def test_every_edge_with_every_absmax(rule: str) -> None:
    """Rows of an edge, a second one that sets the absmax and what lies near halfway between codes."""
    edges = EDGES[(EDGES & 0x7FFFFFFF) < 0x7F800000]
    top, other = (grid.reshape(-1, 1) for grid in np.meshgrid(edges, edges))
    halves = np.float32([0.5, 1.5, 63.5, 126.5]) / np.float32(127)
    with np.errstate(all="ignore"):
        near = (top.view(np.float32) * halves).view(np.uint32)
    rows = np.concatenate([top, other, near, near + np.uint32(1), near - np.uint32(1)], axis=1)
    x = rows.view(np.float32)
    x = np.where(np.isfinite(x), x, np.float32(0))
    agree(x, RULES[rule], (1, None))
    agree(np.ascontiguousarray(x.T), RULES[rule], (None, 1))


def test_ties() -> None:
    """x = q / 2 with an absmax of 127: every halfway point, and the floats beside it."""
    halves = (np.arange(-254, 255, dtype=np.float32) / 2).view(np.uint32)
    x = np.concatenate([halves, halves + np.uint32(1), halves - np.uint32(1)]).view(np.float32)
    x = np.where(np.abs(x) <= 127, x, np.float32(0))[None]
    agree(x, VECTOR, (1, None))
    codes = NUMBA.fused_quantizer(VECTOR, (1, None))(x[:, :509])[0][0]
    assert codes.tolist() == np.rint(x[0, :509]).astype(int).tolist()


@given(st.lists(PATTERNS, min_size=1, max_size=40), st.sampled_from(sorted(RULES)))
@example([0x07800000, 0x00000001], "int8")  # 2^-112, the smallest absmax with a scale
@example([0x077FFFFF, 0x807FFFFF], "int8")
@example([0x7F7FFFFF, 0x00800000, 0x80000000], "int2")
@example([0x7FC00000, 0x3F800000], "one")
@example([0xFF800000, 0x7F7FFFFF], "absmax_one")
def test_any_patterns(patterns: list[int], rule: str) -> None:
    x = np.array(patterns, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        agree(x, RULES[rule], (None,))
        agree(np.stack([x, x[::-1]], axis=1), RULES[rule], (None, 1))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("rule", "top"), [("int8", 0x42FE0000), ("torchao", 0x3F9D3A2B)])
def test_every_pattern(rule: str, top: int) -> None:
    """Every float32 of at most some absmax, in pieces that all begin with it."""
    piece = 1 << 20
    for first in range(0, top + 1, piece):
        magnitudes = np.arange(first, min(first + piece, top + 1), dtype=np.uint32)
        both = np.concatenate([np.array([top], np.uint32), magnitudes, magnitudes | np.uint32(1 << 31)])
        agree(both.view(np.float32), RULES[rule], (None,))


# Scales


def same_values(q: Any) -> None:
    assert_same_bits(q.dequantize(backend="numba"), q.dequantize(backend="numpy"))


@pytest.mark.thinned(0.25)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("tiling", [*TILINGS, "block"])
def test_dequantize(tiling: str) -> None:
    """Scales of every size, those that make subnormal products among them."""
    scheme = replace(VECTOR, **TILINGS.get(tiling, {"granularity": "block", "group": 8}))
    for shape in ((44, 39), (3, 18, 10), (2, 3, 4, 5), (9,), (0, 3), (3, 0), (1, 1)):
        if len(shape) > 1 or tiling not in ("column", "block"):
            for axis in range(-len(shape), 0):
                q = pr.quantize(words(shape, 36).view(np.float32), scheme, axis=axis, nonfinite="propagate")
                scale = drawn(generator(37), q.scale.shape, (0, 254)).view(np.float32)
                for one in (q, replace(q, scale=scale)):
                    same_values(one)
                    same_values(one.T)


@pytest.mark.parametrize(
    "change",
    [{"clamps": False}, {"symmetric": False}, {"scale_step": "absmax", "quotient": "unit"}, {"arithmetic": "bf16"}],
)
def test_dequantize_other_schemes(change: dict[str, Any]) -> None:
    x = words((20, 21), 38).view(np.float32)
    same_values(pr.quantize(x, replace(VECTOR, **change), axis=-1, nonfinite="propagate", backend="numpy"))


@pytest.mark.thinned(0.4)
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("exponents", [(0, 254), (64, 254), (0, 70)])
def test_sums_are_scaled_in_place(exponents: tuple[int, int]) -> None:
    """Every int32 pattern may be a sum; scales of every size, of sizes whose products are normal, tiny ones."""
    rng = generator(39)
    for batches, m, n in ((1, 7, 33), (2, 5, 1), (3, 1, 40), (1, 0, 4), (1, 4, 0)):
        sums = rng.integers(-(1 << 31), 1 << 31, (batches, m, n)).astype(np.int32)
        sums[:, ::2] >>= 20
        for lead in (batches, 1):
            rows, columns = (drawn(rng, shape, exponents).view(np.float32) for shape in ((lead, m, 1), (lead, 1, n)))
            rows[:, ::5], columns[:, :, 3::6], columns[:, :, 4::9] = 0, np.nan, -0.0
            agree_in_scaling(sums, rows, columns)
            agree_in_scaling(sums, np.float32([[[0.75]]]), columns)


def agree_in_scaling(sums: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    wanted = NUMPY.multiply(NUMPY.multiply(NUMPY.asarray(sums), rows), columns)
    given_up = sums.copy()
    found = NUMBA.fused_scaler()(given_up, rows, columns)
    assert_same_bits(found, wanted)
    assert found.size == 0 or np.shares_memory(found, given_up)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.integer])
def test_integer_products(name: str) -> None:
    """Operands stay as they are, and results are those of the composed steps."""
    rng = generator(40)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 9, 24), (24, 17)))
    scheme: MatmulScheme = SCHEMES[name]
    found, wanted = (
        pr.quantized_matmul(x, w, scheme=scheme, output="fp32", bias=w[0], backend=each)
        for each in ("numba", "numpy")
    )
    assert_same_bits(found, wanted)
    if scheme.threshold is None:
        qx, qw = pr.quantize(x, scheme, axis=-1), pr.quantize(w, scheme, axis=-2)
        before = qx.codes.copy(), qw.codes.copy()
        again = pr.quantized_matmul(qx, qw, scheme=scheme, output="fp32", bias=w[0], backend="numba")
        assert_same_bits(again, wanted)
        assert_same_bits(qx.codes, before[0])
        assert_same_bits(qw.codes, before[1])


MIXED = [name for name, scheme in SCHEMES.items() if scheme.threshold is not None]


@pytest.mark.parametrize("name", MIXED)
def test_columns_of_zeros_are_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of zeros too: sums that are -0 or vanish, outliers next to zeros, first and last columns, all or none."""
    rng = generator(41)
    x = rng.choice(np.array([-0.0, 0.0, 7.0, -8.0, 1e-30, -1e-30, 0.5], np.float32), (11, 16))
    w = rng.choice(np.array([-0.0, 0.0, 1.0, -1.0, -1e-38, 6e-8], np.float32), (16, 13))
    small = np.abs(x).clip(0, 1) * np.sign(x)
    cases = [x, small, np.copysign(np.float32(9), x)]
    for columns in ([0], [15], [3, 4, 11], list(range(1, 16))):
        case = small.copy()
        case[:, columns] = x[:, columns]
        case[0, columns] = 7
        cases.append(case)
    for case in cases:
        found = pr.quantized_matmul(case, w, scheme=name, output="fp32", backend="numba")
        with monkeypatch.context() as patch:
            patch.setattr(products, "_without_zeros", lambda _how, x, w, _columns: (x, w))
            wanted = pr.quantized_matmul(case, w, scheme=name, output="fp32", backend="numpy")
        assert_same_bits(found, wanted)


# NaN and infinity


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize("name", ["numpy", "numba", "jax"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "change", [{}, {"symmetric": False}, {"clipping": Clipping(method="percentile")}, {"arithmetic": "bf16"}]
)
def test_nonfinite_values_are_found_by_their_scales(change: dict[str, Any], value: float, name: str) -> None:
    x = np.ones((4, 5), np.float32)
    x[2, 3] = value
    with pytest.raises(ValueError, match=r"^x\[2, 3\] is -?(nan|inf), .* x\[2, :\] has no scale"):
        pr.quantize(x, replace(VECTOR, **change), axis=-1, backend=name)
    with pytest.raises(ValueError, match=r"^x\[2, 3\] is "):
        pr.quantize(x, replace(VECTOR, **change), axis=-1, limits=1.0, backend=name)
