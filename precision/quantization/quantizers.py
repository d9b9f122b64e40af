"""``quantize``: an array to integer codes and scales; ``fake_quantize``: the values they stand for."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args

import numpy as np

from precision.backends import choose_backend, get_backend, is_concrete
from precision.block_formats import BlockFormat
from precision.block_quantizers import Nonfinite, quantize_blocks
from precision.formats import FP32
from precision.quantization import tiles as tiling
from precision.quantization.array import QArray
from precision.quantization.clipping import limits_of
from precision.quantization.scheme import MatmulScheme, QScheme, Tiles
from precision.quantization.schemes import parse_scheme
from precision.quantization.steps import Limits, Scaled, clamped, codes, scaled
from precision.random_bits import Stream
from precision.rounding import as_float32, stream
from precision.rounding_modes import Rounding

SchemeLike = str | QScheme | MatmulScheme | BlockFormat
Gradient = Literal["straight_through", "clipped", "zero"]
_NO_DERIVATIVE = "quantize has no derivative; fake_quantize has one, and jax.lax.stop_gradient(x) none"


def quantize(
    x: Any,
    scheme: SchemeLike = "int8_vectorwise",
    *,
    axis: int,
    limits: Any = None,
    nonfinite: Nonfinite = "raise",
    key: Any = None,
    counter: Any = 0,
    backend: str | None = None,
    **options: Any,
) -> Any:
    """x as integer codes with a scale for each tile, or in a block format (``quantize_blocks``: ``options``).

        int8_vectorwise:  a = max |x| of the tile,  s = a RN32(1/127),  q = round_half_even(x RN32(127/a))

    A tile with a < 2^-112 is zero: q = 0, s = 0.  Other schemes: see ``QScheme``.
    ``axis``: the contraction axis, -1 for X, -2 for W; a scheme of products quantizes the operand that this makes it.
    ``limits``: the range of each tile instead of the array's own, as ``calibrate`` gives it: (low, high) of the shape
    of the scales, or a number, the absmax of all.  Symmetric codes span the larger magnitude, others 0 too.
    ``key``, ``counter``: of stochastic rounding; element i of x takes the bits of index ``counter`` + i.
    Shapes: any; see ``QArray``.  Domain: float32 and narrower.
    Exactness: codes and scales bit-identical on NumPy, Numba and JAX; within limits |x - q s| <= s (1/2 + 2^-15).
    Errors: ValueError for an unknown scheme, an axis that x does not have, limits of another shape or of a block
    format, "stochastic" without key, or (``nonfinite="raise"``, eager only) a NaN or infinity, named with its vector;
    ``"propagate"`` makes that tile's scale NaN and its codes 0.  TypeError for a JAX derivative.
    """
    module = choose_backend(x, backend=backend)
    x = module.without_derivative(as_float32(module, x), _NO_DERIVATIVE)
    one = scheme_of(scheme, x, axis)
    if isinstance(one, BlockFormat):
        if limits is not None:
            raise ValueError(f"{one.name} takes no limits: the scale of a block is its own; leave them out")
        options |= {} if key is None else {"key": key, "counter": counter}
        return quantize_blocks(x, one, axis=axis, nonfinite=nonfinite, backend=backend, **options)
    if options:
        raise TypeError(f"{one.name} takes no {', '.join(options)}; those are options of block formats")
    x = _rounded_first(module, x, one)
    tiles = one.tiles(x.ndim, _axis(x, axis))
    parts = quantized_parts(module, x, one, tiles, limits, stream_of(one, key, counter))
    if nonfinite == "raise" and is_concrete(x) and (limits is not None or _suspicious(parts["scale"])):
        refuse_nonfinite(np.asarray(x), tiles, one)
    return QArray(axis=_axis(x, axis), tiles=tiles, scheme=one, **parts)


def fake_quantize(
    x: Any,
    scheme: SchemeLike = "int8_vectorwise",
    *,
    axis: int,
    limits: Any = None,
    key: Any = None,
    counter: Any = 0,
    gradient: Gradient = "straight_through",
    backend: str | None = None,
) -> Any:
    """The values that ``quantize(x, ...)`` stands for, in a float32 carrier: ``quantize(...).dequantize()``.

    Shapes: any, kept.  Domain, exactness: as there; NaN and infinity propagate to their tile.
    Gradients (JAX, forward and reverse mode): ``"straight_through"`` dy = dx;  ``"clipped"`` the same where the whole
    number nearest to x / s + z is a code, or x is NaN, else 0;  ``"zero"``.  Scales and limits have none.
    Errors: as ``quantize``; ValueError for another gradient than the default on NumPy arrays, and for "clipped" of a
    block format.
    """
    if gradient not in get_args(Gradient):
        raise ValueError(f"unknown gradient {gradient!r}; choose one of {', '.join(get_args(Gradient))}")
    module = choose_backend(x, backend=backend)
    if gradient != "straight_through" and module.name != "jax":
        raise ValueError(f"gradient={gradient!r} is for JAX arrays; {module.name} has no gradients, so leave it out")
    x = as_float32(module, x)

    def rounded(x: Any) -> Any:
        q = quantize(
            x, scheme, axis=axis, limits=limits, nonfinite="propagate", key=key, counter=counter, backend=module.name
        )
        return q.dequantize(backend=module.name)

    if module.name != "jax":
        return rounded(x)
    if gradient != "clipped":
        return module.straight_through(rounded, x, FP32, gradient)
    one = scheme_of(scheme, x, axis)
    return module.straight_through_where(lambda x: (rounded(x), unclipped(module, x, one, axis, limits)), x)


def unclipped(module: Any, x: Any, scheme: QScheme | BlockFormat, axis: int, limits: Any = None) -> Any:
    """Where the nearest code to x is one of the scheme's, NaN included.  ValueError for a block format."""
    if isinstance(scheme, BlockFormat):
        raise ValueError(
            f"gradient 'clipped' is for integer schemes; {scheme.name} has 'straight_through' and 'zero'"
        )
    x = _rounded_first(module, x, scheme)
    tiles = scheme.tiles(x.ndim, _axis(x, axis))
    values, _, zero = _scaled_array(module, x, scheme, tiles, limits)
    return ~clamped(module, values, None if zero is None else tiling.spread(module, zero, x.shape, tiles), scheme)


