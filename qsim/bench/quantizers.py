"""Quantizing arrays against a copy of them, and products of what is quantized against NumPy's sgemm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import precision as pr
from precision.backends import get_backend
from qsim.bench.gemm import BUDGET, CORNER, PAUSE, SETTLING, SGEMM, processor_features
from qsim.bench.measurement import Comparison, Contender, Timing, measure
from qsim.bench.rounding import YARDSTICK, compared, copies, measured, times_per_value
from qsim.bench.threads import bandwidth, limited

SHAPE = (4096, 1024)
ROWS_BAR, PRODUCT_BAR, LEAST_WITH_BAR = 0.8, 1.0, 2048  # of the array SHAPE; of products from that size on
QUANTIZE, DEQUANTIZE, ON_NUMPY = "quantize (Numba)", "dequantize (Numba)", "quantize (NumPy)"
ON_JAX, CAST = "quantize (JAX jit)", "astype int8 (JAX jit)"
VECTOR = pr.QScheme(name="int8_vector")
TILINGS = {
    # name: the scheme, the contraction axis
    "rows": (VECTOR, -1),
    "columns": (VECTOR, -2),
    "tensor": (replace(VECTOR, granularity="tensor"), -1),
    "group 128": (replace(VECTOR, granularity="group", group=128), -1),
    "INT4 group 128": (replace(VECTOR, granularity="group", group=128, bits=4), -2),
}
ON_OTHERS = ("rows", "columns", "tensor")  # measured on NumPy and JAX too
CODES = "int8_vectorwise, w as codes"  # w quantized once, as a layer has it
PRODUCTS = ("int8_vectorwise", CODES, "llm_int8", "int8_weight_only")
OUTLIERS, BOUND = 8, 5.0  # columns of x with large values; the others stay within
DATA = (
    f"float32, standard normal, seed 0; products: within +-{BOUND:g} but for {OUTLIERS} columns of x, of at least 8"
)

Row = dict[str, Any]


# Arrays


def array_rows(shape: tuple[int, int], *, repeats: int, threads: int) -> list[Row]:
    """One row a contender, all measured in turns."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    with bandwidth().threads(threads):
        entered = [*copies(x.reshape(-1)), *_numba_contenders(x), *_numpy_contenders(x), *_jax_contenders(x)]
        timings = measure(entered, repeats)
        per_value = times_per_value(entered, timings)
        expected = {name: _quantizer(name, "numpy")(x) for name in TILINGS}
        return [
            measured(contender, timing) | compared(contender, per_value) | {"wrong": _wrong(contender, expected)}
            for contender, timing in zip(entered, timings, strict=True)
        ]


def _quantizer(tiling: str, backend: str) -> Callable[[Any], tuple[Any, Any]]:
    """x -> (codes, scales)."""
    scheme, axis = TILINGS[tiling]

    def quantize(x: Any) -> tuple[Any, Any]:
        q = pr.quantize(x, scheme, axis=axis, backend=backend)
        return q.codes, q.scale

    return quantize


def _numba_contenders(x: np.ndarray) -> Iterator[Contender]:
    for name, (scheme, axis) in TILINGS.items():
        bar = ROWS_BAR if (name, x.shape) == ("rows", SHAPE) else None
        against = Comparison(quantity="speed", other=YARDSTICK, limit=bar)
        call = partial(_quantizer(name, "numba"), x)
        yield Contender(name=QUANTIZE, call=call, values=x.size, format=name, comparison=against)
        q = pr.quantize(x, scheme, axis=axis, backend="numba")
        call = partial(q.dequantize, backend="numba")
        against = replace(against, limit=None)
        yield Contender(name=DEQUANTIZE, call=call, values=x.size, format=name, comparison=against)


def _numpy_contenders(x: np.ndarray) -> Iterator[Contender]:
    for name in ON_OTHERS:
        call = partial(_quantizer(name, "numpy"), x)
        against = Comparison(quantity="speed", other=YARDSTICK)
        yield Contender(name=ON_NUMPY, call=call, values=x.size, format=name, comparison=against)


