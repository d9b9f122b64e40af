"""Sites of an emulated function: operations by the names of JAX's primitives, and their counters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from precision.dot_general import as_matrices, operand_axes
from precision.format import Format
from precision.formats import FP32
from qsim.arithmetic import Arithmetic
from qsim.recorders import Recorder
from qsim.site import Site
from qsim.site_policy import GEMM_SITES, Pass, SitePolicy
from qsim.sites import Calculator

Array = Any
Params = dict[str, Any]
MOST_COUNTED = (1 << 31) - 1
Observation = tuple[Array, Array, Array]


class CountingRecorder(Recorder):
    """Counts by ``site.pass``: (values, event counts, exponents), as digits; what a loop records is added up.

    Values of a loop's body or of a branch are counted together where it ends: compiled once, not once a site.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend
        self._times = 1
        self._seen: dict[str, int] = {}
        self._counts: list[dict[str, Observation]] = [{}]

    def record(self, backend: Any, key: str, x: Array, rounded: Array, fmt: Format) -> None:
        self._seen[key] = self._seen.get(key, 0) + x.size * self._times
        if self._seen[key] > MOST_COUNTED:
            raise ValueError(
                f"{key} rounds more than {MOST_COUNTED} values, which overflow JAX's int32 counters; "
                "count over a smaller batch"
            )
        super().record(backend, key, x, rounded, fmt)

    def results(self, backend: Any) -> dict[str, Observation]:
        """Of the frame in force."""
        counts, values = dict(self._counts[-1]), self._frames[-1]
        for key, found in backend.count(values, {key: self.formats[key] for key in values}).items():
            counts[key] = _sum(counts[key], found) if key in counts else found
        return counts

    @contextmanager
    def frame(self, times: int = 1) -> Iterator[dict[str, Any]]:
        """Of what is recorded inside, in a loop that turns so often, the counts, once it ends."""
        outside, self._times = self._times, self._times * times
        self._counts.append({})
        counts: dict[str, Observation] = {}
        try:
            with super().frame():
                yield counts
                counts |= self.results(self._backend)
        finally:
            self._counts.pop()
            self._times = outside

    def add(self, counts: dict[str, Observation]) -> None:
        """What a frame counted, to the one in force."""
        here = self._counts[-1]
        here |= {key: _sum(here[key], found) if key in here else found for key, found in counts.items()}


def _sum(a: Observation, b: Observation) -> Observation:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


class EmulatedSite(Site):
    """A site that takes values of any format."""

    def __init__(self, calculator: Calculator, site: str, direction: Pass, policy: SitePolicy) -> None:
        super().__init__(calculator, site, direction, policy)
        if "stochastic" in (policy.rounding, policy.gradient_rounding):
            raise ValueError(
                f"{self._key} of policy {calculator.policy.name} rounds stochastically and emulate has no key "
                "for it; choose a policy that rounds to nearest"
            )
        if policy.scaling == "delayed":
            raise ValueError(
                f"{self._key} of policy {calculator.policy.name} scales by what earlier steps saw, and a function "
                "has none; choose scaling 'tensor' or 'blocks'"
            )
        self._casts = [fmt is not FP32 for fmt in self._operands]

    def compute(self, primitive: str, operands: list[Array], constant: list[bool], params: Params) -> Array | None:
        """The result, unrounded; None for a primitive that is not offered here."""
        if primitive == "pow":
            return self._power(*operands)
        operation = _OPERATIONS.get(primitive)
        if operation is None:
            return None
        pairs = zip(operands, constant, strict=True)
        return operation(self, [self._round_inner(x) if c else x for x, c in pairs], params)

    def product(self, lhs: Array, rhs: Array, numbers: Any, *, turned: bool) -> Array:
        """``lax.dot_general`` by the site's accumulator, rounded to its output; turned: as (rhs^T lhs^T)^T."""
        if self.policy.accumulator is None:
            raise ValueError(
                f"{self._key} of policy {self._calculator.policy.name} has a product of matrices and no accumulator; "
                f"name its scope after one of {', '.join(GEMM_SITES)}, or give `default` an accumulator"
            )
        ours, theirs = operand_axes(lhs, rhs, numbers)
        shape = [lhs.shape[i] for i in (*ours.batch, *ours.free)] + [rhs.shape[i] for i in theirs.free]
        a = as_matrices(lhs, (ours.batch, ours.free, ours.contracting))
        b = as_matrices(rhs, (theirs.batch, theirs.contracting, theirs.free))
        if not turned:
            return self.output(self.matmul(a, b)).reshape(shape)
        swap = self._calculator.xp.swapaxes
        return swap(self.output(self.matmul(swap(b, 1, 2), swap(a, 1, 2))), 1, 2).reshape(shape)

    def _power(self, x: Array, y: Array) -> Array | None:
        """x^y of a constant y that is an integer, 1/2 or -1/2."""
        if not isinstance(y, np.ndarray):
            return None
        exponent = float(y)
        if exponent in (0.5, -0.5):
            return self.square_root(x) if exponent > 0 else self._transcendental("rsqrt", x)
        return self._integer_power(x, int(exponent)) if exponent.is_integer() else None

    def _integer_power(self, x: Array, exponent: int) -> Array:
        """Squares and products by the bits of the exponent, lowest first; then one quotient where it is negative."""
        result, left = None, abs(exponent)
        while left:
            if left & 1:
                result = x if result is None else self.multiply(result, x)
            left >>= 1
            x = self.multiply(x, x) if left else x
        if result is None:
            return self._calculator.xp.ones_like(x)
        return result if exponent > 0 else self.divide(self.scalar(1), result)

    def _logistic(self, x: Array) -> Array:
        if self._inner.bits == 16:
            return self._transcendental("sigmoid", x)
        return self.divide(self.scalar(1), self.add(self.exp(-x), self.scalar(1)))

    def _tabulated_only(self, function: str, x: Array) -> Array | None:
        return self._transcendental(function, x) if self._inner.bits == 16 else None

    def _extreme(self, which: str, x: Array, y: Array) -> Array:
        return self._backend.extreme(which, self._backend.flush(x), self._backend.flush(y))

    def _largest(self, x: Array, axes: tuple[int, ...]) -> Array:
        return self.max(self._flat(x, axes))[..., 0] if axes else x

    def _total(self, x: Array, axes: tuple[int, ...]) -> Array:
        return self.sum(self._flat(x, axes)) if axes else x

    def _flat(self, x: Array, axes: tuple[int, ...]) -> Array:
        """The axes as one, the last, row-major."""
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        return x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)


