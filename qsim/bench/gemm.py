"""Matrix products under named accumulators against NumPy's sgemm on as many threads."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

import precision as pr
from precision.backends import get_backend
from precision.exact_products import digits_needed
from qsim.bench.measurement import Contender, Timing, measure, seconds
from qsim.bench.threads import limited

SIZES = (512, 1024, 2048)  # those with bars
SGEMM = "sgemm (NumPy)"
LONGEST_CALL, BUDGET = 4.0, 6.0  # seconds: of one call, else the product is cut; of a contender's calls at one size
PAUSE = 0.05  # seconds: threads of BLAS that wait for more work spin for 30 ms
SETTLING = 0.03  # seconds of calls before those that are timed
LEAST_WORK = 1 << 25  # multiply-adds from which every kernel takes all threads
CORNER = (slice(8), slice(16))  # of a product: compared with the NumPy reference
DATA = "a and b n x n, standard normal (x 32 for INT8), rounded to the inputs' format, seed 0"

Row = dict[str, Any]
BarOf = Literal["ratio", "GMAC/s a thread"]
Feature = Literal["fp16 arithmetic", "INT8 dot products"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An accumulator to measure.

    Fields
        inputs: format of both operands.
        bar: the least ratio to sgemm's speed, or the least rate (``bar_of``); None where there is none.
        needs: what the processor must have for the bar to stand.
    """

    accumulator: str
    inputs: str
    bar: float | None = None
    bar_of: BarOf = "ratio"
    needs: Feature | None = None

    def limit(self, size: int) -> float | None:
        """The bar, where it stands."""
        stands = size in SIZES and (self.needs is None or self.needs in processor_features())
        return self.bar if stands else None


ENTRIES = (
    Entry(accumulator="fp32_sequential", inputs="fp16", bar=0.9),
    Entry(accumulator="fp32_sequential", inputs="bf16", bar=0.9),
    Entry(accumulator="fp32_mul_add", inputs="fp16"),
    Entry(accumulator="fp16_mul_add", inputs="fp16", bar=0.1),
    Entry(accumulator="fp16_fma", inputs="fp16", bar=0.1),
    Entry(accumulator="bf16_fma", inputs="bf16", bar=0.1),
    Entry(accumulator="avx512_fp16", inputs="fp16", bar=1.0, needs="fp16 arithmetic"),
    Entry(accumulator="h100", inputs="bf16", bar=2.0, bar_of="GMAC/s a thread"),
    Entry(accumulator="h100", inputs="fp16"),
    Entry(accumulator="a100", inputs="fp16"),
    Entry(accumulator="amx_bf16", inputs="bf16"),
    Entry(accumulator="avx512_bf16", inputs="bf16"),
    Entry(accumulator="int32", inputs="int8", bar=2.0, needs="INT8 dot products"),
    Entry(accumulator="exact", inputs="fp16"),
)


def processor_features() -> set[Feature]:
    """Those that a bar depends on, of the processor that Numba compiles for."""
    numba = "precision.backends.numba_"
    half = importlib.import_module(f"{numba}.target").target().half_arithmetic
    dots = importlib.import_module(f"{numba}.integer_tiles").UNIT.name.startswith("vnni")
    found: list[tuple[Feature, bool]] = [("fp16 arithmetic", half), ("INT8 dot products", dots)]
    return {feature for feature, there in found if there}


def entries(names: Sequence[str]) -> list[Entry]:
    """Those of ``ENTRIES`` by these names, all by default; of any other accumulator one, of its first input format.

    Errors: ValueError for an unknown accumulator.
    """
    chosen = []
    for name in dict.fromkeys(names):
        record = pr.parse_accumulator(name)
        known = [entry for entry in ENTRIES if entry.accumulator == name]
        chosen += known or [Entry(accumulator=name, inputs=(*record.inputs, "fp16")[0])]
    return chosen or list(ENTRIES)


