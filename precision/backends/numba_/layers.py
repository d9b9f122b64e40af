"""Whole layers as single kernels, by name: for NumPy arrays, and as foreign functions of XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from precision.backends.numba_ import decoder_kernels as decoders
from precision.backends.numba_ import elementwise_kernels as elementwise
from precision.backends.numba_ import normalization_kernels as normalization
from precision.backends.numba_ import quantizer_layers as quantizers
from precision.backends.numba_ import reduction_kernels as reductions
from precision.backends.numba_ import scaling_kernels as scaling
from precision.backends.numba_ import softmax_kernels as softmax
from precision.backends.numba_.compilation import Kernel
from precision.backends.numba_.foreign import Array as Operand
from precision.backends.numba_.foreign import Foreign, array

Array = np.ndarray
Fused = Callable[..., tuple[Any, ...]]


def _layer(kernel: Kernel, operands: str, results: str, cost: int = 0) -> Foreign:
    """Axes of float32 arrays, those of another dtype before a colon: ``bool:qk``."""
    return Foreign(kernel=kernel, operands=_arrays(operands), results=_arrays(results), cost=cost)


def _arrays(text: str) -> tuple[Operand, ...]:
    parts = [item.rpartition(":") for item in text.split()]
    return tuple(array(np.dtype(dtype or "float32"), axes) for dtype, _, axes in parts)


LAYERS = {
    "layernorm": _layer(normalization.layernorm, "rn n n", "rn rn ro", 2),
    "layernorm_gradient": _layer(normalization.layernorm_gradient, "rn ro n rn", "rn", 2),
    "softmax": _layer(softmax.softmax, "bqk bool:qk", "bqk", 2),
    "softmax_gradient": _layer(softmax.softmax_gradient, "bqk bqk bool:qk", "bqk", 2),
    "cross_entropy": _layer(softmax.cross_entropy, "rn int32:r", "r rn ro", 2),
    "cross_entropy_gradient": _layer(softmax.cross_entropy_gradient, "rn ro int32:r o", "rn"),
    "biased": _layer(elementwise.biased, "rn n", "rn"),
    "total": _layer(elementwise.total, "n n", "n"),
    "lookup": _layer(elementwise.lookup, "n t", "n", 1),
    "lookup_product": _layer(elementwise.lookup_product, "n t n", "n", 1),
    "adamw": _layer(elementwise.adamw, "n n n n s", "n n n", 2),
    "column_sums": _layer(reductions.column_sums, "crn", "cn"),
    "column_products": _layer(reductions.column_products, "crn crn", "cn"),
    "scattered_rows": _layer(reductions.scattered_rows, "int32:cr crn", "cvn"),
    "times_powers": _layer(scaling.times_powers, "rn uint32:rs", "rn", 1),
    "scaled_sums": _layer(scaling.scaled_sums, "int32:bmn bm bn", "bmn"),
    "quantized_rows": _layer(quantizers.rows, "rn", "int8:rn r"),
    "quantized_columns": _layer(quantizers.columns, "bkn", "int8:bkn bn"),
    "rmsnorm": _layer(decoders.rmsnorm, "rn n", "rn", 2),
    "rotary": _layer(decoders.rotary, "btpw tw tw", "btpw", 1),
    **{name: _layer(one, "n", "n", 3) for name, one in decoders.ACTIVATIONS.items()},
    **{f"{name}_product": _layer(one, "n n", "n", 3) for name, one in decoders.PRODUCTS.items()},
}
UNBOUND = {"o": 1}  # sizes of letters that no operand has


def fused_layer(name: str) -> Fused:
    """(words, composed, *operands, sizes) -> the results of composed(*operands), by the kernel of that name.

    words: its constants and roundings; sizes: of letters that no operand has.
    Errors: TypeError where shapes are not those of the kernel, which would read beyond an array.
    """
    return partial(_run, LAYERS[name])


def _run(
    layer: Foreign, words: Sequence[int], composed: Fused, *operands: Array, sizes: dict[str, int] | None = None
) -> tuple[Array, ...]:
    del composed
    inputs = [np.ascontiguousarray(x, one.dtype) for one, x in zip(layer.operands, operands, strict=True)]
    bound = layer.bound(inputs, UNBOUND | (sizes or {}))
    results = tuple(np.empty([bound[letter] for letter in one.axes], one.dtype) for one in layer.results)
    layer.kernel(*inputs, *results, np.array(words, np.int64), work=layer.work(bound))
    return results
