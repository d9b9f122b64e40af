"""The same bits for every accumulator on every back end, at shapes from one product to odd hundreds; and by XLA's own
integer operations, which is what runs where no kernel of the platform's own is at hand."""

from __future__ import annotations

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from strategies import drawn, generator, sprinkled

import precision as pr
from precision.backends.jax_.products import ordered_product

ORDERED = [name for name, record in pr.ACCUMULATORS.items() if record.summation == "ordered"]
PAIRS = [(name, fmt) for name in (*ORDERED, "exact") for fmt in (pr.ACCUMULATORS[name].inputs or ("bf16", "fp32"))]
SHAPES = [(1, 1, 1), (2, 33, 17), (257, 129, 193)]
SAMPLED = [("fp16_fma", "fp16"), ("h100", "bf16"), ("cdna3", "bf16"), ("avx512_bf16", "bf16")]


def operands(fmt: str, shape: tuple[int, int, int], sums: pr.Format) -> list[np.ndarray]:
    """a, b and c: ordinary values, a few per cent of them special."""
    m, k, n = shape
    rng = generator(m + k + n)
    words = [sprinkled(rng, drawn(rng, size, (110, 135)), 1 / (64 * k)) for size in ((m, k), (k, n), (m, n))]
    return [
        np.asarray(pr.round_to(word.view(np.float32), to, backend="numpy"))
        for word, to in zip(words, (fmt, fmt, sums), strict=True)
    ]


def with_start(a: object, b: object, c: object, **static: object) -> object:
    return pr.matmul(a, b, c=c, **static)


def check(name: str, fmt: str, shape: tuple[int, int, int], executors: tuple[Executor, ...]) -> None:
    a, b, c = operands(fmt, shape, pr.ACCUMULATORS[name].sum)
    expected = EXECUTORS[0].call(with_start, a, b, c, inputs=fmt, accumulator=name)
    for executor in executors:
        assert_same_bits(executor.call(with_start, a, b, c, inputs=fmt, accumulator=name), expected)


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize(("name", "fmt"), PAIRS)
def test_numba_gives_the_bits_of_the_reference(name: str, fmt: str, shape: tuple[int, int, int]) -> None:
    check(name, fmt, shape, EXECUTORS[1:2])


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "fmt"), PAIRS)
def test_all_back_ends_give_the_bits_of_the_reference(name: str, fmt: str, shape: tuple[int, int, int]) -> None:
    check(name, fmt, shape, EXECUTORS[1:])


def check_in_integer_operations(name: str, fmt: str) -> None:
    a, b, c = operands(fmt, (3, 35, 5), pr.ACCUMULATORS[name].sum)
    formats = (pr.FORMATS[fmt], pr.FORMATS[fmt])
    total, events = ordered_product(a[None], b[None], c[None], pr.ACCUMULATORS[name], formats, True)
    expected, counters = pr.matmul(a, b, c=c, inputs=fmt, accumulator=name, counters=True, backend="numpy")
    assert_same_bits(np.asarray(total)[0], expected)
    for event, count in events._asdict().items():
        assert int(count.sum()) == getattr(counters, event), event


@pytest.mark.thinned(0.4)
@pytest.mark.parametrize(("name", "fmt"), SAMPLED)
def test_integer_operations_of_xla(name: str, fmt: str) -> None:
    check_in_integer_operations(name, fmt)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ORDERED)
def test_integer_operations_of_xla_for_every_record(name: str) -> None:
    check_in_integer_operations(name, (pr.ACCUMULATORS[name].inputs or ("bf16",))[0])
