"""The contract on a GPU: python tests/recorded/check_jax_gpu.py [SECONDS], JAX under jit against NumPy, bit by bit.

One line a check: name, values that differ of all, seconds.  A check that fails is named and the others go on; those
not begun within SECONDS (default 300) are listed.  Last come facts of the platform that the project works around.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from accumulator_cases import LENGTHS, cases  # noqa: E402
from strategies import EDGES, boundaries, drawn, every_pair, generator, sprinkled, without_nan  # noqa: E402

import precision as pr  # noqa: E402
from precision import functions  # noqa: E402
from precision.backends import get_backend  # noqa: E402
from precision.rounding_modes import Mode  # noqa: E402
from qsim.config import ModelConfig, OptimizerConfig, RunConfig  # noqa: E402
from qsim.data import batch, build_corpus  # noqa: E402
from qsim.hashing import scalar_hash, tree_hash  # noqa: E402
from qsim.model import dropout_keys, initial_parameters  # noqa: E402
from qsim.optimizer import ScaleState, step_scalars  # noqa: E402
from qsim.policy import POLICIES  # noqa: E402
from qsim.step import Step  # noqa: E402

Pair = tuple[Any, Any]
KEY = (0x243F6A88, 0x85A308D3)
CHECKS: dict[str, Callable[[], Iterator[Pair]]] = {}
_NUMPY, _JAX = get_backend("numpy"), get_backend("jax")


def floats(words: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(words).view(np.float32)


def everywhere(shape: int | tuple[int, ...], seed: int) -> np.ndarray:
    """Float32 of any exponent, with edges sprinkled in."""
    rng = generator(seed)
    return floats(sprinkled(rng, drawn(rng, shape)))


def both(function: Callable, *arrays: np.ndarray, **static: Any) -> Pair:
    """The facade's function on JAX under jit and on NumPy."""
    compiled = jax.jit(partial(function, backend="jax", **static))
    return compiled(*map(jnp.asarray, arrays)), function(*arrays, backend="numpy", **static)


def of_module(operation: str, *arrays: np.ndarray, **static: Any) -> Pair:
    compiled = jax.jit(partial(getattr(_JAX, operation), **static))
    return compiled(*map(jnp.asarray, arrays)), getattr(_NUMPY, operation)(*arrays, **static)


def check(name: str) -> Callable:
    def register(function: Callable[[], Iterator[Pair]]) -> Callable[[], Iterator[Pair]]:
        CHECKS[name] = function
        return function

    return register


# Level 0: values and codes


def _rounding(fmt: str) -> Iterator[Pair]:
    words = np.concatenate([boundaries(fmt), drawn(generator(1), 1 << 16)])
    x = floats(without_nan(words) if fmt.startswith("int") else words)
    for mode in get_args(Mode):
        yield both(pr.round_to, x, fmt=fmt, rounding=mode, **({"key": KEY} if mode == "stochastic" else {}))
    yield both(pr.round_to, x, fmt=fmt, overflow="saturate")
    yield both(pr.round_to, x, fmt=fmt, subnormals="flush")


def _coding(fmt: str) -> Iterator[Pair]:
    words = boundaries(fmt)
    x = floats(without_nan(words) if fmt.startswith("int") else words)
    codes = pr.encode(x, fmt, backend="numpy")
    yield both(pr.encode, x, fmt=fmt)
    yield both(pr.decode, codes, fmt=fmt)


for _fmt in ("fp16", "bf16", "e4m3fn", "e5m2", "e2m1", "int8", "int4"):
    check(f"round_to {_fmt}")(partial(_rounding, _fmt))
    check(f"encode, decode {_fmt}")(partial(_coding, _fmt))


@check("random words and stochastic rounding")
def _random() -> Iterator[Pair]:
    yield (
        jax.jit(lambda: _JAX.random_words(KEY, (1000, 33), 2**33 + 5))(),
        _NUMPY.random_words(KEY, (1000, 33), 2**33 + 5),
    )
    yield both(pr.round_to, everywhere(1 << 16, 2), fmt="bf16", rounding="stochastic", key=7)


