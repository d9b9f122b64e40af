"""Results of Hopper's tensor core instructions, recorded on the GPU: the emulation gives each of their bits."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from recorded.models import by_distribution, emulated, model, multiply, recorded_words, wrong_models
from recorded.operands import CHAIN, KINDS, OPEN_VECTORS, open_vector, operands, recording_of

RECORDINGS = Path(__file__).resolve().parents[1] / "recorded" / "hopper"
# An fp16 sum of two rounded halves keeps nothing of how either was aligned
BLIND = dict.fromkeys(("mma e4m3 sum16", "mma e5m2 sum16"), ("a bit less", "a bit more", "exact sums"))


@cache
def recording(file: str) -> dict[str, np.ndarray]:
    with np.load(RECORDINGS / f"{file}.npz") as arrays:
        return dict(arrays)


@cache
def facts() -> dict:
    return json.loads((RECORDINGS / "device.json").read_text())


def recorded(name: str) -> np.ndarray:
    return recorded_words(name, recording(recording_of(name))[name])


@pytest.mark.parametrize("name", KINDS)
def test_operands_are_those_that_were_recorded(name):
    words = [x for steps in (1, CHAIN) for x in operands(name, steps)]
    digest = hashlib.sha256(b"".join(x.tobytes() for x in words)).hexdigest()
    assert digest == facts()["tensor cores"]["kinds"][name]["operands"]


@pytest.mark.thinned(0.15)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_emulation_gives_every_recorded_bit(name, backend):
    result = emulated(name, backend=backend)
    assert_same_bits(result, recorded(name))


@pytest.mark.thinned(0.15)
@pytest.mark.parametrize("name", KINDS)
def test_models_wrong_in_one_respect_are_told_apart(name):
    for what, record in wrong_models(name).items():
        if what not in BLIND.get(name, ()):
            assert by_distribution(name, emulated(name, record, "numpy") != recorded(name)), what


@pytest.mark.parametrize("vector", OPEN_VECTORS)
def test_disputed_vectors(vector):
    """The dot products on which published models disagree, as the unit answered them."""
    name, *parts = open_vector(vector)
    answer = int(facts()["open vectors"][vector].split(":")[0], 16)
    result = multiply(KINDS[name], model(name), *parts, "numpy")[0, 0, 0]
    word = np.array([answer], np.uint16 if KINDS[name].sum == "fp16" else np.uint32)
    assert_same_bits(result[None], recorded_words(name, word))


def test_integer_sums_are_exact():
    for name, counted in facts()["int8"].items():
        assert counted.startswith("0 of "), f"{name}: {counted}"
