"""NVFP4 against its equations in exact rationals, each float32 operation one rounding; three back ends."""

from __future__ import annotations

from functools import cache

import block_oracle as oracle
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from block_cases import assert_blocks, finite
from executors import Executor
from strategies import drawn, generator, sprinkled

import precision as pr

TENSORS = {
    "ordinary": drawn(generator(21), (30, 16), (110, 130)),
    "wide": drawn(generator(22), (30, 16), (60, 140)),
    "largest": drawn(generator(23), (30, 16), (230, 254)),
    "smallest": drawn(generator(24), (30, 16), (10, 28)),
    "below": drawn(generator(25), (30, 16), (0, 26)),
    "spread": finite(sprinkled(generator(26), drawn(generator(27), (30, 16), (0, 254)), 0.1)),
    "zero": np.tile(np.array([0, 0x80000000], np.uint32), (30, 8)),
    "infinite": np.array([[0x7F800000, *[0xBF800000] * 15], *[[0x3F800000] * 16] * 29], np.uint32),
    "nan": np.array([[0xFFC00001, *[0xBF800000] * 15], *[[0x3F800000] * 16] * 29], np.uint32),
}


@cache
def expected(kind: str, mode: str = "nearest_even") -> tuple[np.ndarray, ...]:
    """Element patterns, scale codes, tensor scale pattern and value patterns."""
    x = TENSORS[kind]
    elements, scales, tensor = oracle.nvfp4([oracles.read_all(row) for row in x], mode)
    values = [oracle.nvfp4_value(v, scale, tensor) for row, scale in zip(elements, scales, strict=True) for v in row]
    codes = np.array([oracles.code_of(scale, "e4m3fn") for scale in scales], np.uint8).reshape(-1, 1)
    flat = oracles.write_all(v for row in elements for v in row).reshape(x.shape)
    return flat, codes, oracles.write_all([tensor]).reshape(()), oracles.write_all(values).reshape(x.shape)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("kind", TENSORS)
def test_nvfp4(backend: Executor, kind: str) -> None:
    x = TENSORS[kind].view(np.float32)
    elements, scale, tensor_scale, values = expected(kind)
    q = pr.quantize_blocks(backend.array(x), "nvfp4", nonfinite="propagate", backend=backend.name)
    assert_same_bits(q.tensor_scale, tensor_scale)
    assert_blocks(q, elements, scale, x)
    assert_same_bits(q.dequantize(backend=backend.name), values, x)


@pytest.mark.parametrize("mode", ["nearest_even", "up", "to_odd"])
def test_nvfp4_under_jit(backend: Executor, mode: str) -> None:
    x = TENSORS["spread"].view(np.float32)
    assert_same_bits(backend.call(pr.round_to_blocks, x, fmt="nvfp4", rounding=mode), expected("spread", mode)[3], x)


@cache
def values_under(word: int) -> np.ndarray:
    """Of every code under every scale."""
    elements = [oracles.value_of_code(code, "e2m1") for code in range(16)]
    scales = [oracles.value_of_code(code, "e4m3fn") for code in range(256)]
    tensor_scale = oracles.read(word)
    values = (oracle.nvfp4_value(element, scale, tensor_scale) for scale in scales for element in elements)
    return oracles.write_all(values).reshape(256, 16)


@pytest.mark.parametrize("word", [0x3F800000, 0x3F2AAAAB, 0x00900000, 0x7E800001])
def test_values_of_every_code_and_scale(backend: Executor, word: int) -> None:
    codes = np.broadcast_to(np.arange(16, dtype=np.uint8), (256, 16))
    scale = np.arange(256, dtype=np.uint8)[:, None]
    parts = {"codes": codes, "scale": scale, "tensor_scale": np.uint32(word).view(np.float32)}
    q = pr.BlockArray(**{k: backend.array(v) for k, v in parts.items()}, format=pr.BLOCK_FORMATS["nvfp4"], axis=-1)
    assert_same_bits(q.dequantize(backend=backend.name), values_under(word))
