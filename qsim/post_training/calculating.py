"""The arithmetic of a quantized model: a policy whose linear layers multiply codes.

A product of a quantized weight has the bits of ``precision.quantized_matmul(x, w, scheme)`` with x in the policy's
format of the site; it is rounded to ``dequantize_to``, and the bias added there.  Integer sums are INT32 under their
scales.  Schemes of weights alone multiply what codes stand for by x, both in the scheme's working format
(``dequantize_to``), summed as the scheme says (float32, in order) whatever the site's accumulator; in hardware
arithmetic, where no bits are promised, as the device sums.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

from precision.formats import FP32, parse_format
from precision.quantization.array import QArray
from precision.quantization.products import quantized_matmul
from precision.quantization.quantizers import quantize
from precision.quantization.scheme import MatmulScheme
from precision.quantization.schemes import SCHEMES
from precision.rounding import decode, encode
from qsim.arithmetic import Arithmetic
from qsim.executors import on_hardware
from qsim.importing.opening import Model
from qsim.policies import parse_policy
from qsim.post_training.how import PostTraining, operand_scheme
from qsim.post_training.weights import site_of
from qsim.site import Array, Site
from qsim.site_policy import SitePolicy
from qsim.sites import Calculator, Recorder

_KV = operand_scheme(SCHEMES["int8_kv"], "w")
_READER = {"keys": "scores", "values": "values"}  # whose product they are the second operand of


class Ranged(NamedTuple):
    """A quantized weight, and the range (low, high) of the x that it is multiplied by."""

    weight: QArray
    limits: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape


class QuantizedSite(Site):
    """A site that multiplies quantized weights as they are, and any other array as its policy says."""

    _calculator: QuantizedCalculator

    def matmul(self, a: Array, b: Array, key: Array | None = None) -> Array:
        """As ``Site.matmul``; (N, k) x quantized (k, n) -> (N, n), float32 and not yet rounded."""
        if not isinstance(b, QArray | Ranged):
            return super().matmul(a, b, key)
        x, scheme = self.as_operand(a, 0), self._calculator.scheme
        if isinstance(b, Ranged):
            x = self._in_range(x, b.limits)
            b = b.weight
        return quantized_matmul(x, b, scheme=scheme, output=FP32, nonfinite="propagate", backend=self._backend.name)

    @property
    def _sums_are_outputs(self) -> bool:
        return False  # the products of codes are no chain's

    def _in_range(self, x: Array, limits: Array) -> QArray:
        """Codes of x in a range seen before."""
        scheme = operand_scheme(self._calculator.how.quantizing, "x")
        ends = limits[0], limits[1]
        return quantize(x, scheme, axis=-1, limits=ends, nonfinite="propagate", backend=self._backend.name)


class QuantizedCalculator(Calculator):
    """A calculator for a model quantized as ``how`` says; policy: what is not quantized computes under."""

    site_type = QuantizedSite

    def __init__(
        self,
        how: PostTraining,
        policy: Arithmetic,
        backend: str,
        recorder: Recorder | None = None,
        *,
        hardware: bool = False,
    ) -> None:
        super().__init__(quantized_policy(policy, how), backend, recorder, hardware=hardware)
        self.how = how

    @cached_property
    def scheme(self) -> MatmulScheme:
        """Of products of quantized weights."""
        scheme = self.how.quantizing
        return dataclasses.replace(scheme, accumulator="native") if self.hardware else scheme

    def working_copy(self, kept: dict[str, Array]) -> dict[str, Any]:
        """Parameters in the policy's working format; those that are quantized as they are, with the range of x."""
        end = ".limits"
        limits = {name.removesuffix(end): w for name, w in kept.items() if name.endswith(end)}
        quantized = {name: w for name, w in kept.items() if isinstance(w, QArray)}
        plain = {n: w for n, w in kept.items() if n not in quantized and not n.endswith(end)}
        ranged = {n: Ranged(w, limits[site_of(n)]) if site_of(n) in limits else w for n, w in quantized.items()}
        return super().working_copy(plain) | ranged

    def as_cached(self, name: str, x: Array) -> dict[str, Array]:
        """int8 codes and, as the bits of fp16, a scale for each token and head."""
        if self.how.kv is None:
            return super().as_cached(name, x)
        q = quantize(x, _KV, axis=-1, nonfinite="propagate", backend=self.backend.name)
        return {name: q.codes, f"{name}.scale": encode(q.scale, _KV.stored_scale, backend=self.backend.name)}

    def attended(self, name: str, cached: dict[str, Array]) -> Array:
        """What codes stand for, rounded to the format that the product takes."""
        if self.how.kv is None:
            return super().attended(name, cached)
        scale = decode(cached[f"{name}.scale"], _KV.stored_scale, backend=self.backend.name)
        x = QArray(codes=cached[name], scale=scale, axis=-1, scheme=_KV).dequantize(backend=self.backend.name)
        row = self.policy.site(_READER[name], "fprop", self._layer)
        return self.backend.round_to(x, parse_format(row.operands("fprop")[1]))


def calculator_for(
    model: Model,
    policy: str | Arithmetic,
    executor: str,
    recorder: Recorder | None = None,
    *,
    hardware: bool | None = None,
) -> Calculator:
    """What ``qsim.decoder.decoder_forward`` computes a model with, under a policy: for a quantized one, with its
    products quantized.

    A model is compared with itself as it was under the policy whose parameters are in its ``working`` format.
    hardware: as ``qsim.executors.on_hardware`` has it; by default a native policy on a GPU or TPU computes as that
    does.
    Errors: ValueError for an unknown policy, for hardware that it is not computed on, and for ``fp64``, which
    quantizes nothing.
    """
    chosen = parse_policy(policy)
    native = on_hardware(chosen, executor, hardware)
    if model.quantization is None:
        return Calculator(chosen, executor, recorder, hardware=native)
    if chosen.identity:
        raise ValueError(f"policy {chosen.name} rounds nothing, and a quantized model is rounded; choose fp32")
    return QuantizedCalculator(model.quantization, chosen, executor, recorder, hardware=native)


def quantized_policy(policy: Arithmetic, how: PostTraining) -> Arithmetic:
    """The policy with the forward rows of quantized sites changed: what their products leave in, and how operands
    that are no codes yet are quantized."""
    product = how.product
    if product is None:
        return policy
    changes: dict[str, Any] = {"scaling": "none", "gradient_inputs": None}
    changes |= {"quantization": product.name} if product.integer else {}
    changes |= {} if how.dequantize_to is None else {"output": how.dequantize_to}

    def changed(site: str, direction: str, row: SitePolicy) -> SitePolicy:
        return dataclasses.replace(row, **changes) if direction == "fprop" and site in how.sites else row

    rows = tuple((site, p, changed(site, p, row)) for site, p, row in policy.sites)
    own = tuple((layer, site, p, changed(site, p, row)) for layer, site, p, row in policy.layers)
    return dataclasses.replace(policy, name=f"{policy.name}-{product.name}", sites=rows, layers=own)
