"""Values of an interpreted function, and the places of its equations: named scopes and passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from precision.backends.jax_.gradients import without_derivative
from precision.backends.jax_.rounding import widen
from precision.format import Format
from precision.formats import FP32, parse_format

Array = Any
REFUSED = (
    "emulate(...) has no derivative, because its roundings have none: differentiate first, as in "
    "emulate(jax.grad(function), policy)"
)


class Place(NamedTuple):
    """Where an equation stands: a site of the rule's, None outside every scope; whether it is of a gradient."""

    site: str | None
    backward: bool


class Rule(Protocol):
    """The arithmetic of every place."""

    def site(self, names: Sequence[str]) -> str | None:
        """Of named scopes, outermost first."""

    def compute(
        self, place: Place, primitive: str, operands: list[Array], constant: list[bool], params: dict[str, Any]
    ) -> Array | None:
        """The result before it leaves its scope; None for a primitive that is not offered."""

    def product(self, place: Place, lhs: Value, rhs: Value, params: dict[str, Any]) -> Array:
        """``dot_general`` of operands that have left their scopes, rounded."""

    def gelu(self, place: Place, x: Array) -> Array:
        """Rounded."""

    def leave(self, place: Place, x: Array) -> Array:
        """x rounded, as what leaves its scope is."""


class Value:
    """A float of the function.

    place, run: of the scope that computed it and has not let it go, and which uninterrupted run of that scope; None
    for what is rounded already or was never computed.  weight: moved here from the first argument or a constant
    array.  gradient: computed by the backward pass.  constant: a scalar written into the function.
    """

    __slots__ = ("_left", "array", "constant", "gradient", "place", "run", "weight")

    def __init__(
        self,
        array: Array,
        place: Place | None = None,
        run: int = 0,
        *,
        weight: bool = False,
        gradient: bool = False,
        constant: bool = False,
    ) -> None:
        self.array, self.place, self.run, self._left = array, place, run, None
        self.weight, self.gradient, self.constant = weight, gradient, constant

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def outside(self, rule: Rule) -> Array:
        """As every reader outside its scope has it: rounded once, at the first reading."""
        if self.place is None:
            return self.array
        if self._left is None:
            self._left = rule.leave(self.place, self.array)
        return self._left

    def read(self, rule: Rule, place: Place, run: int) -> Array:
        """As an equation has it: unrounded inside the same run, and for the backward pass of its own site where
        nothing outside has read it."""
        if self.place is None or self.run == run:
            return self.array
        return self.array if self.kept_for(place) else self.outside(rule)

    def kept_for(self, place: Place) -> bool:
        """Whether it is that site's own, kept for its backward pass, and has not left."""
        return place.backward and not self.left and self.place == Place(place.site, False)

    @property
    def left(self) -> bool:
        """Whether it is of no scope, or no longer."""
        return self.place is None or self._left is not None

    def within(self, run: int) -> bool:
        return self.place is not None and self.run == run

    def moved(self, array: Array) -> Value:
        """Another array of the same standing, as a slice of this one has it."""
        return Value(array, self.place, self.run, weight=self.weight, gradient=self.gradient)


class Path(NamedTuple):
    """Named scopes around an equation, outermost first, and the transformations that made it."""

    names: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()

    def inside(self, stack: Any) -> Path:
        """With those of a name stack, whose elements are scopes and transformations in turn."""
        transforms = [part.name for part in stack.stack if type(part).__name__ == "Transform"]
        names = [n for part in stack.stack if type(part).__name__ == "Scope" for n in part.name.split("/")]
        return Path((*self.names, *names), (*self.transforms, *transforms))

    @property
    def backward(self) -> bool:
        """What rematerialisation computes again is forward."""
        return "transpose" in self.transforms and "rematted_computation" not in self.names


def is_float(x: Any) -> bool:
    """Whether of a floating-point dtype; complex ones are none."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def format_of(dtype: Any) -> Format:
    """TypeError for float64."""
    if dtype == jnp.float64:
        raise TypeError("emulate carries floats in float32 and met float64; cast to float32, or leave x64 off")
    return parse_format(np.dtype(dtype))


def carried(x: Any, *, weight: bool = False, constant: bool = False) -> Any:
    """An input or an array written into the function as it is carried; constant: where it is a scalar."""
    x = jnp.asarray(x)
    if not is_float(x):
        return x
    fmt = format_of(x.dtype)
    wide = x if fmt == FP32 else widen(x, fmt)
    return Value(without_derivative(wide, REFUSED), weight=weight and x.ndim > 0, constant=constant and x.ndim == 0)


def constants(arrays: Sequence[Any]) -> list[Any]:
    """Arrays written into a function, as it carries them."""
    return [carried(x, weight=True, constant=True) for x in arrays]
