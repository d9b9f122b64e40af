"""What the recorded tensor core instructions multiplied: patterns drawn from names, by integers and NumPy alone.

A kind is an instruction; a product is one instruction, or a chain of four that hands its sum on.  The draws rest on
the raw words of Philox, which NumPy keeps from version to version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

CHAIN = 4  # instructions
KEPT_ROWS = 24  # of the 64 of a wgmma product; all are compared by their hash


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A format as its codes: exponent and significand bits, the exponent's bias, patterns that are not finite."""

    exponent_bits: int
    significand_bits: int
    bias: int
    infinities: bool = True
    shift: int = 0  # zero bits below the significand in the word that carries it

    @property
    def largest_field(self) -> int:
        """Largest exponent field of a finite value."""
        return (1 << self.exponent_bits) - (2 if self.infinities else 1)

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.significand_bits


FP32 = Layout(exponent_bits=8, significand_bits=23, bias=127)
LAYOUTS = {
    "fp32": FP32,
    "e8m13": Layout(exponent_bits=8, significand_bits=13, bias=127, shift=10),
    "tf32": Layout(exponent_bits=8, significand_bits=10, bias=127, shift=13),
    "bf16": Layout(exponent_bits=8, significand_bits=7, bias=127),
    "fp16": Layout(exponent_bits=5, significand_bits=10, bias=15),
    "e5m2": Layout(exponent_bits=5, significand_bits=2, bias=15),
    "e4m3fn": Layout(exponent_bits=4, significand_bits=3, bias=7, infinities=False),
}
WORDS = {"fp32": np.uint32, "e8m13": np.uint32, "tf32": np.uint32, "bf16": np.uint16, "fp16": np.uint16}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An instruction: its number in record_tensor_cores.cu, what it multiplies and sums, M, N, K."""

    number: int
    a: str
    b: str
    sum: str  # format of c and d
    k: int
    m: int = 16
    n: int = 8
    start: str = ""  # format of which c is drawn, where that is narrower than ``sum``

    @property
    def is_wgmma(self) -> bool:
        return self.m == 64

    @property
    def products(self) -> tuple[int, int]:
        """Products of one instruction and of a chain, for each distribution."""
        return (1, 1) if self.m * self.n > 128 else (1, 2)


def _mma(number: int, inputs: str, total: str, k: int, other: str = "") -> Kind:
    return Kind(number=number, a=inputs, b=other or inputs, sum=total, k=k)


def _wgmma(number: int, inputs: str, total: str, k: int, start: str = "") -> Kind:
    return Kind(number=number, a=inputs, b=inputs, sum=total, k=k, m=64, start=start)


KINDS = {
    "mma fp16": _mma(0, "fp16", "fp32", 16),
    "mma fp16 k8": _mma(1, "fp16", "fp32", 8),
    "mma fp16 sum16": _mma(2, "fp16", "fp16", 16),
    "mma bf16": _mma(3, "bf16", "fp32", 16),
    "mma bf16 k8": _mma(4, "bf16", "fp32", 8),
    "mma tf32": _mma(5, "tf32", "fp32", 8),
    "mma tf32 k4": _mma(6, "tf32", "fp32", 4),
    "mma e4m3": _mma(7, "e4m3fn", "fp32", 32),
    "mma e5m2": _mma(8, "e5m2", "fp32", 32),
    "mma e4m3 e5m2": _mma(9, "e4m3fn", "fp32", 32, "e5m2"),
    "mma e4m3 sum16": _mma(10, "e4m3fn", "fp16", 32),
    "mma e5m2 sum16": _mma(11, "e5m2", "fp16", 32),
    "wmma tf32": Kind(number=20, a="tf32", b="tf32", sum="fp32", k=8, n=16),
    "wgmma fp16": _wgmma(30, "fp16", "fp32", 16),
    "wgmma fp16 sum16": _wgmma(31, "fp16", "fp16", 16),
    "wgmma bf16": _wgmma(32, "bf16", "fp32", 16),
    "wgmma tf32": _wgmma(33, "tf32", "fp32", 8),
    "wgmma e4m3": _wgmma(34, "e4m3fn", "fp32", 32, "e8m13"),
    "wgmma e5m2": _wgmma(35, "e5m2", "fp32", 32, "e8m13"),
    "wgmma e4m3 sum16": _wgmma(36, "e4m3fn", "fp16", 32),
    "wgmma e5m2 sum16": _wgmma(37, "e5m2", "fp16", 32),
}
INT8_KINDS = {
    "mma int8": Kind(number=12, a="int8", b="int8", sum="int32", k=32),
    "wgmma int8": Kind(number=38, a="int8", b="int8", sum="int32", k=32, m=64),
}
DISTRIBUTIONS = (
    "uniform",
    "near one",
    "spread",
    "any exponent",
    "cancelling",
    "large start",
    "small start",
    "subnormal",
    "floor",
    "subnormal sums",
    "overflow",
    "special",
    "zeros",
    "all bits",
)


class Draws:
    """Integers from the name of what is drawn."""

    def __init__(self, name: str) -> None:
        self._source = np.random.Philox(key=int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little"))

    def below(self, limit: int, shape: tuple[int, ...]) -> np.ndarray:
        """0 <= i < limit <= 2^32, int64."""
        words = self._source.random_raw(int(np.prod(shape))).reshape(shape)
        return ((words >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)

    def one_in(self, count: int, shape: tuple[int, ...]) -> np.ndarray:
        return self.below(count, shape) == 0

    def significands(self, bits: int, shape: tuple[int, ...]) -> np.ndarray:
        """Half uniform; a quarter with few ones at the top; a quarter within two units of a power of two."""
        uniform = self.below(1 << bits, shape)
        short = uniform & (-1 << self.below(bits + 1, shape))
        near = (self.below(5, shape) - 2) & ((1 << bits) - 1)
        return np.choose(self.below(4, shape), [uniform, uniform, short, near])

    def codes(self, layout: Layout, shape: tuple[int, ...], fields: tuple[int, int]) -> np.ndarray:
        """Finite codes whose exponent field is uniform between two."""
        low, high = (min(max(field, 0), layout.largest_field) for field in fields)
        return self._joined(layout, low + self.below(high - low + 1, shape), shape)

    def uniform(self, layout: Layout, shape: tuple[int, ...], top: int) -> np.ndarray:
        """Magnitudes uniform up to 2^top: an exponent less by one is half as likely."""
        words = self.below(1 << 32, shape)
        zeros = 32 - sum((words >> np.int64(bit)) > 0 for bit in range(32))
        return self._joined(layout, np.clip(top - 1 + layout.bias - zeros, 0, layout.largest_field), shape)

    def _joined(self, layout: Layout, field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        significand = self.significands(layout.significand_bits, shape)
        full = (1 << layout.significand_bits) - 1
        if not layout.infinities:  # the last code is a NaN
            significand = np.where((field == layout.largest_field) & (significand == full), full - 1, significand)
        return self.signs(layout, shape) | field << layout.significand_bits | significand

    def signs(self, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
        return self.below(2, shape) << (layout.bits - 1)

    def special(self, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
        """Infinities, NaNs, zeros, the largest and the smallest magnitudes."""
        infinity = (layout.largest_field + 1) << layout.significand_bits
        full = (1 << layout.bits - 1) - 1
        not_finite = (
            [infinity, infinity, infinity | 1 << layout.significand_bits - 1] if layout.infinities else [full]
        )
        largest = infinity - 1 if layout.infinities else full - 1
        choice = np.array([*not_finite, 0, largest, 1, 1 << layout.significand_bits])
        return self.signs(layout, shape) | choice[self.below(len(choice), shape)]


def around(layout: Layout, exponent: int, spread: int) -> tuple[int, int]:
    """Exponent fields near 2^exponent."""
    return exponent - spread + layout.bias, exponent + spread + layout.bias


def fields(kind: Kind, distribution: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Exponent fields of a, b and c."""
    a, b, c = LAYOUTS[kind.a], LAYOUTS[kind.b], LAYOUTS[kind.start or kind.sum]
    narrow = c is LAYOUTS["fp16"]
    wide = a.exponent_bits == 8
    middle = (a.largest_field - a.bias) // 2
    every = (0, a.largest_field), (0, b.largest_field)
    near = around(a, 0, 3), around(b, 0, 3)
    above, below = {"fp16": (12, -14), "e8m13": (12, -14)}.get(kind.start or kind.sum, (22, -24))
    floor = -76 if wide else -12
    return {
        "near one": (around(a, 0, 2), around(b, 0, 2), around(c, 0, 3)),
        "any exponent": (*every, (0, c.largest_field)),
        "large start": (*near, around(c, above, 3)),
        "small start": (*near, around(c, below, 5)),
        "subnormal": ((0, 2), around(b, 0, 6), (0, 4) if wide or narrow else around(c, -2 * a.bias, 8)),
        "floor": (around(a, floor, 6), around(b, floor, 6), (0, 1) if wide or narrow else around(c, -36, 6)),
        "subnormal sums": (around(a, floor + 10, 6), around(b, floor + 10, 6), (0, 3)),
        "overflow": (
            around(a, middle + 1, 1) if wide or narrow else (a.largest_field - 1, a.largest_field),
            around(b, middle, 1) if wide or narrow else (b.largest_field - 1, b.largest_field),
            (c.largest_field - 2, c.largest_field),
        ),
    }.get(distribution, (around(a, 0, 7), around(b, 0, 7), around(c, 0, 12)))


