"""What is recorded of the roundings of a computation: counts by site, or the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from precision.formats import Format

Array = Any
_LAYERS = "layers."


class Recorder:
    """Collects an observation of every rounding by ``site.pass``; the layers of a scan stay apart.

    The back end says what is observed, how two observations at one key join, and how they become counts at the end
    (``observe``, ``join``, ``count``).  ``CapturingRecorder`` keeps the tensors instead.
    """

    def __init__(self) -> None:
        self.formats: dict[str, Format] = {}
        self._values: dict[str, Any] = {}
        self._frames: list[dict[str, Any]] = [self._values]

    def observe(self, backend: Any, x: Array, rounded: Array, fmt: Format) -> Any:
        return backend.observe(x, rounded, fmt)

    def join(self, backend: Any, a: Any, b: Any) -> Any:
        return backend.join(a, b)

    def results(self, backend: Any) -> dict[str, Any]:
        """Number of values, event counts and exponent histogram by key."""
        return backend.count(self._values, self.formats)

    def record(self, backend: Any, key: str, x: Array, rounded: Array, fmt: Format) -> None:
        self.formats[key] = fmt
        self._put(backend, self._frames[-1], key, self.observe(backend, x, rounded, fmt))

    def _put(self, backend: Any, frame: dict[str, Any], key: str, value: Any) -> None:
        frame[key] = self.join(backend, frame[key], value) if key in frame else value

    def record_layers(self, backend: Any, key: str, x: Array, rounded: Array, fmt: Format) -> None:
        """Of arrays with a leading axis of all layers, each under its number."""
        for i in range(x.shape[0]):
            self.record(backend, f"layer.{i}.{key}", x[i], rounded[i], fmt)

    @contextmanager
    def frame(self) -> Iterator[dict[str, Any]]:
        """Records made inside go to a dict of their own."""
        self._frames.append({})
        try:
            yield self._frames[-1]
        finally:
            self._frames.pop()

    def add_layers(self, backend: Any, stacked: dict[str, Any], layers: int, first: int = 0) -> None:
        """Frames of a scan, stacked along a leading axis of layers from ``first``, as ``layer.i.site.pass``."""
        frame = self._frames[-1]
        for key, value in stacked.items():
            fmt = self.formats.pop(key)
            for i in range(layers):
                name = f"layer.{first + i}.{key}"
                self.formats[name] = fmt
                self._put(backend, frame, name, tuple(part[i] for part in value))

    def add_parts(self, backend: Any, stacked: dict[str, Any], parts: int) -> None:
        """Frames of the parts of a batch, stacked along a leading axis, joined in order."""
        for key, value in stacked.items():
            for i in range(parts):
                self._put(backend, self._frames[-1], key, tuple(part[i] for part in value))


class StackedRecorder(Recorder):
    """The counts of layers that were scanned stay together, ``layers.first.site.pass``, one row a layer.

    So that a program that counts is no longer for more layers.  ``by_layer`` takes them apart, on the host.
    """

    def record_layers(self, backend: Any, key: str, x: Array, rounded: Array, fmt: Format) -> None:
        def body(carry: Any, layer: dict[str, Array]) -> tuple[Any, Any]:
            return carry, self.observe(backend, layer["x"], layer["rounded"], fmt)

        self.formats[key] = fmt
        _, stacked = backend.scan(body, (), {"x": x, "rounded": rounded})
        self.add_layers(backend, {key: stacked}, x.shape[0])

    def add_layers(self, backend: Any, stacked: dict[str, Any], layers: int, first: int = 0) -> None:
        del layers
        for key, value in stacked.items():
            name = f"{_LAYERS}{first}.{key}"
            self.formats[name] = self.formats.pop(key)
            self._put(backend, self._frames[-1], name, value)

    def add_parts(self, backend: Any, stacked: dict[str, Any], parts: int) -> None:
        del parts
        for key, value in stacked.items():
            self._put(backend, self._frames[-1], key, backend.join_all(value))


def by_layer(key: str, record: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What ``StackedRecorder`` holds under a key, under the names that ``Recorder`` gives; any other as it is."""
    if not key.startswith(_LAYERS):
        yield key, record
        return
    first, _, rest = key.removeprefix(_LAYERS).partition(".")
    rows = zip(*map(np.asarray, record), strict=True)
    yield from ((f"layer.{int(first) + i}.{rest}", row) for i, row in enumerate(rows))


class CapturingRecorder(Recorder):
    """Keeps the tensors: (x before rounding, x rounded), flat, by key."""

    def observe(self, backend: Any, x: Array, rounded: Array, fmt: Format) -> Any:
        return x.reshape(-1), rounded.reshape(-1)

    def join(self, backend: Any, a: Any, b: Any) -> Any:
        return tuple(backend.array_module.concatenate(pair) for pair in zip(a, b, strict=True))

    def results(self, backend: Any) -> dict[str, Any]:
        return self._values