def _rounded_first(module: Any, x: Any, scheme: QScheme) -> Any:
    """x in the format that the scheme takes."""
    return x if scheme.takes == FP32 else module.round_to(x, scheme.takes)


def quantized_parts(
    module: Any, x: Any, scheme: QScheme, tiles: Tiles, limits: Any = None, random: Stream | None = None
) -> dict[str, Any]:
    """codes, scale and zero_point of float32 x under a scheme."""
    fused = module.fused_quantizer(scheme, tiles) if limits is None and random is None else None
    if fused is not None:

        def composed(x: Any) -> tuple[Any, Any]:
            values, scale, _ = _scaled_array(module, x, scheme, tiles, None)
            return codes(module, values, None, scheme, None), scale

        return dict(zip(("codes", "scale"), fused(x, composed), strict=True))
    values, scale, zero = _scaled_array(module, x, scheme, tiles, limits)
    spread = None if zero is None else tiling.spread(module, zero, x.shape, tiles)
    whole = codes(module, values, spread, scheme, random)
    return {"codes": whole, "scale": scale, "zero_point": None if zero is None else zero.astype(np.int32)}


def _scaled_array(module: Any, x: Any, scheme: QScheme, tiles: Tiles, limits: Any) -> Scaled:
    """x in units of its scales, in its own shape; scales and zero points one a tile."""
    given = None if limits is None else _given(module, limits, scheme, tiling.counts(x.shape, tiles))
    return _scaling(module.name, scheme, tiles)(x, given)


