"""Accumulators by name: the definitions, and what matrix units are known to do.

Sources, by their short names
    XS   Xie et al., MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores, arXiv 2511.10909
    KM   Khattak and Mikaitis, Accurate Models of NVIDIA Tensor Cores, arXiv 2512.07004
    HK   Hawkeye, arXiv 2603.20421
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from precision.accumulator import Accumulator
from precision.formats import BF16, FP16, parse_format

LARGEST_SPLIT = 1 << 16
_E8M13 = parse_format("e8m13")

_NVIDIA = "XS algorithm 7; KM figures 2 to 5; HK"
_H100 = "outputs recorded on an NVIDIA H100"
_INTEL = "outputs recorded on an Intel Sapphire Rapids processor"


def _chain(name: str, description: str, **facts: Any) -> Accumulator:
    return Accumulator(name=name, description=description, **facts)


_DEFINITIONS = (
    _chain("fp32_sequential", "s = RN32(s + a b): exact product, one rounding an addition, k ascending"),
    _chain("fp32_fma", "s = RN32(s + a b): another name of fp32_sequential"),
    _chain("fp32_mul_add", "s = RN32(s + RN32(a b)), k ascending", product="rounded"),
    _chain(
        "fp32_pairwise",
        "RN32(c + tree): products RN32(a b), neighbours 2i and 2i + 1 added until one is left",
        product="rounded",
        block=None,
    ),
    _chain(
        "fp32_split8",
        "8 runs of ceil(k / 8), each as fp32_sequential from +0, their neighbour tree, then c; any fp32_split<K>",
        chains=8,
        chain_order="contiguous",
        start="last",
    ),
    _chain("fp16_fma", "s = RN16(s + a b): exact product, k ascending", sum=FP16),
    _chain("fp16_mul_add", "s = RN16(s + RN16(a b)), k ascending", sum=FP16, product="rounded"),
    _chain("bf16_fma", "s = RNbf16(s + a b): exact product, k ascending", sum=BF16),
    _chain("bf16_mul_add", "s = RNbf16(s + RNbf16(a b)), k ascending", sum=BF16, product="rounded"),
    _chain(
        "kahan",
        "y = RN32(a b) - e, t = s + y, e = (t - s) - y, s = t; each operation RN32, k ascending",
        product="rounded",
        compensated=True,
    ),
    Accumulator(
        name="exact", summation="exact", description="c + sum of a b, exact, rounded once to the output; in any order"
    ),
    Accumulator(
        name="int32",
        summation="integer",
        inputs=("int8", "int4", "int2"),
        description="c + sum of a b of integers, modulo 2^32; exact and in any order up to k = 131,071",
    ),
    Accumulator(
        name="native",
        summation="native",
        description="whatever the library or the matrix unit at hand does: NumPy's BLAS, XLA's dot; no bits promised",
    ),
)


def _nvidia(
    name: str, silicon: str, blocks: dict[str, int], bits: int, floor: int | None, **facts: Any
) -> Accumulator:
    """Truncated fused dot-product-add; ``blocks``: products an addition, by input format.

    That a negative sum which rounds to zero is +0 was recorded on an H100; the other generations take it from there.
    """
    shape = "/".join(dict.fromkeys(str(length) for length in blocks.values()))
    rounding, into = ("nearest_even", "RN16") if facts.get("sum") is FP16 else ("toward_zero", "RZ32")
    into = "RZ to e8m13" if facts.get("sum") is _E8M13 else into
    fields: dict[str, Any] = {
        "name": name,
        "silicon": silicon,
        "inputs": tuple(blocks),
        "block": next(iter(blocks.values())),
        "blocks": tuple(blocks.items()),
        "alignment": bits,
        "floor": floor,
        "rounding": rounding,
        "overflow": "inf",
        "zero": "positive",
        "nan": "all_ones",
        "source": f"{_H100}; {_NVIDIA}" if name.startswith("h100") else f"{_NVIDIA}; sign of zero: {_H100}",
        "evidence": "recorded",
        "description": f"s and {shape} products, each truncated to {bits} bits below the largest exponent, "
        f"added exactly, {into}",
    }
    return Accumulator(**fields | facts)


_HALF, _ALL16 = {"fp16": 4}, ("fp16", "bf16")
_AMPERE = dict.fromkeys(_ALL16, 8) | {"tf32": 4}
_HOPPER = dict.fromkeys(_ALL16, 16) | {"tf32": 8}
_FP8 = ("e4m3fn", "e5m2")
_TENSOR_CORES = (
    _nvidia("v100", "NVIDIA V100 tensor core", _HALF, 23, None),
    _nvidia("a100", "NVIDIA A100, A2, A30 tensor core", _AMPERE, 24, -132),
    _nvidia("ada", "NVIDIA L40S, RTX 40 tensor core", _AMPERE, 24, -132),
    _nvidia("h100", "NVIDIA H100, H200 tensor core", _HOPPER, 25, -133),
    _nvidia("b200", "NVIDIA B200 tensor core", _HOPPER | dict.fromkeys(_FP8, 32), 25, -133),
    _nvidia("v100_fp16", "NVIDIA V100 tensor core, fp16 sum", _HALF, 23, -19, sum=FP16),
    _nvidia("a100_fp16", "NVIDIA A100 tensor core, fp16 sum", {"fp16": 8}, 24, -20, sum=FP16),
    _nvidia("ada_fp16", "NVIDIA L40S tensor core, fp16 sum", {"fp16": 8}, 24, -20, sum=FP16),
    _nvidia("h100_fp16", "NVIDIA H100, H200 tensor core, fp16 sum", {"fp16": 16}, 25, -21, sum=FP16),
    _nvidia("b200_fp16", "NVIDIA B200 tensor core, fp16 sum", {"fp16": 16}, 25, -21, sum=FP16),
    _nvidia("h100_fp8_wgmma", "NVIDIA H100, H200 wgmma, fp8", dict.fromkeys(_FP8, 32), 13, -133, sum=_E8M13),
    _nvidia(
        "h100_fp8_mma",
        "NVIDIA H100, H200 mma.sync, fp8 by way of fp16",
        dict.fromkeys(_FP8, 16),
        25,
        -133,
        order="interleaved_pairs",
        tile=32,
        granule=32,
        start="last",
        tile_rounding="nearest_even",
        description="each 32 products from +0 as h100, positions 0 1 4 5 ... then 2 3 6 7 ..., then RN32(s + that)",
        source=f"{_H100}; KM; NVIDIA, CUTLASS issue 1986",
    ),
    _nvidia("ada_fp8", "NVIDIA L40S, RTX 40 QMMA, fp8", dict.fromkeys(_FP8, 16), 13, -132, sum=_E8M13),
)

_FLUSHING: dict[str, Any] = {"flush_inputs": True, "flush_start": True, "flush_products": True, "flush_sums": True}
_MATRIX_CORES = (
    Accumulator(
        name="cdna1",
        silicon="AMD MI100 matrix core",
        inputs=_ALL16,
        block=4,
        blocks=(("fp16", 4), ("bf16", 2)),
        granule=4,
        source="XS algorithm 1; KM",
        evidence="recorded",
        description="s and 4 (bf16: 2) products added exactly, RN32",
    ),
    Accumulator(
        name="cdna2",
        silicon="AMD MI210, MI250 matrix core",
        inputs=_ALL16,
        product="rounded",
        block=4,
        granule=4,
        **_FLUSHING,
        source="XS algorithm 2; KM",
        evidence="recorded",
        description="RN32(s + ((p0 + p1) + (p2 + p3))), p = RN32(a b); subnormal a, b, s, p and sums are zero "
        "(bf16: the _1k instructions)",
    ),
    Accumulator(
        name="cdna3",
        silicon="AMD MI300 matrix core",
        inputs=(*_ALL16, "tf32"),
        block=8,
        blocks=(("fp16", 8), ("bf16", 8), ("tf32", 4)),
        alignment=24,
        second_alignment=(31, 24),
        overflow="inf",
        source="XS algorithms 10 and 11",
        evidence="recorded",
        description="8 (tf32: 4) products truncated to 24 bits below their largest exponent and added; that sum, "
        "rounded down to 31 bits, and s, rounded down to 24, at the larger exponent of the two, RN32",
    ),
)

_DOT_BF16: dict[str, Any] = {
    "flush_inputs": True,
    "flush_start": True,
    "flush_sums": True,
    "granule": 2,
    "nan": "operand",
}
_CPUS = (
    Accumulator(
        name="avx512_bf16",
        silicon="x86 AVX512_BF16, VDPBF16PS",
        inputs=("bf16",),
        order="odd_first",
        **_DOT_BF16,
        source=_INTEL,
        evidence="recorded",
        description="s = RN32(s + a1 b1), then s = RN32(s + a0 b0), pair after pair; subnormals are zero throughout",
    ),
    Accumulator(
        name="amx_bf16",
        silicon="x86 AMX, TDPBF16PS on tiles of 32 k",
        inputs=("bf16",),
        chains=2,
        tile=32,
        start="last",
        **_DOT_BF16,
        source=_INTEL,
        evidence="recorded",
        description="each 32 of k: even and odd k as chains of RN32(s + a b) from +0, RN32(even + odd), then RN32(s "
        "+ that); subnormals are zero throughout",
    ),
    Accumulator(
        name="amx_fp16",
        silicon="x86 AMX, TDPFP16PS on tiles of 32 k",
        inputs=("fp16",),
        chains=2,
        tile=32,
        start="last",
        **_DOT_BF16 | {"flush_inputs": False},
        source="Intel's instruction set reference",
        evidence="vendor pseudocode",
        description="as amx_bf16, but subnormal fp16 inputs count",
    ),
    Accumulator(
        name="avx512_fp16",
        silicon="x86 AVX512-FP16, VFMADD231PH",
        inputs=("fp16",),
        sum=FP16,
        source=_INTEL,
        evidence="recorded",
        description="s = RN16(s + a b), subnormals kept, k ascending: the bits of fp16_fma",
    ),
    Accumulator(
        name="arm_bfdot",
        silicon="Arm BFDOT, BFMMLA with FPCR.EBF = 0",
        inputs=("bf16",),
        product="rounded",
        block=2,
        granule=2,
        rounding="to_odd",
        overflow="inf",
        **_FLUSHING,
        source="Arm Architecture Reference Manual, BFDotAdd; QEMU",
        evidence="vendor pseudocode",
        description="s = odd(s + odd(odd(a0 b0) + odd(a1 b1))), odd: rounded to odd; subnormals are zero throughout",
    ),
    Accumulator(
        name="tpu_mxu_nominal",
        silicon="Google TPU matrix unit (nominal)",
        inputs=("bf16",),
        **_FLUSHING,
        source="Google Cloud on bfloat16; order, width and rounding of the unit are unpublished",
        evidence="nominal",
        description="nominal: s = RN32(s + a b), k ascending, subnormals are zero; the true order is not public",
    ),
)

ACCUMULATORS: dict[str, Accumulator] = {
    record.name: record for record in (*_DEFINITIONS, *_TENSOR_CORES, *_MATRIX_CORES, *_CPUS)
}


def parse_accumulator(name: str | Accumulator) -> Accumulator:
    """The record of that name, or itself; ``fp32_split<K>`` for any K from 1 to 65,536.

    Errors: ValueError, naming the known ones, otherwise.
    """
    if isinstance(name, Accumulator):
        return name
    if name in ACCUMULATORS:
        return ACCUMULATORS[name]
    split = re.fullmatch(r"fp32_split([1-9][0-9]*)", name)
    if split is not None and int(split[1]) <= LARGEST_SPLIT:
        description = ACCUMULATORS["fp32_split8"].description.replace("8", split[1]).split("; any")[0]
        return dataclasses.replace(
            ACCUMULATORS["fp32_split8"], name=name, chains=int(split[1]), description=description
        )
    known = ", ".join(ACCUMULATORS).replace("fp32_split8", "fp32_split<K>")
    raise ValueError(f"unknown accumulator {name!r}; known accumulators: {known}")
