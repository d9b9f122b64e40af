"""Arrays and schemes at which quantizers change their mind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from strategies import drawn, generator

import precision as pr
from precision.quantization.scheme import VECTOR, Clipping, QScheme

COLUMNS = 11
_TINY, _THRESHOLD = 2.0**-149, 2.0**-112
_ROWS: tuple[tuple[float, ...], ...] = (
    (0.0, -0.0),
    (-0.0,),
    (_TINY, -_TINY, 2.0**-127, 0.0),  # subnormals
    (float(np.nextafter(np.float32(_THRESHOLD), np.float32(0))), 2.0**-120),
    (_THRESHOLD, -_THRESHOLD / 2, _THRESHOLD / 127, _TINY, 2.0**-126),
    (127, *np.arange(-0.5, 9.5)),  # halfway between codes of 8 bits
    (-7, 0.5, 1.5, 2.5, -3.5, 6.5, -6.5, 5.5),  # of 4 bits
    (1, 0.5, -0.5, 0.25, -0.25, 0.75),  # of 2 bits
    (3.0e38, 1.0, 1e-30, -1e37),  # one outlier, all else lost
    (float(np.finfo(np.float32).max), float(-np.finfo(np.float32).max), 1.3e38),
    (255, 0.5, 1.5, 253.5, 254.5),  # halfway between affine codes, zero at an end
    (-100, -99.5, 0.5, 1.5, 155, 3),
)


def hard() -> np.ndarray:
    """(20, COLUMNS) of finite patterns: named rows, filled with their first value, and drawn ones; a zero column."""
    named = [[*row, *[row[0]] * COLUMNS][:COLUMNS] for row in _ROWS]
    rng = generator(71)
    ranges = ((14, 16), (100, 110), (118, 130), (118, 130), (120, 127), (127, 127), (200, 254), (0, 254))
    words = np.concatenate(
        [np.array(named, np.float32).view(np.uint32), *(drawn(rng, (1, COLUMNS), r) for r in ranges)]
    )
    words[:, 4] = 0x80000000
    return words


def mild(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Patterns of magnitudes between 2^-9 and 2^4."""
    return drawn(generator(seed), shape, (118, 130))


def with_granularity(scheme: QScheme, granularity: str, group: int | None = None) -> QScheme:
    return replace(scheme, name=f"{scheme.name}_{granularity}", granularity=granularity, group=group)


AFFINE = QScheme(name="affine", symmetric=False)
GRANULARITIES = (
    ("tensor", None),
    ("row", None),
    ("column", None),
    ("vector", None),
    ("group", 1),
    ("group", 4),
    ("group", 30),
    ("block", 3),
)
WIDTHS = tuple(replace(VECTOR, name=f"int{bits}", bits=bits) for bits in range(2, 9))
ROUNDED_SCALES = tuple(
    QScheme(name=f"{fmt}_{quotient}", scale_format=fmt, quotient=quotient)
    for fmt in ("fp16", "bf16", "e8m0")
    for quotient in ("inverse", "scale")
)
OTHERS = (
    *(replace(AFFINE, name=f"affine{bits}", bits=bits) for bits in (2, 4, 8)),
    replace(AFFINE, name="affine_group", granularity="group", group=4, bits=4),
    replace(VECTOR, name="inverse", quotient="inverse"),
    replace(VECTOR, name="scale", quotient="scale", scale_step="division"),
    replace(VECTOR, name="percentile", clipping=Clipping(method="percentile", percentile=80.0)),
    replace(VECTOR, name="percentile_group", bits=4, granularity="group", group=4,
            clipping=Clipping(method="percentile", percentile=50.5)),
    replace(VECTOR, name="mse", bits=3, clipping=Clipping(method="mse", candidates=12)),
    replace(VECTOR, name="mse_group", bits=2, granularity="group", group=4,
            clipping=Clipping(method="mse", candidates=7)),
    *(replace(VECTOR, name=mode, rounding=mode)
      for mode in ("nearest_away", "toward_zero", "up", "down", "to_odd")),
    replace(VECTOR, name="unit", quotient="unit"),
)  # fmt: skip
PACKAGES = tuple(
    scheme.x
    for scheme in pr.SCHEMES.values()
    if isinstance(scheme.x, QScheme) and scheme.evidence != "definition" and scheme.x.quotient != "approximate"
)
