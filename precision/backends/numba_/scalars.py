"""The scalar functions of the shared sources as Numba compiles them into the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from precision import bits, double, elementary
from precision.backends.numba_.compilation import compile_words
from precision.backends.numba_.inner_functions import inlined, inner
from precision.formats import FP32
from precision.ftz import make_ftz32
from precision.nearest import make_narrow, make_same_range
from precision.significands import make_column

words = compile_words(bits)
split = compile_words(double, np.uint64)["split"]
_FP32 = FP32.constants


@intrinsic
def to_bits(_context: Any, x: Any) -> Any:  # noqa: ARG001
    """float32 -> its uint32 pattern."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), build


@intrinsic
def from_bits(_context: Any, u: Any) -> Any:  # noqa: ARG001
    """uint32 pattern -> float32."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), build


def _make_fused_multiply_add(kind: Any, numba_type: Any, name: str) -> Any:
    @intrinsic
    def fused_multiply_add(_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            module = builder.module
            function = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind] * 3), name)
            return builder.call(function, args)

        return numba_type(numba_type, numba_type, numba_type), build

    return fused_multiply_add


# RN(a b + c), the processor's instruction or libm's
fused_multiply_add = _make_fused_multiply_add(ir.FloatType(), types.float32, "llvm.fma.f32")
fused_multiply_add_double = _make_fused_multiply_add(ir.DoubleType(), types.float64, "llvm.fma.f64")


_flush_subnormal = words["flush_subnormal"]


@inner
def product(x, y):  # type: ignore[no-untyped-def]
    return np.float32(x * y)


@inner
def quotient(x, y):  # type: ignore[no-untyped-def]
    return np.float32(x / y)


@inner
def select(condition, x, y):  # type: ignore[no-untyped-def]
    return x if condition else y


@inner
def word(x):  # type: ignore[no-untyped-def]
    return np.uint32(x)


@inner
def flush(x):  # type: ignore[no-untyped-def]
    return from_bits(_flush_subnormal(to_bits(x), _FP32))


@inner
def zero_of(x):  # type: ignore[no-untyped-def]
    return from_bits(np.uint32(to_bits(x) & np.uint32(0x80000000)))


_ftz32 = make_ftz32(product, quotient, flush, zero_of, select)
add = inner(_ftz32.add)
subtract = inner(_ftz32.subtract)
multiply = inner(_ftz32.multiply)
divide = inner(_ftz32.divide)

ADD, SUBTRACT, MULTIPLY, DIVIDE = range(4)


@inner
def apply(operation, x, y):  # type: ignore[no-untyped-def]
    """One of the four operations of ``ftz32``."""
    if operation == ADD:
        return add(x, y)
    if operation == SUBTRACT:
        return subtract(x, y)
    if operation == MULTIPLY:
        return multiply(x, y)
    return divide(x, y)


@inner
def add_product(exact, x, y, total):  # type: ignore[no-untyped-def]
    """total + x y, the product exact or rounded to float32 first."""
    return fused_multiply_add(x, y, total) if exact else total + product(x, y)


_primitives = elementary.Primitives(multiply=product, select=select, to_bits=to_bits, from_bits=from_bits, word=word)
exp = inner(elementary.make_exp(_primitives))
log = inner(elementary.make_log(_primitives))
erf = inner(elementary.make_erf(_primitives))
tanh = inner(elementary.make_tanh(_primitives, exp))
rsqrt = inner(elementary.make_rsqrt(_primitives))
# a call left in a loop keeps LLVM from vectorising it
narrow = inlined(make_narrow(to_bits, from_bits, select, word))
same_range = inlined(make_same_range(select, word))


@inner
def _integer_as_float(u):  # type: ignore[no-untyped-def]
    """Below 2^31."""
    return np.float32(np.int32(u))


@inner
def _least(x, y):  # type: ignore[no-untyped-def]
    return min(x, y)


column = inlined(make_column(to_bits, _integer_as_float, select, _least, word))
