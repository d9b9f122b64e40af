"""The arithmetic object that layers compute with: every operation goes through the policy of its site.

A ``Calculator`` joins a back end, a policy and, where wanted, a ``Recorder``.  ``calculator.at(site, pass)`` gives a
``Site``, whose operations are those of its inner arithmetic and whose ``output`` rounds once to its format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np

from precision.accumulators import parse_accumulator
from precision.backends import get_backend
from precision.formats import FP32, Format, parse_format
from precision.quantization.products import quantized_product
from precision.tables import table
from qsim.policy import Arithmetic, Pass, SitePolicy

Array = Any
_ROOT_HALF = np.float32(0.5**0.5)
_ROOT_TWO_PI_INVERSE = np.float32((2 * np.pi) ** -0.5)


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

    @contextmanager
    def frame(self) -> Iterator[dict[str, Any]]:
        """Records made inside go to a dict of their own."""
        self._frames.append({})
        try:
            yield self._frames[-1]
        finally:
            self._frames.pop()

    def add_layers(self, backend: Any, stacked: dict[str, Any], layers: int) -> None:
        """Frames of a scan, stacked along a leading axis of layers, as ``layer.i.site.pass``."""
        frame = self._frames[-1]
        for key, value in stacked.items():
            fmt = self.formats.pop(key)
            for i in range(layers):
                name = f"layer.{i}.{key}"
                self.formats[name] = fmt
                self._put(backend, frame, name, tuple(part[i] for part in value))

    def add_parts(self, backend: Any, stacked: dict[str, Any], parts: int) -> None:
        """Frames of the parts of a batch, stacked along a leading axis, joined in order."""
        for key, value in stacked.items():
            for i in range(parts):
                self._put(backend, self._frames[-1], key, tuple(part[i] for part in value))


class CapturingRecorder(Recorder):
    """Keeps the tensors: (x before rounding, x rounded), flat, by key."""

    def observe(self, backend: Any, x: Array, rounded: Array, fmt: Format) -> Any:
        return x.reshape(-1), rounded.reshape(-1)

    def join(self, backend: Any, a: Any, b: Any) -> Any:
        return tuple(backend.array_module.concatenate(pair) for pair in zip(a, b, strict=True))

    def results(self, backend: Any) -> dict[str, Any]:
        return self._values


class Calculator:
    """A policy on a back end.

    With ``speculative`` a back end may compute by a faster path that is exact only under conditions on the values;
    ``proved`` then says whether they held everywhere, and a result for which they did not is to be thrown away.
    """

    def __init__(
        self, policy: Arithmetic, backend: str, recorder: Recorder | None = None, *, speculative: bool = False
    ) -> None:
        self.policy, self.recorder = policy, recorder
        self.proofs: list[Array] | None = [] if speculative else None
        self.backend = get_backend(backend)
        self.xp = self.backend.array_module
        self.parameters = parse_format(policy.parameters)
        self._sites: dict[tuple[str, Pass], Site] = {}
        self._first_row: Array = 0
        self._rows = 0

    def at(self, site: str, direction: Pass) -> Site:
        key = (site, direction)
        if key not in self._sites:
            self._sites[key] = Site(self, site, direction, self.policy.site(site, direction))
        return self._sites[key]

    @cached_property
    def float32(self) -> Site:
        """Float32 that flushes subnormals: reductions over chunks, clipping, the optimizer."""
        return Site(self, "float32", "fprop", SitePolicy(inputs="fp32", output="fp32"))

    def scan(self, body: Callable, carry: Any, xs: Any, *, reverse: bool = False) -> tuple[Any, Any]:
        """``lax.scan`` over layers, with what is recorded in each layer kept under its number."""
        return self._scan(body, carry, xs, Recorder.add_layers, reverse=reverse)

    def in_parts(self, body: Callable, parts: int, tokens: Array, targets: Array) -> tuple[Array, dict[str, Array]]:
        """body(tokens, targets), an array and a dict of arrays (K, ...), of so many parts of a batch (B, T) in turn.

        The parts are contiguous; results are laid end to end.  What is drawn inside is by the rows' places in the
        whole batch, and what is recorded is joined.
        """
        rows = tokens.size // parts
        xs = {name: x.reshape(parts, -1, x.shape[1]) for name, x in (("tokens", tokens), ("targets", targets))}
        xs["first_row"] = self.xp.arange(parts, dtype=np.uint32) * np.uint32(rows)

        def placed(carry: Array, part: dict[str, Array]) -> tuple[Array, Any]:
            self._first_row = part["first_row"]
            return carry, body(part["tokens"], part["targets"])

        self._rows = rows * parts
        try:
            _, (first, others) = self._scan(placed, np.float32(0), xs, Recorder.add_parts)
        finally:
            self._first_row, self._rows = 0, 0
        return _end_to_end(first), {name: _end_to_end(x) for name, x in others.items()}

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """What is computed inside is not recorded: it has been before."""
        outside, self.recorder = self.recorder, None
        try:
            yield
        finally:
            self.recorder = outside

    def _scan(
        self, body: Callable, carry: Any, xs: Any, gather: Callable[..., None], *, reverse: bool = False
    ) -> tuple[Any, Any]:
        def observed(carry: Any, x: Any) -> tuple[Any, Any]:
            outside, self.proofs = self.proofs, None if self.proofs is None else []
            own: AbstractContextManager = self.recorder.frame() if self.recorder else nullcontext({})
            with own as frame:
                carry, y = body(carry, x)
            proved, self.proofs = self.proved(), outside
            return carry, (y, frame, proved)

        carry, (ys, frames, proved) = self.backend.scan(observed, carry, xs, reverse=reverse)
        if self.recorder:
            gather(self.recorder, self.backend, frames, len(proved))
        if self.proofs is not None:
            self.proofs.append(proved.all())
        return carry, ys

    def proved(self) -> Array:
        """Whether every product so far was exact; true where nothing was speculated."""
        return self.xp.all(self.xp.asarray([True, *(self.proofs or [])]))

    def working_copy(self, master: dict[str, Array]) -> dict[str, Array]:
        """The parameters rounded to the policy's working format."""
        return {name: self._round_parameter(name, w) for name, w in master.items()}

    def _round_parameter(self, name: str, w: Array) -> Array:
        rounded = self.backend.round_to(w, self.parameters)
        if self.recorder is not None:
            for key, part in parameter_parts(name, w.shape[0]):
                self.recorder.record(self.backend, f"{key}.weights", w[part], rounded[part], self.parameters)
        return rounded

    def random_words(self, key: Any, shape: tuple[int, ...]) -> Array:
        """One uint32 an element of rows (N, n), that of its index in the whole batch."""
        return self.backend.random_words((key[0], key[1]), shape, self.first_index(shape[-1]))

    def first_index(self, width: int) -> Array:
        """Row-major index, in the whole batch, of the first element of rows that are so wide."""
        if self._rows * width > 1 << 32:
            raise ValueError(
                f"{self._rows} rows of {width} values outgrow the 32 bits that number the draws of a batch in parts; "
                "use data.accumulation 1 or smaller batches"
            )
        return self._first_row * np.uint32(width)


