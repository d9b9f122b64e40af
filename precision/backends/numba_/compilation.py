"""How operator-only Python becomes Numba code: integer width, and a cache that knows every source it depends on."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numba
import numpy as np

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


class _Words(ast.NodeTransformer):
    """Casts every integer operation to the word type.

    Numba types ``uint32 + 1`` as int64, which neither wraps like the other executors nor fills a vector
    register with 32-bit lanes.
    """

    def __init__(self, width: int) -> None:
        self._largest_count = width - 1

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if isinstance(node.op, ast.LShift | ast.RShift) and not isinstance(node.right, ast.Constant):
            # counts below the width, said so: LLVM then shifts lanes of that width
            count = ast.BinOp(left=node.right, op=ast.BitAnd(), right=ast.Constant(self._largest_count))
            node.right = ast.Call(func=ast.Name(id="_word", ctx=ast.Load()), args=[count], keywords=[])
        return self._cast(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        return self._cast(node)

    def _cast(self, node: ast.expr) -> ast.AST:
        self.generic_visit(node)
        call = ast.Call(func=ast.Name(id="_word", ctx=ast.Load()), args=[node], keywords=[])
        return ast.copy_location(call, node)


def compile_words(
    module: ModuleType, word: Any = np.uint32, known: dict[str, Callable] | None = None
) -> dict[str, Callable]:
    """Every function of an operator-only module, jitted with words of that type, by name.

    known: compiled functions in place of those that the module imports.
    """
    words = _Words(8 * np.dtype(word).itemsize)
    tree = ast.fix_missing_locations(words.visit(ast.parse(inspect.getsource(module))))
    namespace: dict[str, Any] = {"_word": word}
    exec(compile(tree, inspect.getfile(module), "exec"), namespace)
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    namespace |= {name: function for name, function in (known or {}).items() if name not in names}
    for name in names:
        # a call left in a loop keeps LLVM from vectorising it
        namespace[name] = numba.njit(namespace[name], forceinline=True, **_OPTIONS)
    return {name: namespace[name] for name in names}


@cache
def source_stamp() -> str:
    """SHA-256 over the sources of ``precision``: any edit there makes every cached kernel stale.

    Numba's own stamp covers only the file a kernel stands in, not the kernels of ``bits`` compiled into it.
    """
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Kernel:
    """A loop compiled twice, each on first use: for one thread, and for all of them where the work is worth it.

    The bits are the same either way; a parallel region costs microseconds, and far more when other processes hold
    the cores.
    """

    PARALLEL_FROM = 1 << 18  # elements, or multiply-adds of a product / 64: from some tens of microseconds

    def __init__(self, function: Callable, parallel: Callable | None = None) -> None:
        """parallel: what all threads run, where it is not the same source."""
        parallel = parallel or specialised(function, function.__name__ + "_parallel")
        self._serial = _stamped(numba.njit(function, cache=True, **_OPTIONS))
        self._parallel = _stamped(numba.njit(parallel, parallel=True, cache=True, **_OPTIONS))

    def __call__(self, *arguments: Any, work: int | None = None) -> None:
        size = arguments[0].size if work is None else work
        (self._parallel if size >= self.PARALLEL_FROM else self._serial)(*arguments)


def kernel(function: Callable) -> Kernel:
    """Decorator: the loop as a ``Kernel``, cached on disk under ``source_stamp``."""
    return Kernel(function)


def serial_kernel(function: Callable) -> Callable:
    """Decorator: a loop whose iterations depend on each other, compiled for one thread."""
    return _stamped(numba.njit(function, cache=True, **_OPTIONS))


def specialised(function: Callable, name: str, **globals_: Any) -> Callable:
    """The same source under another name, so that its cache files are its own, with these globals in place."""
    twin = FunctionType(function.__code__, function.__globals__ | globals_, name)
    twin.__qualname__ = twin.__name__
    return twin


def _stamped(dispatcher: Any) -> Any:
    file = dispatcher._cache._cache_file
    file._source_stamp = source_stamp()
    file._load_index = _empty_where_types_moved(file._load_index)
    return dispatcher


def _empty_where_types_moved(load: Callable) -> Callable:
    """An index that names types which other sources defined cannot be read; its kernels are stale anyway."""

    def tolerant() -> dict:
        try:
            return load()
        except (AttributeError, ImportError):
            return {}

    return tolerant