@cache
def _scaling(backend: str, scheme: QScheme, tiles: Tiles) -> Any:
    """The function of (x, limits) for one scheme, compiled once where the back end compiles."""
    module = get_backend(backend)

    def scale(x: Any, limits: Limits | None) -> Scaled:
        rows = tiling.to_rows(module, x, tiles)
        chosen = limits_of(module, rows, tiling.owned(x.shape, tiles), scheme) if limits is None else limits
        found = scaled(module, rows, chosen, scheme)
        shape = tiling.counts(x.shape, tiles)
        zero = None if found.zero_point is None else found.zero_point.reshape(shape)
        return Scaled(tiling.from_rows(module, found.values, x.shape, tiles), found.scale.reshape(shape), zero)

    return module.jit(scale)


def _given(module: Any, limits: Any, scheme: QScheme, shape: tuple[int, ...]) -> Limits:
    """The limits that a caller passed, (tiles, 1): of symmetric codes the larger magnitude, of others wide enough to
    hold 0."""
    xp = module.array_module
    ends = limits if isinstance(limits, tuple) else (-xp.abs(module.asarray(limits)), xp.abs(module.asarray(limits)))
    low, high = (xp.asarray(end, np.float32) for end in ends)
    for end in (low, high):
        if end.ndim and tuple(end.shape) != shape:
            raise ValueError(
                f"limits of shape {tuple(end.shape)} do not fit scales of shape {shape}; pass one a tile"
            )
    low, high = (xp.broadcast_to(end, shape).reshape(-1, 1) for end in (low, high))
    if is_concrete(low) and is_concrete(high):
        _refuse_limits(np.asarray(low), np.asarray(high))
    if scheme.symmetric:
        high = xp.maximum(xp.abs(low), xp.abs(high))
        return Limits(-high, high)
    return Limits(xp.minimum(low, np.float32(0)), xp.maximum(high, np.float32(0)))


def _refuse_limits(low: np.ndarray, high: np.ndarray) -> None:
    if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
        raise ValueError(
            "limits hold NaN, infinity or a low end above its high one; pass finite (low, high) with low <= high"
        )


def stream_of(scheme: QScheme, key: Any, counter: Any) -> Stream | None:
    return stream(Rounding(mode=scheme.rounding), key, counter)


def _axis(x: Any, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} does not exist in an array of shape {tuple(x.shape)}")
    return axis % x.ndim - x.ndim


def scheme_of(scheme: SchemeLike, x: Any, axis: int) -> QScheme | BlockFormat:
    """What the scheme is for x contracted along ``axis``: of a scheme of products, that of the operand it then is."""
    if isinstance(scheme, QScheme | BlockFormat):
        return scheme
    return parse_scheme(scheme).operand(_axis(x, axis))


def _suspicious(scale: Any) -> bool:
    """Whether scales that tiles made themselves may stand for NaN or infinity: those become NaN."""
    return not is_concrete(scale) or not np.isfinite(np.asarray(scale)).all()


def refuse_nonfinite(x: np.ndarray, tiles: Tiles, scheme: QScheme) -> None:
    """ValueError that names the first NaN or infinity, and the tile whose codes it would spoil."""
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        where = list(map(int, wrong[0]))
        spans = [_span(i, edge, n) for i, edge, n in zip(where, tiling.edges(x.shape, tiles), x.shape, strict=True)]
        raise ValueError(
            f"x{where} is {x[tuple(where)]}, which INT{scheme.bits} cannot hold: x[{', '.join(spans)}] has no scale "
            f"in {scheme.name}; mend it, or pass nonfinite='propagate'"
        )


def _span(place: int, edge: int, length: int) -> str:
    if edge == 1:
        return str(place)
    start = place // edge * edge
    return ":" if edge >= length else f"{start}:{min(start + edge, length)}"
