"""How many values of a format lie from one value to another."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.format import Format
from precision.formats import FP32, parse_format
from precision.rounding import encode


def codes(x: Any, fmt: str | Format = FP32) -> np.ndarray:
    """Codes of values of the format, their bits as int64."""
    record = parse_format(fmt)
    return np.asarray(encode(np.asarray(x), record)).view(f"u{record.code_dtype.itemsize}").astype(np.int64)


def ulps_apart(a: Any, b: Any, fmt: str | Format = FP32) -> np.ndarray:
    """Units in the last place from a to b, values of the format: steps between neighbours, -0 to +0 one of them.

    Shapes: alike -> int64.  Domain: signed floating-point formats; -1 where either is NaN.  Infinity follows the
    largest finite value.  Errors: ValueError for another format.
    """
    record = parse_format(fmt)
    if record.is_integer or not record.signed:
        raise ValueError(f"units in the last place of {record.name} are not offered; choose a signed float format")
    apart = np.abs(_places(codes(a, record), record) - _places(codes(b, record), record))
    return np.where(np.isnan(a) | np.isnan(b), -1, apart)


def _places(found: np.ndarray, fmt: Format) -> np.ndarray:
    """Numbers that count a format's values upwards, -0 just below +0."""
    sign = 1 << (fmt.bits - 1)
    return np.where(found & sign, -1 - (found & (sign - 1)), found)
