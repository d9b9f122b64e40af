"""What the parameters of a model take in memory: by a formula from shapes, and counted in the arrays that are held.

float32        4 bytes a parameter
half           2 bytes a parameter
quantized      a weight (k, n) of b bits: k ceil(n b / 8), 8 bits for 5 to 7, and a scale for each tile; the
               others in the working format; 8 bytes for a range of x
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from precision.formats import parse_format
from precision.quantization import tiles as tiling
from precision.quantization.packing import packed_length
from qsim.decoder_config import DecoderConfig, Shape, layer_shapes
from qsim.post_training.how import PostTraining
from qsim.post_training.weights import Held, is_quantized, shapes_outside, site_of

_RANGE = 8  # bytes of (low, high)


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Of the same parameters in float32, in 16 bits and as they are quantized."""

    float32: int = 0
    half: int = 0
    quantized: int = 0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            float32=self.float32 + other.float32,
            half=self.half + other.half,
            quantized=self.quantized + other.quantized,
        )

    @property
    def saved(self) -> float:
        """Share of the 16-bit bytes that quantizing saves."""
        return 1 - self.quantized / self.half if self.half else 0.0


@dataclass(frozen=True, kw_only=True)
class Memory:
    """linear: weights of quantized sites, with their scales and ranges.  others: every other parameter."""

    linear: Bytes
    others: Bytes

    @property
    def whole(self) -> Bytes:
        return self.linear + self.others


def memory_by_formula(config: DecoderConfig, how: PostTraining) -> Memory:
    """From shapes alone.  A head that a tied model has apart once quantized takes nothing before."""
    outer, layer = (_of_shapes(shapes, config, how) for shapes in (shapes_outside(config, how), layer_shapes(config)))
    linear, others = (sum([part] * config.layers, start) for start, part in zip(outer, layer, strict=True))
    return Memory(linear=linear, others=others)


def _of_shapes(shapes: dict[str, Shape], config: DecoderConfig, how: PostTraining) -> tuple[Bytes, Bytes]:
    """(of quantized weights, of the others)"""
    linear = others = Bytes()
    width = parse_format(how.working).bits // 8
    for name, shape in shapes.items():
        count = 0 if config.tied and name == "logits.weight" else math.prod(shape)
        if is_quantized(name, how):
            linear += Bytes(float32=4 * count, half=2 * count, quantized=_of_weight(shape, how))
        else:
            others += Bytes(float32=4 * count, half=2 * count, quantized=width * count)
    if how.static:
        linear += Bytes(quantized=_RANGE * len({site_of(name) for name in shapes if is_quantized(name, how)}))
    return linear, others


def _of_weight(shape: Shape, how: PostTraining) -> int:
    scheme, (k, n) = how.weight_scheme, shape
    scales = math.prod(tiling.counts(shape, scheme.tiles(2, -2)))
    return k * packed_length(n, scheme.bits) + scales * scheme.stored_scale.bits // 8


def memory_held(parts: Iterable[Held], config: DecoderConfig, how: PostTraining) -> Memory:
    """The same, its quantized bytes counted in arrays: ``parts`` of ``QuantizedWeights``, or as they are made."""
    linear = others = 0
    for held in parts:
        for name, array in held.items():
            if name.endswith((".codes", ".scale", ".limits")):
                linear += array.nbytes
            else:
                others += array.nbytes
    whole = memory_by_formula(config, how)

    def counted(by_formula: Bytes, held: int) -> Bytes:
        return Bytes(float32=by_formula.float32, half=by_formula.half, quantized=held)

    return Memory(linear=counted(whole.linear, linear), others=counted(whole.others, others))
