"""Columns of significands: every fraction by the first of each column, and that one by the definition."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from event_oracle import column_of
from executors import Executor

from precision.backends import get_backend
from precision.formats import FP32
from precision.significands import COLUMNS, STARTS


def fractions(words: np.ndarray) -> list[Fraction]:
    return [1 + Fraction(int(word), 1 << 23) for word in words]


def test_where_columns_begin() -> None:
    firsts = np.array(STARTS)
    assert [column_of(f) for f in fractions(firsts)] == list(range(COLUMNS))
    assert [column_of(f) for f in fractions(firsts[1:] - 1)] == list(range(COLUMNS - 1))


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize("field", [1, 127, 254])
def test_every_fraction(backend: Executor, field: int) -> None:
    """Of one binade: as many in each column as lie between its first and the next one's."""
    x = (np.uint32(field << 23) | np.arange(1 << 23, dtype=np.uint32)).view(np.float32)
    table = backend.call(table_of_significands, x)
    assert table[field + 22].tolist() == np.diff([*STARTS, 1 << 23]).tolist()
    assert table.sum() == 1 << 23


def test_every_subnormal(backend: Executor) -> None:
    x = np.arange(1 << 23, dtype=np.uint32).view(np.float32)
    table = backend.call(table_of_significands, x)
    assert table.sum() == (1 << 23) - 1
    assert table[:, 0].tolist() == [1] * 23 + [0] * 254
    for row in (0, 1, 5, 9):
        own = [Fraction(word, 1 << row) for word in range(1 << row, 2 << row)]
        assert table[row].tolist() == np.bincount([column_of(f) for f in own], minlength=COLUMNS).tolist()


def table_of_significands(x: np.ndarray, *, backend: str) -> Any:
    return get_backend(backend).statistics(x, x, FP32)[1]
