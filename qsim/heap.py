"""The C library's heap: memory of freed arrays is kept for the next ones.

A step on NumPy or Numba makes and drops hundreds of arrays of some MiB.  glibc returns each of them to the system at
once, by default, and the next one's pages are mapped and zeroed again, one by one: a sixth of a step of 2,048 tokens.
"""

from __future__ import annotations

import ctypes
from functools import cache

LARGEST = 32 << 20  # bytes: glibc takes no threshold above this; larger arrays are returned as before
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_SETTINGS = ((_MMAP_THRESHOLD, LARGEST), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))


@cache
def keep_freed_memory() -> bool:
    """From now on arrays below ``LARGEST`` bytes take the memory of freed ones; whether that could be set.

    No result depends on it.  Elsewhere than under glibc nothing is done.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        return all(bool(library.mallopt(parameter, value)) for parameter, value in _SETTINGS)
    except (AttributeError, OSError, TypeError):
        return False
