"""The truncated fused dot product as vector code against its definition."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from bits_assertions import as_bits, assert_same_bits
from fused_oracle import TYPES, UNITS, reference
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from precision.accumulators import ACCUMULATORS, parse_accumulator
from precision.backends.numba_.fused import fused, takes, words_of
from precision.formats import parse_format

CASES = [
    *[(name, "fp16") for name in UNITS if "fp8" not in name],
    *[(name, kind) for name in ("a100", "h100") for kind in ("bf16", "tf32")],
    *[(name, kind) for name in ("b200", "h100_fp8_wgmma", "ada_fp8", "h100_fp8_mma") for kind in ("e4m3fn", "e5m2")],
]
SHAPES = [(1, 1, 1), (3, 5, 7), (33, 17, 49), (20, 100, 35)]


# Data


def cast(x, kind):
    with np.errstate(all="ignore"):
        y = np.asarray(x, np.float32).astype(TYPES[kind][0]).astype(np.float32)
    if kind == "tf32":
        y = (y.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(y), y, np.float32(1)).astype(np.float32)


def codes(rng, shape, kind):
    """Every finite code of the format alike: all exponents, subnormals, both zeros."""
    dtype = np.dtype(TYPES[kind][0])
    words = rng.integers(0, 1 << (8 * dtype.itemsize), shape).astype(f"u{dtype.itemsize}")
    return cast(words.view(dtype).astype(np.float32), kind)


def draw(rng, data, shape, kind):
    least = TYPES[kind][1]
    x = rng.standard_normal(shape)
    if data == "codes":
        return codes(rng, shape, kind)
    if data == "spread":
        x = x * np.exp2(rng.integers(least // 3, -least // 3, shape))
    if data == "subnormal":
        x = x * np.exp2(least - 1.0)
    if data == "zeros":
        x = np.where(rng.random(shape) < 0.7, np.copysign(0, x), x)
    return cast(x, kind)


def operands(rng, data, m, k, n, kinds, batch=()):
    a, b = draw(rng, data, (*batch, m, k), kinds[0]), draw(rng, data, (*batch, k, n), kinds[1])
    if data == "subnormal":
        b = cast(rng.standard_normal(b.shape) * 64, kinds[1])
    if data == "cancelling":
        # k and k + 1 cancel but for the last bits of some
        a[..., 1::2] = a[..., : k - k % 2 : 2]
        b[..., 1::2, :] = -b[..., : k - k % 2 : 2, :] * (1 + (rng.random(b[..., 1::2, :].shape) < 0.2) * 0.125)
        b = cast(b, kinds[1])
    return a, b


def start(rng, shape, name):
    kind = UNITS[name][3]
    c = rng.standard_normal(shape).astype(np.float32)
    c[rng.random(shape) < 0.3] = -0.0
    if kind == "fp16":
        return cast(c, "fp16")
    return (c.view(np.uint32) & np.uint32(0xFFFFFC00)).view(np.float32) if kind == "e8m13" else c


def run(a, b, c, name, kinds, kernel=fused):
    total, redo = np.array(c, np.float32, order="C"), np.full(c.shape, 7, np.uint8)
    words = words_of(parse_accumulator(name), tuple(map(parse_format, kinds)))
    kernel(a, b, total, redo, words)
    assert set(np.unique(redo)) <= {0, 1}
    assert_same_bits(total[redo == 1], np.asarray(c)[redo == 1])
    return total, redo.astype(bool)


def check(a, b, c, name, kinds):
    """Same bits as the definition where the kernel answers; returns where it does not."""
    total, redo = run(a[None], b[None], c[None], name, kinds)
    expected = reference(a, b, c, name, kinds)
    assert_same_bits(np.where(redo[0], 0, total[0]), np.where(redo[0], 0, expected))
    return redo[0], expected


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize("data", ["normal", "spread", "codes", "subnormal", "zeros", "cancelling"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_gives_the_bits_of_the_definition(name: str, kind: str, data: str) -> None:
    rng = np.random.default_rng([UNITS[name][0], len(data), len(kind)])
    for m, k, n in SHAPES:
        a, b = operands(rng, data, m, k, n, (kind, kind))
        for c in (np.zeros((m, n), np.float32), start(rng, (m, n), name)):
            redo, expected = check(a, b, c, name, (kind, kind))
            if (
                kind not in ("bf16", "tf32")
                and np.isfinite(expected).all()
                and (UNITS[name][3] != "fp16" or data != "codes")
            ):
                assert not redo.any()
            if data in ("normal", "zeros", "cancelling", "spread"):
                assert not redo[np.isfinite(expected)].any()


@pytest.mark.parametrize(("name", "kinds"), [("h100", ("fp16", "bf16")), ("h100_fp8_wgmma", ("e4m3fn", "e5m2"))])
def test_operands_may_differ_in_format(name: str, kinds: tuple[str, str]) -> None:
    rng = np.random.default_rng(5)
    for data in ("normal", "codes"):
        a, b = operands(rng, data, 9, 70, 40, kinds)
        check(a, b, np.zeros((9, 40), np.float32), name, kinds)


def test_a_longer_product() -> None:
    rng = np.random.default_rng(6)
    a, b = operands(rng, "normal", 65, 100, 70, ("bf16", "bf16"))
    redo, _ = check(a, b, np.zeros((65, 70), np.float32), "h100", ("bf16", "bf16"))
    assert not redo.any()


def test_terms_at_the_floor() -> None:
    a = np.zeros((3, 16), np.float32)
    b = np.full((16, 1), 2.0**-76, np.float32)
    a[0], a[1, 3], a[2] = 2.0**-76, 2.0**-30, 2.0**-40
    redo, expected = check(a, b, np.zeros((3, 1), np.float32), "h100", ("bf16", "bf16"))
    assert expected[0, 0] == np.float32(2.0**-148)
    assert redo[:, 0].tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["v100_fp16", "a100_fp16", "h100_fp16"])
def test_half_precision_sums_at_the_floor(name: str) -> None:
    rng = np.random.default_rng(7)
    a = np.array([[2.0**-12, 2.0**-24], [-(2.0**-12), 2.0**-24], [2.0**-12, 0]], np.float32)
    b = np.array([[2.0**-13], [2.0**-23]], np.float32)
    redo, expected = check(a, b, np.zeros((3, 1), np.float32), name, ("fp16", "fp16"))
    assert not redo.any()
    assert expected[0, 0] == 0
    scale = np.exp2(rng.integers(-24, -8, (2, 40, 40)))
    a, b = (cast(rng.standard_normal((40, 40)) * s, "fp16") for s in scale)
    redo, _ = check(a, b, np.zeros((40, 40), np.float32), name, ("fp16", "fp16"))
    assert not redo.any()


def test_products_are_not_normalised_before_they_are_aligned() -> None:
    a = np.array([[1.5, 2.0**-24]], np.float32)
    for b in (1.5, 2.25):
        column = np.array([[b], [1.5]], np.float32)
        check(a, column, np.zeros((1, 1), np.float32), "v100", ("fp16", "fp16"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_to_the_caller(bad: float) -> None:
    rng = np.random.default_rng(8)
    a, b = operands(rng, "normal", 9, 40, 37, ("bf16", "bf16"))
    c = start(rng, (9, 37), "h100")
    expected = reference(a, b, c, "h100", ("bf16", "bf16"))
    a[2, 7], b[39, 33], c[5, 6] = bad, bad, bad
    total, redo = run(a[None], b[None], c[None], "h100", ("bf16", "bf16"))
    wanted = np.zeros((9, 37), bool)
    wanted[2], wanted[:, 33], wanted[5, 6] = True, True, True
    np.testing.assert_array_equal(redo[0], wanted)
    assert_same_bits(np.where(wanted, 0, total[0]), np.where(wanted, 0, expected))


@pytest.mark.parametrize(("name", "kind", "size"), [("h100", "bf16", 2.0**125), ("h100_fp16", "fp16", 2.0**9)])
def test_sums_that_overflow_are_left_to_the_caller(name: str, kind: str, size: float) -> None:
    a, b = np.full((2, 40), size, np.float32), np.full((40, 3), 8, np.float32)
    a[1, 20:] *= -1
    redo, expected = check(a, b, np.zeros((2, 3), np.float32), name, (kind, kind))
    np.testing.assert_array_equal(redo, np.isinf(expected))


def test_a_start_that_is_tiny_is_exact_or_left_to_the_caller() -> None:
    c = np.array([[2.0**-149, 2.0**-126, -(2.0**-110), 2.0**-99, 2.0**100, 3e38]], np.float32)
    for x in (0.0, 1.0, 2.0**-90):
        a, b = np.full((1, 5), x, np.float32), np.ones((5, 6), np.float32)
        redo, _ = check(a, b, c, "h100", ("bf16", "bf16"))
        assert redo[0, 0]
        assert not redo[0, 3:].any()


def test_no_products_leave_the_start() -> None:
    c = np.array([[-0.0, 1.5]], np.float32)
    a, b = np.zeros((1, 1, 0), np.float32), np.zeros((1, 0, 2), np.float32)
    total, redo = run(a, b, c[None], "h100", ("fp16", "fp16"))
    assert_same_bits(total[0], c)
    assert not redo.any()


@pytest.mark.exhaustive
@pytest.mark.parametrize("data", ["normal", "codes"])
def test_a_batch_with_strides_equals_its_parts(data: str) -> None:
    rng = np.random.default_rng(9)
    a, b = operands(rng, data, 11, 38, 45, ("bf16", "bf16"), (3,))
    c = start(rng, (3, 11, 45), "h100")
    total, redo = run(a, b, c, "h100", ("bf16", "bf16"))
    strided = np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2), np.repeat(b, 2, axis=2)[:, :, ::2]
    for other in (run(*strided, c, "h100", ("bf16", "bf16")), _one_by_one(a, b, c)):
        assert_same_bits(other[0], total)
        np.testing.assert_array_equal(other[1], redo)


def _one_by_one(a, b, c):
    parts = [run(a[i, None], b[i, None], c[i, None], "h100", ("bf16", "bf16")) for i in range(len(a))]
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))


def digest_cases():
    """Results over all formats and data, and where the kernel declines, as words."""
    rng = np.random.default_rng(10)
    found = []
    for name, kind in CASES:
        for data in ("normal", "codes", "subnormal"):
            a, b = operands(rng, data, 21, 90, 45, (kind, kind), (2,))
            c = start(rng, (2, 21, 45), name)
            total, redo = run(a, b, c, name, (kind, kind))
            found += [as_bits(total).ravel(), redo.ravel().astype(np.uint32)]
    return np.concatenate(found)


@pytest.mark.exhaustive
def test_threads_change_no_bit() -> None:
    rng = np.random.default_rng(11)
    for data in ("normal", "codes"):
        a, b = operands(rng, data, 70, 50, 100, ("bf16", "bf16"), (2,))
        c = start(rng, (2, 70, 100), "h100")
        one = run(a, b, c, "h100", ("bf16", "bf16"), fused._serial)
        all_ = run(a, b, c, "h100", ("bf16", "bf16"), fused._parallel)
        assert_same_bits(all_[0], one[0])
        np.testing.assert_array_equal(all_[1], one[1])


X86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names an x86 processor")
FLUSH_AND_ROUND_UP = 0x1F80 | 1 << 15 | 1 << 6 | 2 << 13  # FTZ, DAZ, toward +infinity


@intrinsic
def exchange_control(_context, value):  # noqa: ARG001
    """Sets MXCSR, returns what it was."""

    def build(_context, builder, _signature, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        old, new = (builder.alloca(ir.IntType(32)) for _ in range(2))
        builder.store(args[0], new)
        for name, slot in (("stmxcsr", old), ("ldmxcsr", new)):
            function = builder.module.globals.get(f"llvm.x86.sse.{name}") or ir.Function(
                builder.module, kind, f"llvm.x86.sse.{name}"
            )
            builder.call(function, [builder.bitcast(slot, ir.IntType(8).as_pointer())])
        return builder.load(old)

    return types.uint32(types.uint32), build


@X86
def test_flushing_and_rounding_modes_change_no_bit() -> None:
    serial = fused._serial

    @numba.njit
    def in_that_mode(a, b, total, redo, words):
        old = exchange_control(np.uint32(FLUSH_AND_ROUND_UP))
        serial(a, b, total, redo, words)
        exchange_control(old)

    rng = np.random.default_rng(12)
    for name, kind in [("h100", "bf16"), ("h100_fp16", "fp16"), ("b200", "e5m2")]:
        for data in ("normal", "codes", "subnormal"):
            a, b = operands(rng, data, 21, 90, 45, (kind, kind), (1,))
            c = start(rng, (1, 21, 45), name)
            expected = run(a, b, c, name, (kind, kind))
            actual = run(a, b, c, name, (kind, kind), in_that_mode)
            assert_same_bits(actual[0], expected[0])
            np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.exhaustive
@X86
def test_narrower_registers_change_no_bit(tmp_path: Path) -> None:
    """The same results where LLVM knows AVX2 only."""
    here = Path(__file__).resolve()
    out = tmp_path / "words.npy"
    command = "import numpy, test_fused_kernel; numpy.save(%r, test_fused_kernel.digest_cases())" % str(out)  # noqa: UP031
    paths = [str(here.parent), str(here.parents[1]), str(here.parents[2])]
    environment = os.environ | {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+bmi,+bmi2,+lzcnt,+popcnt,+f16c",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    subprocess.run([sys.executable, "-c", command], check=True, env=environment)
    np.testing.assert_array_equal(np.load(out), digest_cases())


def test_it_takes_tensor_cores_and_nothing_else() -> None:
    for name, record in ACCUMULATORS.items():
        kind = parse_format(record.inputs[0]) if record.inputs else parse_format("fp16")
        silicon = name in UNITS or name in ("ada_fp16", "b200_fp16")
        assert takes(record, (kind, kind)) == silicon, name