_OPERATIONS: dict[str, Callable[[EmulatedSite, list[Array], Params], Array | None]] = {
    "add": lambda s, xs, _: s.add(*xs),
    "add_any": lambda s, xs, _: s.add(*xs),
    "sub": lambda s, xs, _: s.subtract(*xs),
    "mul": lambda s, xs, _: s.multiply(*xs),
    "div": lambda s, xs, _: s.divide(*xs),
    "square": lambda s, xs, _: s.multiply(xs[0], xs[0]),
    "integer_pow": lambda s, xs, params: s._integer_power(xs[0], params["y"]),
    "sqrt": lambda s, xs, _: s.square_root(xs[0]),
    "rsqrt": lambda s, xs, _: s._transcendental("rsqrt", xs[0]),
    "exp": lambda s, xs, _: s.exp(xs[0]),
    "log": lambda s, xs, _: s.log(xs[0]),
    "tanh": lambda s, xs, _: s._transcendental("tanh", xs[0]),
    "erf": lambda s, xs, _: s.erf(xs[0]),
    "erfc": lambda s, xs, _: s.subtract(s.scalar(1), s.erf(xs[0])),
    "logistic": lambda s, xs, _: s._logistic(xs[0]),
    "exp2": lambda s, xs, _: s._tabulated_only("exp2", xs[0]),
    "sin": lambda s, xs, _: s._tabulated_only("sin", xs[0]),
    "cos": lambda s, xs, _: s._tabulated_only("cos", xs[0]),
    "max": lambda s, xs, _: s._extreme("maximum", *xs),
    "min": lambda s, xs, _: s._extreme("minimum", *xs),
    "clamp": lambda s, xs, _: s._extreme("minimum", s._extreme("maximum", xs[1], xs[0]), xs[2]),
    "reduce_sum": lambda s, xs, params: s._total(xs[0], params["axes"]),
    "reduce_max": lambda s, xs, params: s._largest(xs[0], params["axes"]),
    "reduce_min": lambda s, xs, params: -s._largest(-xs[0], params["axes"]),
    "scatter-add": lambda s, xs, _: s._round_inner(xs[0]),  # summed in float32, and rounded once
}


class EmulatingCalculator(Calculator):
    """A policy with a row for what is outside every site."""

    site_type = EmulatedSite

    def __init__(self, policy: Arithmetic, recorder: Recorder | None, default: SitePolicy | None) -> None:
        super().__init__(policy, "jax", recorder)
        self._default = default
        self._outside: dict[Pass, EmulatedSite] = {}

    def outside(self, direction: Pass) -> EmulatedSite:
        """Operations outside every site: ``default.pass``."""
        if direction not in self._outside:
            row = self._default or default_row(self.policy, direction)
            self._outside[direction] = EmulatedSite(self, "default", direction, row)
        return self._outside[direction]


def default_row(policy: Arithmetic, direction: Pass) -> SitePolicy:
    """The policy's ``residual``; its products as all GEMM sites have them, where these have one way."""
    row = policy.site("residual", direction)
    fields = ("inputs", "gradient_inputs", "scaling", "block", "accumulator", "quantization", "gradient_rounding")
    ways = {tuple(getattr(policy.site(site, direction), name) for name in fields) for site in GEMM_SITES}
    return dataclasses.replace(row, **dict(zip(fields, ways.pop(), strict=True))) if len(ways) == 1 else row
