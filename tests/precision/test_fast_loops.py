"""The short ways of rounding against the generic kernels: which formats have one, and the same bits.

What is generic is tested against the oracles elsewhere; here the fast loops are held to it on far more patterns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from bits_assertions import as_bits, assert_same_bits
from format_oracle import MODES, STANDARDS
from strategies import EDGES, NANS, sources

import precision as pr
from precision.backends.numba_ import rounding as numba_rounding
from precision.backends.numba_ import rounding_kernels as kernels
from precision.backends.numba_.compilation import Kernel
from precision.backends.numba_.stochastic import stochastic_plan
from precision.format import Format
from precision.nearest import plan
from precision.rounding_modes import Rounding
from precision.statistics import Statistics

STRIDE = 4099  # prime, so that every low bit pattern turns up
BLOCK = 1 << 22
KEY = tuple(map(np.uint32, (0x452821E6, 0x38D01377)))
START = tuple(map(np.uint32, (0x00000003, 0xFFFFFF00)))  # the low word of the counter wraps on the way
STOCHASTIC = Rounding(mode="stochastic")
BY_FIELDS = [f"e{k}m{n}" for k in range(2, 9) for n in range(1, 24)]
EXHAUSTIVE = ("fp16", "bf16", "e4m3fn", "e5m2", "tf32")
FAST = {"tf32", "fp16", "bf16", "e5m2", "e4m3", "e4m3fn", "e3m4", "e3m2", "e2m3", "e2m1"}
Loop = Callable[[np.ndarray, np.ndarray], None]


@pytest.fixture(params=["serial", "parallel"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One thread, then all, whatever the number of values."""
    monkeypatch.setattr(Kernel, "PARALLEL_FROM", 0 if request.param == "parallel" else 1 << 62)
    return request.param


def every(stride: int) -> np.ndarray:
    """Patterns in order, and those at which something changes."""
    return np.concatenate([np.arange(0, 1 << 32, stride, np.int64).astype(np.uint32), EDGES, NANS])


def overflows(fmt: Format) -> tuple[str, ...]:
    return ("ieee", "inf", "saturate") if fmt.infinities else ("ieee", "saturate")


# Which formats


def test_which_formats_have_a_loop() -> None:
    """Signed zeros, subnormals, at least one bit to drop and one to keep."""
    for planned in (partial(plan, Rounding()), partial(stochastic_plan, STOCHASTIC)):
        assert {name for name in STANDARDS if planned(pr.FORMATS[name]) is not None} == FAST
        by_fields = {name for name in BY_FIELDS if planned(pr.parse_format(name)) is not None}
        assert by_fields == {name for name in BY_FIELDS if not name.endswith("m23")}


def test_which_loop() -> None:
    for name in FAST:
        fmt = pr.FORMATS[name]
        same_range = fmt.min_normal_exponent == -126
        nearest, chance = plan(Rounding(), fmt), stochastic_plan(STOCHASTIC, fmt)
        assert nearest is not None
        assert chance is not None
        assert nearest.by_addition is not same_range
        assert chance[0] is (kernels.stochastic_same_range if same_range else kernels.stochastic_narrow)


