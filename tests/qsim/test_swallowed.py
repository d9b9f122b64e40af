"""Updates that changed no bit: counted by hand, as the step made them, and without a trace in the run."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from format_oracle import standard
from small_runs import figures, hash_rows, small_config, write_text
from strategies import drawn, generator
from tensor_updates import drawn_update, swallowed

from precision.backends import BACKENDS
from precision.formats import parse_format
from qsim.config import OptimizerConfig
from qsim.optimizer import decay_of, gradient_direction, with_decay
from qsim.policy import POLICIES, Arithmetic, LossScaling
from qsim.report.recorded import read_run
from qsim.runs import RunFolder
from qsim.sites import Calculator
from qsim.swallowed import Update
from qsim.training import train_new

RATE = 2.0**-10
SCALARS = {"learning_rate": np.float32(RATE), "correction_1": np.float32(1), "correction_2": np.float32(1)}
PLAIN = OptimizerConfig(weight_decay=0.0)


def counted(
    w: list[float],
    direction: list[float],
    policy: str = "fp16",
    config: OptimizerConfig = PLAIN,
    rate: float = RATE,
    backend: str = "numpy",
) -> dict[str, Any]:
    """Counts of one update of a tensor: moments that make m c1 / (sqrt(v c2) + eps) the given direction."""
    before, first = np.array(w, np.float32), np.array(direction, np.float32)
    ar = Calculator(POLICIES[policy], "numpy")
    f, scalars = ar.float32, SCALARS | {"learning_rate": np.float32(rate)}
    total = with_decay(ar, first, before, config.weight_decay)
    shift = f.multiply(total, scalars["learning_rate"])
    new = ar.updated({"logits.weight": f.subtract(before, shift)})["logits.weight"]
    after = {"parameters": new, "first": first, "second": np.ones_like(first)}
    update = Update(
        before={"logits.weight": before},
        after={part: {"logits.weight": x} for part, x in after.items()},
        scalars=scalars,
    )
    return swallowed(POLICIES[policy], config, update, backend)["logits.weight"]


# By hand


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_and_their_neighbours_in_a_float32_master(backend: str) -> None:
    """1 - 2^-25 is a tie and 1 again; 1 - 1.5 2^-25 and 1 + 2^-23 are not; a direction of zero is no update."""
    direction = [2.0**-15, 1.5 * 2.0**-15, -(2.0**-13), -(2.0**-14), 0.0, 2.0**-100]
    counts = counted([1, 1, 1, 1, 1, 0], direction, backend=backend)
    assert counts == {
        "format": "fp32",
        "count": 6,
        "updates": 5,
        "swallowed": 2,
        "swallowed_directions": 2,
        "decays": 0,
        "swallowed_decays": 0,
        "swallowed_in": {"fp16": 4, "bf16": 4},  # of zero fp16 makes -0, which is a change
    }


@pytest.mark.parametrize(("policy", "fmt", "bits"), [("fp16-nomaster", "fp16", 11), ("bf16-nomaster", "bf16", 8)])
def test_kept_in_16_bits(policy: str, fmt: str, bits: int) -> None:
    """Half a unit below and above 1 are ties and swallowed; the next float32 beyond them are not."""
    half = 2.0 ** -(bits + 1)
    moves = [half, half + 2.0**-24, -2 * half, -2 * half - 2.0**-23]
    counts = counted([1, 1, 1, 1], [move / RATE for move in moves], policy)
    assert (counts["format"], counts["updates"], counts["swallowed"]) == (fmt, 4, 2)
    assert counts["swallowed_in"] == ({"fp16": 2, "bf16": 4} if fmt == "fp16" else {"fp16": 0, "bf16": 2})


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_float32_flushes_is_an_update(backend: str) -> None:
    """2^-120 2^-10 is zero in the step's arithmetic alone, and swallowed.  A rate of zero makes no update."""
    assert counted([1.0], [2.0**-120], backend=backend)["swallowed"] == 1
    at_rest = counted([1.0], [2.0**-120], rate=0.0, backend=backend)
    assert (at_rest["updates"], at_rest["swallowed"]) == (0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decay_alone(backend: str) -> None:
    """lr decay w is 2^-13 w, far above half a unit of float32, below that of bf16 and fp16; zero does not decay."""
    config = OptimizerConfig(weight_decay=2.0**-3)
    w = [1.0, -1.5, 0.0, float("inf"), 1.0]
    direction = [0.0, 0.0, 0.0, 0.0, 1.0]
    policies = ("fp16", "bf16-nomaster")
    master, kept = (counted(w, direction, policy, config, backend=backend) for policy in policies)
    for counts in (master, kept):
        assert (counts["count"], counts["updates"], counts["decays"]) == (5, 3, 3)
    assert (master["swallowed"], master["swallowed_decays"]) == (0, 0)
    assert (kept["swallowed"], kept["swallowed_directions"], kept["swallowed_decays"]) == (3, 1, 3)


# By definition


def nearest(x: Fraction, name: str) -> Fraction:
    """The value of a format nearest to x, of two equally near the even one."""
    own = standard(name)
    code = own.below(abs(x))
    low, high = own.magnitude(code), own.magnitude(code + 1)
    code += abs(x) - low > high - abs(x) or (abs(x) - low == high - abs(x) and code % 2 == 1)
    return own.magnitude(code) * (1 if x >= 0 else -1)


def lost(w: Fraction, u: Fraction, name: str) -> bool:
    """Whether w kept in a format stays where it was: w - u in float32, then in the format."""
    kept = nearest(w, name)
    return nearest(nearest(kept - u, "fp32"), name) == kept


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("policy", "kept_in"), [("fp16", "fp32"), ("fp16-nomaster", "fp16"), ("bf16-nomaster", "bf16")]
)
def test_counts_by_definition(policy: str, kept_in: str, backend: str) -> None:
    """Parameters of 2^-9 to 2, directions of 2^-28 to 8, many of them with few bits: ties among them."""
    rng = generator(23)
    w, direction = drawn(rng, 600, (118, 127)).view(np.float32), drawn(rng, 600, (99, 129)).view(np.float32)
    w = Calculator(POLICIES["fp32"], "numpy").backend.round_to(w, parse_format(kept_in))
    pairs = [(Fraction(float(x)), Fraction(float(d)) * Fraction(RATE)) for x, d in zip(w, direction, strict=True)]
    expected = {name: sum(lost(*pair, name) for pair in pairs) for name in ("fp32", "fp16", "bf16")}
    assert 0 < expected["fp32"] < expected["fp16"] < expected["bf16"] < len(w)
    counts = counted(list(w), list(direction), policy, backend=backend)
    assert counts["updates"] == len(w)
    assert counts["swallowed"] == counts["swallowed_directions"] == expected[kept_in]
    assert counts["swallowed_in"] == {name: expected[name] for name in ("fp16", "bf16")}


