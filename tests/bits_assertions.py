"""Comparison of bits as bits."""

from __future__ import annotations

from typing import Any

import numpy as np

SHOWN = 8


def as_bits(x: Any) -> np.ndarray:
    """The array's own bits as unsigned words of its width."""
    x = np.asarray(x)
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


def same_nan(words: np.ndarray) -> np.ndarray:
    """Float32 patterns with every NaN made 0x7FC00000."""
    return np.where((words & 0x7FFFFFFF) > 0x7F800000, np.uint32(0x7FC00000), words)


def assert_same_bits(actual: Any, expected: Any, *inputs: Any, any_nan: bool = False) -> None:
    """Both arrays agree in shape, dtype and every bit; NaN, signed zero and infinity count.

    Uint32 words may stand for float32 values on either side.  ``inputs``: arrays of the same shape, shown where the
    two differ.  ``any_nan``: for arithmetic that does not promise which NaN it returns.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, not {expected.shape}"
    assert {actual.dtype, expected.dtype} <= {np.dtype(np.float32), np.dtype(np.uint32)} or (
        actual.dtype == expected.dtype
    ), f"dtype {actual.dtype}, not {expected.dtype}"
    a, e = as_bits(actual), as_bits(expected)
    if any_nan and a.dtype == np.uint32:
        a, e = same_nan(a), same_nan(e)
    wrong = np.argwhere(a != e)
    assert not len(wrong), _difference(a, e, actual.dtype, expected.dtype, wrong, inputs)


def _difference(a: np.ndarray, e: np.ndarray, *rest: Any) -> str:
    actual_type, expected_type, wrong, inputs = rest
    kind = np.float32 if np.float32 in (actual_type, expected_type) else expected_type
    lines = [f"{len(wrong)} of {a.size} differ"]
    for index in map(tuple, wrong[:SHOWN]):
        given = "".join(f" {_show(as_bits(x)[index], np.asarray(x).dtype)}" for x in inputs)
        got, wanted = _show(a[index], kind), _show(e[index], kind)
        lines.append(f"  {[int(i) for i in index]}{' of' + given if given else ''}: {got}, expected {wanted}")
    return "\n".join(lines)


def _show(word: np.unsignedinteger, kind: Any) -> str:
    kind = np.float32 if np.dtype(kind) == np.uint32 else kind
    return f"0x{int(word):0{2 * word.itemsize}x} ({word.view(kind)!s})"
