"""Every tensor that a step rounds, in the order in which it is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.format import Format
from qsim.hashing import unstack
from qsim.recorders import Recorder

Array = Any
_Place = tuple[str, int]  # key, how many of that key came before


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a site gave out.

    key: ``layer.0.qkv.fprop``; ``layer.0.qkv`` for a parameter as rounded to the working copy; the name of a result
    (``loss``, ``gradients.NAME``, ``parameters.NAME`` ...) after the sites.  part: which of those the key has, from 0
    to ``parts`` - 1.  before: unrounded, None of results.  format: that of ``after``.
    """

    key: str
    part: int
    parts: int
    before: np.ndarray | None
    after: np.ndarray
    format: Format | None

    @property
    def label(self) -> str:
        return self.key if self.parts == 1 else f"{self.key} [{self.part + 1} of {self.parts}]"


class TensorRecorder(Recorder):
    """Keeps (before, after) of every rounding, in shape, and the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self._orders: list[list[_Place]] = [[]]
        self._inner: list[_Place] = []  # of the frame that ended last

    @property
    def order(self) -> list[_Place]:
        """Of all that was recorded, once the step is computed; a backward scan begins at the last layer."""
        return self._orders[0]

    def observe(self, backend: Any, x: Array, rounded: Array, fmt: Format) -> Any:
        return (x, rounded)

    def join(self, backend: Any, a: Any, b: Any) -> Any:
        return a + b

    def results(self, backend: Any) -> dict[str, Any]:
        return self._values

    def record(self, backend: Any, key: str, x: Array, rounded: Array, fmt: Format) -> None:
        self._note(key, 1)
        super().record(backend, key, x, rounded, fmt)

    def _note(self, key: str, count: int) -> None:
        before = len(self._frames[-1].get(key, ())) // 2
        self._orders[-1] += [(key, before + i) for i in range(count)]

    @contextmanager
    def frame(self) -> Iterator[dict[str, Any]]:
        self._orders.append([])
        with super().frame() as frame:
            try:
                yield frame
            finally:
                self._inner = self._orders.pop()

    def add_layers(self, backend: Any, stacked: dict[str, Any], layers: int, first: int = 0) -> None:
        inner = self._inner
        backward = not any(key.endswith(".fprop") for key, _ in inner)
        for i in reversed(range(layers)) if backward else range(layers):
            self._orders[-1] += [(f"layer.{first + i}.{key}", n) for key, n in inner]
        super().add_layers(backend, stacked, layers, first)

    def add_parts(self, backend: Any, stacked: dict[str, Any], parts: int) -> None:
        """Tensors of a part follow those of the part before."""
        inner = self._inner
        counts = {key: len(value) // 2 for key, value in stacked.items()}
        for i in range(parts):
            self._orders[-1] += [(key, i * counts[key] + n) for key, n in inner]
        super().add_parts(backend, stacked, parts)


def tensors_of(recorder: TensorRecorder, records: dict[str, Any], formats: dict[str, Format]) -> list[Tensor]:
    """All that a recorder kept, on the host, in order.  records: its results, as the step returned them."""
    host = {key: [np.asarray(x) for x in value] for key, value in records.items()}
    return [
        Tensor(
            key=key,
            part=n,
            parts=len(host[key]) // 2,
            before=host[key][2 * n],
            after=host[key][2 * n + 1],
            format=formats[key],
        )
        for key, n in recorder.order
    ]


def results_of(results: dict[str, Any], state: dict[str, dict[str, Any]]) -> list[Tensor]:
    """Loss, gradients, their norm, then moments and parameters after the step, blocks unstacked, in name order."""
    trees = {"gradients": results["gradients"], "first": state["first"], "second": state["second"]}
    trees["parameters"] = state["parameters"]
    found = [_result("loss", results["loss"])]
    for part, tree in trees.items():
        found += [_result(f"{part}.{name}", value) for name, value in sorted(unstack(tree).items())]
        if part == "gradients":
            found.append(_result("gradient_norm", results["gradient_norm"]))
    return found


def _result(key: str, value: Any) -> Tensor:
    after = np.asarray(value, np.float32)
    return Tensor(key=key, part=0, parts=1, before=None, after=after, format=None)
