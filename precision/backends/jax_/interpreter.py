"""A traced function evaluated by somebody else's arithmetic: its jaxpr, equation by equation.

Whose arithmetic, a ``rule`` says; where an equation stands, its named scopes do.  Floats are carried in float32,
whatever the function's own type; integers, booleans and random keys take the primitives as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from precision.backends.jax_.arithmetic import flush
from precision.backends.jax_.gradients import without_derivative
from precision.backends.jax_.idioms import find_gelus
from precision.backends.jax_.rounding import round_to, widen
from precision.backends.jax_.scattering import scatter_add
from precision.format import Format
from precision.formats import FP32, parse_format

Array = Any
# Same bits elsewhere, or another sign
MOVES = frozenset({
    "abs", "broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice", "dynamic_update_slice",
    "expand_dims", "neg", "optimization_barrier", "pad", "pvary", "reshape", "rev", "scatter", "select_n", "slice",
    "split", "squeeze", "stop_gradient", "transpose",
})  # fmt: skip
# To integers or booleans, or to a value of the operand's own format; a subnormal reads as 0
READS = frozenset({
    "argmax", "argmin", "ceil", "eq", "floor", "ge", "gt", "is_finite", "le", "lt", "ne", "round", "sign",
})  # fmt: skip
CALLS = {  # and what each calls its function
    "checkpoint": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "jit": "jaxpr", "pjit": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr",
}  # fmt: skip
LOOPS = frozenset({"scan", "while", "cond"})
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


def interpret(function: Callable, rule: Rule, recorder: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """function(*args, **kwargs), traced and evaluated; its results have its own dtypes."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args, **kwargs)
    first, rest = jax.tree.leaves(args[:1]), jax.tree.leaves((args[1:], kwargs))
    leaves = [carried(x, weight=i < len(first)) for i, x in enumerate([*first, *rest])]
    interpreter = Interpreter(rule, recorder)
    results = interpreter.run(closed.jaxpr, [carried(c, weight=True) for c in closed.consts], leaves, Path())
    arrays = [
        jnp.asarray(x.outside(rule), var.aval.dtype) if isinstance(x, Value) else x
        for x, var in zip(results, closed.jaxpr.outvars, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), arrays)


