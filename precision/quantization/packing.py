"""Codes of 2 and 4 bits, four and two to a byte.

byte  bbbb aaaa   4 bits: a is the element of even index, b the next      byte  dd cc bb aa   2 bits
"""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.backends import choose_backend

PACKED = (2, 4)  # bits of a code


def pack_codes(codes: Any, bits: int = 4, *, axis: int = -1) -> Any:
    """Bytes of int8 codes of that many bits, two's complement, the element of the lowest index in the lowest bits.

    Shapes: any with ``axis``; n elements along it become ceil(n bits / 8) bytes, the last one filled with zeros.
    Domain: -2^(bits-1) ... 2^(bits-1) - 1, NumPy or JAX.  Exact; ``unpack_codes`` is its inverse.
    Errors: ValueError for other widths than 2 and 4; TypeError for codes that are not int8.
    """
    xp, per_byte = _checked(codes, bits, np.int8), 8 // bits
    moved = xp.moveaxis(codes, axis, -1)
    missing = -moved.shape[-1] % per_byte
    moved = xp.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, missing)])
    parts = moved.reshape(*moved.shape[:-1], -1, per_byte).view(np.uint8) & np.uint8((1 << bits) - 1)
    shifted = [parts[..., i] << np.uint8(bits * i) for i in range(per_byte)]
    word = shifted[0]
    for part in shifted[1:]:
        word = word | part
    return xp.moveaxis(word, -1, axis)


def unpack_codes(words: Any, length: int, bits: int = 4, *, axis: int = -1) -> Any:
    """The ``length`` int8 codes along ``axis`` that ``pack_codes`` packed.  Errors: as there, uint8 for int8."""
    xp, per_byte = _checked(words, bits, np.uint8), 8 // bits
    moved = xp.moveaxis(words, axis, -1)
    if not 0 <= length <= moved.shape[-1] * per_byte:
        raise ValueError(f"{length} codes do not fit {moved.shape[-1]} bytes of {per_byte}; pass the length packed")
    # up to the sign, then down with it
    parts = [
        (moved << np.uint8(8 - bits * (i + 1))).view(np.int8) >> np.int8(8 - bits) for i in range(per_byte)
    ]  # fmt: skip
    joined = xp.stack(parts, axis=-1).reshape(*moved.shape[:-1], -1)
    return xp.moveaxis(joined[..., :length], -1, axis)


def _checked(array: Any, bits: int, dtype: Any) -> Any:
    """The array module of these arrays."""
    if bits not in PACKED:
        raise ValueError(f"codes of {bits} bits are not packed; {' and '.join(map(str, PACKED))} are")
    if getattr(array, "dtype", None) != dtype:
        raise TypeError(f"these are {np.dtype(dtype).name} arrays, not {getattr(array, 'dtype', type(array))}")
    return choose_backend(array).array_module