class Product:
    """A call that multiplies a by b and keeps the corner of the result; by ``sgemm`` where there is no entry."""

    def __init__(self, entry: Entry | None, a: np.ndarray, b: np.ndarray) -> None:
        self.entry, self.a, self.b = entry, a, b
        self.run: Callable[[Any, Any], Any] = np.matmul if entry is None else _matmul(entry, "numba")
        self.corner = np.empty((0, 0), np.float32)

    def __call__(self) -> None:
        self.corner = self.run(self.a, self.b)[CORNER].copy()

    def shrink(self) -> None:
        """To as many rows of a, and columns of b, as one call does in ``LONGEST_CALL``; k stays."""
        a, b, growth = self.a, self.b, 8.0
        whole, side = len(a), min(len(a), max(16, math.isqrt(LEAST_WORK // len(b))))
        self.a, self.b = a[:side], np.ascontiguousarray(b[:, :side])
        self()  # compiles
        while side < whole and growth >= 2:
            growth = min(8.0, LONGEST_CALL / seconds(self))
            side = min(whole, int(side * math.sqrt(max(growth, 1.0))))
            self.a, self.b = a[:side], np.ascontiguousarray(b[:, :side])

    @property
    def contender(self) -> Contender:
        name, inputs = (SGEMM, "fp32") if self.entry is None else (self.entry.accumulator, self.entry.inputs)
        return Contender(name=name, call=self, values=len(self.a) * self.b.size, format=inputs)


def _matmul(entry: Entry, backend: str) -> Callable[[Any, Any], Any]:
    return partial(pr.matmul, accumulator=entry.accumulator, inputs=entry.inputs, backend=backend)


def rows(size: int, *, chosen: Sequence[Entry], repeats: int, threads: int) -> list[Row]:
    """One row for sgemm and one an entry, all measured in turns."""
    with limited(threads):
        data = {inputs: operands(size, inputs) for inputs in ("fp32", *(entry.inputs for entry in chosen))}
        products = [Product(None, *data["fp32"]), *(Product(entry, *data[entry.inputs]) for entry in chosen)]
        for product in products:
            product.shrink()
        timings = measure(
            [product.contender for product in products], repeats, pause=PAUSE, settling=SETTLING, budget=BUDGET
        )
    measured = [_measured(product, timing) for product, timing in zip(products, timings, strict=True)]
    sgemm = measured[0]["gmacs_per_second"]
    return [
        row | _compared(product.entry, size, row["gmacs_per_second"], sgemm, threads) | _checked(product)
        for product, row in zip(products, measured, strict=True)
    ]


def operands(size: int, inputs: str) -> tuple[np.ndarray, np.ndarray]:
    """What ``DATA`` says: float32 carriers, INT8 as int8."""
    generator = np.random.default_rng(0)
    drawn = [generator.standard_normal((size, size), np.float32) for _ in range(2)]
    if pr.parse_format(inputs).is_integer:
        drawn = [pr.encode(pr.round_to(32 * x, inputs), inputs) for x in drawn]
    else:
        drawn = [pr.round_to(x, inputs) for x in drawn]
    return drawn[0], drawn[1]


def _measured(product: Product, timing: Timing) -> Row:
    contender = product.contender
    return {
        "contender": contender.name,
        "format": contender.format,
        "size": len(product.b),
        "side": len(product.a),
        "rounds": len(timing.samples),
        "seconds_best": timing.best,
        "seconds_median": timing.median,
        "gmacs_per_second": contender.values / timing.best / 1e9,
    }


def _compared(entry: Entry | None, size: int, rate: float, sgemm: float, threads: int) -> Row:
    """Ratio of the best times per multiply-add, and the bar."""
    if entry is None:
        return dict.fromkeys(("compared_with", "quantity", "ratio", "bar", "bar_of", "met"))
    bar = entry.limit(size)
    judged = rate / sgemm if entry.bar_of == "ratio" else rate / threads
    return {
        "compared_with": SGEMM,
        "quantity": "speed",
        "ratio": rate / sgemm,
        "bar": bar,
        "bar_of": None if bar is None else entry.bar_of,
        "met": None if bar is None else judged >= bar,
    }


def _checked(product: Product) -> Row:
    """Results compared with the NumPy reference, how many of them have other bits; digits of an exact product."""
    entry = product.entry
    summation = "native" if entry is None else pr.parse_accumulator(entry.accumulator).summation
    if entry is None or summation == "native":
        return dict.fromkeys(("checked", "wrong", "digits"))
    expected = _matmul(entry, "numpy")(product.a[CORNER[0]], product.b[:, CORNER[1]])
    different = expected.view(np.uint32) != product.corner.view(np.uint32)
    return {
        "checked": different.size,
        "wrong": int(np.count_nonzero(different)),
        "digits": _digits(product) if summation == "exact" else None,
    }


def _digits(product: Product) -> list[int]:
    """7-bit digits of a and of b; their product is the number of INT8 products that the exact one takes."""
    module = get_backend("numpy")
    return [int(digits_needed(module, module.to_bits(x), axis).max()) for x, axis in ((product.a, 1), (product.b, 0))]
