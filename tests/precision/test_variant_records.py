"""Records of named packages: the divide as it was recorded, formats that x is rounded to, none of them the canon."""

from __future__ import annotations

import hashlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from strategies import generator

import precision as pr
from precision.backends import BACKENDS, get_backend
from precision.quantization.approximate_division import approximate_quotient
from precision.quantization.variants import VARIANTS

COLUMNS = 40
RECORDED = "6c75958602e09e9f0cea88ef035d4a2a5208a93969e2c220ed1e1b7b96844af2"


def parts(x: Any, *, name: str) -> tuple[Any, Any]:
    q = pr.quantize(x, name, axis=-1)
    return q.codes, q.scale


def test_sources_are_rounded_first() -> None:
    """bitsandbytes and SmoothQuant see fp16, whatever they are given."""
    x = generator(62).normal(size=(20, COLUMNS)).astype(np.float32)
    for name in ("bnb_cpu", "bnb_cuda", "smoothquant", "torchao_bf16"):
        source = pr.parse_scheme(name).operand(-1).source
        assert_same_bits(*(parts(v, name=name)[0] for v in (x, pr.round_to(x, source))))


@pytest.mark.parametrize("name", BACKENDS)
def test_recorded_divide(name: str) -> None:
    """All 31,743 positive fp16 values: the hash of what an H100 gave."""
    module = get_backend(name)
    values = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    quotients = np.asarray(approximate_quotient(module, jnp.asarray(values) if name == "jax" else values))
    assert hashlib.sha256(quotients.astype("<f4").tobytes()).hexdigest() == RECORDED
    assert (quotients != np.float32(127) / values).sum() == 9185


def test_variants_differ_from_the_canon() -> None:
    """None is the canon under another name: on plain normal rows each has other codes, or another scale."""
    x = pr.round_to(generator(65).normal(size=(400, 256)).astype(np.float32), pr.FP16)
    canon = parts(x, name="int8_vectorwise")
    for variant in VARIANTS:
        codes, scale = parts(x, name=variant.name)
        assert (np.asarray(codes) != canon[0]).any() or (scale != canon[1]).any(), variant.name
