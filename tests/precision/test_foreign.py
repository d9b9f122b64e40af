"""Numba kernels inside jitted JAX: the default floats, errors, transformations, platforms, eight devices."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from numba import prange
from strategies import generator

import precision as pr
from precision.backends.jax_ import foreign
from precision.backends.numba_ import call_frame, floating_point
from precision.backends.numba_.compilation import Kernel, kernel
from precision.backends.numba_.foreign import Foreign, array, threads_can_be_shared

NONE = np.zeros(0, np.int64)
ROOT = Path(__file__).resolve().parents[2]


@kernel
def halve(x, out, words):  # noqa: ARG001
    for i in prange(x.size):
        out[i] = x[i] * np.float32(0.5)


@kernel
def product_and_counts(a, b, total, signs, counts, words):
    """int32 total += a b; which of its elements are negative; number of blocks, and the words added."""
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for n in range(b.shape[2]):
                for k in range(a.shape[2]):
                    total[i, j, n] += np.int32(a[i, j, k]) * np.int32(b[i, k, n])
                signs[i, j, n] = total[i, j, n] < 0
    counts[:] = np.uint32(a.shape[0])
    counts[0] += np.uint32(words.sum())


@kernel
def failing(x, out, words):
    if words[0] > 0:
        raise ValueError("too large")
    out[:] = x


HALVE, FAILING = (
    Foreign(kernel=one, operands=(array(np.float32, "i"),), results=(array(np.float32, "i"),))
    for one in (halve, failing)
)
COUNTS = Foreign(
    kernel=product_and_counts,
    operands=(array(np.int8, "bmk"), array(np.int8, "bkn"), array(np.int32, "bmn")),
    results=(array(np.int32, "bmn"), array(np.bool_, "bmn"), array(np.uint32, "c")),
    starts=1,
)
SUBNORMAL = np.full(4096, 2.0**-140, np.float32)


def halved(x: Any) -> Any:
    return foreign.call(HALVE, NONE, x)[0]


# Floats


@pytest.mark.parametrize("threads", ["one", "all"])
def test_subnormals_are_kept_and_xla_flushes_as_before(monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setattr(Kernel, "PARALLEL_FROM", 0 if threads == "all" else 1 << 60)
    run = jax.jit(lambda x: (x * np.float32(0.5), halved(x), halved(x)[::-1] * np.float32(0.5), halved(x * 0 + x)))
    for _ in range(3):
        before, ours, after, again = run(SUBNORMAL)
        assert_same_bits(ours, SUBNORMAL / 2)
        assert not np.any(before)
        assert not np.any(after)
        assert not np.any(again), "XLA's own x * 0 + x is flushed"


FLUSHING = 0x9FC0  # MXCSR with "flush to zero" and "denormals are zero"
on_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="sets MXCSR")


@numba.njit
def control():
    return floating_point.get_control()


@numba.njit
def set_control(value):
    return floating_point.set_control(value, 0)


def in_a_flushing_thread(function: Callable[[], Any]) -> Any:
    """What it returns in a fresh thread, with that thread's register afterwards."""
    set_control(control())  # compiled before

    def run() -> tuple[Any, int]:
        set_control(FLUSHING)
        return function(), control()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def call_by_hand(x: np.ndarray, out: np.ndarray, parallel: bool) -> int:
    """The handler of ``halve``, called as XLA calls it."""
    size = ctypes.c_int64(x.size)
    shape = ctypes.addressof(size)
    buffers = [call_frame._Buffer(dtype=11, data=y.ctypes.data, rank=1, dimensions=shape) for y in (x, out)]
    places = [ctypes.c_void_p(ctypes.addressof(buffer)) for buffer in buffers]
    operands, results = (call_frame._Buffers(size=1, buffers=ctypes.addressof(place)) for place in places)
    array_kind, words = ctypes.c_int32(1), call_frame._Array(dtype=5, size=0)
    values = ctypes.c_void_p(ctypes.addressof(words))
    attributes = call_frame._Attributes(size=1, types=ctypes.addressof(array_kind), values=ctypes.addressof(values))
    frame = call_frame._CallFrame(stage=3, operands=operands, results=results, attributes=attributes)
    handler = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(HALVE.handler(parallel=parallel)[1])
    return handler(ctypes.addressof(frame))


