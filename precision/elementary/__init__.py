"""Float32 exp, log, erf, tanh and rsqrt with the same bits on every executor, written once.

A factory takes the ``Primitives`` of an executor and returns a plain function of one float32 argument, a
scalar, array or tracer.  Besides the primitives it uses ``+``, ``-`` and comparisons of floats, and operators
on uint32 words: no libm, no division, no fused multiply-add, no conversion between floats and integers.

Four rules make the bits equal where a compiler contracts a b + c and flushes subnormals:

* every product goes through ``multiply``, which rounds it before anything is added;
* a sum with a constant that meets a second constant goes through ``multiply(..., 1)``:
  XLA reads (x + c) - c as x;
* no float below 2^-126 matters: it would be added to something at least 2^24 times as large;
* zeros, infinities, NaNs and the edges of the range are decided on integer patterns or by comparing floats
  of ordinary size.

Semantics are ``ftz32``: an argument below 2^-126 in magnitude reads as the zero of its sign, a result that is
below 2^-126 after rounding with unbounded exponent becomes zero.  Every NaN gives 0x7FC00000.

Largest error over all 2^32 arguments, in units in the last place of the correctly rounded result:

    exp 0.681    log 0.637    erf 0.872    tanh 0.823    rsqrt 0.635

and all five are monotone.  ``tests/scripts/fit_elementary.py`` derives the coefficients.
"""

from precision.elementary.error_function import make_erf
from precision.elementary.exponential import make_exp, make_log
from precision.elementary.hyperbolic import make_tanh
from precision.elementary.primitives import Primitives, Unary, float32s
from precision.elementary.reciprocal_root import make_rsqrt

__all__ = [
    "Primitives",
    "Unary",
    "float32s",
    "make_erf",
    "make_exp",
    "make_log",
    "make_rsqrt",
    "make_tanh",
]
