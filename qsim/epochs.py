"""Windows in epochs: each once, in an order that is a bijection of counter-based bits of (seed, epoch)."""

from __future__ import annotations

import numpy as np

from precision.random_bits import Key, as_key, fold_in, fold_name, random_bits

_STREAM = "epochs"
_ROUNDS = 8


def window_indices(seed: int, first: int, count: int, windows: int) -> np.ndarray:
    """Which windows the draws ``first`` to ``first + count - 1`` since the start of a run take.

        epoch(g), i(g) = divmod(g, windows),    index[g] = permutation(seed, epoch(g))[i(g)]

    A function of the draw's number alone: where a run is resumed, the number of its step says all.
    Returns (count,) int64 in [0, windows).  windows: 1 to 2^62.
    """
    parts = []
    while count:
        epoch, begin = divmod(first, windows)
        size = min(count, windows - begin)
        key = fold_in(fold_name(as_key(seed), _STREAM), epoch)
        parts.append(permute(key, np.arange(begin, begin + size, dtype=np.uint64), windows))
        first, count = first + size, count - size
    return np.concatenate(parts).astype(np.int64)


def permute(key: Key, index: np.ndarray, size: int) -> np.ndarray:
    """A permutation of range(size), evaluated at ``index`` (N,) uint64 without forming it.

    A balanced Feistel network on 2h bits, h the smallest with 2^(2h) >= size, of eight rounds r:

        (left, right) <- (right, left xor (threefry(key, (r << 32) + right) >> (32 - h)))

    It is a bijection of 2^(2h) numbers; walking on along its cycle until a number is below ``size`` makes it one of
    range(size), in four evaluations or fewer on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    found = _feistel(key, index, half)
    while (outside := found >= size).any():
        found[outside] = _feistel(key, found[outside], half)
    return found


def _feistel(key: Key, index: np.ndarray, half: int) -> np.ndarray:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = index >> bits, index & mask
    for number in range(_ROUNDS):
        word = random_bits(key, right + np.uint64(number << 32)) >> np.uint32(32 - half)
        left, right = right, left ^ word.astype(np.uint64)
    return (left << bits) | right
