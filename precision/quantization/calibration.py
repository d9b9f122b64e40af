"""Static scales: the range of an array's tiles from batches of it seen before."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np

from precision.backends import choose_backend, is_concrete
from precision.quantization import tiles as tiling
from precision.quantization.clipping import limits_of
from precision.quantization.quantizers import SchemeLike, refuse_nonfinite, scheme_of
from precision.quantization.scheme import QScheme, Tiles
from precision.quantization.steps import Limits
from precision.rounding import as_float32

Method = Literal["all", "moving_average"]


def calibrate(
    batches: Iterable[Any],
    scheme: SchemeLike = "int8_tensorwise",
    *,
    axis: int = -1,
    method: Method = "all",
    momentum: float = 0.9,
    backend: str | None = None,
) -> Limits:
    """The range of each tile over batches, for ``quantize(x, scheme, axis=axis, limits=...)``.

        all             the scheme's own range (absmax, percentile, least squares) of the batches joined along axis 0
        moving_average  r_1 = range of the first batch,  r_(i+1) = momentum r_i + (1 - momentum) range of the next

    Shapes: batches of one rank, equal but for axis 0, along which a tile must span all (or be 1 where the batches
    are alike).  -> (low, high), each of the shape of the scales.
    Exactness: absmax and percentile exact, each step of the average two products and a sum in float32; bit-identical
    on every back end.  With one batch "all" is what ``quantize`` would have used itself: the codes are the same.
    Errors: ValueError for no batch, for shapes whose scales differ, 0 <= momentum < 1 not held, NaN or infinity, an
    unknown method; TypeError for a block format, whose scales are always of the array itself.
    """
    if method not in get_args(Method):
        raise ValueError(f"method {method!r} is not offered; choose one of {', '.join(get_args(Method))}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum {momentum} is outside 0 <= momentum < 1; choose one inside")
    arrays = list(batches)
    if not arrays:
        raise ValueError("no batch to calibrate on; pass at least one array")
    module = choose_backend(*arrays, backend=backend)
    arrays = [as_float32(module, x) for x in arrays]
    one = scheme_of(scheme, arrays[0], axis)
    if not isinstance(one, QScheme):
        raise TypeError(f"{one.name} takes its scales from each array; there is nothing to calibrate")
    arrays = [module.round_to(x, one.takes) for x in arrays]
    if method == "all":
        return _limits(module, _joined(module, arrays, one, axis), one, axis)
    ranges = [_limits(module, x, one, axis) for x in arrays]
    _check_alike(ranges)
    return reduce(lambda old, new: _average(module, old, new, momentum), ranges)


def _joined(module: Any, arrays: list[Any], scheme: QScheme, axis: int) -> Any:
    if len(arrays) == 1:
        return arrays[0]
    if any(x.ndim != arrays[0].ndim or x.shape[1:] != arrays[0].shape[1:] for x in arrays):
        raise ValueError(
            f"batches of shapes {', '.join(str(tuple(x.shape)) for x in arrays)} do not join along axis 0"
        )
    if scheme.tiles(arrays[0].ndim, axis % arrays[0].ndim - arrays[0].ndim)[0] is not None:
        raise ValueError(
            f"scheme {scheme.name} has a scale for each part of axis 0, which batches share; calibrate one batch, a "
            "scheme whose tiles span axis 0, or by moving_average"
        )
    return module.array_module.concatenate(arrays, axis=0)


def _limits(module: Any, x: Any, scheme: QScheme, axis: int) -> Limits:
    tiles: Tiles = scheme.tiles(x.ndim, axis % x.ndim - x.ndim)
    if is_concrete(x):
        refuse_nonfinite(np.asarray(x), tiles, scheme)
    found = limits_of(module, tiling.to_rows(module, x, tiles), tiling.owned(x.shape, tiles), scheme)
    shape = tiling.counts(x.shape, tiles)
    return Limits(*(end.reshape(shape) for end in found))


def _check_alike(ranges: list[Limits]) -> None:
    shapes = sorted({tuple(one.high.shape) for one in ranges})
    if len(shapes) > 1:
        raise ValueError(f"batches have scales of shapes {', '.join(map(str, shapes))}; pass batches of one shape")


def _average(module: Any, old: Limits, new: Limits, momentum: float) -> Limits:
    kept, added = np.float32(momentum), np.float32(1 - momentum)
    ends = zip(old, new, strict=True)
    return Limits(*(module.add(module.multiply(a, kept), module.multiply(b, added)) for a, b in ends))
