"""Inputs of block formats, and the comparison of what they become."""

from __future__ import annotations

import numpy as np
from bits_assertions import assert_same_bits
from format_search import as_codes, encoded
from strategies import drawn, generator, sprinkled

import precision as pr


def finite(words: np.ndarray) -> np.ndarray:
    """Patterns with the exponent of infinity and NaN replaced by 0."""
    return np.where(words & 0x7F800000 == 0x7F800000, words & np.uint32(0x807FFFFF), words).astype(np.uint32)


def blocks(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values: each row of a few binades somewhere in the range, subnormals and both ends among them."""
    rng = generator(seed)
    rows = []
    for i, bottom in enumerate(rng.integers(0, 250, shape[0])):
        low = (0, 230, int(bottom))[min(i, 2)]
        rows.append(drawn(rng, shape[1:], (low, min(low + rng.integers(1, 24), 254))))
    return finite(sprinkled(rng, np.stack(rows), 0.02)).view(np.float32)


def codes_of(elements: np.ndarray, fmt: pr.BlockFormat) -> np.ndarray:
    """Codes of patterns that are elements."""
    return as_codes(encoded(elements, fmt.element.name), fmt.element.name)


def assert_blocks(actual: pr.BlockArray, elements: np.ndarray, scale: np.ndarray, *inputs: np.ndarray) -> None:
    assert_same_bits(np.asarray(actual.scale), scale)
    assert_same_bits(np.asarray(actual.codes), codes_of(elements, actual.format), *inputs)
