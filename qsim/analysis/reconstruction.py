"""X^: what a quantized product multiplies in place of X."""

from __future__ import annotations

import numpy as np

from precision.backends import get_backend
from precision.quantization.products import factors
from precision.quantization.quantizers import quantize
from precision.quantization.scheme import MatmulScheme


def reconstructed_input(x: np.ndarray, scheme: MatmulScheme, backend: str) -> np.ndarray:
    """x (T, k) as the scheme's codes stand for it; a vector with NaN or infinity is NaN.

    In the scheme's working format where it quantizes weights alone, and in columns with outliers that it keeps apart.
    Scales of a whole tensor, and columns with outliers, are those of the rows given.
    """
    module = get_backend(backend)
    of = factors(module, scheme, x, np.zeros((x.shape[-1], 1), np.float32), nonfinite="propagate")
    if of.floats is None:
        return np.asarray(of.codes[0].dequantize(backend=backend))
    if of.columns is None:
        return np.asarray(of.floats[0])
    return np.where(of.columns, of.floats[0], of.codes[0].dequantize(backend=backend))


def reconstructed_weight(w: np.ndarray, scheme: MatmulScheme, backend: str) -> np.ndarray | None:
    """w (k, n) as its codes stand for it; None where the scheme leaves weights as they are."""
    if scheme.w is None:
        return None
    q = quantize(w, scheme.w, axis=-2, nonfinite="propagate", backend=backend)
    return np.asarray(q.dequantize(backend=backend))