@check("statistics")
def _statistics() -> Iterator[Pair]:
    for fmt in ("fp16", "bf16", "e4m3fn"):
        x = floats(without_nan(drawn(generator(3), 1 << 16)))
        found, expected = (pr.statistics(given, fmt) for given in (jnp.asarray(x), x))
        same = found == expected and np.array_equal(found.exponents, expected.exponents)
        yield np.array([same]), np.array([True])


# Level 1: quantizers


def _rows(seed: int, shape: tuple[int, int] = (96, 160)) -> np.ndarray:
    """Rows of many magnitudes, some zero, some all tiny."""
    rng = generator(seed)
    level = rng.integers(20, 230, (shape[0], 1))
    words = drawn(rng, shape, (0, 12)) + (level << 23).astype(np.uint32)
    words[::11] &= np.uint32(1 << 31)
    words[5::11] = drawn(rng, words[5::11].shape, (0, 20))
    return floats(words.astype(np.uint32))


@check("quantize int8_vectorwise")
def _vectorwise() -> Iterator[Pair]:
    for axis in (-1, -2):
        x = _rows(4)
        parts = jax.jit(
            lambda x, axis=axis: dataclasses.astuple(pr.quantize(x, axis=axis, nonfinite="propagate"))[:2]
        )
        expected = pr.quantize(x, axis=axis, backend="numpy")
        yield from zip(parts(x), (expected.codes, expected.scale), strict=True)


@check("block formats")
def _blocks() -> Iterator[Pair]:
    for name in pr.BLOCK_FORMATS:
        yield both(pr.round_to_blocks, _rows(5), fmt=name, axis=-1)


@check("quantized_matmul")
def _quantized() -> Iterator[Pair]:
    x, w = floats(drawn(generator(6), (48, 96), (100, 130))), floats(drawn(generator(7), (96, 40), (100, 130)))
    bias = floats(drawn(generator(8), (40,), (110, 130)))
    x_codes, w_codes = pr.quantize(x, axis=-1, backend="numpy"), pr.quantize(w, axis=-2, backend="numpy")
    for output in ("fp16", "bf16", "fp32"):
        found = jax.jit(lambda x, w, bias, output=output: pr.quantized_matmul(x, w, bias=bias, output=output))(
            x, w, bias
        )
        yield found, pr.quantized_matmul(x_codes, w_codes, bias=bias, output=output, backend="numpy")


# Level 1: products, sums, arithmetic, functions


def _product(name: str, inputs: str) -> Iterator[Pair]:
    length = LENGTHS[name][inputs]
    _, hard = cases(name, inputs, 2 * length + 3)
    a, b, c = (x if inputs == "int8" else floats(x) for x in hard)
    given = {"inputs": inputs, "accumulator": name}
    jitted = jax.jit(lambda a, b, c: pr.matmul(a, b, c=c, backend="jax", **given))
    yield jitted(a, b, c), pr.matmul(a, b, c=c, backend="numpy", **given)


@check("matmul 130 x 200 x 70")
def _larger() -> Iterator[Pair]:
    a, b = (floats(drawn(generator(seed), shape, (117, 130))) for seed, shape in ((25, (130, 200)), (26, (200, 70))))
    a, b = (pr.round_to(x, "fp16", backend="numpy") for x in (a, b))
    for name in ("h100", "fp32_sequential", "exact"):
        yield both(pr.matmul, a, b, accumulator=name, output="fp16")


for _name, _inputs in (
    ("fp32_sequential", "fp16"),
    ("fp32_sequential", "bf16"),
    ("fp32_sequential", "fp32"),
    ("h100", "fp16"),
    ("h100", "bf16"),
    ("exact", "fp16"),
    ("exact", "fp32"),
    ("int32", "int8"),
    ("fp32_mul_add", "bf16"),
    ("fp16_fma", "fp16"),
    ("h100_fp8_mma", "e4m3fn"),
    ("h100_fp8_wgmma", "e5m2"),
    ("kahan", "fp32"),
    ("fp32_pairwise", "fp32"),
    ("amx_bf16", "bf16"),
    ("cdna3", "tf32"),
):
    check(f"matmul {_name} {_inputs}")(partial(_product, _name, _inputs))


