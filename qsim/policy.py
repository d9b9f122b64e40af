"""Arithmetic policies: which format, accumulator and rounding every operation site uses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from precision.accumulators import parse_accumulator
from precision.formats import Format, parse_format
from precision.quantization.scheme import MatmulScheme
from precision.quantization.schemes import parse_scheme

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
GradientRounding = Literal["nearest_even", "stochastic"]


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """How one site computes in one pass.

    Fields (format names)
        inputs: what the operands are values of.
        accumulator: how a matrix product is summed; None where the site has none.
        inner: arithmetic between input and output.  ``fp32`` is float32 that flushes subnormals; a narrower
            format rounds after every operation.
        output: what the result is rounded to, once, to nearest even.
        quantization: scheme of both operands of a matrix product, an integer one of ``precision.SCHEMES`` by name;
            its INT32 sums take the place of the accumulator's.  None for none.
        gradient_rounding: of the codes of the operand that is a gradient, dy; the other one's are as the scheme says.
            ``stochastic``: by the bits of ``qsim.model.rounding_keys``, dgrad and wgrad of the blocks' linear layers.
    Errors: ValueError on creation for an unknown scheme, or one that multiplies no integers.
    """

    inputs: str
    output: str
    inner: str = "fp32"
    accumulator: str | None = None
    quantization: str | None = None
    gradient_rounding: GradientRounding = "nearest_even"

    def __post_init__(self) -> None:
        if self.gradient_rounding not in get_args(GradientRounding):
            known = " and ".join(get_args(GradientRounding))
            raise ValueError(f"gradient_rounding {self.gradient_rounding!r} is not offered; {known} are")
        if self.quantization is not None and not parse_scheme(self.quantization).integer:
            raise ValueError(
                f"scheme {self.quantization!r} multiplies no integers; name one of both operands, or None"
            )

    def scheme(self, direction: Pass) -> MatmulScheme | None:
        """How the product of a pass is quantized: the gradient is its first operand in dgrad, its second in wgrad."""
        if self.quantization is None:
            return None
        scheme = parse_scheme(self.quantization)
        if self.gradient_rounding == "nearest_even" or direction == "fprop":
            return scheme
        operand = "x" if direction == "dgrad" else "w"
        drawn = dataclasses.replace(getattr(scheme, operand), rounding="stochastic")
        return dataclasses.replace(scheme, **{operand: drawn})


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

    def __post_init__(self) -> None:
        for site, direction, row in self.sites:
            if row.gradient_rounding == "stochastic" and not _draws(site, direction, row):
                raise ValueError(
                    f"{site}.{direction} of policy {self.name} has no quantized gradient to round stochastically; "
                    f"dgrad and wgrad of {', '.join(QUANTIZED_SITES)} have under a scheme without outliers"
                )

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
        """Hash of the resolved table, the policy's identity in checkpoints.

        The rounding of gradients, which tables did not always have, counts where it is not to nearest.
        """
        table = self.as_json()
        table["sites"] = [
            {key: value for key, value in row.items() if (key, value) != ("gradient_rounding", "nearest_even")}
            for row in table["sites"]
        ]
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    def quantized(
        self,
        scheme: str = "int8_vectorwise",
        *,
        passes: Sequence[Pass] = ("fprop",),
        gradient_rounding: GradientRounding = "nearest_even",
        name: str | None = None,
    ) -> Arithmetic:
        """This policy with these passes of the linear layers of every block quantized, the forward one by default."""

        def changed(site: str, direction: Pass, row: SitePolicy) -> SitePolicy:
            if direction not in passes or site not in QUANTIZED_SITES:
                return row
            rounding: GradientRounding = "nearest_even" if direction == "fprop" else gradient_rounding
            return dataclasses.replace(row, quantization=scheme, gradient_rounding=rounding)

        rows = tuple((site, p, changed(site, p, row)) for site, p, row in self.sites)
        suffix = "int8" if scheme == "int8_vectorwise" else scheme
        return dataclasses.replace(self, name=name or f"{self.name}-{suffix}", sites=rows)


def _draws(site: str, direction: Pass, row: SitePolicy) -> bool:
    """Whether the gradient of that site and pass may be rounded stochastically."""
    scheme = row.scheme("fprop")
    backward = direction in ("dgrad", "wgrad") and site in QUANTIZED_SITES
    return backward and scheme is not None and scheme.threshold is None


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
_BF16 = _uniform("bf16", parse_format("bf16"), "fp32_sequential")
POLICIES: dict[str, Arithmetic] = {
    policy.name: policy
    for policy in (
        _uniform("fp32", parse_format("fp32"), "fp32_mul_add"),
        _BF16,
        _uniform("fp16", _FP16, "fp32_sequential", _DYNAMIC),
        _uniform("fp16-noscale", _FP16, "fp32_sequential"),
        _BF16.quantized(name="int8-fprop"),
        _BF16.quantized(passes=PASSES, name="int8-train"),
        _BF16.quantized(passes=PASSES, gradient_rounding="stochastic", name="int8-train-sr"),
    )
}


def parse_policy(name: str | Arithmetic) -> Arithmetic:
    """The policy of that name, or itself.  ValueError, naming the known ones, otherwise."""
    if isinstance(name, Arithmetic):
        return name
    if name not in POLICIES:
        raise ValueError(f"unknown number format or policy {name!r}; known policies: {', '.join(POLICIES)}")
    return POLICIES[name]
