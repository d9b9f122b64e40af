"""A traced function evaluated by somebody else's arithmetic: its jaxpr, equation by equation.

Whose arithmetic, a ``rule`` says; where an equation stands, its named scopes do.  Floats are carried in float32,
whatever the function's own type; integers, booleans and random keys take the primitives as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from precision.backends.jax_.arithmetic import flush
from precision.backends.jax_.idioms import find_gelus
from precision.backends.jax_.interpreted_loops import LOOPS
from precision.backends.jax_.interpreted_values import (
    Path,
    Place,
    Rule,
    Value,
    carried,
    constants,
    format_of,
    is_float,
)
from precision.backends.jax_.rounding import round_to
from precision.backends.jax_.scattering import scatter_add
from precision.formats import FP32

Array = Any
# Same bits elsewhere, or another sign
MOVES = frozenset({
    "abs", "broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice", "dynamic_update_slice",
    "expand_dims", "neg", "optimization_barrier", "pad", "pvary", "reshape", "rev", "scatter", "select_n", "slice",
    "split", "squeeze", "stack", "stop_gradient", "transpose", "unstack",
})  # fmt: skip
# To integers or booleans, or to a value of the operand's own format; a subnormal reads as 0
READS = frozenset({
    "argmax", "argmin", "ceil", "eq", "floor", "ge", "gt", "is_finite", "le", "lt", "ne", "round", "sign",
})  # fmt: skip
CALLS = {  # and what each calls its function
    "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "jit": "jaxpr", "remat2": "jaxpr",
}  # fmt: skip


def interpret(function: Callable, rule: Rule, recorder: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """function(*args, **kwargs), traced and evaluated; its results have its own dtypes."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args, **kwargs)
    first, rest = jax.tree.leaves(args[:1]), jax.tree.leaves((args[1:], kwargs))
    leaves = [carried(x, weight=i < len(first)) for i, x in enumerate([*first, *rest])]
    interpreter = Interpreter(rule, recorder)
    results = interpreter.run(closed.jaxpr, constants(closed.consts), leaves, Path())
    arrays = [
        jnp.asarray(x.outside(rule), var.aval.dtype) if isinstance(x, Value) else x
        for x, var in zip(results, closed.jaxpr.outvars, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), arrays)


class Interpreter:
    """Evaluates jaxprs by one rule; ``recorder`` is None, or keeps what is counted in loops and branches apart."""

    def __init__(self, rule: Rule, recorder: Any) -> None:
        self.rule, self.recorder = rule, recorder
        self._run, self._place = 0, Place(None, False)

    def interrupt(self) -> None:
        """A new run begins."""
        self._run += 1

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
            return LOOPS[name](self, eqn.params, operands, path)
        if name in CALLS and not _draws(eqn):
            called = eqn.params[CALLS[name]]
            closed = called if isinstance(called, ClosedJaxpr) else ClosedJaxpr(called, ())
            return self.run(closed.jaxpr, constants(closed.consts), operands, path)
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
