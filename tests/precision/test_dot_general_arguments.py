"""Arguments of make_dot_general and of what it makes: what is refused, in which sentence; equality of records."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from jax import lax

import precision as pr

Array = Any
DENSE = (((1,), (0,)), ((), ()))
PLAIN = pr.make_dot_general(inputs="bf16", output="bf16")
OTHER = pr.Gemm(inputs="e5m2", accumulator="fp32_mul_add", output="bf16")


def refuses(error: type[Exception], message: str) -> Any:
    return pytest.raises(error, match=rf"^{re.escape(message)}\Z")


def test_equal_records_are_compiled_once() -> None:
    traced = []

    def run(dot_general: pr.DotGeneral, a: Array, b: Array) -> Array:
        traced.append(dot_general)
        return dot_general(a, b, DENSE)

    a, b = np.ones((3, 4), np.float32), np.ones((4, 2), np.float32)
    for _ in range(2):
        jax.jit(run, static_argnums=0)(pr.make_dot_general(inputs="bf16"), a, b)
    assert len(traced) == 1


def test_gradients_default_to_the_forward_product() -> None:
    assert PLAIN.fprop == PLAIN.dgrad == PLAIN.wgrad
    assert pr.make_dot_general(wgrad=OTHER) == pr.DotGeneral(fprop=pr.Gemm(), dgrad=pr.Gemm(), wgrad=OTHER)


def test_two_input_formats_need_gradients_of_their_own() -> None:
    message = "inputs (e5m2, bf16) leave open what gradients are rounded to; pass dgrad and wgrad as well"
    with refuses(ValueError, message):
        pr.make_dot_general(inputs=("e5m2", "bf16"), dgrad=pr.Gemm())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": "fp99"}, "unknown number format 'fp99'"),
        ({"output": "fp99"}, "unknown number format 'fp99'"),
        ({"accumulator": "fp99"}, "unknown accumulator 'fp99'"),
        (
            {"quantization": "int3"},
            "unknown quantization scheme 'int3'; known schemes: int8_vectorwise, int8_tensorwise",
        ),
        ({"inputs": ("bf16", "int8")}, "a Gemm takes floats of at most 32 bits as inputs, not int8"),
        ({"inputs": ("fp64", "bf16")}, "a Gemm takes floats of at most 32 bits as inputs, not fp64"),
        ({"overflow": "wrap"}, "overflow 'wrap' is not offered"),
    ],
)
def test_a_gemm_is_checked_when_it_is_made(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
        pr.Gemm(**arguments)


@pytest.mark.parametrize(
    ("shapes", "numbers", "message"),
    [
        (
            ((3, 4), (5, 2)),
            DENSE,
            "contracting axes (1,) of lhs (3, 4) and (0,) of rhs (5, 2) do not match; "
            "name axes that exist, counted from 0, of equal sizes",
        ),
        (
            ((3, 4), (4, 3)),
            (((1,), (0,)), ((0,), (2,))),
            "batch axes (0,) of lhs (3, 4) and (2,) of rhs (4, 3) do not match; "
            "name axes that exist, counted from 0, of equal sizes",
        ),
        (
            ((4, 4), (4, 4)),
            (((1, 1), (0, 1)), ((), ())),
            "axes (1, 1) of lhs name one axis twice; an axis is contracted or batched once",
        ),
    ],
)
@pytest.mark.parametrize("array", [np.ones, jnp.ones])
def test_axes_that_do_not_match_are_refused(array: Callable, shapes: tuple, numbers: Any, message: str) -> None:
    lhs, rhs = (array(shape, np.float32) for shape in shapes)
    with refuses(ValueError, message):
        PLAIN(lhs, rhs, numbers)


@pytest.mark.parametrize("array", [np.ones, jnp.ones])
def test_integers_are_refused(array: Callable) -> None:
    with refuses(TypeError, "rhs is int8; dot_general takes and gives floats of at most 32 bits"):
        PLAIN(array((2, 2), np.float32), array((2, 2), np.int8), DENSE)


def test_float64_is_refused() -> None:
    with refuses(TypeError, "lhs is float64; dot_general takes and gives floats of at most 32 bits"):
        PLAIN(np.ones((2, 2)), np.ones((2, 2)), DENSE)
    with refuses(TypeError, "preferred_element_type is int32; dot_general takes and gives floats of at most 32 bits"):
        PLAIN(np.ones((2, 2), "f4"), np.ones((2, 2), "f4"), DENSE, preferred_element_type=np.int32)


def test_a_dtype_that_does_not_hold_the_output_is_refused() -> None:
    x = np.ones((2, 2), np.float16)
    message = (
        "output bf16 does not fit an array of float16; "
        "ask for preferred_element_type=float32 or pass operands in float32"
    )
    with refuses(ValueError, message):
        PLAIN(x, x, DENSE)


@pytest.mark.parametrize("precision", ["highest", lax.Precision.HIGH, (None, "highest")])
def test_a_precision_is_refused(precision: Any) -> None:
    x = np.ones((2, 2), np.float32)
    message = f"precision={precision!s} is not for this dot_general: its accumulator says how it sums"
    with refuses(ValueError, message):
        PLAIN(x, x, DENSE, precision)


@pytest.mark.parametrize("precision", [None, "default", lax.Precision.DEFAULT, (None, lax.Precision.DEFAULT)])
def test_the_default_precision_is_accepted(precision: Any) -> None:
    x = np.ones((2, 2), np.float32)
    assert_same_bits(PLAIN(x, x, DENSE, precision), np.full((2, 2), 2, np.float32))


def test_an_out_sharding_is_refused() -> None:
    x = np.ones((2, 2), np.float32)
    with refuses(
        ValueError, "out_sharding is not offered; constrain the result with jax.lax.with_sharding_constraint"
    ):
        PLAIN(x, x, DENSE, out_sharding="x")
