"""Arrays that grow: the values of a concatenation, whoever else continues the same positions."""

from __future__ import annotations

import numpy as np
from bits_assertions import assert_same_bits
from hypothesis import given
from hypothesis import strategies as st

from qsim.growing import appended


def drawn(seed: int, positions: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 32, (3, positions, 4), np.uint32).view(np.float32)


@given(st.data())
def test_every_branch_keeps_its_own_values(data: st.DataObject) -> None:
    """Any array made so far is continued, or its first positions are: none changes afterwards."""
    found = [drawn(0, data.draw(st.integers(1, 70)))]
    expected = [found[0].copy()]
    for turn in range(data.draw(st.integers(1, 12))):
        which = data.draw(st.integers(0, len(found) - 1))
        kept = data.draw(st.integers(1, found[which].shape[1]))
        x = drawn(turn + 1, data.draw(st.integers(1, 40)))
        given_ = found[which] if kept % 2 else found[which][:, :kept]
        expected.append(np.concatenate([expected[which][:, : given_.shape[1]], x], axis=1))
        found.append(appended(np, given_, x))
    for one, wanted in zip(found, expected, strict=True):
        assert_same_bits(one, wanted)


def test_a_position_is_written_without_copying_those_before_it() -> None:
    first = appended(np, drawn(0, 5), drawn(1, 1))
    second = appended(np, first, drawn(2, 1))
    assert np.shares_memory(first, second)


def test_other_rows_and_later_positions_are_another_array() -> None:
    whole = appended(np, drawn(0, 8), drawn(1, 1))
    for part in (whole[1:], whole[:, 2:], whole[..., 1:]):
        more = drawn(2, 1)[: part.shape[0], :, : part.shape[2]]
        assert_same_bits(appended(np, part, more), np.concatenate([part, more], axis=1))


def test_codes() -> None:
    codes = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    found = appended(np, codes, codes)
    assert found.dtype == np.int8
    assert np.array_equal(found, np.concatenate([codes, codes], axis=1))