def _end_to_end(x: Array) -> Array:
    """(A, K, ...) -> (A K, ...)."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def parameter_parts(name: str, length: int) -> list[tuple[str, Any]]:
    """Which site a parameter belongs to, with its index: layer by layer where blocks are stacked."""
    if not name.startswith("blocks."):
        return [(name.split(".")[0], slice(None))]
    return [(f"layer.{i}.{name.split('.')[1]}", i) for i in range(length)]


class Site:
    """The operations of one site in one pass.

    Inner arithmetic is float32 that flushes subnormals; where the policy's ``inner`` is narrower, every result is
    rounded to it.
    """

    def __init__(self, calculator: Calculator, site: str, direction: Pass, policy: SitePolicy) -> None:
        self._calculator, self._key, self.policy = calculator, f"{site}.{direction}", policy
        self._direction = direction
        self._backend = calculator.backend
        self.output_format = parse_format(policy.output)
        self._inputs = parse_format(policy.inputs)
        self._inner = parse_format(policy.inner)
        self._scheme = policy.scheme(direction)

    def _round_inner(self, x: Array) -> Array:
        return x if self._inner is FP32 else self._backend.round_to(x, self._inner)

    def add(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.add(x, y))

    def subtract(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.subtract(x, y))

    def multiply(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.multiply(x, y))

    def divide(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.divide(x, y))

    def square_root(self, x: Array) -> Array:
        return self._round_inner(self._backend.square_root(x))

    def exp(self, x: Array) -> Array:
        return self._round_inner(self._backend.exp(x))

    def log(self, x: Array) -> Array:
        return self._round_inner(self._backend.log(x))

    def erf(self, x: Array) -> Array:
        return self._round_inner(self._backend.erf(x))

    def sum(self, x: Array, axis: int = -1) -> Array:
        """Tree over neighbours, one rounding to the inner format at the end."""
        return self._round_inner(self._backend.tree_sum(x, axis))

    def max(self, x: Array, mask: Array | None = None) -> Array:
        return self._backend.row_max(x, mask)

    def scalar(self, value: float) -> Array:
        """A constant, rounded to float32."""
        return self._calculator.xp.asarray(np.float32(value))

    def scatter_add_rows(self, indices: Array, rows: Array, size: int) -> Array:
        return self._round_inner(self._backend.scatter_add_rows(indices, rows, size))

    def matmul(self, a: Array, b: Array, key: Array | None = None) -> Array:
        """(B, m, k) x (B, k, n) or (m, k) x (k, n), summed by the site's accumulator, in its own format.

        ``key``: two words, where the site rounds a gradient stochastically; element i of it, row-major over the whole
        operand, takes the bits of index i, counted from the first of the batch.
        """
        if a.ndim == 2:
            return self.matmul(a[None], b[None], key)[0]
        if self._scheme is not None:
            gradient = a if self._direction == "dgrad" else b
            first = 0 if key is None else self._calculator.first_index(gradient.shape[-1])
            return quantized_product(self._backend, a, b, self._scheme, key, first)
        accumulator = parse_accumulator(self.policy.accumulator or "")
        return self._backend.matmul(a, b, None, accumulator, (self._inputs, self._inputs), self._calculator.proofs)

    def output(self, x: Array) -> Array:
        """x rounded once to the site's format, and recorded."""
        return self._recorded(x, self._backend.round_to(x, self.output_format))

    def _recorded(self, x: Array, rounded: Array) -> Array:
        recorder = self._calculator.recorder
        if recorder is not None:
            recorder.record(self._backend, self._key, x, rounded, self.output_format)
        return rounded

    def gelu(self, x: Array) -> Array:
        """GELU of values of the input format: correctly rounded by table in 16 bits, else composed."""
        if self._inputs.bits == 16:
            return self._tabulated("gelu", x)
        cumulative = self._cumulative(x)
        return self.output(self.multiply(x, cumulative))

    def gelu_gradient(self, x: Array) -> Array:
        """Derivative of GELU, unrounded where it is composed: Phi(x) + x phi(x)."""
        if self._inputs.bits == 16:
            return self._backend.lookup(table("gelu_gradient", self._inputs.name), x, self._inputs)
        exponent = self.multiply(self.multiply(x, x), self.scalar(-0.5))
        density = self.multiply(self.exp(exponent), _ROOT_TWO_PI_INVERSE)
        return self.add(self._cumulative(x), self.multiply(x, density))

    def _cumulative(self, x: Array) -> Array:
        """Phi(x) = (1 + erf(x / sqrt 2)) / 2."""
        tail = self.add(self.erf(self.multiply(x, _ROOT_HALF)), self.scalar(1))
        return self.multiply(tail, self.scalar(0.5))

    def _tabulated(self, function: str, x: Array) -> Array:
        source = self._inputs
        rounded = self._backend.lookup(table(function, source.name, self.output_format.name), x, source)
        if self._calculator.recorder is None:
            return rounded
        return self._recorded(self._backend.lookup(table(function, source.name, "fp32"), x, source), rounded)
