"""Arithmetic policies: which format, accumulator and rounding every operation site uses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from precision.accumulators import parse_accumulator
from precision.formats import Format, parse_format

Pass = Literal["fprop", "dgrad", "wgrad"]
PASSES: tuple[Pass, ...] = ("fprop", "dgrad", "wgrad")
SITES = (
    "embedding",
    "layernorm_1",
    "qkv",
    "scores",
    "softmax",
    "values",
    "attention_out",
    "residual",
    "layernorm_2",
    "mlp_up",
    "gelu",
    "mlp_down",
    "layernorm_final",
    "logits",
    "loss",
)
GEMM_SITES = ("qkv", "scores", "values", "attention_out", "mlp_up", "mlp_down", "logits")
QUANTIZED_SITES = ("qkv", "attention_out", "mlp_up", "mlp_down")


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """How one site computes in one pass.

    Fields (format names)
        inputs: what the operands are values of.
        accumulator: how a matrix product is summed; None where the site has none.
        inner: arithmetic between input and output.  ``fp32`` is float32 that flushes subnormals; a narrower
            format rounds after every operation.
        output: what the result is rounded to, once, to nearest even.
        quantization: INT8 scheme of the operands of a linear layer, None for none.
    """

    inputs: str
    output: str
    inner: str = "fp32"
    accumulator: str | None = None
    quantization: Literal["int8_vectorwise"] | None = None


@dataclass(frozen=True, kw_only=True)
class LossScaling:
    """Factor on the loss before the backward pass, divided out of the gradients after it.

    ``dynamic``: a step whose gradients are not all finite is skipped and the scale multiplied by ``backoff``, not
    below ``minimum``; after ``interval`` good steps in a row it is multiplied by ``growth``.  All powers of two.
    """

    mode: Literal["none", "static", "dynamic"] = "none"
    initial: float = 1.0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 50
    minimum: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A policy: every site and pass resolved, the working copy of the parameters, the loss scaling.

    Master copy, moments, gradient reduction, unscaling and clipping are float32 (``ftz32``).
    """

    name: str
    sites: tuple[tuple[str, Pass, SitePolicy], ...]
    parameters: str = "fp32"
    loss_scaling: LossScaling = LossScaling()

    def site(self, name: str, direction: Pass) -> SitePolicy:
        for site, known, policy in self.sites:
            if (site, known) == (name, direction):
                return policy
        raise ValueError(f"policy {self.name} has no site {name}.{direction}; known sites: {', '.join(SITES)}")

    def as_json(self) -> dict[str, Any]:
        rows = [{"site": site, "pass": p} | dataclasses.asdict(policy) for site, p, policy in self.sites]
        return {
            "name": self.name,
            "parameters": self.parameters,
            "loss_scaling": dataclasses.asdict(self.loss_scaling),
            "sites": rows,
        }

    @property
    def sha256(self) -> str:
        """Hash of the resolved table, the policy's identity in checkpoints."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def quantized(self) -> Arithmetic:
        """This policy with the forward linear layers of every block in vector-wise INT8."""
        rows = tuple(
            (site, p, dataclasses.replace(policy, quantization="int8_vectorwise"))
            if p == "fprop" and site in QUANTIZED_SITES
            else (site, p, policy)
            for site, p, policy in self.sites
        )
        return dataclasses.replace(self, name=f"{self.name}-int8", sites=rows)


def from_json(values: dict[str, Any]) -> Arithmetic:
    """The policy that ``as_json`` wrote."""
    rows = []
    for row in values["sites"]:
        fields = {key: value for key, value in row.items() if key not in ("site", "pass")}
        rows.append((row["site"], row["pass"], SitePolicy(**fields)))
    return Arithmetic(
        name=values["name"],
        sites=tuple(rows),
        parameters=values["parameters"],
        loss_scaling=LossScaling(**values["loss_scaling"]),
    )


def _uniform(name: str, storage: Format, accumulator: str, loss_scaling: LossScaling = LossScaling()) -> Arithmetic:
    """Operands and results of every site in one format; LayerNorm, softmax and loss float32 inside."""
    parse_accumulator(accumulator)
    rows = tuple(
        (
            site,
            direction,
            SitePolicy(
                inputs=storage.name,
                output="fp32" if (site, direction) == ("loss", "fprop") else storage.name,
                accumulator=accumulator if site in GEMM_SITES else None,
            ),
        )
        for site in SITES
        for direction in PASSES
    )
    return Arithmetic(name=name, sites=rows, parameters=storage.name, loss_scaling=loss_scaling)


_DYNAMIC = LossScaling(mode="dynamic", initial=2.0**16)
_FP16 = parse_format("fp16")
POLICIES: dict[str, Arithmetic] = {
    policy.name: policy
    for policy in (
        _uniform("fp32", parse_format("fp32"), "fp32_mul_add"),
        _uniform("bf16", parse_format("bf16"), "fp32_sequential"),
        _uniform("fp16", _FP16, "fp32_sequential", _DYNAMIC),
        _uniform("fp16-noscale", _FP16, "fp32_sequential"),
    )
}


def parse_policy(name: str | Arithmetic) -> Arithmetic:
    """The policy of that name, or itself.  ValueError, naming the known ones, otherwise."""
    if isinstance(name, Arithmetic):
        return name
    if name not in POLICIES:
        raise ValueError(f"unknown number format or policy {name!r}; known policies: {', '.join(POLICIES)}")
    return POLICIES[name]
