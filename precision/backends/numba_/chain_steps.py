"""One step  s <- step(s, a, b)  of a chain of sums as vector LLVM IR, one sum a lane.

Every step is right for every float32 a and b, and for every s of its format.  A rounding to a format narrower than
float32 is taken from the exact value rounded *to odd* in float32: of the two float32 neighbours of a value that is
not a float32, the one whose last bit is 1.  A tie of the narrow format ends in zeros, so an odd neighbour is on the
true value's side of it, and rounding it again is rounding once (Boldo and Melquiond 2008; 24 bits serve 8 and 11).

``narrow``: a faster form for operands that a packing kind (``panels``) says fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from precision.backends.numba_.target import target

FLOAT, HALF, DOUBLE, WORD, BIT = ir.FloatType(), ir.HalfType(), ir.DoubleType(), ir.IntType(32), ir.IntType(1)
_TOWARD_MINUS, _TOWARD_PLUS = 9, 10  # operands of vfmadd...{rd-sae}, {ru-sae}
StepBuilder = Callable[[Any, Any, Any, Any], Any]  # (builder, a, b, s) -> s


def vector(kind: Any, lanes: int) -> Any:
    return ir.VectorType(kind, lanes)


def splat(kind: Any, lanes: int, value: float) -> Any:
    """The constant vector of equal lanes."""
    return ir.Constant(vector(kind, lanes), [ir.Constant(kind, value)] * lanes)


def _words(builder: Any, x: Any) -> tuple[Any, Callable[[int], Any]]:
    """The bits of a float32 vector, and constants of their type."""
    lanes = x.type.count
    return builder.bitcast(x, vector(WORD, lanes)), lambda value: splat(WORD, lanes, value)


def _floats(builder: Any, u: Any) -> Any:
    return builder.bitcast(u, vector(FLOAT, u.type.count))


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """A call of an LLVM intrinsic."""
    module = builder.module
    kind = ir.FunctionType(result, [x.type for x in arguments])
    return builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)


def canonical_nan(builder: Any, x: Any) -> Any:
    """x, every NaN 0x7FC00000 (fp16: 0x7E00); on the bits, as LLVM may pass any NaN through a float operation."""
    lanes = x.type.count
    if x.type.element == HALF:
        bits, magnitude, infinity, nan = ir.IntType(16), 0x7FFF, 0x7C00, 0x7E00
    else:
        bits, magnitude, infinity, nan = WORD, 0x7FFFFFFF, 0x7F800000, 0x7FC00000
    u = builder.bitcast(x, vector(bits, lanes))
    size = builder.and_(u, splat(bits, lanes, magnitude))
    is_nan = builder.icmp_unsigned(">", size, splat(bits, lanes, infinity))
    return builder.bitcast(builder.select(is_nan, splat(bits, lanes, nan), u), x.type)


# float32


def fused(builder: Any, a: Any, b: Any, s: Any) -> Any:
    """RN(s + a b) in the format of the lanes."""
    suffix = {"half": "f16", "float": "f32"}[str(s.type.element)]
    return call(builder, f"llvm.fma.v{s.type.count}{suffix}", s.type, [a, b, s])


def separate(builder: Any, a: Any, b: Any, s: Any) -> Any:
    """RN(s + RN(a b)) in the format of the lanes: without flags, so never contracted."""
    return builder.fadd(builder.fmul(a, b), s)


# Rounded to odd


def _odd_of_neighbours(builder: Any, a: Any, b: Any, s: Any) -> Any:
    """From  s + a b  rounded down and rounded up: equal where it is exact, else consecutive, so that one is odd.

    A sum that cancels is -0 and +0, both even: +0, the second, as to nearest.
    """
    below, above = (
        call(builder, "llvm.x86.avx512.vfmadd.ps.512", s.type, [a, b, s, ir.Constant(WORD, rounding)])
        for rounding in (_TOWARD_MINUS, _TOWARD_PLUS)
    )
    u, word = _words(builder, below)
    odd = builder.icmp_unsigned("!=", builder.and_(u, word(1)), word(0))
    return builder.select(odd, below, above)


def _odd_of_nearest(builder: Any, a: Any, b: Any, s: Any, t: Any) -> Any:
    """From t = RN32(s + a b): where t is even and not exact, its neighbour on the side of the exact sum.

    In float64: p = a b is exact, h + l = p + s exactly (Knuth's two-sum), and the sign of h - t, or of l where
    h = t, is that of the error, as t is a float64 and |l| <= ulp(h) / 2.
    """
    lanes = s.type.count
    wide = vector(DOUBLE, lanes)
    a, b, s, wide_t = (builder.fpext(x, wide) for x in (a, b, s, t))
    p = builder.fmul(a, b)
    h = builder.fadd(p, s)
    part = builder.fsub(h, p)
    low = builder.fadd(builder.fsub(p, builder.fsub(h, part)), builder.fsub(s, part))
    error = builder.select(builder.fcmp_unordered("!=", h, wide_t), builder.fsub(h, wide_t), low)
    zero = splat(DOUBLE, lanes, 0.0)
    inexact = builder.fcmp_ordered("!=", error, zero)  # infinities and NaN leave a NaN here
    u, word = _words(builder, t)
    shrinks = builder.xor(builder.fcmp_ordered("<", error, zero), builder.icmp_signed("<", u, word(0)))
    neighbour = builder.add(u, builder.select(shrinks, word(0xFFFFFFFF), word(1)))
    even = builder.icmp_unsigned("==", builder.and_(u, word(1)), word(0))
    return _floats(builder, builder.select(builder.and_(even, inexact), neighbour, u))


def _corrected(builder: Any, a: Any, b: Any, s: Any, suspects: Callable[[Any, Any], Any]) -> Any:
    """RN32(s + a b), but rounded to odd if a lane is one of ``suspects``, where the narrow format could tell."""
    t = fused(builder, a, b, s)
    lanes = s.type.count
    name = f"precision.odd_of_nearest.{lanes}"
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(s.type, [s.type] * 4), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inner = ir.IRBuilder(function.append_basic_block())
        inner.ret(_odd_of_nearest(inner, *function.args))
    mask = builder.bitcast(suspects(builder, t), ir.IntType(lanes))
    start = builder.block
    with builder.if_then(builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0)), likely=False):
        odd = builder.call(function, [a, b, s, t])
        rare = builder.block
    merged = builder.phi(s.type)
    merged.add_incoming(t, start)
    merged.add_incoming(odd, rare)
    return merged


def _suspects_of_bf16(builder: Any, t: Any) -> Any:
    u, word = _words(builder, t)
    return builder.icmp_unsigned("==", builder.and_(u, word(0xFFFF)), word(0x8000))


def _suspects_of_fp16(builder: Any, t: Any) -> Any:
    """A tie of 11 bits, or anything but zero where fp16 is subnormal."""
    u, word = _words(builder, t)
    tie = builder.icmp_unsigned("==", builder.and_(u, word(0x1FFF)), word(0x1000))
    below = builder.sub(builder.and_(u, word(0x7FFFFFFF)), word(1))
    return builder.or_(tie, builder.icmp_unsigned("<", below, word(0x387FFFFF)))


# Rounded to nearest, ties to even, in a float32 carrier


def _round_bf16(builder: Any, x: Any) -> Any:
    """x has no NaN but +-0x7FC00000, which stays.

    seee eeee efff ffff | rddd dddd dddd dddd   + 0x8000: a tie carries too, leaves 16 zeros, and goes back to even
    """
    u, word = _words(builder, x)
    up = builder.add(u, word(0x8000))
    tie = builder.icmp_unsigned("==", builder.and_(up, word(0xFFFF)), word(0))
    return _floats(builder, builder.and_(up, builder.select(tie, word(0xFFFE0000), word(0xFFFF0000))))


def _round_fp16(builder: Any, x: Any) -> Any:
    if target().half_conversion:
        return builder.fpext(builder.fptrunc(x, vector(HALF, x.type.count)), x.type)
    return _round_fp16_in_words(builder, x)


def _round_fp16_in_words(builder: Any, x: Any) -> Any:
    """As the conversions of the processor, NaN canonical as for ``_round_bf16``.

    Below 2^-14, |x| + 1/2 rounds to 2^-24; from 65520 on infinite; else 13 bits are dropped:
    seee eeee efff ffff fff | r dddd dddd dddd
    """
    u, word = _words(builder, x)
    sign, magnitude = builder.and_(u, word(0x80000000)), builder.and_(u, word(0x7FFFFFFF))
    last = builder.and_(builder.lshr(magnitude, word(13)), word(1))
    up = builder.add(magnitude, builder.add(last, word(0xFFF)))
    normal = builder.and_(up, word(0xFFFFE000))
    half = splat(FLOAT, x.type.count, 0.5)
    small = builder.fsub(builder.fadd(_floats(builder, magnitude), half), half)
    small = builder.bitcast(small, u.type)
    finite = builder.select(builder.icmp_unsigned("<", magnitude, word(0x38800000)), small, normal)
    over = builder.icmp_unsigned(">=", magnitude, word(0x477FF000))
    not_nan = builder.icmp_unsigned("<=", magnitude, word(0x7F800000))
    limited = builder.select(builder.and_(over, not_nan), word(0x7F800000), finite)
    return _floats(builder, builder.or_(limited, sign))


def _fused_rounded(round_to: Callable, suspects: Callable) -> StepBuilder:
    def step(builder: Any, a: Any, b: Any, s: Any) -> Any:
        if target().rounding_operand:
            odd = _odd_of_neighbours(builder, a, b, s)
        else:
            odd = _corrected(builder, a, b, s, suspects)
        return round_to(builder, odd)

    return step


def _separate_rounded(round_to: Callable, product: StepBuilder | None = None) -> StepBuilder:
    """The sum of two values of 8 or 11 bits may be rounded by way of 24 bits, and their product, 16 or 22 bits.

    product: for any operands, one fused step from -0.
    """

    def step(builder: Any, a: Any, b: Any, s: Any) -> Any:
        if product is None:
            p = round_to(builder, builder.fmul(a, b))
        else:
            p = product(builder, a, b, splat(FLOAT, s.type.count, -0.0))
        return round_to(builder, builder.fadd(p, s))

    return step


@dataclass(frozen=True, kw_only=True)
class Step:
    """How to build a step: for ``any`` float32 operands in float32 lanes, and for operands that are ``narrow``.

    fits: float32 bits that are zero in narrow operands; None: they are fp16 values, and ``narrow`` has fp16 lanes.
    """

    any: StepBuilder
    narrow: StepBuilder | None = None
    fits: int | None = 0


_fp16_fma = _fused_rounded(_round_fp16, _suspects_of_fp16)
_bf16_fma = _fused_rounded(_round_bf16, _suspects_of_bf16)
_fp16_mul_add, _bf16_mul_add = _separate_rounded(_round_fp16, _fp16_fma), _separate_rounded(_round_bf16, _bf16_fma)


def _steps() -> dict[str, Step]:
    if target().half_arithmetic:
        fp16_fma = Step(any=_fp16_fma, narrow=fused, fits=None)
        fp16_mul_add = Step(any=_fp16_mul_add, narrow=separate, fits=None)
    else:
        fp16_fma = Step(any=_fp16_fma)
        # products of two times 12 bits are exact in float32, or far below fp16's range
        fp16_mul_add = Step(any=_fp16_mul_add, narrow=_separate_rounded(_round_fp16), fits=0xFFF)
    return {
        "fp32_fma": Step(any=fused),
        "fp32_mul_add": Step(any=separate),
        "fp16_fma": fp16_fma,
        "fp16_mul_add": fp16_mul_add,
        "bf16_fma": Step(any=_bf16_fma),
        "bf16_mul_add": Step(any=_bf16_mul_add, narrow=_separate_rounded(_round_bf16), fits=0xFFFF),
    }


STEPS = _steps()
