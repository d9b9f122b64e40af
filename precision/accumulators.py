"""Accumulators: frozen records of how a dot product is summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from precision.formats import FP16, FP32, Format


@dataclass(frozen=True, kw_only=True)
class Accumulator:
    """How  s = c + sum over k of a_k b_k  is formed, k ascending from c (+0 where there is none).

    Fields
        product: ``"exact"`` - not rounded before it is added (one fused multiply-add per k);
                 ``"rounded"`` - rounded to ``sum`` first.
        sum: format of the running sum, rounded to nearest even after every addition, subnormals kept.
        evidence: what the definition rests on.
    """

    name: str
    product: Literal["exact", "rounded"]
    sum: Format
    description: str
    evidence: str = "definition"


_RECORDS = (
    Accumulator(
        name="fp32_sequential",
        product="exact",
        sum=FP32,
        description="s = RN32(s + a b): exact product, one rounding per addition, k ascending",
    ),
    Accumulator(
        name="fp32_mul_add",
        product="rounded",
        sum=FP32,
        description="s = RN32(s + RN32(a b)), k ascending",
    ),
    Accumulator(
        name="fp16_mul_add",
        product="rounded",
        sum=FP16,
        description="s = RN16(s + RN16(a b)), k ascending",
    ),
)
ACCUMULATORS: dict[str, Accumulator] = {record.name: record for record in _RECORDS}


def parse_accumulator(name: str | Accumulator) -> Accumulator:
    """The record of that name, or itself.  ValueError, naming the known ones, otherwise."""
    if isinstance(name, Accumulator):
        return name
    if name not in ACCUMULATORS:
        raise ValueError(f"unknown accumulator {name!r}; known accumulators: {', '.join(ACCUMULATORS)}")
    return ACCUMULATORS[name]
