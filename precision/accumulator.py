"""How a dot product is summed, as a frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from precision.format import Format
from precision.formats import FP32, parse_format
from precision.rounding_modes import Mode, Overflow, Rounding

Summation = Literal["ordered", "exact", "integer", "native"]
Product = Literal["exact", "rounded"]
Order = Literal["ascending", "odd_first", "interleaved_pairs"]
Start = Literal["first", "last"]
ZeroSign = Literal["ieee", "positive"]
NanRule = Literal["canonical", "all_ones", "operand"]
Evidence = Literal["definition", "recorded", "vendor pseudocode", "nominal"]
_CHOICES: dict[str, Any] = {
    "summation": Summation,
    "product": Product,
    "order": Order,
    "chain_order": Literal["interleaved", "contiguous"],
    "start": Start,
    "zero": ZeroSign,
    "nan": NanRule,
    "evidence": Evidence,
}


@dataclass(frozen=True, kw_only=True)
class Accumulator:
    """How  c + sum over k of a_k b_k  is formed.

    ``summation``
        ordered: as the other fields say.  exact: the exact sum, rounded once to the output.  integer: modulo 2^32.
        native: by the library or unit at hand, which promises no bits.

    An ordered sum takes k in ``order`` and cuts it into tiles; a tile into chains; a chain into blocks.  A chain runs
    s <- step(s, block) over its blocks.  Two or more chains are joined by a tree that adds neighbours 2i and 2i + 1.

    Where c enters
        start = "first": s begins as c and goes through all of k (one tile, one chain).
        start = "last": chains begin at +0, and  s <- round(s + tile)  adds each tile to s, which began as c.
        tile: k in each tile, the last one shorter; None: all of k.
        tile_rounding: how that addition rounds; None: as ``rounding`` does.
        chains, chain_order: "interleaved": chain q takes the k = q modulo ``chains``; "contiguous": runs of
            ceil(k / chains), the last ones shorter or empty; an empty chain is -0, which changes no sum.

    A step
        product "exact":   s <- round(s + sum of the block's exact products), all terms in one addition.
        product "rounded": p = round(a b); s <- round(s + tree of the block's p), every addition rounded.
        block: products a step, the last one of a chain shorter; None: all of the chain.  ``blocks``: by input format.
        alignment: None: the addition is exact before it is rounded.  F: each term x = (significand) 2^e, e as its
            factors have it (a product is not normalised), is truncated toward zero to a multiple of 2^(E - F), E the
            largest e of the terms that are not zero, and not below ``floor`` (None: no floor).
        second_alignment: (T, C): s is not among those terms; their sum t, of exponent E, and s, of exponent e, are
            rounded down to multiples of 2^(max(E, e) - T) and 2^(max(E, e) - C) and added.  A product beyond
            float32's range counts as infinite.
        compensated: Kahan's: y = p - e, t = s + y, e = (t - s) - y, s = t; every operation rounded; e begins as +0.
        sum, rounding, overflow: format of s and how it is rounded to it.
        granule: k is padded with a = b = +0 up to a multiple of it, as an instruction that takes so many does.
    order
        ascending; odd_first: 1 0 3 2 5 4 ...; interleaved_pairs: within each tile 0 1 4 5 8 9 ..., then 2 3 6 7 ...
    Subnormals (of the input formats for a and b, of ``sum`` for the rest), each flush giving the zero of its sign
        flush_inputs: a and b.  flush_start: s as each addition reads it.  flush_products: rounded products.
        flush_sums: results of additions, judged after rounding with unbounded exponent.
    zero: sign of a sum that is zero: "ieee" (-0 from -0 and -0, and where a negative sum rounds to zero), or
        "positive" (always +0).
    nan: what a NaN result is: "canonical" 0x7FC00000; "all_ones" 0x7FFFFFFF (fp16: 0x7FFF, which
        is 0x7FFFE000 in a float32 carrier); "operand": the first NaN of a, b, s, quieted, else 0xFFC00000
        (0 x infinity, infinity - infinity).
    evidence: "definition"; "recorded": outputs of the unit; "vendor pseudocode"; "nominal": an assumption.
    inputs: formats that the unit multiplies, () for any.

    Errors: ValueError for contradictions.
    """

    name: str
    description: str
    summation: Summation = "ordered"
    inputs: tuple[str, ...] = ()
    product: Product = "exact"
    block: int | None = 1
    blocks: tuple[tuple[str, int], ...] = ()
    order: Order = "ascending"
    chains: int = 1
    chain_order: Literal["interleaved", "contiguous"] = "interleaved"
    tile: int | None = None
    start: Start = "first"
    tile_rounding: Mode | None = None
    granule: int = 1
    alignment: int | None = None
    second_alignment: tuple[int, int] | None = None
    floor: int | None = None
    compensated: bool = False
    sum: Format = FP32
    rounding: Mode = "nearest_even"
    overflow: Overflow = "ieee"
    flush_inputs: bool = False
    flush_start: bool = False
    flush_products: bool = False
    flush_sums: bool = False
    zero: ZeroSign = "ieee"
    nan: NanRule = "canonical"
    silicon: str = ""
    source: str = ""
    evidence: Evidence = "definition"

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in get_args(allowed):
                raise ValueError(
                    f"accumulator {self.name}: {field} is {value!r}; choose one of {', '.join(get_args(allowed))}"
                )
        for wrong, because in self._contradictions():
            if wrong:
                raise ValueError(f"accumulator {self.name}: {because}")

    def _contradictions(self) -> list[tuple[bool, str]]:
        lengths = [length for length in (self.block, self.tile, *dict(self.blocks).values()) if length is not None]
        return [
            (min([1, self.chains, self.granule, *lengths]) < 1, "block, tile, chains and granule are at least 1"),
            (self.start == "first" and (self.chains > 1 or self.tile is not None),
             "c can enter first only in one chain over all of k; say start='last'"),
            (self.alignment is not None and self.product == "rounded", "rounded products are not aligned"),
            (self.alignment is not None and not 1 <= self.alignment <= 28, "alignment is 1 to 28 bits"),
            (self.second_alignment is not None and self.alignment is None, "second_alignment needs alignment"),
            (self.compensated and (self.product != "rounded" or self.block != 1),
             "Kahan's sum takes one rounded product a step"),
            (self.zero == "positive" and (self.product == "rounded" or self.block == 1),
             "additions of two numbers follow IEEE in the sign of zero"),
            (self.nan == "operand" and self.product == "exact" and self.block != 1,
             "a fused addition of several products hands on no payload"),
            (self.flush_sums and self.sum.min_normal_exponent != FP32.min_normal_exponent,
             f"sums are flushed below 2^-126 alone, and {self.sum.name} has another smallest normal value"),
            (self.rounding == "stochastic", "a running sum does not round at random, as it has no key"),
        ]  # fmt: skip

    def block_for(self, inputs: Format) -> int | None:
        """Products a step for operands of that format."""
        return dict(self.blocks).get(inputs.name, self.block)

    @property
    def how(self) -> Rounding:
        """How the running sum is rounded."""
        return Rounding(mode=self.rounding, overflow=self.overflow)

    @property
    def tile_how(self) -> Rounding:
        """How a tile is added to s."""
        overflow: Overflow = "ieee" if self.tile_rounding else self.overflow
        return Rounding(mode=self.tile_rounding or self.rounding, overflow=overflow)

    @property
    def is_chain(self) -> bool:
        """Whether it is s <- round(s + a b), k ascending, with the NaN and the signs of IEEE arithmetic."""
        plain = self.summation == "ordered" and self.start == "first" and self.order == "ascending"
        alone = self.block == 1 and not self.blocks and self.alignment is None and not self.compensated
        usual = (self.rounding, self.overflow, self.zero, self.nan) == ("nearest_even", "ieee", "ieee", "canonical")
        return plain and alone and usual

    @property
    def flushes(self) -> bool:
        """Whether it reads or makes zeros of subnormals anywhere."""
        return self.flush_inputs or self.flush_start or self.flush_products or self.flush_sums

    def takes(self, inputs: Format) -> bool:
        """Whether the unit multiplies values of that format."""
        return not self.inputs or inputs in [parse_format(name) for name in self.inputs]
