"""Batches of a corpus: which tokens step s trains on, and the windows that validate.

Row b of step s is a function of (seed, s, b) and, in epochs, of the batch size alone, so a batch holds the same
tokens however it is split over devices and wherever a run is resumed.
"""

from __future__ import annotations

import numpy as np

from precision.random_bits import as_key, fold_in, fold_name, random_bits
from qsim.corpus import Corpus, build_corpus, check_tokens
from qsim.epochs import window_indices
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
ORDERS = ("random", "epochs")


def batch(
    corpus: Corpus,
    *,
    seed: int,
    step: int,
    batch_size: int,
    length: int,
    first_row: int = 0,
    order: str = "random",
    step_rows: int | None = None,
) -> Batch:
    """Inputs and targets of one training step, or of the rows from ``first_row`` on that one device holds.

        inputs[b, t] = train[start[b] + t],    targets[b, t] = train[start[b] + t + 1]
        random: start[b] = (bits(seed, step, b) * starts) >> 32,    starts = train tokens - length
        epochs: start[b] = length * index[(step - 1) * step_rows + b]

    ``index`` is ``qsim.epochs.window_indices`` over the (train tokens - 1) // length windows that each make a token
    a target once; steps count from 1.  step_rows: rows of the whole step, ``batch_size`` unless given.

    Returns two (batch_size, length) int32 arrays.  Seeds and steps are below 2^64.
    Raises DataError where the training part is too short or the order is unknown.
    """
    if order not in ORDERS:
        raise DataError(f"unknown order {order!r}; choose one of {', '.join(ORDERS)}")
    _check_positive(batch_size=batch_size, length=length, **({"step": step} if order == "epochs" else {}))
    _check_train(corpus, batch_size, length, order)
    if order == "random":
        start = _random_starts(seed, step, first_row, batch_size, len(corpus.train) - length)
    else:
        windows = (len(corpus.train) - 1) // length
        first = (step - 1) * (step_rows or batch_size) + first_row
        start = length * window_indices(seed, first, batch_size, windows)
    return _shifted(corpus.train, start, length)


def _random_starts(seed: int, step: int, first_row: int, rows: int, starts: int) -> np.ndarray:
    key = fold_in(fold_name(as_key(seed), _STREAM), step)
    numbers = np.arange(first_row, first_row + rows, dtype=np.uint64)
    scaled = random_bits(key, numbers).astype(np.uint64) * np.uint64(starts)
    return (scaled >> np.uint64(32)).astype(np.int64)


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


def check_corpus(
    corpus: Corpus, *, batch_size: int, length: int, vocabulary_size: int, order: str = "random"
) -> None:
    """Refuse, before any step, a corpus that cannot feed the run.

    Raises DataError where either part is shorter than length + 1, the training part is smaller than one
    batch, or a token is outside the model's vocabulary.
    """
    _check_positive(batch_size=batch_size, length=length)
    _check_train(corpus, batch_size, length, order)
    _check_validation(corpus, length)
    check_tokens(corpus.tokens, vocabulary_size, "the model's vocabulary", "give the model a larger one")


def _shifted(tokens: np.ndarray, start: np.ndarray, length: int) -> Batch:
    """Windows of length + 1 at ``start`` (B,), as inputs and targets."""
    windows = tokens[start[:, None] + np.arange(length + 1)].astype(np.int32)  # (B, T + 1)
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def _check_train(corpus: Corpus, batch_size: int, length: int, order: str) -> None:
    count, needed = len(corpus.train), batch_size * (length + 1)
    if count < needed:
        figures = f"{count} tokens, fewer than one batch of {batch_size} x ({length} + 1) = {needed}"
        raise DataError(f"the training part has {figures}; give more text or lower batch_size or length")
    if order == "random" and count - length > 1 << 32:
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