@on_x86
@pytest.mark.parametrize("parallel", [False, True])
def test_the_register_is_put_back(parallel: bool) -> None:
    out = np.empty_like(SUBNORMAL)
    HALVE.handler(parallel=parallel)
    error, after = in_a_flushing_thread(lambda: call_by_hand(SUBNORMAL, out, parallel))
    assert error == 0
    assert after & FLUSHING == FLUSHING
    assert_same_bits(out, SUBNORMAL / 2)


@on_x86
@pytest.mark.skipif(numba.get_num_threads() < 2, reason="there are no workers")
def test_workers_that_began_in_a_thread_that_flushes() -> None:
    """Numba's threads inherit the register of the thread that first calls them: a kernel of its own flushes there."""
    assert threads_can_be_shared()
    loop = halve.compiled(parallel=True)
    plain, out = np.empty_like(SUBNORMAL), np.empty_like(SUBNORMAL)
    loop(SUBNORMAL, plain, NONE)
    HALVE.handler(parallel=True)
    assert_same_bits(plain, SUBNORMAL / 2)

    def run() -> None:
        loop(SUBNORMAL, plain, NONE)
        call_by_hand(SUBNORMAL, out, True)

    in_a_flushing_thread(run)
    assert not np.any(plain)
    assert_same_bits(out, SUBNORMAL / 2)


# Results and operands


def integers(*shape: int, seed: int = 51) -> np.ndarray:
    return generator(seed).integers(-128, 128, shape).astype(np.int8)


def test_integers_masks_and_counters() -> None:
    a, b = integers(2, 3, 4), integers(2, 4, 5, seed=52)
    start = np.arange(30, dtype=np.int32).reshape(2, 3, 5) * 1000
    words = np.int64([1 << 20, 5])
    run = jax.jit(lambda *x: foreign.call(COUNTS, words, *x, sizes={"c": 3}))
    total, negative, counts = run(a, b, start)
    expected = start + a.astype(np.int32) @ b.astype(np.int32)
    np.testing.assert_array_equal(total, expected)
    np.testing.assert_array_equal(negative, expected < 0)
    assert negative.dtype == np.bool_
    np.testing.assert_array_equal(counts, np.uint32([(1 << 20) + 7, 2, 2]))


def test_the_start_is_not_written_to() -> None:
    a, b = jnp.asarray(integers(1, 2, 2)), jnp.asarray(integers(1, 2, 2, seed=53))
    start = jnp.full((1, 2, 2), 7, jnp.int32)

    def twice(a: Any, b: Any, start: Any) -> Any:
        first = foreign.call(COUNTS, NONE, a, b, start, sizes={"c": 1})[0]
        return first, foreign.call(COUNTS, NONE, a, b, start, sizes={"c": 1})[0], start

    expected = 7 + np.asarray(a, np.int32) @ np.asarray(b, np.int32)
    for run in (jax.jit(twice), twice):
        first, second, unchanged = run(a, b, start)
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, expected)
        np.testing.assert_array_equal(unchanged, 7)
    np.testing.assert_array_equal(start, 7)
    donated = jax.jit(lambda a, b, c: foreign.call(COUNTS, NONE, a, b, c, sizes={"c": 1})[0], donate_argnums=2)
    np.testing.assert_array_equal(donated(a, b, start), expected)


def test_transposed_operands_arrive_row_major() -> None:
    x, y = (generator(54).normal(size=(33, 47)).astype(np.float32) for _ in range(2))
    result = jax.jit(lambda x, y: pr.matmul(x.T, y, inputs="fp32"))(x, y)
    assert_same_bits(result, pr.matmul(x.T, y, inputs="fp32", backend="numpy"))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)], ids=str)