def _cancelling(draws: Draws, layout: Layout, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second half of k takes back what the first added, but for last bits."""
    half = a.shape[-1] // 2
    a, b = a.copy(), b.copy()
    changed = draws.one_in(4, a[..., :half].shape).astype(np.int64)
    a[..., half:] = (a[..., :half] ^ 1 << layout.bits - 1) ^ changed
    b[..., half:] = b[..., :half]
    return a, b


def code(layout: Layout, integer: int, exponent: int) -> int:
    """The code of  integer x 2^exponent,  a value of the format."""
    field = integer.bit_length() - 1 + exponent + layout.bias
    if field < 1:
        return integer << exponent - (1 - layout.bias - layout.significand_bits)
    significand = (integer << layout.significand_bits) >> integer.bit_length() - 1
    return (field - 1 << layout.significand_bits) + significand


def has_floor(kind: Kind) -> bool:
    """Whether the least exponent to which terms are aligned can show in a result."""
    return LAYOUTS[kind.a].exponent_bits == 8 or (kind.a, kind.sum) == ("fp16", "fp16")


def _at_the_floor(draws: Draws, kind: Kind, shapes: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Products whose sum falls just short of the next result, or of more than half of it, and a few about the last
    bit that is kept at the least exponent: 2^-158, or 2^-46 with an fp16 sum.  First the products 511 x 2^-158, or
    1, 5 and 9 x 2^-25."""
    layout = LAYOUTS[kind.a]
    if kind.sum == "fp16":
        first, second, last = [(1, -12), (5, -12), (9, -12)], (1, -13), -23
    else:
        first, second, last = [(7, -79)], (73, -79), -79
    least = [code(layout, 1, last + e) for e in (-1, -1, -1, 0)] + [0] * 8
    a, b = (np.array(least)[draws.below(len(least), shape)] for shape in shapes[:2])
    b = np.where(b == 0, code(layout, 1, last), b)
    a[..., 0] = np.array([code(layout, *x) for x in first])[draws.below(len(first), a.shape[:-1])]
    b[..., 0] = code(layout, *second)
    a |= draws.signs(layout, (*a.shape[:-1], 1))
    return a, b | draws.one_in(16, b.shape).astype(np.int64) << layout.bits - 1


def draw(name: str, distribution: str, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes a (P, steps, M, K), b (P, steps, N, K), c (P, M, N), int64, of all products of one distribution."""
    kind = KINDS[name]
    draws = Draws(f"{name}, {distribution}, {steps}")
    count = kind.products[steps > 1]
    layouts = [LAYOUTS[fmt] for fmt in (kind.a, kind.b, kind.start or kind.sum)]
    shapes = [(count, steps, kind.m, kind.k), (count, steps, kind.n, kind.k), (count, kind.m, kind.n)]
    if distribution == "uniform":
        a, b, c = (draws.uniform(*each, top) for *each, top in zip(layouts, shapes, (0, 0, 2), strict=True))
    else:
        wanted = fields(kind, distribution)
        a, b, c = (draws.codes(*each) for each in zip(layouts, shapes, wanted, strict=True))
    if distribution == "cancelling":
        a, b = _cancelling(draws, layouts[0], a, b)
    if distribution == "zeros":
        rare = [draws.one_in(8, shape) for shape in shapes]
        a, b, c = (
            np.where(kept, x, draws.signs(layout, x.shape))
            for kept, x, layout in zip(rare, (a, b, c), layouts, strict=True)
        )
    if distribution == "floor":
        a, b = _at_the_floor(draws, kind, shapes) if has_floor(kind) else (a, b)
        c = np.where(draws.one_in(2, c.shape), c, draws.signs(layouts[2], c.shape))
    if distribution == "special":
        a, b, c = (
            np.where(draws.one_in(60, x.shape), draws.special(layout, x.shape), x)
            for x, layout in zip((a, b, c), layouts, strict=True)
        )
    return _carried(draws, distribution, layouts, (a, b, c))


def _carried(
    draws: Draws, distribution: str, layouts: list[Layout], parts: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes as the instruction takes them; "all bits": with what the format leaves out of its word."""
    a, b, c = (x << layout.shift for x, layout in zip(parts, layouts, strict=True))
    if distribution != "all bits":
        return a, b, c
    a, b, c = (
        x | draws.below(1 << layout.shift, x.shape) if layout.shift else x
        for x, layout in zip((a, b, c), layouts, strict=True)
    )
    return a, b, c


def operands(name: str, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of all distributions, one after the other, in the words of their formats."""
    kind = KINDS[name]
    parts = zip(*(draw(name, distribution, steps) for distribution in DISTRIBUTIONS), strict=True)
    formats = (kind.a, kind.b, kind.sum)
    a, b, c = (
        np.concatenate(part).astype(WORDS.get(fmt, np.uint8)) for part, fmt in zip(parts, formats, strict=True)
    )
    return a, b, c


def recording_of(name: str) -> str:
    """The file, without its ending, in which a kind's results are recorded."""
    if KINDS[name].is_wgmma:
        return "wgmma"
    return "mma_fp8" if LAYOUTS[KINDS[name].a].bits == 8 else "mma"


def kept(d: np.ndarray) -> np.ndarray:
    """The rows of results (P, M, N) that are recorded."""
    return d[:, :KEPT_ROWS]


def int8_operands(name: str, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 a, b and int32 c: drawn, every sixteenth product the most negative ones, sums that wrap."""
    kind, count = INT8_KINDS[name], 64
    draws = Draws(f"{name}, {steps}")
    a, b = (
        draws.below(256, (count, steps, rows, kind.k)).astype(np.uint8).view(np.int8) for rows in (kind.m, kind.n)
    )
    a[::16], b[::16] = -128, -128
    c = draws.below(1 << 32, (count, kind.m, kind.n)).astype(np.uint32).view(np.int32)
    return a, b, c


# Four questions on which published models disagree: kind, a, b, what the answers mean

_TINY, _SMALL = 0x1980, 0x3080  # bf16 2^-76, 2^-30
OPEN_VECTORS = {
    "V1": ("mma bf16", [_TINY] * 16, [_TINY] * 16, {0x2: "floor -133", 0x0: "floor -126"}),
    "V2": ("mma fp16 sum16", [0x0C00, 0x0001], [0x0800, 0x0002], {0x0: "floor -21", 0x1: "no floor"}),
    "V3": ("mma bf16", [_TINY | 0x8000], [_TINY], {0x0: "+0", 0x80000000: "-0"}),
    "V4": ("mma bf16", [0x0000, _SMALL], [0x7F00, 0x3F80], {0x30800000: "no exponent", 0x0: "zero has an exponent"}),
}


def open_vector(name: str) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """(kind, a, b, c): that dot product in row and column 0 of one instruction, zeros elsewhere."""
    kind_name, left, right, _ = OPEN_VECTORS[name]
    kind = KINDS[kind_name]
    a, b = np.zeros((1, 1, kind.m, kind.k), np.uint16), np.zeros((1, 1, kind.n, kind.k), np.uint16)
    a[0, 0, 0, : len(left)], b[0, 0, 0, : len(right)] = left, right
    return kind_name, a, b, np.zeros((1, kind.m, kind.n), WORDS[kind.sum])
