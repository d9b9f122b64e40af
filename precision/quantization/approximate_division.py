"""127 / a as a GPU's ``__fdividef`` forms it, for every positive fp16 value a."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

# Recorded on an NVIDIA H100, all 65,536 fp16 values.  The reciprocal R does not depend on the exponent of a:
#     R(2^e (1 + i/1024)) = 2^-e (RN32(1 / (1 + i/1024)) + d_i units in the last place)
# Bit i of these 1,024-bit numbers: whether d_i is -1, and whether it is +1.  It is 0 for the other 894.
_LESS = int(
    "0104000000000020344000000000000000000000000000000000000000008000"
    "0000800000000000000000000000000000000040000000000000400000000000"
    "0000000006000000280000008002000000000000200000200000000080040000"
    "00000000284000000009000100000080c000000001c020404000400100004040",
    16,
)
_MORE = int(
    "000000201800010000010001090000002000550000000000008020a0002e0000"
    "00000000011000003000801808000d8000080000000000000018000880090380"
    "0a04010200080462008002020308180400080000040000000003050000000010"
    "1000000600021800000000000218040000020306080000000001000000160800",
    16,
)


def approximate_quotient(module: Any, a: Any) -> Any:
    """RN32(127 R(a)), with R the processor's approximate reciprocal, ``rcp.approx.ftz.f32``.

    Domain: positive values of fp16 in a float32 carrier.  Exact for an H100; nothing is recorded of others.
    """
    reciprocal = module.to_bits(module.divide(module.array_module.ones_like(a), a)).reshape(a.shape)
    significand = (module.to_bits(a).reshape(a.shape) >> 13) & 1023  # of 1.iiiiiiiiii, subnormals of fp16 included
    corrected = reciprocal + module.array_module.asarray(_corrections())[significand]
    return module.multiply(module.from_bits(corrected), np.float32(127))


@cache
def _corrections() -> np.ndarray:
    """d_i modulo 2^32."""
    return np.array([(_MORE >> i & 1) - (_LESS >> i & 1) for i in range(1024)], np.int64).astype(np.uint32)
