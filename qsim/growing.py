"""Keys and values that grow position by position without being copied at every one."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
_FEWEST = 64  # positions of a buffer


class _Buffer(np.ndarray):
    """Room for more positions than are in use; ``used`` of them are what the longest view of it shows."""

    used = 0


def appended(xp: Any, earlier: Array, x: Array) -> Array:
    """(B, S, d) and (B, T, d) as (B, S + T, d); ``earlier`` keeps its values.

    NumPy arrays are written behind the positions of ``earlier``, in a buffer that doubles when it is full, where no
    other array continues them; else, and in any other kind of array, both are copied.
    """
    if not isinstance(earlier, np.ndarray):
        return xp.concatenate([earlier, x], axis=1)
    length = earlier.shape[1]
    whole, buffer = length + x.shape[1], _buffer_behind(earlier)
    if buffer is None or buffer.used != length or buffer.shape[1] < whole:
        shape = (earlier.shape[0], max(_FEWEST, 2 * length, whole), *earlier.shape[2:])
        buffer = np.ndarray.__new__(_Buffer, shape, earlier.dtype)
        buffer[:, :length] = earlier
    buffer[:, length:whole] = x
    buffer.used = whole
    return buffer[:, :whole].view(np.ndarray)


def _buffer_behind(x: np.ndarray) -> _Buffer | None:
    """The buffer whose first positions these are, if there is one."""
    owner: Any = x
    while owner is not None and not (isinstance(owner, _Buffer) and owner.base is None):
        owner = getattr(owner, "base", None)
    if owner is None or owner.ctypes.data != x.ctypes.data:
        return None
    same = (owner.shape[0], owner.strides, owner.shape[2:]) == (x.shape[0], x.strides, x.shape[2:])
    return owner if same and owner.dtype == x.dtype else None
