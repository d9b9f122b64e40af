"""What gradients would lose in other formats under other loss scales, exactly, from counts per binade."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.binades import Binades
from precision.formats import BF16, E4M3FN, E5M2, FP16

FORMATS = (FP16, BF16, E5M2, E4M3FN)
SCALES = range(-8, 25)  # exponents of two
_EXPONENTS = np.array(SCALES)


def what_if(sizes: dict[str, int], tables: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """By tensor: ``count``, ``finite`` (nonzero) and ``formats``.

    ``formats`` holds for each of ``FORMATS`` ``underflowed`` and ``overflowed``: {k: how many values of g 2^k would
    be, rounded to nearest even}, k in ``SCALES``, where there is one.  tables: (277, 24) of unscaled gradients, as
    ``Binades`` has them.
    """
    return {name: _as_json(Binades(significands=tables[name]), sizes[name]) for name in sorted(tables)}


def _as_json(binades: Binades, count: int) -> dict[str, Any]:
    counted = {
        fmt.name: {
            "underflowed": _occurring(binades.underflowed(fmt, _EXPONENTS)),
            "overflowed": _occurring(binades.overflowed(fmt, _EXPONENTS)),
        }
        for fmt in FORMATS
    }
    return {"finite": int(binades.total.sum()), "formats": counted, "count": count}


def _occurring(counts: np.ndarray) -> dict[str, int]:
    return {str(k): n for k, n in zip(SCALES, counts.tolist(), strict=True) if n}
