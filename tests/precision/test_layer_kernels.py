"""Kernels of whole layers: operands that they refuse, and sums of no rows."""

from __future__ import annotations

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import Executor
from strategies import drawn, generator

from precision.backends import get_backend
from precision.rounding_words import NOT_ROUNDED

NUMPY = get_backend("numpy")
WORDS = {"column_sums": 2 * NOT_ROUNDED, "column_products": NOT_ROUNDED}


def array(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("name", "operands", "message"),
    [
        ("biased", (array(3, 4), array(3)), r"^operand 1 must be float32 of shape \(4,\), not float32 of \(3,\)\Z"),
        ("total", (array(3), array(2)), r"^operand 1 must be float32 of shape \(3,\), not float32 of \(2,\)\Z"),
        ("total", (array(3, 1), array(3)), r"^operand 0 must be float32 of shape \(3,\), not float32 of \(3, 1\)\Z"),
    ],
)
def test_operands_that_would_be_read_past_their_end(name: str, operands: tuple, message: str) -> None:
    """By NumPy arrays as by XLA."""
    for backend in ("numba", "jax"):
        with pytest.raises(TypeError, match=message):
            get_backend(backend).fused_layer(name)(NOT_ROUNDED, lambda *x: x[:1], *operands)


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("shape", [(2, 0, 130), (2, 1, 130), (1, 11, 130), (0, 3, 3), (2, 3, 0)])
def test_sums_of_few_rows(backend: Executor, name: str, shape: tuple[int, ...]) -> None:
    """Those of no rows are -0, which changes no sum."""
    operands = [
        drawn(generator(i), shape, (100, 140)).view(np.float32) for i in range(1 + (name == "column_products"))
    ]

    def composed(*x):
        return (backend.module.tree_sum(x[0] if len(x) == 1 else backend.module.multiply(*x), 1),)

    def run(*x):
        kernel = backend.module.fused_layer(name)
        return composed(*x)[0] if kernel is None else kernel(WORDS[name], composed, *x)[0]

    wanted = NUMPY.tree_sum(operands[0] if len(operands) == 1 else NUMPY.multiply(*operands), 1)
    assert_same_bits(np.asarray(backend.module.jit(run)(*map(backend.array, operands))), wanted)
    if shape[1] == 0:
        assert_same_bits(wanted, np.full((2, 130), -0.0, np.float32))
