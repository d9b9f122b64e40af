"""Epochs: each window once, an order that follows from seed, epoch and the number of the draw alone."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precision.bits import threefry2x32
from precision.random_bits import as_key
from qsim.corpus import Corpus
from qsim.data import DataError, batch, check_corpus
from qsim.epochs import permute, window_indices

SEEDS = st.integers(0, 2**64 - 1)


def _corpus(count: int, held_out: int = 0) -> Corpus:
    """Token i is i, so that a token names its own position."""
    tokens = np.arange(count).astype("<u2")
    return Corpus(tokens=tokens, vocabulary_size=count, tokenizer="none", sources=("a.bin",), held_out=held_out)


def _by_definition(key: tuple[int, int], index: int, size: int) -> int:
    """The documented network in Python integers, one number at a time."""
    half = 1
    while 1 << (2 * half) < size:
        half += 1
    while True:
        left, right = index >> half, index & ((1 << half) - 1)
        for number in range(8):
            word, _ = threefry2x32(*key, number, right, 0xFFFFFFFF)
            left, right = right, left ^ (word >> (32 - half))
        index = (left << half) | right
        if index < size:
            return index


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4097])
def test_permutation_is_a_bijection(size: int) -> None:
    for seed in range(3):
        found = permute(as_key(seed), np.arange(size, dtype=np.uint64), size)
        assert np.array_equal(np.sort(found), np.arange(size))


@given(seed=SEEDS, size=st.integers(1, 2**62), data=st.data())
def test_permutation_is_the_documented_one(seed: int, size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1), label="index")
    found = permute(as_key(seed), np.array([index], np.uint64), size)
    assert int(found[0]) == _by_definition(as_key(seed), index, size)


def test_every_order_of_few_windows_occurs_about_equally_often() -> None:
    """4 windows, 2400 seeds, 24 orders: chi-square of 23 degrees of freedom below its 1 - 10^-6 quantile."""
    orders = [tuple(window_indices(seed, 0, 4, 4).tolist()) for seed in range(2400)]
    counts = [orders.count(order) for order in permutations(range(4))]
    assert sum((count - 100) ** 2 / 100 for count in counts) < 71.9


@settings(max_examples=30)
@given(seed=SEEDS, windows=st.integers(1, 60), first=st.integers(0, 10**6), count=st.integers(2, 99))
def test_draws_do_not_depend_on_where_they_begin(seed: int, windows: int, first: int, count: int) -> None:
    whole, cut = window_indices(seed, first, count, windows), seed % (count - 1) + 1
    parts = [window_indices(seed, first, cut, windows), window_indices(seed, first + cut, count - cut, windows)]
    assert np.array_equal(whole, np.concatenate(parts))
    epochs = (first + np.arange(count)) // windows
    for epoch in np.unique(epochs):
        taken = whole[epochs == epoch]
        assert len(set(taken.tolist())) == len(taken)


def test_epochs_and_seeds_differ_in_order() -> None:
    first, second = window_indices(1, 0, 100, 50).reshape(2, 50)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, window_indices(2, 0, 50, 50))


@settings(max_examples=20)
@given(seed=SEEDS, batch_size=st.integers(1, 5), length=st.integers(1, 20), data=st.data())
def test_an_epoch_makes_every_token_a_target_once(
    seed: int, batch_size: int, length: int, data: st.DataObject
) -> None:
    windows = batch_size * data.draw(st.integers(1, 6), label="steps")
    spare = data.draw(st.integers(0, length - 1), label="spare")
    corpus = _corpus(max(windows * length + 1 + spare, batch_size * (length + 1)), 0)
    windows = (len(corpus.tokens) - 1) // length
    epochs = 2
    rows = [
        pair
        for step in range(1, -(-epochs * windows // batch_size) + 1)
        for pair in zip(
            *batch(corpus, seed=seed, step=step, batch_size=batch_size, length=length, order="epochs"), strict=True
        )
    ][: epochs * windows]
    for epoch in range(epochs):
        inputs, targets = zip(*rows[epoch * windows : (epoch + 1) * windows], strict=True)
        assert np.array_equal(np.sort(np.concatenate(inputs)), np.arange(windows * length))
        assert np.array_equal(np.sort(np.concatenate(targets)), np.arange(windows * length) + 1)


@given(seed=SEEDS, step=st.integers(1, 10**6), split=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_batch_is_the_same_however_it_is_split(seed: int, step: int, split: list[int]) -> None:
    corpus, order, total = _corpus(1000), {"length": 16, "order": "epochs", "seed": seed, "step": step}, sum(split)
    whole = batch(corpus, batch_size=total, **order)
    first = np.concatenate([[0], np.cumsum(split)])
    parts = [
        batch(corpus, batch_size=size, first_row=int(row), step_rows=total, **order)
        for size, row in zip(split, first[:-1], strict=True)
    ]
    for i in range(2):
        assert np.array_equal(np.concatenate([part[i] for part in parts]), whole[i])


def test_recorded_runs_find_their_epochs_again() -> None:
    inputs, _ = batch(_corpus(1000), seed=1234, step=56, batch_size=4, length=10, order="epochs")
    assert inputs[:, 0].tolist() == [360, 20, 90, 80]


def test_more_tokens_than_32_bits_count_are_accepted() -> None:
    tokens = np.broadcast_to(np.zeros(1, dtype="<u2"), (2**33,))  # one token in memory
    corpus = Corpus.__new__(Corpus)
    for name, value in {"tokens": tokens, "held_out": 0}.items():
        object.__setattr__(corpus, name, value)
    batch(corpus, seed=0, step=1, batch_size=2, length=1, order="epochs")


def test_unknown_order_and_step_zero_are_refused() -> None:
    with pytest.raises(DataError, match=r"^unknown order 'shuffled'; choose one of random, epochs\Z"):
        batch(_corpus(100), seed=0, step=1, batch_size=1, length=1, order="shuffled")
    with pytest.raises(DataError, match=r"^step 0 is below 1; choose a positive one\Z"):
        batch(_corpus(100), seed=0, step=0, batch_size=1, length=1, order="epochs")
    check_corpus(_corpus(100, 50), batch_size=1, length=1, vocabulary_size=100, order="epochs")
