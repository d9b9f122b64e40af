"""Learning rates against optax, and against their equations in rational numbers."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import jax
import numpy as np
import optax
import pytest

from qsim.config import OptimizerConfig
from qsim.schedules import learning_rate

STEPS = 41
LONG = 20_000


def rates(config: OptimizerConfig, steps: int = STEPS) -> list[float]:
    return [learning_rate(config, step, steps) for step in range(1, steps + 1)]


def of_optax(schedule: optax.Schedule, steps: int = STEPS) -> list[float]:
    """Steps count from 1 here, updates from 0 there: step t is optax's count t, and count 0 is never used."""
    return [float(schedule(step)) for step in range(1, steps + 1)]


def optax_cosine(config: OptimizerConfig) -> optax.Schedule:
    rate, warmup = config.learning_rate, config.warmup_steps
    return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, STEPS, rate * config.final_fraction)


def optax_wsd(config: OptimizerConfig, decay: int) -> optax.Schedule:
    """Three schedules joined; the last D steps decay."""
    rate, warmup = config.learning_rate, config.warmup_steps
    parts = [
        optax.linear_schedule(0.0, rate, warmup) if warmup else optax.constant_schedule(rate),
        optax.constant_schedule(rate),
        optax.linear_schedule(rate, rate * config.final_fraction, decay),
    ]
    return optax.join_schedules(parts, [warmup, STEPS - decay])


def exact(config: OptimizerConfig, step: int, last: int) -> Fraction:
    """The equation of ``wsd`` in rational numbers, D a whole number."""
    rate, final = Fraction(config.learning_rate), Fraction(config.final_fraction)
    if step <= config.warmup_steps:
        return rate * step / config.warmup_steps
    decay = max(1, min(round(Fraction(config.decay_fraction) * last), last - config.warmup_steps))
    left = min(Fraction(1), max(Fraction(0), Fraction(last - step, decay)))
    return rate * (final + (1 - final) * left)


def nearest_float32(value: Fraction) -> np.float32:
    """Of the float32 numbers around it the one that is closest; no tie occurs."""
    start = np.float32(float(value))
    candidates = [np.nextafter(start, np.float32(0)), start, np.nextafter(start, np.float32(1))]
    ordered = sorted(candidates, key=lambda c: abs(Fraction(float(c)) - value))
    distances = [abs(Fraction(float(c)) - value) for c in ordered]
    assert distances[0] < distances[1]
    return ordered[0]


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
def test_cosine_is_that_of_optax(warmup: int, fraction: float) -> None:
    config = OptimizerConfig(warmup_steps=warmup, final_fraction=fraction)
    with jax.enable_x64(True):
        expected = of_optax(optax_cosine(config))
    np.testing.assert_allclose(rates(config), expected, rtol=1e-12, atol=1e-18)


def test_constant_is_that_of_optax() -> None:
    config = OptimizerConfig(warmup_steps=7, schedule="constant")
    with jax.enable_x64(True):
        expected = of_optax(optax.schedules.warmup_constant_schedule(0.0, config.learning_rate, 7))
    np.testing.assert_allclose(rates(config), expected, rtol=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("fraction", "decay"), [(0.1, 4), (0.2, 8), (0.5, 20), (0.8, 33), (0.001, 1)])
def test_wsd_is_that_of_optax(warmup: int, final: float, fraction: float, decay: int) -> None:
    """In float64; and within 2^-22 of the highest rate in float32, optax's own few roundings of 2^-24 and ours."""
    config = OptimizerConfig(schedule="wsd", warmup_steps=warmup, final_fraction=final, decay_fraction=fraction)
    with jax.enable_x64(True):
        expected = of_optax(optax_wsd(config, decay))
    np.testing.assert_allclose(rates(config), expected, rtol=1e-12, atol=1e-18)
    single = of_optax(optax_wsd(config, decay))
    rounded = np.array(rates(config), np.float32)
    np.testing.assert_allclose(rounded, single, rtol=0, atol=2.0**-22 * config.learning_rate)


@pytest.mark.parametrize("steps", [1, 2, 41, 300, LONG])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 1 / 3, 1.0])
def test_wsd_is_its_equation_rounded_once(steps: int, fraction: float) -> None:
    """What the step is given, float32 of a float64, is the float32 number nearest to the exact rate."""
    config = OptimizerConfig(schedule="wsd", warmup_steps=7, decay_fraction=fraction, final_fraction=0.1)
    for step in sorted({1, 2, 6, 7, 8, 9, *range(1, steps + 2, max(1, steps // 60)), steps - 1, steps} - {0}):
        true = exact(config, step, steps)
        found = learning_rate(config, step, steps)
        assert abs(Fraction(found) - true) <= Fraction(1, 2**51) * true
        assert np.float32(found) == nearest_float32(true), step


def test_wsd_begins_to_decay_where_the_warm_up_ends_at_the_earliest() -> None:
    config = OptimizerConfig(schedule="wsd", learning_rate=1.0, warmup_steps=16, decay_fraction=1.0, final_fraction=0)
    assert rates(config, 20)[14:] == [15 / 16, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert rates(config, 10) == [step / 16 for step in range(1, 11)]  # no room to decay in
    assert learning_rate(config, 17, 10) == 0.0


def test_ends_of_the_schedules() -> None:
    """Beyond the last step the rate stays."""
    config = OptimizerConfig(learning_rate=0.5, warmup_steps=4, final_fraction=0.25, decay_fraction=0.4)
    steps = (1, 2, 4, 12, 20, 25)
    assert [learning_rate(config, step, 20) for step in steps] == [0.125, 0.25, 0.5, 0.3125, 0.125, 0.125]
    stable = dataclasses.replace(config, schedule="wsd")
    steps = (1, 2, 4, 12, 14, 16, 20, 25)
    expected = [0.125, 0.25, 0.5, 0.5, 0.40625, 0.3125, 0.125, 0.125]
    assert [learning_rate(stable, step, 20) for step in steps] == expected


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_shorter_run_keeps_the_rates_of_a_longer_one(schedule: str) -> None:
    config = OptimizerConfig(warmup_steps=4, schedule=schedule, decay_fraction=0.8)
    cut = dataclasses.replace(config, decay_steps=30)
    whole = rates(config, 30)
    assert rates(cut, 10) == whole[:10]
    assert rates(config, 10) != whole[:10]