def _jax_contenders(x: np.ndarray) -> Iterator[Contender]:
    """XLA's code for the composed steps, and for a cast of the same array."""
    jax = get_backend("jax")
    array = jax.asarray(x)
    for name in ON_OTHERS:
        entrant = partial(Contender, values=x.size, format=name)
        call = partial(_waited_for, jax.jit(_quantizer(name, "jax")), array)
        yield entrant(name=ON_JAX, call=call, comparison=Comparison(quantity="speed", other=CAST))
        yield entrant(name=CAST, call=partial(_waited_for, jax.jit(_cast), array))


def _cast(x: Any) -> tuple[Any]:
    return (x.astype(np.int8),)


def _waited_for(function: Callable[[Any], tuple], x: Any) -> tuple:
    return tuple(part.block_until_ready() for part in function(x))


def _wrong(contender: Contender, expected: dict[str, tuple[np.ndarray, np.ndarray]]) -> int | None:
    """Codes and scales with other bits than NumPy's."""
    if contender.name not in (QUANTIZE, ON_JAX):
        return None
    codes, scale = map(np.asarray, contender.call())
    right = expected[str(contender.format)]
    return int((codes != right[0]).sum() + (scale.view(np.uint32) != right[1].view(np.uint32)).sum())


# Products


def product_rows(size: int, *, repeats: int, threads: int) -> list[Row]:
    """One row for sgemm and one a scheme, all measured in turns."""
    x, w = operands(size)
    with limited(threads):
        entered = [Contender(name=SGEMM, call=partial(np.matmul, x, w), values=size**3)]
        entered += [Contender(name=name, call=_product(name, x, w), values=size**3) for name in PRODUCTS]
        timings = measure(entered, repeats, pause=PAUSE, settling=SETTLING, budget=BUDGET)
    return [
        _timed(contender, timing, size)
        | _against(contender.name, size, timings[0].best / timing.best)
        | {"wrong": _wrong_corner(contender, x, w)}
        for contender, timing in zip(entered, timings, strict=True)
    ]


def operands(size: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``DATA`` says."""
    generator = np.random.default_rng(0)
    x, w = (generator.standard_normal((size, size), np.float32).clip(-BOUND, BOUND) for _ in range(2))
    x[:, : OUTLIERS * 3 : 3] += np.copysign(np.float32(8), x[:, : OUTLIERS * 3 : 3])
    return x, w


def _product(name: str, x: np.ndarray, w: np.ndarray, backend: str = "numba") -> Callable[[], np.ndarray]:
    """The product in fp16 of float32 operands."""
    if name != CODES:
        return partial(pr.quantized_matmul, x, w, scheme=name, backend=backend)
    return partial(pr.quantized_matmul, x, pr.quantize(w, axis=-2, backend=backend), backend=backend)


def _timed(contender: Contender, timing: Timing, size: int) -> Row:
    return {
        "contender": contender.name,
        "size": size,
        "rounds": len(timing.samples),
        "seconds_best": timing.best,
        "seconds_median": timing.median,
        "gmacs_per_second": contender.values / timing.best / 1e9,
    }


def _against(name: str, size: int, ratio: float) -> Row:
    if name == SGEMM:
        return dict.fromkeys(("compared_with", "quantity", "ratio", "bar", "met"))
    judged = name == PRODUCTS[0] and size >= LEAST_WITH_BAR and "INT8 dot products" in processor_features()
    bar = PRODUCT_BAR if judged else None
    met = None if bar is None else ratio >= bar
    return {"compared_with": SGEMM, "quantity": "speed", "ratio": ratio, "bar": bar, "met": met}


def _wrong_corner(contender: Contender, x: np.ndarray, w: np.ndarray) -> int | None:
    """Of a corner of the product, results with other bits than NumPy's: each depends on its row and column alone,
    outliers being columns of large values from end to end.
    """
    if contender.name == SGEMM:
        return None
    right = _product(contender.name, x[CORNER[0]], np.ascontiguousarray(w[:, CORNER[1]]), "numpy")()
    found = np.ascontiguousarray(contender.call()[CORNER])
    return int((found.view(np.uint32) != right.view(np.uint32)).sum())
