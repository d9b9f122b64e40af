"""Real numbers as unevaluated sums of float64 terms, and matrix products of such sums rounded once.

    x  =  t_0 + t_1 + ...      as real numbers: float64 arrays of one shape, the later the larger

Sums and differences are error-free (Shewchuk 1997, Grow-Expansion); so is the cut of a term into float32 pieces, of
which the accumulator ``exact`` takes products.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from precision.backends import get_backend
from precision.exact_products import LARGEST_K
from precision.formats import FP32
from precision.gemm import matmul

Terms = tuple[np.ndarray, ...]
Pieces = list[np.ndarray]
_OUTPUTS = 1 << 21  # at once: each takes a wide accumulator
_MULTIPLE = 32  # of k: fewer shapes for a compiler
_LARGEST = np.float64(np.finfo(np.float32).max)


def terms(x: Any) -> Terms:
    """A float32 or integer array as one term."""
    return (np.asarray(x).astype(np.float64),)


def negated(x: Terms) -> Terms:
    return tuple(-term for term in x)


def added(x: Terms, y: Terms) -> Terms:
    """x + y, without terms that are zero everywhere.  x is such a sum itself; of y each term is added to it."""
    for term in y:
        grown, carried = [], term
        for own in x:
            carried, rest = _two_sum(carried, own)
            grown.append(rest)
        x = (*grown, carried)
    return tuple(term for term in x if term.any()) or x[-1:]


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(RN(a + b), what that leaves), Knuth."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def scaled(whole: np.ndarray, scale: Terms) -> Terms:
    """whole scale, for integers below 2^10 and terms of at most 43 bits."""
    x: Terms = (np.zeros_like(whole, np.float64),)
    for term in scale:
        x = added(x, (whole * term,))
    return x


def sign(x: Terms) -> np.ndarray:
    """-1, 0 or 1: the sign of the last term that is not zero, since earlier ones lie below its last bit."""
    found = np.zeros(x[0].shape)
    for term in x:
        found = np.where(term != 0, np.sign(term), found)
    return found


def where(condition: np.ndarray, x: Terms, y: Terms) -> Terms:
    """x where the condition holds, y elsewhere."""
    zero = np.zeros(1)
    length = max(len(x), len(y))
    padded = [(zero,) * (length - len(one)) + one for one in (x, y)]
    return tuple(np.where(condition, a, b) for a, b in zip(*padded, strict=True))


def pieces(x: Terms, what: str) -> Pieces:
    """Float32 arrays whose sum is x, exactly; none where x is zero.

    Errors: ValueError, naming ``what``, where x has bits below 2^-149.
    """
    found = []
    for term in x:
        while term.any():
            piece = np.clip(term, -_LARGEST, _LARGEST).astype(np.float32)
            if ((piece == 0) & (term != 0)).any():
                raise ValueError(f"{what} has bits below 2^-149; scale the operands by a power of two")
            found.append(piece)
            term = term - piece
    return found


def product(
    left: Pieces, right: Pieces, start: np.ndarray | None, shape: tuple[int, int], backend: str
) -> np.ndarray:
    """RN32(start + (sum of left) (sum of right)), one rounding of the exact value; a zero is +0.

    Shapes: pieces (m, k) and (k, n); start and result (m, n) = ``shape``.
    Errors: ValueError where the pieces, those that are zero along all of m or n left out, have together more than
    ``LARGEST_K`` elements along k.
    """
    a, b = _side_by_side(left, right, shape)
    if a.shape[1] > LARGEST_K:
        raise ValueError(f"the float32 pieces have {a.shape[1]} elements along k, of at most {LARGEST_K}; split k")
    xp = get_backend(backend).array_module
    b, found, step = xp.asarray(b), [np.zeros((0, shape[1]), np.float32)], max(_OUTPUTS // max(shape[1], 1), 1)
    for i in range(0, shape[0], step):
        rows = slice(i, i + step)
        c = None if start is None else xp.asarray(start[rows])
        part = matmul(
            xp.asarray(a[rows]), b, c=c, accumulator="exact", inputs=FP32, output=FP32, backend=backend
        )  # fmt: skip
        found.append(np.asarray(part) + np.float32(0))
    return np.concatenate(found)


def _side_by_side(left: Pieces, right: Pieces, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """[a_0 a_1 ...] and [b_0; b_1; ...] of every piece with every other, what is zero along k left out."""
    lefts, rights = [np.zeros((shape[0], 0), np.float32)], [np.zeros((0, shape[1]), np.float32)]
    for a in left:
        for b in right:
            kept = a.any(axis=0) & b.any(axis=1)
            lefts.append(a[:, kept])
            rights.append(b[kept])
    missing = -sum(a.shape[1] for a in lefts) % _MULTIPLE
    lefts.append(np.zeros((shape[0], missing), np.float32))
    rights.append(np.zeros((missing, shape[1]), np.float32))
    return np.concatenate(lefts, axis=1), np.concatenate(rights)
