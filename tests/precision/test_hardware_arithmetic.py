"""Hardware arithmetic on JAX: roundings and codes are exact, products are on narrow operands, the rest is near."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bits_assertions import assert_same_bits
from strategies import EDGES, generator, sprinkled

from precision.accumulators import parse_accumulator
from precision.backends import BACKENDS, HARDWARE, choose_backend, get_backend
from precision.backends.jax_.hardware import arithmetic
from precision.formats import BF16, E4M3FN, E5M2, FP16, FP32, INT8, TF32, Format
from precision.random_bits import Stream
from precision.rounding_modes import Rounding

hardware, exact, reference = get_backend(HARDWARE), get_backend("jax"), get_backend("numpy")
NATIVE = parse_accumulator("native")


def midpoints(fmt: Format) -> np.ndarray:
    """Every finite value of 16 bits, every point halfway to the next, the float32 values on both sides of them."""
    values = reference.decode(np.arange(1 << 15, dtype=np.uint16), fmt).astype(np.float64)
    values = values[np.isfinite(values)]
    following = np.append(values[1:], 2 * values[-1] - values[-2])
    halves = ((values + following) / 2).astype(np.float32)  # exactly
    exactly = np.concatenate([values.astype(np.float32), halves]).view(np.uint32)[1:]
    words = np.concatenate([exactly, exactly - 1, exactly + 1])
    return np.concatenate([words, words | np.uint32(1 << 31), EDGES]).view(np.float32)


@pytest.fixture(params=["cpu", "gpu"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Roundings as they are written for a platform; all are computed on the one at hand."""
    monkeypatch.setattr(arithmetic, "platform", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("fmt", [BF16, FP16], ids=lambda fmt: fmt.name)
def test_roundings_at_every_midpoint_are_the_references(fmt: Format) -> None:
    x = midpoints(fmt)
    rounded = jax.jit(lambda x: hardware.round_to(x, fmt))(x)
    assert rounded.dtype == {BF16: jnp.bfloat16, FP16: jnp.float16}[fmt]
    assert_same_bits(hardware.widened(rounded), reference.round_to(x, fmt), x, any_nan=True)


@pytest.mark.parametrize("fmt", [BF16, FP16], ids=lambda fmt: fmt.name)
def test_no_pattern_is_taken_apart_on_a_gpu(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which XLA's fusions for Triton do not take; nor is a rounding a conversion alone, which XLA takes away."""
    monkeypatch.setattr(arithmetic, "platform", lambda: "gpu")
    text = jax.jit(lambda x: hardware.round_to(x, fmt)).lower(np.ones(8, np.float32)).as_text()
    assert "bitcast" not in text
    assert "reduce_precision" in text


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("fmt", [BF16, FP16, FP32, TF32, E4M3FN, E5M2], ids=lambda fmt: fmt.name)
def test_roundings_inside_other_arithmetic_stay(fmt: Format) -> None:
    """A product before and a sum after, into which a compiler might contract or excess precision leak."""
    x = sprinkled(generator(5), generator(6).integers(0x3000_0000, 0x4800_0000, 4096).astype(np.uint32), 0.1)
    x = x.view(np.float32)
    y = generator(7).standard_normal(4096).astype(np.float32)

    @jax.jit
    def between(x: Any, y: Any) -> Any:
        rounded = hardware.round_to(hardware.multiply(x, y), fmt)
        return hardware.subtract(rounded, np.float32(0)), hardware.widened(rounded)

    with np.errstate(all="ignore"):
        expected = reference.round_to(reference.flush(x) * y, fmt)
    normal = np.abs(expected) >= 2.0**-126
    for found in between(x, y):
        assert_same_bits(np.asarray(found)[normal], expected[normal], any_nan=True)


def test_what_is_of_the_format_already_stays_as_it_is() -> None:
    x = jnp.ones(3, jnp.bfloat16)
    assert hardware.round_to(x, BF16) is x
    assert hardware.round_to(x, FP16).dtype == jnp.float16
    assert hardware.round_to(x, FP32).dtype == jnp.float32


def test_other_roundings_are_the_exact_ones() -> None:
    x = generator(8).standard_normal(512).astype(np.float32)
    stochastic, stream = Rounding(mode="stochastic"), Stream((1, 2), 3)
    for how, random in ((Rounding(mode="up"), None), (Rounding(subnormals="flush"), None), (stochastic, stream)):
        found = hardware.widened(hardware.round_to(jnp.asarray(x), FP16, how, random))
        assert_same_bits(found, reference.round_to(x, FP16, how, random))
    (found,) = hardware.round_each([jnp.asarray(x)], BF16, stochastic, [stream])
    assert_same_bits(hardware.widened(found), reference.round_each([x], BF16, stochastic, [stream])[0])


def test_codes_are_the_references() -> None:
    saturating = Rounding(overflow="saturate")
    x = np.concatenate([np.arange(-140, 140, 0.25), [np.inf, -np.inf, -0.0, 1e-40]]).astype(np.float32)
    assert_same_bits(hardware.encode(jnp.asarray(x), INT8, saturating), reference.encode(x, INT8, saturating))
    assert int(hardware.encode(jnp.float32(np.nan), INT8, saturating)) == 0
    assert_same_bits(hardware.encode(jnp.asarray(x), FP16), reference.encode(x, FP16))


@pytest.mark.parametrize("function", ["exp", "log", "erf", "tanh", "rsqrt", "square_root"])
def test_functions_are_near(function: str) -> None:
    x = generator(9).uniform(0.01, 4, 1000).astype(np.float32)
    found = np.asarray(getattr(hardware, function)(hardware.round_to(x, FP16)))
    x = reference.round_to(x, FP16)
    np.testing.assert_allclose(found, getattr(reference, function)(x), rtol=3e-6, atol=1e-7)


def test_sums_and_maxima_are_near() -> None:
    x = generator(10).standard_normal((3, 40)).astype(np.float32)
    mask = np.tril(np.ones((3, 40), bool), 4)
    np.testing.assert_allclose(hardware.tree_sum(x, 0), reference.tree_sum(x, 0), rtol=1e-5, atol=1e-5)
    assert_same_bits(hardware.row_max(x, mask), reference.row_max(x, mask))
    assert_same_bits(hardware.absmax(x, 1), reference.absmax(x, 1))
    places = generator(11).integers(0, 5, (2, 30))
    rows = generator(12).standard_normal((2, 30, 4)).astype(np.float32)
    found = hardware.scatter_add_rows(places, rows, 5)
    np.testing.assert_allclose(found, reference.scatter_add_rows(places, rows, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "operand"),
    [((BF16, BF16), "bf16"), ((FP16, FP16), "f16"), ((E4M3FN, E5M2), "bf16"), ((FP32, FP32), "f32")],
)
def test_products_are_of_narrow_operands(inputs: tuple[Format, Format], operand: str) -> None:
    a, b = (
        hardware.widened(hardware.round_to(generator(i).standard_normal(shape).astype(np.float32), fmt))
        for i, shape, fmt in ((13, (2, 3, 8), inputs[0]), (14, (2, 8, 5), inputs[1]))
    )

    def product(a: Any, b: Any) -> Any:
        return hardware.matmul(a, b, None, NATIVE, inputs)

    text = jax.jit(product).lower(a, b).as_text()
    assert f"(tensor<2x3x8x{operand}>, tensor<2x8x5x{operand}>) -> tensor<2x3x5xf32>" in text
    np.testing.assert_allclose(product(a, b), np.asarray(a) @ np.asarray(b), rtol=1e-5, atol=1e-5)
    started = hardware.matmul(a, b, jnp.ones((2, 3, 5)), NATIVE, inputs)
    np.testing.assert_allclose(started, np.asarray(a) @ np.asarray(b) + 1, rtol=1e-5, atol=1e-5)


def test_an_ordered_product_keeps_its_order() -> None:
    ordered = parse_accumulator("fp32_sequential")
    a, b = (
        generator(i).integers(-8, 8, shape).astype(np.float32) / 7 for i, shape in ((15, (1, 4, 9)), (16, (1, 9, 3)))
    )
    a, b = (reference.round_to(x, BF16) for x in (a, b))
    found = hardware.matmul(hardware.round_to(a, BF16), hardware.round_to(b, BF16), None, ordered, (BF16, BF16))
    assert_same_bits(found, reference.matmul(a, b, None, ordered, (BF16, BF16)))


def test_scans_carry_float32() -> None:
    """What a body gives on may be of another format than what it began with."""
    start = hardware.round_to(np.float32(1), BF16)
    carry, ys = hardware.scan(
        lambda c, x: (hardware.round_to(hardware.add(c, x), FP16), c), start, np.ones(3, np.float32)
    )
    assert (carry.dtype, ys.dtype) == (jnp.float32, jnp.float32)
    assert float(carry) == 4


def test_it_has_the_names_of_a_back_end_and_is_never_chosen_by_itself() -> None:
    for name in get_backend("numpy").__all__:
        assert hasattr(hardware, name)
    assert (hardware.name, HARDWARE in BACKENDS) == (HARDWARE, False)
    assert choose_backend(jnp.ones(2)) is exact
    assert choose_backend(jnp.ones(2), backend=HARDWARE) is hardware
