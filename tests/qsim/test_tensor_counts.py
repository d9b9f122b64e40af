"""What a step counts of its tensors where they lie, on every back end."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from event_oracle import recount
from strategies import generator
from tensor_updates import SHAPES, drawn_update, tensors_counted

from precision.backends import BACKENDS
from precision.binades import Binades
from precision.statistics import EXPONENT_BINS, LOWEST_EXPONENT
from qsim.config import OptimizerConfig
from qsim.hashing import unstack
from qsim.policy import POLICIES
from qsim.sites import Calculator
from qsim.tensor_counts import count_tensors, ends, sizes, tables, updates

CONFIG = OptimizerConfig(weight_decay=0.1)


def patterns() -> dict[str, np.ndarray]:
    """Of all kinds, NaN, infinities and subnormals among them; one bias of zeros."""
    rng = generator(11)
    words = {name: rng.integers(0, 1 << 32, shape, np.uint32).view(np.float32) for name, shape in SHAPES.items()}
    words["blocks.qkv.bias"][1] = np.float32([0, -0.0, np.inf, np.nan, 0] * 6)
    words["blocks.qkv.bias"][0, :3] = np.uint32([1, 1 << 31, 0x7F7FFFFF]).view(np.float32)
    return words


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients(backend: str) -> None:
    """Tables as of each tensor by itself, exponents as integers tell them, extremes as NumPy sorts them."""
    gradients = patterns()
    counts = tensors_counted(POLICIES["fp16"], CONFIG, drawn_update(POLICIES["fp16"], CONFIG), gradients, backend)
    apart = unstack(gradients)
    found, extremes = tables(counts), ends(counts)
    assert found.keys() == extremes.keys() == apart.keys() == sizes(gradients).keys()
    for name, g in apart.items():
        assert np.array_equal(found[name], Binades.of(np.ascontiguousarray(g)).significands)
        told = recount(np.ascontiguousarray(g).view(np.uint32), "fp32").exponents
        assert found[name].sum(axis=1).tolist() == [told.get(i + LOWEST_EXPONENT, 0) for i in range(EXPONENT_BINS)]
        magnitudes = np.abs(g[np.isfinite(g)].astype(np.float64))
        kept = sorted(magnitudes[magnitudes > 0].tolist())
        assert extremes[name] == ((kept[-1], kept[0]) if kept else None)
    assert extremes["layer.1.qkv.bias"] is None
    assert extremes["layer.0.qkv.bias"] == (float(np.finfo(np.float32).max), 2.0**-149)
    assert sizes(gradients) == {name: g.size for name, g in apart.items()}


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("policy", ["fp16", "fp16-nomaster", "bf16-nomaster", "bf16-sr"])
def test_updates_are_the_same_on_every_back_end(policy: str) -> None:
    arithmetic = POLICIES[policy]
    update = drawn_update(arithmetic, CONFIG)
    first, *others = (
        updates(tensors_counted(arithmetic, CONFIG, update, update.before, backend)) for backend in BACKENDS
    )
    assert sum(int(row.sum()) for row in first.values()) > 0
    for other in others:
        assert {name: row.tolist() for name, row in other.items()} == {k: row.tolist() for k, row in first.items()}


@pytest.mark.parametrize("policy", ["fp16", "fp16-nomaster", "bf16-nomaster"])
def test_updates_in_hardware_arithmetic_are_nearly_the_same(policy: str) -> None:
    """What moved, what kept its bits and what decays is compared; of what decay or 16 bits would have lost, which is
    computed, an element on the edge may fall to the other side."""
    native = POLICIES[policy].with_(name=f"native-{policy}", accumulator="native")
    update = drawn_update(POLICIES[policy], CONFIG)
    quiet = Calculator(native, "jax", hardware=True)
    expected = updates(tensors_counted(POLICIES[policy], CONFIG, update, update.before, "numpy"))
    found = updates(jax.jit(lambda: count_tensors(quiet, CONFIG, update, update.before))())
    assert found.keys() == expected.keys()
    for name, row in found.items():
        assert row[:4].tolist() == expected[name][:4].tolist()
        assert np.abs(row - expected[name]).max() <= 1
