"""The policies by name; ``<bf16|fp16|tf32>-<accumulator>`` besides, for every accumulator that takes the format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from precision.accumulators import parse_accumulator
from precision.formats import Format, parse_format
from precision.rounding_modes import Mode
from qsim.arithmetic import Arithmetic
from qsim.site_policy import GEMM_SITES, PASSES, QUANTIZED_SITES, SITES, Pass, SitePolicy
from qsim.stages import FLOAT64, NO_SCALING, LossScaling, Stage, Stages, WriteBack

NORMS = ("layernorm_1", "layernorm_2", "layernorm_final")


def _uniform(name: str, storage: Format, accumulator: str, loss_scaling: LossScaling = NO_SCALING) -> Arithmetic:
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


def _changed(
    policy: Arithmetic, name: str, sites: Sequence[str] = SITES, passes: Sequence[Pass] = PASSES, **fields: Any
) -> Arithmetic:
    """The policy with other fields in the rows of these sites; an accumulator only where there is one."""

    def changed(site: str, direction: Pass, row: SitePolicy) -> SitePolicy:
        if site not in sites or direction not in passes:
            return row
        return dataclasses.replace(row, **{k: v for k, v in fields.items() if k != "accumulator" or row.accumulator})

    rows = tuple((site, p, changed(site, p, row)) for site, p, row in policy.sites)
    return dataclasses.replace(policy, name=name, sites=rows)


def _without_master(policy: Arithmetic, name: str, rounding: Mode = "nearest_even") -> Arithmetic:
    """Parameters kept in the working format and written back there, moments float32."""
    stages = Stages(master=Stage(format=policy.parameters), write_back=WriteBack(rounding=rounding))
    return dataclasses.replace(policy, name=name, stages=stages)


_DYNAMIC = LossScaling(mode="dynamic", initial=2.0**16)
_FP32 = _uniform("fp32", parse_format("fp32"), "fp32_mul_add")
_BF16 = _uniform("bf16", parse_format("bf16"), "fp32_sequential")
_FP16 = _uniform("fp16", parse_format("fp16"), "fp32_sequential", _DYNAMIC)
_NATIVE_BF16 = _changed(_BF16, "native-bf16", accumulator="native")

_PER_OPERATION: dict[str, Any] = {"inner": "fp16", "sums": "fp16"}
# mean, squares, sums, normalisation, gain, and all of the backward pass: one rounding an operation
_LN16 = _changed(_FP16, "fp16-ln16", NORMS, **_PER_OPERATION)
# FP16 wherever numbers are computed; only gradients of the embedding are added in float32 and rounded once
_PURE = _changed(
    _FP16, "fp16-pure", [site for site in SITES if site != "embedding"], accumulator="fp16_fma", **_PER_OPERATION
)
# linear layers of the blocks, as FP8 is trained; attention and logits stay BF16 (Micikevicius et al., 2209.05433)
_FP8 = _changed(_BF16, "fp8", QUANTIZED_SITES, inputs="e4m3fn", gradient_inputs="e5m2", scaling="tensor")
_FP8_DELAYED = _changed(_FP8, "fp8-delayed", QUANTIZED_SITES, scaling="delayed")
# DeepSeek-V3 (2412.19437, section 3.3): E4M3 in all three products, activations and gradients by 1 x 128 along k,
# weights by 128 x 128, partial sums of 128 scaled and added in float32.  Scales are powers of two, as that paper has
# them for some activations and DeepSeek-V3.1 throughout (UE8M0, its model card); float32 ones are not offered.
_FP8_BLOCKS = _changed(_BF16, "fp8-1x128", QUANTIZED_SITES, inputs="e4m3fn", scaling="blocks")
_FLUSH = dataclasses.replace(
    _changed(_FP16, "fp16-flush", subnormals="flush"), stages=Stages(write_back=WriteBack(subnormals="flush"))
)

# What other stacks round where.  Fused epilogues, which add a bias before the one rounding of a product, are not
# modelled: here the product and its sum with the bias are rounded one after the other.

# torch.amp.GradScaler, which has no minimum
_TORCH_SCALING = LossScaling(mode="dynamic", initial=2.0**16, interval=2000, minimum=2.0**-126)
_MEGATRON_SCALING = LossScaling(mode="dynamic", initial=2.0**32, interval=1000)  # without its hysteresis of 2
_JMP_SCALING = LossScaling(mode="dynamic", initial=2.0**15, interval=2000)  # jmp.DynamicLossScale(2 ** 15)


def _torch_amp(name: str, half: str, scaling: LossScaling) -> Arithmetic:
    """torch.autocast on CUDA over float32 parameters.

    Source: PyTorch documentation, torch.amp, "Autocast Op Reference".  Ops that autocast to half: linear, matmul,
    addmm, baddbmm.  To float32: layer_norm, softmax, log_softmax, cross_entropy.  GELU and dropout are in neither
    list and run in the type of their input, which is half behind a linear layer.  An embedding and its gradient are
    float32; a residual addition of float32 and half promotes to float32.  A cast's backward casts back: gradients
    of half values are half, gradients of parameters come out of a half product and are then float32.
    """
    policy = _uniform(name, parse_format(half), "fp32_sequential", scaling)
    policy = _changed(policy, name, ("embedding", "residual", *NORMS), inputs="fp32", output="fp32")
    policy = _changed(policy, name, ("softmax",), ("fprop",), output="fp32")  # backward: the scores it read were half
    return dataclasses.replace(policy, parameters="fp32")


def _megatron() -> Arithmetic:
    """Megatron-LM with --fp16 --accumulate-allreduce-grads-in-fp32: half parameters, float32 main parameters.

    Source: NVIDIA/Megatron-LM.  megatron/core/fusions: fused LayerNorm and fused scaled masked softmax take and give
    half and compute in float32; bias, dropout and residual addition in half unless fp32_residual_connection.
    tensor_parallel/cross_entropy.py: the loss from logits cast to float32, its gradient cast back.
    optimizer/optimizer.py: half gradients are copied to float32 ones of the main parameters, unscaled and clipped
    there.  Without the second flag the reduction is in half: gradient_reduction={format: fp16}.
    optimizer/grad_scaler.py and the defaults of training/arguments.py: the scale.
    """
    return dataclasses.replace(_FP16, name="megatron-fp16", loss_scaling=_MEGATRON_SCALING)


def _jmp_half() -> Arithmetic:
    """jmp.get_policy("params=float32,compute=half,output=half"): parameters and inputs cast to half, all in half.

    Source: google-deepmind/jmp, jmp/_src/policy.py (cast_to_compute, cast_to_output) and loss_scale.py.  Under it
    every operation of JAX gives half; jnp.sum and jnp.mean of half values add in float32 and round once
    (jax/_src/numpy/reductions.py).  A cast's backward gives float32 gradients of the parameters.
    """
    policy = _changed(_FP16, "jmp-half", inner="fp16", output="fp16")
    return dataclasses.replace(policy, loss_scaling=_JMP_SCALING)


def _float64() -> Arithmetic:
    """No rounding: what tests and losses are held against; NumPy alone, sums in NumPy's order, no hash promised.

    A run keeps and hashes float64; its learning rate and bias corrections are the float32 numbers of every policy.
    Nothing is counted, so it writes no statistics.
    """
    row = SitePolicy(inputs="fp64", output="fp64", inner="fp64", sums="fp64")
    product = dataclasses.replace(row, accumulator="native")
    rows = tuple((site, p, product if site in GEMM_SITES else row) for site in SITES for p in PASSES)
    return Arithmetic(name="fp64", sites=rows, parameters="fp64", stages=FLOAT64)


POLICIES: dict[str, Arithmetic] = {
    policy.name: policy
    for policy in (
        _FP32,
        _BF16,
        _FP16,
        dataclasses.replace(_FP16, name="fp16-noscale", loss_scaling=NO_SCALING),
        _BF16.quantized(name="int8-fprop"),
        _BF16.quantized(passes=PASSES, name="int8-train"),
        _BF16.quantized(passes=PASSES, gradient_rounding="stochastic", name="int8-train-sr"),
        _changed(_FP32, "tf32", GEMM_SITES, inputs="tf32", accumulator="fp32_sequential"),
        _FLUSH,
        _LN16,
        _PURE,
        _without_master(_FP16, "fp16-nomaster"),
        _without_master(_BF16, "bf16-nomaster"),
        _without_master(_BF16, "bf16-sr", "stochastic"),
        _FP8,
        _FP8_DELAYED,
        _FP8_BLOCKS,
        _changed(_FP16, "fp16-h100", accumulator="h100"),
        _changed(_BF16, "bf16-h100", accumulator="h100"),
        _changed(_BF16, "bf16-amx", accumulator="amx_bf16"),
        _NATIVE_BF16,
        _changed(_FP16, "native-fp16", accumulator="native"),
        _NATIVE_BF16.quantized(name="native-int8"),
        _torch_amp("torch-amp-fp16", "fp16", _TORCH_SCALING),
        _torch_amp("torch-amp-bf16", "bf16", NO_SCALING),
        _megatron(),
        _jmp_half(),
        _float64(),
    )
}
_BASES = ("bf16", "fp16", "tf32")


def parse_policy(name: str | Arithmetic) -> Arithmetic:
    """The policy of that name, or itself; ``fp16-v100``, ``bf16-amx`` and the like for any accumulator.

    Errors: ValueError, naming the known ones, for any other name, and where a unit does not take the format.
    """
    if isinstance(name, Arithmetic):
        return name
    if name in POLICIES:
        return POLICIES[name]
    base, _, unit = name.partition("-")
    accumulator = _accumulator_of(base, unit) if base in _BASES and unit else None
    if accumulator is None:
        raise ValueError(
            f"unknown number format or policy {name!r}; known policies: {', '.join(POLICIES)}, "
            f"and <{'|'.join(_BASES)}>-<accumulator>"
        )
    return _changed(POLICIES[base], name, accumulator=accumulator)


def _accumulator_of(base: str, unit: str) -> str | None:
    """The accumulator of that name, or of that name with the format behind (amx: amx_bf16); None for no such name."""
    for candidate in (unit, f"{unit}_{base}"):
        try:
            accumulator = parse_accumulator(candidate)
        except ValueError:
            continue
        if accumulator.summation == "native":
            raise ValueError(f"policy '{base}-{unit}' is called native-{base}; write that")
        if not accumulator.takes(parse_format(base)):
            raise ValueError(
                f"accumulator {candidate} does not take {base}; it takes {', '.join(accumulator.inputs)}"
            )
        return candidate
    return None
