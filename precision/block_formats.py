"""Block formats: many narrow elements under one scale.  The records by name, and ``parse_block_format``.

    x[i] is about  scale * factor * element[i]          OCP Microscaling: the scale is a power of two
    x[i] is about  tensor_scale * scale * element[i]    NVFP4: the scale is an E4M3 value, the tensor's a float32

``factor`` is 1, and 2^-6 in MXINT8, whose elements are read as integers q that stand for q / 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from precision.format import Format
from precision.formats import E2M1, E2M3, E3M2, E4M3FN, E5M2, E8M0, INT8
from precision.rounding_modes import WIDTH, pattern_of

ScaleRule = Literal["floor", "ceil", "even", "rceil"]
_FRACTION = (1 << WIDTH) - 1
_FARTHEST = 22  # 2^-127 times the smallest element is a float32 value down to 2^-149


@dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """A block format.

    Fields
        name: lower case, as ``parse_block_format`` reads it.
        element: format of the codes.
        scale: format of a block's scale: E8M0, or E4M3FN under a float32 scale for the whole tensor.
        block_size: elements that share a scale.
        factor_exponent: log2 of a factor that every element carries (MXINT8: -6).
    Errors: ValueError for facts that contradict each other.  ``dataclasses.replace`` makes relatives, such as
    blocks of 16.
    """

    name: str
    element: Format
    scale: Format
    block_size: int
    factor_exponent: int = 0

    def __post_init__(self) -> None:
        lowest, highest = self.element.min_subnormal_exponent + self.factor_exponent, self.max_exponent
        for wrong, because in (
            (self.block_size < 1, f"block_size {self.block_size}; at least 1 element shares a scale"),
            (self.scale not in (E8M0, E4M3FN), f"scales in {self.scale}; offered are e8m0 and e4m3fn"),
            (self.element.bits > 8, f"elements of {self.element.bits} bits; at most 8 are offered"),
            (not (self.element.signed and self.element.zero), f"elements in {self.element} have no sign or no zero"),
            (lowest < -_FARTHEST or not 0 <= highest <= _FARTHEST, f"elements from 2^{lowest} to 2^{highest}; "
             f"offered are those within 2^-{_FARTHEST} and 2^{_FARTHEST} whose largest power of two is at least 1"),
            (self.tensor_scaled and self.factor_exponent != 0, "a factor goes with e8m0 scales only; set it to 0"),
            (self.tensor_scaled and self.element != E2M1, f"elements in {self.element} under e4m3fn; use e2m1"),
        ):  # fmt: skip
            if wrong:
                raise ValueError(f"block format {self.name}: {because}")

    @property
    def tensor_scaled(self) -> bool:
        """Whether there is a float32 scale for the whole tensor beside those of the blocks."""
        return self.scale == E4M3FN

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest power of two among the elements: emax of the specification."""
        return self.element.max_exponent + self.factor_exponent

    @property
    def bits_per_value(self) -> float:
        """Bits of an element and of its part of the block's scale."""
        return self.element.bits + self.scale.bits / self.block_size

    def carry_above(self, rule: ScaleRule) -> int:
        """The largest 23-bit fraction of a block's absmax with which its exponent is that of the scale, as it is.

        A larger one makes the scale twice as large:  floor: none does;  ceil: all but 0;  even: those that rounding
        to the element's precision carries into the next binade;  rceil: those above the largest element's.
        Errors: ValueError for an unknown rule, and for any but "floor" where the scale is no power of two.
        """
        if rule not in get_args(ScaleRule):
            raise ValueError(f"scale_rule {rule!r} is not offered; choose one of {', '.join(get_args(ScaleRule))}")
        if self.tensor_scaled and rule != "floor":
            raise ValueError(
                f"scale_rule {rule!r} chooses a power of two; {self.name} has no such scales, leave it out"
            )
        half = 1 << (WIDTH - self.element.precision)  # of the last digit; the tie, an odd digit below it, carries too
        return {
            "floor": _FRACTION,
            "ceil": 0,
            "even": _FRACTION - half,
            "rceil": pattern_of(self.element.maximum) & _FRACTION,
        }[rule]

    def __str__(self) -> str:
        return self.name


def _microscaling(name: str, element: Format, factor_exponent: int = 0) -> BlockFormat:
    """OCP Microscaling Formats 1.0, section 5: blocks of 32, E8M0 scales."""
    return BlockFormat(name=name, element=element, scale=E8M0, block_size=32, factor_exponent=factor_exponent)


BLOCK_FORMATS: dict[str, BlockFormat] = {
    f.name: f
    for f in (
        _microscaling("mxfp8_e5m2", E5M2),
        _microscaling("mxfp8_e4m3", E4M3FN),
        _microscaling("mxfp6_e3m2", E3M2),
        _microscaling("mxfp6_e2m3", E2M3),
        _microscaling("mxfp4", E2M1),
        _microscaling("mxint8", INT8, factor_exponent=-6),
        BlockFormat(name="nvfp4", element=E2M1, scale=E4M3FN, block_size=16),
    )
}


def parse_block_format(name: str | BlockFormat) -> BlockFormat:
    """The block format of that name, in any case, or itself.  ValueError, naming the known ones, otherwise."""
    if isinstance(name, BlockFormat):
        return name
    found = BLOCK_FORMATS.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"unknown block format {str(name)!r}; known block formats: {', '.join(BLOCK_FORMATS)}")
    return found
