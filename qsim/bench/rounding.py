"""Rounding float32 arrays to 16 and 8 bits, against a copy of the same array, a cast, and other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import precision as pr
from precision.backends import get_backend
from qsim.bench.measurement import Comparison, Contender, Timing, measure
from qsim.bench.peers import PEERS
from qsim.bench.threads import bandwidth

FORMATS = ("fp16", "bf16", "e4m3fn")
COPY_BARS = {1 << 26: 0.9, 1 << 18: 0.5}  # at these sizes there are bars: out of the caches, and in them
STATISTICS_BAR, STOCHASTIC_BAR, JAX_BAR = 2.0, 3.0, 0.8
COPY, SERIAL_COPY, YARDSTICK = "copy (Numba)", "copy (Numba, one thread)", "copy"
ROUND, CAST = "round_to (Numba)", "astype (JAX jit)"
CHECKED = 1 << 20  # results looked at, from the first on
DATA = "float32, standard normal times 2^e with e uniform in -26 ... 16, seed 0"

Row = dict[str, Any]
Key = tuple[str, str | None]  # name and format of a contender


def rows(size: int, *, repeats: int, threads: int, with_peers: bool) -> list[Row]:
    """One row a contender, all measured in turns."""
    x = values(size)
    with bandwidth().threads(threads):
        entered = [*copies(x), *numba_contenders(x), *jax_contenders(x)]
        if with_peers:
            entered += [c for peer in PEERS if peer.version() for c in peer.contenders(x, ROUND)]
        timings = measure(entered, repeats)
        expected = {name: pr.round_to(x[:CHECKED], name, backend="numpy") for name in FORMATS}
        per_value = times_per_value(entered, timings)
        return [
            measured(contender, timing)
            | compared(contender, per_value)
            | {"wrong": _wrong(contender, expected) if contender.claims_nearest else None}
            for contender, timing in zip(entered, timings, strict=True)
        ]


def times_per_value(entered: Sequence[Contender], timings: Sequence[Timing]) -> dict[Key, float]:
    """Best times, and the yardstick: the faster of the two copies."""
    per_value = {(c.name, c.format): t.best / c.values for c, t in zip(entered, timings, strict=True)}
    per_value[YARDSTICK, None] = min(per_value[COPY, None], per_value[SERIAL_COPY, None])
    return per_value


def values(size: int) -> np.ndarray:
    """What ``DATA`` says: results of every kind in each format, subnormals, zeros and overflows too."""
    generator = np.random.default_rng(0)
    exponents = generator.integers(-26, 17, size, np.int32)
    return np.ldexp(generator.standard_normal(size, np.float32), exponents)


def copies(x: np.ndarray) -> Iterator[Contender]:
    copy, out = bandwidth().copy, np.empty_like(x)
    yield Contender(name=COPY, call=partial(copy, x, out, parallel=True), values=x.size)
    yield Contender(name=SERIAL_COPY, call=partial(copy, x, out, parallel=False), values=x.size)


def numba_contenders(x: np.ndarray) -> Iterator[Contender]:
    """Plain, with full statistics, stochastic; all into the same preallocated array."""
    out, barred = np.empty_like(x), x.size in COPY_BARS
    plain = Comparison(quantity="speed", other=YARDSTICK, limit=COPY_BARS.get(x.size))
    observed = Comparison(quantity="time", other=ROUND, limit=STATISTICS_BAR if barred else None)
    drawn = Comparison(quantity="time", other=ROUND, limit=STOCHASTIC_BAR if barred else None)
    for name in FORMATS:
        entrant = partial(Contender, values=x.size, format=name)
        call = partial(pr.round_to, x, name, out=out, backend="numba")
        yield entrant(name=ROUND, call=call, comparison=plain, claims_nearest=True)
        call = partial(pr.round_with_statistics, x, name, out=out, backend="numba")
        yield entrant(name="round_with_statistics (Numba)", call=call, comparison=observed)
        call = partial(pr.round_to, x, name, rounding="stochastic", key=0, out=out, backend="numba")
        yield entrant(name="round_to, stochastic (Numba)", call=call, comparison=drawn)


def jax_contenders(x: np.ndarray) -> Iterator[Contender]:
    """The integer kernel under jit and XLA's own conversions there and back, each waited for."""
    jax = get_backend("jax")
    array = jax.asarray(x)
    against_cast = Comparison(quantity="speed", other=CAST, limit=JAX_BAR if x.size in COPY_BARS else None)
    for name in FORMATS:
        entrant = partial(Contender, values=x.size, format=name, claims_nearest=True)
        rounding = jax.jit(partial(pr.round_to, fmt=name))
        cast = jax.jit(partial(_there_and_back, dtype=pr.parse_format(name).dtype))
        yield entrant(name="round_to (JAX jit)", call=partial(_waited_for, rounding, array), comparison=against_cast)
        yield entrant(name=CAST, call=partial(_waited_for, cast, array))


def _there_and_back(x: Any, dtype: np.dtype) -> Any:
    return x.astype(dtype).astype(np.float32)


def _waited_for(function: Any, x: Any) -> Any:
    return function(x).block_until_ready()


def measured(contender: Contender, timing: Timing) -> Row:
    """The times of a contender."""
    return {
        "contender": contender.name,
        "format": contender.format,
        "values": contender.values,
        "seconds_best": timing.best,
        "seconds_median": timing.median,
        "values_per_second": contender.values / timing.best,
    }


def compared(contender: Contender, per_value: Mapping[Key, float]) -> Row:
    """Ratios of the best times per value."""
    own, copy = per_value[contender.name, contender.format], per_value[YARDSTICK, None]
    row: Row = {"speed_to_copy": copy / own}
    comparison = contender.comparison
    if comparison is None:
        return row | dict.fromkeys(("compared_with", "quantity", "ratio", "bar", "met"))
    other = copy if comparison.other == YARDSTICK else per_value[comparison.other, contender.format]
    ratio = comparison.ratio(own, other)
    return row | {
        "compared_with": comparison.other,
        "quantity": comparison.quantity,
        "ratio": ratio,
        "bar": comparison.limit,
        "met": comparison.met(ratio),
    }


def _wrong(contender: Contender, expected: Mapping[str, np.ndarray]) -> int:
    """Of the results looked at, those with other bits than the NumPy reference; any NaN is as good as another."""
    reference = expected[str(contender.format)][: contender.values]
    found = np.asarray(contender.call()[:CHECKED], np.float32)
    same = (found.view(np.uint32) == reference.view(np.uint32)) | (np.isnan(found) & np.isnan(reference))
    return int(np.count_nonzero(~same))