@pytest.mark.parametrize(
    ("rounding", "planned"),
    [
        *((Rounding(mode=mode), plan) for mode in MODES if mode != "nearest_even"),
        (Rounding(subnormals="flush"), plan),
        (Rounding(), stochastic_plan),
        (Rounding(mode="stochastic", random_bits=23), stochastic_plan),
        (Rounding(mode="stochastic", subnormals="flush"), stochastic_plan),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
def test_other_rules_take_the_generic_loop(rounding: Rounding, planned: Callable) -> None:
    assert all(planned(rounding, fmt) is None for fmt in pr.FORMATS.values() if fmt is not pr.FP64)


# The same bits


def nearest_loops(fmt: Format, overflow: str = "ieee") -> tuple[Loop, Loop]:
    rounding = Rounding(overflow=overflow)
    fast = plan(rounding, fmt)
    assert fast is not None
    loop = kernels.round_narrow if fast.by_addition else kernels.round_same_range
    f = rounding.words(fmt)
    return (lambda u, out: loop(u, out, *fast.thresholds)), (lambda u, out: kernels.round_nearest(u, out, f))


def stochastic_loops(fmt: Format, overflow: str = "ieee") -> tuple[Loop, Loop]:
    rounding = Rounding(mode="stochastic", overflow=overflow)
    fast = stochastic_plan(rounding, fmt)
    assert fast is not None
    loop, arguments = fast
    where = (*KEY, *START)
    f = rounding.words(fmt)
    return (
        lambda u, out: loop(u, out, *where, *arguments),
        lambda u, out: kernels.round_stochastic(u, out, *where, f),
    )


def agree(loops: tuple[Loop, Loop], u: np.ndarray) -> None:
    found, wanted = np.empty_like(u), np.empty_like(u)
    fast, generic = loops
    fast(u, found)
    generic(u, wanted)
    if not np.array_equal(found, wanted):
        assert_same_bits(found, wanted, u)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("loops", [nearest_loops, stochastic_loops])
@pytest.mark.parametrize("name", sorted(FAST))
def test_every_4099th(name: str, loops: Callable) -> None:
    agree(loops(pr.FORMATS[name]), every(STRIDE))


@pytest.mark.parametrize("loops", [nearest_loops, stochastic_loops])
@pytest.mark.parametrize("name", sorted(FAST))
def test_every_overflow_where_something_changes(name: str, loops: Callable) -> None:
    fmt = pr.FORMATS[name]
    for overflow in overflows(fmt):
        agree(loops(fmt, overflow), sources(name))


@pytest.mark.parametrize("loops", [nearest_loops, stochastic_loops])
def test_every_format_of_two_numbers(loops: Callable) -> None:
    """Patterns in order, and those around the ends of each format's range."""
    u = every(STRIDE * 7)
    for name in BY_FIELDS:
        if not name.endswith("m23"):
            fmt = pr.parse_format(name)
            agree(loops(fmt), np.concatenate([u, around_the_ends(fmt)]))


def around_the_ends(fmt: Format) -> np.ndarray:
    """Both sides of the smallest value, half of it, the smallest normal and the largest: patterns of both signs."""
    f = fmt.constants
    centres = [int(c) for c in (f.smallest, f.half_smallest, f.smallest_normal, f.largest, 0x7F800000)]
    half_step = 1 << max(int(f.drop) - 1, 0)
    centres += [int(f.largest) + half_step, int(f.smallest_normal) - half_step]
    near = np.concatenate([np.arange(c - 40, c + 41) for c in centres])
    magnitudes = np.clip(near, 0, 0x7FFFFFFF).astype(np.uint32)
    return np.concatenate([magnitudes, magnitudes | np.uint32(1 << 31)])


@pytest.mark.exhaustive
@pytest.mark.parametrize("loops", [nearest_loops, stochastic_loops])
@pytest.mark.parametrize("name", EXHAUSTIVE)
def test_all(name: str, loops: Callable) -> None:
    both = loops(pr.FORMATS[name])
    for first in range(0, 1 << 32, BLOCK):
        agree(both, np.arange(first, first + BLOCK, dtype=np.uint32))


# The same short ways on JAX


def agree_on_jax(u: np.ndarray, fmt: Format, overflow: str = "ieee") -> None:
    wanted = np.empty_like(u)
    nearest_loops(fmt, overflow)[1](u, wanted)
    found = as_bits(jax.jit(partial(pr.round_to, fmt=fmt, overflow=overflow))(u.view(np.float32)))
    if not np.array_equal(found, wanted):
        assert_same_bits(found, wanted, u)


@pytest.mark.parametrize("name", sorted(FAST))
def test_every_4099th_on_jax(name: str) -> None:
    agree_on_jax(every(STRIDE), pr.FORMATS[name])


@pytest.mark.parametrize("name", ["e2m22", "e3m21", "e4m20", "e5m18", "e6m16", "e7m1", "e7m16", "e8m1", "e8m22"])
def test_formats_of_two_numbers_on_jax(name: str) -> None:
    """One of each exponent width, near the limits of what float32's unit can hold."""
    fmt = pr.parse_format(name)
    agree_on_jax(np.concatenate([every(STRIDE * 7), around_the_ends(fmt)]), fmt, "saturate")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", EXHAUSTIVE)
def test_all_on_jax(name: str) -> None:
    for first in range(0, 1 << 32, BLOCK):
        agree_on_jax(np.arange(first, first + BLOCK, dtype=np.uint32), pr.FORMATS[name])


# Rounding and counting


def tallied(x: np.ndarray, fmt: Format, rounding: Rounding) -> tuple[np.ndarray, Statistics]:
    rounded, tally = numba_rounding.tally(x, fmt, rounding)
    return rounded, Statistics.from_tally(fmt, x.size, tally)


def agree_in_counts(x: np.ndarray, fmt: Format, rounding: Rounding, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of three thresholds and the one that asks for each event, made to run by taking the plan away."""
    fast: Any = tallied(x, fmt, rounding)
    with monkeypatch.context() as patch:
        patch.setattr(numba_rounding, "plan", lambda *_: None)
        generic: Any = tallied(x, fmt, rounding)
    assert_same_bits(fast[0], generic[0], x)
    assert fast[1] == generic[1]
    assert np.array_equal(fast[1].exponents, generic[1].exponents)
    assert (fast[1].signal, fast[1].noise) == (generic[1].signal, generic[1].noise)


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize("name", sorted(FAST))
def test_tally_by_thresholds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 4099th pattern in order: blocks of zeros and subnormals, blocks of nothing rare, blocks of NaNs."""
    fmt = pr.FORMATS[name]
    for overflow in overflows(fmt):
        agree_in_counts(every(STRIDE).view(np.float32), fmt, Rounding(overflow=overflow), monkeypatch)
        agree_in_counts(sources(name).view(np.float32), fmt, Rounding(overflow=overflow), monkeypatch)


def test_tally_of_every_format_of_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    u = every(STRIDE * 37)
    for name in BY_FIELDS:
        fmt = pr.parse_format(name)
        x = np.concatenate([u, around_the_ends(fmt)]).view(np.float32)
        agree_in_counts(x, fmt, Rounding(), monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", EXHAUSTIVE)
def test_tally_of_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in range(0, 1 << 32, BLOCK):
        x = np.arange(first, first + BLOCK, dtype=np.uint32).view(np.float32)
        agree_in_counts(x, pr.FORMATS[name], Rounding(), monkeypatch)
