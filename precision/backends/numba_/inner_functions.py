"""Functions that kernels call, and functions that call kernels: each piece of code is optimised once.

Numba optimises every jitted function by itself and makes machine code of it, then links what it optimised into each
caller and optimises that again.  A function that only kernels call needs neither: a kernel is optimised with all that
is linked into it, and machine code of what kernels inline nobody runs.  What calls a kernel, which is optimised by
then, and does little else is left as it was lowered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


class _Environments:
    """Python objects that compiled functions refer to: of these, which raise nothing and print nothing, none."""

    def set_env(self, name: str, environment: Any) -> None:
        """No machine code holds a place for it."""


class _Lowered(JITCodeLibrary):
    """Code as it was lowered, and what is linked into it."""

    def _optimize_final_module(self) -> None:
        pass


class _Linked(_Lowered):
    """The same for callers to link."""

    codegen = _Environments()

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """0: it has no machine code."""
        self._ensure_finalized()
        return 0


class _LinkedCompiler(Compiler):
    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, library or _Linked(targetctx.codegen(), "inner"), *rest)


class CallerCompiler(Compiler):
    """Numba's ``pipeline_class`` of a function that calls a kernel and does little else."""

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, library or _Lowered(targetctx.codegen(), "caller"), *rest)
        self.state.library.enable_object_caching()


class _Inner(CPUDispatcher):
    """Called from Python, which Numba alone would answer with a fault, it is compiled once more, whole."""

    def __init__(self, function: Callable, **options: Any) -> None:
        unwrapped = {"nopython": True, "boundscheck": None, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        super().__init__(function, targetoptions=OPTIONS | unwrapped | options, pipeline_class=_LinkedCompiler)

    def __call__(self, *arguments: Any) -> Any:
        return self._for_python(*arguments)

    @cached_property
    def _for_python(self) -> Callable:
        return numba.njit(self.py_func, **OPTIONS)


def inner(function: Callable) -> _Inner:
    """Decorator: jitted for kernels to call."""
    return _Inner(function)


def inlined(function: Callable) -> _Inner:
    """Decorator: the same, and always inlined."""
    return _Inner(function, forceinline=True)