def is_float(x: Any) -> bool:
    """Whether of a floating-point dtype; complex ones are none."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def format_of(dtype: Any) -> Format:
    """TypeError for float64."""
    if dtype == jnp.float64:
        raise TypeError("emulate carries floats in float32 and met float64; cast to float32, or leave x64 off")
    return parse_format(np.dtype(dtype))


def carried(x: Any, *, weight: bool = False) -> Any:
    """An input or a constant array as it is carried."""
    x = jnp.asarray(x)
    if not is_float(x):
        return x
    fmt = format_of(x.dtype)
    wide = x if fmt == FP32 else widen(x, fmt)
    return Value(without_derivative(wide, REFUSED), weight=weight and x.ndim > 0, constant=weight and x.ndim == 0)


class Interpreter:
    """Evaluates jaxprs by one rule; ``recorder`` is None, or keeps what is counted in loops and branches apart."""

    def __init__(self, rule: Rule, recorder: Any) -> None:
        self.rule, self.recorder = rule, recorder
        self._run, self._place = 0, Place(None, False)

    def interrupt(self) -> int:
        """A new run."""
        self._run += 1
        return self._run

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], path: Path) -> list[Any]:
        """Values or arrays of the outputs, still of their scopes."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def read(var: Any) -> Any:
            return _literal(var) if isinstance(var, Literal) else known[var]

        gelus = find_gelus(jaxpr)
        inside: set[int] = set()  # of equations that a GELU stands for
        for i, eqn in enumerate(jaxpr.eqns):
            if i in inside:
                continue
            where = path.inside(eqn.source_info.name_stack)
            if i in gelus:
                source, outvar, length = gelus[i]
                known[outvar] = self._gelu(read(source), where)
                inside.update(range(i, i + length))
                continue
            results = self._equation(eqn, [read(v) for v in eqn.invars], where)
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _at(self, path: Path) -> Place:
        place = Place(self.rule.site(path.names), path.backward)
        if place != self._place:
            self._place = place
            self.interrupt()
        return place

    def _gelu(self, x: Value, path: Path) -> Value:
        place = self._at(path)
        return Value(self.rule.gelu(place, x.outside(self.rule)), gradient=place.backward)

    def _equation(self, eqn: Any, operands: list[Any], path: Path) -> list[Any]:
        name = eqn.primitive.name
        if name in LOOPS:
            from precision.backends.jax_.interpreted_loops import loop  # which runs this interpreter on its bodies

            return loop(self, eqn, operands, path)
        if name in CALLS and not _draws(eqn):
            called = eqn.params[CALLS[name]]
            closed = called if isinstance(called, ClosedJaxpr) else ClosedJaxpr(called, ())
            return self.run(closed.jaxpr, [carried(c, weight=True) for c in closed.consts], operands, path)
        if any(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in (*eqn.invars, *eqn.outvars)):
            raise _unknown(f"{name} of complex numbers", path)
        if name in CALLS or not eqn.outvars or not any(isinstance(x, Value) for x in operands):
            return _bound(eqn, [x.outside(self.rule) if isinstance(x, Value) else x for x in operands])
        place = self._at(path)
        if name == "convert_element_type":
            return [self._converted(eqn, operands[0], place)]
        if name in MOVES or name in READS:
            return self._moved(eqn, operands, place)
        return [self._computed(eqn, operands, place, path)]

    def _converted(self, eqn: Any, x: Any, place: Place) -> Any:
        aval = eqn.outvars[0].aval
        if not is_float(aval):
            return eqn.primitive.bind(x.read(self.rule, place, self._run), **eqn.params)
        wanted = format_of(aval.dtype)
        if wanted == FP32 or wanted == format_of(eqn.invars[0].aval.dtype):
            return x
        return self._like([x], round_to(x.read(self.rule, place, self._run), wanted), place)

    def _moved(self, eqn: Any, operands: list[Any], place: Place) -> list[Any]:
        arrays = [x.read(self.rule, place, self._run) if isinstance(x, Value) else x for x in operands]
        if eqn.primitive.name in READS:
            arrays = [flush(x) if isinstance(v, Value) else x for x, v in zip(arrays, operands, strict=True)]
        results = eqn.primitive.bind(*_of_one_dtype(arrays, operands), **eqn.params)
        floats = [x for x in operands if isinstance(x, Value)]
        results = results if eqn.primitive.multiple_results else [results]
        return [self._like(floats, y, place) if is_float(y) else y for y in results]

    def _like(self, floats: list[Value], y: Array, place: Place) -> Value:
        """A result that is made of values of the scope is one; made of others alone, it is none."""
        gradient = any(x.gradient for x in floats) or (place.backward and all(x.constant for x in floats))
        weight, constant = all(x.weight for x in floats), all(x.constant for x in floats)
        inside = [x for x in floats if x.within(self._run)] or [x for x in floats if x.kept_for(place)]
        if not inside:
            return Value(y, weight=weight, gradient=gradient, constant=constant)
        return Value(y, inside[0].place, inside[0].run, weight=weight, gradient=gradient)

    def _computed(self, eqn: Any, operands: list[Any], place: Place, path: Path) -> Value:
        name, aval = eqn.primitive.name, eqn.outvars[0].aval
        if name == "dot_general":
            lhs, rhs = (Value(x.outside(self.rule), weight=x.weight, gradient=x.gradient) for x in operands)
            return Value(_narrowed(self.rule.product(place, lhs, rhs, eqn.params), aval), gradient=place.backward)
        arrays = [x.read(self.rule, place, self._run) if isinstance(x, Value) else x for x in operands]
        constant = [isinstance(x, Value) and x.constant for x in operands]
        y = self._composed(eqn, arrays, constant, place)
        if y is None:
            raise _unknown(name, path)
        y = _narrowed(y, aval)
        if place.site is None:
            return Value(self.rule.leave(place, y), gradient=place.backward)
        return Value(y, place, self._run, gradient=place.backward)

    def _composed(self, eqn: Any, arrays: list[Array], constant: list[bool], place: Place) -> Array | None:
        """What is computed; a lookup and a sum of scattered rows first find their places."""
        name = eqn.primitive.name
        if name == "gather":
            return eqn.primitive.bind(*arrays, **eqn.params)
        if name in ("scatter-add", "scatter_add"):
            operand, indices, updates = arrays
            arrays, constant = [scatter_add(operand, indices, updates, eqn.params)], [False]
        return self.rule.compute(place, name, arrays, constant, eqn.params)


def _unknown(primitive: str, path: Path) -> NotImplementedError:
    scope = "/".join(path.names) or "outside every scope"
    return NotImplementedError(
        f"emulate has no arithmetic for the primitive {primitive} ({scope}); write it by operations that have one "
        "(+, -, *, /, sums, maxima, exp, log, tanh, erf, sqrt, products of real matrices), or leave it outside"
    )


def _literal(literal: Any) -> Any:
    x = np.asarray(literal.val)
    return Value(x.astype(np.float32), constant=True) if is_float(literal.aval) else literal.val


def _of_one_dtype(arrays: list[Array], operands: list[Any]) -> list[Array]:
    """Constants that NumPy holds as JAX has them."""
    return [jnp.asarray(x, jnp.float32) if isinstance(v, Value) else x for x, v in zip(arrays, operands, strict=True)]


def _narrowed(y: Array, aval: Any) -> Array:
    """Of the function's own dtype as well, where that is narrower than float32."""
    return y if aval.dtype == jnp.float32 else round_to(y, format_of(aval.dtype))


def _bound(eqn: Any, operands: list[Any]) -> list[Any]:
    """The primitive itself; floats that it makes are nobody's."""
    dtypes = [v.aval.dtype for v in eqn.invars]
    arrays = [jnp.asarray(x, d) if isinstance(x, np.ndarray) else x for x, d in zip(operands, dtypes, strict=True)]
    arrays = [x.astype(d) if is_float(v.aval) else x for x, d, v in zip(arrays, dtypes, eqn.invars, strict=True)]
    results = eqn.primitive.bind(*arrays, **eqn.params)
    results = results if eqn.primitive.multiple_results else [results]
    return [carried(y) if is_float(y) else y for y in results]


def _draws(eqn: Any) -> bool:
    """Whether a jitted function of jax.random's, given a key: what it computes on the way is not the model's."""
    name = str(eqn.params.get("name", ""))
    keyed = any(jnp.issubdtype(v.aval.dtype, jax.dtypes.prng_key) for v in eqn.invars)
    return keyed and name.startswith("_") and hasattr(jax.random, name[1:])
