"""Parameters of a quantized model as they are held: codes, their scales, and the others in the working format.

A parameter that is quantized is held as ``NAME.codes`` (of 2 and 4 bits packed along the last axis) and
``NAME.scale``, a static range of x as ``SITE.limits`` (low, high), any other under its name.  What is held is what is
written to a file; ``layer`` makes one layer of it into arrays to compute with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from precision.formats import parse_format
from precision.quantization import tiles as tiling
from precision.quantization.array import QArray
from precision.quantization.packing import PACKED, pack_codes, packed_length, unpack_codes
from precision.quantization.scheme import QScheme
from precision.rounding import decode, encode
from qsim.decoder_config import DecoderConfig, Shape, layer_shapes, outer_shapes
from qsim.post_training.how import PostTraining

Held = dict[str, np.ndarray]
Facts = tuple[tuple[np.dtype, ...], Shape]  # dtypes that are taken, and the shape
STORED: dict[str, np.dtype] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
}
_AXIS = -2  # that a weight (in, out) is contracted along


@dataclass(frozen=True, kw_only=True)
class QuantizedWeights:
    """``qsim.decoder.Weights`` of a quantized model, in memory; weights of quantized sites are QArrays.

    source_sha256: of the parameters it was made of (``qsim.post_training.quantizing``).
    """

    config: DecoderConfig
    how: PostTraining
    held_outer: Held
    held_layers: tuple[Held, ...]
    source_sha256: str

    def outer(self) -> dict[str, Any]:
        """Parameters outside the layers, float32 or QArray."""
        return as_parameters(self.held_outer, shapes_outside(self.config, self.how), self.how)

    def layer(self, number: int) -> dict[str, Any]:
        """Parameters of one layer, float32 or QArray.  IndexError for one that the model does not have."""
        if not 0 <= number < self.config.layers:
            raise IndexError(f"layer {number} of a model of {self.config.layers} layers; they count from 0")
        return as_parameters(self.held_layers[number], layer_shapes(self.config), self.how)

    def parts(self) -> Iterator[Held]:
        """What is held outside the layers, then of each layer."""
        yield self.held_outer
        yield from self.held_layers


def shapes_outside(config: DecoderConfig, how: PostTraining) -> dict[str, Shape]:
    """``outer_shapes``, and the head that a tied model has apart where it is quantized."""
    own = {"logits.weight": (config.hidden, config.vocabulary)} if "logits" in how.linear else {}
    return outer_shapes(config) | own


def site_of(name: str) -> str:
    """Whose product a weight is in: the gate's is ``mlp_up``."""
    return name.removesuffix(".weight").replace("mlp_gate", "mlp_up")


def is_quantized(name: str, how: PostTraining) -> bool:
    return name.endswith(".weight") and site_of(name) in how.linear


def as_held(name: str, w: Any, how: PostTraining) -> Held:
    """A parameter, float32 values of the working format or a QArray."""
    if not isinstance(w, QArray):
        return {name: w.astype(STORED[how.working])}
    codes = np.asarray(w.codes)
    if w.scheme.bits in PACKED:
        codes = pack_codes(codes, w.scheme.bits)
    elif codes.dtype != np.int8 and (codes == codes.astype(np.int8)).all():
        codes = codes.astype(np.int8)  # of a scheme that does not clamp, and need not
    return {f"{name}.codes": codes, f"{name}.scale": encode(np.asarray(w.scale), w.scheme.stored_scale)}


def as_parameters(held: Held, shapes: dict[str, Shape], how: PostTraining) -> dict[str, Any]:
    """What ``as_held`` made of each, arrays to compute with; ranges of x as they are."""
    found: dict[str, Any] = {name: w for name, w in held.items() if name.endswith(".limits")}
    for name, shape in shapes.items():
        found[name] = _weight(held, name, shape, how) if is_quantized(name, how) else _float32(held[name])
    return found


def _float32(w: np.ndarray) -> np.ndarray:
    return w.astype(np.float32)  # exact


def _weight(held: Held, name: str, shape: Shape, how: PostTraining) -> QArray:
    scheme, codes = how.weight_scheme, held[f"{name}.codes"]
    if scheme.bits in PACKED:
        codes = unpack_codes(codes, shape[-1], scheme.bits)
    scale = decode(held[f"{name}.scale"], scheme.stored_scale)
    return QArray(codes=codes.astype(scheme.code_dtype, copy=False), scale=scale, axis=_AXIS, scheme=scheme)


def expected(shapes: dict[str, Shape], how: PostTraining) -> dict[str, Facts]:
    """Name, dtypes and shape of everything that is held for parameters of these shapes."""
    found: dict[str, Facts] = {}
    for name, shape in shapes.items():
        if not is_quantized(name, how):
            found[name] = (STORED[how.working],), shape
            continue
        found |= {f"{name}.{part}": facts for part, facts in _quantized_facts(shape, how.weight_scheme).items()}
        if how.static:
            found[f"{site_of(name)}.limits"] = (np.dtype(np.float32),), (2,)
    return found


def _quantized_facts(shape: Shape, scheme: QScheme) -> dict[str, Facts]:
    packed = scheme.bits in PACKED
    codes = {np.dtype(np.uint8)} if packed else {np.dtype(np.int8), scheme.code_dtype}
    words = encode(np.zeros(1, np.float32), parse_format(scheme.scale_format)).dtype
    length = packed_length(shape[-1], scheme.bits)
    count = tiling.counts(shape, scheme.tiles(len(shape), _AXIS))
    return {"codes": (tuple(codes), (*shape[:-1], length)), "scale": ((words,), count)}