def _arithmetic(operation: str) -> Iterator[Pair]:
    edges = tuple(map(floats, every_pair()))
    column = everywhere((512, 1), 11), everywhere((512, 64), 12)
    for x, y in (edges, (everywhere(1 << 18, 9), everywhere(1 << 18, 10)), column):
        yield of_module(operation, *((x,) if operation == "square_root" else (y, x)))


for _operation in ("add", "subtract", "multiply", "divide", "square_root"):
    check(f"ftz32 {_operation}")(partial(_arithmetic, _operation))


@check("sums and maxima")
def _sums() -> Iterator[Pair]:
    x = everywhere((64, 100), 13)
    yield of_module("tree_sum", x)
    yield of_module("row_max", x)
    yield of_module("absmax", x, axis=-1)
    yield both(pr.ordered_sum, x, order="sequential", fmt="fp16")
    rows = floats(drawn(generator(14), (2, 50, 8), (100, 130)))
    indices = generator(15).integers(0, 9, (2, 50)).astype(np.int32)
    yield of_module("scatter_add_rows", indices, rows, size=9)


@check("float32 exp, log, tanh, erf, rsqrt")
def _elementary() -> Iterator[Pair]:
    x = np.concatenate([floats(EDGES), everywhere(1 << 16, 16), floats(drawn(generator(17), 1 << 18, (100, 134)))])
    for operation in ("exp", "log", "tanh", "erf", "rsqrt"):
        yield of_module(operation, x)


@check("functions of 16-bit formats")
def _functions() -> Iterator[Pair]:
    for fmt, dtype in (("fp16", np.float16), ("bf16", jnp.bfloat16)):
        x = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
        for name in ("exp", "log", "tanh", "gelu", "rsqrt", "reciprocal", "sigmoid"):
            yield both(getattr(functions, name), x, fmt=fmt)


@check("add, mul, div, sqrt, fma of formats")
def _operations() -> Iterator[Pair]:
    for fmt in ("fp16", "bf16", "fp32"):
        x, y, z = (pr.round_to(everywhere(1 << 14, seed), fmt, backend="numpy") for seed in (18, 19, 20))
        for mode in ("nearest_even", "up"):
            for operation, given in ((pr.add, (x, y)), (pr.mul, (x, y)), (pr.div, (x, y)), (pr.sqrt, (x,))):
                yield both(operation, *given, fmt=fmt, rounding=mode)
            yield both(pr.fma, x, y, z, fmt=fmt, rounding=mode)


# Level 3: training

STEPS = 3
CONFIG = RunConfig(
    steps=STEPS,
    model=ModelConfig(layers=2, hidden=32, heads=2, length=32, vocabulary=256, dropout=0.1),
    optimizer=OptimizerConfig(warmup_steps=2, clip=0.5),
)


def trajectory(policy: str, executor: str) -> list[str]:
    """Hashes of every step: loss, gradients, parameters, moments."""
    arithmetic, corpus = POLICIES[policy], build_corpus(None, tokenizer="bytes", vocabulary_size=256)
    step, first = Step(CONFIG, arithmetic, executor), initial_parameters(CONFIG.model, 0)
    zeros = {name: np.zeros_like(w) for name, w in first.items()}
    state: Any = {"parameters": first, "first": zeros, "second": zeros}
    scale, updates, hashes = ScaleState.start(arithmetic.loss_scaling), 0, []
    for number in range(1, STEPS + 1):
        data = batch(corpus, seed=0, step=number, batch_size=CONFIG.data.batch_size, length=CONFIG.model.length)
        scalars = step_scalars(CONFIG.optimizer, number, STEPS, updates, scale.scale)
        state, results = step(state, data, scalars, dropout_keys(CONFIG.model, 0, number))
        hashes += [scalar_hash(results["loss"]), tree_hash(results["gradients"])]
        hashes += [tree_hash(state[part]) for part in ("parameters", "first", "second")]
        finite = bool(results["finite"])
        scale, updates = scale.after(arithmetic.loss_scaling, finite), updates + finite
    return hashes


def _training(policy: str) -> Iterator[Pair]:
    yield np.array(trajectory(policy, "jax")), np.array(trajectory(policy, "numpy"))


