"""Arrays in block formats: a scale for every few elements along an axis, by a stated rule, and one rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from precision.backends import choose_backend, is_concrete
from precision.block_formats import BlockFormat, ScaleRule, parse_block_format
from precision.formats import FP32
from precision.representation import refuse_nonfinite
from precision.rounding import as_float32, stream
from precision.rounding_modes import Mode, rounding_of

Nonfinite = Literal["raise", "propagate"]
_NAN_SCALE = 255
_SMALLEST_ABSMAX = np.float32(2.0**-100)
_SIXTH = np.float32(1 / 6)  # of the largest E2M1 value


@dataclass(frozen=True, kw_only=True)
class BlockArray:
    """Codes in a block format with their scales; a pytree once the JAX back end is loaded.

    Shapes: codes any, of the element's ``code_dtype``; scale the same with ceil(n / block_size) in place of n along
    ``axis``, uint8 codes of ``format.scale``; tensor_scale one float32, or None where the format has none.
    """

    codes: Any
    scale: Any
    tensor_scale: Any = None
    format: BlockFormat
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.format.element.code_dtype

    def dequantize(self, *, backend: str | None = None) -> Any:
        """The values that the codes stand for, in a float32 carrier.

            OCP Microscaling   2^(scale - 127) 2^f element, f = -6 in MXINT8, else 0
            NVFP4              RN32((element scale) tensor_scale)

        Exactness: Microscaling exact, subnormals of float32 included; what lies beyond its range is infinity.  NVFP4
        one float32 rounding (``element scale`` is exact), subnormals flushed.  Blocks under a NaN scale are NaN.
        The same bits on every back end.
        """
        module = choose_backend(self.codes, backend=backend)
        values = module.decode(module.array_module.asarray(self.codes), self.format.element)
        scaled = _Scaled(values, module.array_module.asarray(self.scale), self.tensor_scale)
        return _unscaled(module, scaled, self.format, self.axis)


class _Scaled(NamedTuple):
    """Values in units of their scales, codes of these, and the scale of the tensor."""

    values: Any
    scale: Any
    tensor_scale: Any = None


def quantize_blocks(
    x: Any,
    fmt: str | BlockFormat,
    *,
    axis: int = -1,
    scale_rule: ScaleRule = "floor",
    rounding: Mode = "nearest_even",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    nonfinite: Nonfinite = "raise",
    backend: str | None = None,
) -> BlockArray:
    """x as codes of a block format, a scale for every ``block_size`` elements along ``axis``.

    Where the block size does not divide the axis, the last block is shorter.

    Equation, OCP Microscaling, with a the absmax of the block, m the largest element, emax its exponent:
        floor   scale = 2^(floor(log2 a) - emax)              the specification's, 6.3
        ceil    scale = 2^(ceil(log2 a) - emax)               torchao's CEIL
        even    scale = 2^(floor(log2 RN(a)) - emax)          RN rounds to the element's precision; torchao's EVEN
        rceil   scale = 2^ceil(log2(a / m))                   no element saturates; cuBLAS, torchao's RCEIL
    clamped to 2^-127 ... 2^127 (a block of zeros has 2^-127), and codes = round(x / scale), saturating (MXINT8 to
    -128 ... 127 of q / 64).
    Equation, NVFP4, each step one float32 operation that flushes subnormals, with A the absmax of the tensor:
        S = 2688 / A      tensor_scale = 1 / S      scale = E4M3(a (S RN32(1/6))), saturating
        codes = round(x (1 / (scale tensor_scale))), saturating; signed zeros under a scale of 0
    A tensor with A < 2^-100 has tensor_scale 1 and is zero.
    Shapes: any; see ``BlockArray``.
    Domain: every float32 and narrower.  NaN or infinity, if let through, makes the scale of its block NaN and its
    codes 0; in NVFP4 those of the whole tensor.
    ``rounding``, ``key``, ``counter``, ``random_bits``: of the elements, as in ``round_to``; an element's random bits
    are those of its index in the row-major order of x.
    Exactness: Microscaling one rounding of the exact quotient.  Bit-identical on NumPy, Numba and JAX.
    Errors: ValueError for an unknown format, rule, mode or back end, an axis that x does not have, a scale rule for
    NVFP4, "stochastic" without key, or (``nonfinite="raise"``, eager only) a NaN or infinity, named by its position.
    Source: OCP Microscaling Formats 1.0; Rouhani et al. 2023; torchao ``ScaleCalculationMode``; cuBLAS, 1D block
    scaling; NVFP4 as Transformer Engine's reference quantizer computes it (arXiv 2509.25149).
    """
    fmt = parse_block_format(fmt)
    how = rounding_of(rounding, "saturate", "keep", random_bits)
    module = choose_backend(x, backend=backend)
    x = as_float32(module, x)
    if nonfinite == "raise" and is_concrete(x):
        refuse_nonfinite(np.asarray(x), f"which makes its block NaN in {fmt.name}")
    scaled = _scaled(module, x, fmt, axis, scale_rule)
    codes = module.encode(scaled.values, fmt.element, how, stream(how, key, counter))
    return BlockArray(codes=codes, scale=scaled.scale, tensor_scale=scaled.tensor_scale, format=fmt, axis=axis)


def round_to_blocks(
    x: Any,
    fmt: str | BlockFormat,
    *,
    axis: int = -1,
    scale_rule: ScaleRule = "floor",
    rounding: Mode = "nearest_even",
    key: Any = None,
    counter: Any = 0,
    random_bits: int = 24,
    gradient: Literal["straight_through", "zero"] = "straight_through",
    backend: str | None = None,
) -> Any:
    """The values of x rounded to a block format: ``quantize_blocks(x, fmt, nonfinite="propagate").dequantize()``.

    Equations, domain, exactness, errors, source: as these two.  Shapes: any, kept; float32 carrier.
    Gradients (JAX): ``"straight_through"`` dy = dx, or ``"zero"``; the choice of scales has none.
    """
    fmt = parse_block_format(fmt)
    how = rounding_of(rounding, "saturate", "keep", random_bits)
    module = choose_backend(x, backend=backend)
    if gradient not in ("straight_through", "zero"):
        raise ValueError(f"unknown gradient {gradient!r}; choose straight_through or zero")
    if gradient != "straight_through" and module.name != "jax":
        raise ValueError(f"gradient={gradient!r} is for JAX arrays; {module.name} has no gradients, so leave it out")
    x, random = as_float32(module, x), stream(how, key, counter)

    def rounded(x: Any) -> Any:
        scaled = _scaled(module, x, fmt, axis, scale_rule)
        values = module.round_to(scaled.values, fmt.element, how, random)
        return _unscaled(module, scaled._replace(values=values), fmt, axis)

    return module.straight_through(rounded, x, fmt.element, gradient) if module.name == "jax" else rounded(x)


# Blocks: the axis last, filled with zeros to whole blocks, as rows of an array (blocks, block_size)


def _as_rows(module: Any, x: Any, axis: int, size: int) -> Any:
    moved = module.array_module.moveaxis(x, axis, -1)
    missing = -moved.shape[-1] % size
    if missing:
        moved = module.array_module.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, missing)])
    return moved.reshape(moved.size // size, size)


def _from_rows(module: Any, rows: Any, shape: tuple[int, ...], axis: int) -> Any:
    """The array of that shape whose rows these are; its length along the axis is what is left of their elements."""
    moved = [length for i, length in enumerate(shape) if i != axis % len(shape)]
    length, size = shape[axis], rows.shape[1]
    padded = rows.reshape(*moved, -(-length // size) * size)
    return module.array_module.moveaxis(padded[..., :length], -1, axis)


def _scales_shape(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    place = axis % len(shape)
    return (*shape[:place], -(-shape[place] // size), *shape[place + 1 :])


def _scaled(module: Any, x: Any, fmt: BlockFormat, axis: int, rule: ScaleRule) -> _Scaled:
    """x in units of its blocks' scales."""
    threshold = fmt.carry_above(rule)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} does not exist in an array of shape {tuple(x.shape)}")
    rows = _as_rows(module, x, axis, fmt.block_size)
    if fmt.tensor_scaled:
        values, scale, tensor_scale = _under_tensor_scale(module, rows, fmt)
    else:
        values, scale, tensor_scale = *_under_powers(module, rows, fmt, threshold), None
    scales = _from_rows(module, scale, _scales_shape(x.shape, axis, fmt.block_size), axis)
    return _Scaled(_from_rows(module, values, x.shape, axis), scales, tensor_scale)


