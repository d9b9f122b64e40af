"""Whether values that are said to be of a format are, or are numbers at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.format import Format
from precision.formats import FP32


def check_representable(module: Any, x: Any, fmt: Format, name: str) -> None:
    """Refuses, in a ValueError that names the first, values of a float32 carrier that the format does not have.

    NaN counts as a value where the format has one; x must be concrete.
    """
    if fmt is FP32:
        return
    rounded, plain = np.asarray(module.round_to(x, fmt)), np.asarray(x)
    wrong = np.argwhere((rounded != plain) & ~(np.isnan(rounded) & np.isnan(plain)))
    if len(wrong):
        where = list(map(int, wrong[0]))
        raise ValueError(
            f"{name}{where or ''} = {plain[tuple(where)]!s} is not a value of {fmt.name}; round_to it first"
        )


def refuse_nonfinite(x: np.ndarray, consequence: str) -> None:
    """ValueError that names the first NaN or infinity, and what would become of it."""
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        where = list(map(int, wrong[0]))
        raise ValueError(f"x{where} is {x[tuple(where)]}, {consequence}; mend it, or pass nonfinite='propagate'")
