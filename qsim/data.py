"""Batches of a corpus: which tokens step s trains on, and the windows that validate.

Row b of step s is a function of (seed, s, b) alone, so a batch holds the same tokens however it is split over
devices and wherever a run is resumed.
"""

from __future__ import annotations

import numpy as np

from precision.random_bits import as_key, fold_in, fold_name, random_bits
from qsim.corpus import Corpus, build_corpus, check_tokens
from qsim.run_data import load_data, reference_data, save_data
from qsim.text_sources import DataError

__all__ = [
    "Batch",
    "Corpus",
    "DataError",
    "batch",
    "build_corpus",
    "check_corpus",
    "load_data",
    "reference_data",
    "save_data",
    "validation_batches",
]

Batch = tuple[np.ndarray, np.ndarray]
# Streams of other purposes fold other names into the run's seed.
_STREAM = "data"


def batch(corpus: Corpus, *, seed: int, step: int, batch_size: int, length: int, first_row: int = 0) -> Batch:
    """Inputs and targets of one training step, or of the rows from ``first_row`` on that one device holds.

        start[b] = (bits(seed, step, b) * starts) >> 32,    starts = train tokens - length
        inputs[b, t] = train[start[b] + t],    targets[b, t] = train[start[b] + t + 1]

    Returns two (batch_size, length) int32 arrays.  Seeds and steps are below 2^64.
    Raises DataError where the training part is too short.
    """
    _check_train(corpus, batch_size, length)
    key = fold_in(fold_name(as_key(seed), _STREAM), step)
    rows = np.arange(first_row, first_row + batch_size, dtype=np.uint64)
    starts = np.uint64(len(corpus.train) - length)
    start = (random_bits(key, rows).astype(np.uint64) * starts) >> np.uint64(32)  # (B,)
    return _shifted(corpus.train, start.astype(np.int64), length)


def validation_batches(corpus: Corpus, *, batch_size: int, length: int, limit: int | None) -> list[Batch]:
    """Consecutive windows of the held-out tail: each of its tokens but the first is a target once.

    Returns at most ``limit`` pairs of (B, length) int32 arrays; B is ``batch_size``, less in the last pair
    where the tail ends.  Tokens after the last whole window are left out.  ``limit`` None means all.
    Raises DataError where the tail is too short for one window.
    """
    _check_validation(corpus, length)
    _check_positive(batch_size=batch_size, **({} if limit is None else {"limit": limit}))
    start = np.arange((len(corpus.validation) - 1) // length) * length
    pieces = [start[i : i + batch_size] for i in range(0, len(start), batch_size)]
    return [_shifted(corpus.validation, piece, length) for piece in pieces[:limit]]


def check_corpus(corpus: Corpus, *, batch_size: int, length: int, vocabulary_size: int) -> None:
    """Refuse, before any step, a corpus that cannot feed the run.

    Raises DataError where either part is shorter than length + 1, the training part is smaller than one
    batch, or a token is outside the model's vocabulary.
    """
    _check_train(corpus, batch_size, length)
    _check_validation(corpus, length)
    check_tokens(corpus.tokens, vocabulary_size, "the model's vocabulary", "give the model a larger one")


def _shifted(tokens: np.ndarray, start: np.ndarray, length: int) -> Batch:
    """Windows of length + 1 at ``start`` (B,), as inputs and targets."""
    windows = tokens[start[:, None] + np.arange(length + 1)].astype(np.int32)  # (B, T + 1)
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def _check_train(corpus: Corpus, batch_size: int, length: int) -> None:
    _check_positive(batch_size=batch_size, length=length)
    count, needed = len(corpus.train), batch_size * (length + 1)
    if count < needed:
        figures = f"{count} tokens, fewer than one batch of {batch_size} x ({length} + 1) = {needed}"
        raise DataError(f"the training part has {figures}; give more text or lower batch_size or length")
    if count - length > 1 << 32:
        raise DataError(f"the training part has {count} tokens, over the 2^32 that 32 bits reach; give less")


def _check_validation(corpus: Corpus, length: int) -> None:
    _check_positive(length=length)
    if corpus.held_out < length + 1:
        figures = f"{corpus.held_out} tokens, fewer than length + 1 = {length + 1}"
        remedy = "give more text, a larger held_out_fraction or a smaller length"
        raise DataError(f"the held-out part has {figures}; {remedy}")


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise DataError(f"{name} {value} is below 1; choose a positive one")
