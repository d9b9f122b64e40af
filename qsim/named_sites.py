"""Sites whose operations keep their name in a compiled program, their roundings counted as they are asked for.

What a site computes under JAX stands in the program under ``jax.named_scope("site.pass")``, each rounding of it under
``rounding.N``, N counting those of the site in the order of tracing.  Other executors have plain sites.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from precision.format import Format
from precision.formats import FP32
from qsim.site import Site

Array = Any
ROUNDING = "rounding"
_NAMED = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "square_root",
    "exp",
    "log",
    "erf",
    "tanh",
    "sum",
    "max",
    "scatter_add_rows",
    "narrowed",
    "matmul",
    "output",
    "_rounded",
    "fused",
    "unrounded",
    "gelu",
    "gelu_backward",
    "activation",
    "gated",
)


class Names:
    """The scope in force, and every rounding that was asked for.

    roundings: (key, N) -> format of each rounding that changes the type or the values of what it is given.
    """

    def __init__(self, scope: Callable[[str], Any]) -> None:
        self._scope, self._here = scope, ""
        self._counts: dict[str, int] = {}
        self.roundings: dict[tuple[str, int], str] = {}

    def inside(self, key: str, run: Callable[[], Any]) -> Any:
        """run() under the name, which is not written twice."""
        if key == self._here:
            return run()
        outside, self._here = self._here, key
        try:
            with self._scope(key):
                return run()
        finally:
            self._here = outside

    def rounded(self, key: str, fmt: Format, x: Array, run: Callable[[Array], Array]) -> Array:
        """run(x) as one rounding of ``key``: none where x is of the format's own array type already, or float32."""
        if fmt is FP32:
            return run(x)
        number = self._counts[key] = self._counts.get(key, 0) + 1
        with self._scope(f"{key}/{ROUNDING}.{number}"):
            rounded = run(x)
        if rounded is x:
            self._counts[key] -= 1
        else:
            self.roundings[key, number] = fmt.name
        return rounded


class NamedBackend:
    """A back end whose roundings go by the name of a site."""

    def __init__(self, backend: Any, names: Names, key: str) -> None:
        self._backend, self._names, self._key = backend, names, key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def round_to(self, x: Array, fmt: Format, *how: Any) -> Array:
        return self._names.rounded(self._key, fmt, x, lambda x: self._backend.round_to(x, fmt, *how))


_kinds: dict[str, type[Site]] = {}


def named(kind: type[Site]) -> type[Site]:
    """The kind of site whose operations are so named; its calculator has ``names``."""

    if kind.__name__ in _kinds:
        return _kinds[kind.__name__]

    def start(self: Any, calculator: Any, *place: Any) -> None:
        kind.__init__(self, calculator, *place)
        self._backend = NamedBackend(self._backend, calculator.names, self._key)

    methods = {name: _inside(getattr(kind, name)) for name in _NAMED if hasattr(kind, name)}
    own = {"__init__": start, "__doc__": kind.__doc__} | methods
    return _kinds.setdefault(kind.__name__, type(f"Named{kind.__name__}", (kind,), own))


def _inside(method: Callable) -> Callable:
    @wraps(method)
    def run(self: Any, *operands: Any, **options: Any) -> Any:
        return self._calculator.names.inside(self._key, lambda: method(self, *operands, **options))

    return run
