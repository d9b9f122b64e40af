"""Loops and branches of an interpreted function: they stay loops and branches, their bodies interpreted.

What a loop carries, what it reads again and again and what a branch takes or gives has left its scope; the slices
that a scan goes over and the results it stacks keep their standing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr

from precision.backends.jax_.interpreted_values import Path, Value, constants

if TYPE_CHECKING:
    from precision.backends.jax_.interpreter import Interpreter

Array = Any


def _bare(interpreter: Interpreter, x: Any) -> Array:
    return jnp.asarray(x.outside(interpreter.rule)) if isinstance(x, Value) else jnp.asarray(x)


def _standing(like: Any, array: Array) -> Any:
    """The array as a value that has left its scope, with the marks of another."""
    return Value(array, weight=like.weight, gradient=like.gradient) if isinstance(like, Value) else array


def _evaluate(interpreter: Interpreter, closed: ClosedJaxpr, inputs: Sequence[Any], path: Path) -> list[Any]:
    interpreter.interrupt()
    results = interpreter.run(closed.jaxpr, constants(closed.consts), inputs, path)
    interpreter.interrupt()
    return results


def _frame(interpreter: Interpreter, times: int = 1) -> AbstractContextManager:
    recorder = interpreter.recorder
    return nullcontext({}) if recorder is None else recorder.frame(times)


def _scan(interpreter: Interpreter, params: dict[str, Any], operands: list[Any], path: Path) -> list[Any]:
    constants, carries, length = params["num_consts"], params["num_carry"], params["length"]
    once, first, over = operands[:constants], operands[constants:][:carries], operands[constants + carries :]
    fixed = [_standing(x, _bare(interpreter, x)) for x in once]
    stacked: list[Any] = []

    def body(carry: list[Array], slices: list[Array]) -> tuple[list[Array], Any]:
        state = [_standing_of_carry(x, array) for x, array in zip(first, carry, strict=True)]
        inner = [x.moved(y) if isinstance(x, Value) else y for x, y in zip(over, slices, strict=True)]
        with _frame(interpreter, length) as frame:
            results = _evaluate(interpreter, params["jaxpr"], [*fixed, *state, *inner], path)
            carry = [_bare(interpreter, x) for x in results[:carries]]
        stacked[:] = results[carries:]
        return carry, ([_unread(interpreter, x) for x in stacked], frame)

    arrays = [jnp.asarray(x.array) if isinstance(x, Value) else x for x in over]
    start = [_bare(interpreter, x) for x in first]
    last, (ys, frames) = lax.scan(
        body, start, arrays, length=length, reverse=params["reverse"], unroll=params["unroll"]
    )
    if interpreter.recorder is not None:
        interpreter.recorder.add(jax.tree.map(lambda x: x.sum(axis=0), frames))
    carried_out = [_standing_of_carry(x, y) for x, y in zip(first, last, strict=True)]
    return [*carried_out, *(_again(x, y) for x, y in zip(stacked, ys, strict=True))]


def _standing_of_carry(like: Any, array: Array) -> Any:
    return Value(array, gradient=like.gradient) if isinstance(like, Value) else array


def _unread(interpreter: Interpreter, x: Any) -> Array:
    """A result that nothing outside its scope has read goes on unrounded."""
    if not isinstance(x, Value):
        return jnp.asarray(x)
    return _bare(interpreter, x) if x.left else jnp.asarray(x.array)


def _again(x: Any, stacked: Array) -> Any:
    if not isinstance(x, Value):
        return stacked
    return _standing(x, stacked) if x.left else x.moved(stacked)


def _while(interpreter: Interpreter, params: dict[str, Any], operands: list[Any], path: Path) -> list[Any]:
    if interpreter.recorder is not None:
        raise NotImplementedError(
            "counters of a while loop may overflow, because nothing says how often it turns; "
            "use lax.scan or a fori_loop of known length, or leave counters out"
        )
    split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    fixed = [_standing(x, _bare(interpreter, x)) for x in operands[: split[1]]]
    first = operands[split[1] :]

    def evaluated(closed: ClosedJaxpr, fixed: list[Any], state: list[Array]) -> list[Array]:
        values = [_standing_of_carry(x, y) for x, y in zip(first, state, strict=True)]
        return [_bare(interpreter, x) for x in _evaluate(interpreter, closed, [*fixed, *values], path)]

    last = lax.while_loop(
        lambda state: evaluated(params["cond_jaxpr"], fixed[: split[0]], state)[0],
        lambda state: evaluated(params["body_jaxpr"], fixed[split[0] :], state),
        [_bare(interpreter, x) for x in first],
    )
    return [_standing_of_carry(x, y) for x, y in zip(first, last, strict=True)]


def _cond(interpreter: Interpreter, params: dict[str, Any], operands: list[Any], path: Path) -> list[Any]:
    index, *inputs = operands
    arrays = [_bare(interpreter, x) for x in inputs]
    floats: list[list[Any]] = []

    def branch(closed: ClosedJaxpr) -> Any:
        def run(*arrays: Array) -> tuple[list[Array], dict[str, Any]]:
            values = [_standing(x, y) for x, y in zip(inputs, arrays, strict=True)]
            with _frame(interpreter) as frame:
                results = _evaluate(interpreter, closed, values, path)
                given = [_bare(interpreter, x) for x in results]
            floats.append(results)
            return given, frame

        return run

    branches = [branch(closed) for closed in params["branches"]]
    frames = [jax.eval_shape(run, *arrays)[1] for run in branches if interpreter.recorder is not None]
    empty = {key: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), v) for f in frames for key, v in f.items()}

    def of_all_keys(run: Any) -> Any:
        def filled(*arrays: Array) -> tuple[list[Array], dict[str, Any]]:
            given, frame = run(*arrays)
            return given, empty | frame

        return filled

    given, frame = lax.switch(index, [of_all_keys(run) for run in branches], *arrays)
    if interpreter.recorder is not None:
        interpreter.recorder.add(frame)
    marks = zip(*floats, strict=True)
    return [_of_any_branch(xs, y) for xs, y in zip(marks, given, strict=True)]


def _of_any_branch(results: Sequence[Any], array: Array) -> Any:
    values = [x for x in results if isinstance(x, Value)]
    if not values:
        return array
    return Value(array, weight=all(x.weight for x in values), gradient=any(x.gradient for x in values))


LOOPS: dict[str, Callable[[Interpreter, dict[str, Any], list[Any], Path], list[Any]]] = {
    "cond": _cond,
    "scan": _scan,
    "while": _while,
}
