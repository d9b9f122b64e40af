"""Functions that kernels call: no machine code of their own, the kernel's bits, and an answer to Python."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from bits_assertions import assert_same_bits
from numba import types

from precision.backends.numba_.compilation import kernel
from precision.backends.numba_.inner_functions import inlined, inner

X = np.float32([0.5, -3, 0.1, 2**-140])


@inner
def twice(x):
    return x + x


@inlined
def one_more(x):
    return twice(x) + np.float32(1)


@kernel
def first(x, out):
    for i in range(x.size):
        out[i] = one_more(x[i])


@kernel
def second(x, out):
    for i in range(x.size):
        out[i] = twice(one_more(x[i]))


def test_kernels_that_share_them_have_their_bits() -> None:
    out, expected = np.empty_like(X), X + X + np.float32(1)
    first(X, out)
    assert_same_bits(out, expected)
    second(X, out)
    assert_same_bits(out, expected + expected)


def test_they_are_compiled_with_their_kernel_alone() -> None:
    """Compiled here, as a kernel that comes from the cache compiles nothing."""
    twice.compile((types.float32,))
    found = twice.overloads[(types.float32,)]
    assert found.library.get_pointer_to_function(found.fndesc.llvm_func_name) == 0


def test_python_may_call_them() -> None:
    assert twice(np.float32(3)) == 6
    assert one_more(np.float32(2**-24)) == np.float32(1) + np.float32(2**-23)
