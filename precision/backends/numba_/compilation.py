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
from numba import types
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.np.numpy_support import from_dtype

from precision.backends.numba_.inner_functions import OPTIONS, CallerCompiler, inlined, inner

_ROOT = Path(__file__).resolve().parents[2]


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
        namespace[name] = inlined(namespace[name])
    return {name: namespace[name] for name in names}


@cache
def source_stamp() -> str:
    """SHA-256 over the sources of ``precision``: any edit there makes every cached kernel stale.

    Numba's own stamp covers only the file a kernel stands in, not the kernels of ``bits`` compiled into it.
    """
    digest = hashlib.sha256()
    for path in sorted(_ROOT.rglob("*.py")):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Kernel:
    """A loop compiled twice, each on first use: for one thread, and for all of them where the work is worth it.

    The bits are the same either way; a parallel region costs microseconds, and far more when other processes hold
    the cores.
    """

    PARALLEL_FROM = 1 << 18  # elements, or multiply-adds of a product / 64: from some tens of microseconds

    def __init__(
        self,
        function: Callable,
        parallel: Callable | None = None,
        *,
        loops: bool = True,
        signature: tuple[types.Type, ...] | None = None,
    ) -> None:
        """parallel: what all threads run, where it is not the same source; loops: whether it has loops of its own.

        signature: the only types to compile for, where code for other strides would be no faster.
        """
        self.function = function
        file = inspect.getfile(function)
        parallel = parallel or specialised(function, function.__name__ + "_parallel")
        serial = numba.njit(function, cache=True, **OPTIONS)
        every = numba.njit(parallel, parallel=loops, cache=True, **OPTIONS)
        self._serial, self._parallel = (_compiled_once(_stamped(one, file), signature) for one in (serial, every))

    def __call__(self, *arguments: Any, work: int | None = None) -> None:
        size = arguments[0].size if work is None else work
        self.compiled(parallel=size >= self.PARALLEL_FROM)(*arguments)

    def compiled(self, *, parallel: bool) -> Any:
        """One of the two, as other kernels call it."""
        return self._parallel if parallel else self._serial


def any_strides(dtype: Any, axes: int) -> types.Array:
    """The type that every array of those values and that many axes converts to, read only."""
    return types.Array(from_dtype(np.dtype(dtype)), axes, "A", readonly=True)


def packed(dtype: Any, axes: int) -> types.Array:
    return types.Array(from_dtype(np.dtype(dtype)), axes, "C")


# of products: a (B, m, k), b (B, k, n), total (B, m, n), words
PRODUCT = (any_strides(np.float32, 3), any_strides(np.float32, 3), packed(np.float32, 3), packed(np.int64, 1))
PACKED_PRODUCT = (types.Array(types.float32, 3, "C", readonly=True),) * 2 + PRODUCT[2:]  # operands that lie in order


def _compiled_once(dispatcher: Any, signature: tuple[types.Type, ...] | None) -> Any:
    """Numba compiles for every layout it meets; this one for ``signature`` alone, to which others are converted."""
    compile_for = dispatcher.compile

    def compile_(_: Any) -> Any:
        with global_compiler_lock:
            known = dispatcher.overloads.get(signature)
            entry = compile_for(signature) if known is None else known.entry_point
            dispatcher.disable_compile()
        return entry

    if signature is not None:
        dispatcher.compile = compile_
    return dispatcher


def kernel(function: Callable) -> Kernel:
    """Decorator: the loop as a ``Kernel``, cached on disk under ``source_stamp``."""
    return Kernel(function)


def kernel_for(*signature: types.Type) -> Callable[[Callable], Kernel]:
    """Decorator: the same, compiled for those types alone."""
    return lambda function: Kernel(function, signature=signature)


def composed(
    function: Callable, name: str, *, signature: tuple[types.Type, ...] | None = None, **kernels: Kernel
) -> Kernel:
    """A kernel that calls others, its globals of those names, each in the compilation for its number of threads."""
    parts = [{key: one.compiled(parallel=parallel) for key, one in kernels.items()} for parallel in (False, True)]
    twins = [specialised(function, name + end, **part) for end, part in zip(("", "_parallel"), parts, strict=True)]
    return Kernel(*twins, loops=False, signature=signature)


def serial_kernel(function: Callable) -> Callable:
    """Decorator: a loop whose iterations depend on each other, compiled for one thread."""
    return _stamped(numba.njit(function, cache=True, **OPTIONS), inspect.getfile(function))


def c_function(source: str, name: str, known: dict[str, Any], signature: Any, file: str) -> int:
    """Address of the function of that name in the source text, compiled for callers in C.

    ``known``: its globals; ``signature``: (argument types, type returned); ``file``: where what it calls stands.
    Cached on disk under the name, which must tell it from every other one.
    """
    namespace = known | {"__name__": __name__}
    exec(compile(source, __file__, "exec"), namespace)
    function = CFunc(namespace[name], signature, {}, {**OPTIONS, "nopython": True}, CallerCompiler)
    function.enable_caching()
    _stamped(function, file).compile()
    address: Any = function.address
    return int(address)


def specialised(function: Callable, name: str, **globals_: Any) -> Callable:
    """The same source under another name, so that its cache files are its own, with these globals in place."""
    # a copy of the module's globals would lack what is defined further down in it
    known = function.__globals__ | globals_ if globals_ else function.__globals__
    twin = FunctionType(function.__code__, known, name, closure=function.__closure__)
    twin.__qualname__ = twin.__name__
    return twin


def made_inline(name: str) -> Callable[[Callable], Any]:
    """Decorator: a function that a factory made, jitted for use in kernels, under a name that says all it depends on.

    Numba tells functions of one name apart by their number in the process that compiled them.  Of two cached kernels
    from two processes, each with another function of that name and number, both would call the one loaded first.
    """
    return lambda function: inner(specialised(function, name))


def _stamped(dispatcher: Any, source: str) -> Any:
    file = dispatcher._cache._cache_file
    file._source_stamp = _stamp_of(Path(source))
    file._load_index = _empty_where_types_moved(file._load_index)
    return dispatcher


def _stamp_of(source: Path) -> str:
    """Stamp of a kernel in that file, which may stand outside ``precision``."""
    if source.resolve().is_relative_to(_ROOT):
        return source_stamp()
    return source_stamp() + hashlib.sha256(source.read_bytes()).hexdigest()


def _empty_where_types_moved(load: Callable) -> Callable:
    """An index that names types which other sources defined cannot be read; its kernels are stale anyway."""

    def tolerant() -> dict:
        try:
            return load()
        except (AttributeError, ImportError):
            return {}

    return tolerant
