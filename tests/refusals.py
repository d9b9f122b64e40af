"""Refusals: an error of that kind, in one line that holds the value in question and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(kind: type[Exception], *parts: str) -> Iterator[None]:
    """What stands below raises exactly this kind, in one line with every part."""
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert type(caught.value) is kind, repr(caught.value)
    assert text
    assert "\n" not in text, text
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"
