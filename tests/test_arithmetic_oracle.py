"""The array oracle of arithmetic against fractions: every operation, mode and kind of operand."""

from __future__ import annotations

import numpy as np
import pytest
from arithmetic_oracle import OPERATIONS, expected, in_fractions
from bits_assertions import assert_same_bits
from format_oracle import MODES
from strategies import EDGES, drawn, generator

SIGN = np.uint32(1 << 31)


def near(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patterns a few units off."""
    return (words + rng.integers(-2, 3, words.shape)).astype(np.uint32)


def operands(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anything; edges; sums that cancel, fused ones too; operands some binades apart."""
    rng = generator(seed)
    parts = [[drawn(rng, count) for _ in range(3)], [rng.choice(EDGES, count) for _ in range(3)]]
    x, y = drawn(rng, count, (90, 150)), drawn(rng, count, (90, 150))
    with np.errstate(over="ignore"):
        product = (x.view(np.float32) * y.view(np.float32)).view(np.uint32)
    parts.append([x, near(x, rng) ^ SIGN, drawn(rng, count, (60, 190))])
    parts.append([x, y, near(product, rng) ^ SIGN])
    parts.append([x, drawn(rng, count, (60, 190)), drawn(rng, count, (40, 210))])
    return tuple(np.concatenate(words) for words in zip(*parts, strict=True))


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "e4m3fn"])
def test_arrays_are_fractions(operation: str, name: str) -> None:
    words = operands(60, len(operation) + len(name))[: OPERATIONS[operation]]
    random = generator(7).integers(0, 1 << 32, words[0].size, np.uint32)
    for mode in MODES:
        rules = {"words": random, "random_bits": 24} if mode == "stochastic" else {}
        in_arrays = expected(operation, words, name, mode, **rules)
        assert_same_bits(in_arrays, in_fractions(operation, words, name, mode, **rules), *words)
