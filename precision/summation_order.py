"""Which products an ordered sum adds when: tiles of k, chains of a tile, blocks of a chain, as index arrays."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from precision.accumulator import Accumulator
from precision.format import Format

ABSENT = -1  # in place of a position that a short chain or block does not have


@lru_cache(maxsize=256)
def tiles(accumulator: Accumulator, inputs: Format, k: int) -> tuple[np.ndarray, ...]:
    """Positions of k by (block, product of the block, chain), one array a tile; full tiles differ by an offset.

    Positions from k on stand for the padding of ``granule``, a = b = +0; ABSENT for nothing.
    """
    padded = -(-k // accumulator.granule) * accumulator.granule
    size = padded if accumulator.tile is None else accumulator.tile
    starts = range(0, padded, size) if padded else ()
    return tuple(
        _blocks(_chains(accumulator, start, min(start + size, padded)), accumulator.block_for(inputs))
        for start in starts
    )


def _chains(accumulator: Accumulator, start: int, stop: int) -> np.ndarray:
    """(position in the chain, chain) of one tile."""
    order = _ordered(accumulator, np.arange(start, stop))
    chains = accumulator.chains
    length = -(-order.size // chains)
    flat = np.full(length * chains, ABSENT)
    flat[: order.size] = order
    contiguous = accumulator.chain_order == "contiguous"
    return flat.reshape(chains, length).T if contiguous else flat.reshape(length, chains)


def _ordered(accumulator: Accumulator, positions: np.ndarray) -> np.ndarray:
    if accumulator.order == "odd_first":
        swapped = np.arange(positions.size) ^ 1
        return positions[swapped[swapped < positions.size]]
    if accumulator.order == "interleaved_pairs":
        second = np.arange(positions.size) & 2
        return positions[np.argsort(second, kind="stable")]
    return positions


def _blocks(chains: np.ndarray, block: int | None) -> np.ndarray:
    length, count = chains.shape
    size = length if block is None else block
    steps = -(-length // size)
    filled = np.full((steps * size, count), ABSENT)
    filled[:length] = chains
    return filled.reshape(steps, size, count)