def _unscaled(module: Any, scaled: _Scaled, fmt: BlockFormat, axis: int) -> Any:
    values = _as_rows(module, scaled.values, axis, fmt.block_size)
    scale = _as_rows(module, scaled.scale, axis, 1)
    if fmt.tensor_scaled:
        blocks = module.multiply(values, module.decode(scale, fmt.scale))
        result = module.round_to(module.multiply(blocks, module.asarray(scaled.tensor_scale)), FP32)  # one NaN
    else:
        # the scale's bias of 127 against the kernel's of 256
        power = scale.astype(np.uint32) + np.uint32(129 + fmt.factor_exponent)
        result = module.times_power(values, power)
        result = module.array_module.where(scale == _NAN_SCALE, np.float32(np.nan), result)
    return _from_rows(module, result, scaled.values.shape, axis)


def _under_powers(module: Any, rows: Any, fmt: BlockFormat, threshold: int) -> tuple[Any, Any]:
    """(x / scale, scales), x / scale exact or standing for a value that rounds as it does."""
    scale = module.shared_scales(module.absmax(rows, -1), threshold, fmt.max_exponent)
    power = np.uint32(383 - fmt.factor_exponent) - scale.astype(np.uint32)
    values = module.times_power(rows, power)
    return module.array_module.where(scale == _NAN_SCALE, np.float32(0), values), scale


def _under_tensor_scale(module: Any, rows: Any, fmt: BlockFormat) -> tuple[Any, Any, Any]:
    """(x times the reciprocal of its scales, scales, tensor_scale)."""
    where, full_like = module.array_module.where, module.array_module.full_like
    divide, multiply = module.divide, module.multiply
    largest = np.float32(fmt.element.maximum * fmt.scale.maximum)
    absmax = module.absmax(rows.reshape(-1), 0)
    finite = absmax < np.float32(np.inf)
    absmax = where(absmax < _SMALLEST_ABSMAX, largest, where(finite, absmax, np.float32(np.nan)))
    encode_scale = divide(full_like(absmax, largest), absmax)
    tensor_scale = divide(full_like(absmax, 1), encode_scale)
    wanted = multiply(module.absmax(rows, -1), multiply(encode_scale, _SIXTH))
    scale = module.encode(wanted, fmt.scale, rounding_of("nearest_even", "saturate", "keep", 24))
    value = module.decode(scale, fmt.scale)
    usable = value > 0
    product = where(usable, multiply(value, tensor_scale), np.float32(1))
    inverse = where(usable, divide(full_like(product, 1), product), np.float32(0))
    values = where(finite, multiply(rows, inverse), np.float32(0))
    return values, scale, where(finite, tensor_scale, np.float32(np.nan)).reshape(())
