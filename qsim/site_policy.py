"""Sites and passes of a model, and how one of them computes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from precision.accumulators import parse_accumulator
from precision.formats import parse_format
from precision.quantization.scheme import MatmulScheme
from precision.quantization.schemes import parse_scheme
from precision.rounding_modes import Mode, Rounding, Subnormals

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
WHOLE_MODEL_SITES = ("embedding", "layernorm_final", "logits", "loss")  # all others are once in every layer
GradientRounding = Literal["nearest_even", "stochastic"]
Scaling = Literal["none", "tensor", "delayed", "blocks"]


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """How one site computes in one pass.

    Fields (format names)
        inputs: what the operands of a matrix product, and the argument of GELU, are values of; they are rounded to
            it, to nearest even, where the policy lets others reach them.  The other sites read float32 as it comes.
        gradient_inputs: the same of the operand that is a gradient, dy; None: ``inputs``.  Linear layers alone.
        scaling: ``tensor``: each operand of the product times s = 2^floor(log2(max / absmax)) before it is rounded,
            max the format's largest finite value, absmax over the whole operand: the batch as the device has it,
            all reduction chunks of a weight gradient; s <= 2^127.  The product over both s, exactly.
            ``delayed``: the same, absmax that of earlier steps (``qsim.delayed_scaling``); linear layers of blocks.
            ``blocks``: the same by blocks of k, each 1 x ``block`` along k, of weights ``block`` x ``block``; the
            product of each block over its scales, and these added in float32 (``block_scaled_product``).
        block: elements along k of a block of ``scaling``.
        accumulator: how a matrix product is summed; None where the site has none.
        inner: arithmetic between input and output.  ``fp32`` is float32 that flushes subnormals; a narrower
            format rounds after every operation.
        sums: additions of a sum of many terms, neighbours first; ``fp32``: one rounding, to ``inner``, at the end.
        output: what the result is rounded to, once, as ``rounding`` says; stochastic: by the bits of
            ``qsim.draws.output_keys``.
        subnormals: of the output, kept, or flushed to the zero of their sign.
        quantization: scheme of both operands of a matrix product, an integer one of ``precision.SCHEMES`` by name;
            its INT32 sums take the place of the accumulator's.  None for none.
        gradient_rounding: of the codes of the operand that is a gradient, dy; the other one's are as the scheme says.
            ``stochastic``: by the bits of ``qsim.model.rounding_keys``, dgrad and wgrad of the blocks' linear layers.
    Errors: ValueError on creation for unknown names, and for a scheme that multiplies no integers.
    """

    inputs: str
    output: str
    inner: str = "fp32"
    accumulator: str | None = None
    quantization: str | None = None
    gradient_rounding: GradientRounding = "nearest_even"
    gradient_inputs: str | None = None
    scaling: Scaling = "none"
    block: int = 128
    sums: str = "fp32"
    rounding: Mode = "nearest_even"
    subnormals: Subnormals = "keep"

    def __post_init__(self) -> None:
        for name in self.formats:
            parse_format(name)
        if self.accumulator is not None:
            parse_accumulator(self.accumulator)
        Rounding(mode=self.rounding, subnormals=self.subnormals)
        for field, offered in (("gradient_rounding", GradientRounding), ("scaling", Scaling)):
            value, known = getattr(self, field), " and ".join(get_args(offered))
            if value not in get_args(offered):
                raise ValueError(f"{field} {value!r} is not offered; {known} are")
        if self.quantization is not None and not parse_scheme(self.quantization).integer:
            raise ValueError(
                f"scheme {self.quantization!r} multiplies no integers; name one of both operands, or None"
            )
        if self.block < 1:
            raise ValueError(f"blocks of {self.block} elements share no scale; choose at least 1")
        if self.scaling in ("tensor", "delayed") and parse_format(self.output).bits > 16:
            raise ValueError(f"a scaled product is rounded to at most 16 bits, not to {self.output}; choose bf16")

    @property
    def formats(self) -> tuple[str, ...]:
        """Every format by name: operands, inner arithmetic, sums, output."""
        return self.inputs, self.gradient_inputs or self.inputs, self.inner, self.sums, self.output

    def operands(self, direction: Pass) -> tuple[str, str]:
        """Formats of both operands: the gradient is the first one in dgrad, the second in wgrad."""
        gradient = self.gradient_inputs or self.inputs
        return gradient if direction == "dgrad" else self.inputs, gradient if direction == "wgrad" else self.inputs

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