def test_empty_arrays(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    total = foreign.call(COUNTS, NONE, integers(1, m, k), integers(1, k, n), jnp.full((1, m, n), 3), sizes={"c": 1})[
        0
    ]
    np.testing.assert_array_equal(total, np.full((1, m, n), 3))


# Transformations


@pytest.mark.parametrize(
    "mapped", [(0, None, None), (None, 2, None), (1, 0, None), (None, None, 1), (3, 3, 3)], ids=str
)
def test_vmap(mapped: tuple[int | None, ...]) -> None:
    """Without counters a mapped axis is folded; with them each value is a call of its own."""
    shapes = [[2, 3, 4], [2, 4, 5], [2, 3, 5]]
    for shape, axis in zip(shapes, mapped, strict=True):
        if axis is not None:
            shape.insert(axis, 6)
    a, b, c = (generator(55).normal(size=shape).astype(np.float32) for shape in shapes)
    run = jax.jit(jax.vmap(lambda a, b, c: pr.matmul(a, b, c=c, inputs="fp32"), mapped))
    result = run(a, b, c)
    whole = [integers(*shape, seed=56 + i).astype(t) for i, (shape, t) in enumerate(zip(shapes, "bbi", strict=True))]
    counted = jax.vmap(lambda *x: foreign.call(COUNTS, NONE, *x, sizes={"c": 2}), mapped)(*whole)
    for i in range(6):
        each = [x if axis is None else np.take(x, i, axis) for x, axis in zip((a, b, c), mapped, strict=True)]
        expected = pr.matmul(each[0], each[1], c=each[2], inputs="fp32", backend="numpy")
        assert_same_bits(result[i], expected)
        each = [x if axis is None else np.take(x, i, axis) for x, axis in zip(whole, mapped, strict=True)]
        np.testing.assert_array_equal(counted[0][i], each[2] + each[0].astype("i4") @ each[1].astype("i4"))
        np.testing.assert_array_equal(counted[2][i], [2, 2])


def test_a_mapped_operand_is_folded_into_one_call() -> None:
    a, b = np.ones((6, 3, 4), np.float32), np.ones((4, 5), np.float32)
    both = jax.jit(jax.vmap(jax.vmap(lambda a, b: pr.matmul(a, b, inputs="fp32"), (0, None)), (None, 1)))
    text = both.lower(a[:, :, None].swapaxes(1, 2)[:, :, 0][:, None], np.stack([b] * 2, 1)).as_text()
    assert len(re.findall("custom_call @precision", text)) == 1


def test_scan_and_remat() -> None:
    x = generator(57).normal(size=(8, 8)).astype(np.float32)

    def body(y: Any, _: None) -> tuple[Any, None]:
        return pr.matmul(y, x, inputs="fp32"), None

    result = jax.jit(lambda y: jax.lax.scan(jax.checkpoint(body), y, None, length=3)[0])(x)
    expected = x
    for _ in range(3):
        expected = pr.matmul(expected, x, inputs="fp32", backend="numpy")
    assert_same_bits(result, expected)


# Errors


def test_operands_that_are_not_the_records() -> None:
    with pytest.raises(TypeError, match=r"^operand 0 must be float32 of shape \(3,\), not int32 of \(3,\)\Z"):
        halved(jnp.arange(3))
    with pytest.raises(TypeError, match=r"^operand 1 must be int8 of shape \(1, 2, 2\), not int8 of \(1, 3, 2\)\Z"):
        foreign.call(COUNTS, NONE, integers(1, 2, 2), integers(1, 3, 2), jnp.zeros((1, 2, 2), jnp.int32))
    with pytest.raises(TypeError, match=r"^1 operands given to a kernel of 3\Z"):
        foreign.call(COUNTS, NONE, integers(1, 2, 2))


def raw(record: Foreign, results: list[tuple], *operands: np.ndarray, **attributes: Any) -> Callable:
    """The registered function, called past every check of ours."""
    halved(jnp.ones(1))
    foreign._registered(record, False)
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    return jax.ffi.ffi_call(record.name(parallel=False), avals)(*operands, **attributes)


GOOD = [((1, 2, 2), np.int32), ((1, 2, 2), np.bool_), ((1,), np.uint32)]
WRONG = ((2, 2, 2), np.bool_)
A, C = np.ones((1, 2, 2), np.int8), np.ones((1, 2, 2), np.int32)


@pytest.mark.parametrize(
    ("sentence", "results", "operands", "attributes"),
    [
        ("takes 3 operands and gives 3 results", GOOD, (A, A), {"words": NONE}),
        ("takes 3 operands and gives 3 results", GOOD[:2], (A, A, C), {"words": NONE}),
        ("takes one attribute, an array of int64", GOOD, (A, A, C), {}),
        ("takes one attribute, an array of int64", GOOD, (A, A, C), {"words": np.int32([1])}),
        ("takes one attribute, an array of int64", GOOD, (A, A, C), {"words": 1}),
        ("wants int8 of rank 3 as operand 1", GOOD, (A, C, C), {"words": NONE}),
        ("wants int8 of rank 3 as operand 0", GOOD, (A[0], A, C), {"words": NONE}),
        ("wants axes bkn as operand 1, k as before", GOOD, (A, A[:, :1], C), {"words": NONE}),
        ("wants axes bmn as operand 2, n as before", GOOD, (A, A, C[:, :, :1]), {"words": NONE}),
        ("wants axes bmn as result 1, b as before", [GOOD[0], WRONG, GOOD[2]], (A, A, C), {"words": NONE}),
    ],
)  # fmt: skip
def test_the_function_itself_refuses(sentence: str, results: list, operands: tuple, attributes: dict) -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT: kernel product_and_counts {sentence}"):
        jax.block_until_ready(raw(COUNTS, results, *operands, **attributes))


def test_a_kernel_that_fails_is_an_error_and_the_next_call_is_fine() -> None:
    x = np.ones(3, np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT: kernel failing failed"):
        jax.block_until_ready(foreign.call(FAILING, np.int64([1]), x))
    assert_same_bits(foreign.call(FAILING, np.int64([0]), x)[0], x)
    assert not np.any(jax.jit(lambda x: x * np.float32(0.5))(SUBNORMAL)), "the register was put back"


def test_records_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match=r"^kernel halve cannot take or give float16 from XLA\Z"):
        Foreign(kernel=halve, operands=(array(np.float16, "i"),), results=())
    with pytest.raises(ValueError, match=r"^kernel halve has results that do not begin as its last operands\Z"):
        Foreign(kernel=halve, operands=(array(np.int8, "i"),), results=(array(np.float32, "i"),), starts=1)


# Platforms, processes, devices


@pytest.mark.parametrize(("platform", "foreign_calls"), [("cpu", 1), ("tpu", 0), ("cuda", 0)])
def test_only_a_computation_for_the_cpu_calls_it(platform: str, foreign_calls: int) -> None:
    x = np.ones((2, 2), np.float32)
    traced = jax.jit(lambda x: pr.matmul(x, x, inputs="bf16")).trace(x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("custom_call @precision") == foreign_calls
    assert ("stablehlo.while" in text) == (foreign_calls == 0)


def run_alone(*command: str, devices: int = 1) -> str:
    own = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
    }
    finished = subprocess.run(
        [sys.executable, "-W", "error", *command], env=os.environ | own, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_nothing_is_compiled_before_first_use() -> None:
    script = "import sys, precision.backends.jax_; print(any(name.split('.')[0] == 'numba' for name in sys.modules))"
    assert run_alone("-c", script).split() == ["False"]


@pytest.mark.thinned(0.5)
def test_on_eight_devices() -> None:
    """In a process of its own, because the number of devices is fixed at the start."""
    script = Path(__file__).with_name("eight_devices_foreign.py")
    assert run_alone(str(script), devices=8).split() == ["rows", "columns", "workers"]
