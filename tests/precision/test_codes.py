"""decode and encode: every code of every format of at most 16 bits, on every back end."""

from __future__ import annotations

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from format_oracle import ENUMERATED, INTEGERS, MODES, P3109, code_of, rounded, standard
from format_search import as_codes, code_type, encoded, every_value, searched
from reals import NAN_BITS, read_all, write_all
from strategies import EDGES, drawn, generator, sources

import precision as pr

NAMED = [name for name in ENUMERATED if name not in P3109]
SOME_P3109 = ["binary8p1se", "binary8p4sf", "binary8p7se", "binary8p1uf", "binary8p3ue", "binary8p8ue"]
EAGER = EXECUTORS[:2]
JAX = EXECUTORS[2]
PAIRS = [(executor, name) for executor in EAGER for name in ENUMERATED]
TRACED = [(JAX, name) for name in (*NAMED, *SOME_P3109)]
LONG = [pytest.param(JAX, name, marks=pytest.mark.exhaustive) for name in P3109 if name not in SOME_P3109]


def every_code(name: str) -> np.ndarray:
    return as_codes(np.arange(1 << standard(name).bits), name)


def canonical_codes(name: str) -> np.ndarray:
    """Each code, each NaN's replaced by the canonical one."""
    return as_codes(encoded(every_value(name), name), name)


def decode_and_back(codes, *, fmt, backend):
    values = pr.decode(codes, fmt, backend=backend)
    return values, pr.encode(values, fmt, backend=backend)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize(("executor", "name"), [*PAIRS, *TRACED, *LONG], ids=str)
def test_every_code_there_and_back(executor: Executor, name: str) -> None:
    codes = every_code(name)
    values, again = executor.call(decode_and_back, codes, fmt=name)
    assert_same_bits(values, every_value(name), codes)
    assert_same_bits(again, canonical_codes(name), codes)


@pytest.mark.thinned(0.25)
@pytest.mark.parametrize("executor", EAGER, ids=str)
@pytest.mark.parametrize("name", ENUMERATED)
def test_codes_of_rounded_values(executor: Executor, name: str) -> None:
    words = sources(name)
    for mode in MODES[:-1]:
        expected = as_codes(encoded(searched(words.view(np.float32), name, mode), name), name)
        found = executor.call(pr.encode, words.view(np.float32), fmt=name, rounding=mode)
        assert_same_bits(found, expected, words)


@pytest.mark.parametrize("name", ["fp16", "e4m3fnuz", "e2m1", "int4", "binary8p1ue", "e8m0"])
def test_codes_of_rounded_values_under_jit(name: str) -> None:
    words = sources(name)
    rules = {"rounding": "up", "overflow": "saturate", "subnormals": "flush"}
    values = searched(words.view(np.float32), name, "up", overflow="saturate", subnormals="flush")
    found = JAX.call(pr.encode, words.view(np.float32), fmt=name, **rules)
    assert_same_bits(found, as_codes(encoded(values, name), name), words)


@pytest.mark.parametrize("name", ["tf32", "fp32", "e6m9", "e8m14", "e2m20"])
def test_codes_too_wide_to_enumerate(backend: Executor, name: str) -> None:
    words = np.concatenate([EDGES, drawn(generator(1), 400), drawn(generator(2), 400, (110, 140))])
    values = [rounded(x, name) for x in read_all(words)]
    codes = np.array([code_of(x, name) for x in values]).astype(code_type(name))
    assert_same_bits(backend.call(pr.encode, words.view(np.float32), fmt=name), codes, words)
    assert_same_bits(backend.call(pr.decode, codes, fmt=name), write_all(values), codes)


def test_integer_codes_are_the_integers(backend: Executor) -> None:
    for name, (low, high) in INTEGERS.items():
        integers = np.arange(low, high + 1).astype(np.int8)
        codes = backend.call(pr.encode, integers.astype(np.float32), fmt=name)
        assert_same_bits(codes, integers)
        assert_same_bits(backend.call(pr.decode, codes, fmt=name), integers.astype(np.float32))


@pytest.mark.parametrize("name", ["e3m2", "e2m3", "e2m1"])
def test_nan_has_the_code_of_negative_zero_where_every_code_is_a_number(backend: Executor, name: str) -> None:
    x = np.array([NAN_BITS, 0xFFC00001], np.uint32).view(np.float32)
    expected = np.full(2, standard(name).sign_bit, np.uint8)
    assert_same_bits(backend.call(pr.encode, x, fmt=name), expected)


def test_wrong_codes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^codes of fp16 are uint16, not uint8; view or convert them first\Z"):
        pr.decode(np.zeros(3, np.uint8), "fp16")
    with pytest.raises(TypeError, match=r"^codes of int8 are int8, not uint8; view or convert them first\Z"):
        pr.decode(np.zeros(3, np.uint8), "int8")
