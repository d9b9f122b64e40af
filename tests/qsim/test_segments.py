"""Layers cut apart and joined, on either side of nested dicts and tuples."""

from __future__ import annotations

import numpy as np

from qsim.segments import joined, length_of, sliced


def test_what_is_cut_joins_to_what_it_was() -> None:
    tree = {"a": np.arange(6).reshape(3, 2), "b": {"c": np.arange(3)}}
    assert length_of(tree) == 3
    parts = [sliced(tree, 0, 1), sliced(tree, 1, 3)]
    assert parts[1]["b"]["c"].tolist() == [1, 2]
    again = joined(np, parts)
    assert again.keys() == tree.keys()
    np.testing.assert_array_equal(again["a"], tree["a"])
    np.testing.assert_array_equal(again["b"]["c"], tree["b"]["c"])


def test_tuples_and_nothing() -> None:
    first, second = joined(np, [(np.ones(1), None), (np.zeros(2), None)])
    assert first.tolist() == [1, 0, 0]
    assert second is None
