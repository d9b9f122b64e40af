"""Batches: a function of seed, step and row alone, targets shifted by one, refusals word for word."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qsim.data
from qsim.data import Corpus, DataError, batch, check_corpus, validation_batches

SEEDS = st.integers(0, 2**64 - 1)


def _refuses(message: str):
    """The whole message: one sentence on one line."""
    assert "\n" not in message
    assert ". " not in message
    return pytest.raises(DataError, match=rf"^{re.escape(message)}\Z")


def _corpus(count: int = 1000, held_out: int = 100) -> Corpus:
    """Token i is i, so that a token names its own position."""
    tokens = np.arange(count).astype("<u2")
    return Corpus(tokens=tokens, vocabulary_size=count, tokenizer="none", sources=("a.bin",), held_out=held_out)


def test_facade_names_exist() -> None:
    assert all(hasattr(qsim.data, name) for name in qsim.data.__all__)


# Training batches


@settings(deadline=None)
@given(seed=SEEDS, step=SEEDS, batch_size=st.integers(1, 9), length=st.integers(1, 99))
def test_rows_are_windows_of_the_training_part(seed: int, step: int, batch_size: int, length: int) -> None:
    inputs, targets = batch(_corpus(), seed=seed, step=step, batch_size=batch_size, length=length)
    for array in (inputs, targets):
        assert array.shape == (batch_size, length)
        assert array.dtype == np.int32
        assert array.flags.c_contiguous
    assert np.array_equal(inputs, inputs[:, :1] + np.arange(length))
    assert np.array_equal(targets, inputs + 1)
    assert inputs.min() >= 0
    assert targets.max() < 900


@settings(deadline=None)
@given(seed=SEEDS, step=st.integers(0, 10**6), split=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_batch_is_the_same_however_it_is_split(seed: int, step: int, split: list[int]) -> None:
    corpus, length = _corpus(), 16
    whole = batch(corpus, seed=seed, step=step, batch_size=sum(split), length=length)
    first = np.concatenate([[0], np.cumsum(split)])
    parts = [
        batch(corpus, seed=seed, step=step, batch_size=size, length=length, first_row=int(row))
        for size, row in zip(split, first[:-1], strict=True)
    ]
    for i in range(2):
        assert np.array_equal(np.concatenate([part[i] for part in parts]), whole[i])


def test_every_start_is_reached_and_none_beyond() -> None:
    corpus = _corpus(count=40, held_out=4)  # 36 training tokens, windows of 32 + 1: starts 0 to 3
    starts = [batch(corpus, seed=0, step=step, batch_size=1, length=32)[0][0, 0] for step in range(100)]
    assert set(starts) == {0, 1, 2, 3}


@pytest.mark.parametrize(("word", "start"), [(0, 0), (2**31, 5), (2**32 - 1, 9)])
def test_start_is_the_scaled_word(monkeypatch: pytest.MonkeyPatch, word: int, start: int) -> None:
    monkeypatch.setattr(qsim.data, "random_bits", lambda _, rows: np.full(rows.shape, word, dtype=np.uint32))
    inputs, _ = batch(_corpus(count=30, held_out=0), seed=0, step=0, batch_size=1, length=20)
    assert inputs[0, 0] == start  # of 10


def test_seed_step_and_row_each_draw_anew() -> None:
    def starts(seed: int, step: int) -> list[int]:
        return batch(_corpus(), seed=seed, step=step, batch_size=8, length=4)[0][:, 0].tolist()

    assert starts(0, 0) != starts(1, 0)
    assert starts(0, 0) != starts(0, 1)
    assert len(set(starts(0, 0))) > 1


def test_recorded_runs_find_their_batches_again() -> None:
    inputs, _ = batch(_corpus(), seed=1234, step=56, batch_size=4, length=2)
    assert inputs[:, 0].tolist() == [135, 326, 873, 212]


# Validation


@settings(deadline=None)
@given(held_out=st.integers(2, 300), batch_size=st.integers(1, 5), data=st.data())
def test_validation_covers_the_tail_once(held_out: int, batch_size: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, held_out - 1), label="length")
    corpus = _corpus(held_out=held_out)
    batches = validation_batches(corpus, batch_size=batch_size, length=length, limit=None)
    whole = (held_out - 1) // length * length
    inputs, targets = (np.concatenate([pair[i].ravel() for pair in batches]) for i in range(2))
    assert np.array_equal(inputs, corpus.validation[:whole])
    assert np.array_equal(targets, corpus.validation[1 : whole + 1])
    assert all(pair[0].shape == (batch_size, length) for pair in batches[:-1])
    assert all(array.dtype == np.int32 for pair in batches for array in pair)


def test_validation_stops_at_the_limit() -> None:
    batches = validation_batches(_corpus(), batch_size=2, length=10, limit=3)
    assert [pair[0][0, 0] for pair in batches] == [900, 920, 940]


# Refusals


def test_corpus_that_just_fits_is_accepted() -> None:
    check_corpus(_corpus(count=44, held_out=11), batch_size=3, length=10, vocabulary_size=44)


def test_training_part_below_one_batch_is_refused() -> None:
    figures = "32 tokens, fewer than one batch of 3 x (10 + 1) = 33"
    message = f"the training part has {figures}; give more text or lower batch_size or length"
    for check in (check_corpus, batch):
        extra = {"vocabulary_size": 43} if check is check_corpus else {"seed": 0, "step": 0}
        with _refuses(message):
            check(_corpus(count=43, held_out=11), batch_size=3, length=10, **extra)


def test_held_out_part_below_one_window_is_refused() -> None:
    remedy = "give more text, a larger held_out_fraction or a smaller length"
    message = f"the held-out part has 10 tokens, fewer than length + 1 = 11; {remedy}"
    with _refuses(message):
        check_corpus(_corpus(held_out=10), batch_size=3, length=10, vocabulary_size=1000)
    with _refuses(message):
        validation_batches(_corpus(held_out=10), batch_size=3, length=10, limit=1)


def test_token_outside_the_model_is_refused() -> None:
    what = "token 999 of the corpus is outside the model's vocabulary of 999"
    with _refuses(f"{what}; give the model a larger one"):
        check_corpus(_corpus(), batch_size=3, length=10, vocabulary_size=999)


def test_more_starts_than_32_bits_reach_are_refused() -> None:
    tokens = np.broadcast_to(np.zeros(1, dtype="<u2"), (2**32 + 2,))  # one token in memory
    corpus = Corpus.__new__(Corpus)
    for name, value in {"tokens": tokens, "held_out": 0}.items():
        object.__setattr__(corpus, name, value)
    with _refuses(f"the training part has {2**32 + 2} tokens, over the 2^32 that 32 bits reach; give less"):
        batch(corpus, seed=0, step=0, batch_size=1, length=1)
    batch(corpus, seed=0, step=0, batch_size=1, length=2)


@pytest.mark.parametrize("name", ["batch_size", "length"])
def test_sizes_below_one_are_refused(name: str) -> None:
    sizes = {"batch_size": 2, "length": 2, name: 0}
    for call in (
        lambda: batch(_corpus(), seed=0, step=0, **sizes),
        lambda: check_corpus(_corpus(), vocabulary_size=1000, **sizes),
        lambda: validation_batches(_corpus(), limit=None, **sizes),
    ):
        with _refuses(f"{name} 0 is below 1; choose a positive one"):
            call()


def test_limit_below_one_is_refused() -> None:
    with _refuses("limit 0 is below 1; choose a positive one"):
        validation_batches(_corpus(), batch_size=1, length=1, limit=0)
