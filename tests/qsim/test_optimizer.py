"""AdamW, clipping and loss scale against optax, and the step that throws its gradients away."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax
import pytest
from small_runs import assert_same_trees, small_config

from qsim.config import OptimizerConfig
from qsim.model import initial_parameters
from qsim.optimizer import ScaleState, adamw, clip_factor, global_norm, step_scalars
from qsim.policy import POLICIES, LossScaling
from qsim.schedules import learning_rate
from qsim.sites import Calculator
from qsim.step import Step

STEPS = 12
SHAPES = {"a.weight": (5, 7), "a.bias": (7,), "norm.gain": (7,), "blocks.b.weight": (2, 3, 4)}
TINY = np.float32(2.0**-126)  # smallest normal float32

both_executors = pytest.mark.parametrize("executor", ["numpy", "numba"])


def calculator(executor: str) -> Calculator:
    return Calculator(POLICIES["fp32"], executor)


def drawn(seed: int, size: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: (size * random.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def fresh(parameters: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    zeros = {name: np.zeros_like(w) for name, w in parameters.items()}
    return {"parameters": parameters, "first": zeros, "second": dict(zeros)}


# AdamW


def gradients_of(step: int) -> dict[str, np.ndarray]:
    """Gradients of every size from 1e-6 to 1, no two steps alike; some are exactly zero."""
    found = drawn(100 + step, 10.0 ** -(step % 7))
    found["norm.gain"][::3] = 0
    return found


def optax_trajectory(config: OptimizerConfig) -> dict[str, np.ndarray]:
    """Parameters after STEPS steps of ``optax.adamw`` in float64, the gradients clipped before it."""
    decayed = {name: config.decay_gains_and_biases or name.endswith(".weight") for name in SHAPES}
    with jax.enable_x64(True):
        clipping = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)
        updating = optax.adamw(
            lambda count: float_schedule(config, int(count) + 1),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=decayed,
        )
        optimizer = optax.chain(clipping, updating)
        parameters = {name: jax.numpy.asarray(w, "float64") for name, w in drawn(0).items()}
        state = optimizer.init(parameters)
        for step in range(1, STEPS + 1):
            gradients = {name: jax.numpy.asarray(g, "float64") for name, g in gradients_of(step).items()}
            updates, state = optimizer.update(gradients, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
        return {name: np.asarray(w) for name, w in parameters.items()}


def float_schedule(config: OptimizerConfig, step: int) -> float:
    return learning_rate(config, step, STEPS)


@pytest.mark.thinned(0.25)
@both_executors
@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(warmup_steps=3, clip=None),
        OptimizerConfig(warmup_steps=3, clip=None, decay_gains_and_biases=True),
        OptimizerConfig(warmup_steps=0, clip=None, weight_decay=0.0, beta1=0.0, beta2=0.999, epsilon=1e-4),
        OptimizerConfig(warmup_steps=3, clip=0.3, schedule="wsd", decay_fraction=0.5),
        OptimizerConfig(warmup_steps=3, clip=0.3, decay_gains_and_biases=True, weight_decay=1.0),
    ],
    ids=["masked decay", "decay of all", "no decay", "clipped", "clipped, decay of all"],
)
def test_adamw_follows_optax(executor: str, config: OptimizerConfig) -> None:
    """Within 2^-24 of the parameter a step, the rounding of its own subtraction, plus 2^-19 of the way it has gone.

    Not equal: optax is run in float64, and in another order; here every product and sum is rounded to float32, about
    ten roundings of an update, which cancellation in the first moment can make larger.  A limit of 0.3
    clips the gradients of size 1 and 0.1.
    """
    ar, state = calculator(executor), fresh(drawn(0))
    for step in range(1, STEPS + 1):
        scalars = step_scalars(config, step, STEPS, step - 1, 1.0)
        gradients = gradients_of(step)
        factor = clip_factor(ar, global_norm(ar, gradients), config.clip)
        state = adamw(ar, config, state, gradients, scalars, factor)
    way = sum(learning_rate(config, step, STEPS) for step in range(1, STEPS + 1))
    start, reference = drawn(0), optax_trajectory(config)
    for name, expected in reference.items():
        found = state["parameters"][name]
        assert found.dtype == np.float32
        assert np.abs(expected - start[name]).max() > way / 10  # the comparison is of something
        allowed = STEPS * 2.0**-24 * np.abs(expected) + 2.0**-19 * way
        assert np.all(np.abs(found - expected) <= allowed), name


@both_executors
def test_decay_spares_gains_and_biases(executor: str) -> None:
    """Without a gradient decay alone moves a parameter: w - lr (0 / (0 + eps) + decay w)."""
    config = OptimizerConfig(warmup_steps=0, weight_decay=0.5)
    state, zeros = fresh(drawn(0)), {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    scalars = step_scalars(config, 1, STEPS, 0, 1.0)
    for everything in (False, True):
        chosen = dataclasses.replace(config, decay_gains_and_biases=everything)
        new = adamw(calculator(executor), chosen, state, zeros, scalars, np.float32(1))["parameters"]
        for name, w in state["parameters"].items():
            shrunk = w - (w * np.float32(0.5)) * scalars["learning_rate"]
            expected = shrunk if everything or name.endswith(".weight") else w
            assert new[name].tobytes() == expected.tobytes(), name


@both_executors
def test_adamw_rounds_in_the_documented_order(executor: str) -> None:
    """Bit for bit the float32 operations of the equation, where nothing is near the underflow threshold."""
    config = OptimizerConfig(warmup_steps=2)
    state, factor = fresh(drawn(0)), np.float32(0.37)
    state["first"], state["second"] = drawn(1, 0.1), {name: np.abs(v) for name, v in drawn(2, 0.01).items()}
    scalars = step_scalars(config, 5, STEPS, 4, 1.0)
    gradients = drawn(3)
    new = adamw(calculator(executor), config, state, gradients, scalars, factor)
    f = np.float32
    for name, w in state["parameters"].items():
        g = gradients[name] * factor
        m = state["first"][name] * f(config.beta1) + g * f(1 - config.beta1)
        v = state["second"][name] * f(config.beta2) + (g * g) * f(1 - config.beta2)
        direction = (m * scalars["correction_1"]) / (np.sqrt(v * scalars["correction_2"]) + f(config.epsilon))
        if name.endswith(".weight"):
            direction = direction + w * f(config.weight_decay)
        expected = {"parameters": w - direction * scalars["learning_rate"], "first": m, "second": v}
        assert_same_trees({part: new[part][name] for part in new}, expected)


@both_executors
def test_moments_and_parameters_are_flushed(executor: str) -> None:
    """Below 2^-126 nothing is kept: results become zero, and what is already there reads as zero."""
    config = OptimizerConfig(warmup_steps=0, weight_decay=0.0)
    one = np.ones(4, np.float32)
    state = {
        "parameters": {"w.weight": np.array([TINY / 2, TINY, -TINY, 1], np.float32)},
        "first": {"w.weight": np.array([TINY, 2 * TINY, -TINY, TINY / 2], np.float32)},
        "second": {"w.weight": np.array([TINY, 2 * TINY, TINY / 2, TINY], np.float32)},
    }
    scalars = step_scalars(config, 1, STEPS, 0, 1.0)
    new = adamw(calculator(executor), config, state, {"w.weight": 0 * one}, scalars, np.float32(1))
    kept = np.array([0, np.float32(2 * TINY) * np.float32(config.beta1), 0, 0], np.float32)
    assert np.array_equal(new["first"]["w.weight"], kept)
    kept = np.array([0, np.float32(2 * TINY) * np.float32(config.beta2), 0, 0], np.float32)
    assert np.array_equal(new["second"]["w.weight"], kept)
    # m / eps is about 2^-98, far from 2^-126, and moves the second parameter; the others stay or are flushed
    moved = new["parameters"]["w.weight"]
    assert moved[0] == 0
    assert moved[1] < -TINY
    assert moved[2] == -TINY
    assert moved[3] == 1
    for tree in new.values():
        magnitude = np.abs(tree["w.weight"])
        assert np.all((magnitude == 0) | (magnitude >= TINY))


@both_executors
def test_gradient_squares_that_underflow_leave_no_trace(executor: str) -> None:
    """g = 1e-30: g^2 is 0, m is not, and the direction is m / eps."""
    config = OptimizerConfig(warmup_steps=0, weight_decay=0.0)
    state = fresh({"w.weight": np.zeros(1, np.float32)})
    scalars = step_scalars(config, 1, STEPS, 0, 1.0)
    new = adamw(
        calculator(executor), config, state, {"w.weight": np.full(1, 1e-30, np.float32)}, scalars, np.float32(1)
    )
    assert new["second"]["w.weight"][0] == 0
    assert new["first"]["w.weight"][0] == np.float32(1e-30) * np.float32(1 - config.beta1)
    expected = -config.learning_rate * 1e-30 / config.epsilon
    assert new["parameters"]["w.weight"][0] == pytest.approx(expected, rel=1e-6)


# The host's numbers


def test_scalars_are_the_host_numbers_rounded_once() -> None:
    config = OptimizerConfig()
    for updates in (0, 1, 10, 1000):
        scalars = step_scalars(config, 25, 100, updates, 2.0**12)
        assert {type(value) for value in scalars.values()} == {np.float32}
        assert scalars == {
            "learning_rate": np.float32(learning_rate(config, 25, 100)),
            "correction_1": np.float32(1 / (1 - 0.9 ** (updates + 1))),
            "correction_2": np.float32(1 / (1 - 0.95 ** (updates + 1))),
            "loss_scale": np.float32(2.0**12),
            "unscale": np.float32(2.0**-12),
        }


# Clipping


@both_executors
@pytest.mark.parametrize("size", [1e-6, 0.1, 1.0, 1e4])
def test_norm_and_clipping_follow_optax(executor: str, size: float) -> None:
    """Within 2^-20, relative: optax adds the squares in float64, here they are added in float32 by trees."""
    ar, gradients, limit = calculator(executor), drawn(4, size), 1.0
    with jax.enable_x64(True):
        wide = {name: jax.numpy.asarray(g, "float64") for name, g in gradients.items()}
        expected_norm = float(optax.tree.norm(wide))
        clip = optax.clip_by_global_norm(limit)
        expected = {k: np.asarray(v) for k, v in clip.update(wide, clip.init(wide))[0].items()}
    norm = global_norm(ar, gradients)
    assert norm.dtype == np.float32
    assert norm.shape == ()
    assert float(norm) == pytest.approx(expected_norm, rel=2.0**-20)
    factor = clip_factor(ar, norm, limit)
    assert (factor == 1) == (expected_norm <= limit)
    for name, g in gradients.items():
        np.testing.assert_allclose(ar.float32.multiply(g, factor), expected[name], rtol=2.0**-20)


@both_executors
def test_clip_factor_at_its_edges(executor: str) -> None:
    ar = calculator(executor)
    cases = [(0.0, 1.0), (0.5, 1.0), (2.0, 1.0), (np.nextafter(np.float32(2), 4), 1 - 2.0**-23), (8.0, 0.25)]
    for norm, expected in cases:
        assert clip_factor(ar, np.float32(norm), 2.0) == np.float32(expected), norm
    assert clip_factor(ar, np.float32(1e30), None) == 1


@both_executors
def test_a_norm_beyond_float32_clips_to_nothing(executor: str) -> None:
    """The squares overflow although the gradients are finite: limit / infinity = 0, as in optax."""
    ar = calculator(executor)
    norm = global_norm(ar, {"w": np.full((2, 2), 1e30, np.float32)})
    assert np.isposinf(norm)
    assert clip_factor(ar, norm, 1.0) == 0


@both_executors
def test_norm_is_a_tree_over_rows_then_tensors_in_name_order(executor: str) -> None:
    f = np.float32
    b, a = np.array([[1, 2, 3]], f), np.array([[4e3, 1e-3], [5, 6]], f)
    rows_a = [f(f(4e3) * f(4e3)) + f(f(1e-3) * f(1e-3)), f(25) + f(36)]
    rows_b = [(f(1) + f(4)) + f(9)]
    expected = np.sqrt((rows_a[0] + rows_a[1]) + rows_b[0])
    assert global_norm(calculator(executor), {"b": b, "a": a}).tobytes() == expected.tobytes()


# Loss scale

DYNAMIC = LossScaling(mode="dynamic", initial=8.0, interval=3, minimum=2.0)


def test_scale_starts_where_the_policy_says() -> None:
    assert ScaleState.start(DYNAMIC) == ScaleState(scale=8.0, good_steps=0)
    assert ScaleState.start(LossScaling(mode="static", initial=4.0)) == ScaleState(scale=4.0)
    assert ScaleState.start(LossScaling(mode="none", initial=4.0)) == ScaleState(scale=1.0)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("", (8.0, 0)),
        ("+", (8.0, 1)),
        ("++", (8.0, 2)),
        ("+++", (16.0, 0)),  # interval good steps in a row
        ("++++", (16.0, 1)),
        ("++++++", (32.0, 0)),
        ("-", (4.0, 0)),
        ("++-", (4.0, 0)),  # the row is broken
        ("++-++", (4.0, 2)),
        ("++-+++", (8.0, 0)),
        ("--", (2.0, 0)),
        ("---", (2.0, 0)),  # never below the minimum
        ("---+++", (4.0, 0)),
    ],
)
def test_dynamic_scale(outcomes: str, expected: tuple[float, int]) -> None:
    state = ScaleState.start(DYNAMIC)
    for outcome in outcomes:
        state = state.after(DYNAMIC, outcome == "+")
    assert (state.scale, state.good_steps) == expected


def test_scale_grows_and_backs_off_by_the_policy() -> None:
    scaling = LossScaling(mode="dynamic", initial=16.0, growth=4.0, backoff=0.125, interval=1, minimum=1.0)
    assert ScaleState.start(scaling).after(scaling, True).scale == 64.0
    assert ScaleState.start(scaling).after(scaling, False).scale == 2.0
    assert ScaleState(scale=2.0).after(scaling, False).scale == 1.0


@pytest.mark.parametrize("mode", ["none", "static"])
def test_other_scales_stay(mode: Any) -> None:
    scaling = LossScaling(mode=mode, initial=8.0, interval=1)
    state = ScaleState.start(scaling)
    for finite in (True, True, False, True):
        assert state.after(scaling, finite) == state


# The step


def scalars_at(scale: float) -> dict[str, Any]:
    return step_scalars(small_config().optimizer, 1, STEPS, 0, scale)


def one_step(policy: str, scale: float) -> tuple[dict, dict, dict[str, Any]]:
    config = small_config()
    state = fresh(initial_parameters(config.model, 0))
    state["first"] = {name: np.full_like(m, 2.0**-10) for name, m in state["first"].items()}
    state["second"] = {name: np.full_like(v, 2.0**-20) for name, v in state["second"].items()}
    tokens = np.arange(64, dtype=np.int32).reshape(4, 16)
    new, results = Step(config, POLICIES[policy], "numba")(state, (tokens, tokens + 1), scalars_at(scale), None)
    return state, new, results


@pytest.mark.parametrize("scale", [2.0**40, 2.0**100])
def test_a_step_with_gradients_that_are_not_finite_changes_nothing(scale: float) -> None:
    """The scaled gradient of the logits is beyond 65504 in fp16, so infinities and NaN reach every gradient."""
    before, after, results = one_step("fp16", scale)
    assert not results["finite"]
    assert not all(np.isfinite(g).all() for g in results["gradients"].values())
    assert math.isfinite(results["loss"])
    for part in ("parameters", "first", "second"):
        assert_same_trees(after[part], before[part])


def test_a_step_with_finite_gradients_moves_every_tensor() -> None:
    before, after, results = one_step("fp16", 2.0**10)
    assert results["finite"]
    for part in ("parameters", "first", "second"):
        for name, value in after[part].items():
            assert value.tobytes() != np.asarray(before[part][name]).tobytes(), (part, name)


@pytest.mark.parametrize("policy", ["fp32", "bf16"])
def test_the_scale_is_divided_out_exactly(policy: str) -> None:
    """A power of two changes no significand where nothing underflows: the same gradients with it and without."""
    plain, scaled = one_step(policy, 1.0)[2], one_step(policy, 2.0**20)[2]
    assert_same_trees({"loss": plain["loss"]}, {"loss": scaled["loss"]})
    assert_same_trees(plain["gradients"], scaled["gradients"])
