"""Step 0 in parts: the bits of the whole, of which a mesh makes each device's part alone; batches likewise."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import environment
from scipy.special import ndtri
from small_runs import corpus_of_numbers, small_config

from precision.random_bits import as_key, fold_name, random_bits
from qsim import model
from qsim.config import ModelConfig, preset
from qsim.model import initial_parameters, initial_part, parameter_shapes
from qsim.position import batch_of
from qsim.sharding import DATA, MODEL, Shards

SCRIPT = Path(__file__).with_name("eight_devices_start.py")
CONFIG = ModelConfig(layers=3, hidden=8, heads=2, length=5, vocabulary=11)
SHAPES = parameter_shapes(CONFIG)


def drawn(name: str) -> np.ndarray:
    """From the definition: element i of the whole draws word i."""
    key = fold_name(fold_name(as_key(7), "parameters"), name)
    words = random_bits(key, np.arange(math.prod(SHAPES[name]), dtype=np.uint64)).astype(np.float64)
    deviation = 0.02 / 6**0.5 if "attention_out" in name or "mlp_down" in name else 0.02
    return (ndtri((words + 0.5) * 2.0**-32) * deviation).astype(np.float32).reshape(SHAPES[name])


@pytest.mark.parametrize("at_once", [1, 20, 1 << 16])
def test_the_whole_is_drawn_by_index(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(model, "_DRAWN_AT_ONCE", at_once)
    for name, w in initial_parameters(CONFIG, 7).items():
        if name.endswith((".gain", ".bias")):
            assert (w == name.endswith(".gain")).all()
        else:
            assert w.tobytes() == drawn(name).tobytes(), name
        assert (w.dtype, w.shape) == (np.float32, SHAPES[name])


@settings(deadline=None)
@given(name=st.sampled_from(sorted(SHAPES)), data=st.data())
def test_a_part_has_the_bits_of_the_whole(name: str, data: st.DataObject) -> None:
    bounds = [data.draw(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted)) for n in SHAPES[name]]
    part = tuple((start, stop) for start, stop in bounds)
    expected = initial_parameters(CONFIG, 7)[name][tuple(slice(*ends) for ends in part)]
    found = initial_part(CONFIG, 7, name, part)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@given(rows=st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True), step=st.integers(1, 9))
@pytest.mark.parametrize("order", ["random", "epochs"])
def test_rows_of_a_batch_are_read_alone(order: str, rows: list[int], step: int) -> None:
    config = small_config(**{"data.batch_size": 8, "data.order": order})
    corpus = corpus_of_numbers()
    whole, some = batch_of(config, corpus, step), batch_of(config, corpus, step, np.array(rows))
    for all_rows, own in zip(whole, some, strict=True):
        assert np.array_equal(all_rows[rows], own)


def test_eight_devices_start_from_the_same_bits() -> None:
    """No part asked of the host is more than a device's own; its memory stays below a quarter of one whole copy."""
    command = [sys.executable, "-W", "error", str(SCRIPT)]
    finished = subprocess.run(command, env=environment(8), capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    print(finished.stdout)


def test_the_largest_model_on_512_devices() -> None:
    """Shapes alone: of 52 billion parameters the largest part a device holds, and asks of its host, is 134 MB."""
    shapes = parameter_shapes(preset("52b").model)
    axes, layouts = {DATA: 64, MODEL: 8}, Shards.of(64, 8, shapes, heads=64).layouts
    parts = {
        name: math.prod(n // axes.get(axis or "", 1) for n, axis in zip(shape, layout or [None] * 9, strict=False))
        for name, shape in shapes.items()
        for layout in [layouts[name]]
    }
    assert 4 * max(parts.values()) == 4 * 64 * (8192 // 64) * (32768 // 8) == 134_217_728
    assert 51e9 < sum(map(math.prod, shapes.values())) < 53e9
    assert 12 * sum(parts.values()) < 2e9  # parameters and both moments of a device
