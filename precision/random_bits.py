"""Counter-based random bits: Threefry-2x32 with 20 rounds, the same words in every chunking and on every back end.

Word i of a stream depends on the key and on the 64-bit index i alone, so a shard draws its own part of the
stream by passing global indices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from precision import bits

Key = tuple[Any, Any]
_WORD = np.uint32(0xFFFFFFFF)


class Stream(NamedTuple):
    """Where random words come from: a key of two words, and the index of the first element or of every element."""

    key: Key
    counter: Any = 0


def as_key(seed: int) -> Key:
    """Key of a non-negative integer seed below 2^64: its high and its low word."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} is outside 0 <= seed < 2^64; choose a seed in that range")
    return int(seed) >> 32, int(seed) & 0xFFFFFFFF


def fold_in(key: Key, data: int) -> Key:
    """A new key from a key and a 64-bit integer: both Threefry words of that counter.

    The words of a key are integers of Python or NumPy, and those of the new one are Python's; or they are uint32 of
    JAX, traced or not, and stay there.
    """
    if not 0 <= data < 1 << 64:
        raise ValueError(f"data {data} to fold into a key is outside 0 <= data < 2^64")
    high, low, word = data >> 32, data & 0xFFFFFFFF, 0xFFFFFFFF
    if all(isinstance(k, int | np.integer | np.ndarray) for k in key):
        return bits.threefry2x32(int(key[0]), int(key[1]), high, low, word)
    return bits.threefry2x32(*key, *map(np.uint32, (high, low, word)))


def fold_name(key: Key, name: str) -> Key:
    """A new key from a key and a name (ASCII), folded eight bytes at a time, its length first."""
    raw = name.encode("ascii")
    key = fold_in(key, len(raw))
    for start in range(0, len(raw), 8):
        key = fold_in(key, int.from_bytes(raw[start : start + 8], "little"))
    return key


def random_bits(key: Key, counter: np.ndarray) -> np.ndarray:
    """First Threefry word of each counter.

    counter: uint64 array of any shape, the global index of each element.  Returns uint32, same shape.
    """
    index = np.atleast_1d(np.asarray(counter, dtype=np.uint64))
    high, low = (index >> np.uint64(32)).astype(np.uint32), index.astype(np.uint32)
    words, _ = bits.threefry2x32(np.uint32(key[0]), np.uint32(key[1]), high, low, _WORD)
    return words.reshape(np.shape(counter))


def indices(counter: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The uint64 index of every element: ``counter`` onwards in row-major order, or an array of indices as it is."""
    if np.ndim(counter):
        return np.broadcast_to(np.asarray(counter), shape).astype(np.uint64)
    size = int(np.prod(shape, dtype=np.int64))
    return (np.arange(size, dtype=np.uint64) + np.uint64(int(counter))).reshape(shape)
