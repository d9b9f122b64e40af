"""Keys and values of a cache in INT8: tokens appended, scores of attention, heads as operands."""

from __future__ import annotations

import numpy as np
from bits_assertions import assert_same_bits
from qarray_assertions import assert_same_qarray
from strategies import generator

import precision as pr

KV = pr.parse_scheme("int8_kv").w


def cache(tokens: int = 12) -> np.ndarray:
    """Keys (B, H, T, D) of tokens whose sizes differ."""
    rng = generator(7)
    sizes = np.exp(rng.normal(size=(2, 3, tokens, 1)) * 3)
    return (rng.normal(size=(2, 3, tokens, 16)) * sizes).astype(np.float32)


def test_tokens_appended_one_at_a_time() -> None:
    keys = cache()
    whole = pr.quantize(keys, KV, axis=-1)
    kept = pr.quantize(keys[:, :, :1], KV, axis=-1)
    for t in range(1, keys.shape[2]):
        kept = pr.QArray.concatenate([kept, pr.quantize(keys[:, :, t : t + 1], KV, axis=-1)], axis=2)
        assert_same_qarray(kept, whole[:, :, : t + 1])
    assert kept.nbytes == 2 * 3 * 12 * (16 + 2)
    assert kept.nbytes * 2 > keys.astype(np.float16).nbytes  # a byte of two, and the scales


def test_attention_scores_from_the_cache() -> None:
    """|q k - q k^| <= sum |q| s (1/2 + 2^-15), with s in fp16: 127 s falls short of an absmax by 0.062 s at most."""
    keys = cache()
    queries = generator(8).normal(size=(2, 3, 1, 16)).astype(np.float32)
    q = pr.quantize(keys, KV, axis=-1)
    assert_same_bits(pr.round_to(q.scale, "fp16"), q.scale)
    exact = np.einsum("bhqd,bhtd->bhqt", queries.astype(np.float64), keys.astype(np.float64))
    found = np.einsum("bhqd,bhtd->bhqt", queries.astype(np.float64), q.dequantize().astype(np.float64))
    step = q.scale.astype(np.float64).swapaxes(-1, -2) * (0.5 + 2.0**-15)
    bound = np.abs(queries).astype(np.float64).sum(-1, keepdims=True) * step
    assert (np.abs(found - exact) <= bound).all()
    assert (np.abs(found - exact) > bound / 100).any()


def test_a_head_of_the_cache_is_an_operand() -> None:
    """Scores of one head as a product with k^T, quantized as (T, D)."""
    keys = cache()
    queries = pr.round_to(generator(8).normal(size=(4, 16)).astype(np.float32), "fp16")
    head = pr.quantize(keys, KV, axis=-1)[1, 2]
    scores = pr.quantized_matmul(queries, head.T, scheme="int8_kv", output="fp32")
    alone = pr.quantized_matmul(queries, np.ascontiguousarray(keys[1, 2].T), scheme="int8_kv", output="fp32")
    assert_same_bits(scores, alone)


def test_attention_output_from_the_cache() -> None:
    """Values (B, H, T, D), a scale a token, under probabilities p (B, H, 1, T): off by sum p s (1/2 + 2^-15)."""
    values = cache()
    weights = np.exp(generator(11).normal(size=(2, 3, 1, 12)))
    weights /= weights.sum(-1, keepdims=True)
    q = pr.quantize(values, KV, axis=-1)
    bound = weights @ (q.scale.astype(np.float64) * (0.5 + 2.0**-15))
    error = weights @ q.dequantize().astype(np.float64) - weights @ values.astype(np.float64)
    assert (np.abs(error) <= bound).all()


def test_keys_stored_transposed() -> None:
    """(B, H, D, T) under the scheme's name, as the second operand of a product stands."""
    keys = cache()
    stored = pr.quantize(np.ascontiguousarray(keys.swapaxes(-1, -2)), "int8_kv", axis=-2)
    assert_same_qarray(stored.swapaxes(-1, -2), pr.quantize(keys, KV, axis=-1))
    parts = [stored[..., :5], stored[..., 5:6], stored[..., 6:]]
    assert_same_qarray(pr.QArray.concatenate(parts, axis=-1), stored)