# As the step made them


@pytest.mark.parametrize("policy", ["fp16", "fp16-nomaster", "bf16-nomaster", "bf16-sr"])
def test_the_update_is_that_of_the_step(policy: str) -> None:
    """w - lr (d + decay w), of the moments that the step left, is its new parameter in every bit."""
    arithmetic, config = POLICIES[policy], OptimizerConfig(weight_decay=0.1)
    update = drawn_update(arithmetic, config)
    ar = Calculator(arithmetic, "numpy")
    ar.draw_from(update.keys)
    f = ar.float32
    for name, w in update.before.items():
        direction = gradient_direction(
            ar, config, update.after["first"][name], update.after["second"][name], update.scalars
        )
        total = with_decay(ar, direction, w, decay_of(config, name))
        new = ar.updated({name: f.subtract(w, f.multiply(total, update.scalars["learning_rate"]))})[name]
        assert_same_bits(update.after["parameters"][name], new)


@pytest.mark.parametrize("policy", ["fp16-nomaster", "bf16-nomaster"])
def test_kept_as_if(policy: str) -> None:
    """Without a master the what-if of its own format is what happened."""
    counts = swallowed(POLICIES[policy], PLAIN, drawn_update(POLICIES[policy], PLAIN))
    assert list(counts) == sorted(counts)
    assert len(counts) == 5
    for own in counts.values():
        assert own["swallowed"] == own["swallowed_in"][own["format"]]
    swallowed_ones, updates = (sum(own[key] for own in counts.values()) for key in ("swallowed", "updates"))
    assert 0 < swallowed_ones < updates


def test_a_master_swallows_less() -> None:
    counts = swallowed(POLICIES["fp16"], PLAIN, drawn_update(POLICIES["fp16"], PLAIN))
    assert sum(own["swallowed"] for own in counts.values()) < sum(
        own["swallowed_in"]["fp16"] for own in counts.values()
    )


@pytest.mark.parametrize("policy", ["bf16-nomaster", "bf16-sr", "fp16"])
def test_without_gradients_decay_is_the_update(policy: str) -> None:
    """By the same random words, too; gains and biases do not decay."""
    arithmetic, config = POLICIES[policy], OptimizerConfig(weight_decay=2.0)
    counts = swallowed(arithmetic, config, drawn_update(arithmetic, config, scale=0.0))
    for name, own in counts.items():
        assert own["swallowed_directions"] == 0
        assert own["updates"] == own["decays"] == (0 if name.endswith(".bias") else own["count"])
        assert own["swallowed"] == own["swallowed_decays"]
    assert (sum(own["swallowed"] for own in counts.values()) > 0) == (policy != "fp16")


# In a run


def run_on_numpy(out: Path, policy: str | Arithmetic, every: int) -> RunFolder:
    out.parent.mkdir(parents=True, exist_ok=True)
    changes = {"steps": 2, "model.length": 8, "data.batch_size": 2, "model.layers": 1, "data.validation_batches": 1}
    config = small_config(**changes, **{"record.statistics_every": every})
    return train_new(out, config, policy, "numpy", [write_text(out.parent)])


def statistics_of(run: RunFolder, step: int) -> dict[str, Any]:
    return json.loads((run.path / "statistics" / f"step_{step:06d}.json").read_text())


@pytest.mark.parametrize("policy", ["fp16", "bf16-sr"])
def test_counting_changes_no_bit(tmp_path: Path, policy: str) -> None:
    counting, plain = run_on_numpy(tmp_path / "a" / "run", policy, 1), run_on_numpy(tmp_path / "b" / "run", policy, 0)
    assert hash_rows(counting) == hash_rows(plain)
    assert figures(counting) == figures(plain)
    file = statistics_of(counting, 2)
    assert list(file) == ["step", "sites", "scales", "swallowed", "what_if"]
    assert file["swallowed"].keys() == file["what_if"].keys() == file["scales"].keys()
    assert all(own["count"] == file["what_if"][name]["count"] for name, own in file["swallowed"].items())
    assert sum(own["updates"] for own in file["swallowed"].values()) > 0
    assert read_run(counting.path).sampled == (1, 2)


def test_a_skipped_step_made_no_update(tmp_path: Path) -> None:
    scaling = LossScaling(mode="dynamic", initial=2.0**40)
    policy = dataclasses.replace(POLICIES["fp16"], name="far-too-high", loss_scaling=scaling)
    file = statistics_of(run_on_numpy(tmp_path / "run", policy, 1), 1)
    assert file["swallowed"] is None
    assert all(own["finite"] <= own["count"] for own in file["what_if"].values())
