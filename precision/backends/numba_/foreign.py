"""Kernels as XLA foreign functions: C functions that read XLA's call frame, for jitted JAX on a CPU.

No Python runs in them and no GIL is taken, so that eight host devices call at once (``jax.pure_callback`` deadlocks
there).  Nothing is compiled before an address is asked for.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import prange, types

from precision.backends.numba_ import call_frame, floating_point
from precision.backends.numba_.compilation import Kernel, c_function, kernel

_MANY_THREADS = 1024
_EXPOSED: dict[str, Any] = {
    "DEFAULT": floating_point.DEFAULT,
    "get_control": floating_point.get_control,
    "set_control": floating_point.set_control,
    "empty": np.empty,
    "int64": np.int64,
    **{
        name: getattr(call_frame, name)
        for name in (
            "array", "asks_for_version", "begin", "error", "misfit", "operand", "result", "sentence", "tell_version",
            "text", "view", "words",
        )
    },
}  # fmt: skip


@kernel
def default_in_workers(seen):
    """Sets the register in every worker thread, which began with that of the thread that first called it.

    Each thread takes an equal part of a loop.
    """
    for i in prange(seen.size):
        seen[i] = floating_point.set_control(floating_point.DEFAULT, i)


@dataclass(frozen=True)
class Array:
    """Dtype and axes of an array: one letter an axis, the same letter the same size everywhere."""

    dtype: np.dtype
    axes: str


def array(dtype: Any, axes: str) -> Array:
    return Array(np.dtype(dtype), axes)


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """``kernel(*inputs, *results, words)`` as XLA sees it: row-major operands, row-major results, an attribute.

    ``operands``: the inputs, then ``starts`` arrays: what the first results hold when the kernel begins; the other
    results hold anything then.  ``words``: the attribute of that name, int64 (n,), the kernel's parameters.
    A letter that all results have is an axis along which results do not depend on each other.
    ``parts``: the letter, if there is one, whose size is how many threads the caller wants.
    ``cost``: how much an element of the first operand takes, as a power of two, 0 for one operation on it; None: it
    is a matrix product.
    Errors: XLA's INVALID_ARGUMENT where dtypes, ranks, sizes or numbers of arrays are others.
    """

    kernel: Kernel
    operands: tuple[Array, ...]
    results: tuple[Array, ...]
    starts: int = 0
    parts: str | None = None
    cost: int | None = None

    def __post_init__(self) -> None:
        begun = self.operands[len(self.operands) - self.starts :]
        if begun != self.results[: self.starts]:
            raise ValueError(
                f"kernel {self.kernel.function.__name__} has results that do not begin as its last operands"
            )
        for one in (*self.operands, *self.results):
            if one.dtype not in call_frame.DTYPES:
                raise ValueError(f"kernel {self.kernel.function.__name__} cannot take or give {one.dtype} from XLA")

    def name(self, *, parallel: bool) -> str:
        """Of the handler, to Numba's cache and to XLA: the kernel, its arrays, its threads."""
        function = self.kernel.function
        arrays = [f"{one.dtype.str[1:]}{one.axes}" for one in (*self.operands, *self.results)]
        threads = "parallel" if parallel else "serial"
        return "_".join([*function.__module__.split("."), function.__name__, *arrays, str(self.starts), threads])

    def bound(self, operands: Sequence[Any], sizes: Mapping[str, int]) -> dict[str, int]:
        """Size of each letter; ``sizes`` gives those that no operand has.  TypeError for other operands."""
        bound = dict(sizes)
        if len(operands) != len(self.operands):
            raise TypeError(f"{len(operands)} operands given to a kernel of {len(self.operands)}")
        for i, (one, x) in enumerate(zip(self.operands, operands, strict=True)):
            for letter, size in zip(one.axes, x.shape, strict=False):
                bound.setdefault(letter, size)
            shape = tuple(bound[letter] for letter in one.axes)
            if x.dtype != one.dtype or x.shape != shape:
                raise TypeError(f"operand {i} must be {one.dtype} of shape {shape}, not {x.dtype} of {x.shape}")
        return bound

    def is_worth_threads(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is a parallel kernel's work, given the size of each letter."""
        if self.parts is not None:
            return sizes[self.parts] > 1
        return self.work(sizes) >= Kernel.PARALLEL_FROM and numba.get_num_threads() > 1

    def work(self, sizes: Mapping[str, int]) -> int:
        """As ``Kernel`` counts it."""
        if self.cost is None:
            return math.prod(sizes.values()) >> 6
        return math.prod(sizes[letter] for letter in self.operands[0].axes) << self.cost >> 2

    def handler(self, *, parallel: bool) -> tuple[str, int]:
        """Name and address of the handler, compiled on first use.

        XLA runs what does not depend on each other side by side, so ``parallel`` counts only where several threads
        may use Numba's at once.
        """
        return _handler(self, parallel)


@cache
def _handler(foreign: Foreign, parallel: bool) -> tuple[str, int]:
    if parallel and not threads_can_be_shared():
        return _handler(foreign, False)
    name = foreign.name(parallel=parallel)
    known = _EXPOSED | {one.dtype.name: one.dtype.type for one in (*foreign.operands, *foreign.results)}
    known |= {
        "kernel": foreign.kernel.compiled(parallel=parallel),
        "default_in_workers": default_in_workers.compiled(parallel=True),
    }
    source = "\n    ".join([f"def {name}(frame):", *_lines(foreign, parallel)])
    signature = ((types.int64,), types.int64)
    address = c_function(source, name, known, signature, inspect.getfile(foreign.kernel.function))
    return name, address


@cache
def threads_can_be_shared() -> bool:
    """Whether several threads may be inside parallel kernels at once; Numba's "workqueue" aborts the process."""
    default_in_workers.compiled(parallel=True)(np.empty(1, np.int64))  # starts the threads
    return numba.threading_layer() in ("omp", "tbb")


def _lines(foreign: Foreign, parallel: bool) -> list[str]:
    """The handler: checks, then the kernel in the default floating-point environment."""
    inputs, name = len(foreign.operands) - foreign.starts, foreign.kernel.function.__name__
    arrays = [("operand", i, one) for i, one in enumerate(foreign.operands)]
    arrays += [("result", i, one) for i, one in enumerate(foreign.results)]
    given = [f"operand{i}" for i in range(inputs)] + [f"result{i}" for i in range(len(foreign.results))]
    return [
        "if asks_for_version(frame):",
        "    tell_version(frame)",
        "    return 0",
        f"number = misfit(frame, text({_facts(foreign)!r}))",
        "if number != 0:",
        f"    return error(frame, sentence(text({_sentences(foreign, arrays)!r}), number))",
        "control = get_control()",
        "frame = set_control(DEFAULT, frame)",
        *([f"default_in_workers(empty({_MANY_THREADS}, int64))"] if parallel else []),
        *[f"{kind}{i} = array({_at(kind, i)}, {one.dtype.name}, {len(one.axes)})" for kind, i, one in arrays],
        *[
            f"begin({_at('operand', inputs + i)}, {_at('result', i)}, result{i}.nbytes)"
            for i in range(foreign.starts)
        ],
        "address, size = words(frame)",
        "parameters = view(address, (size,), int64)",
        "failed = False",
        "try:",
        f"    kernel({', '.join(given)}, parameters)",
        "except Exception:",
        "    failed = True",
        "set_control(control, frame)",
        "if failed:",
        f"    return error(frame, text({f'kernel {name} failed'!r}))",
        "return 0",
    ]


def _at(kind: str, i: int) -> str:
    """The buffer; its number no literal, for each of which Numba would compile the function anew."""
    return f"{kind}(frame, int64({i}))"


def _facts(foreign: Foreign) -> str:
    """What ``call_frame.misfit`` reads: a letter's size is that where it stands first."""
    first: dict[str, tuple[int, int]] = {}
    numbers = [len(foreign.operands), len(foreign.results)]
    for i, one in enumerate((*foreign.operands, *foreign.results)):
        numbers += [call_frame.DTYPES[one.dtype], len(one.axes)]
        for axis, letter in enumerate(one.axes):
            numbers += first.setdefault(letter, (i, axis))
    return "".join(map(chr, numbers))


def _sentences(foreign: Foreign, arrays: Sequence[tuple[str, int, Array]]) -> str:
    """What is wrong where a check fails, of each, in the order of the checks."""
    operands, results = len(foreign.operands), len(foreign.results)
    found = [f"takes {operands} operands and gives {results} results", "takes one attribute, an array of int64"]
    for kind, i, one in arrays:
        found.append(f"wants {one.dtype} of rank {len(one.axes)} as {kind} {i}")
        found += [f"wants axes {one.axes} as {kind} {i}, {letter} as before" for letter in one.axes]
    return "\0".join(f"kernel {foreign.kernel.function.__name__} {sentence}" for sentence in found)
