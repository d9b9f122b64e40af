"""Positions that are constants: sinusoidal and rotary tables and ALiBi's slopes, computed on the host.

All are made of correctly rounded numbers and of IEEE products and sums in a stated order, so that their float32
values do not depend on a machine's libm.
"""

from __future__ import annotations

from functools import cache

import mpmath
import numpy as np

_BASE = 10000


@cache
def sinusoidal_table(length: int, width: int, scale: float = 1.0) -> np.ndarray:
    """sin and cos of positions, interleaved, float32 rounded once from float64.  (T, h)

        table[t, 2 i] = s sin(t / 10000^(2 i / h)),    table[t, 2 i + 1] = s cos(t / 10000^(2 i / h))

    Positions 2^k ... 2^(k + 1) - 1 turn the rows below 2^k by the sine and cosine of position 2^k, correctly rounded
    (sin(a + b) = sin a cos b + cos a sin b and so on, each product and sum rounded to float64).  Exactness: before
    the rounding to float32 within 2^-51 k of the true value for length 2^k, k >= 1, where s is 1; times s otherwise,
    and one rounding to float64 more where s is no power of two.  Constants, without a gradient.
    Source: Vaswani and others, Attention Is All You Need, section 3.5, with s = 1 beside embeddings times sqrt(h).
    """
    pairs = (width + 1) // 2
    table = np.stack(_sines_and_cosines(length, width, _BASE), axis=2).reshape(length, 2 * pairs)
    return _read_only((scale * table[:, :width]).astype(np.float32))


@cache
def rotary_table(length: int, width: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of t / theta^(2 i / width) at every position t, float32, as exact as above.  2 x (T, width / 2)

    Source: Su and others, RoFormer: Enhanced Transformer with Rotary Position Embedding, section 3.2.
    """
    sine, cosine = _sines_and_cosines(length, width, theta)
    return _read_only(cosine.astype(np.float32)), _read_only(sine.astype(np.float32))


def _sines_and_cosines(length: int, width: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Of every position at every frequency base^(-2 i / width).  (T, ceil(width / 2)) float64 each"""
    pairs = (width + 1) // 2
    sine, cosine = np.zeros((1, pairs)), np.ones((1, pairs))
    while len(sine) < length:
        s, c = _sine_and_cosine(len(sine), width, base)
        sine, cosine = (
            np.concatenate([sine, sine * c + cosine * s]),
            np.concatenate([cosine, cosine * c - sine * s]),
        )
    return sine[:length], cosine[:length]


def _sine_and_cosine(position: int, width: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Of one position at every frequency, rounded to nearest.  (width / 2,) float64 each"""
    with mpmath.workprec(120):
        angles = [position / mpmath.mpf(base) ** (mpmath.mpf(2 * i) / width) for i in range((width + 1) // 2)]
        values = [(float(mpmath.sin(a)), float(mpmath.cos(a))) for a in angles]
    sine, cosine = np.array(values).T
    return sine, cosine


@cache
def alibi_slopes(heads: int) -> np.ndarray:
    """Slope of every head, float32.  (H,)

    For H a power of two 2^(-8 n / H), n = 1 ... H.  Else those of the largest power of two P below H, followed by
    the first H - P of the slopes of 2 P heads at odd n (1, 3, 5, ...).
    Source: Press, Smith and Lewis, Train Short, Test Long, and the rule for other counts published with it.
    """
    below = 1 << (heads.bit_length() - 1)
    exponents = [(-8 * n, below) for n in range(1, below + 1)]
    exponents += [(-8 * n, 2 * below) for n in range(1, 2 * (heads - below), 2)]
    with mpmath.workprec(120):
        slopes = [float(mpmath.mpf(2) ** (mpmath.mpf(p) / q)) for p, q in exponents]
    return _read_only(np.array(slopes, np.float32))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
