"""``lax.dot_general`` under stated formats and accumulators, gradients included, for models that are given one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.accumulator import Accumulator
from precision.backends import choose_backend
from precision.format import Format
from precision.formats import FP16, FP32, parse_format
from precision.gemm import FormatLike
from precision.passes import KEYS, Gemm, Passes
from precision.quantization.scheme import MatmulScheme
from precision.rounding import as_float32, key_words
from precision.rounding_modes import Overflow

Axes = Sequence[int]
DimensionNumbers = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]


def make_dot_general(
    *,
    inputs: FormatLike | tuple[FormatLike, FormatLike] = FP16,
    overflow: Overflow = "ieee",
    accumulator: str | Accumulator = "fp32_sequential",
    output: FormatLike | None = None,
    quantization: str | MatmulScheme | None = None,
    dgrad: Gemm | None = None,
    wgrad: Gemm | None = None,
) -> DotGeneral:
    """A function with the signature of ``jax.lax.dot_general`` and its own three matrix products.

        y = lhs rhs,   dlhs = dy rhs^T (``dgrad``),   drhs = lhs^T dy (``wgrad``)

    Arguments: the forward product as in ``Gemm``; ``dgrad`` and ``wgrad`` are the same unless given.  Their
    ``inputs`` stand in the order above: (dy, rhs) and (lhs, dy).
    Errors: ValueError for unknown names; for two different input formats without ``dgrad`` and ``wgrad``, because
    nothing then says what dy is rounded to.
    Example: ``flax.linen.Dense(256, dot_general=pr.make_dot_general(inputs="bf16", output="bf16"))``.
    """
    fprop = Gemm(inputs=inputs, overflow=overflow, accumulator=accumulator, output=output, quantization=quantization)
    if len(set(fprop.formats)) > 1 and (dgrad is None or wgrad is None):
        a, b = fprop.formats
        raise ValueError(
            f"inputs ({a.name}, {b.name}) leave open what gradients are rounded to; pass dgrad and wgrad as well"
        )
    return DotGeneral(fprop=fprop, dgrad=dgrad or fprop, wgrad=wgrad or fprop)


@dataclass(frozen=True, kw_only=True)
class DotGeneral:
    """``dot_general(lhs, rhs, dimension_numbers)`` by three stated products.  Equal records hash equal: jit sees one.

        y[b, i, j] = fprop(lhs, rhs),  lhs and rhs transposed and reshaped to (B, m, k) and (B, k, n)

    Shapes: as ``jax.lax.dot_general``: batch axes, free axes of lhs, free axes of rhs.  k runs over the contracting
    axes in the order listed, the last one fastest; in ``dgrad`` over the free axes of rhs, in ``wgrad`` over those of
    lhs, in their own order.
    Domain: arrays of float32 and narrower floats, JAX or NumPy (NumPy: forward only).  Operands are rounded to the
    formats of each product from the values given, once.  The result has ``preferred_element_type``, else the
    operands' dtype (float32 where the two differ); without an ``output`` the sum is rounded to that dtype, once.
    Exactness: each product has the bits of ``matmul``, under jit, vmap, scan, shard_map and remat.  Sums that JAX
    forms itself are not stated: the gradient of an operand that is shared over a ``vmap`` axis or replicated over a
    mesh axis.  Give the batch as an axis of the operand to have it summed by ``wgrad``.
    Gradients: reverse mode, any order.
    ``key``: where a product rounds an operand stochastically, a new one each call; products and operands each take a
    child of it, so that none share bits.  Elements draw by their row-major index in the operand as the product sees
    it: under ``vmap`` in each mapped one, under ``shard_map`` in each shard, so give these keys of their own.
    Errors: ValueError for axes that do not match, a dtype that does not hold the output, a ``precision`` other than
    the default, an ``out_sharding``, a stochastic product without key; TypeError for integers and float64.
    """

    fprop: Gemm
    dgrad: Gemm
    wgrad: Gemm

    def __call__(
        self,
        lhs: Any,
        rhs: Any,
        dimension_numbers: DimensionNumbers,
        precision: Any = None,
        preferred_element_type: Any = None,
        *,
        out_sharding: Any = None,
        key: Any = None,
    ) -> Any:
        _refuse_options(precision, out_sharding)
        dtype = _result_dtype(lhs, rhs, preferred_element_type)
        ours, theirs = operand_axes(lhs, rhs, dimension_numbers)
        passes = Passes(
            _with_output(self.fprop, dtype), _with_output(self.dgrad, lhs.dtype), _with_output(self.wgrad, rhs.dtype)
        )
        key = _key_of(passes, key)
        module = choose_backend(lhs, rhs)
        a = as_matrices(as_float32(module, lhs), (ours.batch, ours.free, ours.contracting))
        b = as_matrices(as_float32(module, rhs), (theirs.batch, theirs.contracting, theirs.free))
        y = module.product(passes, a, b, key) if module.name == "jax" else passes.fprop(a, b, key)
        shape = [lhs.shape[i] for i in (*ours.batch, *ours.free)] + [rhs.shape[i] for i in theirs.free]
        return y.reshape(shape).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class OperandAxes:
    batch: Axes
    contracting: Axes
    free: Axes


def operand_axes(lhs: Any, rhs: Any, numbers: DimensionNumbers) -> tuple[OperandAxes, OperandAxes]:
    """The axes of each operand by their part, sizes checked."""
    contracting, batch = numbers
    for kind, (ours, theirs) in (("contracting", contracting), ("batch", batch)):
        sizes = [[x.shape[i] if 0 <= i < x.ndim else None for i in axes] for x, axes in ((lhs, ours), (rhs, theirs))]
        if sizes[0] != sizes[1] or None in sizes[0]:
            raise ValueError(
                f"{kind} axes {tuple(ours)} of lhs {tuple(lhs.shape)} and {tuple(theirs)} of rhs {tuple(rhs.shape)} "
                "do not match; name axes that exist, counted from 0, of equal sizes"
            )
    lhs_axes, rhs_axes = (
        _of_operand(x, contracting[i], batch[i], ("lhs", "rhs")[i]) for i, x in enumerate((lhs, rhs))
    )
    return lhs_axes, rhs_axes


def _of_operand(x: Any, contracting: Axes, batch: Axes, name: str) -> OperandAxes:
    named = (*batch, *contracting)
    if len(set(named)) < len(named):
        raise ValueError(f"axes {named} of {name} name one axis twice; an axis is contracted or batched once")
    return OperandAxes(
        batch=batch, contracting=contracting, free=[axis for axis in range(x.ndim) if axis not in named]
    )


def as_matrices(x: Any, parts: tuple[Axes, Axes, Axes]) -> Any:
    """Axes in the order of the parts, each part one axis."""
    shape = [math.prod(x.shape[axis] for axis in part) for part in parts]
    return x.transpose([axis for part in parts for axis in part]).reshape(shape)


def _key_of(passes: Passes, key: Any) -> Any:
    """Both words of the key where a product draws, else None."""
    if not passes.stochastic:
        return None
    if key is None:
        drawing = [name for name, gemm in zip(passes._fields, passes, strict=True) if gemm.stochastic]
        raise ValueError(f"{' and '.join(drawing)} of this dot_general round stochastically; pass key, {KEYS}")
    return key_words(key)


def _result_dtype(lhs: Any, rhs: Any, preferred: Any) -> np.dtype:
    for name, x in (("lhs", lhs), ("rhs", rhs)):
        _refuse_dtype(getattr(x, "dtype", type(x)), name)
    if preferred is not None:
        _refuse_dtype(preferred, "preferred_element_type")
        return np.dtype(preferred)
    return np.dtype(lhs.dtype if lhs.dtype == rhs.dtype else np.float32)


def _refuse_dtype(dtype: Any, name: str) -> None:
    try:
        fmt = parse_format(np.dtype(dtype))
    except ValueError:
        fmt = None
    if fmt is None or fmt.is_integer or fmt.bits > FP32.bits:
        raise TypeError(f"{name} is {np.dtype(dtype)}; dot_general takes and gives floats of at most 32 bits")


def _with_output(gemm: Gemm, dtype: Any) -> Gemm:
    """The gemm with an output that an array of the dtype holds: its own, or else the dtype's format."""
    carrier = parse_format(np.dtype(dtype))
    if gemm.output is None:
        return gemm if carrier == FP32 else dataclasses.replace(gemm, output=carrier)
    if not _holds(carrier, parse_format(gemm.output)):
        raise ValueError(
            f"output {gemm.output!s} does not fit an array of {np.dtype(dtype)}; "
            f"ask for preferred_element_type=float32 or pass operands in float32"
        )
    return gemm


def _holds(carrier: Format, fmt: Format) -> bool:
    """Whether every value of the format is one of the carrier's."""
    return fmt == carrier or (
        carrier.bits >= 16
        and carrier.precision >= fmt.precision
        and carrier.max_exponent >= fmt.max_exponent
        and carrier.min_subnormal_exponent <= fmt.min_subnormal_exponent
    )


def _refuse_options(precision: Any, out_sharding: Any) -> None:
    asked = precision if isinstance(precision, tuple) else (precision,)
    for one in asked:
        if one is not None and getattr(one, "name", str(one)).lower() != "default":
            raise ValueError(f"precision={precision!s} is not for this dot_general: its accumulator says how it sums")
    if out_sharding is not None:
        raise ValueError("out_sharding is not offered; constrain the result with jax.lax.with_sharding_constraint")
