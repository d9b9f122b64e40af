"""Comparison of quantized arrays."""

from __future__ import annotations

from bits_assertions import assert_same_bits

import precision as pr


def assert_same_qarray(a: pr.QArray, b: pr.QArray) -> None:
    """The same codes, scales and zero points bit for bit, of the same scheme, axis and tiles; on any back end."""
    assert (a.shape, a.axis, a.own_tiles, a.scheme) == (b.shape, b.axis, b.own_tiles, b.scheme)
    assert_same_bits(a.codes, b.codes)
    assert_same_bits(a.scale, b.scale)
    assert (a.zero_point is None) == (b.zero_point is None)
    if a.zero_point is not None:
        assert_same_bits(a.zero_point, b.zero_point)
