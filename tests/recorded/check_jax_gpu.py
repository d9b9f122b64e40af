"""The contract on a GPU: python tests/recorded/check_jax_gpu.py [SECONDS [PART ...]], JAX under jit against NumPy.

One line a check: name, values that differ in a bit of all, seconds.  A check that fails is named and the others go
on; those not begun within SECONDS (default 300) are listed.  A PART is one of ``PARTS``, by default all in order, or
the beginning of a check's name.  "facts" are those of the platform that the project works around.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from accumulator_cases import LENGTHS, cases  # noqa: E402
from recorded.jax_checks import (  # noqa: E402
    CHECKS,
    JAX,
    NUMPY,
    Pair,
    both,
    check,
    everywhere,
    floats,
    of_module,
    perform,
)
from recorded.xla_facts import facts  # noqa: E402
from strategies import EDGES, boundaries, drawn, every_pair, generator, without_nan  # noqa: E402

import precision as pr  # noqa: E402
from precision import functions  # noqa: E402
from precision.quantization.quantizers import unclipped  # noqa: E402
from precision.quantization.variants import VARIANTS  # noqa: E402
from precision.rounding_modes import Mode  # noqa: E402
from qsim.config import ModelConfig, OptimizerConfig, RunConfig  # noqa: E402
from qsim.data import batch, build_corpus  # noqa: E402
from qsim.hashing import scalar_hash, tree_hash  # noqa: E402
from qsim.model import initial_parameters, step_keys  # noqa: E402
from qsim.optimizer import ScaleState, step_scalars  # noqa: E402
from qsim.policy import parse_policy  # noqa: E402
from qsim.step import Step  # noqa: E402

PARTS = (
    "integers",
    "training",
    "facts",
    "quantizers",
    "variants",
    "products",
    "arithmetic",
    "values",
    "operations",
)
KEY = (0x243F6A88, 0x85A308D3)


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
    check(f"round_to {_fmt}", "values")(partial(_rounding, _fmt))
    check(f"encode, decode {_fmt}", "values")(partial(_coding, _fmt))


@check("random words and stochastic rounding", "values")
def _random() -> Iterator[Pair]:
    yield (
        jax.jit(lambda: JAX.random_words(KEY, (1000, 33), 2**33 + 5))(),
        NUMPY.random_words(KEY, (1000, 33), 2**33 + 5),
    )
    yield both(pr.round_to, everywhere(1 << 16, 2), fmt="bf16", rounding="stochastic", key=7)


@check("statistics", "values")
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


def _scheme(name: str) -> Iterator[Pair]:
    """Codes, scales and zero points of both operands, and the product."""
    x, w = _rows(4, (24, 64)), floats(drawn(generator(5), (64, 20), (110, 126)))
    x[:, 7] = floats(drawn(generator(6), 24, (128, 133)))  # outliers

    def parts(x: Any, w: Any, backend: str) -> Any:
        options = {"nonfinite": "propagate", "backend": backend}
        operands = {-1: x, -2: w}
        quantized = [
            pr.quantize(operands[axis], name, axis=axis, **options)
            for axis, scheme in ((-1, pr.SCHEMES[name].x), (-2, pr.SCHEMES[name].w))
            if scheme is not None
        ]
        return quantized, pr.quantized_matmul(x, w, scheme=name, output="fp32", **options)

    yield from zip(*map(jax.tree.leaves, both(parts, x, w)), strict=True)


_VARIANTS = [variant.name for variant in VARIANTS]
for _name in pr.SCHEMES:
    check(f"scheme {_name}", "variants" if _name in _VARIANTS else "quantizers", any_nan=True)(
        partial(_scheme, _name)
    )


@check("fake_quantize and its gradients", "quantizers", any_nan=True)
def _gradients() -> Iterator[Pair]:
    x, dy = _rows(9, (24, 64)), floats(drawn(generator(10), (24, 64), (120, 130)))
    limits = np.float32(1.5)
    for name in ("int8_vectorwise", "int8_affine"):
        scheme = pr.parse_scheme(name).operand(-1)
        kept = unclipped(NUMPY, x, scheme, -1, limits)
        expected = {"straight_through": dy, "clipped": np.where(kept, dy, np.float32(0)), "zero": np.zeros_like(dy)}
        values = pr.fake_quantize(x, scheme, axis=-1, limits=limits, backend="numpy")
        for gradient, dx in expected.items():
            y, pull = jax.vjp(jax.jit(partial(
                pr.fake_quantize, scheme=scheme, axis=-1, limits=limits, gradient=gradient, backend="jax"
            )), jnp.asarray(x))  # fmt: skip
            yield y, values
            yield pull(jnp.asarray(dy))[0], dx


@check("block formats", "quantizers")
def _blocks() -> Iterator[Pair]:
    for name in pr.BLOCK_FORMATS:
        yield both(pr.round_to_blocks, _rows(5), fmt=name, axis=-1)


@check("quantized_matmul", "quantizers")
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


for _name, _inputs in (("int32", "int8"), ("exact", "fp16"), ("exact", "fp32")):
    check(f"matmul {_name} {_inputs}", "integers")(partial(_product, _name, _inputs))


@check("matmul 130 x 200 x 70", "products")
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
    ("fp32_mul_add", "bf16"),
    ("fp16_fma", "fp16"),
    ("h100_fp8_mma", "e4m3fn"),
    ("h100_fp8_wgmma", "e5m2"),
    ("kahan", "fp32"),
    ("fp32_pairwise", "fp32"),
    ("amx_bf16", "bf16"),
    ("cdna3", "tf32"),
):
    check(f"matmul {_name} {_inputs}", "products")(partial(_product, _name, _inputs))


def _arithmetic(operation: str) -> Iterator[Pair]:
    edges = tuple(map(floats, every_pair()))
    column = everywhere((512, 1), 11), everywhere((512, 64), 12)
    for x, y in (edges, (everywhere(1 << 18, 9), everywhere(1 << 18, 10)), column):
        yield of_module(operation, *((x,) if operation == "square_root" else (y, x)))


for _operation in ("add", "subtract", "multiply", "divide", "square_root"):
    check(f"ftz32 {_operation}", "arithmetic", any_nan=True)(partial(_arithmetic, _operation))


@check("sums and maxima", "arithmetic", any_nan=True)
def _sums() -> Iterator[Pair]:
    x = everywhere((64, 100), 13)
    yield of_module("tree_sum", x)
    yield of_module("row_max", x)
    yield of_module("absmax", x, axis=-1)
    yield both(pr.ordered_sum, x, order="sequential", fmt="fp16")
    rows = floats(drawn(generator(14), (2, 50, 8), (100, 130)))
    indices = generator(15).integers(0, 9, (2, 50)).astype(np.int32)
    yield of_module("scatter_add_rows", indices, rows, size=9)


@check("float32 exp, log, tanh, erf, rsqrt", "arithmetic")
def _elementary() -> Iterator[Pair]:
    x = np.concatenate([floats(EDGES), everywhere(1 << 16, 16), floats(drawn(generator(17), 1 << 18, (100, 134)))])
    for operation in ("exp", "log", "tanh", "erf", "rsqrt"):
        yield of_module(operation, x)


@check("functions of 16-bit formats", "arithmetic")
def _functions() -> Iterator[Pair]:
    for fmt, dtype in (("fp16", np.float16), ("bf16", jnp.bfloat16)):
        x = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
        for name in ("exp", "log", "tanh", "gelu", "rsqrt", "reciprocal", "sigmoid"):
            yield both(getattr(functions, name), x, fmt=fmt)


@check("add, mul, div, sqrt, fma of formats", "operations")
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
    arithmetic, corpus = parse_policy(policy), build_corpus(None, tokenizer="bytes", vocabulary_size=256)
    step, first = Step(CONFIG, arithmetic, executor), initial_parameters(CONFIG.model, 0)
    zeros = {name: np.zeros_like(w) for name, w in first.items()}
    state: Any = {"parameters": first, "first": zeros, "second": zeros}
    scale, updates, hashes = ScaleState.start(arithmetic.loss_scaling), 0, []
    for number in range(1, STEPS + 1):
        data = batch(corpus, seed=0, step=number, batch_size=CONFIG.data.batch_size, length=CONFIG.model.length)
        scalars = step_scalars(CONFIG.optimizer, number, STEPS, updates, scale.scale)
        state, results = step(state, data, scalars, step_keys(CONFIG.model, arithmetic, 0, number))
        hashes += [scalar_hash(results["loss"]), tree_hash(results["gradients"])]
        hashes += [tree_hash(state[part]) for part in ("parameters", "first", "second")]
        finite = bool(results["finite"])
        scale, updates = scale.after(arithmetic.loss_scaling, finite), updates + finite
    return hashes


def _training(policy: str) -> Iterator[Pair]:
    yield np.array(trajectory(policy, "jax")), np.array(trajectory(policy, "numpy"))


for _policy in ("bf16", "int8-train-sr", "fp32", "fp16", "fp16-ln16", "fp8", "int8-train", "bf16-sr", "bf16-h100"):
    check(f"training, {STEPS} steps, {_policy}", "training")(partial(_training, _policy))


# The run


def print_facts() -> None:
    try:
        for name, fact in facts():
            print(f"fact: {name}: {fact}", flush=True)
    except Exception:
        traceback.print_exc()


def main(seconds: float, parts: tuple[str, ...]) -> None:
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}: {', '.join(parts)}", flush=True)
    began, left_out = time.perf_counter(), []
    with np.errstate(all="ignore"):
        for part in parts:
            if part == "facts":
                print_facts()
            for name in (name for name, one in CHECKS.items() if one.part == part or name.startswith(part)):
                if time.perf_counter() - began < seconds:
                    perform(name)
                else:
                    left_out.append(name)
    print(f"not run: {', '.join(left_out) or 'none'}; {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 300, tuple(sys.argv[2:]) or PARTS)
