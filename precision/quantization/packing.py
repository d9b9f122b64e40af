"""Codes of 2 and 4 bits, four and two to a byte.

byte  bbbb aaaa   4 bits: a is the element of even index, b the next      byte  dd cc bb aa   2 bits
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np

from precision.backends import choose_backend, is_concrete

PACKED = (2, 4)  # bits of a code


def packed_length(length: int, bits: int) -> int:
    """How many bytes hold so many codes; a byte each where the width is not one that is packed."""
    return -(-length * bits // 8) if bits in PACKED else length


def pack_codes(codes: Any, bits: int = 4, *, axis: int = -1) -> Any:
    """Bytes of int8 codes of that many bits, two's complement, the element of the lowest index in the lowest bits.

    Shapes: any with ``axis``; n elements along it become ceil(n bits / 8) bytes, the last one filled with zeros.
    Domain: -2^(bits-1) ... 2^(bits-1) - 1, NumPy or JAX.  Exact; ``unpack_codes`` is its inverse.
    Errors: ValueError for other widths than 2 and 4, an axis that is not there and (eager only) codes outside the
    domain; TypeError for codes that are not int8.
    """
    xp, per_byte = _checked(codes, bits, np.int8, axis), 8 // bits
    if is_concrete(codes):
        _refuse_wider(np.asarray(codes), bits)
    moved = xp.moveaxis(codes, axis, -1)
    *lead, length = moved.shape
    count = packed_length(length, bits)
    padded = xp.pad(moved, [(0, 0)] * len(lead) + [(0, count * per_byte - length)])
    parts = padded.reshape(*lead, count, per_byte).view(np.uint8) & np.uint8((1 << bits) - 1)
    words = reduce(operator.or_, [parts[..., i] << np.uint8(bits * i) for i in range(per_byte)])
    return xp.moveaxis(words, -1, axis)


def unpack_codes(words: Any, length: int, bits: int = 4, *, axis: int = -1) -> Any:
    """The ``length`` int8 codes along ``axis`` that ``pack_codes`` packed.

    Errors: as there, uint8 for int8; ValueError for a length that takes another number of bytes.
    """
    xp, per_byte = _checked(words, bits, np.uint8, axis), 8 // bits
    moved = xp.moveaxis(words, axis, -1)
    *lead, count = moved.shape
    if length < 0 or packed_length(length, bits) != count:
        raise ValueError(f"{length} codes of {bits} bits are not what {count} bytes hold; pass the length packed")
    # up to the sign, then down with it
    parts = [
        (moved << np.uint8(8 - bits * (i + 1))).view(np.int8) >> np.int8(8 - bits) for i in range(per_byte)
    ]  # fmt: skip
    joined = xp.stack(parts, axis=-1).reshape(*lead, count * per_byte)
    return xp.moveaxis(joined[..., :length], -1, axis)


def _checked(array: Any, bits: int, dtype: Any, axis: int) -> Any:
    """The array module of these arrays."""
    if bits not in PACKED:
        raise ValueError(f"codes of {bits} bits are not packed; {' and '.join(map(str, PACKED))} are")
    if getattr(array, "dtype", None) != dtype:
        raise TypeError(f"these are {np.dtype(dtype).name} arrays, not {getattr(array, 'dtype', type(array))}")
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"axis {axis} does not exist in an array of shape {tuple(array.shape)}")
    return choose_backend(array).array_module


def _refuse_wider(codes: np.ndarray, bits: int) -> None:
    half = 1 << (bits - 1)
    if codes.size and not -half <= codes.min() <= codes.max() < half:
        where = list(map(int, np.argwhere((codes < -half) | (codes >= half))[0]))
        raise ValueError(
            f"codes{where} is {codes[tuple(where)]}, outside {-half} ... {half - 1}; quantize to {bits} bits first"
        )