for _policy in ("fp32", "fp16", "bf16"):
    check(f"training, {STEPS} steps, {_policy}")(partial(_training, _policy))


# Facts of the platform


def share(x: Any, y: Any) -> str:
    return f"{float((unsigned(x) != unsigned(y)).mean()):.2%} differ"


def facts() -> Iterator[tuple[str, str]]:
    """XLA's own arithmetic beside NumPy's, on float32 of ordinary size and on subnormals."""
    x, y, z = (floats(drawn(generator(seed), 1 << 18, (117, 137))) for seed in (21, 22, 23))
    yield "a * b + c", share(jax.jit(lambda x, y, z: x * y + z)(x, y, z), x * y + z)
    yield "a / b", share(jax.jit(jnp.divide)(x, y), x / y)
    yield (
        "a / column",
        share(jax.jit(jnp.divide)(x.reshape(512, 512), y[:512, None]), x.reshape(512, 512) / y[:512, None]),
    )
    yield "sqrt", share(jax.jit(jnp.sqrt)(abs(x)), np.sqrt(abs(x)))
    for function, reference in ((jnp.exp, np.exp), (jnp.tanh, np.tanh), (jnp.log, np.log)):
        given = abs(x) / 1024
        yield reference.__name__, share(jax.jit(function)(given), reference(given))
    tiny = floats(drawn(generator(24), 1 << 12, (1, 3)))
    half = np.full_like(tiny, 0.25)
    yield "products below 2^-126", share(jax.jit(jnp.multiply)(tiny, half), tiny * half)
    yield "sums of subnormals", share(jax.jit(jnp.add)(tiny * half, tiny * half), tiny * half + tiny * half)
    narrow = jax.jit(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32))(x)
    yield "float32 -> bf16 -> float32", share(narrow, pr.round_to(x, "bf16", backend="numpy"))
    yield "sum of rows", share(jax.jit(lambda x: x.sum(1))(x.reshape(512, 512)), x.reshape(512, 512).sum(1))
    for fmt, dtype in (("fp16", jnp.float16), ("bf16", jnp.bfloat16)):
        for k in (16, 256):
            a, b = (pr.round_to(v[: 128 * k].reshape(128, k), fmt, backend="numpy") for v in (x, y))
            product = jax.jit(lambda a, b: jnp.matmul(a, b.T, preferred_element_type=jnp.float32))
            given = {"inputs": fmt, "transpose_b": True, "backend": "numpy"}
            found = product(jnp.asarray(a, dtype), jnp.asarray(b, dtype))
            for accumulator in ("h100", "fp32_sequential"):
                expected = pr.matmul(a, b, accumulator=accumulator, **given)
                yield f"XLA's {fmt} product, k = {k}, from {accumulator}", share(found, expected)


# The run


def unsigned(x: Any) -> np.ndarray:
    """Bits of numbers as words; texts and truth values as they are."""
    x = np.asarray(x)
    return x if x.dtype.kind in "US?" else np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


def perform(name: str, function: Callable[[], Iterator[Pair]]) -> None:
    began, differ, total, problem = time.perf_counter(), 0, 0, ""
    try:
        for found, expected in function():
            a, b = unsigned(found), unsigned(expected)
            if (a.shape, a.dtype.kind, a.dtype.itemsize) != (b.shape, b.dtype.kind, b.dtype.itemsize):
                raise TypeError(f"{a.dtype}{a.shape} against {b.dtype}{b.shape}")
            differ, total = differ + int((a != b).sum()), total + a.size
    except Exception as failure:
        problem = f"  FAILED: {type(failure).__name__}: {failure}".splitlines()[0][:300]
    print(f"{name}: {differ} of {total} differ, {time.perf_counter() - began:.1f} s{problem}", flush=True)


def main(seconds: float) -> None:
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}", flush=True)
    began, left_out = time.perf_counter(), []
    with np.errstate(all="ignore"):
        for name, function in CHECKS.items():
            if time.perf_counter() - began > seconds:
                left_out.append(name)
                continue
            perform(name, function)
        try:
            for name, fact in facts():
                print(f"fact: {name}: {fact}", flush=True)
        except Exception:
            traceback.print_exc()
    print("not run:", ", ".join(left_out) or "none")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 300)
