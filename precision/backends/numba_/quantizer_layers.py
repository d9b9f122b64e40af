"""Codes and scales of rows and of columns, as XLA calls their kernels: words in place of a record."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from precision.backends.numba_ import layer_steps, quantizer_kernels
from precision.backends.numba_.compilation import composed
from precision.backends.numba_.inner_functions import inner
from precision.backends.numba_.quantizer_kernels import Words
from precision.backends.numba_.quantizers import LEAST_ROWS, PART

_constant = layer_steps.constant
quantize_runs, quantize_long_columns = quantizer_kernels.quantize_runs, quantizer_kernels.quantize_long_columns


@inner
def _record(words):
    """``Words`` of their patterns, in their order."""
    return Words(
        _constant(words[0]), _constant(words[1]), _constant(words[2]), _constant(words[3]), _constant(words[4]),
        _constant(words[5]), _constant(words[6]), _constant(words[7]), _constant(words[8]),
        np.uint32(words[9]), np.uint32(words[10]), np.uint32(words[11]), np.uint32(words[12]),
    )  # fmt: skip


def _rows(x, codes, scale, words):
    """x, codes (R, n), scale (R,)."""
    quantize_runs(x.view(np.uint32), codes, scale.reshape(scale.size, 1), x.shape[1], _record(words))


def _columns(x, codes, scale, words):
    """x, codes (B, k, n), scale (B, n)."""
    part = max(LEAST_ROWS, PART // max(x.shape[2], 1))
    quantize_long_columns(x.view(np.uint32), codes, scale, part, _record(words))


rows = composed(_rows, "quantized_rows", quantize_runs=quantize_runs)
columns = composed(_columns, "quantized_columns", quantize_long_columns=quantize_long_columns)
